"""What a network trained along a Gaussian path knows: of x_t = alpha x0 + sigma eps, the expected x0 and eps.

Every model of this family, whatever its network puts out, is a `Denoiser`; samplers and likelihoods take one and ask
nothing else of a model. A `Prediction` says how both expectations follow from the network's output F:

    x0 = a x_t + b F,        eps = c x_t + d F,        F = net(c_in x_t, clock(t), y).

Where it is guided F is a combination of two such outputs (`maths.guidance`): here, and nowhere else.

`Denoiser.along` fixes the times beforehand, so that inside a sampler's loop a step costs the network and a few operations
with plain numbers: coefficients, rows of times and changes of coordinates are all made before it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from paradigms.errors import BadInput
from paradigms.maths.guidance import PURE, Guidance
from paradigms.maths.paths import GaussianPath, expand

__all__ = ["X0", "Along", "Denoiser", "Eps", "Preconditioned", "Prediction", "VPrediction", "Velocity"]


class Coefficients(NamedTuple):
    """x0 = a x + b F and eps = c x + d F, where F is the network's output for c_in x; all (N,)."""

    a: Tensor
    b: Tensor
    c: Tensor
    d: Tensor
    c_in: Tensor


class Prediction(ABC):
    """What a network is trained to put out; `coefficients` and `target` say the same thing in two directions."""

    def input_scale(self, path: GaussianPath, t: Tensor) -> Tensor | None:
        """c_in (N,) at times t (N,); None where the network sees x_t itself."""
        return None

    @abstractmethod
    def coefficients(self, path: GaussianPath, t: Tensor) -> Coefficients:
        """At times t (N,)."""

    @abstractmethod
    def target(self, path: GaussianPath, t: Tensor, x0: Tensor, eps: Tensor) -> Tensor:
        """The F that the network should put out for x_t = alpha x0 + sigma eps, (B, ...); t (B,)."""


@dataclass(frozen=True)
class Eps(Prediction):
    """F = eps (Ho et al. 2020). sigma_data: where x_t grows with the noise, the network sees it at unit variance."""

    sigma_data: float | None = None

    def input_scale(self, path: GaussianPath, t: Tensor) -> Tensor | None:
        return None if self.sigma_data is None else 1 / torch.hypot(path.alpha(t) * self.sigma_data, path.sigma(t))

    def coefficients(self, path: GaussianPath, t: Tensor) -> Coefficients:
        alpha, sigma, one = path.alpha(t), path.sigma(t), torch.ones_like(t)
        c_in = self.input_scale(path, t)
        return Coefficients(1 / alpha, -sigma / alpha, 0 * one, one, one if c_in is None else c_in)

    def target(self, path: GaussianPath, t: Tensor, x0: Tensor, eps: Tensor) -> Tensor:
        return eps


@dataclass(frozen=True)
class X0(Prediction):
    """F = x0: the denoised data itself."""

    def coefficients(self, path: GaussianPath, t: Tensor) -> Coefficients:
        alpha, sigma, one = path.alpha(t), path.sigma(t), torch.ones_like(t)
        return Coefficients(0 * one, one, 1 / sigma, -alpha / sigma, one)

    def target(self, path: GaussianPath, t: Tensor, x0: Tensor, eps: Tensor) -> Tensor:
        return x0


@dataclass(frozen=True)
class VPrediction(Prediction):
    """F = v = alpha eps - sigma x0 (Salimans & Ho 2022): bounded at both ends of the path."""

    def coefficients(self, path: GaussianPath, t: Tensor) -> Coefficients:
        alpha, sigma = path.alpha(t), path.sigma(t)
        norm = alpha.square() + sigma.square()
        return Coefficients(alpha / norm, -sigma / norm, sigma / norm, alpha / norm, torch.ones_like(t))

    def target(self, path: GaussianPath, t: Tensor, x0: Tensor, eps: Tensor) -> Tensor:
        return expand(path.alpha(t), x0) * eps - expand(path.sigma(t), x0) * x0


