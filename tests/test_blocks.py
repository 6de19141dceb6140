"""Every block of the networks and flows is its formula, written out here in plain operations at random weights.

A formula reads a block's weights by name (`Weights`) and shares no code with it. All weights are moved first, also those that
start at zero, and dropout becomes a factor: a residual, a sign, an order or a branch that is lost changes the output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from paradigms.backbones import causal, embed, grid, ladder, mlp, resnet, unet, vectors
from paradigms.backbones.blocks import ResBlock
from paradigms.core.data import Space
from paradigms.core.noise import Noise
from paradigms.flows import Chain, autoregressive, coupling, dequantise, linear, multiscale
from paradigms.hierarchical_vae import TopDown
from paradigms.testing import shake
from paradigms.vq_vae import CodePrior

DROP = 0.5  # of every block that takes a dropout; its layers multiply by 1 + DROP here


class Weights:
    """The tensors of a module by name; `w / "stem"` are those of its part `stem`."""

    def __init__(self, tensors: dict[str, Tensor], at: str = "") -> None:
        self.tensors, self.at = tensors, at

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self.at + name]

    def __truediv__(self, name: object) -> Weights:
        return Weights(self.tensors, f"{self.at}{name}.")

    def __contains__(self, name: str) -> bool:
        return any(key.startswith(self.at + name) for key in self.tensors)

    def __iter__(self) -> Iterator[Weights]:
        """The parts of a list of modules."""
        k = 0
        while f"{k}." in self:
            yield self / k
            k += 1


# ---------------------------------------------------------------------------------------------------------- operations


def lin(w: Weights, x: Tensor) -> Tensor:
    y = torch.einsum("...i,oi->...o", x, w["weight"])
    return y + w["bias"] if "bias" in w else y


def point(w: Weights, x: Tensor) -> Tensor:
    return lin(w, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def conv(w: Weights, x: Tensor, stride: int = 1) -> Tensor:
    y = F.conv2d(x, w["weight"], None, stride, w["weight"].shape[-1] // 2)
    return y + w["bias"].view(-1, 1, 1) if "bias" in w else y


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def drop(x: Tensor) -> Tensor:
    return (1 + DROP) * x


def standard(x: Tensor, groups: int = 1) -> Tensor:
    """Each example's groups of channels to mean 0 and variance 1."""
    flat = x.reshape(len(x), groups, -1)
    var = flat.var(-1, correction=0, keepdim=True)
    return ((flat - flat.mean(-1, keepdim=True)) / torch.sqrt(var + 1e-5)).reshape(x.shape)


