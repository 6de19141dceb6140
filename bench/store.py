"""What is on disk: atomic files, a manifest with their sha256, and rows of results that become one DataFrame.

A folder's `manifest.json` lists each file with its sha256 and size; it is written after them, so a folder whose
manifest verifies is whole. Neither torch.load nor safetensors notices a flipped bit: this does.
`Row` documents every column of the results, in one place; the README's table is made from it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.data.names import readable
from bench.walk import walk
from paradigms.errors import BadInput

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "ADDED",
    "MANIFEST",
    "RESULTS",
    "SCHEMA",
    "SEAL",
    "Row",
    "columns",
    "frame",
    "load_rows",
    "manifest",
    "read_json",
    "read_sealed",
    "read_verified",
    "results_key",
    "save_rows",
    "verify",
    "write_atomic",
    "write_json",
    "write_manifest",
    "write_sealed",
]

SCHEMA = 3
# What each version added. Rows of an older one are read with these columns empty: nobody wrote down what they held.
ADDED = {2: ("data", "samples", "resize", "torch"), 3: ("low", "high", "reading")}
MANIFEST = "manifest.json"
RESULTS = "results.jsonl"
SEAL = "sha256"  # the key of a sealed JSON object
_log = logging.getLogger(__name__)


def _column(doc: str, default: Any = "") -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True)
class Row:
    """One measured number with all that is needed to know what it means. A column that does not apply is "" or None."""

    schema: int = _column("version of this table", SCHEMA)
    run: str = _column("id of the run: its seed and the hash of what defines it, as in the folder's name")
    status: str = _column('"ok", "baseline" (no model), "external" (someone\'s samples), "diverged" or "failed"', "ok")
    reason: str = _column("why the run stopped, why the value is missing, or what must be known to read it")
    recipe: str = _column("recipe, or the name of a baseline or of external samples")
    paradigm: str = _column("title of the paradigm")
    tier: str = _column("budget and evaluation protocol")
    dataset: str = _column("data set")
    data: str = _column("first 12 hex digits of the sha256 over the data set's decoded examples")
    split: str = _column('reference split: "test", "train" or ""')
    seed: int | None = _column("training seed", None)
    sampler: str = _column("sampler that drew the samples")
    steps: int | None = _column("steps of the sampler", None)
    options: str = _column('options of the sampler or of the likelihood, "name=value,..."')
    headline: bool = _column("drawn by the plan that the card named as its default before any score was seen", False)
    calls: float | None = _column("network calls per sample, or per example of a likelihood, counted", None)
    conditional: bool = _column("the model is told class labels", False)
    metric: str = _column("what was measured")
    value: float | None = _column("the number; None when it could not be had (see reason)", None)
    error: float | None = _column("standard error of the value within this run, where there is one", None)
    low: float | None = _column("lower end of a proportion's 95 % interval (Wilson's), within this run", None)
    high: float | None = _column("upper end of the same", None)
    n: int | None = _column("samples, examples or repeats behind the value", None)
    n_ref: int | None = _column("size of the reference set", None)
    draw: int | None = _column("which disjoint set of samples: 0, 1, ... of one stream", None)
    samples: str = _column("first 12 hex digits of the sha256 over external samples, as they were scored")
    resize: str = _column('what was done to external samples of another size, as "64×64 to 32×32, bicubic"')
    reading: str = _column("how external samples were read: range taken, share clipped, what was cut or left out")
    unit: str = _column("unit of the value")
    kind: str = _column("kind of likelihood; numbers of different kinds are never compared")
    relation: str = _column('how a printed likelihood stands to the true one: "=", "≤" (bound), "≈" or ""')
    features: str = _column(
        "feature space: name, policy for size, channels and range where it has one, hash of its weights"
    )
    weights: str = _column('"ema" (averaged) or "raw"')
    fraction: float | None = _column("part of the training budget after which the weights were taken", None)
    images: int | None = _column("training examples seen, repeats counted", None)
    flops: float | None = _column("floating-point operations spent on training this run", None)
    seconds: float | None = _column("wall-clock seconds spent on training this run", None)
    cost_total: float | None = _column("training FLOPs including the runs it needed", None)
    seconds_total: float | None = _column("training seconds including the runs it needed", None)
    images_total: int | None = _column("training examples seen including the runs it needed", None)
    params_trained: int | None = _column("parameters trained, all networks together", None)
    params_sampling: int | None = _column("parameters used to sample", None)
    device: str = _column("device of the measurement")
    threads: int | None = _column("CPU threads of the measurement", None)
    dtype: str = _column("number format of the network's arithmetic")
    torch: str = _column("version of torch that the number was made with")
    contended: bool = _column("other work was running on the machine", False)
    code: str = _column("short sha256 over the sources that trained the model; a+b where others measured it")


def columns() -> list[tuple[str, str, str]]:
    """(name, type, meaning) of every column of `Row`, in order."""
    return [(f.name, str(f.type), f.metadata["doc"]) for f in fields(Row)]


# ---------------------------------------------------------------------------------------------------------- files


def write_atomic(path: Path, data: bytes) -> None:
    """Writes `data` so that `path` holds either what it held before or all of it, whatever happens in between.

    Raises BadInput when the place can not be written to or is full; then nothing half-written stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        # The rename itself is durable only once the folder is.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise BadInput(
            f"can not write {path}: {error.strerror or error}; free the place or choose another --out"
        ) from None


