"""How a model gets from noise to data, as a picture: the strips of diffusion papers, and for the plane its flow of density.

Images: the data noised along the model's path, what the model makes of each of those ("x0 of x_t"), and the states of
the sampler. Points of the plane: the density over time, forward and back, and the paths of single points. What a sampler
passes through is what it tells its `watch`; the forward way is known of models with a `denoiser` or a map to the data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench import arithmetic
from bench.data import Dataset
from bench.scores import in_columns, subset
from bench.store import write_atomic
from paradigms.contract import Denoises, Jumps, Paradigm
from paradigms.core.data import Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Plan
from paradigms.errors import BadInput
from paradigms.maths.paths import GaussianPath, expand
from reports.strips import Strip, panels, strips

__all__ = ["Trajectory", "draw", "follow"]

COLUMNS = 9  # states shown
ROWS = 4  # examples shown of each strip of images
POINTS = 4000  # of the plane


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Where a sampler went: times (K,) falling, and the states there (K, n, *shape)."""

    times: tuple[float, ...]
    states: Tensor


@torch.no_grad()
def follow(
    model: Paradigm, plan: Plan, n: int, seed: int, labels: Tensor | None = None, device: torch.device | str = "cpu"
) -> Trajectory:
    """n samples of a plan with every state that the sampler tells of. Raises BadInput where it tells of none."""
    seen: list[tuple[float, Tensor]] = []
    noise = Noise("sample", seed, device=device)
    with arithmetic.sampling(model, plan, torch.device(device)):
        z = model.prior(n, noise.at("prior"))
        x = model.sample(z, plan, noise.at("steps"), labels, lambda t, x: seen.append((t, x.cpu().clone())))
    if len(seen) < 2:
        raise BadInput(f"{plan} goes from noise to data in one step, without states between: there is no trajectory")
    if seen[-1][0] > 0:
        seen.append((0.0, x.cpu()))
    return Trajectory(tuple(t for t, _ in seen), torch.stack([x for _, x in seen]))


def draw(
    model: Paradigm,
    plan: Plan,
    found: Dataset,
    name: str,
    seed: int,
    labels: Callable[[int], Tensor | None],
    to: Path,
    device: torch.device | str = "cpu",
) -> Trajectory:
    """Follows samples of a plan and writes the picture (.png, .svg or .pdf); `labels(n)` are those to draw for."""
    n = ROWS if found.space.is_image else POINTS
    if not found.space.is_image and found.space.dim != 2:
        raise BadInput(
            f"'{found.name}' has {found.space.dim} dimensions; trajectories are drawn of images and of the plane"
        )
    way = follow(model, plan, n, seed, labels(n), device)
    kind = to.suffix.lower().lstrip(".") or "png"
    parts = _forward(model, found, n, device)
    back = _shown(way)
    if found.space.is_image:
        shown = [Strip(title, times, _pixels(states, found.space)) for title, times, states in parts]
        shown.append(Strip(f"{plan}: x_t", back.times, _pixels(back.states, found.space)))
        picture = strips(f"{name} on {found.name}", shown, kind)
    else:
        shown = [Strip(title, times, in_columns(states, found).numpy()) for title, times, states in parts]
        shown.append(Strip(f"{plan}: x_t", back.times, in_columns(back.states, found).numpy()))
        lines = in_columns(way.states[:, :100], found).numpy()
        picture = panels(f"{name} on {found.name}", shown, lines, kind)
    write_atomic(to, picture)
    return way


def _shown(way: Trajectory) -> Trajectory:
    """About as many states as there are columns, evenly chosen, both ends among them."""
    index = np.unique(np.linspace(0, len(way.times) - 1, COLUMNS).round().astype(int))
    return Trajectory(tuple(way.times[i] for i in index), way.states[torch.from_numpy(index)])


@torch.no_grad()
def _forward(
    model: Paradigm, found: Dataset, n: int, device: torch.device | str
) -> list[tuple[str, tuple[float, ...], Tensor]]:
    """The data noised along the model's path, from noise to data, and what the model makes of each state."""
    data = subset(found.test, n, found.name, "trajectory")
    x, y = (
        model.to_core(data.all().x.to(device)),
        data.y.to(device) if data.y is not None and model.space.classes else None,
    )
    path: GaussianPath
    core = model.core
    if isinstance(core, Jumps):
        path, ends, guess = core.path, (1.0, 0.0), lambda x_t, t: core.jump_to_data(x_t, t, y)
        title = "where its map takes each: f(x_t, t)"
    elif isinstance(core, Denoises):
        d = core.denoiser(y)
        path, ends, guess = d.path, (d.t_max, d.t_min), lambda x_t, t: d.both(x_t, t)[0]
        title = "what it expects of each: x0"
    else:
        return []
    times = torch.linspace(*ends, COLUMNS, dtype=torch.float64).tolist()
    eps = Noise("trajectory", device=device).normal(*x.shape)
    noised, guessed = [], []
    for t in times:
        row = x.new_full((len(x),), t)
        x_t = path.perturb(x, eps, row)
        noised.append(model.from_core(_unit(path, x_t, row)).cpu())
        guessed.append(model.from_core(guess(x_t, row)).cpu())
    return [("data, noised: x_t", tuple(times), torch.stack(noised)), (title, tuple(times), torch.stack(guessed))]


def _unit(path: GaussianPath, x_t: Tensor, t: Tensor) -> Tensor:
    """x_t on the scale of the data, where noise explodes as where it does not."""
    return x_t / expand(torch.hypot(path.alpha(t), path.sigma(t)), x_t)


def _pixels(states: Tensor, space: Space) -> np.ndarray:
    """(K, n, C, H, W) on [-1, 1], clipped, as (K, n, H, W, C) in [0, 1]."""
    scale = states.flatten(1).abs().amax(1).clamp_min(1.0) if states.abs().max() > 10 else torch.ones(len(states))
    x = states / scale.reshape(-1, 1, 1, 1, 1)
    return ((x.clamp(-1, 1) + 1) / 2).permute(0, 1, 3, 4, 2).numpy()
