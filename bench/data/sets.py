"""`load` and `fetch`: from a name to tensors, and from a name to verified files in the cache."""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib.metadata import EntryPoint
from pathlib import Path

from bench.data.array import load_array
from bench.data.dataset import Dataset
from bench.data.files import Progress, obtain, store
from bench.data.folder import load_folder
from bench.data.names import DOOR, ArrayName, Definition, FolderName, Name, OwnData, info, own_data
from paradigms.errors import BadInput

__all__ = ["definitions", "fetch", "load", "loaded"]


def definitions() -> dict[str, Definition]:
    """By name every data set, ours and those of other packages."""
    return _definitions(tuple(sys.path), DOOR.points())


@lru_cache(maxsize=4)
def _definitions(path: tuple[str, ...], points: tuple[EntryPoint, ...]) -> dict[str, Definition]:
    return DOOR.known()


def load(name: Name, source: Path | None = None, progress: Progress | None = None) -> Dataset:
    """The data set called `name`, or a user's own, on the CPU.

    source:   where to look instead of cache, system and download (`--from`); only for sets made of files.
    progress: called with (what, done, total) while files are downloaded or decoded.
    Raises BadInput: no such name, files missing, damaged or of another set, no connection.
    """
    name = _parsed(name)
    if isinstance(name, OwnData):
        _refuse_source(name, source)
        return load_own(name, progress)
    definition = _definition(name)
    _refuse_source(definition, source)
    return loaded(definition, source, progress)


def _definition(name: str) -> Definition:
    """Raises BadInput where it is of a plugin that can not be loaded."""
    found = definitions().get(name)
    if found is None:
        raise DOOR.broken(name) or BadInput(f"data set '{name}' can not be loaded; see the warning, and uninstall it")
    return found


def loaded(definition: Definition, source: Path | None = None, progress: Progress | None = None) -> Dataset:
    """The data set, as its definition says it is; its files are obtained. Raises BadInput."""
    files = obtain(definition.origin, source, progress) if definition.origin else {}
    where, ours = f"data set '{definition.name}'", definition.load.__module__.startswith("bench.data.")
    try:
        found = definition.load(files)
        what = (found.name, found.space.shape, found.space.classes, found.space.levels)
    except Exception as error:  # a stranger's code may raise anything
        if ours or isinstance(error, BadInput):
            raise
        raise BadInput(f"{where} can not be loaded: {type(error).__name__}: {error}; mend or uninstall it") from error
    said = (definition.name, definition.shape, definition.classes, definition.levels)
    if what != said:
        raise BadInput(f"{where} says name, shape, classes and levels {said}, but its loader gives {what}; mend one")
    if definition.checksum and definition.checksum != found.checksum:
        raise BadInput(
            f"{where} has the checksum {found.checksum[:12]}, not {definition.checksum[:12]}; its examples have changed"
        )
    return found


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
    if isinstance(name, OwnData):
        _refuse_source(name, source)
        load_own(name, progress)
        return [name.path, *([name.test] if isinstance(name, FolderName) and name.test else [])]
    definition = _definition(name)
    _refuse_source(definition, source)
    if definition.origin is None:
        load(name)
        return []
    found = obtain(definition.origin, source, progress)
    if source is not None:
        found = store(definition.origin, {part: f.data for part, f in found.items()})
    return list(dict.fromkeys(f.path for f in found.values()))


def _parsed(name: Name) -> Name:
    """A name that there is, that of a user's own data taken apart. Raises BadInput."""
    if isinstance(name, OwnData):
        return name
    info(name)
    return own_data(name) or name


def _refuse_source(asked: OwnData | Definition, source: Path | None) -> None:
    if source is not None and (isinstance(asked, OwnData) or asked.origin is None):
        name = asked if isinstance(asked, OwnData) else asked.name
        raise BadInput(f"'{name}' is not read from files, so --from {source} has no meaning; leave it out")