def write_json(path: Path, value: Any) -> None:
    """Writes a value as JSON. A path that is no UTF-8 comes back as it was: its odd bytes are written as \\udcXX."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(path, text.encode("utf-8", "backslashreplace"))


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Writes a JSON object with the sha256 of its content in it: for what is read before a manifest lists it."""
    write_json(path, {**value, SEAL: _seal(value)})


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote. Raises BadInput when it is missing or was changed since."""
    value = read_json(path)
    if value.pop(SEAL, None) != _seal(value):
        raise _damaged(path, "is damaged or was edited (its sha256 does not match)")
    return value


def _seal(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises BadInput when the file is missing or not an object."""
    try:
        value = json.loads(_read(path))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise _damaged(path, "is not a JSON object")
    return value


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise BadInput(f"{path} is missing; is {path.parent} the folder of a finished run?") from None
    except OSError as error:
        raise BadInput(f"can not read {path}: {error.strerror or error}") from None


def _damaged(path: Path, how: str) -> BadInput:
    if path.name == RESULTS:  # made from the weights, which are worth more than it
        return BadInput(f"{path} {how}; delete this file, and `bench all` or `bench evaluate` makes it anew")
    if path.name.startswith("plan-"):
        return BadInput(f"{path} {how}; delete this file and run the same command again")
    return BadInput(f"{path} {how}; delete the folder {path.parent}, and `bench all` or `bench train` makes it anew")


# ------------------------------------------------------------------------------------------------------- manifest


def manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """What manifest.json says of each file: {"name": {"sha256", "bytes", ...}}; {} when there is no manifest."""
    path = Path(folder) / MANIFEST
    if not path.exists():
        return {}
    files = read_json(path).get("files")
    if not isinstance(files, dict) or not all(isinstance(f, dict) and "sha256" in f for f in files.values()):
        raise _damaged(path, "is not a manifest")
    return files


def write_manifest(folder: Path, names: Iterable[str], **facts: Any) -> None:
    """Records the files `names` as they are on disk now, with further `facts` about them; others stay recorded."""
    folder = Path(folder)
    files = {name: entry for name, entry in manifest(folder).items() if (folder / name).exists()}
    for name in names:
        data = _read(folder / name)
        files[name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), **facts}
    write_json(folder / MANIFEST, {"schema": SCHEMA, "files": dict(sorted(files.items()))})


