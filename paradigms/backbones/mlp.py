"""The residual MLP for vectors: a stem, `depth` modulated residual blocks, a head."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from paradigms.backbones import Backbone
from paradigms.backbones.blocks import zero
from paradigms.backbones.embed import Embedding, modulate


class MLPBlock(nn.Module):
    """x + W2 SiLU(W1 modulate(norm(x))), (B, width) -> (B, width); the branch starts silent."""

    def __init__(self, width: int, emb: int, dropout: float, norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
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
        norm: bool = True,
    ) -> None:
        super().__init__()
        conditioned = timed or classes
        self.embed = Embedding(width, classes, timed)
        self.stem = nn.Linear(din, width)
        self.blocks = nn.ModuleList(MLPBlock(width, width if conditioned else 0, dropout, norm) for _ in range(depth))
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.head = zero(nn.Linear(width, dout))

    def forward(self, x: Tensor, t: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        x = x.flatten(1)
        emb = self.embed(t, y)
        h = self.stem(x)
        for block in self.blocks:
            h = block(h, emb)
        return self.head(F.silu(self.norm(h)))
