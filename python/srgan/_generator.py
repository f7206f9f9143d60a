"""A trained generator."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from . import _srgan
from ._arrays import images, like, to_numpy
from ._config import Overrides, override_texts
from ._program import program, replaced_stderr

class Generator:
    """A trained generator on a device; `Generator.load` makes one.

    Calls from several threads are done one after the other. It cannot be pickled, and is not there in a process that was
    forked after it was loaded: load it in the process that uses it.
    """

    def __init__(self, engine: _srgan.Generator) -> None:
        self._engine = engine

    @classmethod
    def load(
        cls,
        checkpoint: str | os.PathLike[str],
        device: str = "auto",
        *,
        config: str | os.PathLike[str] | None = None,
        live: bool = False,
        precision: str | None = None,
        threads: int | None = None,
        overrides: Overrides = None,
    ) -> Generator:
        """Loads a checkpoint.

        Args:
            checkpoint: A .safetensors file of this program, the folder of a run (its last checkpoint), or, with its
                `config`, a .ckpt, .pt or .pth of opensr-srgan.
            device: `auto` (a GPU that passes its check, else the CPU), `cpu` or `cuda`.
            config: YAML of a checkpoint that holds none.
            live: Use the live weights although there are averaged ones.
            precision: `bf16`, `tf32` or `f32` on a GPU; the CPU computes in f32.
            threads: Compute threads; all cores by default. The result does not depend on their number.
            overrides: Further keys of the checkpoint's configuration, as `{"Training.isa": "avx2"}`.

        Raises:
            CheckpointError: The file is no checkpoint, or does not fit its configuration.
            ConfigError, UsageError, DeviceError, OutOfMemoryError: As their names say.
        """
        texts = [f"Training.device={device}"]
        texts += [] if precision is None else [f"Training.precision={precision}"]
        texts += [] if threads is None else [f"Training.num_threads={threads}"]
        texts += override_texts(overrides)
        path = None if config is None else os.fspath(config)
        return cls(_srgan.Generator.open(os.fspath(checkpoint), path, texts, live, program()))

    @property
    def bands(self) -> int:
        """Bands of an image."""
        return self._engine.bands

    @property
    def band_names(self) -> list[str]:
        """The bands by name or number in the files of the training, in the order of the channels."""
        return self._engine.band_names

    @property
    def scale(self) -> int:
        """SR pixels per LR pixel along a side."""
        return self._engine.scale

    @property
    def step(self) -> int:
        """Steps of training; 0 where the file does not say."""
        return self._engine.step

    @property
    def normalisation(self) -> str:
        """Name of the normalisation, as `Data.normalization` has it."""
        return self._engine.normalisation

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of the training, as `srgan.config` gives it."""
        return json.loads(self._engine.config_json())

    def __repr__(self) -> str:
        return f"<srgan.Generator {self.bands} bands x{self.scale}: {self._engine.description}>"

    def __call__(self, lr: Any, *, raw: bool = False) -> Any:
        """Super-resolves images.

        Args:
            lr: (N, C, H, W) or (C, H, W): a NumPy array, a tensor of PyTorch, or any array with DLPack or the buffer
                protocol. Every value must be finite.
            raw: What the numbers are. False: normalised, as the network reads and writes them (reflectance 0 … 1 for
                `normalise_10k`). True: those of the files that it was trained on (0 … 10000 there): scale, offset and
                normalisation are applied before the network, their inverse behind it.

        Returns:
            (N, C, s·H, s·W) or (C, s·H, s·W) in f32: a tensor on the same device for a tensor, else a NumPy array. An
            image's result does not depend on the others.

        Raises:
            TypeError: `lr` does not hold real numbers, or integers without `raw`.
            ValueError: The shape does not fit.
            OutOfMemoryError: Images are too large to be computed as a whole: `predict` cuts them.
        """
        given = to_numpy(lr)
        if given.dtype.kind in "iu" and not raw:
            raise TypeError(f"lr holds {given.dtype}: integers are the values of files, which takes raw=True")
        values, single = images(given, "lr")
        count, bands, height, width = values.shape
        if bands != self.bands:
            raise ValueError(f"lr has {bands} bands (shape {given.shape}), and the generator {self.bands}")
        result = self._engine.run(values.tobytes(), (count, (height, width)), raw)
        shape = (count, bands, height * self.scale, width * self.scale)
        sr = np.frombuffer(result, dtype=np.float32).reshape(shape)
        return like(sr[0] if single else sr, lr)

    def predict(
        self,
        scene: str | os.PathLike[str],
        out: str | os.PathLike[str],
        *,
        bands: str | list[int | str] | None = None,
        window: int | None = None,
        overlap: int | None = None,
        blend: str = "cosine",
        batch: int | None = None,
        part: str | None = None,
        match: str = "none",
        compress: str = "deflate",
        preview: bool = False,
        resume: bool = False,
        overwrite: bool = False,
        force: bool = False,
    ) -> str:
        """Maps a whole scene as `srgan predict` does: window by window, without seams, in bounded memory.

        Args:
            scene: GeoTIFF, .npy and what else training reads.
            out: The map (.tif or .npy), or a folder for it.
            bands: Bands of the scene by number from 0 or by name; by default those of the checkpoint.
            window: Side of a window in input pixels.
            overlap: Input pixels that neighbouring windows share.
            blend: `cosine`, `linear` or `none`: how windows are joined that share more than the network needs.
            batch: Windows at a time.
            part: "3/8" makes the third of eight parts, which `srgan merge` joins.
            match: `none`, `histogram` or `moments`: match each band's values with the scene's.
            compress: `deflate`, `zstd` or `none`.
            preview: Also draw a picture beside the map.
            resume: Go on with an unfinished map; leave a finished one alone.
            overwrite: Replace what is there.
            force: Accept values that the network was not trained for.

        Returns:
            The path of the map, or of its part.

        Raises:
            DataError: The scene is not what the network was trained for, or the map is there already.
            KeyboardInterrupt: After Ctrl-C; finished rows are kept for `resume`.
        """
        names = bands if bands is None or isinstance(bands, str) else ",".join(str(band) for band in bands)
        options = {
            "bands": names,
            "window": window,
            "overlap": overlap,
            "blend": blend,
            "batch": batch,
            "part": part,
            "match": match,
            "compress": compress,
            "preview": preview,
            "resume": resume,
            "overwrite": overwrite,
            "force": force,
        }
        path = self._engine.predict(os.fspath(scene), os.fspath(out), options, replaced_stderr())
        return os.fspath(path)
