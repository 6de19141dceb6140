"""The networks all paradigms draw on: one U-Net, one ResNet encoder/decoder pair, one residual MLP, sized by `width`.

`Backbone` marks what counts as one network call; `count_calls` counts them, wherever they are made. The networks of a model
that has no `Backbone` in it count as well (`mark_networks`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["Backbone", "Calls", "bfloat16", "count_calls", "is_network", "mark_networks"]


class Backbone(nn.Module):
    """A network whose forward pass is one *network call* in the tables.

    Inside `bfloat16` the outermost one computes its products in that format and returns float32.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        device = _lower[-1] if _lower else None
        if device is None or torch.is_autocast_enabled(device):
            return super().__call__(*args, **kwargs)
        with torch.autocast(device, torch.bfloat16):
            out = super().__call__(*args, **kwargs)
        return tree_map(
            lambda leaf: leaf.float() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, out
        )


_lower: list[str | None] = []  # kinds of device, innermost block last


@contextmanager
def bfloat16(device: str | None) -> Iterator[None]:
    """Networks on this kind of device ("cpu", "cuda") compute their products in bfloat16 inside the block; None: none do."""
    _lower.append(device)
    try:
        yield
    finally:
        _lower.pop()


def mark_networks(model: nn.Module) -> None:
    """Makes the modules right inside a model that have parameters count as networks, where no `Backbone` is in it."""
    if not any(isinstance(module, Backbone) for module in model.modules()):
        _mark(model)


def _mark(holder: nn.Module) -> None:
    for child in holder.children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            _mark(child)  # it has no forward pass of its own
        elif any(True for _ in child.parameters()):
            child.is_network = True  # type: ignore[assignment]  # kept by copies of the model


def is_network(module: nn.Module) -> bool:
    """Whether its forward pass is one network call."""
    return isinstance(module, Backbone) or "is_network" in module.__dict__


class Calls:
    """`calls`: forward passes of outermost networks that returned; `examples`: the rows they were given, summed."""

    def __init__(self) -> None:
        self.calls = 0
        self.examples = 0
        self._depth = 0

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if is_network(module):
            self._depth += 1

    def _leave(self, module: nn.Module, args: tuple[Any, ...], *rest: Any) -> None:
        if not is_network(module):
            return
        self._depth -= 1
        if self._depth == 0 and len(rest) == 2:  # keyword arguments and output; torch gives no keywords where it raised
            self.calls += 1
            given = tree_leaves((args, rest[0]))
            self.examples += next((len(x) for x in given if isinstance(x, Tensor) and x.dim()), 0)


@contextmanager
def count_calls() -> Iterator[Calls]:
    """Counts the network calls made inside the block, by whichever model (a parent's calls count as well)."""
    calls = Calls()
    before = register_module_forward_pre_hook(calls._enter)
    after = register_module_forward_hook(calls._leave, with_kwargs=True, always_call=True)
    try:
        yield calls
    finally:
        before.remove()
        after.remove()
