"""The networks of benches/compare/*.yaml and gpu/*.yaml in PyTorch: same layers, same extents as srgan's; initial values
do not matter for speed and are PyTorch's own."""

import math

import torch
from torch import nn
from torch.nn import functional as F

RESIDUAL_SCALE = 0.2
SLOPE = 0.2


def same_conv(in_ch, out_ch, ksize, **kwargs):
    """A convolution whose output is as large as its input over the stride."""
    return nn.Conv2d(in_ch, out_ch, ksize, padding=ksize // 2, **kwargs)


class ResBlock(nn.Module):
    def __init__(self, channels, ksize):
        super().__init__()
        self.conv1 = same_conv(channels, channels, ksize)
        self.act = nn.PReLU()
        self.conv2 = same_conv(channels, channels, ksize)

    def forward(self, x):
        return x + RESIDUAL_SCALE * self.conv2(self.act(self.conv1(x)))


class ChannelAttentionBlock(ResBlock):
    """A residual block whose channels are weighed by a squeeze-and-excitation of their means."""

    def __init__(self, channels, ksize, reduction=16):
        super().__init__(channels, ksize)
        squeezed = channels // reduction
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x):
        y = self.conv2(self.act(self.conv1(x)))
        return x + RESIDUAL_SCALE * (y * self.weigh(y))


class LargeKernelAttentionBlock(ResBlock):
    """A residual block with an attention map from a depthwise 5×5, a dilated depthwise 7×7 and a 1×1 convolution."""

    def __init__(self, channels, ksize):
        super().__init__(channels, ksize)
        self.attend = nn.Sequential(
            same_conv(channels, channels, 5, groups=channels),
            nn.Conv2d(channels, channels, 7, padding=9, dilation=3, groups=channels),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, x):
        y = self.act(self.conv1(x))
        return x + RESIDUAL_SCALE * self.conv2(y * torch.sigmoid(self.attend(y)))


class StandardBlock(nn.Module):
    def __init__(self, channels, ksize):
        super().__init__()
        self.body = nn.Sequential(
            same_conv(channels, channels, ksize),
            nn.BatchNorm2d(channels),
            nn.PReLU(),
            same_conv(channels, channels, ksize),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x):
        return x + self.body(x)


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees all that came before."""

    def __init__(self, channels, growth):
        super().__init__()
        outputs = [growth] * 4 + [channels]
        self.convs = nn.ModuleList(same_conv(channels + i * growth, out, 3) for i, out in enumerate(outputs))

    def forward(self, x):
        features = [x]
        for conv in self.convs[:-1]:
            features.append(F.leaky_relu(conv(torch.cat(features, 1)), SLOPE))
        return self.convs[-1](torch.cat(features, 1))


class RrdbBlock(nn.Module):
    """ESRGAN's residual in residual of three dense blocks, as srgan and opensr-srgan build it."""

    def __init__(self, channels, growth):
        super().__init__()
        self.body = nn.Sequential(*(DenseBlock(channels, growth) for _ in range(3)))

    def forward(self, x):
        return x + RESIDUAL_SCALE * self.body(x)


BLOCKS = {
    "res": ResBlock,
    "rcab": ChannelAttentionBlock,
    "lka": LargeKernelAttentionBlock,
    "standard": StandardBlock,
}


