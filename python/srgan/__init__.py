"""Super-resolution GANs for satellite imagery: training, maps and metrics, without PyTorch.

    import srgan

    run = srgan.train("cfg.yaml", overrides={"Training.max_steps": 1000})
    generator = srgan.Generator.load(run.checkpoint)
    sr = generator(lr)                             # (N, C, H, W) -> (N, C, s·H, s·W), normalised pixels
    generator.predict("scene.tif", "map.tif")      # a whole scene, as `srgan predict`

Arrays are channels first. The interpreter's lock is released while the engine works, Ctrl-C stops what runs, and what goes
wrong is a `srgan.Error`.
"""

from . import metrics
from ._config import config
from ._errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DeviceError,
    DivergedError,
    Error,
    FileError,
    OutOfMemoryError,
    UsageError,
)
from ._generator import Generator
from ._srgan import __version__
from ._training import Run, Step, train

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DeviceError",
    "DivergedError",
    "Error",
    "FileError",
    "Generator",
    "OutOfMemoryError",
    "Run",
    "Step",
    "UsageError",
    "__version__",
    "config",
    "metrics",
    "train",
]
