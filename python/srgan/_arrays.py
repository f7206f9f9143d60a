"""Arrays of users to bytes for the engine, and back."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np


def _torch_tensor(array: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def to_numpy(array: Any) -> np.ndarray:
    """Any array as one of NumPy's: tensors of PyTorch from any device, arrays with DLPack, buffers, nested lists."""
    if isinstance(array, np.ndarray):
        return array
    if _torch_tensor(array):
        array = array.detach().cpu()
        # NumPy has no bfloat16.
        return (array.float() if array.is_floating_point() else array).numpy()
    if hasattr(array, "__dlpack__"):
        try:
            return np.from_dlpack(array)
        except (BufferError, RuntimeError, TypeError) as error:
            raise TypeError(f"this {type(array).__name__} cannot be read ({error}): move it to the CPU first") from error
    return np.asarray(array)


def like(result: np.ndarray, given: Any) -> Any:
    """`result` as a tensor on the device of `given` if that is one of PyTorch's."""
    if _torch_tensor(given):
        return sys.modules["torch"].from_numpy(result).to(given.device)
    return result


def images(array: Any, name: str) -> tuple[np.ndarray, bool]:
    """Images as (N, C, H, W) in f32 without gaps, and whether they were given without N."""
    values = to_numpy(array)
    if values.dtype.kind not in "fiu":
        raise TypeError(f"{name} holds {values.dtype}; images are real numbers")
    if values.ndim not in (3, 4):
        raise ValueError(f"{name} has the shape {values.shape}; images are (N, C, H, W) or (C, H, W)")
    single = values.ndim == 3
    values = values[np.newaxis] if single else values
    return np.ascontiguousarray(values, dtype=np.float32), single
