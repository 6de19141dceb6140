"""Vectors on any scale: what stands around every model of vectors, so that none of them has a scale of its own.

Schedules of noise, initial weights and penalties are made for data of about unit variance. Images are; a table's columns may
be millimetres beside years. So the model proper, `core`, only ever meets

    z = (x - o) / u,     o, u = mean and standard deviation of each column of the training part,

and what it says of z is turned into what it says of x: a sample is x = o + u z, and log p(x) = log p(z) - sum log u, in any
kind of likelihood. In models that are trained alike on x and on s x + b, column by column, the same weights meet the same
z: exactly where s is a power of two and b is 0, else to the rounding of x. Columns are not mixed: a shear or a rotation of
the data is another problem, as before.

A column that never changes has no density and no scale. In its place the model meets standard normal noise; samples have
the column's value, and log p(x) is that of the others: with z_j ~ N(0, 1) for such columns j,

    log p(x) >= E log p(z) - log N(z_j; 0, 1) - sum log u,     one draw of z_j for each x, and -inf where x_j is another value.

o and u are buffers, in float64, and lie in the weights' file. A model that stands on another has the other's: it starts from
that one's weights, or models that one's codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from paradigms.contract import Codec, Paradigm, Trainable, Update
from paradigms.core.data import Batch, Data, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Estimate, Kind, Plan
from paradigms.maths.likelihood import normal_log_prob
from paradigms.maths.observation import Observation

MANY = 2048  # columns, above which it is not asked what they have to say of each other
THIN = 1e-2  # variance of a direction, a column having 1, below which nothing happens in it
CORRELATED = 0.15  # up to here two columns share 0.01 nats
CURVED = 0.1  # and fourth moments are a normal's, within a tenth

__all__ = ["Standardised", "column_units", "standardised"]


def column_units(x: Tensor) -> tuple[Tensor, Tensor]:
    """o and u of x (N, D), each (D,) float64, u > 0.

    A column that never changes has the median u of those that do, for want of a scale of its own; where none does, the
    largest number there is, or 1.
    """
    x = x.double()
    low, high = x.amin(0), x.amax(0)
    varies = low < high
    o = torch.where(varies, x.mean(0), low)  # low: a mean of equal numbers may be rounded
    u = torch.where(varies, x.std(0, correction=0), 0.0)
    varies &= u > 0
    other = u[varies].median() if varies.any() else o.abs().max()
    return o, torch.where(varies, u, torch.where(other > 0, other, 1.0))


def within_labels(z: Tensor, y: Tensor) -> Tensor:
    """z (N, D) with each column centred and scaled among the examples of each label y (N,)."""
    parts = [z[y == label] for label in y.unique()]
    return torch.cat([(part.double() - o) / u for part in parts for o, u in [column_units(part)]])


def moments(z: Tensor) -> Tensor:
    """The second moments of z (N, D), (D, D) float64 on the CPU; by numpy, as what is only looked at is no cost of training."""
    array = z.double().cpu().numpy()
    return torch.from_numpy(array.T @ array / len(array))


def directions(z: Tensor) -> int:
    """In how many directions standardised data z (N, D) extend, in the plane of a repeated column once."""
    return int((torch.linalg.eigvalsh(moments(z)) > THIN).sum())


def is_plain(z: Tensor) -> bool:
    """Whether the columns of standardised data z (N, D) look like independent normals or never change.

    Then p(x) is a normal for each column, and no latent variable has anything to say. Judged by correlations, by the
    fourth moment of each column and by that of all (Mardia 1970), each within what is worth noticing or is chance.
    """
    z = z.double()
    z = z[:, z.square().mean(0) > THIN]
    d, chance = z.shape[1], 5 / math.sqrt(len(z))
    if not d:
        return True
    off = (moments(z) - torch.eye(d, dtype=z.dtype)).abs().max()
    each = (z.pow(4).mean(0) / 3 - 1).abs().max()
    whole = z.square().sum(1).square().mean() / (d * (d + 2)) - 1
    # The variances of these means under a normal: 1, 96 / 9 and 8 / (d (d + 2)), over n.
    return bool(
        off <= max(CORRELATED, chance)
        and each <= max(CURVED, chance * math.sqrt(96 / 9))
        and whole.abs() <= max(CURVED, chance * math.sqrt(8 / (d * (d + 2))))
    )


def standardised(core: Trainable, parents: Sequence[Standardised] = ()) -> Standardised:
    """A model of vectors with its map around it; `parents` are those that it stands on."""
    if isinstance(core, Paradigm):
        return StandardisedParadigm(core, parents)
    return StandardisedCodec(core, parents) if isinstance(core, Codec) else Standardised(core, parents)


class Standardised(Trainable):
    """See the module's text. `inner` is the model proper; what is not here is asked of it and set in it, in its units."""

    origin: Tensor
    unit: Tensor
    plain: Tensor
    directions: Tensor

    def __init__(self, inner: Trainable, parents: Sequence[Standardised] = ()) -> None:
        super().__init__(inner.config, inner.space, 0, {})
        self.inner = inner
        self.stands_on = tuple(parents)  # in a tuple, so that they are no part of this model: see `Frozen`
        self.register_buffer("origin", torch.zeros(inner.space.dim, dtype=torch.float64))
        self.register_buffer("unit", torch.ones(inner.space.dim, dtype=torch.float64))  # 0: the column never changes
        self.register_buffer("plain", torch.tensor(False))  # what `symptom` must know of the data
        self.register_buffer("directions", torch.tensor(inner.space.dim))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            inner = self.__dict__.get("_modules", {}).get("inner")
            if inner is None:
                raise
            return getattr(inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        inner = self.__dict__.get("_modules", {}).get("inner")
        own = inner is None or name in self.__dict__ or name in self._buffers or hasattr(type(self), name)
        if own or not hasattr(inner, name):
            super().__setattr__(name, value)
        else:
            setattr(inner, name, value)

    @property
    def core(self) -> Trainable:
        return self.inner

    def to_core(self, x: Tensor) -> Tensor:
        """z; 0 in the place of columns that never change."""
        varies = self.unit > 0
        z = (x.double() - self.origin) / torch.where(varies, self.unit, 1.0)
        return torch.where(varies, z, 0.0).to(x.dtype)

    def from_core(self, z: Tensor) -> Tensor:
        return (self.origin + self.unit * z.double()).to(z.dtype)

    @property
    def log_unit(self) -> Tensor:
        """sum log u, (): what a log density of z has more than that of x."""
        return torch.where(self.unit > 0, self.unit, 1.0).log().sum()

    def filled(self, z: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """z (B, D) with noise in the place of columns that never change, and the log density of that noise, (B,)."""
        still = self.unit == 0
        if not still.any():
            return z, z.new_zeros(len(z))
        eps = noise.at("still").normal(*z.shape)
        return torch.where(still, eps, z), torch.where(still, normal_log_prob(eps), 0.0).sum(1)

    @torch.no_grad()
    def prepare(self, data: Data, noise: Noise) -> Data:
        if self.stands_on:
            o, u = self.stands_on[0].origin, self.stands_on[0].unit
        else:
            o, u = column_units(data.x)
            u = torch.where(data.x.amin(0) < data.x.amax(0), u, 0.0)
        self.origin.copy_(o)
        self.unit.copy_(u)
        z = self.to_core(data.x)
        if z.shape[1] <= MANY:
            told = data.y if data.space.classes else None
            self.plain.fill_(is_plain(z if told is None else within_labels(z, told)))
            self.directions.fill_(directions(z))
        return self.inner.prepare(replace(data, x=self.filled(z, noise)[0]), noise)

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        return self.inner.optimizers()

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        yield from self.inner.updates(batch, progress, noise)

    def symptom(self, terms: Mapping[str, float]) -> str | None:
        """As the core's, which is also told what the data are like: "plain" and "directions"."""
        return self.inner.symptom({**terms, "plain": float(self.plain), "directions": float(self.directions)})


class StandardisedParadigm(Standardised, Paradigm):
    """A paradigm of z as one of x."""

    @property
    def codec(self) -> Any:
        """The first stage of a model of codes, with its own map around it."""
        return next((p for p in self.stands_on if isinstance(p, Codec)), None) or cast(Any, self.inner).codec

    def prior(self, n: int, noise: Noise) -> Tensor:
        return cast(Paradigm, self.inner).prior(n, noise)

    def sample(
        self,
        z: Tensor,
        plan: Plan,
        noise: Noise,
        cond: Tensor | None = None,
        watch: Callable[[float, Tensor], None] | None = None,
    ) -> Tensor:
        seen = None if watch is None else lambda t, z_t: watch(t, self.from_core(z_t))
        return self.from_core(cast(Paradigm, self.inner).sample(z, plan, noise, cond, seen))

    def check(self, plan: Plan) -> None:
        cast(Paradigm, self.inner).check(plan)

    def log_likelihood(self, x: Tensor, kind: Kind, noise: Noise, cond: Tensor | None = None) -> Estimate:
        """As the core's; where it has terms, they have one more, "units": sum log u (and log N of the noise)."""
        z, log_noise = self.filled(self.to_core(x), noise)
        found = cast(Paradigm, self.inner).log_likelihood(z, kind, noise, cond)
        units = self.log_unit.to(found.value) + log_noise
        other = ((x != self.origin.to(x)) & (self.unit == 0)).any(1)
        value = torch.where(other, -math.inf, found.value - units)
        return replace(found, value=value, terms={**found.terms, "units": units} if found.terms else {})


class StandardisedCodec(Standardised):
    """A codec of z as one of x; codes are what they are."""

    @property
    def latent(self) -> Space:
        return cast(Codec, self.inner).latent

    @property
    def law(self) -> Observation:
        return Around(cast(Codec, self.inner).law, self)

    def encode(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """mu and log sd of q(code | x), each (B, *latent.shape)."""
        return cast(Codec, self.inner).encode(self.to_core(x), cond)

    def decode(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        """What `law` makes of p(x | code)."""
        return cast(Codec, self.inner).decode(z, cond)


class Around(Observation):
    """What a law of z says of x."""

    def __init__(self, law: Observation, model: Standardised) -> None:
        self.shape, self.law, self.model = law.shape, law, model

    def log_prob(self, out: Tensor, x: Tensor) -> Tensor:
        log_px = self.law.log_prob(out, self.model.to_core(x))
        return log_px - self.model.log_unit.to(log_px)

    def sample(self, out: Tensor, noise: Noise) -> Tensor:
        return self.model.from_core(self.law.sample(out, noise))

    def mean(self, out: Tensor) -> Tensor:
        return self.model.from_core(self.law.mean(out))
