"""The space of random convolutions: it never saw a label or an image, and exists for any image shape."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor, nn

from bench.features.space import Extractor, FeatureSpace

__all__ = ["RANDOM", "random_conv"]

RANDOM = "random-conv"


class _RandomConvolutions(nn.Module):
    """Three rectified convolutions with random weights, averaged over the quadrants of the image: (B, 64).

    The filters of the first layer sum to zero over each input channel, so it answers to edges and grain and not to a
    constant; the rectification is what makes the mean of an answer depend on more than the pixels' first two moments.
    Features are differences from those of a blank image, times a constant that makes distances of order 1 on digits.
    """

    CHANNELS = (32, 32, 16)
    FEATURES = 64
    SCALE = 4.0
    SEED = 20_251

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        # All that makes the map what it is; hashed with the weights.
        self.design = f"3x3 replicate, zero-sum first, relu, quadrants minus blank, {self.CHANNELS}, {self.SCALE}"
        bits = np.random.Philox(key=self.SEED)
        layers: list[nn.Module] = []
        channels, size = shape[0], min(shape[1:])
        for i, out in enumerate(self.CHANNELS):
            layer = nn.Conv2d(channels, out, 3, padding=1, padding_mode="replicate", device="meta")
            weight = _uniform(bits, out, channels, 3, 3)
            if i == 0:
                weight = weight - weight.sum((2, 3), keepdim=True) / 9
            state = {"weight": weight * math.sqrt(6 / (9 * channels)), "bias": _uniform(bits, out) * 0.1}
            layer.load_state_dict({k: v.float() for k, v in state.items()}, assign=True)
            layers += [layer, nn.ReLU()]
            if size > 8 and i < 2:  # coarser strokes on larger images, in the reach of the same small filters
                layers.append(nn.AvgPool2d(2))
                size //= 2
                self.design += f", pooled after {i + 1}"
            channels = out
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        with torch.no_grad():
            self.register_buffer("blank", self.layers(torch.full((1, *shape), -1.0)))

    def forward(self, x: Tensor) -> Tensor:
        return (self.layers(x) - self.blank) * self.SCALE


def _uniform(bits: np.random.Philox, *shape: int) -> Tensor:
    """Uniform on [-1, 1), float64, from the generator's raw bits, which NumPy fixes for good.

    Of 24 bits, so that sums of a few are exact in any order, and the weights and their hash the same on every machine.
    """
    raw = bits.random_raw(math.prod(shape)) >> 40
    return torch.from_numpy(raw.astype(np.float64) / 2**23 - 1).reshape(shape)


def random_conv(shape: tuple[int, ...]) -> FeatureSpace:
    """The label-free space of 64 random-convolution features for images of `shape` (C, H, W)."""
    net = _RandomConvolutions(shape)
    digest = hashlib.sha256(net.design.encode())
    for parameter in net.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return FeatureSpace(RANDOM, digest.hexdigest()[:12], tuple(shape), Extractor(net, net.FEATURES))
