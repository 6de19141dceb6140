"""Normalizing flow: an invertible network that carries data to a Gaussian, so that the likelihood is exact.

Model.      z = f(x) with f a composition of steps, each a (data-initialised) scaling of the channels, an invertible 1x1
            mixing of the channels, and an affine coupling: one half of the channels, x_a, decides a scale and a shift of
            the other, x_b -> (x_b + m(x_a)) exp(s(x_a)). On images the steps stand in levels: pixels are folded into
            channels, and after each level half of the channels is split off to the Gaussian.

Objective.  Maximum likelihood by the change of variables (Dinh et al. 2017, eq. 2-3):
                log p(x) = log N(f(x); 0, I) + log |det df/dx|,
            on uniformly dequantised pixels. Every step's Jacobian is triangular or a small matrix, so the determinant
            is a sum of what the steps put out.

Sampling.   x = f^{-1}(z), z ~ N(0, I): one pass, and exact up to rounding.

Likelihood. Exact for the density; on pixels E_u log p(x + u) bounds the log mass from below (Theis et al. 2016).

References
    L. Dinh, J. Sohl-Dickstein, S. Bengio. Density estimation using Real NVP. ICLR 2017. arXiv:1605.08803
    D. Kingma, P. Dhariwal. Glow: Generative Flow with Invertible 1x1 Convolutions. NeurIPS 2018. arXiv:1807.03039

Where this differs from the papers
    - The scale is exp(c tanh(s / c)), bounded so that no coupling stretches by more than e^c.
    - The couplings' networks are the suite's residual blocks, with dropout: small sets are memorised otherwise.
    - The 1x1 mixing is L U with a fixed permutation, started at a random rotation (Kingma & Dhariwal, section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from paradigms.backbones import Backbone
from paradigms.backbones.blocks import ResBlock, groups, zero
from paradigms.backbones.embed import Embedding
from paradigms.backbones.mlp import MLP
from paradigms.contract import (
    Batch,
    Card,
    Data,
    Estimate,
    Frozen,
    Kind,
    Noise,
    Paradigm,
    Plan,
    Recipe,
    Sampler,
    Space,
    Update,
    require,
)
from paradigms.maths.likelihood import dequantise, log_mass, standard_normal_log_prob
from paradigms.optim import adamw, check_training, cosine


@dataclass(frozen=True)
class Config:
    """steps: couplings a level. blocks: residual blocks in a coupling's network. bound: c of the scale's bound.

    batch, lr, dropout (images only), weight_decay, clip: training; dropout and weight decay are what keeps a flow from
    memorising a small set of images.
    """

    steps: int = 8
    blocks: int = 1
    bound: float = 2.0
    batch: int = 64
    lr: float = 2e-3
    dropout: float = 0.2
    weight_decay: float = 0.05
    clip: float = 10.0

    def __post_init__(self) -> None:
        check_training(self)
        require(self.steps >= 1, "steps must be at least 1")
        require(self.blocks >= 0, "blocks must be at least 0")
        require(self.bound > 0, "bound must be above 0")


class ActNorm(nn.Module):
    """(x + b) exp(s) for each channel, with zero mean and unit variance on the first batch it is shown in `prepare`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias, self.log_scale = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        flat = x.transpose(0, 1).flatten(1)
        self.bias.copy_(-flat.mean(1))
        self.log_scale.copy_(-(flat.std(1) + 1e-3).log())

    def forward(self, x: Tensor, emb: Tensor | None) -> tuple[Tensor, Tensor]:
        shape = (-1, *(1,) * (x.dim() - 2))
        positions = x[0, 0].numel()
        return (x + self.bias.view(shape)) * self.log_scale.exp().view(shape), self.log_scale.sum() * positions

    def inverse(self, z: Tensor, emb: Tensor | None) -> Tensor:
        shape = (-1, *(1,) * (z.dim() - 2))
        return z * (-self.log_scale).exp().view(shape) - self.bias.view(shape)


