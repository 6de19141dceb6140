"""How what is added is found: definitions at the foot of files of ours, and those that other packages name.

A `Door` is one kind of thing that can be added: recipes, backbones, data sets, metrics. Ours stand in the files of one folder,
each in a tuple at the file's foot (`RECIPES = (Recipe("gan", ...), ...)`). Another package adds to them by an entry point,

    [project.entry-points."paradigms.recipes"]
    my-model = "my_package.my_model"            # a module with RECIPES, or "my_package.my_model:RECIPES"

Names and other literals are read from the sources without running them, so that lists and shell completion do not wait for
torch. A plug-in is imported for its names only where they do not stand in its source as literals.

A plug-in that can not be loaded, or that takes a name which exists, costs one warning and is left out.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import logging
import multiprocessing
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from paradigms.errors import BadInput

__all__ = [
    "Door",
    "Found",
    "fields_in",
    "foreign_file",
    "forget",
    "ours_alone",
    "points",
    "taken_for_installed",
    "warn",
]

_log = logging.getLogger(__name__)
_taken = list[EntryPoint]()
_ours_alone = list[bool]()
_warned = set[str]()

Fields = Mapping[str, Any]  # the literal arguments of a definition, by name


@dataclass(frozen=True)
class Found:
    """A definition and where it comes from, in words. plugin: it is none of ours."""

    definition: Any
    where: str
    plugin: bool


@dataclass(frozen=True)
class Door:
    """One kind of thing that can be added.

    group:     of the entry points.
    attribute: the tuple at the foot of a file, "RECIPES".
    kind:      the class of what stands in it, by name: "Recipe"; `module` is where that class is.
    package:   whose files hold ours; `apart` are files of it that hold none.
    listed:    the arguments that lists and completion show. Where one of them is no literal the file is imported.
    """

    group: str
    attribute: str
    kind: str
    module: str
    package: str
    apart: frozenset[str] = frozenset()
    listed: frozenset[str] = frozenset({"name"})

    # ------------------------------------------------------------------------------------------ without running them

    def described(self) -> dict[str, Fields]:
        """By name the literal arguments of every definition, the first of each name. Raises nothing."""
        found: dict[str, Fields] = {}
        for name, path in _files(self.package, self.attribute, self.apart):
            for fields in fields_in(path, self.attribute, self.kind, self.listed) or self._imported(name):
                found.setdefault(fields["name"], fields)
        for point in self.points():
            for fields in self._described_by(point):
                found.setdefault(fields["name"], fields)
        return found

    def points(self) -> tuple[EntryPoint, ...]:
        """The entry points by which other packages add to this."""
        return points(self.group)

    def _described_by(self, point: EntryPoint) -> list[Fields]:
        source, literal = _source_of(point.module), None
        if source is not None and (point.attr or self.attribute) == self.attribute:
            try:
                literal = fields_in(source, self.attribute, self.kind, self.listed)
            except (OSError, SyntaxError, ValueError):
                literal = None
        if literal:
            return literal
        try:
            return [_fields(one) for one in self.load(point)]
        except BadInput as error:
            warn(str(error))
            return [{"name": point.name}]

    def _imported(self, module: str) -> list[Fields]:
        """Of a file of ours that is not so plain."""
        return [_fields(one) for one in getattr(importlib.import_module(module), self.attribute, ())]

    # ----------------------------------------------------------------------------------------------------- as things

    def ours(self) -> Iterator[Found]:
        """The definitions in our own files."""
        for name, _ in _files(self.package, self.attribute, self.apart):
            for one in getattr(importlib.import_module(name), self.attribute, ()):
                yield Found(one, name, False)

    def added(self) -> Iterator[Found]:
        """The definitions of other packages. What can not be loaded is left out, with a warning."""
        for point in self.points():
            try:
                found = self.load(point)
            except BadInput as error:
                warn(str(error))
                continue
            yield from (Found(one, f"plugin '{point.name}' ({point.value})", True) for one in found)

    def known(self) -> dict[str, Any]:
        """By name every definition, ours first. One that takes a name which exists is left out, with a warning."""
        found: dict[str, Found] = {}
        for one in (*self.ours(), *self.added()):
            other = found.setdefault(one.definition.name, one)
            if other is not one:
                name, word = one.definition.name, self.attribute.lower().removesuffix("s")
                warn(f"{one.where} is left out: {word} '{name}' is defined by {other.where}; rename one")
        return {name: one.definition for name, one in found.items()}

    def load(self, point: EntryPoint) -> tuple[Any, ...]:
        """The definitions that an entry point names. Raises BadInput."""
        where = f"plugin '{point.name}' ({point.value})"
        try:
            loaded = point.load()
            found = tuple(getattr(loaded, self.attribute, loaded))
        except (Exception, SystemExit) as error:  # a stranger's code may raise anything
            raise BadInput(
                f"{where} can not be loaded: {type(error).__name__}: {error}; mend or uninstall it"
            ) from error
        kind = getattr(importlib.import_module(self.module), self.kind)
        if not found or not all(isinstance(one, kind) for one in found):
            what = f"a module with {self.attribute} or a tuple of {self.kind}"
            raise BadInput(f"{where} must name {what}; mend or uninstall it")
        return found

    def broken(self, name: str) -> BadInput | None:
        """Why the plug-in that a name would come from can not be loaded; None where there is none such."""
        for point in self.points():
            try:
                self.load(point)
            except BadInput as error:
                if name == point.name or name in _names(self._described_by(point)):
                    return error
        return None


def warn(line: str) -> None:
    """Says a line on stderr, once; worker processes leave it to the first one."""
    if line not in _warned and multiprocessing.parent_process() is None:
        _warned.add(line)
        _log.warning("warning: %s", " ".join(line.split()))


def forget() -> None:
    """Looks for entry points anew when they are next asked for: a package may have been installed since."""
    _points.cache_clear()


_OURS = {Path(__file__).parents[1] / name for name in ("paradigms", "bench", "reports")}


def foreign_file(definition: Any) -> Path | None:
    """The file of another package that defines a class or function; None where it is ours, or in no file.

    Other packages may lie next to ours, as in an environment they do.
    """
    while isinstance(definition, functools.partial):
        definition = definition.func
    name = getattr(definition, "__module__", None) or type(definition).__module__
    found = getattr(sys.modules.get(name), "__file__", None)
    return None if found is None or not _OURS.isdisjoint(Path(found).parents) else Path(found)


def points(*groups: str) -> tuple[EntryPoint, ...]:
    """What the packages on sys.path add in some groups, and the modules that are taken for such."""
    if _ours_alone:
        return ()
    installed = (point for group in groups for point in _points(group, tuple(sys.path)))
    return (*installed, *(point for point in _taken if point.group in groups))


@contextmanager
def ours_alone() -> Iterator[None]:
    """Meanwhile there is nothing of other packages: for what is written of ours, whatever else is installed."""
    _ours_alone.append(True)
    try:
        yield
    finally:
        _ours_alone.pop()


@contextmanager
def taken_for_installed(module: str, doors: Iterable[Door]) -> Iterator[None]:
    """Meanwhile an imported module is taken for one that an installed package adds to these doors."""
    mine = list[EntryPoint]()
    for door in doors:
        theirs = getattr(sys.modules[module], door.attribute, ())
        known = {id(one.definition) for one in (*door.ours(), *door.added())}
        if isinstance(theirs, (tuple, list)) and theirs and not known & set(map(id, theirs)):
            mine.append(EntryPoint(module, module, door.group))  # else it is installed, by this name or another
    _taken.extend(mine)
    try:
        yield
    finally:
        for point in mine:
            _taken.remove(point)


@functools.lru_cache(maxsize=16)
def _points(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """What the packages on sys.path add. Kept, since it takes 20 ms to read what all of them say of themselves."""
    return tuple(entry_points(group=group))


@functools.lru_cache(maxsize=16)
def _files(package: str, attribute: str, apart: frozenset[str]) -> list[tuple[str, Path]]:
    """(module, file) of the files of a package that have such a tuple at their foot, in alphabetical order."""
    spec, found = importlib.util.find_spec(package), list[tuple[str, Path]]()
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for module in pkgutil.iter_modules([folder]):
            path = Path(folder, f"{module.name}.py")
            if not module.ispkg and module.name not in apart and f"\n{attribute}" in path.read_text("utf-8"):
                found.append((f"{package}.{module.name}", path))
    return found


def _fields(definition: Any) -> Fields:
    return {name: getattr(definition, name) for name in definition.__dataclass_fields__}


def _names(described: list[Fields]) -> set[str]:
    return {name for fields in described for name in (fields["name"], *fields.get("aliases", ()))}


def fields_in(source: Path, attribute: str, kind: str, listed: frozenset[str]) -> list[Fields] | None:
    """The literal arguments in `ATTRIBUTE = (Kind("name", key=...), ...)` at the foot of a file.

    Empty where there is no such tuple, None where it is not so plain: something else than calls of `kind`, or one of the
    arguments `listed` that is no literal.
    """
    text = source.read_text(encoding="utf-8")
    foot = re.search(rf"^{attribute}\b", text, re.MULTILINE)
    if foot is None:
        return []
    first, *more = ast.parse(text[foot.start() :], str(source)).body
    value = getattr(first, "value", None)
    if not isinstance(value, (ast.Tuple, ast.List)) or any(attribute in ast.dump(node) for node in more):
        return None
    found = [_literals(call, kind, listed) for call in value.elts]
    return None if any(fields is None for fields in found) else [fields for fields in found if fields is not None]


def _literals(call: ast.expr, kind: str, listed: frozenset[str]) -> dict[str, Any] | None:
    """The literal arguments of one call; None where it is no call of `kind`, or one of those listed is no literal."""
    if not isinstance(call, ast.Call):
        return None
    called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if called != kind:
        return None
    given = {f.arg: f.value for f in call.keywords if f.arg} | ({"name": call.args[0]} if call.args else {})
    found: dict[str, Any] = {}
    for key, value in given.items():
        try:
            found[key] = ast.literal_eval(value)
        except ValueError:
            if key in listed:
                return None
    return found if isinstance(found.get("name"), str) else None


def _source_of(module: str) -> Path | None:
    """The file of a module, found without importing its parents; None when it is not plain Python."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin)
    if rest:
        path = path.parent.joinpath(*rest)
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return path if path.suffix == ".py" and path.is_file() else None
