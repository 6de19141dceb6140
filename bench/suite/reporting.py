"""The report of checked folders: written only when something that it depends on has changed."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import runs, store
from bench.suite.checked import Checked, frame, records
from paradigms import catalogue
from paradigms.errors import BadInput
from reports import metrics
from reports.files import sweep
from reports.layout import FIGURES, PAGE

__all__ = ["families", "report"]

_log = logging.getLogger(__name__)


def families() -> dict[str, str]:
    """For each recipe the one that it varies, or itself: the report lists them together."""
    return {name: recipe.variant_of or name for name, recipe in catalogue.recipes().items()}


OURS = "reports"  # in a manifest: the names in its folder, figures among them, that reports have taken


def report(
    found: Checked,
    to: Path,
    formats: Sequence[str] | None = None,
    tier: str = "",
    equal: bool = False,
    lost: Mapping[Path, list[store.Row]] | None = None,
) -> list[Path]:
    """Writes the report of the rows in folders that were checked; returns its files, the page first. Raises BadInput.

    tier: shows what this one measured alone, of runs that were trained under others too (see `records`).
    lost: rows that stand for further runs, which are not there. A failure stands for each damaged folder.
    """
    import reports

    for line in found.warnings:
        _log.warning("warning: %s", line)
    lost = {**(lost or {}), **found.lost}
    if not found.folders:
        raise BadInput(f"no results that are whole; {next(iter(found.damaged.values()), 'run `bench all` first')}")
    wanted = tuple(reports.FORMATS if formats is None else formats)
    key = _report_key(found, to, wanted, tier, lost)
    if (kept := _kept_report(to, key)) is not None:
        return kept
    try:
        return _written(found, to, wanted, tier, equal, lost, key)
    except OSError as error:
        raise store.Unwritable(
            f"can not write the report to {to}: {error.strerror or error}; choose another --to"
        ) from None
    except ValueError as error:
        raise BadInput(str(error)) from None


def _written(
    found: Checked,
    to: Path,
    formats: Sequence[str],
    tier: str,
    equal: bool,
    lost: Mapping[Path, list[store.Row]],
    key: str,
) -> list[Path]:
    """The files of a new report, the page first. Raises BadInput without rows of the tier, ValueError and OSError."""
    import reports

    rows = frame(found.folders, lost)
    shown = [
        {**record, "grid": found.grids.get(Path(record["folder"]))}
        for record in records(found.run_folders, tier, equal)
    ]
    if tier:
        rows = rows[rows["tier"].isin(("", tier))]
        shown = [record for record in shown if record["tier"] == tier]
        if not len(rows):
            raise BadInput(f"no results of tier {tier}; make them: `bench evaluate RUN --tier {tier}`")
    with store.locked(to):
        names = [name for one in formats for name in reports.FILES.get(one, ())]
        ours = _names_of_reports(to, names if set(formats) == {"csv"} else [*names, FIGURES])  # CSV alone has none
        # The files of an earlier report are no part of this one; and what is written from here on is a report's.
        store.write_json(to / store.MANIFEST, {"schema": store.SCHEMA, "files": {}, OURS: ours})
        sweep(to / FIGURES)
        written = reports.render(rows, shown, found.real or None, to, formats, families())
        entries = {str(path.relative_to(to)): {**entry, "report": key} for path, entry in written.items()}
        store.write_json(
            to / store.MANIFEST, {"schema": store.SCHEMA, "files": dict(sorted(entries.items())), OURS: ours}
        )
    return list(written)


def _names_of_reports(folder: Path, names: Sequence[str]) -> list[str]:
    """The names in a folder that are reports' to write: those of earlier reports, and `names`.

    Raises Unwritable where the folder holds results, or one of the names is there and no report wrote it. A link may lead to
    somebody's files of the same names: behind one there must be nothing yet, or a report.
    """
    known, listed, ours = False, dict[str, dict[str, Any]](), set[str]()
    with suppress(BadInput):
        listed, known = store.manifest(folder), os.path.exists(folder / store.MANIFEST)
        claimed = store.read_json(folder / store.MANIFEST).get(OURS, []) if known else []
        ours = {str(name).split("/")[0] for name in [*listed, *(claimed if isinstance(claimed, list) else [])]}
    if os.path.exists(folder / runs.INFO) or any("report" not in entry for entry in listed.values()):
        raise store.Unwritable(f"{folder} holds results, and no report; choose another --to")
    for path in (folder, folder / FIGURES):
        if path.is_symlink() and not known and any(name != store.LOCK for name in os.listdir(path)):
            raise store.Unwritable(
                f"{path} is a link to {os.path.realpath(path)}, which holds other files and no report; choose another --to"
            )
    there = [name for name in (*([] if known else [store.MANIFEST]), *names) if os.path.lexists(folder / name)]
    theirs = next((name for name in there if name not in ours), None)
    if theirs is not None:
        raise store.Unwritable(
            f"{folder / theirs} is no part of a report that is known here; move or delete it, or choose another --to"
        )
    return sorted({*ours, *names})


def _report_key(
    found: Checked, to: Path, formats: Sequence[str], tier: str, lost: Mapping[Path, list[store.Row]]
) -> str:
    """A hash of all that a report depends on: the folders' content and their paths from it, and the sources that draw it."""
    import reports

    gone = [row for rows in lost.values() for row in rows]
    columns = [replace(metric, by=None) for metric in metrics.known().values()]  # those of other packages among them
    parts = (formats, tier, sorted(families().items()), gone, sorted(found.warnings), columns)
    digest = hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape"))
    for folder in (*found.folders, *found.run_folders):
        held = sorted((n, f["sha256"]) for n, f in store.manifest(folder).items())
        place = os.path.relpath(folder, to)
        digest.update(f"{place}\0{held}\0{store.results_key(folder)}\0".encode("utf-8", "surrogateescape"))
    for path in reports.sources():
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _kept_report(to: Path, key: str) -> list[Path] | None:
    """The files of the report, the page first, when it was made from the same things and is whole."""
    try:
        files = store.manifest(to)
        if not files or any(entry.get("report") != key for entry in files.values()):
            return None
        store.verify(to)
    except BadInput:
        return None
    return [to / name for name in sorted(files, key=lambda name: (name != PAGE, name))]