def read_verified(folder: Path, name: str) -> bytes:
    """The bytes of a file that the manifest lists. Raises BadInput when it is missing, unlisted or changed."""
    folder = Path(folder)
    entry = manifest(folder).get(name)
    if entry is None:
        raise _damaged(folder / name, f"is not listed in {MANIFEST}")
    if not (folder / name).exists():
        raise _damaged(folder / name, f"is missing, but {MANIFEST} lists it")
    data = _read(folder / name)
    if hashlib.sha256(data).hexdigest() != _entry_of(entry, data)["sha256"]:
        raise _damaged(folder / name, f"is damaged (its sha256 is not the one in {MANIFEST})")
    return data


def verify(folder: Path) -> None:
    """Checks every file of the manifest. Raises BadInput naming the first that is missing or changed."""
    for name in manifest(folder):
        read_verified(folder, name)


# ----------------------------------------------------------------------------------------------------------- rows


def save_rows(folder: Path, rows: Sequence[Row], key: str) -> None:
    """Writes results.jsonl whole. `key` says what the rows were made from; `results_key` gives it back.

    Whenever it is stopped, the folder holds the rows of before or these: the manifest names both while the file changes.
    """
    lines = [json.dumps(_plain(row), ensure_ascii=False, allow_nan=False) for row in rows]
    data = "".join(f"{line}\n" for line in lines).encode()
    files = manifest(folder)
    if RESULTS in files:
        files[RESULTS]["next"] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "key": key}
        write_json(Path(folder) / MANIFEST, {"schema": SCHEMA, "files": files})
    write_atomic(Path(folder) / RESULTS, data)
    write_manifest(folder, [RESULTS], key=key)


def results_key(folder: Path) -> str | None:
    """The key that results.jsonl was saved under, or None when there are no (whole) results."""
    entry, path = manifest(folder).get(RESULTS), Path(folder) / RESULTS
    if entry is None or not path.exists():
        return None
    return _entry_of(entry, _read(path)).get("key")


def _entry_of(entry: dict[str, Any], data: bytes) -> dict[str, Any]:
    """What the manifest says of these bytes of a file: what stands there, or what was to be next when it was stopped."""
    later = entry.get("next")
    return later if later is not None and hashlib.sha256(data).hexdigest() == later["sha256"] else entry


def load_rows(folder: Path) -> list[Row]:
    """The rows of a folder, verified, in the schema of today: what an older one lacks is empty (see `ADDED`).

    Raises BadInput when they are missing, damaged or of a newer schema.
    """
    path = Path(folder) / RESULTS
    rows = []
    for number, line in enumerate(read_verified(folder, RESULTS).decode().splitlines(), 1):
        try:
            values = json.loads(line)
            schema = values.pop("schema", None)
            if type(schema) is not int or schema < 1:
                raise ValueError(f"its schema is {schema!r}")
            if schema > SCHEMA:
                raise BadInput(f"{path} was written by a newer version (schema {schema}); upgrade this one")
            if early := [name for later in range(schema + 1, SCHEMA + 1) for name in ADDED[later] if name in values]:
                raise ValueError(f"schema {schema} has no column '{early[0]}'")
            rows.append(Row(**values))
        except (ValueError, TypeError, AttributeError) as error:
            raise _damaged(path, f"has a bad row in line {number} ({error})") from None
    return rows


def frame(where: Path | Sequence[Path], read: Callable[[Path], Iterable[Row]] = load_rows) -> DataFrame:
    """All rows under a root folder, or of the given run folders, as one DataFrame with the columns of `Row`.

    read: the rows of a folder.
    """
    import pandas

    if isinstance(where, (str, Path)):
        below = walk(Path(where))
        folders = below.holding(RESULTS)
        for reason in below.lost.values():
            _log.warning("warning: left out: %s", reason)
    else:
        folders = [Path(folder) for folder in where]
    rows = [row for folder in folders for row in read(folder)]
    table = pandas.DataFrame([dataclasses.asdict(row) for row in rows], columns=[f.name for f in fields(Row)])
    return table.astype(_dtypes())


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
    values = {name: readable(v) if isinstance(v, str) else v for name, v in dataclasses.asdict(row).items()}
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            values[name] = None
            if name == "value":
                values["reason"] = row.reason or f"the value is {value}"
    return values
