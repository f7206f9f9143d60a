"""Metrics of images, by the code that validations run.

Each takes SR and HR as (N, C, H, W) and gives an array (N,), or as (C, H, W) and gives a number. Images are NumPy arrays,
tensors of PyTorch, or any array with DLPack or the buffer protocol.
"""

from __future__ import annotations

from typing import Any, Union

import numpy as np

from . import _srgan
from ._arrays import images

__all__ = ["ergas", "psnr", "sam", "ssim"]

Values = Union[float, np.ndarray]
_COLUMNS = ("l1", "psnr", "ssim", "sam", "ergas")


def _measure(column: str, sr: Any, hr: Any, max_val: float = 1.0, window: int = 11, scale: int = 1) -> Values:
    (sr_values, single), (hr_values, _) = images(sr, "sr"), images(hr, "hr")
    if sr_values.shape != hr_values.shape:
        raise ValueError(f"sr is {sr_values.shape}, and hr {hr_values.shape}; they must be equal")
    count, *extent = sr_values.shape
    rows = _srgan.measure(
        sr_values.tobytes(), hr_values.tobytes(), (count, tuple(extent)), (max_val, window, scale)
    )
    at = _COLUMNS.index(column)
    values = np.array([row[at] for row in rows])
    return float(values[0]) if single else values


def psnr(sr: Any, hr: Any, max_val: float = 1.0) -> Values:
    """Peak signal-to-noise ratio in dB, of values limited to 0 … `max_val`; infinite for equal images."""
    return _measure("psnr", sr, hr, max_val=max_val)


def ssim(sr: Any, hr: Any, max_val: float = 1.0, window: int = 11) -> Values:
    """Mean structural similarity over pixels and bands, of values limited to 0 … `max_val`.

    `window` is the side of the Gaussian window (σ = 1.5 pixels), odd; NaN for images smaller than half of it.
    """
    return _measure("ssim", sr, hr, max_val=max_val, window=window)


def sam(sr: Any, hr: Any) -> Values:
    """Mean spectral angle in radians."""
    return _measure("sam", sr, hr)


def ergas(sr: Any, hr: Any, scale: int) -> Values:
    """Relative global error (Wald, 2000): 100 / `scale` · √(mean over bands of MSE / mean²); 0 for equal images.

    `scale` is SR pixels per LR pixel along a side. A band whose HR has the mean 0 is left out; NaN if none is left.
    """
    return _measure("ergas", sr, hr, scale=scale)
