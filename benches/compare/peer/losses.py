"""Losses and metrics of a training step, as srgan computes them."""

import torch
from torch.nn import functional as F


def spectral_angle(sr, hr, eps=1e-8):
    """Mean angle between the spectra of corresponding pixels, in radians."""
    sr, hr = sr.flatten(2), hr.flatten(2)
    lengths = sr.norm(dim=1).clamp_min(eps) * hr.norm(dim=1).clamp_min(eps)
    cosine = (sr * hr).sum(1) / lengths
    return torch.acos(cosine.clamp(-1 + 1e-7, 1 - 1e-7)).mean()


def total_variation(image):
    """Mean absolute difference of neighbours, vertically and horizontally."""
    vertical = (image[:, :, 1:] - image[:, :, :-1]).abs().mean()
    return vertical + (image[..., 1:] - image[..., :-1]).abs().mean()


def ssim(a, b, window, max_val, sigma=1.5):
    """Mean structural similarity with a Gaussian window (Wang et al. 2004)."""
    channels, half = a.shape[1], window // 2
    offsets = torch.arange(window, device=a.device, dtype=a.dtype) - half
    weights = torch.exp(-offsets * offsets / (2 * sigma * sigma))
    weights = weights / weights.sum()
    kernel = (weights[:, None] * weights[None]).expand(channels, 1, window, window).contiguous()

    def blur(image):
        return F.conv2d(F.pad(image, [half] * 4, mode="reflect"), kernel, groups=channels)

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a * mean_a, blur(b * b) - mean_b * mean_b
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * max_val) ** 2, (0.03 * max_val) ** 2
    above = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return (above / ((mean_a * mean_a + mean_b * mean_b + c1) * (var_a + var_b + c2))).mean()


def content_loss(sr, hr, weights):
    """The weighted sum of L1, spectral angle and total variation."""
    loss = weights["l1_weight"] * F.l1_loss(sr, hr) + weights["sam_weight"] * spectral_angle(sr, hr)
    return loss + weights["tv_weight"] * total_variation(sr)


@torch.no_grad()
def image_metrics(sr, hr, weights):
    """PSNR in dB and SSIM, of values clipped to 0 … 1."""
    sr = sr.clamp(0, 1)
    psnr = 10 * torch.log10(1 / F.mse_loss(sr, hr))
    return psnr, ssim(sr, hr, weights["ssim_win"], weights["max_val"])
