"""Counts floating-point operations: of a sampler, or of a training step with its backward and double-backward passes.

torch's own FlopCounterMode fails on gradient penalties (its module hooks meet `autograd.grad`), so this is a bare
dispatch mode over the same formulas. Two FLOPs a multiply-add; only matrix products, convolutions and attention count,
as everywhere in the field. What the registry lacks (attention on a CPU, matrix times vector) is added here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from paradigms.contract import Trainable
from paradigms.core.data import Batch
from paradigms.core.noise import Noise

__all__ = ["PROGRESS", "FlopCount", "keep_generators", "of_step", "of_training_step"]

aten = torch.ops.aten

# Where in training a step is looked at: what a step does may change as training goes on.
PROGRESS = (0.0, 0.25, 0.5, 0.75, 1.0)


def _attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, out_val: Any = None, **__: Any) -> int:
    return sdpa_flop_count(q.shape, k.shape, v.shape)


def _attention_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any, out_val: Any = None, **__: Any) -> int:
    return sdpa_backward_flop_count(grad.shape, q.shape, k.shape, v.shape)


def _matrix_vector(a: Tensor, *_: Any, out_val: Any = None) -> int:
    return 2 * a.numel()


def _added_matrix_vector(_: Tensor, a: Tensor, *__: Any, out_val: Any = None, **___: Any) -> int:
    return 2 * a.numel()


_FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten.mv: _matrix_vector,
    aten.dot: _matrix_vector,
    aten.addmv: _added_matrix_vector,
}


class FlopCount(TorchDispatchMode):
    """Counts what runs inside it: `with FlopCount() as count: ...; count.total`. `by_op` splits the total."""

    def __init__(self) -> None:
        super().__init__()
        self.by_op: Counter[str] = Counter()

    @property
    def total(self) -> int:
        return sum(self.by_op.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        formula = _FORMULAS.get(packet)
        if formula is None:
            # Under inference mode a composite operation arrives whole; its parts are what is counted.
            if func is not torch.ops.prim.device.default:
                with self:
                    parts = func.decompose(*args, **kwargs)
                if parts is not NotImplemented:
                    return parts
            return func(*args, **kwargs)
        out = func(*args, **kwargs)
        self.by_op[packet.__name__] += formula(*args, **kwargs, out_val=out)
        return out


@contextmanager
def keep_generators(device: torch.device) -> Iterator[None]:
    """Gives torch's global generators back as they were: what runs inside may seed them and draw."""
    cpu = torch.default_generator.get_state()
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        yield
    finally:
        torch.default_generator.set_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)


def of_step(model: Trainable, batch: Batch, progress: float, noise: Noise) -> int:
    """FLOPs of one training step at `progress`: every update of it, forward and backward.

    Leaves nothing behind: no gradient, no optimizer step, no changed buffer, no draw from a global generator.
    """
    parameters = {module: [p for g in o.param_groups for p in g["params"]] for module, o in model.optimizers().items()}
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    with keep_generators(batch.x.device), FlopCount() as count:
        for update in model.updates(batch, progress, noise):
            torch.autograd.grad(update.loss, parameters[update.module], allow_unused=True)
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
    return count.total


def of_training_step(model: Trainable, batch: Batch, noise: Noise) -> float:
    """FLOPs of a training step averaged over the course of training (`PROGRESS`)."""
    return sum(of_step(model, batch, progress, noise.at(progress)) for progress in PROGRESS) / len(PROGRESS)
