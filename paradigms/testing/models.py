"""Small models of any recipe, examples to train them on, and the step that a trainer takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from paradigms import catalogue
from paradigms.contract import Frozen, Trainable, Update
from paradigms.core.data import Batch, Pairs, Space
from paradigms.core.noise import Noise
from paradigms.recipe import Recipe

__all__ = ["build", "changed", "descend", "examples", "examples_for", "names_of", "shake", "state_of", "train_a_little"]

Model = TypeVar("Model", bound=nn.Module)


def shake(model: Model, scale: float = 0.1, seed: int = 0) -> Model:
    """Moves every parameter a little, so that branches which start silent speak."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator))
    return model


def build(
    recipe: Recipe | str, space: Space, width: int = 8, seed: int = 0, config: Any = None, shaken: bool = True
) -> Any:
    """A small model with the initial weights of a seed; the parents it needs are built and shaken first."""
    recipe = catalogue.get(recipe) if isinstance(recipe, str) else recipe
    parents = {role: Frozen(build(need.recipe, space, width, seed)) for role, need in recipe.needs.items()}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # Of vectors the paradigm proper: the map around it has tests of its own (test_standardise.py).
        model = recipe.build(space, width, parents, config).core
    return shake(model, seed=seed) if shaken else model


def examples(space: Space, n: int = 4, seed: int = 0) -> Batch:
    """n examples of a space: bin centres where it has levels, labels where it has classes, and noise to go with them."""
    generator = torch.Generator().manual_seed(seed)
    if space.levels:
        x = space.encode(torch.randint(space.levels, (n, *space.shape), generator=generator))
    else:
        x = torch.randn(n, *space.shape, generator=generator)
    y = torch.randint(space.classes, (n,), generator=generator) if space.classes else None
    return Pairs(x, y, torch.randn(n, *space.shape, generator=generator))


def examples_for(model: Trainable, n: int = 4, seed: int = 0) -> Batch:
    """n examples as `prepare` would have the model train on them: codes, where it trains on such."""
    x, y = batch = examples(model.space, n, seed)
    codes: Callable[[Tensor, Tensor | None], Tensor] | None = getattr(model, "codes", None)
    return batch if codes is None else Batch(codes(x, y), y)


def descend(optimizers: Mapping[nn.Module, Optimizer], update: Update) -> list[nn.Parameter]:
    """What a trainer does with an update, short of `after`; returns the parameters it may have moved."""
    optimizer = optimizers[update.module]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for group in optimizer.param_groups:
        group.update(update.settings)
    optimizer.zero_grad(set_to_none=True)
    update.loss.backward(inputs=parameters)
    optimizer.step()
    return parameters


def train_a_little(model: Trainable, steps: int = 2, n: int = 4) -> Trainable:
    """A few steps on random examples, in order to leave the initial state."""
    optimizers = model.optimizers()
    for k in range(steps):
        for update in model.updates(examples_for(model, n, seed=k), k / steps, Noise("train", k)):
            descend(optimizers, update)
            if update.after is not None:
                update.after()
    return model


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter and buffer by name."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict(keep_vars=True).items()}


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    """The names of what is not the same, bit for bit, in two states of one model."""
    return {name for name in before.keys() | after.keys() if not _equal(before.get(name), after.get(name))}


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and torch.equal(a, b)


def names_of(model: nn.Module, parameters: Iterable[nn.Parameter]) -> set[str]:
    """What the model calls these parameters."""
    wanted = {id(p) for p in parameters}
    return {name for name, p in model.named_parameters() if id(p) in wanted}
