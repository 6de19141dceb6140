"""Pools of samples: what is drawn of a model, by which plans, and how many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bench import arithmetic
from bench.data import Dataset
from bench.tiers import Tier
from paradigms.backbones import count_calls
from paradigms.contract import Paradigm
from paradigms.core.data import Data, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Card, Plan
from paradigms.errors import BadInput

__all__ = [
    "NotFinite",
    "Pool",
    "chunk_size",
    "draw",
    "draws_of",
    "expected_calls",
    "pieces",
    "plans",
    "pool_labels",
    "pool_size",
]


@dataclass(frozen=True, eq=False)
class Pool:
    """Samples of one plan: x (N, *shape) as the data is stored, the labels they were drawn for, calls per sample."""

    plan: Plan
    x: Tensor
    y: Tensor | None
    calls: float | None


def pool_size(found: Dataset, tier: Tier) -> int:
    """How many samples of each plan stand against how many held-out examples; all rows of a data set alike."""
    return min(tier.mode_samples if found.stacked else tier.samples, len(found.test))


def chunk_size(space: Space, device: torch.device | str = "cpu") -> int:
    """Rows computed at once. A function of shape and kind of device alone, because the last bits of a product are not."""
    return min(4096, max(32, (2**14 if torch.device(device).type == "cpu" else 2**22) // space.dim))


def draws_of(card: Card, plan: Plan, tier: Tier) -> int:
    """How many disjoint sets a plan draws: several only the headline, where the tier can afford its calls."""
    return tier.draws if plan == card.default and expected_calls(card, plan) <= tier.max_calls else 1


def pool_labels(model: Paradigm, data: Data, n: int, seed: int) -> Tensor | None:
    """Labels (n,) in the proportions of the training split; None for a model that takes none."""
    if not model.space.classes or data.y is None:
        return None
    return data.y[Noise("labels", seed).integers(len(data.y), n)]


@torch.no_grad()
def draw(
    model: Paradigm,
    plan: Plan,
    n: int,
    seed: int,
    labels: Tensor | None = None,
    device: torch.device | str = "cpu",
    tell: Callable[[int], None] | None = None,
) -> Pool:
    """n samples of a plan, on the CPU. `tell` is given the number of samples drawn so far, after each chunk."""
    noise, size = Noise("sample", seed, device=device), chunk_size(model.space, device)
    parts: list[Tensor] = []
    with count_calls() as count, arithmetic.sampling(model, plan, torch.device(device)):
        for first in range(0, n, size):
            rows = min(size, n - first)
            z = model.prior(rows, noise.at("prior").rows(first))
            cond = None if labels is None else labels[first : first + rows].to(device)
            x = model.sample(z, plan, noise.at("steps").rows(first), cond)
            if tuple(x.shape) != (rows, *model.space.shape):
                raise BadInput(f"{plan}: samples have shape {tuple(x.shape)}, not {(rows, *model.space.shape)}")
            parts.append(model.space.decode(finite(x, plan)).cpu())
            if tell is not None:
                tell(first + rows)
    return Pool(plan, torch.cat(parts), labels, count.examples / n if count.calls else None)


def pieces(pool: Pool, n: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """A pool in disjoint sets of n samples, in the order in which they were drawn, with their labels."""
    for first in range(0, len(pool.x), n):
        yield pool.x[first : first + n], None if pool.y is None else pool.y[first : first + n]


class NotFinite(BadInput):
    """Samples or likelihoods are not numbers."""


def finite(x: Tensor, plan: Plan) -> Tensor:
    """x, where all of it is finite. Raises NotFinite."""
    if not torch.isfinite(x).all():
        raise NotFinite(f"{plan} drew samples that are not finite")
    return x


def plans(card: Card, max_calls: int, sweep: str) -> list[Plan]:
    """What is drawn: the headline plan, always and first; in a sweep every step count within the calls.

    sweep: "" for none, "main" for the samplers that the card says a short one tries, "all" for every sampler.
    """
    found = [card.default]
    seen = {_identity(card, card.default)}
    for sampler in card.samplers:
        if not sweep or (sweep == "main" and not sampler.main):
            continue
        for steps in sampler.steps:
            plan, calls = Plan(sampler.name, steps), sampler.calls_at(steps)
            if (calls is None or calls <= max_calls) and _identity(card, plan) not in seen:
                seen.add(_identity(card, plan))
                found.append(plan)
    return found


def _identity(card: Card, plan: Plan) -> tuple[object, ...]:
    """Equal for two plans that draw the same way: an option at its default may be written or not."""
    sampler = card.sampler(plan.sampler)
    options = {**(dict(sampler.options) if sampler else {}), **dict(plan.options)}
    return plan.sampler, plan.steps, tuple(sorted(options.items()))


def expected_calls(card: Card, plan: Plan) -> float:
    """Network calls of a sample, for the display of progress: 100 where an adaptive solver decides."""
    sampler = card.sampler(plan.sampler)
    calls = sampler.calls_at(plan.steps) if sampler else None
    return 100.0 if calls is None else max(1, calls)
