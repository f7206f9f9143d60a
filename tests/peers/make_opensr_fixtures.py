"""Writes tests/fixtures/opensr_test.safetensors: images and what opensr-test 1.3.3 says of them.

    python -m venv venv && venv/bin/pip install opensr-test==1.3.3 satalign scikit-image safetensors
    venv/bin/python tests/peers/make_opensr_fixtures.py

The default configuration needs no network. Of the package's optional dependencies, those that are not installed (lpips,
open_clip, ...) are only imported for distances that it does not use.
"""

import json
import pathlib
import warnings

import numpy as np
import opensr_test
import torch
from safetensors.numpy import save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHIP = np.load(ROOT / "data/sentinel2_10m_b2_b3_b4_b8.npy").astype(np.float64)
PEAK = 10_000


def shifted(image, rows, columns):
    """The image moved by parts of a pixel, by its Fourier transform."""
    height, width = image.shape[-2:]
    wave = np.exp(-2j * np.pi * (rows * np.fft.fftfreq(height)[:, None] + columns * np.fft.fftfreq(width)[None]))
    return np.fft.ifft2(np.fft.fft2(image) * wave).real


def triplet(seed, bands, top, left, height, width, scale, detail, noise, gain, shift):
    """LR, SR and HR as integers of reflectance, (C,H,W)."""
    rng = np.random.default_rng(seed)
    hr = CHIP[top : top + height, left : left + width, bands].transpose(2, 0, 1)
    lr = hr.reshape(len(bands), height // scale, scale, width // scale, scale).mean((2, 4))
    up = torch.nn.functional.interpolate(torch.tensor(lr)[None], scale_factor=scale, mode="bicubic")[0].numpy()
    sr = shifted(up + detail * (hr - up), *shift) * gain + noise * rng.standard_normal(hr.shape)
    return [np.clip(np.round(image), 1, 65_535).astype(np.uint16) for image in (lr, sr, hr)]


CASES = {
    "good": dict(seed=1, bands=[0, 1, 2, 3], top=8, left=16, height=64, width=64, scale=4, detail=0.5, noise=20, gain=1, shift=(0, 0)),
    "shifted": dict(seed=2, bands=[0, 1, 2], top=100, left=40, height=56, width=72, scale=2, detail=0.7, noise=10, gain=1.05, shift=(0.62, -1.3)),
    "noisy": dict(seed=3, bands=[0, 1, 2, 3], top=150, left=120, height=72, width=56, scale=4, detail=0.1, noise=150, gain=0.9, shift=(0, 0.3)),
    "by_eight": dict(seed=4, bands=[3, 0, 1, 2], top=60, left=150, height=64, width=80, scale=8, detail=0.4, noise=30, gain=1.1, shift=(-0.5, 0.5)),
    "two_bands": dict(seed=5, bands=[2, 3], top=30, left=90, height=66, width=60, scale=2, detail=0.3, noise=0, gain=1, shift=(2, 0)),
    "far_away": dict(seed=6, bands=[0, 1, 2], top=90, left=100, height=64, width=64, scale=2, detail=0.9, noise=5, gain=1, shift=(9, 7)),
}
COLUMNS = ["reflectance", "spectral", "spatial", "synthesis", "ha_metric", "om_metric", "im_metric"]


def main():
    warnings.filterwarnings("ignore", message="Estimated translation is too large")
    tensors, scales = {}, {}
    for name, settings in CASES.items():
        images = triplet(**settings)
        as_tensors = [torch.from_numpy(image.astype(np.float32) / np.float32(PEAK)) for image in images]
        found = opensr_test.Metrics().compute(*as_tensors)
        scores = [float(found[column]) for column in COLUMNS]
        print(name, dict(zip(COLUMNS, scores)))
        tensors |= {f"{name}.{kind}": image for kind, image in zip(("lr", "sr", "hr"), images)}
        tensors[f"{name}.scores"] = np.array(scores)
        scales[name] = settings["scale"]
    save_file(tensors, ROOT / "tests/fixtures/opensr_test.safetensors", {"scales": json.dumps(scales)})


if __name__ == "__main__":
    main()