def group_norm(w: Weights, x: Tensor) -> Tensor:
    """Groups of 8 channels where they divide."""
    c = x.shape[1]
    return standard(x, math.gcd(c, max(1, c // 8))) * w["weight"].view(1, c, 1, 1) + w["bias"].view(1, c, 1, 1)


def layer_norm(w: Weights, x: Tensor) -> Tensor:
    var = x.var(-1, correction=0, keepdim=True)
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(var + 1e-5) * w["weight"] + w["bias"]


def fold(x: Tensor, p: int) -> Tensor:
    b, c, h, w = x.shape
    return x.reshape(b, c, h // p, p, w // p, p).permute(0, 1, 3, 5, 2, 4).reshape(b, c * p * p, h // p, w // p)


def unfold(x: Tensor, p: int) -> Tensor:
    b, c, h, w = x.shape
    return x.reshape(b, c // p**2, p, p, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, c // p**2, h * p, w * p)


def nearest(x: Tensor, h: int, w: int) -> Tensor:
    rows, columns = (torch.arange(n) * old // n for n, old in zip((h, w), x.shape[2:]))
    return x[:, :, rows][:, :, :, columns]


def attended(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """Softmax attention of (B, n, d) on itself, position after position."""
    out = []
    for t in range(q.shape[1]):
        n = t + 1 if causal else q.shape[1]
        weights = torch.exp((q[:, t : t + 1] * k[:, :n]).sum(-1) / math.sqrt(q.shape[-1]))
        out.append((weights[..., None] * v[:, :n]).sum(1) / weights.sum(1, keepdim=True))
    return torch.stack(out, dim=1)


# ------------------------------------------------------------------------------------------------------------ networks


def embedding(w: Weights, t: Tensor | None, y: Tensor | None) -> Tensor | None:
    out = None
    if t is not None:
        angles = [2 * math.pi * one * 2 ** (-1 + 5 * k / 15) for one in t.reshape(len(t), -1).T for k in range(16)]
        waves = torch.stack([*(torch.sin(a) for a in angles), *(torch.cos(a) for a in angles)], dim=1)
        out = lin(w / "time.2", silu(lin(w / "time.0", waves)))
    if "label" in w:
        label = w["label.weight"][y]
        out = label if out is None else out + label
    return None if out is None else silu(out)


def modulated(w: Weights, h: Tensor, emb: Tensor) -> Tensor:
    numbers = lin(w, emb).reshape(len(h), -1, *(1,) * (h.dim() - 2))
    c = h.shape[1]
    return h * (1 + numbers[:, :c]) + numbers[:, c:]


def res_block(w: Weights, x: Tensor, emb: Tensor | None = None, dropped: bool = True) -> Tensor:
    h = group_norm(w / "norm2", conv(w / "conv1", silu(group_norm(w / "norm1", x))))
    h = silu(h if emb is None else modulated(w / "emb", h, emb))
    return (conv(w / "skip", x) if "skip" in w else x) + conv(w / "conv2", drop(h) if dropped else h)


def plain_block(w: Weights, x: Tensor, emb: None = None) -> Tensor:
    return (conv(w / "skip", x) if "skip" in w else x) + conv(w / "conv2", leaky(conv(w / "conv1", leaky(x))))


def mlp_block(w: Weights, x: Tensor, emb: Tensor | None) -> Tensor:
    h = layer_norm(w / "norm", x)
    h = h if emb is None else modulated(w / "emb", h, emb)
    return x + lin(w / "w2", drop(silu(lin(w / "w1", h))))


def perceptron(w: Weights, x: Tensor, t: Tensor | None = None, y: Tensor | None = None) -> Tensor:
    emb, h = embedding(w / "embed", t, y), lin(w / "stem", x.flatten(1))
    for block in w / "blocks":
        h = mlp_block(block, h, emb)
    return lin(w / "head", silu(layer_norm(w / "norm", h)))


def plain_perceptron(w: Weights, x: Tensor, y: Tensor | None = None) -> Tensor:
    """A critic where it has a projection: its labels multiply the last features, else they are further inputs."""
    x = x.flatten(1)
    h = lin(w / "stem", torch.cat([x, silu(w["embed.label.weight"][y])], dim=1) if "embed.label" in w else x)
    for block in w / "blocks":
        h = h + lin(block / "w2", leaky(lin(block / "w1", leaky(h))))
    out = lin(w / "head", leaky(h))
    return out + (w["project.weight"][y] * leaky(h)).sum(1)[:, None] if "project" in w else out


def encoder(w: Weights, x: Tensor, y: Tensor | None, patch: int, plain: bool) -> Tensor:
    block, emb = (plain_block, None) if plain else (res_block, embedding(w / "embed", None, y))
    h = conv(w / "stem", fold(x, patch))
    for level, row in enumerate(w / "blocks"):
        h = conv(w / "pools" / (level - 1), h, stride=2) if level else h
        for one in row:
            h = block(one, h, emb)
    h = (leaky(h) if plain else silu(group_norm(w / "norm", h))).flatten(1)
    out = lin(w / "head", h)
    return out + (w["project.weight"][y] * h).sum(1)[:, None] if "project" in w else out


def decoder(w: Weights, z: Tensor, y: Tensor | None, patch: int, plain: bool, sides: list[tuple[int, int]]) -> Tensor:
    """sides: of each level, from the lowest."""
    block, emb = plain_block if plain else res_block, embedding(w / "embed", None, y)
    z, emb = (torch.cat([z, emb], dim=1), None) if plain and emb is not None else (z, emb)
    h = lin(w / "stem", z).reshape(len(z), -1, *sides[0])
    for i, row in enumerate(w / "blocks"):
        if i:
            up = w / "unpools" / (i - 1)
            h = nearest(conv(up, h), *sides[i]) if plain else conv(up, nearest(h, *sides[i]))
        for one in row:
            h = block(one, h, emb)
    return unfold(conv(w / "head", leaky(h) if plain else silu(group_norm(w / "norm", h))), patch)


def u_net(w: Weights, x: Tensor, t: Tensor, y: Tensor, patch: int, channels: tuple[int, ...], heads: int) -> Tensor:
    order = (*channels, *reversed(channels), channels[0])
    numbers = lin(w / "modulation", embedding(w / "embed", t, y))
    scale, shift = (part.split(order, dim=1) for part in (numbers[:, : sum(order)], numbers[:, sum(order) :]))

    def modulate(k: int, h: Tensor) -> Tensor:
        return silu(standard(h) * (1 + scale[k])[:, :, None, None] + shift[k][:, :, None, None])

    def block(k: int, h: Tensor) -> Tensor:
        return h + conv(w / f"blocks.{k}.conv2", drop(modulate(k, conv(w / f"blocks.{k}.conv1", h))))

    def attention(h: Tensor) -> Tensor:
        c = h.shape[1]
        q, k, v = conv(w / "attention.qkv", standard(h)).flatten(2).transpose(1, 2).split(c, dim=2)
        d = c // heads
        parts = [attended(*(m[..., i * d : i * d + d] for m in (q, k, v))) for i in range(heads)]
        return h + conv(w / "attention.out", torch.cat(parts, dim=2).transpose(1, 2).reshape(h.shape))

    n = len(channels)
    h, skips = conv(w / "stem", fold(x, patch)), []
    for k in range(n - 1):
        skips.append(block(k, h))
        h = conv(w / "down" / k, skips[-1], stride=2)
    h = block(n, attention(block(n - 1, h)))
    for k, skip in enumerate(reversed(skips)):
        h = block(n + 1 + k, skip + nearest(conv(w / "up" / k, h), *skip.shape[2:]))
    return unfold(conv(w / "head", modulate(2 * n, h)), patch)


def grid_encoder(w: Weights, x: Tensor, y: Tensor, patch: int) -> Tensor:
    emb, h = embedding(w / "embed", None, y), conv(w / "stem", fold(x, patch))
    for level, block in enumerate(w / "blocks"):
        h = res_block(block, conv(w / "pools" / (level - 1), h, stride=2) if level else h, emb, dropped=False)
    h = group_norm(w / "norm", res_block(w / "last", h, emb, dropped=False))
    return conv(w / "head", silu(h)).flatten(2).transpose(1, 2)


def grid_decoder(w: Weights, z: Tensor, y: Tensor, patch: int, sides: list[tuple[int, int]]) -> Tensor:
    emb = embedding(w / "embed", None, y)
    h = res_block(w / "first", conv(w / "stem", z.transpose(1, 2).reshape(len(z), -1, *sides[0])), emb)
    for i, block in enumerate(w / "blocks"):
        h = res_block(block, conv(w / "unpools" / (i - 1), nearest(h, *sides[i])) if i else h, emb)
    return unfold(conv(w / "head", silu(group_norm(w / "norm", h))), patch)


def bottleneck(w: Weights, x: Tensor, emb: Tensor | None) -> Tensor:
    h = point(w / "first", silu(x))
    h = h if emb is None else modulated(w / "emb", h, emb)
    for layer in w / "inner":
        h = conv(layer, silu(h))
    return point(w / "last", drop(silu(h)))


def bottom_up(w: Weights, x: Tensor, y: Tensor, patch: int) -> list[Tensor]:
    emb, h = embedding(w / "embed", None, y), conv(w / "stem", fold(x, patch))
    features = []
    for i, block in enumerate(w / "blocks"):
        if i:
            h = F.pad(h, (0, h.shape[3] % 2, 0, h.shape[2] % 2))
            h = point(w / f"halves.{i - 1}.mix", fold(h, 2))
        h = h + bottleneck(block, h, emb)
        features.insert(0, h)
    return features


def top_down(w: Weights, eps: Tensor, y: Tensor, seen: list[Tensor], informed: int, latent: int, patch: int):
    """Numbers of p(x | z), and ((mean, log sd) of p, of q, z) of each level."""
    emb, h, passed, read = embedding(w / "embed", None, y), w["start"].expand(len(eps), -1, -1, -1), [], 0
    for i, row in enumerate(w / "rows"):
        if i:
            double, (height, width) = w / "doubles" / (i - 1), seen[i].shape[2:]
            h = unfold(point(double / "mix", h), 2)[:, :, :height, :width] + double["bias"]
        for block in row:
            out = bottleneck(block / "prior", h, emb)
            p = q = out[:, :latent], out[:, latent : 2 * latent].clamp(-7, 3)
            if len(passed) < informed:
                told = bottleneck(block / "posterior", torch.cat([h, seen[i]], dim=1), emb)
                q = told[:, :latent], told[:, latent:].clamp(-7, 3)
            n = latent * h.shape[2] * h.shape[3]
            z = q[0] + q[1].exp() * eps[:, read : read + n].reshape(-1, latent, *h.shape[2:])
            h = h + out[:, 2 * latent :] + point(block / "project", z)
            h = h + bottleneck(block / "after", h, emb)
            passed, read = [*passed, (p, q, z)], read + n
    return unfold(point(w / "head", silu(h)), patch), passed


def causal_layer(w: Weights, x: Tensor) -> Tensor:
    """Heads of 32 to 63 numbers."""
    heads = max(1, x.shape[2] // 32)
    d = x.shape[2] // heads
    q, k, v = lin(w / "qkv", layer_norm(w / "norm1", x)).split(heads * d, dim=2)
    mixed = [attended(*(m[..., i * d : i * d + d] for m in (q, k, v)), causal=True) for i in range(heads)]
    x = x + drop(lin(w / "out", torch.cat(mixed, dim=2)))
    return x + drop(lin(w / "down", gelu(lin(w / "up", layer_norm(w / "norm2", x)))))


def transformer(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    h = lin(w / "stem", x) + w["position"][: x.shape[1]] + embedding(w / "embed", None, y)[:, None]
    for layer in w / "layers":
        h = causal_layer(layer, h)
    return lin(w / "head", layer_norm(w / "norm", h)) + w["bias"][: x.shape[1]]


def code_prior(w: Weights, before: Tensor, y: Tensor) -> Tensor:
    h = w["code"][before]
    h = torch.cat([torch.zeros_like(h[:, :1]), h[:, 1:]], dim=1) + w["place"]
    h = drop(h + embedding(w / "embed", None, y)[:, None])
    for layer in w / "layers":
        h = causal_layer(layer, h)
    return lin(w / "head", layer_norm(w / "norm", h))


# --------------------------------------------------------------------------------------------------------------- flows


def affine(params: Tensor, x: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    c = x.shape[1]
    s = bound * torch.tanh(params[:, :c] / bound)
    return x * s.exp() + params[:, c:], s


def conditioner(w: Weights, x: Tensor, cond: Tensor | None, dropped: bool = True) -> Tensor:
    h = conv(w / "stem", x)
    for block in w / "blocks":
        h = res_block(block, h, cond, dropped)
    return conv(w / "head", silu(group_norm(w / "norm", h)))


def mixing(w: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
    """W = P L (U + diag(sign exp(s)))."""
    eye = torch.eye(x.shape[1], dtype=x.dtype)
    upper = w["upper"].triu(1) + torch.diag(w["sign"] * w["log_diagonal"].exp())
    matrix = w["p"] @ (w["lower"].tril(-1) + eye) @ upper
    return torch.einsum("ij,bj...->bi...", matrix, x), torch.linalg.slogdet(matrix)[1] * x[0, 0].numel()


def coupled(net: Callable[[Tensor], Tensor], x: Tensor, kept: int, bound: float) -> tuple[Tensor, Tensor]:
    z, s = affine(net(x[:, :kept]), x[:, kept:], bound)
    return torch.cat([x[:, :kept], z], dim=1), s.flatten(1).sum(1)


def checkerboard(w: Weights, x: Tensor, cond: Tensor, parity: int, fold_by: int) -> tuple[Tensor, Tensor]:
    kept = torch.tensor([[(i + j + parity) % 2 == 0 for j in range(x.shape[3])] for i in range(x.shape[2])])
    params = unfold(conditioner(w / "net.net", fold(torch.where(kept, x, 0.0), fold_by), cond), fold_by)
    z, s = affine(params, x, 2.0)
    return torch.where(kept, x, z), torch.where(kept, 0.0, s).flatten(1).sum(1)


def made(w: Weights, x: Tensor, cond: Tensor, owner: list[int]) -> Tensor:
    """Degrees 1 ... D of inputs, spread evenly over hidden units; an output of i sees hidden degrees up to i."""
    d, width = x.shape[1], len(w["stem.bias"])
    hidden = [round(1 + (d - 2) * k / (width - 1)) for k in range(width)]

    def masked(name: str, x: Tensor, sees: Callable[[int, int], bool], into: list[int], out: list[int]) -> Tensor:
        mask = torch.tensor([[float(sees(i, j)) for i in into] for j in out], dtype=x.dtype)
        return x @ (w[f"{name}.parametrizations.weight.original"] * mask).T + w[f"{name}.bias"]

    def inner(name: str, x: Tensor) -> Tensor:
        return masked(name, x, lambda i, j: i <= j, hidden, hidden)

    h = masked("stem", x, lambda i, j: i <= j, list(range(1, d + 1)), hidden) + lin(w / "label", cond)
    for k in range(2):
        h = h + inner(f"second.{k}", drop(silu(inner(f"first.{k}", silu(h)))))
    return masked("head", silu(h), lambda i, j: i < j, hidden, [j + 1 for j in owner])


def normal(z: Tensor) -> Tensor:
    return (-0.5 * z.square() - 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)


def dequantised(w: Weights, x: Tensor, y: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Noise through mixings and couplings told of x, then u = sigmoid(1.702 v)."""
    eps = Noise("u").normal(*x.shape).double()
    context = conditioner(w / "context", fold(x, 2), embedding(w / "embed", None, y), dropped=False)
    v, log_det = fold(eps, 2), torch.zeros(len(x), dtype=x.dtype)
    for k in (1, 3):
        v, d = mixing(w / f"flow.transforms.{k}", v)
        params = conditioner(w / f"flow.transforms.{k + 1}.net.net", torch.cat([v[:, :2], context], 1), None, False)
        v, e = coupled(lambda _, params=params: params, v, 2, 2.0)
        log_det = log_det + d + e
    u = 1 / (1 + torch.exp(-1.702 * unfold(v, 2)))
    slope = torch.log(1.702 * u * (1 - u)).flatten(1).sum(1)
    return x + (u - 0.5) * 2 / levels, normal(eps) - log_det - slope


# --------------------------------------------------------------------------------------------------------------- cases


@dataclass(frozen=True)
class Case:
    """A block, what it is called with, and its formula on (weights, the same). scale: by which its weights are moved."""

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple]
    formula: Callable[..., object]
    scale: float = 0.3


def x(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


Y = torch.tensor([2, 0])
T = torch.tensor([0.13, 0.71], dtype=torch.float64)
IMAGE, SIDES = (2, 12, 10), [(2, 2), (3, 3), (6, 5)]  # of the levels at 2 x 2 pixels a channel, from the lowest
CODES = torch.tensor([[3, 1, 5, 2], [0, 6, 6, 1]])


def net() -> nn.Module:
    return coupling.ImageConditioner(2, 4, 8, 2, 5, DROP)


def resnets() -> Iterator[Case]:
    """Three levels, two blocks on each."""
    for plain in (False, True):
        sizes, of = (8, (1, 2, 2), 2, 2, 3, 0.0 if plain else DROP, plain), "plain " if plain else ""
        yield Case(
            f"{of}encoder", lambda sizes=sizes: resnet.Encoder(IMAGE, 1 if sizes[-1] else 4, *sizes),
            lambda: (x(2, *IMAGE), Y), lambda w, *a, plain=plain: encoder(w, *a, 2, plain),
        )  # fmt: skip
        yield Case(
            f"{of}decoder", lambda sizes=sizes: resnet.Decoder(4, IMAGE, 3, *sizes),
            lambda: (x(2, 4), Y), lambda w, *a, plain=plain: decoder(w, *a, 2, plain, SIDES),
        )  # fmt: skip


def row_encoder() -> nn.Module:
    return grid.RowEncoder(vectors.VectorEncoder(Space((6,), 3), 4, 8, DROP, False), 2)


def row_decoder() -> nn.Module:
    return grid.RowDecoder(vectors.VectorDecoder(Space((6,), 3), 4, 2, 8, DROP, False))


CASES = [
    Case("embedding", lambda: embed.Embedding(6, 3, times=2), lambda: (x(2, 2), Y), embedding),
    Case("residual", lambda: ResBlock(8, 16, 5, DROP), lambda: (x(2, 8, 3, 4), x(2, 5)), res_block),
    Case("residual, as wide", lambda: ResBlock(16, 16, 0, DROP), lambda: (x(2, 16, 3, 4),), res_block),
    Case("plain", lambda: resnet.PlainBlock(3, 5, 2), lambda: (x(2, 3, 3, 4),), plain_block),
    Case("mlp", lambda: mlp.MLP(6, 4, 8, 2, True, 3, DROP), lambda: (x(2, 3, 2), T, Y), perceptron),
    Case("mlp, untold", lambda: mlp.MLP(6, 4, 8, 2, False, 0, DROP), lambda: (x(2, 6),), perceptron),
    Case("plain mlp", lambda: mlp.PlainMLP(6, 4, 8, 2, 3), lambda: (x(2, 6), Y), plain_perceptron),
    Case("critic mlp", lambda: mlp.PlainMLP(6, 1, 8, 2, 3, True), lambda: (x(2, 6), Y), plain_perceptron),
    *resnets(),
    Case(
        "u-net", lambda: unet.UNet(2, 3, (8, 16, 64), 2, 3, DROP, True, emb=12), lambda: (x(2, *IMAGE), T, Y),
        lambda w, *a: u_net(w, *a, patch=2, channels=(8, 16, 64), heads=2),
    ),
    Case(
        "codes of an image", lambda: grid.GridEncoder(Space(IMAGE, 3), 3, 8, 8), lambda: (x(2, *IMAGE), Y),
        lambda w, *a: grid_encoder(w, *a, patch=2),
    ),
    Case(
        "an image of codes", lambda: grid.GridDecoder(Space(IMAGE, 3), 3, 5, 8, 8, DROP), lambda: (x(2, 4, 3), Y),
        lambda w, *a: grid_decoder(w, *a, patch=2, sides=SIDES),
    ),
    Case(
        "codes of a vector", row_encoder, lambda: (x(2, 6), Y),
        lambda w, x, y: perceptron(w / "net.net", x, None, y).reshape(2, 2, 2),
    ),
    Case(
        "a vector of codes", row_decoder, lambda: (x(2, 2, 2), Y),
        lambda w, z, y: perceptron(w / "net.net", z, None, y),
    ),
    Case("transformer", lambda: causal.CausalTransformer(3, 4, 64, 2, 5, 3, DROP), lambda: (x(2, 4, 3), Y), transformer),
    Case("code prior", lambda: CodePrior(7, 4, 8, 3, 2, DROP), lambda: (CODES, Y), code_prior),
    Case(
        "features", lambda: ladder.BottomUp(IMAGE, 8, 2, 3, DROP), lambda: (x(2, *IMAGE), Y),
        lambda w, *a: bottom_up(w, *a, patch=2),
    ),
    Case(
        "ladder", lambda: TopDown(IMAGE, 5, 8, 3, 2, 2, 3, DROP),
        lambda: (x(2, 3 * 83), Y, [x(2, 8, *s) for s in ((1, 1), *SIDES)], 4),
        lambda w, *a: top_down(w, *a, latent=3, patch=2),
    ),
    Case(
        "actnorm", lambda: linear.ActNorm(3), lambda: (x(2, 3, 2, 4),),
        lambda w, x: (x * w["log_scale"].exp().view(3, 1, 1) + w["bias"].view(3, 1, 1), 8 * w["log_scale"].sum()),
    ),
    Case("mixing", lambda: linear.Mixing(5), lambda: (x(2, 5, 2, 4),), mixing),
    Case("reversal", linear.Reverse, lambda: (x(2, 5),), lambda w, x: (x[:, [4, 3, 2, 1, 0]], x.new_zeros(()))),
    Case("conditioner", net, lambda: (x(2, 2, 3, 4), x(2, 5)), conditioner),
    Case(
        "coupling", lambda: coupling.Coupling(net(), 2, coupling.Affine(2.0)), lambda: (x(2, 4, 3, 4), x(2, 5)),
        lambda w, x, cond: coupled(lambda a: conditioner(w / "net", a, cond), x, 2, 2.0),
    ),
    Case(
        "coupling of a vector", lambda: coupling.Coupling(coupling.VectorConditioner(2, 4, 8, 5), 2, coupling.Affine(1.5)),
        lambda: (x(2, 4), x(2, 5)),
        lambda w, x, cond: coupled(lambda a: vector_net(w / "net.net", torch.cat([a, cond], 1)), x, 2, 1.5),
    ),
    *(
        Case(
            f"checkerboard {parity}",
            lambda parity=parity: coupling.Checkerboard(
                coupling.Folded(coupling.ImageConditioner(8, 16, 8, 1, 5, DROP), 2), 4, 6, parity, coupling.Affine(2.0)
            ),
            lambda: (x(2, 2, 4, 6), x(2, 5)),
            lambda w, *a, parity=parity: checkerboard(w, *a, parity, 2),
        )
        for parity in (0, 1)
    ),
    Case(
        "masked network", lambda: autoregressive.MADE(5, coupling.Affine(2.0).owner(5), 9, 2, 4, DROP),
        lambda: (x(2, 5), x(2, 4)), lambda w, x, cond: made(w, x, cond, [0, 1, 2, 3, 4] * 2),
    ),
    Case(
        "autoregressive", lambda: autoregressive.Autoregressive(
            autoregressive.MADE(5, coupling.Affine(2.0).owner(5), 9, 2, 4, DROP), coupling.Affine(2.0)
        ),
        lambda: (x(2, 5), x(2, 4)), lambda w, x, cond: autoregressed(affine(made(w / "net", x, cond, [*range(5)] * 2), x, 2.0)),
    ),
    Case("squeeze", multiscale.Squeeze, lambda: (x(2, 3, 4, 6),), lambda w, x: (fold(x, 2), x.new_zeros(()))),
    Case(
        "levels", lambda: multiscale.MultiScale(
            [Chain([multiscale.Squeeze(), linear.ActNorm(8)]), Chain([linear.ActNorm(4), linear.Reverse()])],
            [(8, 2, 3), (4, 2, 3)],
        ),
        lambda: (x(2, 2, 4, 6),), lambda w, x: two_levels(w / "levels", x),
    ),
    Case(
        "dequantisation", lambda: dequantise.Variational((1, 4, 6), 17, 3, 8, 2, 2.0),
        lambda: (x(2, 1, 4, 6), Y, Noise("u")), lambda w, x, y, noise: dequantised(w, x, y, 17), scale=0.1,
    ),
]  # fmt: skip


def vector_net(w: Weights, x: Tensor) -> Tensor:
    """The perceptron without dropout."""
    h = lin(w / "stem", x)
    for block in w / "blocks":
        h = h + lin(block / "w2", silu(lin(block / "w1", layer_norm(block / "norm", h))))
    return lin(w / "head", silu(layer_norm(w / "norm", h)))


def autoregressed(mapped: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return mapped[0], mapped[1].sum(1)


def two_levels(w: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
    (first, second), h = ((w / "0.transforms.1"), (w / "1.transforms.0")), fold(x, 2)
    h = h * first["log_scale"].exp().view(8, 1, 1) + first["bias"].view(8, 1, 1)
    rest = (h[:, 4:] * second["log_scale"].exp().view(4, 1, 1) + second["bias"].view(4, 1, 1)).flip(1)
    log_det = 6 * (first["log_scale"].sum() + second["log_scale"].sum())
    return torch.cat([h[:, :4].flatten(1), rest.flatten(1)], 1), log_det


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_block_is_its_formula(case, monkeypatch):
    monkeypatch.setattr(nn.Dropout, "forward", lambda layer, x: (1 + layer.p) * x)
    torch.manual_seed(1)
    block = shake(case.make(), case.scale).double()
    inputs = case.inputs()
    weights = Weights({name: tensor.detach() for name, tensor in block.state_dict().items()})
    with torch.no_grad():
        ours, formula = tree_leaves(block(*inputs)), tree_leaves(case.formula(weights, *inputs))
    for one, other in zip(ours, formula, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
        assert one.abs().max() > 1e-2 or one.dim() == 0
