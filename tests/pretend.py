"""A pretend CUDA device on a machine without one.

A `Pretended` tensor computes on the CPU, says that it lies on `cuda:0`, and raises as CUDA would where an operation meets
a CPU tensor that has dimensions. `Counts` tells the operations asked of the device and the times that the host waits for
it. Values are real, so that code whose path depends on them runs too.

Not provable here: which kernels a card picks, what they round to, and speed. Forward-mode differentiation does not pass
through tensor subclasses, so `mean-flow` trains only on a real device (`python -m bench.gpu_check`).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

CUDA = torch.device("cuda:0")
ROOT = Path(__file__).parents[1]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Operations that launch nothing: they only look at memory in another way, or reserve it.
_FREE = _names(
    "view _unsafe_view reshape transpose t permute expand slice select split split_with_sizes unbind unsqueeze squeeze "
    "detach alias as_strided lift_fresh unfold diagonal chunk _reshape_alias movedim unflatten view_as_real empty "
    "empty_like new_empty empty_strided new_empty_strided is_pinned sym_size _local_scalar_dense record_stream"
)
# Operations whose result's shape depends on values, which the host has to wait for.
_WAITS = _names("nonzero masked_select unique _unique2 unique_dim bincount equal repeat_interleave")
_BY_MASK = _names("index index_put index_put_ _index_put_impl_")


@dataclass
class Counts:
    """ops: operations that launch kernels. draws: those of them that draw numbers. waits: of the host for the device."""

    ops: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)

    @property
    def draws(self) -> int:
        return sum(count for name, count in self.ops.items() if name in ("randn", "rand", "randint"))

    def wait(self, kind: str) -> None:
        self.waits[f"{kind} {_place()}"] += 1


_counts = Counts()


def _place() -> str:
    """The line of the project that is being run."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if ROOT in path.parents and path.name != "pretend.py":
            return f"{path.relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


def _each(change: Callable[[Tensor], Any], value: Any) -> Any:
    """The same value with every tensor changed, also those in tuples and lists.

    An operation's arguments hold no other containers. `tree_map`, which looks for all that there are, was most of the time
    of an operation.
    """
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple | list):
        parts = [_each(change, part) for part in value]
        return parts if isinstance(value, list) else tuple(parts)
    return value


