"""TarFlow: a normalizing flow of causal transformers, each of which moves a token by what the tokens before it say.

Model.      An image is cut into patches, a sequence of T tokens x_1 ... x_T (a vector into its coordinates). A block is
            a masked autoregressive flow (Papamakarios et al. 2017): a causal transformer reads the tokens before t and
            gives a shift mu and a log-scale alpha for every number of token t,
                z_t = (x_t - mu(x_<t)) exp(-alpha(x_<t)).
            Blocks are stacked, every second one reads the tokens from last to first: what a block leaves alone, the
            next one can change.

Objective.  Maximum likelihood by the change of variables. A block's Jacobian is triangular in its order, with exp(-alpha)
            on the diagonal, so all of it comes from one parallel pass:
                -log p(x) = 1/2 ||z||^2 + D/2 log(2 pi) + sum over blocks and tokens of alpha,
            on uniformly dequantised pixels (`tarflow`), or on pixels with Gaussian noise (`tarflow-denoised`).

Sampling.   The inverse of a block is sequential, x_t = z_t exp(alpha(x_<t)) + mu(x_<t): T small steps for each block, one
            token each, with the keys and values of the past kept in a cache. Each of them is a network call in the
            tables, and each reads one token where a training pass reads T. Rounding adds up along the tokens: in float32
            99 of 100 digits come back from a trained flow within 1e-5, the worst within 3e-5 (from couplings: all within
            1e-5). A model of noisy pixels y = x + sigma eps then takes the noise off by Tweedie's formula,
            E[x | y] = y + sigma^2 grad log p(y): one pass forward and back.

Likelihood. Exact for the density; on pixels E_u log p(x + u) bounds the log mass from below (Theis et al. 2016). The
            density of the noisy model is one of noisy pixels: it is no likelihood of the data.

References
    S. Zhai, R. Zhang, P. Nakkiran, D. Berthelot, J. Gu, H. Zheng, T. Chen, M. Bautista, N. Jaitly, J. Susskind.
        Normalizing Flows are Capable Generative Models. ICML 2025. arXiv:2412.06329
    G. Papamakarios, T. Pavlakou, I. Murray. Masked Autoregressive Flow for Density Estimation. NeurIPS 2017.
        arXiv:1705.07057

Where this differs from the paper
    - The first token of a block is not passed unchanged: the transformer reads a start token (zeros, and the label), so
      that mu_1 and alpha_1 are learned constants of each class.
    - Every position of a block has constants mu and alpha of its own beside the network's. Those of the first block are
      set on the data before training (as Glow's ActNorm): a run starts at independent Gaussians, not at the identity.
      Positional embeddings start as large as the tokens'. Both matter when training is short.
    - A LayerNorm stands between a transformer's last layer and its outputs, as in GPT-2; theirs has none there. It adds
      2 width parameters a block.
    - The headline draws from the model whose likelihood is reported, uniformly dequantised, and not from the noisy one.
    - Dropout and weight decay: small sets are memorised otherwise. No guidance. Vectors too: one coordinate a token. A
      block then moves each by an affine map, so that few coordinates want more blocks than an image (8 on the plane), and
      many examples want no dropout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from paradigms import optim
from paradigms.backbones import Backbone
from paradigms.backbones.causal import Cache, CausalTransformer
from paradigms.contract import Frozen, Paradigm, Update
from paradigms.core.data import Batch, Data, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Card, Estimate, Kind, Plan, Sampler
from paradigms.core.settings import Settings, setting
from paradigms.maths.likelihood import dequantise, log_mass, standard_normal_log_prob
from paradigms.optim import adamw, cosine
from paradigms.recipe import Recipe


@dataclass(frozen=True)
class Config(Settings):
    """Dropout and weight decay keep small sets from being memorised."""

    blocks: int = setting(4, least=1, says="flow blocks")
    layers: int = setting(2, least=1, says="transformer layers in each block")
    patch: int = setting(
        0,
        least=0,
        says="a token's pixels a side, or coordinates of a vector; 0: 2 up to 16 pixels, 4 up to 32; 1 coordinate",
    )
    batch: int = optim.batch(32)
    lr: float = optim.lr(5e-3)
    dropout: float = optim.dropout(0.2)
    weight_decay: float = optim.weight_decay(0.05)
    clip: float = optim.clip(1.0)


@dataclass(frozen=True)
class DenoisedConfig(Config):
    sigma: float = setting(0.1, above=0, says="standard deviation of the noise on the data")


# ----------------------------------------------------------------------------------------------------------- tokens

MOST = 1024  # tokens: what is sampled one by one should end


def patch_of(space: Space, patch: int) -> int:
    """The side of a token: as asked, or for 0 the smallest divisor from 2 on that leaves at most 64 tokens, else 1."""
    if patch or not space.is_image:
        return patch or 1
    common = math.gcd(*space.shape[1:])
    fit = (p for p in range(2, common + 1) if common % p == 0 and 2 <= math.prod(space.shape[1:]) // p**2 <= 64)
    return next(fit, 1)


def sizes(space: Space, patch: int) -> tuple[int, int]:
    """(T, D): the number of tokens, and of numbers in one."""
    dim = space.shape[0] * patch**2 if space.is_image else patch
    return space.dim // dim, dim


def patchify(x: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) or (B, D) -> tokens (B, T, C patch^2) or (B, T, patch), images row by row."""
    if x.dim() == 2:
        return x.unflatten(1, (-1, patch))
    return F.pixel_unshuffle(x, patch).flatten(2).transpose(1, 2)


