"""What a computation draws: a ledger of random numbers by the place that opened their stream and the place that drew them.

An *address* is where a number comes from: the seed that its generator had and its row in the block drawn from it. Two
draws with one address are one number; draws whose addresses differ are independent. So what a draw depends on can be
asked of its addresses, whatever becomes of the numbers.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import paradigms
from paradigms.core.noise import Noise

ROOT = Path(paradigms.__file__).parents[1]
NOISE = "paradigms/core/noise.py"
# Functions that seed or draw for their callers, who are the place that a draw belongs to.
PASSED_ON = {"bench/loop.py:_seed", "bench/loop.py:seeded", "bench/runs/budget.py:build"}
# Calls that open a stream, and calls that draw from one.
OPENS = {"Noise", "seed_of", "Generator", "manual_seed", "seeded", "_seed", "RandomState", "default_rng", "Philox"}
OPENS |= {"SeedSequence", "PCG64"}
DRAWS = {
    "normal",
    "uniform",
    "rademacher",
    "integers",
    "randn",
    "rand",
    "randint",
    "randperm",
    "randn_like",
    "rand_like",
}
DRAWS |= {"randint_like", "multinomial", "bernoulli", "bernoulli_", "normal_", "uniform_", "random_", "exponential_"}
DRAWS |= {"poisson", "choice", "shuffle", "permutation", "standard_normal", "rrelu", "gumbel_softmax", "rsample"}


# ----------------------------------------------------------------------------------------------------- the sources


def places(code: ast.AST) -> Iterator[tuple[str, bool]]:
    """The functions that open a stream (True) or draw from one (False), by their names; "" outside of all functions."""
    inside: list[tuple[ast.AST, str]] = [(code, "")]
    while inside:
        parent, name = inside.pop()
        for node in ast.iter_child_nodes(parent):
            inner = name
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{name}.{node.name}".removeprefix(".")
            if isinstance(node, ast.Call):
                called = getattr(node.func, "attr", getattr(node.func, "id", ""))
                initial = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value).endswith("init")
                if called in OPENS or any(k.arg in ("random_state", "generator") for k in node.keywords):
                    yield inner, True
                elif called in DRAWS and not initial:  # initial weights are drawn where a model is built
                    yield inner, False
            inside.append((node, inner))


# ------------------------------------------------------------------------------------------------------ the ledger


def place() -> str:
    """The innermost function of the product that is running, "file:name", short of those in PASSED_ON."""
    frame = sys._getframe(1)
    while frame is not None:
        found = _named(frame.f_code)
        if found and found not in PASSED_ON:
            return found
        frame = frame.f_back
    return ""


@functools.cache
def _named(code: Any) -> str:
    path = Path(code.co_filename)
    if ROOT not in path.parents:
        return ""
    file = path.relative_to(ROOT).as_posix()
    if file == NOISE or not file.startswith(("paradigms/", "bench/")):
        return ""
    parts = [part for part in code.co_qualname.split(".") if not part.startswith("<")]
    return f"{file}:{'.'.join(parts)}"


class Ledger:
    """book: by (where the stream was opened, where it was drawn from) the addresses, in the order of the draws."""

    closed = False

    def __init__(self) -> None:
        self.book: dict[tuple[str, str], list[int]] = defaultdict(list)

    def note(self, root: str, addresses: list[int]) -> None:
        if root and not Ledger.closed:  # else a test draws for itself
            self.book[root, place()] += addresses

    def seed(self, address: int) -> None:
        """A generator of torch or NumPy is given a seed."""
        self.note(place(), [address])

    @property
    def roots(self) -> set[str]:
        return {root for root, _ in self.book}

    @property
    def seen(self) -> set[str]:
        return {one for pair in self.book for one in pair}

    def of(self, root: str) -> dict[str, set[int]]:
        """By place the addresses drawn from streams that were opened at `root`."""
        return {by: set(found) for (opened, by), found in self.book.items() if opened == root}

    def repeated(self) -> set[str]:
        """The places that drew a number which had been drawn already."""
        known, again = set[int](), set[str]()
        for (_, by), found in self.book.items():
            fresh = set(found)
            if len(fresh) < len(found) or fresh & known:
                again.add(by)
            known |= fresh
        return again


@contextmanager
def unnoted() -> Iterator[None]:
    """While it holds, nothing is noted: what a test makes for itself."""
    Ledger.closed = True
    try:
        yield
    finally:
        Ledger.closed = False


def _address(seed: object, row: int = 0) -> int:
    return int.from_bytes(hashlib.blake2b(repr(seed).encode(), digest_size=6).digest(), "big") * 2**13 + row


@contextmanager
def ledger() -> Iterator[Ledger]:
    """Notes every draw from `Noise` and every seed given to a generator, of torch or NumPy, while it holds."""
    kept = Ledger()
    born, draw = Noise.__init__, Noise._draw

    def init(self: Noise, *coords: object, **named: Any) -> None:
        born(self, *coords, **named)
        self.opened = place()  # type: ignore[attr-defined]

    def derived(method: Any) -> Any:
        def of(self: Noise, *given: Any) -> Noise:
            found = method(self, *given)
            found.opened = self.opened
            return found

        return of

    def drawn(self: Noise, shape: tuple[int, ...], numbers: Any) -> Tensor:
        """Draws the addresses first, by the same code: in place of its numbers each row of a block has where it is from."""
        before = self._draws

        def addresses(block: tuple[int, ...]) -> Tensor:
            return torch.arange(block[0]) + _address(self._generator.initial_seed())

        kept.note(self.opened, draw(self, shape, addresses).tolist())  # type: ignore[attr-defined]
        self._draws = before
        return draw(self, shape, numbers)

    class Generator(torch.Generator):
        def manual_seed(self, seed: int) -> torch.Generator:
            if not sys._getframe(1).f_code.co_filename.endswith(NOISE):
                kept.seed(_address(seed))
            return super().manual_seed(seed)

    def seeding(seed_it: Any) -> Any:
        def seeds(seed: Any = None, **named: Any) -> Any:
            kept.seed(_address((seed, named)))
            return seed_it(seed, **named) if seed is not None else seed_it(**named)

        return seeds

    class Default:
        """torch's default generator, whose seeds are noted."""

        manual_seed = staticmethod(seeding(torch.default_generator.manual_seed))

        def __getattr__(self, name: str) -> Any:
            return getattr(torch._C.default_generator, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Noise, "__init__", init)
        patch.setattr(Noise, "_draw", drawn)
        for name in ("rows", "at"):
            patch.setattr(Noise, name, derived(getattr(Noise, name)))
        patch.setattr(torch, "Generator", Generator)
        patch.setattr(torch, "manual_seed", seeding(torch.manual_seed))
        patch.setattr(torch, "default_generator", Default())
        for name in ("RandomState", "Philox"):
            patch.setattr(np.random, name, seeding(getattr(np.random, name)))
        yield kept
