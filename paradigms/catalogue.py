"""Finds the recipes: `RECIPES` at the foot of each sibling file, and what installed packages add by an entry point.

Adding a paradigm is adding one file here, or shipping a package with

    [project.entry-points."paradigms.recipes"]
    my-model = "my_package.my_model"            # a module with RECIPES, or "my_package.my_model:RECIPES"

`names()` reads the sources without running them, so that shell completion does not wait for torch. Only a plugin whose
names stand nowhere in its source is imported.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from paradigms.errors import BadInput, unknown

if TYPE_CHECKING:
    from paradigms.contract import Recipe

__all__ = ["GROUP", "get", "names", "recipes"]

GROUP = "paradigms.recipes"
_NOT_A_PARADIGM = {"contract", "errors", "catalogue"}


def names() -> list[str]:
    """The names of all recipes, sorted, from their sources: none of them and no torch is imported, where it can be.

    A plugin that can not be loaded is named by its entry point: `get` says what is wrong with it.
    """
    found: set[str] = set()
    for module in _siblings():
        found.update(_names_in(Path(__file__).parent / f"{module}.py") or ())
    for point in entry_points(group=GROUP):
        found.update(_names_of(point))
    return sorted(found)


def recipes() -> dict[str, Recipe]:
    """Every recipe by name. Raises BadInput when a plugin can not be loaded or a name is taken twice."""
    found: dict[str, Recipe] = {}
    origin: dict[str, str] = {}
    for where, some in _all():
        for recipe in some:
            if recipe.name in found:
                raise BadInput(f"recipe '{recipe.name}' is defined by {origin[recipe.name]} and by {where}; rename one")
            found[recipe.name], origin[recipe.name] = recipe, where
    return dict(sorted(found.items()))


def get(name: str) -> Recipe:
    """The recipe of that name. Raises BadInput with the nearest name when there is none."""
    known = recipes()
    if name not in known:
        raise unknown("recipe", name, known)
    return known[name]


def _all() -> Iterator[tuple[str, Iterable[Recipe]]]:
    for module in _siblings():
        full = f"{__package__}.{module}"
        yield full, getattr(importlib.import_module(full), "RECIPES", ())
    for point in entry_points(group=GROUP):
        yield f"plugin '{point.name}'", _load(point)


def _load(point: EntryPoint) -> tuple[Recipe, ...]:
    from paradigms.contract import Recipe

    where = f"plugin '{point.name}' ({point.value})"
    try:
        loaded = point.load()
        found = tuple(getattr(loaded, "RECIPES", loaded))
    except Exception as error:  # a stranger's code may raise anything
        raise BadInput(f"{where} can not be loaded: {type(error).__name__}: {error}; mend or uninstall it") from error
    if not found or not all(isinstance(r, Recipe) for r in found):
        raise BadInput(f"{where} must name a module with RECIPES or a tuple of Recipe; mend or uninstall it")
    return found


def _names_of(point: EntryPoint) -> list[str]:
    source = _source_of(point.module)
    try:
        static = _names_in(source) if source is not None and (point.attr or "RECIPES") == "RECIPES" else None
    except (OSError, SyntaxError, ValueError):
        static = None
    if static:
        return static
    try:
        return [recipe.name for recipe in _load(point)]
    except BadInput:
        return [point.name]


def _siblings() -> list[str]:
    found = pkgutil.iter_modules([str(Path(__file__).parent)])
    return [m.name for m in found if not m.ispkg and m.name not in _NOT_A_PARADIGM]


def _names_in(source: Path) -> list[str] | None:
    """The names in `RECIPES = (Recipe("name", ...), ...)`; [] where there is none, None where it is not so plain."""
    text = source.read_text(encoding="utf-8")
    foot = re.search(r"^RECIPES\b", text, re.MULTILINE)
    if foot is None:
        return []
    first, *more = ast.parse(text[foot.start() :], str(source)).body
    value = getattr(first, "value", None)
    if not isinstance(value, (ast.Tuple, ast.List)) or any("RECIPES" in ast.dump(node) for node in more):
        return None
    found = []
    for call in value.elts:
        if not isinstance(call, ast.Call):
            return None
        called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        named = [*call.args[:1], *(k.value for k in call.keywords if k.arg == "name")]
        if called != "Recipe" or not named or not isinstance(named[0], ast.Constant):
            return None
        found.append(str(named[0].value))
    return found


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
