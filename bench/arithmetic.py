"""How a run computes: the precision of its networks, and whether they are compiled. Set here and nowhere else.

    fp32   IEEE single precision everywhere
    tf32   on a GPU, products with 10 bits of mantissa on tensor cores; all else as fp32
    bf16   products inside networks in bfloat16 (autocast); weights, losses, norms, sums and all else as fp32

They hold for training and for sampling with fixed steps. Likelihoods, adaptive solvers, feature networks and metrics are
always IEEE fp32: TF32 moves a log density of 130 nats by 0.01, a hundred times what its tests allow. So is what
`Trainable.prepare` makes (reflow's pairs, latent codes): it is data, which is the same whatever precision learns from it.

What a paradigm can not have stays as it is, and the run and its rows say what they had: `Trainable.fp32` says why
bfloat16 is wrong for a class, `Trainable.eager` names the networks that can not be compiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn

from paradigms.backbones import bfloat16, is_network
from paradigms.contract import Trainable
from paradigms.core.noise import BLOCKS
from paradigms.core.plans import Plan
from paradigms.errors import BadInput, unknown
from paradigms.recipe import Recipe

__all__ = [
    "DTYPES",
    "USUAL",
    "Arithmetic",
    "card_of",
    "chosen",
    "compile_networks",
    "computing",
    "demand",
    "exact",
    "sampling",
]

DTYPES = {"fp32": "float32", "tf32": "tf32", "bf16": "bfloat16"}  # by precision: as rows have it
ADAPTIVE = frozenset({"rk45"})  # samplers whose steps follow their own error


@dataclass(frozen=True)
class Arithmetic:
    """What of a device enters the numbers that a run computes, and so its identity.

    precision: "fp32", "tf32" or "bf16". compiled: its networks are compiled for training. noise: the version of
    `noise.BLOCKS`, 1 on a CPU and 2 on a GPU. card: the model of GPU, as models differ in their noise (see there); "" on
    a CPU, and in runs from before it was recorded.
    """

    precision: str = "fp32"
    compiled: bool = False
    noise: int = 1
    card: str = ""

    def of(self, paradigm: type[Trainable]) -> Arithmetic:
        """What of it this paradigm can have."""
        precision = "fp32" if self.precision == "bf16" and paradigm.fp32 else self.precision
        return replace(self, precision=precision, compiled=self.compiled and "*" not in paradigm.eager)

    def identity(self) -> dict[str, object]:
        """What differs from a run on a CPU in fp32, whose name it leaves as it is."""
        return {name: value for name, value in vars(self).items() if value != getattr(USUAL, name)}


USUAL = Arithmetic()


def chosen(device: torch.device, precision: str = "fp32", compiled: bool = False) -> Arithmetic:
    """The arithmetic of runs on a device. Raises BadInput for what the device does not have."""
    if precision not in DTYPES:
        raise unknown("precision", precision, DTYPES)
    if precision == "tf32" and device.type != "cuda":
        raise BadInput("--precision tf32 is of GPUs, and the device is a CPU; take fp32 or bf16")
    if precision != "fp32" and device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        name = torch.cuda.get_device_name(device)
        raise BadInput(f"--precision {precision} is of newer GPUs than {name}; take fp32")
    return Arithmetic(precision, compiled, BLOCKS[device.type].version, card_of(device))


def card_of(device: torch.device) -> str:
    """The model of a GPU; "" for a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""


def demand(asked: Arithmetic, had: Arithmetic, recipe: Recipe) -> None:
    """Raises BadInput where a recipe that was asked for by itself can not have what was asked for."""
    if asked.precision != had.precision:
        raise BadInput(f"--precision {asked.precision}: {recipe.name} is not computed in it: {recipe.paradigm.fp32}")
    if asked.compiled and not had.compiled:
        raise BadInput(f"--compile: {recipe.name} can not be compiled, as its loss differentiates its network")


def exact() -> None:
    """IEEE fp32 on GPUs from here on, in products too, unless `computing` says otherwise."""
    _allow_tf32(False)


@contextmanager
def computing(precision: str, device: torch.device) -> Iterator[None]:
    """Networks compute in this precision inside the block."""
    with ExitStack() as stack:
        if precision == "tf32" and device.type == "cuda":
            stack.callback(_allow_tf32, False)
            _allow_tf32(True)
        if precision == "bf16":
            stack.enter_context(bfloat16(device.type))
        yield


def _allow_tf32(yes: bool) -> None:
    # By the older names: the compiler reads these, and refuses where only the newer ones were set.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = yes


def sampling(model: Trainable, plan: Plan, device: torch.device) -> AbstractContextManager[None]:
    """The block in which a model draws by a plan: in its own precision, an adaptive solver in fp32."""
    return computing("fp32" if plan.sampler in ADAPTIVE else model.precision, device)


def compile_networks(model: Trainable) -> list[nn.Module]:
    """Compiles the outermost networks of a model in place, when they are first called; returns those.

    Left out are those whose gradient is differentiated again or which are differentiated forward, as the compiler can not
    do either. Names and `state_dict` stay as they are.
    """
    networks: dict[str, nn.Module] = {}
    for name, module in model.core.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in networks)
        if is_network(module) and not inside and name.split(".")[0] not in model.core.eager:
            networks[name] = module
    for network in networks.values():
        network.compile()
    return list(networks.values())
