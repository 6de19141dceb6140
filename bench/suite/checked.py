"""Which folders of runs and rows can be shown: everything that a manifest lists is compared with its hash, once."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import runs, scores, store
from paradigms.errors import BadInput
from reports.layout import LOG

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Checked", "check", "damaged", "frame", "records"]


@dataclass(frozen=True)
class Checked:
    """Folders of rows and of runs as they can be shown (see `check`).

    folders, run_folders: those that are whole.
    damaged:    why others are left out. lost: the rows that stand for these in a table.
    incomplete: which files they lack that their manifests list, and which rows another copy of their run contradicts.
    grids:      the picture of samples of each folder that has one; real: of each data set that of its images.
    unseen:     why other pictures are not shown.
    """

    folders: tuple[Path, ...]
    run_folders: tuple[Path, ...]
    damaged: Mapping[Path, str]
    incomplete: tuple[str, ...]
    grids: Mapping[Path, bytes] = field(default_factory=dict)
    real: Mapping[str, bytes] = field(default_factory=dict)
    unseen: tuple[str, ...] = ()
    lost: Mapping[Path, list[store.Row]] = field(default_factory=dict)

    @property
    def warnings(self) -> list[str]:
        """A line for everything that is wrong with the folders."""
        left_out = [f"left out: {reason}" for reason in self.damaged.values()]
        return [*left_out, *self.incomplete, *(f"picture left out: {reason}" for reason in self.unseen)]


def check(folders: Iterable[Path], run_folders: Iterable[Path], real: Mapping[str, Path] | None = None) -> Checked:
    """Which of the folders of rows and of the folders of runs can be shown, and their pictures of samples.

    real: by data set the picture of its images, in the folder of the manifest that lists it; None where no pictures are
          shown.
    """
    kinds = [tuple(dict.fromkeys(map(Path, some))) for some in (folders, run_folders)]
    kinds.append((*kinds[1], *(path.parent for path in real.values())) if real is not None else ())
    bad = damaged(itertools.chain(*kinds))
    rows, whole_runs, pictured = (tuple(folder for folder in kind if folder not in bad) for kind in kinds)
    other = dict(_contradicting(rows))
    rows = tuple(folder for folder in rows if folder not in other)
    grids, unseen = _pictures(pictured)
    return Checked(
        rows,
        whole_runs,
        bad,
        (*other.values(), *_incomplete(dict.fromkeys((*rows, *whole_runs, *pictured)))),
        grids,
        {name: grids[path.parent] for name, path in (real or {}).items() if path.parent in grids},
        tuple(unseen),
        {folder: _lost_rows(folder, reason) for folder, reason in bad.items()},
    )


def damaged(folders: Iterable[Path]) -> dict[Path, str]:
    """The folders whose records or rows are damaged, with the reason."""
    found: dict[Path, str] = {}
    for folder in dict.fromkeys(map(Path, folders)):
        try:
            records([folder])
            if store.has_rows(folder):
                store.load_rows(folder)
        except BadInput as error:
            found[folder] = str(error)
    return found


def records(folders: Sequence[Path], tier: str = "", equal: bool = False) -> list[dict[str, Any]]:
    """What each run.json holds, with the folder; folders without one are left out. Raises BadInput for a damaged one.

    tier: whose rows are shown. A run of another tier that this one has measured is given as one of this tier, with the
          tier that trained it under "trained", unless the budgets are known to be `equal`.
    """
    found = []
    for folder in map(Path, folders):
        if os.path.exists(folder / runs.INFO):
            info = runs.read_info(folder)
            ended = info.status == "ok"  # then a manifest lists both files
            store.verify(folder, [name for name in (runs.INFO, LOG) if ended or name in store.manifest(folder)])
            record = {**store.read_sealed(folder / runs.INFO), "folder": str(folder)}
            if tier and record["tier"] != tier and runs.measured(folder, info, tier).exists():
                record |= {"tier": tier, "trained": "" if equal else record["tier"]}
            found.append(record)
    return found


def frame(folders: Sequence[Path], lost: Mapping[Path, list[store.Row]]) -> DataFrame:
    """The rows that are shown of the folders, and the rows that stand for `lost` folders (see `Checked`)."""

    def rows(folder: Path) -> list[store.Row]:
        return lost[folder] if folder in lost else scores.shown(folder)

    return store.frame(list(dict.fromkeys((*folders, *lost))), rows)


def _pictures(folders: Iterable[Path]) -> tuple[dict[Path, bytes], list[str]]:
    """The picture of samples of each folder that has one, and why others can not be shown."""
    grids, unseen = dict[Path, bytes](), list[str]()
    for folder in dict.fromkeys(folders):
        try:
            if os.path.exists(folder / scores.GRID):  # `_incomplete` reports one that is gone
                grids[folder] = store.read_verified(folder, scores.GRID)
        except BadInput as error:
            unseen.append(str(error))
    return grids, unseen


def _contradicting(folders: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """The folders of rows whose run has a copy that holds other rows, with the reason.

    Shown as one run, they would be averaged. The copy that counts is the one where the run was made, else the first.
    """
    copies: dict[tuple[str, str], dict[Path, bool]] = {}
    for folder in folders:
        home = store.owner(folder)
        with suppress(BadInput):  # of a run that is damaged, which is reported as such
            if home is not None:
                info, part = runs.read_info(home), os.path.relpath(os.path.realpath(folder), os.path.realpath(home))
                at_home = home.absolute().as_posix().endswith(f"/{info.where}")
                copies.setdefault((info.id, part), {})[folder] = at_home
    for (run, _), some in copies.items():
        first = max(some, key=lambda folder: some[folder])  # of equals the first
        held = {folder: store.manifest(folder).get(store.RESULTS, {}).get("sha256") for folder in some}
        for folder in some:
            if held[folder] != held[first]:
                yield (
                    folder,
                    f"left out: {folder} holds other rows of the run {run} than {first}; delete one of the two",
                )


def _incomplete(folders: Iterable[Path]) -> Iterator[str]:
    """A line for each folder that lacks files which its manifest lists."""
    for folder in folders:
        if names := store.missing(folder):
            made = not set(names) - {scores.GRID, scores.SAMPLES}
            how = "`bench all` or `bench evaluate` makes it anew" if made else "it stands by its rows alone"
            yield f"{folder} lacks {', '.join(names)}, which {store.MANIFEST} lists; {how}"


def _lost_rows(folder: Path, reason: str) -> list[store.Row]:
    """The row that stands in a table for a damaged run, or a damaged part of its rows: a failure with the reason.

    None where not even the run's name is known.
    """
    folder = Path(folder)
    home = store.owner(folder)
    if home is None:
        return []
    row = _row_of(home)
    if row is None:
        return []
    whole = folder.resolve() == home.resolve()
    protocol = next((up.name for up in (folder, folder.parent) if up.parent.name == runs.PROTOCOLS), "")
    part = "" if whole or folder.name == protocol else folder.name
    return [replace(row, status="failed", reason=reason, metric=part, tier=protocol or row.tier)]


def _row_of(home: Path) -> store.Row | None:
    """The columns that the run in a folder fills in, by its run.json or by what can be read of it; None by nothing."""
    try:
        return runs.base_row(runs.read_info(home))
    except BadInput:
        values: dict[str, Any] = {}
        with suppress(BadInput):
            values = store.read_json(home / runs.INFO)
    known = {name: values.get(name) for name in ("recipe", "paradigm", "tier", "dataset", "seed", "conditional")}
    known["run"] = values.get("id")
    if store.misplaced(home, values.get("id")):
        known["run"] = name = Path(os.path.abspath(home)).name
        known["seed"] = int(name.partition("-")[0])
    try:
        return store.Row(**store.fitting(store.Row, known))
    except ValueError:
        return None
