"""The machine that a run is on: its devices, what of it goes into rows, and the version of the code."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import re
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from bench.arithmetic import DTYPES, card_of, exact
from bench.tiers import Budget
from bench.workers import cores
from paradigms.backbones.build import plugin_files
from paradigms.errors import BadInput, unknown
from paradigms.plugins import foreign_file
from paradigms.recipe import Recipe

__all__ = ["code_version", "device_for", "device_name", "device_of", "environment", "gpus_of"]

_log = logging.getLogger(__name__)


SMALL, MANY = 500_000, 8  # parameters and CPU cores: see `device_for`


def environment(
    device: torch.device, threads: int, recipe: Recipe | None = None, precision: str = "fp32", config: Any = None
) -> dict[str, Any]:
    """What a number depends on besides the run: device, threads, number format, versions, code.

    recipe, config: whose plugins' files are part of the code.
    """
    return {
        "device": device.type,
        "device_name": device_name(device),
        "threads": threads,
        "dtype": DTYPES[precision],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "code": code_version(recipe, config),
    }


def device_of(name: str) -> torch.device:
    """ "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:1". Raises BadInput for what this machine lacks."""
    try:
        device = torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    except RuntimeError:
        raise unknown("device", name, ("auto", "cpu", "cuda")) from None
    if device.type not in ("cpu", "cuda"):
        raise unknown("device", name, ("auto", "cpu", "cuda"))
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadInput(f"device '{name}' is not there: torch sees {torch.cuda.device_count()} GPUs; use --device cpu")
    if device.type == "cuda":
        exact()
    return device


def device_for(name: str, budget: Budget) -> tuple[torch.device, str]:
    """The device of runs, with a line on how it was chosen where that was left open. Raises as `device_of`.

    auto: the CPU for networks so small that a GPU would only wait for its next launch (a step of 0.3M parameters takes
    one some 2.5 ms, as long as seven CPU cores) where the machine has the cores for it; else a GPU where there is one.
    """
    if name != "auto" or not torch.cuda.is_available():
        return device_of(name), ""
    many = cores()
    if budget.params < SMALL and many >= MANY:
        why = f"the {many} CPU cores, as networks of {budget.params:,} parameters would leave a GPU idle"
        return device_of("cpu"), f"--device auto: {why}; --device cuda takes it all the same"
    return device_of("cuda"), f"--device auto: {device_name(torch.device('cuda'))}"


def gpus_of(device: torch.device) -> list[str]:
    """The GPUs that "cuda" or "cuda:N" stands for, each as CUDA_VISIBLE_DEVICES would name it.

    "cuda" is all that are visible and of the first one's model: the runs of a suite have the noise of one (see `Arithmetic`).
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    names = [name.strip() for name in visible.split(",")][:count] if visible else [str(k) for k in range(count)]
    if device.index is not None:
        return [names[device.index]]
    models = [card_of(torch.device("cuda", k)) for k in range(count)]
    if others := sorted({model for model in models if model != models[0]}):
        _log.warning(
            f"warning: only {models[0]} is used, as noise on {', '.join(others)} is not the same; --device cuda:N takes one"
        )
    return [name for name, model in zip(names, models) if model == models[0]]


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine() or "cpu"


@lru_cache
def _code_here() -> str:
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    found = (path for part in ("paradigms", "bench") for path in (root / part).rglob("*.py"))
    apart = {root / "bench" / "lab", root / "paradigms" / "testing"}  # which train nothing
    for path in sorted(path for path in found if apart.isdisjoint(path.parents)):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def code_version(recipe: Recipe | None = None, config: Any = None) -> str:
    """Short sha256 over the sources of paradigms/ and bench/ but what trains nothing, and over a run's plug-ins.

    recipe: whose file is one. config: its settings, or run.json's, which may name a backbone that is one.
    """
    files = [] if config is None else sorted(plugin_files(config))
    own = foreign_file(recipe.paradigm) if recipe is not None else None
    if own is not None:
        files.insert(0, own)
    if not files:
        return _code_here()
    return hashlib.sha256(_code_here().encode() + b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
