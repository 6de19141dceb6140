"""Finished rows that are kept: the key of all that they depend on, and whether they can be used again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import measure
from bench.data import Dataset
from bench.features import shipped, spaces_for
from bench.metrics import plugin_files
from bench.scores.pools import pool_size
from bench.store import SCHEMA, Row, load_rows, manifest, results_key, verify
from bench.tiers import Tier
from paradigms.errors import BadInput
from paradigms.recipe import Recipe
from reports.layout import GRID, SAMPLES

__all__ = ["Protocol", "are_whole", "code", "digest", "rows_in", "rows_under", "weights_of"]

# Of bench/: what makes evaluation's numbers. A folder stands for all its files.
SOURCES = ("arithmetic", "scores", "features", "flops", "measure", "metrics")


def code(recipe: Recipe | None = None, config: Any = None) -> str:
    """Short sha256 over the sources that make evaluation's numbers, those of plugins among them."""
    return measure.sources(SOURCES, recipe, config, plugin_files())


def digest(*parts: object) -> str:
    """Short sha256 over parts that can be written as JSON."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Protocol:
    """What rows depend on besides the weights: the data, the tier, the sources (with plugins', of a recipe's run)."""

    data: Dataset
    tier: Tier
    recipe: Recipe | None = None
    config: Any = None

    def key(self, what: str, *more: object) -> str:
        """The key of rows of such a kind (`what`), which depend on `more` too."""
        found, tier = self.data, self.tier
        spaces = [space.id for space in spaces_for(found.name, found.space)]
        spaces += [shipped(found.stacked).id] if found.stacked else []
        n = pool_size(found, tier)
        own = tier.name, n, tier.likelihood_n, spaces, found.checksum, torch.__version__, code(self.recipe, self.config)
        return digest(what, (SCHEMA, *own), *more)


def weights_of(folder: Path) -> list[tuple[str, str]]:
    """The files of weights in a run's folder with their sha256."""
    return sorted((name, f["sha256"]) for name, f in manifest(folder).items() if name.endswith(".safetensors"))


def rows_in(folder: Path) -> list[Row]:
    """The rows of a folder; none where it holds none, or where they are damaged and to be made anew."""
    try:
        return load_rows(folder)
    except BadInput:
        return []


def are_whole(folder: Path, names: Collection[str]) -> bool:
    """Whether these files of a folder are there as its manifest lists them."""
    try:
        verify(folder, names)
    except BadInput:
        return False
    return True


def rows_under(folder: Path, key: str) -> list[Row] | None:
    """The rows saved under this key; None where there are none, a part of them failed, or a file of them is not whole."""
    try:
        if results_key(folder) != key:
            return None
        rows, drawn = load_rows(folder), {GRID, SAMPLES} & manifest(folder).keys()  # of diverged samples there are none
    except BadInput:
        return None  # damaged results are made anew; the model they come from is checked when it is loaded
    return None if any(row.status == "failed" for row in rows) or not are_whole(folder, drawn) else rows