class Generator(nn.Module):
    """SRResNet and ESRGAN: head, blocks with one long skip connection, upsampling by pixel shuffles, tail."""

    def __init__(self, bands, cfg):
        super().__init__()
        channels, count, scale = cfg["n_channels"], cfg["n_blocks"], cfg["scaling_factor"]
        esrgan = cfg["model_type"].lower() == "esrgan"
        ksize = cfg.get("small_kernel_size", 3)
        large = 3 if esrgan else cfg.get("large_kernel_size", 9)
        normalised = not esrgan and cfg["block_type"] == "standard"
        if esrgan or cfg["block_type"] == "rrdb":
            growth = cfg["growth_channels"] if esrgan else max(16, channels // 3)
            blocks = [RrdbBlock(channels, growth) for _ in range(count)]
        else:
            blocks = [BLOCKS[cfg["block_type"]](channels, ksize) for _ in range(count)]
        head = [same_conv(bands, channels, large)] + ([] if esrgan else [nn.PReLU()])
        end_of_body = [same_conv(channels, channels, ksize)] + ([nn.BatchNorm2d(channels)] if normalised else [])
        upsampling = []
        for _ in range(int(math.log2(scale))):
            upsampling += [same_conv(channels, 4 * channels, 3), nn.PixelShuffle(2), nn.PReLU()]
        refine = [same_conv(channels, channels, 3), nn.LeakyReLU(SLOPE)] if esrgan else []
        last = [same_conv(channels, bands, large)] + ([nn.Tanh()] if normalised else [])
        self.head = nn.Sequential(*head)
        self.body = nn.Sequential(*blocks, *end_of_body)
        self.tail = nn.Sequential(*upsampling, *refine, *last)

    def forward(self, lr):
        features = self.head(lr)
        return self.tail(features + self.body(features))


def patchgan_discriminator(bands, cfg):
    """Logits of overlapping patches."""
    count = cfg.get("n_blocks", 3)
    layers, channels = [nn.Conv2d(bands, 64, 4, 2, 1), nn.LeakyReLU(SLOPE)], 64
    for i in range(1, count + 1):
        out, stride = 64 * min(2**i, 8), 2 if i < count else 1
        layers += [nn.Conv2d(channels, out, 4, stride, 1), nn.InstanceNorm2d(out), nn.LeakyReLU(SLOPE)]
        channels = out
    return nn.Sequential(*layers, nn.Conv2d(channels, 1, 4, 1, 1))


def standard_discriminator(bands, cfg):
    """One logit per image: strides 1 and 2 in turn, channels doubled with every second convolution."""
    layers, channels = [], bands
    for i in range(cfg.get("n_blocks", 8)):
        strided = i % 2 == 1
        out = 64 if i == 0 else channels if strided else 2 * channels
        layers.append(same_conv(channels, out, 3, stride=2 if strided else 1))
        layers += ([nn.BatchNorm2d(out)] if i else []) + [nn.LeakyReLU(SLOPE)]
        channels = out
    judge = [nn.AdaptiveAvgPool2d(6), nn.Flatten(), nn.Linear(36 * channels, 1024), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers, *judge, nn.Linear(1024, 1))


def esrgan_discriminator(bands, cfg):
    """One logit per image: five halvings, between them convolutions that double the channels."""
    base = cfg.get("base_channels", 64)
    layers, channels = [same_conv(bands, base, 3), nn.LeakyReLU(SLOPE)], base
    for i, factor in enumerate([1, 2, 2, 4, 4, 8, 8, 16, 16]):
        conv = same_conv(channels, factor * base, 3) if i % 2 else same_conv(channels, factor * base, 4, stride=2)
        layers += [conv, nn.BatchNorm2d(factor * base), nn.LeakyReLU(SLOPE)]
        channels = factor * base
    hidden = cfg.get("linear_size", 1024)
    judge = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, hidden), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers, *judge, nn.Linear(hidden, 1))


DISCRIMINATORS = {
    "patchgan": patchgan_discriminator,
    "standard": standard_discriminator,
    "esrgan": esrgan_discriminator,
}


def discriminator(bands, cfg):
    return DISCRIMINATORS[cfg["model_type"]](bands, cfg)


def vgg19(cut):
    """The convolutions of VGG-19 (Simonyan and Zisserman 2015) to the ReLU behind convolution `j` of block `i`; fixed."""
    layers, channels = [], 3
    for block, (count, width) in enumerate([(2, 64), (2, 128), (4, 256), (4, 512), (4, 512)], 1):
        for conv in range(1, count + 1):
            layers += [same_conv(channels, width, 3), nn.ReLU(inplace=True)]
            channels = width
            if (block, conv) == (cut["i"], cut["j"]):
                return nn.Sequential(*layers).requires_grad_(False)
        layers.append(nn.MaxPool2d(2))
    raise ValueError(f"VGG-19 has no convolution {cut}")