class Mixing(nn.Module):
    """An invertible linear map of the channels, W = P L (U + diag(exp(s) sign)); log|det W| = sum s."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # Drawn from a private generator: two recipes that differ elsewhere start from the same rotation.
        rotation, _ = torch.linalg.qr(
            torch.randn(channels, channels, generator=torch.Generator().manual_seed(channels))
        )
        p, lower, upper = torch.linalg.lu(rotation)
        self.register_buffer("p", p)
        self.register_buffer("sign", upper.diagonal().sign())
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))
        self.log_diagonal = nn.Parameter(upper.diagonal().abs().log())

    p: Tensor
    sign: Tensor

    def factors(self) -> tuple[Tensor, Tensor]:
        eye = torch.eye(len(self.sign), device=self.sign.device, dtype=self.sign.dtype)
        return self.lower.tril(-1) + eye, self.upper.triu(1) + torch.diag(self.log_diagonal.exp() * self.sign)

    def forward(self, x: Tensor, emb: Tensor | None) -> tuple[Tensor, Tensor]:
        lower, upper = self.factors()
        z = torch.einsum("ij,bj...->bi...", self.p @ lower @ upper, x)
        return z, self.log_diagonal.sum() * x[0, 0].numel()

    def inverse(self, z: Tensor, emb: Tensor | None) -> Tensor:
        lower, upper = self.factors()
        flat = (self.p.T @ z.transpose(0, 1).flatten(1)).contiguous()
        flat = torch.linalg.solve_triangular(lower, flat, upper=False, unitriangular=True)
        flat = torch.linalg.solve_triangular(upper, flat, upper=True)
        return flat.view(z.shape[1], len(z), *z.shape[2:]).transpose(0, 1)


class Conditioner(nn.Module):
    """The network of an image coupling: (B, cin, H, W) -> (B, cout, H, W), zero at the start."""

    def __init__(self, cin: int, cout: int, width: int, blocks: int, emb: int, dropout: float) -> None:
        super().__init__()
        self.stem = nn.Conv2d(cin, width, 3, padding=1)
        self.blocks = nn.ModuleList(ResBlock(width, width, emb, dropout) for _ in range(blocks))
        self.norm = nn.GroupNorm(groups(width), width)
        self.head = zero(nn.Conv2d(width, cout, 3, padding=1))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, emb: Tensor | None) -> Tensor:
        h = self.stem(x)
        for block in self.blocks:
            h = block(h, emb)
        return self.head(F.silu(self.norm(h)))


class Coupling(nn.Module):
    """(x_a, x_b) -> (x_a, (x_b + m(x_a)) exp(s(x_a))), with |s| <= bound."""

    def __init__(self, net: nn.Module, kept: int, bound: float) -> None:
        super().__init__()
        self.net, self.kept, self.bound = net, kept, bound

    def scale_shift(self, a: Tensor, emb: Tensor | None) -> tuple[Tensor, Tensor]:
        s, m = self.net(a, emb).chunk(2, dim=1)
        return self.bound * torch.tanh(s / self.bound), m

    def forward(self, x: Tensor, emb: Tensor | None) -> tuple[Tensor, Tensor]:
        a, b = x[:, : self.kept], x[:, self.kept :]
        s, m = self.scale_shift(a, emb)
        return torch.cat([a, (b + m) * s.exp()], dim=1), s.flatten(1).sum(1)

    def inverse(self, z: Tensor, emb: Tensor | None) -> Tensor:
        a, b = z[:, : self.kept], z[:, self.kept :]
        s, m = self.scale_shift(a, emb)
        return torch.cat([a, b * (-s).exp() - m], dim=1)


class VectorConditioner(nn.Module):
    """The network of a vector coupling: the suite's MLP, with the label's embedding as one more input."""

    def __init__(self, cin: int, cout: int, width: int, emb: int) -> None:
        super().__init__()
        self.net = MLP(cin + emb, cout, width, depth=2, timed=False)

    def forward(self, x: Tensor, emb: Tensor | None) -> Tensor:
        return self.net(x if emb is None else torch.cat([x, emb], dim=1))


class Flow(Backbone):
    """All levels: forward(x, y) -> (z (B, D), log |det| (B,)); forward(z, y, inverse=True) -> (x, 0). One network call."""

    def __init__(self, config: Config, space: Space, width: int) -> None:
        super().__init__()
        self.shape = space.shape
        self.embed = Embedding(2 * width, space.classes, timed=False)
        emb = 2 * width if space.classes else 0
        self.levels = nn.ModuleList()
        self.shapes: list[tuple[int, ...]] = []  # of what each level puts out, before its split

        def level(channels: int) -> nn.ModuleList:
            kept = channels // 2
            cout = 2 * (channels - kept)
            steps: list[nn.Module] = []
            for _ in range(config.steps):
                net: nn.Module
                if space.is_image:
                    net = Conditioner(kept, cout, width, config.blocks, emb, config.dropout)
                else:
                    net = VectorConditioner(kept, cout, width, emb)
                steps += [ActNorm(channels), Mixing(channels), Coupling(net, kept, config.bound)]
            return nn.ModuleList(steps)

        if not space.is_image:
            self.levels.append(level(space.dim))
            self.shapes.append(space.shape)
            return
        c, h, w = space.shape
        while h % 2 == 0 and w % 2 == 0 and min(h, w) > 2:
            c, h, w = 4 * c, h // 2, w // 2
            self.levels.append(level(c))
            self.shapes.append((c, h, w))
            c = c - c // 2  # what stays after half is split off

    def forward(self, x: Tensor, y: Tensor | None = None, inverse: bool = False) -> tuple[Tensor, Tensor]:
        emb = self.embed(None, y)
        return self._inverse(x, emb) if inverse else self._forward(x, emb)

    def _forward(self, x: Tensor, emb: Tensor | None, initialise: bool = False) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(len(x))
        out = []
        for i, (level, shape) in enumerate(zip(self.levels, self.shapes)):
            if len(shape) == 3:
                x = F.pixel_unshuffle(x, 2)
            for step in level:  # type: ignore[attr-defined]
                if initialise and isinstance(step, ActNorm):
                    step.initialise(x)
                x, d = step(x, emb)
                log_det = log_det + d
            if i < len(self.levels) - 1:
                half = shape[0] // 2
                out.append(x[:, :half].flatten(1))
                x = x[:, half:]
        return torch.cat([*out, x.flatten(1)], dim=1), log_det

    def _inverse(self, z: Tensor, emb: Tensor | None) -> tuple[Tensor, Tensor]:
        parts, used = [], 0
        for shape in self.shapes[:-1]:
            size = shape[0] // 2 * math.prod(shape[1:])
            parts.append(z[:, used : used + size].view(-1, shape[0] // 2, *shape[1:]))
            used += size
        x = z[:, used:].view(-1, *self.shapes[-1])
        for i in reversed(range(len(self.levels))):
            if i < len(self.levels) - 1:
                x = torch.cat([parts[i], x], dim=1)
            for step in reversed(list(self.levels[i])):  # type: ignore[call-overload]
                x = step.inverse(x, emb)
            if len(self.shapes[i]) == 3:
                x = F.pixel_shuffle(x, 2)
        return x, z.new_zeros(len(z))

    @torch.no_grad()
    def initialise(self, x: Tensor, y: Tensor | None) -> None:
        """Data-dependent initialisation of every ActNorm, in order, on one batch."""
        self._forward(x, self.embed(None, y), initialise=True)


class NormalizingFlow(Paradigm):
    """See the module's text."""

    card = Card(
        title="Normalizing flow (affine coupling, multi-scale)",
        paper="Dinh et al., Real NVP; Kingma & Dhariwal, Glow",
        year=2018,
        url="https://arxiv.org/abs/1807.03039",
        samplers=(Sampler("inverse", (1,)),),
        default=Plan("inverse"),
        likelihoods=(Kind("exact", "=", 1, dequantised=True, note="on pixels one uniform dequantisation draw"),),
    )

    def __init__(self, config: Config, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.flow = Flow(config, space, width)

    @staticmethod
    def refuses(config: Config, space: Space) -> str | None:
        if space.is_image and any(side % 2 or side < 4 for side in space.shape[1:]):
            return f"a multi-scale flow folds 2x2 pixels into channels; {space.shape[1]}x{space.shape[2]} is odd or too small"
        if not space.is_image and space.dim < 2:
            return "a coupling needs at least two coordinates"
        return None

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        return {self.flow: adamw(self.flow, self.config.lr, weight_decay=self.config.weight_decay)}

    def prepare(self, data: Data, noise: Noise) -> Data:
        index = noise.integers(len(data), 512).to(data.x.device)
        x, y = data.batch(index)
        self.flow.initialise(dequantise(x, self.space.levels, noise), y)
        return data

    def log_density(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """log p(x) of real-valued x, (B,)."""
        z, log_det = self.flow(x, y)
        return standard_normal_log_prob(z) + log_det

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        x = dequantise(batch.x, self.space.levels, noise)
        loss = -self.log_density(x, batch.y).mean() / self.space.dim
        yield Update(self.flow, loss, {"loss": loss}, {"lr": self.config.lr * cosine(progress)}, clip=self.config.clip)

    def prior(self, n: int, noise: Noise) -> Tensor:
        return noise.normal(n, self.space.dim)

    def sample(
        self,
        z: Tensor,
        plan: Plan,
        noise: Noise,
        cond: Tensor | None = None,
        watch: Callable[[float, Tensor], None] | None = None,
    ) -> Tensor:
        return self.flow(z, cond, inverse=True)[0]

    def log_likelihood(self, x: Tensor, kind: Kind, noise: Noise, cond: Tensor | None = None) -> Estimate:
        return Estimate(log_mass(self.log_density(dequantise(x, self.space.levels, noise), cond), self.space))


RECIPES = (
    Recipe("normalizing-flow", NormalizingFlow, Config(), "multi-scale affine couplings; exact likelihood and inverse"),
)
