"""`srgan.metrics` beside the plain formulas."""

import numpy as np
import pytest

from srgan import metrics


@pytest.fixture
def pair():
    rng = np.random.default_rng(3)
    hr = rng.uniform(0.1, 0.8, (3, 4, 24, 20))
    sr = np.clip(hr + rng.normal(0, 0.05, hr.shape), 0, 1)
    sr[2] = hr[2]
    return sr, hr


def test_psnr(pair):
    sr, hr = pair
    want = 10 * np.log10(1 / np.mean((sr[:2] - hr[:2]) ** 2, axis=(1, 2, 3)))
    assert np.allclose(metrics.psnr(sr, hr)[:2], want, rtol=1e-5)
    assert metrics.psnr(sr, hr)[2] == np.inf
    assert metrics.psnr(sr[0], hr[0]) == metrics.psnr(sr, hr)[0]
    assert np.allclose(metrics.psnr(2 * sr[0], 2 * hr[0], max_val=2), want[0], rtol=1e-5)


def test_sam(pair):
    sr, hr = pair
    cosine = (sr * hr).sum(1) / np.sqrt((sr**2).sum(1) * (hr**2).sum(1))
    want = np.arccos(np.clip(cosine, -1, 1)).mean(axis=(1, 2))
    assert np.allclose(metrics.sam(sr, hr)[:2], want[:2], rtol=1e-4)


def test_ergas(pair):
    sr, hr = pair
    relative = ((sr - hr) ** 2).mean(axis=(2, 3)) / hr.mean(axis=(2, 3)) ** 2
    assert np.allclose(metrics.ergas(sr, hr, scale=4), 25 * np.sqrt(relative.mean(axis=1)), rtol=1e-5)


def test_ssim(pair):
    sr, hr = pair
    values = metrics.ssim(sr, hr)
    assert values[2] == pytest.approx(1, abs=1e-6) and 0.5 < values[0] < 0.999
    assert metrics.ssim(sr, hr, window=3)[0] != values[0]
    assert np.isnan(metrics.ssim(sr[0, :, :4, :4], hr[0, :, :4, :4]))


def test_wrong_arguments(pair):
    sr, hr = pair
    with pytest.raises(ValueError, match="equal"):
        metrics.psnr(sr, hr[:2])
    with pytest.raises(ValueError, match="odd"):
        metrics.ssim(sr, hr, window=4)
    with pytest.raises(ValueError, match="max_val"):
        metrics.psnr(sr, hr, max_val=0)
    with pytest.raises(ValueError, match="at least 1"):
        metrics.ergas(sr, hr, scale=0)
    with pytest.raises(TypeError):
        metrics.psnr(sr.astype(complex), hr)
