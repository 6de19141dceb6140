"""The command that makes a run anew, for messages that say what to do next."""

from __future__ import annotations

import shlex
from pathlib import Path

import torch

from bench import tiers
from bench.data.names import FOLDER, OwnData
from bench.runs.identity import needed, needs_of
from bench.runs.info import Info, space_of
from bench.runs.settings import changes, sized
from paradigms.recipe import Recipe

__all__ = ["again", "out_of"]


def again(info: Info, out: Path, role: str = "") -> str:
    """The command that makes a run anew in `out`, under the same id; or that which it needs in a `role`.

    A parent that had another share of the budget than its recipe has by itself is made by training its child.
    """
    recipe, itself = info.definition, True
    if role in recipe.needs:
        parent = needs_of(recipe)[role]
        if recipe.needs[role].share == parent.share:
            recipe, itself = parent, False
    tier = tiers.tiers().get(info.tier)
    space = space_of(info.space)
    words = ["bench", "train", recipe.name, "--dataset", *_as_typed(info)]
    words += ["--tier", info.tier if tier is not None else f"FILE.toml:{info.tier}", "--seed", str(info.seed)]
    settings: dict[str, str] = {}
    if itself:
        usual = recipe.config if tier is None else sized(recipe.config, tier.budget(space))
        settings = changes(usual, info.config)
    # What stands above a parent is among what stands above its child.
    above = {name.removeprefix(f"{recipe.name}."): text for name, text in info.above.items() if _is_of(recipe, name)}
    words += [word for key, text in (settings | above).items() for word in ("--set", f"{key}={text}")]
    words += ["--match", info.match] if tier is None or info.match != tier.match else []
    words += ["--conditional"] if info.conditional else []
    words += ["--device", info.device] if info.device != "cpu" or torch.cuda.is_available() else []
    words += ["--precision", info.precision] if info.precision != "fp32" else []
    words += ["--compile"] if info.compiled else []
    if info.threads != 1 or not tiers.is_small(space):
        words += ["--threads", str(info.threads)]
    out = Path(out)
    words += ["--out", str(out)] if out.resolve() != Path("runs").resolve() else []
    return shlex.join(words)


def _is_of(recipe: Recipe, setting: str) -> bool:
    """Whether RECIPE.key is of a recipe or of what it needs."""
    return setting.partition(".")[0] in {recipe.name, *(known.name for known in needed(recipe))}


def out_of(folder: Path, info: Info, out: Path | None = None) -> Path:
    """The output folder that a run lies in; of one that was copied alone the one that was named."""
    home = folder.absolute()
    if home.as_posix().endswith(f"/{info.where}"):
        return home.parents[2]
    return Path("runs") if out is None else Path(out)


def _as_typed(info: Info) -> list[str]:
    """The data set of a run as one types it after --dataset, with what goes with it."""
    place = info.place
    if not isinstance(place, OwnData):
        return [info.dataset]
    own = place.named("").called(info.checksum) != info.dataset and not info.dataset.startswith(FOLDER)
    return place.typed() + (["--name", info.dataset] if own else [])
