"""A generator as a module of PyTorch; imported only where that is asked for."""

from __future__ import annotations

import torch

from ._generator import Generator


class SRGANModel(torch.nn.Module):
    """`model(lr) -> sr` on tensors (N, C, H, W), normalised pixels in and out. It computes no gradients.

    `factor` is the scale, and `generator` the `srgan.Generator` behind it, which has `predict` for whole scenes. Moving the
    module moves nothing: the engine runs where it was loaded, and results come back to the device of `lr`.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator
        self.factor = generator.scale
        self.eval()

    @torch.no_grad()
    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """SR of `lr`."""
        return self.generator(lr)