def _on_cpu(args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return _each(_inner, args), {name: _each(_inner, value) for name, value in kwargs.items()}


class Pretended(Tensor):
    """A tensor on the pretend device; `inner` holds its values on the CPU."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> Pretended:
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=inner.device,
        )
        made.inner = inner
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Pretended({self.inner!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copy: Tensor = Pretended(self.inner.detach().clone(memory_format=torch.preserve_format))
            memo[id(self)] = nn.Parameter(copy, self.requires_grad) if isinstance(self, nn.Parameter) else copy
        return memo[id(self)]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.ops.prim.device.default:
            return CUDA
        name = func._overloadpacket.__name__
        tensors = list[Tensor]()
        _each(tensors.append, (*args, *kwargs.values()))
        ours = [t for t in tensors if isinstance(t, Pretended)]
        elsewhere = [t for t in tensors if not isinstance(t, Pretended) and t.dim() and t.device.type == "cpu"]
        if name == "copy_":
            if len(ours) == 1:
                _counts.wait("copy_")
            to = args[0]
            args, kwargs = _on_cpu(args, kwargs)
            func(*args, **kwargs)
            return to
        if name in _BY_MASK and not isinstance(args[0], Pretended):
            raise RuntimeError(f"{name}: a CPU tensor is indexed by one on {CUDA}")
        if name in _BY_MASK and elsewhere:
            _counts.wait("index on the CPU")
        elif elsewhere and not all(_autograd_zeros(name, t) for t in elsewhere):
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found {CUDA} and cpu ({name}, {_place()})"
            )
        if name in ("_local_scalar_dense", *_WAITS) or (name in _BY_MASK and _masked(args[1])):
            _counts.wait(name)
        if name not in _FREE:
            _counts.ops[name] += 1
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        args, kwargs = _on_cpu(args, kwargs)
        out = func(*args, **kwargs)
        known = {id(t.inner): t for t in ours}  # what was changed in place stays the tensor that it was

        def outer(made: Tensor) -> Tensor:
            return made if isinstance(made, Pretended) else known[id(made)] if id(made) in known else Pretended(made)

        return _each(outer, out)


def _inner(leaf: Any) -> Any:
    return leaf.inner if isinstance(leaf, Pretended) else leaf


def _masked(index: Any) -> bool:
    return any(isinstance(t, Tensor) and t.dtype in (torch.bool, torch.uint8) for t in index)


def _autograd_zeros(name: str, t: Tensor) -> bool:
    """Zeros that autograd makes for an output nobody used: it asks a subclass's CPU half for them, not the device."""
    return name == "cat" and not t.any()


class _Here(torch.autograd.Function):
    """To the device, with a gradient that comes back from it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return Pretended(x.detach())

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return _inner(g)


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


class _Factories(TorchFunctionMode):
    """Makes new tensors on the pretend device where they are asked for there, and moves those that are asked to move."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        first = args[0] if args else None
        if name in ("to", "cpu", "cuda") and isinstance(first, Tensor):
            return self._moved(func, name, first, list(args[1:]), kwargs)
        if isinstance(first, Pretended) and name == "tolist":
            _counts.wait("tolist")
            return first.inner.tolist()
        if isinstance(first, Pretended) and name == "numpy":
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        if isinstance(first, Pretended) and name == "pin_memory":
            return first
        if isinstance(first, Pretended) and name == "new_tensor":
            _counts.wait("new_tensor")
            return Pretended(torch.tensor(args[1], dtype=kwargs.get("dtype", first.dtype)))
        if (
            isinstance(first, Pretended) and name == "one_hot"
        ):  # its parts would be made where the values are, on the CPU
            _counts.ops[name] += 1
            return Pretended(func(first.inner, *args[1:], **kwargs))
        if not _is_cuda(kwargs.get("device")):
            return func(*args, **kwargs)
        kwargs["device"] = "cpu"
        out = func(*args, **kwargs)
        if name in ("tensor", "as_tensor"):
            _counts.wait(name)  # a copy from the host
        elif not name.startswith("empty"):
            _counts.ops[name] += 1
        return tree_map(lambda t: Pretended(t) if isinstance(t, Tensor) and not isinstance(t, Pretended) else t, out)

    def _moved(self, func: Any, name: str, x: Tensor, rest: list[Any], kwargs: dict[str, Any]) -> Tensor:
        device = {"cpu": "cpu", "cuda": "cuda"}.get(name) or kwargs.pop("device", None)
        waits = not kwargs.pop("non_blocking", False)
        if rest and isinstance(rest[0], (torch.device, str)):
            device = rest.pop(0)
        elif rest and isinstance(rest[0], Tensor):
            other = rest.pop(0)
            device, rest = other.device, [other.dtype, *rest]
        out = x.to(*rest, **kwargs) if rest or (kwargs and name == "to") else x
        if device is None or _is_cuda(device) == isinstance(x, Pretended):
            return out
        if _is_cuda(device):
            _counts.ops["to the device"] += 1
            if waits:
                _counts.wait("to the device")
            return _Here.apply(out)  # type: ignore[no-any-return, no-untyped-call]
        if waits:
            _counts.wait("to the host")
        return _inner(out).clone()


def put(model: nn.Module) -> nn.Module:
    """Moves a model's parameters and buffers onto the pretend device, in place; shared ones stay shared."""
    memo: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None and not isinstance(p, Pretended):
                if id(p) not in memo:
                    memo[id(p)] = nn.Parameter(Pretended(p.detach()), requires_grad=p.requires_grad)
                module._parameters[name] = memo[id(p)]
        for name, b in module._buffers.items():
            if b is not None and not isinstance(b, Pretended):
                module._buffers[name] = Pretended(b.detach())
    return model


@contextmanager
def counted() -> Iterator[Counts]:
    """What is asked of the device inside."""
    global _counts
    before, _counts = _counts, Counts()
    try:
        yield _counts
    finally:
        _counts = before


@contextmanager
def device() -> Iterator[torch.device]:
    """The pretend device, for as long as the block lasts."""
    with _Factories():
        yield CUDA
