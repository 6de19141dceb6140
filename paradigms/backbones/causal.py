"""A causal transformer over tokens, with a key-value cache: how an autoregressive model reads its past.

Pre-norm blocks (Vaswani et al. 2017; Radford et al. 2019): x + attention(norm(x)), then x + MLP(norm(x)) with an MLP
four times as wide and GELU. Positions are learned, and a label is one more vector added to every token.

All tokens at once (training, densities) or one after the other (sampling): then the keys and values of the past stay in
a `Cache`, and a new token costs one row of every product instead of a pass over all tokens before it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paradigms.backbones import Backbone
from paradigms.backbones.blocks import zero
from paradigms.backbones.embed import Embedding


class Cache:
    """Keys and values of the tokens read so far, allocated once: `kv` (layers, 2, B, heads, T, head).

    That is 2 · layers · B · T · heads · head numbers. `read` counts the tokens; setting it to 0 forgets them all.
    """

    def __init__(self, kv: Tensor) -> None:
        self.kv, self.read = kv, 0

    @staticmethod
    def empty(layers: nn.ModuleList, batch: int, tokens: int) -> Cache:
        """A cache of the layers for `batch` sequences of up to `tokens` tokens."""
        layer: CausalLayer = layers[0]  # type: ignore[assignment]
        return Cache(layer.out.weight.new_empty(len(layers), 2, batch, layer.heads, tokens, layer.head))


class CausalLayer(nn.Module):
    """(B, n, width) -> the same; position t is told of the positions up to t.

    Heads have 32 to 63 numbers: as many as `width` holds of 32. past (2, B, heads, T, head): the keys and values of the
    `read` tokens before these; those of these are written behind them. Without it the n tokens are all there is.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.heads = max(1, width // 32)
        self.head = width // self.heads
        inner = self.heads * self.head
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * inner)
        self.out = nn.Linear(inner, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, past: Tensor | None = None, read: int = 0) -> Tensor:
        b, n, _ = x.shape
        qkv = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, self.head).permute(2, 0, 3, 1, 4)
        if past is None:
            a = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], is_causal=True)
        else:
            past[:, :, :, read].copy_(qkv[1:, :, :, 0])
            k, v = past[:, :, :, : read + 1].unbind(0)
            a = F.scaled_dot_product_attention(qkv[0], k, v)
        x = x + self.dropout(self.out(a.transpose(1, 2).reshape(b, n, -1)))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))


class CausalTransformer(Backbone):
    """(B, n, din), y (B,) -> (B, n, dout), zero at the start; output t depends on the inputs up to t.

    `bias` (tokens, dout) is added to the output: constants of each position.

    With a cache n is 1: the input is the token that follows those read so far. Raises ValueError when there are more
    than `tokens` of them.
    """

    def __init__(
        self, din: int, dout: int, width: int, layers: int, tokens: int, classes: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.embed = Embedding(width, classes, timed=False)
        self.stem = nn.Linear(din, width)
        # As large as what the stem puts out: at 0.02, as is common, positions are told apart only after long training.
        self.position = nn.Parameter(0.5 * torch.randn(tokens, width))
        self.layers = nn.ModuleList(CausalLayer(width, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = zero(nn.Linear(width, dout, bias=False))
        self.bias = nn.Parameter(torch.zeros(tokens, dout))

    def cache(self, batch: int) -> Cache:
        """An empty cache for sequences of `batch` rows."""
        return Cache.empty(self.layers, batch, len(self.position))

    def forward(self, x: Tensor, y: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        read, n = (0 if cache is None else cache.read), x.shape[1]
        if read + n > len(self.position) or (cache is not None and n != 1):
            raise ValueError(f"{n} tokens after {read} of at most {len(self.position)}; with a cache one at a time")
        h = self.stem(x) + self.position[read : read + n]
        label = self.embed(None, y)
        if label is not None:
            h = h + label[:, None]
        for i, layer in enumerate(self.layers):
            h = layer(h) if cache is None else layer(h, cache.kv[i], read)
        if cache is not None:
            cache.read += 1
        return self.head(self.norm(h)) + self.bias[read : read + n]
