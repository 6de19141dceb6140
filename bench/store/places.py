"""Which run, data set or key a file or a folder belongs to."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from bench.store.files import damaged
from bench.store.sealed import parse
from bench.store.typed import fits
from reports.layout import BASELINES, INFO

__all__ = ["OF", "baselines_of", "belongs", "metadata", "misplaced", "owner"]

OF = "of"  # the key of what a file is the file of


def belongs(path: Path, named: object, of: str) -> None:
    """Compares what a file says it is the file of with what it is read as. Raises BadInput as for a damaged one."""
    if named != of:
        says = f"is of '{named}'" if named else "does not say what it is of"
        raise damaged(path, f"{says}, and lies in the place of '{of}'")


def misplaced(folder: Path, own: object) -> str:
    """Why a folder can not be that of the run `own`: it bears the name of another run. "" where it may be.

    A run's folder may be moved, copied and called anything, but by the id of another run.
    """
    name = os.path.basename(os.path.abspath(folder))
    if name == own or not re.fullmatch(r"\d+-[0-9a-f]{10}", name):
        return ""
    return f"{folder} holds the run {own}, not {name}, as it is called; rename it, or delete it and {name} is made anew"


def owner(folder: Path) -> Path | None:
    """The run's folder that a folder of its rows is, or lies in; None for rows of no run."""
    folder = Path(os.path.abspath(folder))
    near = (folder, *folder.parents[:3])  # at the deepest RUN/protocols/TIER/timing
    return next((up for up in near if os.path.exists(up / INFO)), None)


def metadata(data: bytes) -> dict[str, str]:
    """What safetensors tell of themselves, after a length of eight bytes as JSON; {} of what is none."""
    try:
        header = parse(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except ValueError:
        return {}
    found = header.get("__metadata__") if isinstance(header, dict) else None
    return dict(found) if isinstance(found, dict) and fits(Mapping[str, str])(found) else {}


def baselines_of(root: Path, tier: str) -> Path:
    """The folder of what a tier measures without a run, in the folder of a data set's runs."""
    return root / BASELINES / re.sub(r"[^\w.-]+", "-", tier).strip(".-")
