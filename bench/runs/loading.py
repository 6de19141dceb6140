"""A finished run back from its folder: its model, with the parents that it is built on, and its data."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from bench import store
from bench.data.names import FOLDER, FolderName, Name, OwnData
from bench.runs.budget import build
from bench.runs.command import again, out_of
from bench.runs.identity import dataset
from bench.runs.info import Info, at_step, read_info, space_of
from bench.runs.machine import device_of
from bench.runs.settings import restored
from paradigms import catalogue
from paradigms.contract import Frozen, Trainable
from paradigms.errors import BadInput, out_of_memory
from reports.layout import INFO, PARENTS, WEIGHTS
from reports.words import shortened

if TYPE_CHECKING:
    from bench.data import Dataset

__all__ = ["data_of", "frozen", "load", "parents_file"]


def load(
    folder: Path,
    weights: Literal["ema", "raw"] = "ema",
    device: str | torch.device = "cpu",
    step: int | None = None,
    out: Path | None = None,
) -> tuple[Trainable, Info]:
    """The model of a finished run in eval mode, with averaged or raw weights, and its run.json.

    step: one of `snapshots`, for the averaged weights after it; by default the last.
    out:  an output folder where its parents may be besides the run's own.

    Its parents are rebuilt too: from their own folders (see `_places`), or, where one is gone or damaged and no sample is
    drawn with it, from `PARENTS`. Raises BadInput when the run did not finish, a file is damaged, a parent is wanting, or the
    recipe no longer fits the weights.
    """
    folder = Path(folder)
    info = read_info(folder)
    if info.status != "ok":
        how = f"{info.status}: {info.reason}" if info.reason else "has not finished training"
        command = again(info, out_of(folder, info, out))
        raise BadInput(f"{folder} has no weights, it {how}; run the same training command again: `{command}`")
    store.read_verified(folder, INFO)
    name = WEIGHTS if step is None else f"at-{step}.safetensors"
    data = store.read_verified(folder, name)
    _check_weights(folder / name, data, info)
    recipe = info.definition
    config = restored(recipe.config, info.config, folder / INFO)
    where = device_of(device) if isinstance(device, str) else device
    parents = {role: _parent(folder, info, role, where, out) for role in info.parents}
    try:
        tensors = load_tensors(data)
        model = build(recipe, space_of(info.space), info.width, parents, config, 0, where, info.precision)
        model.load_state_dict(
            {n.removeprefix(f"{weights}."): t for n, t in tensors.items() if n.startswith(f"{weights}.")}
        )
    except Exception as error:
        if out_of_memory(error):
            raise
        # What run.json and the weights say of the model is not what the recipe now makes of it
        text = shortened(" ".join(str(error).split()) or type(error).__name__, 200)
        raise BadInput(
            f"{folder} does not fit the recipe '{info.recipe}' as it is now ({text}); delete this folder and train it anew: "
            f"`{again(info, out_of(folder, info, out))}`"
        ) from None
    return model.eval(), info if step is None else at_step(info, step)


def _check_weights(path: Path, data: bytes, info: Info) -> None:
    """Compares the run that weights are of with the one that they are read as. Raises BadInput."""
    named = str(store.metadata(data).get("run", ""))
    store.belongs(path, named.rpartition("/")[2], info.id)


def data_of(folder: Path, info: Info, given: Name | None = None) -> Dataset:
    """The data set that a run was trained on, proved by its checksum, under the name that it had then.

    given: where it is now; otherwise it is looked for where run.json says that it was. Raises BadInput.
    """
    if isinstance(given, str) and given != info.dataset:
        raise BadInput(f"{folder} was trained on '{info.dataset}', not on '{given}'; leave out --dataset")
    place = info.place if given is None else given
    if isinstance(place, FolderName):
        test = info.place.test if isinstance(info.place, FolderName) else None
        place = replace(place, test=place.test or test)
        if info.space["shape"][-1] != place.size:
            raise BadInput(
                f"{folder} was trained on images of {info.space['shape'][-1]} px, not of {place.size}: see @SIZE"
            )
    if isinstance(place, OwnData):
        place = place.named(info.dataset)
        gone = place.gone()
        if given is None and gone is not None:
            typed = info.dataset.removeprefix(FOLDER) if info.dataset.startswith(FOLDER) else str(gone)
            test_too = " --test FOLDER" if isinstance(place, FolderName) and place.test else ""
            raise BadInput(
                f"{Path(folder) / INFO} names the {place.what} in {typed}, looked for at {gone}, which is no "
                f"{place.place}; if they were moved, say where they are: --dataset {place.form}{test_too}"
            )
    found = dataset(place)
    if found.checksum == info.checksum:
        return found
    if not isinstance(place, OwnData):
        command = again(info, out_of(folder, info, None))
        raise BadInput(f"{folder} was trained on another version of '{info.dataset}'; train it anew: `{command}`")
    raise BadInput(
        f"{folder} was trained on other data ('{info.dataset}', sha256 {info.checksum[:12]}) than {place} (sha256 "
        f"{found.checksum[:12]}); name the {place.what} as they were with --dataset, or train it anew"
    )


# ------------------------------------------------------------------------------------------------------------- parents


def _parent(folder: Path, info: Info, role: str, device: torch.device, out: Path | None) -> Frozen:
    """A run's parent in a role: its own run where that is whole, else rebuilt where no sample is drawn with it."""
    need = info.definition.needs.get(role)
    _, recipe, name = info.parents[role].split("/")
    who = f"{info.recipe} {info.id} needs its {role} {recipe} {name}"
    found = next((place for place in _places(folder, info.parents[role], out) if os.path.exists(place / INFO)), None)
    try:
        if found is None:
            root = out_of(folder, info, out)
            raise BadInput(
                f"{who}, which is gone: it is not in {root / info.parents[role]}; `{again(info, root, role)}` makes it anew"
            )
        try:
            return frozen(found, device, out)
        except BadInput as error:
            raise BadInput(f"{who}: {error}; `{again(info, out_of(folder, info, out), role)}` makes it anew") from None
    except BadInput:
        if need is None or need.at_sampling or PARENTS not in store.manifest(folder):
            raise
    try:
        facts, tensors = _part(*_read_parents(store.read_verified(folder, PARENTS)), role)
        store.belongs(folder / PARENTS, facts["where"].rpartition("/")[2], name)
        return _rebuilt(facts, tensors, device)
    except (ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        text = " ".join(str(error).split())[:200]
        raise BadInput(f"{folder / PARENTS} does not fit its run ({text}); delete {folder} and train it anew") from None


def _places(folder: Path, where: str, out: Path | None) -> list[Path]:
    """Where a parent may be: next to its child in the output folder, or in as much of it as was copied; then in `out`."""
    parts = where.split("/")
    homes = dict.fromkeys(
        (folder.absolute(), folder.resolve())
    )  # of a linked run, where it is linked and where it lies
    near = [
        up.joinpath(*parts[-k:]) for home in homes for k, up in reversed([*enumerate(home.parents, 1)][: len(parts)])
    ]
    return near + ([] if out is None else [Path(out) / where])


def frozen(folder: Path, device: torch.device, out: Path | None = None) -> Frozen:
    """A finished run as the parent of another."""
    model, info = load(folder, device=device, out=out)
    return Frozen(model, info.images)


def parents_file(folders: Mapping[str, Path], held: Mapping[str, Frozen]) -> bytes:
    """`PARENTS`: by role what each parent is rebuilt from but its parameters, and the same of what that one needs.

    Tensors are buffers, named ROLE/[ROLE/...]NAME; the settings are JSON in the file's own metadata.
    """
    facts: dict[str, Any] = {}
    tensors: dict[str, torch.Tensor] = {}
    for role, folder in folders.items():
        info, model = read_info(folder), held[role].model
        if PARENTS in store.manifest(folder):
            above, buffers = _read_parents(store.read_verified(folder, PARENTS))
        else:
            root, device = out_of(folder.resolve(), info), torch.device("cpu")
            some = {r: root / where for r, where in info.parents.items()}
            above, buffers = _read_parents(parents_file(some, {r: frozen(f, device) for r, f in some.items()}))
        trained = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        buffers |= {name: t for name, t in model.state_dict().items() if name not in trained}
        tensors |= {f"{role}/{name}": t.cpu().contiguous().clone() for name, t in buffers.items()}
        kept = ("where", "recipe", "config", "space", "width", "precision", "images")
        facts[role] = {**{name: getattr(info, name) for name in kept}, "parents": above}
    return save_tensors(tensors, {"parents": json.dumps(facts)})


def _read_parents(data: bytes) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """(settings by role, buffers) of the content of `PARENTS`."""
    return json.loads(store.metadata(data)["parents"]), load_tensors(data)


def _part(
    facts: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], role: str
) -> tuple[Any, dict[str, torch.Tensor]]:
    """What of it is of one role."""
    before = f"{role}/"
    return facts[role], {name.removeprefix(before): t for name, t in tensors.items() if name.startswith(before)}


def _rebuilt(facts: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], device: torch.device) -> Frozen:
    """A parent without its parameters, for a child that only asks what kind of model it was.

    They are NaN: whatever is computed with them after all is seen not to be a number.
    """
    recipe, above = catalogue.get(facts["recipe"]), facts["parents"]
    config = restored(recipe.config, facts["config"], Path(facts["where"]) / INFO)
    parents = {role: _rebuilt(*_part(above, tensors, role), device) for role in above}
    model = build(recipe, space_of(facts["space"]), facts["width"], parents, config, 0, device, facts["precision"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.nan)
    own = {name: t for name, t in tensors.items() if "/" not in name}
    try:
        unknown_names = model.load_state_dict(own, strict=False).unexpected_keys
    except RuntimeError as error:  # of other shapes
        unknown_names = [str(error)]
    if unknown_names:
        raise BadInput(
            f"{facts['where']} does not fit the recipe '{recipe.name}' as it is now; delete its child and train both anew"
        )
    return Frozen(model, facts["images"])