@dataclass(frozen=True)
class Velocity(Prediction):
    """F = u = alpha' x0 + sigma' eps (Lipman et al. 2023): dx_t/dt itself."""

    def coefficients(self, path: GaussianPath, t: Tensor) -> Coefficients:
        a, s, da, ds = path.alpha(t), path.sigma(t), path.alpha_dot(t), path.sigma_dot(t)
        det = a * ds - s * da
        return Coefficients(ds / det, -s / det, -da / det, a / det, torch.ones_like(t))

    def target(self, path: GaussianPath, t: Tensor, x0: Tensor, eps: Tensor) -> Tensor:
        return path.velocity(x0, eps, t)


@dataclass(frozen=True)
class Preconditioned(Prediction):
    """x0 = c_skip x_t + c_out F(c_in x_t): in- and output of unit variance for data of std sigma_data (Karras et al. 2022,
    eq. 7 and table 1, written for alpha x0 + sigma eps; on a variance-preserving path with sigma_data = 1, F = -v)."""

    sigma_data: float

    def _variance(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The variance (N,) of x_t."""
        return (alpha * self.sigma_data).square() + sigma.square()

    def input_scale(self, path: GaussianPath, t: Tensor) -> Tensor:
        return 1 / self._variance(path.alpha(t), path.sigma(t)).sqrt()

    def coefficients(self, path: GaussianPath, t: Tensor) -> Coefficients:
        alpha, sigma, data = path.alpha(t), path.sigma(t), self.sigma_data
        var = self._variance(alpha, sigma)
        std = var.sqrt()
        return Coefficients(alpha * data**2 / var, sigma * data / std, sigma / var, -alpha * data / std, 1 / std)

    def target(self, path: GaussianPath, t: Tensor, x0: Tensor, eps: Tensor) -> Tensor:
        # (x0 - c_skip x_t) / c_out, with x_t written out so that nothing cancels where sigma is small.
        alpha, sigma, data = path.alpha(t), path.sigma(t), self.sigma_data
        std = self._variance(alpha, sigma).sqrt()
        return expand(sigma / (data * std), x0) * x0 - expand(alpha * data / std, x0) * eps


def time_itself(t: Tensor) -> Tensor:
    """t: the time input of a network that is given no function of it."""
    return t


@dataclass(frozen=True)
class Denoiser:
    """net: (c_in x_t (B, ...), clock (B,), y (B,) or None) -> F (B, ...), its `prediction` along `path`.

    clock:        the network's time input, a function of t.
    t_min, t_max: the times between which it was trained. Noise that is left at t_min is taken off in one last step to x0.
                  Sampling starts from N(0, sigma(t_max)^2 I), and that is the model's prior.
    T:            of a discrete chain: it was trained at the times i / T only.
    reach:        samplers that work with x0 clip it to [-reach, reach]; velocities and densities are never clipped.
    learned:      the network puts out 2C channels: F, and v where a step's variance lies between its bounds.
    y:            labels (B,), or None.
    null:         the label for none, of a network that was trained with labels and without; else None.
    guidance:     how the outputs with and without labels are combined; None: the one with labels is taken.
    """

    net: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    path: GaussianPath
    prediction: Prediction
    clock: Callable[[Tensor], Tensor] = time_itself
    t_min: float = 0.0
    t_max: float = 1.0
    T: int | None = None
    reach: float = float("inf")
    learned: bool = False
    y: Tensor | None = None
    null: int | None = None
    guidance: Guidance | None = None

    @property
    def free(self) -> bool:
        """Whether the path ends free of noise."""
        return _ends(self.path, self.t_min, self.t_max)[0] == 0.0

    @property
    def largest(self) -> float:
        """sigma(t_max), the standard deviation that sampling starts from."""
        return _ends(self.path, self.t_min, self.t_max)[1]

    def rows(self, index: Tensor) -> Denoiser:
        """The denoiser of the examples at `index`."""
        return self if self.y is None else replace(self, y=self.y[index])

    def output(self, x_t: Tensor, t: Tensor) -> Tensor:
        """F (B, ...), the network's output for x_t (B, ...) at t (B,), without the channels of a learned variance."""
        c_in = self.prediction.input_scale(self.path, t)
        out = self._asked(x_t if c_in is None else expand(c_in, x_t) * x_t, self.clock(t), t)
        return out.chunk(2, dim=1)[0] if self.learned else out

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The F (B, ...) that the network should put out for x_t = alpha x0 + sigma eps; t (B,)."""
        return self.prediction.target(self.path, t, x0, eps)

    def both(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x0, eps) at x_t (B, ...) and t (B,)."""
        out, (a, b, c, d) = self._out(x_t, t)
        out = out.chunk(2, dim=1)[0] if self.learned else out
        return a * x_t + b * out, c * x_t + d * out

    def with_variance(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x0, v in [0, 1]) of a network that gives the variance too; t (B,)."""
        out, (a, b, _, _) = self._out(x_t, t)
        out, v = out.chunk(2, dim=1)
        return a * x_t + b * out, (v + 1) / 2

    def _out(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, list[Tensor]]:
        *numbers, c_in = self.prediction.coefficients(self.path, t)
        out = self._asked(expand(c_in, x_t) * x_t, self.clock(t), t)
        return out, [expand(v, x_t) for v in numbers]

    def _asked(self, x: Tensor, clock: Tensor, t: Tensor) -> Tensor:
        """The network's output for what it sees, guided in the rows whose times t (B,) guidance covers."""
        covered = None if self.guidance is None else self.guidance.covers(self.path, t)
        if self.guidance is None or covered is None or not covered.any():
            return self.net(x, clock, self.y)
        if covered.all():
            return self.guidance.ask(self.net, x, clock, self.y)
        parts = [replace(self.rows(rows), guidance=g) for rows, g in ((covered, self.guidance), (~covered, None))]
        inside, outside = (d._asked(x[rows], clock[rows], t[rows]) for d, rows in zip(parts, (covered, ~covered)))
        out = inside.new_empty(len(x), *inside.shape[1:])
        out[covered], out[~covered] = inside, outside
        return out

    def velocity(self, x_t: Tensor, t: Tensor) -> Tensor:
        """u = alpha' x0 + sigma' eps, the probability-flow velocity dx_t/dt; t (B,)."""
        return self.velocities(t[None], x_t)(0, x_t)

    def velocities(self, times: Tensor, like: Tensor) -> Callable[[int, Tensor], Tensor]:
        """The velocity at times (K, B), K of each example: (k, x_t (B, ...)) -> u. Coefficients are made beforehand."""
        k, *flow = _flow(self.prediction, self.path, times)
        numbers = [v.to(like.dtype) for v in (k.c_in, *flow)]
        c_in, p, q = (v.reshape(*times.shape, *(1,) * (like.dim() - 1)).unbind() for v in numbers)
        clock = self.clock(times).to(like.dtype).unbind()

        def velocity(k: int, x: Tensor) -> Tensor:
            out = self._asked(c_in[k] * x, clock[k], times[k])
            out = out.chunk(2, dim=1)[0] if self.learned else out
            return torch.addcmul(p[k] * x, q[k], out)

        return velocity

    def score(self, x_t: Tensor, t: Tensor) -> Tensor:
        """grad log p_t(x_t) = -eps / sigma; t (B,)."""
        return self.path.score_of_eps(self.both(x_t, t)[1], t)

    def guided(self, strength: float, low: float = 0.0, high: float = PURE) -> Denoiser:
        """The same with guidance of strength w where sigma / alpha lies between `low` and `high`; w = 1 is none.

        Raises BadInput for a network that does not know both, with labels and without.
        """
        if strength == 1:
            return replace(self, guidance=None)
        if self.null is None:
            raise BadInput(
                "guidance weighs what a model expects with labels against without, and this one does not know both: train "
                "it with labels (--conditional) and `unlabelled` above 0, or leave guidance out"
            )
        return replace(self, guidance=Guidance(strength, self.null, low, high, self.learned))

    def on(self, path: GaussianPath) -> Denoiser:
        """The same knowledge on another path: at equal signal-to-noise ratio the states of two paths differ by a factor.

        What lies beyond the ends of `path` is cut off.
        """
        if path == self.path:
            return self
        t_min, t_max = _ends_on(path, self.path, self.t_min, self.t_max)
        moved = Moved(self.prediction, self.path, self.t_min, self.t_max)
        clock = self.clock
        return replace(
            self,
            path=path,
            prediction=moved,
            clock=lambda t: clock(moved.time(path, t)),
            t_min=t_min,
            t_max=t_max,
            T=None,
        )

    def along(self, times: Tensor, like: Tensor) -> Along:
        """The same at fixed times (N,), for states shaped as `like` (B, ...)."""
        return Along(self, times, like)


@lru_cache(maxsize=64)
def _ends(path: GaussianPath, t_min: float, t_max: float) -> tuple[float, float]:
    """sigma at both."""
    low, high = path.sigma(torch.tensor([t_min, t_max], dtype=torch.float64)).tolist()
    return low, high


@lru_cache(maxsize=64)
def _ends_on(path: GaussianPath, own: GaussianPath, t_min: float, t_max: float) -> tuple[float, float]:
    """The times on `path`, within [0, 1], of those of a network's own."""
    ends = torch.tensor([t_min, t_max], dtype=torch.float64)
    low, high = path.time_of_log_snr(own.log_snr(ends)).clamp(0.0, 1.0).tolist()
    return low, high


@dataclass(frozen=True)
class Moved(Prediction):
    """The prediction of a network trained along another path, for times between t_min and t_max there."""

    prediction: Prediction
    path: GaussianPath
    t_min: float
    t_max: float

    def time(self, on: GaussianPath, t: Tensor) -> Tensor:
        """The time of the network's own path with the signal-to-noise ratio that `on` has at t."""
        # In float32 cos(pi / 2) is negative.
        return self.path.time_of_log_snr(on.log_snr(t.double())).clamp(self.t_min, self.t_max).to(t.dtype)

    def _factor(self, path: GaussianPath, t: Tensor, own: Tensor) -> Tensor:
        """k (N,): the state x' at times t of `path` is the state k x' at times `own` of the network's path."""
        return torch.hypot(self.path.alpha(own), self.path.sigma(own)) / torch.hypot(path.alpha(t), path.sigma(t))

    def input_scale(self, path: GaussianPath, t: Tensor) -> Tensor:
        own = self.time(path, t)
        k, c_in = self._factor(path, t, own), self.prediction.input_scale(self.path, own)
        return k if c_in is None else k * c_in

    def coefficients(self, path: GaussianPath, t: Tensor) -> Coefficients:
        own = self.time(path, t)
        k = self._factor(path, t, own)
        a, b, c, d, c_in = self.prediction.coefficients(self.path, own)
        return Coefficients(k * a, b, k * c, d, k * c_in)

    def target(self, path: GaussianPath, t: Tensor, x0: Tensor, eps: Tensor) -> Tensor:
        return self.prediction.target(self.path, self.time(path, t), x0, eps)


def _flow(prediction: Prediction, path: GaussianPath, times: Tensor) -> tuple[Coefficients, Tensor, Tensor]:
    """The coefficients, and (p, q) of the velocity u = alpha' x0 + sigma' eps = p x + q F, F the output for c_in x."""
    k = prediction.coefficients(path, times)
    da, ds = path.alpha_dot(times), path.sigma_dot(times)
    return k, da * k.a + ds * k.c, da * k.b + ds * k.d


class At(NamedTuple):
    """Plain numbers of one time: x0 = a x + b F, eps = c x + d F and dx/dt = p x + q F, where F is the network's output for
    c_in x, and the path's alpha and sigma."""

    c_in: float
    a: float
    b: float
    c: float
    d: float
    p: float
    q: float
    alpha: float
    sigma: float


@lru_cache(maxsize=8)  # a table is as long as its plan
def _tabulated(prediction: Prediction, path: GaussianPath, times: tuple[float, ...]) -> tuple[At, ...]:
    """The numbers of each time. Kept, since samples are drawn in many batches."""
    t = torch.tensor(times, dtype=torch.float64)
    k, p, q = _flow(prediction, path, t)
    columns = [k.c_in, k.a, k.b, k.c, k.d, p, q, path.alpha(t), path.sigma(t)]  # as in `At`
    return tuple(At(*row) for row in torch.stack(columns, dim=1).tolist())


class Along:
    """A denoiser at fixed times, each a plain number and one of those given.

    alpha, sigma: (N + 1,) float64, of the times and, last, of the data: (1, 0).
    """

    def __init__(self, denoiser: Denoiser, times: Tensor, like: Tensor) -> None:
        self.net, self.y, self.guidance = denoiser.net, denoiser.y, denoiser.guidance
        self.reach, self.learned = denoiser.reach, denoiser.learned
        numbers = tuple(times.tolist())
        table = _tabulated(denoiser.prediction, denoiser.path, numbers)
        self.alpha = torch.tensor([*(at.alpha for at in table), 1.0], dtype=torch.float64)
        self.sigma = torch.tensor([*(at.sigma for at in table), 0.0], dtype=torch.float64)
        times = times.double().cpu()
        covered = [] if self.guidance is None else self.guidance.covers(denoiser.path, times).tolist()
        self._guided = frozenset(t for t, inside in zip(numbers, covered) if inside)
        clock = denoiser.clock(times).to(like.device, like.dtype)
        self._clock = dict(zip(numbers, clock[:, None].expand(-1, len(like)).contiguous().unbind()))
        self._table = dict(zip(numbers, table))

    def both(self, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """(x0, eps) at a state (B, ...) and a time. Where x0 is clipped, eps is what then gives back the state."""
        return self._both(x, t, self._out(x, t))

    def combined(self, x: Tensor, t: float, p: float, q: float) -> Tensor:
        """p x0 + q eps at a state and a time, with the numbers put together before the tensors where x0 is not clipped."""
        out = self._out(x, t)
        if self.reach == float("inf"):
            at = self._table[t]
            return _mix(x, p * at.a + q * at.c, out, p * at.b + q * at.d)
        x0, eps = self._both(x, t, out)
        return torch.add(x0 if p == 1.0 else p * x0, eps, alpha=q)

    def three(self, x: Tensor, t: float) -> tuple[Tensor, Tensor, Tensor]:
        """(x0, eps, v in [0, 1]) of a network that gives the variance too."""
        out, v = self._asked(x, t).chunk(2, dim=1)
        return *self._both(x, t, out), (v + 1) / 2

    def _both(self, x: Tensor, t: float, out: Tensor) -> tuple[Tensor, Tensor]:
        at = self._table[t]
        x0 = _mix(x, at.a, out, at.b)
        if self.reach == float("inf"):
            return x0, _mix(x, at.c, out, at.d)
        x0 = x0.clamp(-self.reach, self.reach)
        return x0, torch.sub(x, x0, alpha=at.alpha).div_(at.sigma)

    def x0(self, x: Tensor, t: float) -> Tensor:
        """The expected data alone, clipped as in `both`."""
        at = self._table[t]
        x0 = _mix(x, at.a, self._out(x, t), at.b)
        return x0 if self.reach == float("inf") else x0.clamp(-self.reach, self.reach)

    def eps(self, x: Tensor, t: float) -> Tensor:
        """The expected noise, of unclipped data."""
        at = self._table[t]
        return _mix(x, at.c, self._out(x, t), at.d)

    def velocity(self, x: Tensor, t: float) -> Tensor:
        """dx/dt; never clipped."""
        at = self._table[t]
        return _mix(x, at.p, self._out(x, t), at.q)

    def _out(self, x: Tensor, t: float) -> Tensor:
        out = self._asked(x, t)
        return out.chunk(2, dim=1)[0] if self.learned else out

    def _asked(self, x: Tensor, t: float) -> Tensor:
        """The network's output for a state, guided where guidance covers the time."""
        row, c_in = self._clock[t], self._table[t].c_in
        x = x if c_in == 1.0 else c_in * x
        if self.guidance is not None and t in self._guided:
            return self.guidance.ask(self.net, x, row, self.y)
        return self.net(x, row, self.y)


def _mix(x: Tensor, p: float, out: Tensor, q: float) -> Tensor:
    """p x + q out in as few operations as the numbers allow."""
    if p == 0.0:
        return out if q == 1.0 else q * out
    if q == 1.0:
        return torch.add(out, x, alpha=p)
    return (out * q).add_(x, alpha=p)
