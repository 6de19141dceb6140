"""The rows of a folder, saved whole and verified when they are read, and those of many folders as one DataFrame."""

from __future__ import annotations

import json
import logging
import math
import os
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.data.names import readable
from bench.store.files import damaged, put, read
from bench.store.lock import locked
from bench.store.manifests import entry_of, manifest, read_verified, write_manifest
from bench.store.places import belongs, misplaced, owner
from bench.store.row import ADDED, NO_RUN, SCHEMA, SIGNED, STATUSES, Row
from bench.store.sealed import parse, read_json
from bench.store.typed import LARGEST, fitting, short
from bench.walk import walk
from paradigms.errors import BadInput
from reports import files
from reports.layout import BASELINES, INFO, RESULTS

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["frame", "has_rows", "load_rows", "results_key", "save_rows", "table"]

_log = logging.getLogger(__name__)


def save_rows(folder: Path, rows: Sequence[Row], key: str) -> None:
    """Writes results.jsonl whole. `key` says what the rows were made from; `results_key` gives it back.

    Whenever it is stopped, the folder holds the rows of before or these: the manifest names both while the file changes.
    """
    folder = Path(folder)
    lines = [json.dumps(_plain(row), ensure_ascii=False, allow_nan=False) for row in rows]
    data = "".join(f"{line}\n" for line in lines).encode()
    with locked(folder):
        facts = {"key": key} if (place := _place(folder)) is None else {"key": key, "place": place}
        if (before := manifest(folder).get(RESULTS)) is not None:
            write_manifest(folder, {RESULTS: {**before, "next": {**files.fingerprint(data), **facts}}})
        write_manifest(folder, {RESULTS: put(folder / RESULTS, data)}, **facts)


def results_key(folder: Path) -> str | None:
    """The key that results.jsonl was saved under, or None when there are no (whole) results."""
    entry, path = manifest(folder).get(RESULTS), Path(folder) / RESULTS
    if entry is None or not os.path.exists(path):
        return None
    return entry_of(entry, read(path)).get("key")


def load_rows(folder: Path) -> list[Row]:
    """The rows of a folder, verified, in the schema of today: what an older one lacks is empty (see `ADDED`).

    Raises BadInput when they are missing, damaged, of a wrong type, of a newer schema, or of another run than the one that
    they lie in, or another part of it.
    """
    path = Path(folder) / RESULTS
    data, rows = read_verified(folder, RESULTS), list[Row]()
    claimed, place = entry_of(manifest(folder)[RESULTS], data).get("place"), _place(folder)
    if claimed is not None and place is not None:  # earlier versions do not state it
        belongs(path, claimed, place)
    for number, line in enumerate(data.splitlines(), 1):
        try:
            values = parse(line)
            if not isinstance(values, dict):
                raise ValueError("it is not a JSON object")
            schema = values.pop("schema", None)
            if type(schema) is not int or schema < 1:
                raise ValueError(f"its schema is {short(schema)}")
            if schema > SCHEMA:
                raise BadInput(f"{path} was written by a newer version (schema {short(schema)}); upgrade this one")
            if early := [name for later in range(schema + 1, SCHEMA + 1) for name in ADDED[later] if name in values]:
                raise ValueError(f"schema {schema} has no column '{early[0]}'")
            rows.append(_row(values))
        except ValueError as error:
            raise damaged(path, f"has a bad row in line {number} ({error})") from None
    runs = {row.run for row in rows if row.run and row.status not in NO_RUN}
    own = _run_at(folder) if runs else ""
    for run in sorted(runs) if own else ():
        belongs(path, run, own)
    for name in sorted({row.dataset for row in rows}):
        if found := _data_at(folder, name):
            belongs(path, name, found)
    return rows


def _row(values: dict[str, Any]) -> Row:
    """A row out of JSON. A measured number too large to compute with becomes None, and the reason says what it was."""
    for name in ("value", "error", "low", "high"):
        number = values.get(name)
        if isinstance(number, (int, float)) and not -LARGEST <= number <= LARGEST:
            values[name] = None
            if name == "value":
                reasons = (values.get("reason"), f"the value is {short(number)}, too large to be compared")
                values["reason"] = "; ".join(str(reason) for reason in reasons if reason)
    row = Row(**fitting(Row, values, SIGNED))
    if row.status not in STATUSES:
        raise ValueError(f"its status is {short(row.status)}")
    return row


def has_rows(folder: Path) -> bool:
    """Whether a folder holds rows, or its manifest says that it should."""
    folder = Path(folder)
    try:
        return os.path.exists(folder / RESULTS) or RESULTS in manifest(folder)
    except BadInput:  # of a run it is missed; elsewhere the file may be anybody's
        return os.path.exists(folder / INFO)


def _place(folder: Path) -> str | None:
    """Where rows lie within their run ("." for its own, "samplers", "protocols/quick/timing"), or among baselines.

    None for rows of neither, as of a user's samples, which may lie anywhere.
    """
    folder = Path(os.path.abspath(folder))
    if (home := owner(folder)) is not None:
        return folder.relative_to(home).as_posix()
    return folder.name if folder.parent.name == BASELINES else None


def _data_at(folder: Path, name: str) -> str:
    """The data set of the runs next to a folder of baselines, `name` if one has it; "" without runs, or elsewhere."""
    place, found = Path(os.path.abspath(folder)).parent, ""
    for info in place.parent.glob(f"*/*/{INFO}") if place.name == BASELINES else ():
        with suppress(BadInput):
            if (found := str(read_json(info).get("dataset") or found)) == name:
                break
    return found


def _run_at(folder: Path) -> str:
    """The id of the run that a folder of rows is of; "" of none, or of one whose run.json is damaged, as others say.

    Raises BadInput where the run's folder bears the name of another.
    """
    home = owner(folder)
    if home is None:
        return ""
    try:
        own = str(read_json(home / INFO).get("id") or "")
    except BadInput:
        return ""
    if own and (reason := misplaced(home, own)):
        raise BadInput(reason)
    return own


def frame(where: Path | Sequence[Path], read: Callable[[Path], Iterable[Row]] = load_rows) -> DataFrame:
    """All rows under a root folder, or of the given run folders, as one DataFrame with the columns of `Row`.

    read: the rows of a folder.
    """
    if isinstance(where, (str, Path)):
        below = walk(Path(where))
        folders = [folder for folder, _ in sorted(below.folders) if has_rows(folder)]
        for reason in below.lost.values():
            _log.warning("warning: left out: %s", reason)
    else:
        folders = [Path(folder) for folder in where]
    return table(row for folder in folders for row in read(folder))


def table(rows: Iterable[Row]) -> DataFrame:
    """Rows as one DataFrame with the columns of `Row`, typed."""
    import pandas

    found = pandas.DataFrame([vars(row) for row in rows], columns=[f.name for f in fields(Row)])
    return found.astype(_dtypes())


def _dtypes() -> dict[str, str]:
    names = {int: "int64", float: "float64", str: "object", bool: "bool"}
    found = {}
    for name, hint in typing.get_type_hints(Row).items():
        optional = isinstance(hint, types.UnionType)
        base = next(a for a in typing.get_args(hint) if a is not type(None)) if optional else hint
        found[name] = "Int64" if optional and base is int else names[base]
    return found


def _plain(row: Row) -> dict[str, Any]:
    """The row as JSON can hold it: a number that is not finite becomes None, and the reason says what it was."""
    values = {name: readable(v) if isinstance(v, str) else v for name, v in vars(row).items()}
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            values[name] = None
            if name == "value":
                values["reason"] = row.reason or f"the value is {value}"
    return values
