"""Normalizing flows: invertible networks that carry data to simple noise, so that the likelihood is exact.

Model.      z = f(x) with f a composition of invertible steps; z has independent coordinates of density p_0: normal, on
            images Student's t. The recipes compose f of the parts in `paradigms/flows`:
              realnvp               couplings with alternating masks (checkerboards, then channels), affine:
                                    x_b -> x_b exp(s(x_a)) + m(x_a)               (Dinh et al., section 3.2)
              glow                  (actnorm, invertible 1x1 mixing, affine coupling), K times a level
              neural-spline-flow    (actnorm, mixing, rational-quadratic spline coupling), K times a level
              maf                   x_i -> x_i exp(s_i) + m_i with (s_i, m_i) of x_1 ... x_{i-1}, by masked networks
            The row `normalizing-flow` is the neural spline flow, which did better than Glow (`docs/notes.md`).
            On images the first three stand in levels: 2x2 pixels are folded into channels, and after each level half of
            the channels is split off to the noise. maf reads images as vectors.

Objective.  Maximum likelihood by the change of variables (Dinh et al., eq. 2-3):
                log p(x) = log p_0(f(x)) + log |det df/dx|,
            on pixels at a random point of their bin. Every step's Jacobian is triangular or a small matrix, so the
            determinant is a sum of what the steps put out.

Sampling.   x = f^{-1}(T z), z ~ p_0, T the temperature: one pass for couplings; for maf one pass for each coordinate.

Likelihood. Exact for the density. On pixels, with q(u | x) uniform or learned (Ho et al., section 3.1):
                log P(x) >= E_q [log p(x + u) - log q(u | x)],
            from one draw ("exact"), or from the mean of K importance weights ("dequantised-iwae"), a tighter bound.

References
    L. Dinh, J. Sohl-Dickstein, S. Bengio. Density estimation using Real NVP. ICLR 2017. arXiv:1605.08803
    D. Kingma, P. Dhariwal. Glow: Generative Flow with Invertible 1x1 Convolutions. NeurIPS 2018. arXiv:1807.03039
    C. Durkan, A. Bekasov, I. Murray, G. Papamakarios. Neural Spline Flows. NeurIPS 2019. arXiv:1906.04032
    G. Papamakarios, T. Pavlakou, I. Murray. Masked Autoregressive Flow. NeurIPS 2017. arXiv:1705.07057
    J. Ho et al. Flow++. ICML 2019. arXiv:1902.00275 (variational dequantisation)
    L. Theis, A. van den Oord, M. Bethge. A note on the evaluation of generative models. ICLR 2016. arXiv:1511.01844
    S. Alexanderson, G. Henter. Robust model training and generalisation with Studentising flows. 2020. arXiv:2006.06599
    Y. Burda, R. Grosse, R. Salakhutdinov. Importance Weighted Autoencoders. ICLR 2016. arXiv:1509.00519

Where this differs from the papers
    - On images the noise is Student's t with 4 degrees of freedom in each coordinate: a normal gives too little density to
      held-out pixels that are far from all training pixels.
    - The affine scale is exp(c tanh(s / c)), bounded so that no coupling stretches by more than e^c; Glow's is a sigmoid.
    - The couplings' networks are the suite's residual blocks, with dropout: small sets are memorised otherwise.
    - Real NVP's checkerboard networks see the larger images with 2x2 pixels folded into channels: half of the cost.
    - Real NVP and MAF normalise by actnorm, which needs no running statistics, in place of batch normalisation.
    - maf reads an image as a vector and overfits a small set, so its weight decay on images is ten times that of the others.
      `docs/notes.md` has the measurements behind this and the choice of Student's t.
    - The 1x1 mixing is P L U with P fixed, started at a random rotation (Kingma & Dhariwal, section 3.2); Glow's learned
      density of what a split hands over is left out, since one more coupling does the same.
    - The spline couplings leave the kept half as it is; their parameters at zero are the identity.
    - Flow++ mixes logistics and attends; here only its dequantisation is taken, with affine couplings.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from paradigms import optim
from paradigms.backbones import Backbone
from paradigms.backbones.embed import Embedding
from paradigms.contract import Frozen, Paradigm, Update
from paradigms.core.data import Batch, Data, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Card, Estimate, Kind, Plan, Sampler
from paradigms.core.settings import Settings, require, setting
from paradigms.flows import Chain, Transform
from paradigms.flows.autoregressive import MADE, Autoregressive
from paradigms.flows.base import Base, Normal, Student
from paradigms.flows.coupling import (
    Affine,
    Checkerboard,
    Coupling,
    Elementwise,
    Folded,
    ImageConditioner,
    Spline,
    VectorConditioner,
)
from paradigms.flows.dequantise import Dequantiser, Uniform, Variational
from paradigms.flows.linear import ActNorm, Mixing, Reverse
from paradigms.flows.multiscale import Flatten, MultiScale, Squeeze
from paradigms.maths.likelihood import log_mass
from paradigms.optim import cosine
from paradigms.recipe import Recipe

LIKELIHOODS = (
    Kind("exact", "=", 1, dequantised=True, note="on pixels one dequantisation draw"),
    Kind(
        "dequantised-iwae",
        "≤",
        16,
        (("K", 16),),
        ranges={"K": (1, 100_000)},
        note="K dequantisation draws, Burda et al.",
        levels_only=True,
    ),
)
INVERSE = Sampler("inverse", (1,), options={"temperature": 1.0}, ranges={"temperature": (0.0, 2.0)})


class Flow(Backbone):
    """forward(x, y) -> (z (B, D), log |det| (B,)); forward(z, y, inverse=True) -> (x, 0). One network call."""

    def __init__(self, body: Transform, shape: tuple[int, ...], embed: Embedding) -> None:
        super().__init__()
        self.body, self.shape, self.embed = body, shape, embed

    def forward(self, x: Tensor, y: Tensor | None = None, inverse: bool = False) -> tuple[Tensor, Tensor]:
        if inverse:
            return self.inverse(x, y), x.new_zeros(len(x))
        z, log_det = self.body(x, self.embed(None, y))
        return z.flatten(1), log_det.expand(len(x))

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.body.inverse(z, self.embed(None, y)).view(-1, *self.shape)

    @torch.no_grad()
    def initialise(self, x: Tensor, y: Tensor | None) -> None:
        """Data-dependent initialisation of every ActNorm, in order, on one batch."""
        norms = [m for m in self.modules() if isinstance(m, ActNorm)]
        hooks = [m.register_forward_pre_hook(lambda norm, args: norm.initialise(args[0])) for m in norms]
        self(x, y)
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True)
class Shared(Settings):
    """The settings of every flow."""

    steps: int = setting(8, least=1, says="invertible steps (a level, on images)")
    blocks: int = setting(1, least=0, says="residual blocks in a step's network")
    bound: float = setting(2.0, above=0, says="c of an affine map's scale exp(c tanh(s / c))")
    nu: int = setting(
        4,
        least=0,
        says="degrees of freedom, an even number, of the t-distributed noise of images; 0: normal, as on vectors",
    )
    batch: int = optim.batch(128)
    lr: float = optim.lr(2e-3)
    dropout: float = optim.dropout(0.4, "of features (images only)")
    weight_decay: float = optim.weight_decay(0.5, "of the networks' weights")
    clip: float = optim.clip(1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.nu % 2 == 0, "nu must be an even number")


class NormalizingFlow(Paradigm):
    """What all flows share. A recipe says how its flow is composed, and may dequantise in its own way."""

    fp32 = "in bfloat16 a flow is no longer inverted by its inverse, and the gradient of a spline is 60 % off"

    def __init__(self, config: Any, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.flow = self.compose(config, space, width)
        self.dequantiser = self.dequantise_by(config, space, width)
        self.base: Base = Student(config.nu) if space.is_image and config.nu else Normal()

    @staticmethod
    @abstractmethod
    def compose(config: Any, space: Space, width: int) -> Flow:
        """The flow from data (B, *shape) to noise (B, D)."""

    @staticmethod
    def dequantise_by(config: Any, space: Space, width: int) -> Dequantiser:
        """Uniformly, unless a recipe says otherwise."""
        return Uniform(space.levels)

    @staticmethod
    def refuses(config: Any, space: Space) -> str | None:
        if space.is_image and any(side % 2 or side < 4 for side in space.shape[1:]):
            h, w = space.shape[1:]
            return f"a multi-scale flow folds 2x2 pixels into channels: both sides must be even and at least 4, not {h}x{w}"
        if not space.is_image and space.dim < 2:
            return "a coupling needs at least two coordinates"
        return None

    @property
    def decay(self) -> float:
        """Of the networks' weights."""
        return float(self.config.weight_decay)

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        """Weight decay is for the networks' weights alone: scales and mixings have no reason to be small."""
        linear = {p for m in self.modules() if isinstance(m, (ActNorm, Mixing)) for p in m.parameters()}
        decayed = [p for p in self.parameters() if p.dim() > 1 and p not in linear]
        kept = [p for p in self.parameters() if p.dim() <= 1 or p in linear]
        groups = [{"params": decayed, "weight_decay": self.decay}, {"params": kept, "weight_decay": 0.0}]
        return {self: torch.optim.AdamW(groups, lr=self.config.lr, betas=(0.9, 0.99), fused=True)}

    def prepare(self, data: Data, noise: Noise) -> Data:
        index = noise.integers(len(data), 512).to(data.x.device)
        x, y = data.batch(index)
        self.flow.initialise(self.dequantiser(x, y, noise)[0], y)
        return data

    def log_density(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """log p(x) of real-valued x, (B,)."""
        z, log_det = self.flow(x, y)
        return self.base.log_prob(z) + log_det

    def bound(self, x: Tensor, y: Tensor | None, noise: Noise) -> Tensor:
        """log p(x + u) - log q(u | x) at one draw of u, (B,)."""
        point, log_q = self.dequantiser(x, y, noise)
        return self.log_density(point, y) - log_q

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        loss = -self.bound(batch.x, batch.y, noise).mean() / self.space.dim
        yield Update(self, loss, {"loss": loss}, {"lr": self.config.lr * cosine(progress)}, clip=self.config.clip)

    def prior(self, n: int, noise: Noise) -> Tensor:
        return self.base.draw(n, self.space.dim, noise)

    def sample(
        self,
        z: Tensor,
        plan: Plan,
        noise: Noise,
        cond: Tensor | None = None,
        watch: Callable[[float, Tensor], None] | None = None,
    ) -> Tensor:
        return self.invert(z * plan.option("temperature", 1.0), cond)

    def invert(self, z: Tensor, y: Tensor | None) -> Tensor:
        """f^{-1}(z), as one network call."""
        return self.flow(z, y, inverse=True)[0]

    def log_likelihood(self, x: Tensor, kind: Kind, noise: Noise, cond: Tensor | None = None) -> Estimate:
        if kind.name == "exact":
            return Estimate(log_mass(self.bound(x, cond, noise), self.space))
        k = int(kind.option("K", 16))
        weights = torch.stack([self.bound(x, cond, noise) for _ in range(k)])
        return Estimate(log_mass(weights.logsumexp(0) - math.log(k), self.space))


# ---------------------------------------------------------------------------------------------- couplings in levels


def conditioner(config: Shared, space: Space, cin: int, cout: int, width: int) -> nn.Module:
    """The network of a coupling: cin channels or coordinates in, cout out, told the label's embedding."""
    emb = 2 * width if space.classes else 0
    if space.is_image:
        return ImageConditioner(cin, cout, width, config.blocks, emb, config.dropout)
    return VectorConditioner(cin, cout, width, emb)


def label_embedding(space: Space, width: int) -> Embedding:
    return Embedding(2 * width, space.classes, timed=False)


def mixed_couplings(config: Shared, space: Space, width: int, by: Elementwise) -> Flow:
    """Glow's architecture (Kingma & Dhariwal, figure 2) with couplings by any elementwise map.

    A level is a squeeze and `steps` times (actnorm, mixing, coupling); levels follow while both sides are even and the
    smaller is above 2. Vectors have one level and nothing to squeeze.
    """

    def level(channels: int) -> list[Transform]:
        kept = channels // 2
        transforms: list[Transform] = []
        for _ in range(config.steps):
            net = conditioner(config, space, kept, by.size * (channels - kept), width)
            transforms += [ActNorm(channels), Mixing(channels), Coupling(net, kept, by)]
        return transforms

    embed = label_embedding(space, width)
    if not space.is_image:
        return Flow(Chain(level(space.dim)), space.shape, embed)
    c, h, w = space.shape
    levels, shapes = [], []
    while h % 2 == 0 and w % 2 == 0 and min(h, w) > 2:
        c, h, w = 4 * c, h // 2, w // 2
        levels.append(Chain([Squeeze(), *level(c)]))
        shapes.append((c, h, w))
        c = c - c // 2  # what goes on after the split
    return Flow(MultiScale(levels, shapes), space.shape, embed)


@dataclass(frozen=True)
class GlowConfig(Shared):
    """The settings of every flow and no others."""


class Glow(NormalizingFlow):
    """Actnorm, invertible 1x1 convolution, affine coupling."""

    card = Card(
        title="Glow (affine couplings, invertible 1x1 convolutions, multi-scale)",
        paper="Kingma & Dhariwal, Glow: Generative Flow with Invertible 1x1 Convolutions",
        year=2018,
        url="https://arxiv.org/abs/1807.03039",
        samplers=(INVERSE,),
        default=Plan("inverse"),
        likelihoods=LIKELIHOODS,
    )

    @staticmethod
    def compose(config: GlowConfig, space: Space, width: int) -> Flow:
        return mixed_couplings(config, space, width, Affine(config.bound))


@dataclass(frozen=True)
class VariationalConfig(Shared):
    dequantise_steps: int = setting(4, least=1, says="couplings of q(u | x)")


class VariationalGlow(NormalizingFlow):
    """Glow with a learned dequantisation; on real-valued data it is Glow."""

    card = Card(
        title="Glow with variational dequantisation",
        paper="Ho et al., Flow++: Improving Flow-Based Generative Models with Variational Dequantization",
        year=2019,
        url="https://arxiv.org/abs/1902.00275",
        samplers=(INVERSE,),
        default=Plan("inverse"),
        likelihoods=LIKELIHOODS,
    )

    @staticmethod
    def compose(config: VariationalConfig, space: Space, width: int) -> Flow:
        return mixed_couplings(config, space, width, Affine(config.bound))

    @staticmethod
    def dequantise_by(config: VariationalConfig, space: Space, width: int) -> Dequantiser:
        if not (space.levels and space.is_image):
            return Uniform(space.levels)
        return Variational(space.shape, space.levels, space.classes, width, config.dequantise_steps, config.bound)


@dataclass(frozen=True)
class SplineConfig(Shared):
    bound: float = setting(3.0, above=0, says="a spline's interval is [-bound, bound]")
    bins: int = setting(4, least=2, most=500, says="of each spline")


class NeuralSplineFlow(NormalizingFlow):
    """Glow's architecture with rational-quadratic spline couplings: RQ-NSF (C)."""

    card = Card(
        title="Neural spline flow (rational-quadratic couplings, multi-scale)",
        paper="Durkan et al., Neural Spline Flows",
        year=2019,
        url="https://arxiv.org/abs/1906.04032",
        samplers=(INVERSE,),
        default=Plan("inverse"),
        likelihoods=LIKELIHOODS,
    )

    @staticmethod
    def compose(config: SplineConfig, space: Space, width: int) -> Flow:
        return mixed_couplings(config, space, width, Spline(config.bins, config.bound))


@dataclass(frozen=True)
class RealNVPConfig(Shared):
    steps: int = setting(3, least=1, says="couplings with one kind of mask, before the next kind")


class RealNVP(NormalizingFlow):
    """Affine couplings whose masks alternate: three checkerboards, a squeeze, three by channels, a split; four at the end."""

    card = Card(
        title="Real NVP (affine couplings, checkerboard and channel masks, multi-scale)",
        paper="Dinh et al., Density estimation using Real NVP",
        year=2017,
        url="https://arxiv.org/abs/1605.08803",
        samplers=(INVERSE,),
        default=Plan("inverse"),
        likelihoods=LIKELIHOODS,
    )

    @staticmethod
    def compose(config: RealNVPConfig, space: Space, width: int) -> Flow:
        by = Affine(config.bound)

        def halves(c: int, count: int) -> list[Transform]:
            kept, transforms = c // 2, []
            for _ in range(count):
                net = conditioner(config, space, kept, by.size * (c - kept), width)
                transforms += [ActNorm(c), Coupling(net, kept, by), Reverse()]
            return transforms

        def boards(c: int, h: int, w: int, count: int) -> list[Transform]:
            transforms = []
            fold = 2 if h % 2 == 0 and w % 2 == 0 and min(h, w) > 4 else 1  # as the suite's U-Net does at full size
            for parity in range(count):
                net = Folded(conditioner(config, space, fold**2 * c, fold**2 * by.size * c, width), fold)
                transforms += [ActNorm(c), Checkerboard(net, h, w, parity, by)]
            return transforms

        embed, steps = label_embedding(space, width), config.steps
        if not space.is_image:  # as many couplings as an image of two levels has
            return Flow(Chain(halves(space.dim, 3 * steps + 1)), space.shape, embed)
        c, h, w = space.shape
        levels, shapes = [], []
        while h % 2 == 0 and w % 2 == 0 and min(h, w) > 4:
            before = boards(c, h, w, steps)
            c, h, w = 4 * c, h // 2, w // 2
            levels.append(Chain([*before, Squeeze(), *halves(c, steps)]))
            shapes.append((c, h, w))
            c = c - c // 2
        levels.append(Chain(boards(c, h, w, steps + 1)))
        shapes.append((c, h, w))
        return Flow(MultiScale(levels, shapes), space.shape, embed)


# ------------------------------------------------------------------------------------------------- autoregressive

LARGEST = 256  # coordinates: each is a pass when sampling


@dataclass(frozen=True)
class MAFConfig(Shared):
    steps: int = setting(5, least=1, says="autoregressive layers")
    image_decay: float = optim.weight_decay(5.0, "on images, in place of weight_decay")


class MaskedAutoregressiveFlow(NormalizingFlow):
    """A chain of MADEs, each reading the coordinates in the reverse order of the one before."""

    card = Card(
        title="Masked autoregressive flow",
        paper="Papamakarios et al., Masked Autoregressive Flow for Density Estimation",
        year=2017,
        url="https://arxiv.org/abs/1705.07057",
        samplers=(
            replace(
                INVERSE, calls=None, note="coordinate by coordinate: D passes of each MADE, each counted as a call"
            ),
        ),
        default=Plan("inverse"),
        likelihoods=LIKELIHOODS,
    )

    @staticmethod
    def refuses(config: MAFConfig, space: Space) -> str | None:
        if space.dim > LARGEST:
            return f"a sample costs one pass for each of its {space.dim:,} numbers; at most {LARGEST} are taken"
        if space.dim < 2:
            return "an autoregressive flow needs at least two coordinates"
        return None

    @staticmethod
    def compose(config: MAFConfig, space: Space, width: int) -> Flow:
        by, d = Affine(config.bound), space.dim
        emb = 2 * width if space.classes else 0
        dropout = config.dropout if space.is_image else 0.0
        transforms: list[Transform] = [Flatten()]
        for _ in range(config.steps):
            net = MADE(d, by.owner(d), width, config.blocks, emb, dropout)
            transforms += [ActNorm(d), Autoregressive(net, by), Reverse()]
        return Flow(Chain(transforms), space.shape, label_embedding(space, width))

    @property
    def decay(self) -> float:
        return self.config.image_decay if self.space.is_image else self.config.weight_decay

    def invert(self, z: Tensor, y: Tensor | None) -> Tensor:
        """f^{-1}(z), every pass of a MADE a network call."""
        return self.flow.inverse(z, y)


RECIPES = (
    Recipe(
        "normalizing-flow",
        NeuralSplineFlow,
        SplineConfig(),
        "neural spline flow: Glow's steps with rational-quadratic couplings; exact likelihood and inverse",
        aliases=("neural-spline-flow",),
    ),
    Recipe(
        "glow",
        Glow,
        GlowConfig(),
        "actnorm, invertible 1x1 convolutions and affine couplings, multi-scale",
        variant_of="normalizing-flow",
    ),
    Recipe(
        "glow-variational",
        VariationalGlow,
        VariationalConfig(),
        "Glow with a learned dequantisation",
        variant_of="normalizing-flow",
    ),
    Recipe(
        "realnvp",
        RealNVP,
        RealNVPConfig(),
        "affine couplings with checkerboard and channel masks, multi-scale",
        variant_of="normalizing-flow",
    ),
    Recipe(
        "maf",
        MaskedAutoregressiveFlow,
        MAFConfig(),
        "masked autoregressive layers; one pass for a likelihood, one for each coordinate of a sample",
        variant_of="normalizing-flow",
    ),
)
