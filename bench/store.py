"""What is on disk: atomic files, a manifest with their sha256, and rows of results that become one DataFrame.

A folder's `manifest.json` lists each file with its sha256 and size; it is written after them, so a folder whose
manifest verifies is whole. Neither torch.load nor safetensors notices a flipped bit: this does.

A hash says that a file is whole, not that it lies where it belongs. What is hashed therefore says inside what it is the
file of (a run's id, a plan's key), and whoever reads it compares that with where it was found (`belongs`, `misplaced`).

Whoever writes into a folder holds its lock (`locked`); who reads needs none. What stands in a manifest are the hashes of
the bytes that were written (`put`), not of what lies there later.
`Row` documents every column of the results, in one place; the table in docs/rows.md is made from it.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import logging
import math
import os
import re
import tempfile
import threading
import time
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.data.names import readable
from bench.data.whole import read_whole
from bench.walk import walk
from paradigms.errors import BadInput
from reports import files

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "ADDED",
    "INFO",
    "LOCK",
    "MANIFEST",
    "OF",
    "RESULTS",
    "SCHEMA",
    "SEAL",
    "Row",
    "Unwritable",
    "baselines_of",
    "belongs",
    "columns",
    "fits",
    "fitting",
    "frame",
    "has_rows",
    "load_rows",
    "locked",
    "manifest",
    "metadata",
    "misplaced",
    "missing",
    "owner",
    "parse",
    "put",
    "read_json",
    "read_sealed",
    "read_verified",
    "results_key",
    "save_rows",
    "table",
    "unsealed",
    "verify",
    "writable",
    "write_atomic",
    "write_json",
    "write_manifest",
    "write_sealed",
]

SCHEMA = 3
# What each version added. Rows of an older one are read with these columns empty: nobody wrote down what they held.
ADDED = {2: ("data", "samples", "resize", "torch"), 3: ("low", "high", "reading")}
MANIFEST = "manifest.json"
INFO = "run.json"
BASELINES = "baselines"  # the folder, beside those of the recipes, of what no run is needed for
RESULTS = "results.jsonl"
LOCK = ".lock"
NO_RUN = ("baseline", "external")  # the status of rows of no run
SEAL = "sha256"  # the key of a sealed JSON object
OF = "of"  # the key of what a file is the file of
DEEPEST = 16  # objects and lists in each other that a JSON file of the suite has at most
LONGEST = 1 << 26  # bytes of a JSON file of the suite: a manifest of thousands of files has not a tenth of it
LARGEST = 1e100  # a number beyond is none to compute with: squares and sums of them are infinite
STATUSES = ("ok", "baseline", "external", "diverged", "failed")
SIGNED = ("value", "low", "high")  # the columns whose numbers may be negative
_log = logging.getLogger(__name__)


def _column(doc: str, default: Any = "") -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True)
class Row:
    """One measured number with all that is needed to know what it means. A column that does not apply is "" or None."""

    schema: int = _column("version of this table", SCHEMA)
    run: str = _column("id of the run: its seed and the hash of what defines it, as in the folder's name")
    status: str = _column(
        '"ok", "baseline" (no model), "external" (samples from elsewhere), "diverged" or "failed"', "ok"
    )
    reason: str = _column("why the run stopped, why the value is missing, or a caveat")
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
    conditional: bool = _column("the model was trained with class labels", False)
    metric: str = _column("what was measured")
    value: float | None = _column("the number; None when it could not be measured (see reason)", None)
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
    contended: bool = _column("other work ran on the machine, or on the same GPU, during the timing or training", False)
    code: str = _column(
        "short sha256 over the sources that trained the model; a+b: trained by version a, measured by version b"
    )


def columns() -> list[tuple[str, str, str]]:
    """(name, type, meaning) of every column of `Row`, in order."""
    return [(f.name, str(f.type), f.metadata["doc"]) for f in fields(Row)]


# ---------------------------------------------------------------------------------------------------------- files


class Unwritable(BadInput):
    """A place can not be written to, or is full."""


def write_atomic(path: Path, data: bytes) -> None:
    """`reports.files.write` for the user's files: raises Unwritable when the place can not be written to or is full."""
    try:
        files.write(path, data)
    except OSError as error:
        raise Unwritable(
            f"can not write {path}: {error.strerror or error}; free the place or choose another --out"
        ) from None


