"""The residual MLP for vectors: a stem, `depth` modulated residual blocks, a head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paradigms.backbones import Backbone
from paradigms.backbones.blocks import zero
from paradigms.backbones.embed import Embedding, modulate

STEEP = 3.0  # a critic's first weights against those that keep the variance


class MLPBlock(nn.Module):
    """x + W2 SiLU(W1 modulate(norm(x))), (B, width) -> (B, width); the branch starts silent."""

    def __init__(self, width: int, emb: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.emb = zero(nn.Linear(emb, 2 * width)) if emb else None
        self.w1 = nn.Linear(width, width)
        self.w2 = zero(nn.Linear(width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, emb: Tensor | None) -> Tensor:
        h = self.norm(x)
        if self.emb is not None:
            h = modulate(h, self.emb(emb))
        return x + self.w2(self.dropout(F.silu(self.w1(h))))


class MLP(Backbone):
    """(B, *shape) flattened to (B, din), t (B,) or None, y (B,) or None -> (B, dout)."""

    def __init__(
        self,
        din: int,
        dout: int,
        width: int,
        depth: int = 3,
        timed: bool = True,
        classes: int = 0,
        dropout: float = 0.0,
        times: int = 1,
    ) -> None:
        super().__init__()
        conditioned = timed or classes
        self.embed = Embedding(width, classes, timed, times=times)
        self.stem = nn.Linear(din, width)
        self.blocks = nn.ModuleList(MLPBlock(width, width if conditioned else 0, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = zero(nn.Linear(width, dout))

    def forward(self, x: Tensor, t: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        x = x.flatten(1)
        emb = self.embed(t, y)
        h = self.stem(x)
        for block in self.blocks:
            h = block(h, emb)
        return self.head(F.silu(self.norm(h)))


class PlainMLPBlock(nn.Module):
    """x + W2 leaky(W1 leaky(x)), (B, width) -> (B, width): the fix-up block of `resnet.PlainBlock` on vectors."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, width)
        nn.init.kaiming_normal_(self.w1.weight, a=0.2)
        with torch.no_grad():
            self.w1.weight.mul_(blocks**-0.5)
        self.w2 = zero(nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.w2(F.leaky_relu(self.w1(F.leaky_relu(x, 0.2)), 0.2))


class PlainMLP(Backbone):
    """(B, *shape) flattened to (B, din), y (B,) or None -> (B, dout), without normalisation.

    Labels are joined to the input. critic: they multiply the last features instead (projection, Miyato & Koyama 2018),
    and the stem starts steep, as modes lie far closer than the unit variance of the data.
    """

    def __init__(self, din: int, dout: int, width: int, depth: int = 3, classes: int = 0, critic: bool = False) -> None:
        super().__init__()
        self.embed = Embedding(width, 0 if critic else classes, timed=False)
        self.stem = nn.Linear(din + (width if classes and not critic else 0), width)
        nn.init.normal_(self.stem.weight, std=(STEEP if critic else 1) * self.stem.in_features**-0.5)
        self.blocks = nn.ModuleList(PlainMLPBlock(width, depth) for _ in range(depth))
        self.head = nn.Linear(width, dout)
        self.project = zero(nn.Embedding(classes, width)) if classes and critic else None

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        x, emb = x.flatten(1), self.embed(None, y)
        h = self.stem(x if emb is None else torch.cat([x, emb], dim=1))
        for block in self.blocks:
            h = block(h)
        h = F.leaky_relu(h, 0.2)
        out = self.head(h)
        return out if self.project is None else out + (self.project(y) * h).sum(1, keepdim=True)
