"""Convolutional blocks: the residual block of the ResNet encoder, decoder and flows, and the U-Net's attention."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from paradigms.backbones.embed import modulate


def groups(channels: int) -> int:
    """The number of normalisation groups: at least 8 channels in each where the width allows."""
    return math.gcd(channels, max(1, channels // 8))


def zero(module: nn.Module) -> nn.Module:
    """The module with all parameters at zero: its branch starts silent."""
    for p in module.parameters():
        nn.init.zeros_(p)
    return module


def standardise(x: Tensor) -> Tensor:
    """Each example (C, H, W) of x (B, C, H, W) to mean 0 and variance 1: a group norm of one group, without weights.

    On rows in the order of the memory. With channels last torch's group norm has no forward-mode derivatives, and its
    layer norm has wrong ones of second order (reverse over forward mode).
    """
    rows = x.permute(0, 2, 3, 1)
    return F.group_norm(rows.reshape(len(x), 1, -1), 1).view(rows.shape).permute(0, 3, 1, 2)


class ResBlock(nn.Module):
    """Pre-activation residual block, (B, cin, H, W) -> (B, cout, H, W), modulated by an embedding (B, emb).

    norm - SiLU - conv - norm, modulate - SiLU - dropout - conv (zero at the start), plus a 1x1 skip where the width changes.
    """

    def __init__(self, cin: int, cout: int, emb: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups(cin), cin)
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups(cout), cout)
        self.conv2 = zero(nn.Conv2d(cout, cout, 3, padding=1))
        self.emb = zero(nn.Linear(emb, 2 * cout)) if emb else None
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Conv2d(cin, cout, 1) if cin != cout else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.norm2(h)
        if self.emb is not None:
            h = modulate(h, self.emb(emb))
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))


class Attention(nn.Module):
    """Self-attention over positions, (B, C, H, W) -> the same, as a residual that starts silent.

    Written out, for few positions: torch's fused attention has no forward-mode and no second derivatives.
    """

    def __init__(self, channels: int, head: int = 32) -> None:
        super().__init__()
        self.heads = math.gcd(channels, max(1, channels // head))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(standardise(x)).reshape(b, 3, self.heads, c // self.heads, h * w).unbind(1)
        weights = (q.transpose(-1, -2) @ k * q.shape[-2] ** -0.5).softmax(-1)
        return x + self.out((v @ weights.transpose(-1, -2)).reshape(b, c, h, w))