def writable(folder: Path) -> None:
    """Proves that files can be written into a folder, before any work; leaves none behind. Raises Unwritable."""
    folder = Path(folder)
    absent = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable-"):
            pass
    except OSError as error:
        raise Unwritable(f"can not write to {folder}: {error.strerror or error}; choose another folder") from None
    finally:
        for parent in absent:  # whoever writes makes them again
            with suppress(OSError):
                parent.rmdir()


def put(path: Path, data: bytes) -> dict[str, Any]:
    """Writes a file atomically and returns what a manifest says of it (see `write_manifest`)."""
    write_atomic(path, data)
    return files.fingerprint(data)


def write_json(path: Path, value: Any) -> dict[str, Any]:
    """`put` of a value as JSON. A path that is no UTF-8 comes back as it was: its odd bytes are written as \\udcXX."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return put(path, text.encode("utf-8", "backslashreplace"))


def write_sealed(path: Path, value: dict[str, Any]) -> dict[str, Any]:
    """`put` of a JSON object with the sha256 of its content in it: for what is read before a manifest lists it."""
    return write_json(path, {**value, SEAL: _seal(value)})


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote. Raises BadInput when it is missing or was changed since."""
    return unsealed(path, read_json(path))


def unsealed(path: Path, value: dict[str, Any]) -> dict[str, Any]:
    """A JSON object without its seal. Raises BadInput when it was changed since it was written to `path`."""
    value = dict(value)
    if value.pop(SEAL, None) != _seal(value):
        raise _damaged(path, "is damaged or was edited (its sha256 does not match)")
    return value


# ---------------------------------------------------------------------------------------------------------- places


def belongs(path: Path, said: object, of: str) -> None:
    """Compares what a file says it is the file of with what it is read as. Raises BadInput as for a damaged one."""
    if said != of:
        says = f"is of '{said}'" if said else "does not say what it is of"
        raise _damaged(path, f"{says}, and lies in the place of '{of}'")


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


# ----------------------------------------------------------------------------------------------------------- locks

_mine = threading.local()  # the locks that a thread holds


@contextmanager
def locked(folder: Path, waiting: Callable[[], object] = lambda: None, name: str = "") -> Iterator[None]:
    """Holds the lock that every writer into a folder holds: between processes, and between threads of this one.

    The system drops it when its holder dies, so none is ever stale. Who holds it may take it again. What dead writers
    left half-written is removed. waiting: called again and again while another holds it; what it raises ends that.
    name: locks one file in the folder, where several may be written at once. Raises Unwritable.
    """
    folder = Path(folder)
    path = folder / (f".{name}.lock" if name else LOCK)
    key, held = os.path.realpath(path), _mine.__dict__.setdefault("held", set())
    if key in held:
        yield
        return
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Neither a link, which may lead out of the folder, nor a pipe, which would be waited for.
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
            file = os.fdopen(os.open(path, flags, 0o666), "wb", 0)  # closing it drops the lock
        except OSError as error:
            raise Unwritable(f"can not write {folder}: {error.strerror or error}; choose another --out") from None
        with file:
            pause = 0.002
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    waiting()
                    time.sleep(pause)
                    pause = min(2 * pause, 0.1)
                except OSError as error:
                    raise Unwritable(f"can not lock {path}: {error.strerror}; choose another --out") from None
            if not files.is_at(path, file.fileno()):  # the folder was deleted meanwhile, and the lock with it
                continue
            held.add(key)
            try:
                files.sweep(folder, name)
                yield
            finally:
                held.discard(key)
        return


