"""The names of opensr-srgan, for programs that are written for it.

    from srgan.opensr import load_from_config, load_inference_model, train

`train` takes what opensr-srgan's takes. The models are modules of PyTorch around `srgan.Generator`, for opensr-test,
opensr-utils and whatever takes `model(lr) -> sr`: normalised pixels in and out, no gradients. PyTorch must be installed for
them, and for nothing else here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._config import ConfigLike
from ._generator import Generator
from ._training import Run
from ._training import train as _train

if TYPE_CHECKING:
    from ._torch import SRGANModel

__all__ = ["load_from_config", "load_inference_model", "train"]

_PRESETS = {
    "RGB-NIR": ("config_RGB-NIR.yaml", "RGB-NIR_4band_inference.ckpt"),
    "SWIR": ("config_SWIR.yaml", "SWIR_6band_inference.ckpt"),
}


def train(config: ConfigLike) -> Run:
    """Trains from a YAML file, a dictionary or an OmegaConf object; `srgan.train` has more to say."""
    return _train(config)


def load_from_config(
    config_path: str | os.PathLike[str],
    checkpoint_uri: str | os.PathLike[str] | None = None,
    *,
    map_location: Any = None,
    mode: str = "eval",
) -> SRGANModel:
    """A generator as a module of PyTorch, from its configuration and a checkpoint of opensr-srgan or of this package.

    Args:
        config_path: The YAML file.
        checkpoint_uri: Path of the checkpoint. Nothing is downloaded.
        map_location: Where to run: `cpu`, `cuda` or a `torch.device`; by default a GPU if there is a good one.
        mode: As in opensr-srgan; the module is for inference in any case.

    Raises:
        FileNotFoundError: One of the files is not there.
        srgan.Error: They do not fit each other.
    """
    from ._torch import SRGANModel

    if mode not in ("train", "eval"):
        raise ValueError(f"mode is {mode!r}, and must be 'train' or 'eval'")
    if not Path(config_path).is_file():
        raise FileNotFoundError(f"there is no configuration {os.fspath(config_path)}")
    if checkpoint_uri is None:
        raise ValueError("an untrained generator makes no images: name a checkpoint, or train one with srgan.opensr.train")
    if not Path(checkpoint_uri).exists():
        raise FileNotFoundError(f"there is no checkpoint {os.fspath(checkpoint_uri)}; nothing is downloaded")
    device = "auto" if map_location is None else str(map_location).split(":")[0]
    return SRGANModel(Generator.load(checkpoint_uri, device, config=config_path))


def load_inference_model(
    preset: str,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    map_location: Any = None,
) -> SRGANModel:
    """A published generator of opensr-srgan whose files are there: nothing is downloaded.

    Args:
        preset: `RGB-NIR` or `SWIR`.
        cache_dir: Folder below which the preset's YAML and checkpoint lie, as opensr-srgan or `huggingface-cli download
            simon-donike/SR-GAN` leaves them; by default the cache of Hugging Face.
        map_location: As in `load_from_config`.

    Raises:
        ValueError: There is no such preset.
        FileNotFoundError: Its files are not there.
    """
    names = _PRESETS.get(preset.strip().replace("_", "-").upper())
    if names is None:
        raise ValueError(f"there is no preset {preset!r}; there are {', '.join(_PRESETS)}")
    folder = Path(cache_dir if cache_dir is not None else _hub())
    found = [path for name in names for path in sorted(folder.rglob(name))[:1]]
    if len(found) < len(names):
        raise FileNotFoundError(
            f"not found below {folder}: {' and '.join(names)}. Fetch them with "
            "`huggingface-cli download simon-donike/SR-GAN`; nothing is downloaded here"
        )
    return load_from_config(*found, map_location=map_location)


def _hub() -> Path:
    home = os.environ.get("HF_HOME") or os.path.join(os.path.expanduser("~"), ".cache", "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub"))
