"""Latent diffusion: any paradigm, trained on the codes of an autoencoder, and its samples decoded.

Model.      A codec, trained before and held fixed, says q(z | x) and p(x | z); another paradigm, here called the inner one,
            models z. Together p(x) = int p(x | z) p(z) dz. Codes are small (a grid of 7 x 7 for an image of 28 x 28), so a
            step of the inner model costs a fraction of what it costs on pixels.

Objective.  The inner paradigm's own, on z ~ q(z | x) drawn anew at every step. Codes are centred and scaled to unit variance,
            channel by channel (Rombach et al., appendix G, scale all by one number):
                z' = (z - m) / s,     m = E mu(x),     s^2 = Var mu(x) + E sd(x)^2,
            what the law of total variance gives over data and posterior. mu and sd of all examples are computed once.
            Draws and not means: p(z) must give mass to all of q, or the bound below has no finite prior term.

Sampling.   The inner paradigm's samplers, at as many steps as there, then one call of the decoder: x ~ p(x | z) ("decode =
            sample", which the likelihood speaks of) or its mean ("decode = mean").

Likelihood. With one draw z ~ q(z | x) (Vahdat et al., eq. 2-4)
                log p(x) >= E_q log p(x | z)          "reconstruction"
                          + E_q log p(z)              "prior": the inner paradigm's likelihood of z
                          + H(q(z | x)).              "entropy", in closed form
            Its kinds are the inner paradigm's: where that bounds log p(z) or is exact, this is a bound; where it estimates it
            (by the ODE), this is an estimate of a bound.

References
    R. Rombach, A. Blattmann, D. Lorenz, P. Esser, B. Ommer. High-Resolution Image Synthesis with Latent Diffusion Models.
        CVPR 2022. arXiv:2112.10752
    A. Vahdat, K. Kreis, J. Kautz. Score-based Generative Modeling in Latent Space. NeurIPS 2021. arXiv:2106.05931

Where this differs from the papers
    - The codec is `autoencoder`, whose text says how that differs; it is not trained on with the prior, as LSGM does.
    - Labels, where there are any, are told to codec and prior: the bound is then one of log p(x | y).
    - Codec and prior share one budget, so that a row costs what a model of pixels costs.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from paradigms import catalogue
from paradigms.contract import Codec, Frozen, Paradigm, Update
from paradigms.core.data import Batch, Data, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Card, Estimate, Kind, Plan, Sampler
from paradigms.core.settings import Settings, setting
from paradigms.errors import BadInput
from paradigms.recipe import Need, Recipe

CHUNK = 256  # examples encoded at a time
DECODE = "decode"  # option of every sampler: how the last step, from z to x, is made
WAYS = ("sample", "mean")
REAL = Space((1,))  # what codes are like: without levels


@dataclass(frozen=True)
class Config(Settings):
    inner: Any = setting(
        None,
        says="the settings of the inner paradigm, as in `--set inner.lr=1e-3`; the catalogue puts its recipe's here",
    )

    @property
    def batch(self) -> int:
        return self.inner.batch


class _CardOf:
    """A card made from the inner paradigm's, which is only known once all files are read."""

    def __get__(self, instance: object, owner: type[Latent]) -> Card:
        return _around(owner.inside())


@cache
def _around(name: str) -> Card:
    """The card of a recipe's paradigm as it is in a codec's space."""
    recipe = catalogue.get(name)
    inner: Card = cast(type[Paradigm], recipe.paradigm).card
    return Card(
        title=f"Latent diffusion: {recipe.heading}",
        paper="Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models",
        year=2022,
        url="https://arxiv.org/abs/2112.10752",
        samplers=tuple(_decoded(sampler) for sampler in inner.samplers),
        default=inner.default,
        likelihoods=tuple(_bounded(kind) for kind in inner.likelihoods_on(REAL)),
        no_likelihood=inner.no_likelihood,
    )


def _decoded(sampler: Sampler) -> Sampler:
    """The same sampler with a call of the decoder at its end, which draws."""
    note = f"{DECODE}: x drawn from p(x | z), or its mean"
    return replace(
        sampler,
        calls=None if sampler.calls is None else (sampler.calls[0], sampler.calls[1] + 1),
        stochastic=True,
        options={**sampler.options, DECODE: WAYS[0]},
        choices={**sampler.choices, DECODE: WAYS},
        note=f"{sampler.note}; {note}" if sampler.note else note,
    )


def _bounded(kind: Kind) -> Kind:
    """The same likelihood with a call of the encoder and one of the decoder; of an exact log p(z) only a bound is left."""
    relation = "≤" if kind.relation == "=" else kind.relation
    return replace(kind, relation=relation, calls=kind.calls + 2, dequantised=False)