def _seal(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises BadInput when the file is missing or not an object."""
    try:
        value = parse(_read(path, LONGEST))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise _damaged(path, "is not a JSON object")
    return value


def parse(text: bytes) -> Any:
    """The value of JSON in UTF-8 whose numbers are finite and whose keys are there once. Raises ValueError for other text."""
    try:
        value = json.loads(text.decode(), parse_constant=_finite, parse_float=_finite, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level = [value]
    for _ in range(DEEPEST):
        if not (level := [inner for one in level for inner in _inside(one)]):
            return value
    raise ValueError("it is nested too deeply")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no finite number")
    return number


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


# ---------------------------------------------------------------------------------------------------------- types


@cache
def fits(hint: Any) -> Callable[[Any], bool]:
    """Whether a value out of JSON is one of a type as dataclasses have them: scalars, None, literals, tuples, mappings.

    An int does for a float, a bool for neither; ints have 63 bits, floats are at most `LARGEST`, and texts can be written
    and name a file. What is of another type, as Any, fits.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        several = [fits(one) for one in args]
        return lambda value: any(fit(value) for fit in several)
    if origin is Literal:
        return lambda value: any(type(value) is type(one) and value == one for one in args)
    if origin is tuple and args[1:] == (...,):
        inner = fits(args[0])
        return lambda value: isinstance(value, (list, tuple)) and all(map(inner, value))
    if origin is tuple:
        each = [fits(one) for one in args]
        return lambda value: (
            isinstance(value, (list, tuple))
            and len(value) == len(each)
            and all(fit(part) for fit, part in zip(each, value))
        )
    if origin in (dict, Mapping):
        inner = fits(args[1])
        return lambda value: isinstance(value, dict) and all(map(_is_text, value)) and all(map(inner, value.values()))
    if hint is float:
        return lambda value: type(value) in (int, float) and -LARGEST <= value <= LARGEST
    if hint is int:
        return lambda value: type(value) is int and -(2**63) <= value < 2**63
    if hint is str:
        return _is_text
    if hint in (bool, types.NoneType):
        return lambda value: type(value) is hint
    return lambda value: True


def _is_text(value: Any) -> bool:
    if type(value) is not str:
        return False
    try:  # other halves of a pair than those of file names can not be written
        return value.isprintable() or ("\0" not in value and value.encode("utf-8", "surrogateescape") is not None)
    except UnicodeEncodeError:
        return False


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def fitting(kind: type, values: Mapping[str, Any], signed: Sequence[str] = ()) -> dict[str, Any]:
    """The values for the fields of a dataclass, each of its type, numbers not negative but for the fields `signed`.

    Raises ValueError with the name of what is wanting, too much or of another type.
    """
    hints = _hints(kind)
    if (name := next((name for name in values if name not in hints), None)) is not None:
        raise ValueError(f"there is no '{name}'")
    for f in fields(kind):
        if f.name not in values:
            if f.default is MISSING and f.default_factory is MISSING:
                raise ValueError(f"'{f.name}' is missing")
            continue
        value = values[f.name]
        if not fits(hints[f.name])(value):
            raise ValueError(f"'{f.name}' is {_short(value)}, not {f.type}")
        if type(value) in (int, float) and value < 0 and f.name not in signed:
            raise ValueError(f"'{f.name}' is {_short(value)}, which is below 0")
    return dict(values)


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = "a number"
    return text if len(text) <= 40 else f"{text[:40]}…"


def _read(path: Path, limit: int | None = None) -> bytes:
    if not os.path.exists(path):
        raise BadInput(f"{path} is missing; is {path.parent} the folder of a finished run?")
    return read_whole(path, limit)


def _damaged(path: Path, how: str) -> BadInput:
    if path.name == RESULTS:  # made from the weights, which are worth more than it
        return BadInput(f"{path} {how}; delete this file, and `bench all` or `bench evaluate` makes it anew")
    if path.suffix == ".png":  # drawn with the rows
        return BadInput(
            f"{path} {how}; delete {path.parent / RESULTS}, and `bench all` or `bench evaluate` makes both anew"
        )
    if path.name.startswith("plan-"):
        return BadInput(f"{path} {how}; delete this file and run the same command again")
    if path.suffix == ".pt":  # a checkpoint
        return BadInput(f"{path} {how}; delete the folder {path.parent} to train anew")
    verb = "train" if os.path.exists(path.parent / INFO) else "evaluate"
    return BadInput(f"{path} {how}; delete the folder {path.parent}, and `bench all` or `bench {verb}` makes it anew")


# ------------------------------------------------------------------------------------------------------- manifest


def manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """What manifest.json says of each file: {"name": {"sha256", "bytes", ...}}; {} when there is no manifest.

    Raises BadInput when it is none, or lists a name that leads out of the folder.
    """
    path = Path(folder) / MANIFEST
    if not os.path.exists(path):
        return {}
    files: Any = read_json(path).get("files")
    if not fits(Mapping[str, Mapping[str, Any]])(files) or not all(map(_is_entry, files.values())):
        raise _damaged(path, "is not a manifest")
    for name in files:
        if not name or name.startswith("/") or "\0" in name or not {"", ".", ".."}.isdisjoint(name.split("/")):
            raise _damaged(path, f"lists {name!r}, which is no file in its folder")
    return files


def _is_entry(entry: Mapping[str, Any]) -> bool:
    later = entry.get("next")
    typed = (
        fits(str)(entry.get("sha256")) and fits(str | None)(entry.get("key")) and fits(int | None)(entry.get("bytes"))
    )
    return typed and (later is None or (isinstance(later, dict) and _is_entry(later)))


def write_manifest(folder: Path, files: Mapping[str, Mapping[str, Any]], **facts: Any) -> None:
    """Records files, by their names, with what `put` gave for each and further `facts`; others stay recorded.

    One that is recorded and is gone stays recorded too, so that it is missed.
    """
    folder = Path(folder)
    with locked(folder):
        listed = manifest(folder) | {name: {**said, **facts} for name, said in files.items()}
        write_json(folder / MANIFEST, {"schema": SCHEMA, "files": dict(sorted(listed.items()))})


def read_verified(folder: Path, name: str) -> bytes:
    """The bytes of a file that the manifest lists. Raises BadInput when it is missing, unlisted or changed."""
    folder = Path(folder)
    entry = manifest(folder).get(name)
    if entry is None:
        raise _damaged(folder / name, f"is not listed in {MANIFEST}")
    if not os.path.exists(folder / name):
        raise _damaged(folder / name, f"is missing, but {MANIFEST} lists it")
    sizes = {said.get("bytes") for said in (entry, entry.get("next") or entry)}
    data = _read(folder / name) if not sizes.isdisjoint({None, (folder / name).stat().st_size}) else b""
    if hashlib.sha256(data).hexdigest() != _entry_of(entry, data)["sha256"]:
        raise _damaged(folder / name, f"is damaged (its sha256 is not the one in {MANIFEST})")
    return data


def verify(folder: Path, names: Iterable[str] | None = None) -> None:
    """Checks files of the manifest, by default all, and holds none of them whole.

    Raises BadInput naming the first that is missing or changed, or that the manifest does not list.
    """
    folder, listed = Path(folder), manifest(folder)
    for name in listed if names is None else names:
        said, path, digest = listed.get(name, {}), folder / name, ""
        with suppress(OSError):
            # A pipe would be waited for, and a file of another size is another without being read.
            if os.path.isfile(path) and said.get("bytes") in (None, path.stat().st_size):
                with open(path, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != said.get("sha256"):
            read_verified(folder, name)  # which says what is wrong, or knows it for what was to be next


def missing(folder: Path) -> list[str]:
    """The names of the files that the manifest lists and that are gone. Raises BadInput when it is none."""
    return [name for name in manifest(folder) if not os.path.exists(Path(folder) / name)]


# ----------------------------------------------------------------------------------------------------------- rows


def save_rows(folder: Path, rows: Sequence[Row], key: str) -> None:
    """Writes results.jsonl whole. `key` says what the rows were made from; `results_key` gives it back.

    Whenever it is stopped, the folder holds the rows of before or these: the manifest names both while the file changes.
    """
    folder = Path(folder)
    lines = [json.dumps(_plain(row), ensure_ascii=False, allow_nan=False) for row in rows]
    data = "".join(f"{line}\n" for line in lines).encode()
    with locked(folder):
        if (before := manifest(folder).get(RESULTS)) is not None:
            write_manifest(folder, {RESULTS: {**before, "next": {**files.fingerprint(data), "key": key}}})
        write_manifest(folder, {RESULTS: put(folder / RESULTS, data)}, key=key)


def results_key(folder: Path) -> str | None:
    """The key that results.jsonl was saved under, or None when there are no (whole) results."""
    entry, path = manifest(folder).get(RESULTS), Path(folder) / RESULTS
    if entry is None or not os.path.exists(path):
        return None
    return _entry_of(entry, _read(path)).get("key")


def _entry_of(entry: dict[str, Any], data: bytes) -> dict[str, Any]:
    """What the manifest says of these bytes of a file: what stands there, or what was to be next when it was stopped."""
    later = entry.get("next")
    return later if later is not None and hashlib.sha256(data).hexdigest() == later["sha256"] else entry


def load_rows(folder: Path) -> list[Row]:
    """The rows of a folder, verified, in the schema of today: what an older one lacks is empty (see `ADDED`).

    Raises BadInput when they are missing, damaged, of a wrong type, of a newer schema, or of another run than the one that
    they lie in.
    """
    path = Path(folder) / RESULTS
    rows = list[Row]()
    for number, line in enumerate(read_verified(folder, RESULTS).splitlines(), 1):
        try:
            values = parse(line)
            if not isinstance(values, dict):
                raise ValueError("it is not a JSON object")
            schema = values.pop("schema", None)
            if type(schema) is not int or schema < 1:
                raise ValueError(f"its schema is {_short(schema)}")
            if schema > SCHEMA:
                raise BadInput(f"{path} was written by a newer version (schema {_short(schema)}); upgrade this one")
            if early := [name for later in range(schema + 1, SCHEMA + 1) for name in ADDED[later] if name in values]:
                raise ValueError(f"schema {schema} has no column '{early[0]}'")
            rows.append(_row(values))
        except ValueError as error:
            raise _damaged(path, f"has a bad row in line {number} ({error})") from None
    runs = {row.run for row in rows if row.run and row.status not in NO_RUN}
    own = _run_at(folder) if runs else ""
    for run in sorted(runs) if own else ():
        belongs(path, run, own)
    for name in sorted({row.dataset for row in rows}):
        if data := _data_at(folder, name):
            belongs(path, name, data)
    return rows


def _row(values: dict[str, Any]) -> Row:
    """A row out of JSON. A measured number too large to compute with becomes None, and the reason says what it was."""
    for name in ("value", "error", "low", "high"):
        number = values.get(name)
        if isinstance(number, (int, float)) and not -LARGEST <= number <= LARGEST:
            values[name] = None
            if name == "value":
                reasons = (values.get("reason"), f"the value is {_short(number)}, too large to be compared")
                values["reason"] = "; ".join(str(reason) for reason in reasons if reason)
    row = Row(**fitting(Row, values, SIGNED))
    if row.status not in STATUSES:
        raise ValueError(f"its status is {_short(row.status)}")
    return row


def has_rows(folder: Path) -> bool:
    """Whether a folder holds rows, or its manifest says that it should."""
    folder = Path(folder)
    try:
        return os.path.exists(folder / RESULTS) or RESULTS in manifest(folder)
    except BadInput:  # of a run it is missed; elsewhere the file may be anybody's
        return os.path.exists(folder / INFO)


def _data_at(folder: Path, name: str) -> str:
    """The data set of a run beside a folder of baselines, `name` if that of any; "" without runs, and of other folders."""
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

    found = pandas.DataFrame([dataclasses.asdict(row) for row in rows], columns=[f.name for f in fields(Row)])
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
    values = {name: readable(v) if isinstance(v, str) else v for name, v in dataclasses.asdict(row).items()}
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            values[name] = None
            if name == "value":
                values["reason"] = row.reason or f"the value is {value}"
    return values
