"""`load` and `fetch`: from a name to tensors, and from a name to verified files in the cache."""

from __future__ import annotations

from pathlib import Path

from bench.data.array import load_array
from bench.data.cifar import CIFAR10, load_cifar10
from bench.data.dataset import Dataset
from bench.data.digits import load_digits
from bench.data.files import Origin, Progress, obtain, store
from bench.data.folder import load_folder
from bench.data.idx import FASHION_MNIST, MNIST, load_idx
from bench.data.names import ArrayName, FolderName, Name, OwnData, info, own_data
from bench.data.stacked import STACKED, load_stacked
from bench.data.toys import TOYS, load_toy
from paradigms.errors import BadInput

__all__ = ["fetch", "load"]

ORIGINS: dict[str, Origin] = {
    "mnist": MNIST,
    "mnist@14": MNIST,
    "fashion-mnist": FASHION_MNIST,
    "fashion-mnist@14": FASHION_MNIST,
    "cifar10": CIFAR10,
    "stacked-mnist": MNIST,
    "stacked-mnist@14": MNIST,
}


def load(name: Name, source: Path | None = None, progress: Progress | None = None) -> Dataset:
    """The data set called `name`, or a user's own, on the CPU.

    source:   where to look instead of cache, system and download (`--from`); only for sets made of files.
    progress: called with (what, done, total) while files are downloaded or decoded.
    Raises BadInput: no such name, files missing, damaged or of another set, no connection.
    """
    name = _parsed(name)
    _refuse_source(name, source)
    if isinstance(name, OwnData):
        return load_own(name, progress)
    if name.startswith(STACKED):
        return load_stacked(load(name.removeprefix(STACKED), source, progress))
    if name in TOYS:
        return load_toy(name)
    if name == "digits":
        return load_digits()
    origin = ORIGINS[name]
    if name == "cifar10":
        return load_cifar10(origin, source, progress)
    return load_idx(origin, name.endswith("@14"), source, progress)


def load_own(place: OwnData, progress: Progress | None = None) -> Dataset:
    """A user's own data. Raises BadInput."""
    if isinstance(place, ArrayName):
        return load_array(place)
    assert isinstance(place, FolderName)
    return load_folder(place, progress)


def fetch(name: Name, source: Path | None = None, progress: Progress | None = None) -> list[Path]:
    """Find, import or download the files of `name` and verify them; where they lie.

    With `source` they are copied from there into the cache, so that a later `load` needs it no more; a download goes
    into the cache too. Empty for sets that need no files. A folder of images is decoded and its tensors cached.
    """
    name = _parsed(name)
    _refuse_source(name, source)
    if isinstance(name, OwnData):
        load_own(name, progress)
        return [name.path, *([name.test] if isinstance(name, FolderName) and name.test else [])]
    if name not in ORIGINS:
        load(name)
        return []
    found = obtain(ORIGINS[name], source, progress)
    if source is not None:
        found = store(ORIGINS[name], {part: f.data for part, f in found.items()})
    return list(dict.fromkeys(f.path for f in found.values()))


def _parsed(name: Name) -> Name:
    """A name that there is, that of a user's own data taken apart. Raises BadInput."""
    if isinstance(name, OwnData):
        return name
    info(name)
    return own_data(name) or name


def _refuse_source(name: Name, source: Path | None) -> None:
    if source is not None and name not in ORIGINS:
        raise BadInput(f"'{name}' is not read from files, so --from {source} has no meaning; leave it out")