class Latent(Paradigm):
    """What all share; they differ in the paradigm that is inside."""

    card = cast(Card, _CardOf())
    shift: Tensor
    scale: Tensor

    def __init__(self, config: Config, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.parent = parents["codec"]
        if self.codec.space != space:
            raise BadInput(f"the codec was trained on {self.codec.space} and not {space}; train one on this data")
        recipe, codes = catalogue.get(self.inside()), self.codec.latent
        reason = recipe.paradigm.refuses(config.inner, codes)
        if reason is not None:
            raise BadInput(f"{recipe.name} can not model codes of {codes}: {reason}")
        # Not `build`: codes are scaled here, as that would scale vectors.
        self.inner = cast(Paradigm, recipe.paradigm(config.inner, codes, width, {}))
        channels = (codes.shape[0], *(1 for _ in codes.shape[1:]))
        self.register_buffer("shift", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    @staticmethod
    @abstractmethod
    def inside() -> str: ...

    @property
    def codec(self) -> Codec:
        return self.parent.model

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        return self.inner.optimizers()

    # ------------------------------------------------------------------------------------------------------- codes

    def codes(self, x: Tensor, cond: Tensor | None) -> Tensor:
        """mu and log sd of the scaled z' given x, (B, 2c, ...)."""
        return self.scaled(*self.codec.encode(x, cond))

    def scaled(self, mu: Tensor, log_sd: Tensor) -> Tensor:
        """mu and log sd of z as those of z', one behind the other."""
        return torch.cat([(mu - self.shift) / self.scale, log_sd - self.scale.log()], dim=1)

    def decode(self, z: Tensor, cond: Tensor | None) -> Tensor:
        """What the codec's law makes of p(x | z'), one call of the decoder."""
        return self.codec.decode(self.shift + self.scale * z, cond)

    @torch.no_grad()
    def prepare(self, data: Data, noise: Noise) -> Data:
        """mu and log sd of every example's code, scaled."""
        batches = (data.batch(index) for index in torch.arange(len(data), device=data.x.device).split(CHUNK))
        mus, log_sds = zip(*(self.codec.encode(batch.x, batch.y) for batch in batches))
        mu, log_sd = torch.cat(mus), torch.cat(log_sds)
        over = [0, *range(2, mu.dim())]
        self.shift.copy_(mu.mean(over, keepdim=True)[0])
        variance = mu.var(over, correction=0, keepdim=True) + (2 * log_sd).exp().mean(over, keepdim=True)
        self.scale.copy_(variance.sqrt()[0])
        codes = self.scaled(mu, log_sd)
        z = Data(drawn(codes, noise.at("posterior")), data.y, self.inner.space)
        if self.inner.prepare(z, noise.at("inner")) is not z:
            raise TypeError(f"{self.inside()} trains on data that it makes itself; it can not stand in a codec's space")
        return Data(codes, data.y, replace(self.inner.space, shape=tuple(codes.shape[1:])))

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        z = drawn(batch.x, noise.at("posterior"))
        yield from self.inner.updates(Batch(z, batch.y), progress, noise)

    def symptom(self, terms: Mapping[str, float]) -> str | None:
        return self.inner.symptom(terms)

    # -------------------------------------------------------------------------------------------------- as a model

    def prior(self, n: int, noise: Noise) -> Tensor:
        return self.inner.prior(n, noise)

    def sample(
        self,
        z: Tensor,
        plan: Plan,
        noise: Noise,
        cond: Tensor | None = None,
        watch: Callable[[float, Tensor], None] | None = None,
    ) -> Tensor:
        law = self.codec.law

        def seen(t: float, z_t: Tensor) -> None:
            assert watch is not None
            watch(t, law.mean(self.decode(z_t, cond)))

        z = self.inner.sample(z, inner_plan(plan), noise, cond, None if watch is None else seen)
        out = self.decode(z, cond)
        return law.mean(out) if plan.word(DECODE, WAYS[0]) == "mean" else law.sample(out, noise.at(DECODE))

    def check(self, plan: Plan) -> None:
        self.inner.check(inner_plan(plan))

    def log_likelihood(self, x: Tensor, kind: Kind, noise: Noise, cond: Tensor | None = None) -> Estimate:
        if not self.card.likelihoods:
            return super().log_likelihood(x, kind, noise, cond)
        codes = self.codes(x, cond)
        z = drawn(codes, noise.at("posterior"))
        log_px = self.codec.law.log_prob(self.decode(z, cond), x)
        prior = self.inner.log_likelihood(z, kind, noise, cond)
        log_sd = codes.chunk(2, dim=1)[1]
        entropy = (log_sd + 0.5 * math.log(2 * math.pi * math.e)).flatten(1).sum(1)
        terms = {"reconstruction": -log_px, "prior": -prior.value, "entropy": -entropy}
        return Estimate(log_px + prior.value + entropy, terms, prior.errors)


def inner_plan(plan: Plan) -> Plan:
    """What of a plan is the inner paradigm's: all but how its z is decoded."""
    return replace(plan, options=tuple(option for option in plan.options if option[0] != DECODE))


def drawn(codes: Tensor, noise: Noise) -> Tensor:
    """z = mu + sd eps of codes (B, 2c, ...): mu and log sd."""
    mu, log_sd = codes.chunk(2, dim=1)
    return mu + log_sd.exp() * noise.normal(*mu.shape)


class LatentFlowMatching(Latent):
    """Flow matching inside."""

    @staticmethod
    def inside() -> str:
        return "flow-matching"


class LatentDDPM(Latent):
    """DDPM inside."""

    @staticmethod
    def inside() -> str:
        return "ddpm"


RECIPES = (
    Recipe(
        "latent-flow-matching", LatentFlowMatching, Config(), "flow matching on an autoencoder's codes, on one budget with it",
        needs={"codec": Need("autoencoder", Codec, share=0.4, at_sampling=True)}, share=0.6, variant_of="flow-matching",
    ),
    Recipe(
        "latent-ddpm", LatentDDPM, Config(), "DDPM on an autoencoder's codes, on one budget with it",
        needs={"codec": Need("autoencoder", Codec, share=0.4, at_sampling=True)}, share=0.6, variant_of="ddpm",
        aliases=("latent-diffusion", "ldm"),
    ),
)  # fmt: skip