def unpatchify(tokens: Tensor, shape: tuple[int, ...], patch: int) -> Tensor:
    """The inverse of `patchify`, to (B, *shape)."""
    if len(shape) == 1:
        return tokens.flatten(1)
    grid = (shape[1] // patch, shape[2] // patch)
    return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, grid), patch)


def refusal(space: Space, patch: int) -> str | None:
    """Why tokens of this side can not be cut, in words; None when they can."""
    sides, p = (space.shape[1:] if space.is_image else space.shape), patch_of(space, patch)
    named = "x".join(map(str, sides))
    if any(side % p for side in sides):
        return f"patch {p} does not divide {named}; take one that does, or 0 to have it chosen"
    count, _ = sizes(space, p)
    if count < 2:
        return f"an autoregressive flow needs at least two tokens; patch {p} cuts {named} into one"
    if count > MOST:
        return f"patch {p} cuts {named} into {count:,} tokens, sampled one by one; at most {MOST:,}"
    return None


# ------------------------------------------------------------------------------------------------------------- flow


class Block(nn.Module):
    """z_t = (x_t - mu(x_<t)) exp(-alpha(x_<t)) over tokens (B, T, D), read backwards where `flipped`."""

    def __init__(self, net: CausalTransformer, flipped: bool) -> None:
        super().__init__()
        self.net, self.flipped = net, flipped

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(z, log |det dz/dx| (B,)), all tokens in one pass."""
        x = self._ordered(x)
        before = F.pad(x, (0, 0, 1, -1))  # the start token of zeros, then x_1 ... x_{T-1}
        mu, alpha = self.net(before, y).chunk(2, dim=-1)
        return self._ordered((x - mu) * torch.exp(-alpha)), -alpha.flatten(1).sum(1)

    @torch.no_grad()
    def inverse(self, z: Tensor, y: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """x (B, T, D), token by token: a network call for each. Without a cache each call reads all tokens so far."""
        z = self._ordered(z)
        x = torch.zeros(z.shape[0], z.shape[1] + 1, z.shape[2], dtype=z.dtype, device=z.device)  # the start token first
        if cache is not None:
            cache.read = 0
        for t in range(z.shape[1]):
            out = self.net(x[:, : t + 1], y) if cache is None else self.net(x[:, t : t + 1], y, cache)
            mu, alpha = out[:, -1].chunk(2, dim=-1)
            torch.addcmul(mu, z[:, t], torch.exp(alpha), out=x[:, t + 1])
        return self._ordered(x[:, 1:])

    def _ordered(self, tokens: Tensor) -> Tensor:
        return tokens.flip(1) if self.flipped else tokens


class Flow(Backbone):
    """All blocks: forward(x (B, *shape), y) -> (z (B, T, D), log |det| (B,)), one network call."""

    def __init__(self, space: Space, width: int, blocks: int, layers: int, patch: int, dropout: float) -> None:
        super().__init__()
        self.shape, self.patch = space.shape, patch_of(space, patch)
        self.tokens, self.dim = sizes(space, self.patch)
        self.blocks = nn.ModuleList(
            Block(
                CausalTransformer(self.dim, 2 * self.dim, width, layers, self.tokens, space.classes, dropout),
                flipped=k % 2 == 1,
            )
            for k in range(blocks)
        )

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = patchify(x, self.patch)
        log_det = x.new_zeros(len(x))
        for block in self.blocks:
            z, d = block(z, y)
            log_det = log_det + d
        return z, log_det

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """The first block's constants on x (B, *shape): every number of z with zero mean and unit variance."""
        tokens = patchify(x, self.patch)
        net: CausalTransformer = self.blocks[0].net  # type: ignore[assignment]
        net.bias.copy_(torch.cat([tokens.mean(0), (tokens.std(0) + 1e-3).log()], dim=1))

    @torch.no_grad()
    def inverse(self, z: Tensor, y: Tensor | None = None, cached: bool = True) -> Tensor:
        """(B, T, D) -> x (B, *shape): T network calls for each block. One cache serves the blocks in turn."""
        cache = self.blocks[0].net.cache(len(z)) if cached else None  # type: ignore[union-attr,operator]
        for block in reversed(self.blocks):
            z = block.inverse(z, y, cache)  # type: ignore[operator]
        return unpatchify(z, self.shape, self.patch)

    def log_density(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """log p(x) of real-valued x, (B,)."""
        z, log_det = self(x, y)
        return standard_normal_log_prob(z) + log_det


# -------------------------------------------------------------------------------------------------------- paradigms

COST = "tokens x blocks small network calls one after the other, each reads one token; keys and values are cached"
TEMPERATURE, TEMPERATURES = {"temperature": 1.0}, {"temperature": (0.0, 2.0)}  # of the prior: z is multiplied by it


class TarFlow(Paradigm):
    """See the module's text: the flow of uniformly dequantised pixels, its samples and its likelihood."""

    card = Card(
        title="TarFlow (autoregressive transformer flow)",
        paper="Zhai et al., Normalizing Flows are Capable Generative Models",
        year=2024,
        url="https://arxiv.org/abs/2412.06329",
        samplers=(Sampler("inverse", (1,), calls=None, options=TEMPERATURE, ranges=TEMPERATURES, note=COST),),
        default=Plan("inverse"),
        likelihoods=(Kind("exact", "=", 1, dequantised=True, note="on pixels one uniform dequantisation draw"),),
    )

    def __init__(self, config: Config, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.flow = Flow(space, width, config.blocks, config.layers, config.patch, config.dropout)

    @staticmethod
    def refuses(config: Config, space: Space) -> str | None:
        return refusal(space, config.patch)

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        return {self.flow: adamw(self.flow, self.config.lr, weight_decay=self.config.weight_decay)}

    def prepare(self, data: Data, noise: Noise) -> Data:
        x = data.batch(noise.integers(len(data), 512).to(data.x.device)).x
        self.flow.initialise(dequantise(x, self.space.levels, noise))
        return data

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        x = dequantise(batch.x, self.space.levels, noise)
        loss = -self.flow.log_density(x, batch.y).mean() / self.space.dim
        yield Update(self.flow, loss, {"loss": loss}, {"lr": self.config.lr * cosine(progress)}, clip=self.config.clip)

    def prior(self, n: int, noise: Noise) -> Tensor:
        return noise.normal(n, self.flow.tokens, self.flow.dim)

    def sample(
        self,
        z: Tensor,
        plan: Plan,
        noise: Noise,
        cond: Tensor | None = None,
        watch: Callable[[float, Tensor], None] | None = None,
    ) -> Tensor:
        return self.flow.inverse(z * plan.option("temperature", 1.0), cond)

    def log_likelihood(self, x: Tensor, kind: Kind, noise: Noise, cond: Tensor | None = None) -> Estimate:
        x = dequantise(x, self.space.levels, noise)
        return Estimate(log_mass(self.flow.log_density(x, cond), self.space))


class DenoisedTarFlow(Paradigm):
    """See the module's text: the flow of data with Gaussian noise, whose samples are denoised by its own score."""

    card = Card(
        title="TarFlow, noisy data and denoised samples",
        paper="Zhai et al., Normalizing Flows are Capable Generative Models",
        year=2024,
        url="https://arxiv.org/abs/2412.06329",
        samplers=(
            Sampler(
                "denoised",
                (1,),
                calls=None,
                options=TEMPERATURE,
                ranges=TEMPERATURES,
                note=f"{COST}, and one pass forward and back",
            ),
            Sampler(
                "noisy",
                (1,),
                calls=None,
                options=TEMPERATURE,
                ranges=TEMPERATURES,
                note=f"what the flow draws, with its noise; {COST}",
            ),
        ),
        default=Plan("denoised"),
        no_likelihood="the density of the noisy data is modelled, not that of the data",
    )

    def __init__(self, config: DenoisedConfig, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.flow = Flow(space, width, config.blocks, config.layers, config.patch, config.dropout)

    @staticmethod
    def refuses(config: DenoisedConfig, space: Space) -> str | None:
        return refusal(space, config.patch)

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        return {self.flow: adamw(self.flow, self.config.lr, weight_decay=self.config.weight_decay)}

    def prepare(self, data: Data, noise: Noise) -> Data:
        x = data.batch(noise.integers(len(data), 512).to(data.x.device)).x
        self.flow.initialise(x + self.config.sigma * noise.normal(*x.shape))
        return data

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        y = batch.x + self.config.sigma * noise.normal(*batch.x.shape)
        loss = -self.flow.log_density(y, batch.y).mean() / self.space.dim
        yield Update(self.flow, loss, {"loss": loss}, {"lr": self.config.lr * cosine(progress)}, clip=self.config.clip)

    def prior(self, n: int, noise: Noise) -> Tensor:
        return noise.normal(n, self.flow.tokens, self.flow.dim)

    def sample(
        self,
        z: Tensor,
        plan: Plan,
        noise: Noise,
        cond: Tensor | None = None,
        watch: Callable[[float, Tensor], None] | None = None,
    ) -> Tensor:
        y = self.flow.inverse(z * plan.option("temperature", 1.0), cond)
        return y if plan.sampler == "noisy" else self.denoise(y, cond)

    def denoise(self, y: Tensor, cond: Tensor | None = None) -> Tensor:
        """E[x | y] = y + sigma^2 grad log p(y), by Tweedie's formula; (B, *shape)."""
        with torch.enable_grad():
            y = y.detach().requires_grad_(True)
            (score,) = torch.autograd.grad(self.flow.log_density(y, cond).sum(), y)
        return y.detach() + self.config.sigma**2 * score


RECIPES = (
    Recipe(
        "tarflow",
        TarFlow,
        Config(),
        "causal transformers shift and scale patch after patch; exact likelihood, sequential sampling",
        variant_of="normalizing-flow",
    ),
    Recipe(
        "tarflow-denoised",
        DenoisedTarFlow,
        DenoisedConfig(),
        "TarFlow of noisy data; samples denoised by the model's own score",
        variant_of="normalizing-flow",
    ),
)
