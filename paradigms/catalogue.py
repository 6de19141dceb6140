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
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from paradigms.errors import BadInput, unknown

if TYPE_CHECKING:
    from paradigms.contract import Recipe

__all__ = ["GROUP", "family", "get", "names", "plugins", "recipes", "rows"]

GROUP = "paradigms.recipes"
_NOT_A_PARADIGM = {"contract", "errors", "catalogue"}


def names() -> dict[str, str]:
    """Every name and alias, sorted, with the name of the recipe that it finds; from the sources, where it can be.

    A plugin that can not be loaded is named by its entry point: `get` says what is wrong with it.
    """
    found: dict[str, str] = {}
    for module in _siblings():
        found |= _names_in(Path(__file__).parent / f"{module}.py") or {}
    for point in _plugins(tuple(sys.path)):
        found |= _names_of(point)
    return dict(sorted(found.items()))


def plugins() -> list[str]:
    """The entry points by which other packages add recipes."""
    return [point.name for point in _plugins(tuple(sys.path))]


def recipes() -> dict[str, Recipe]:
    """Every recipe by its own name; of one that holds another inside, with that one's settings in `config.inner`.

    Raises BadInput when a plugin can not be loaded, a name or alias is taken twice, or a variant is of no row.
    """
    found: dict[str, Recipe] = {}
    origin: dict[str, str] = {}
    for where, some in _all():
        for recipe in some:
            for name in (recipe.name, *recipe.aliases):
                if name in origin:
                    raise BadInput(f"recipe '{name}' is defined by {origin[name]} and by {where}; rename one")
                origin[name] = where
            found[recipe.name] = recipe
    for name, recipe in found.items():
        row = found.get(recipe.variant_of)
        if recipe.variant_of and (row is None or row.variant_of):
            what = "no recipe's name" if row is None else "itself a variant"
            raise BadInput(f"{origin[name]}: '{name}' says it varies '{recipe.variant_of}', which is {what}; mend it")
        inside = recipe.paradigm.inside()
        if inside:
            if inside not in found:
                raise BadInput(f"{origin[name]}: '{name}' holds '{inside}' inside, which is no recipe's name; mend it")
            found[name] = replace(recipe, config=replace(recipe.config, inner=found[inside].config))
    return dict(sorted(found.items()))


def rows() -> list[str]:
    """The recipes that vary no other: one for each paradigm."""
    return [name for name, recipe in recipes().items() if not recipe.variant_of]


def family(name: str) -> list[str]:
    """The row that a recipe belongs to, and its variants. Raises BadInput as `get` does."""
    recipe = get(name)
    row = recipe.variant_of or recipe.name
    return [row, *(other for other, r in recipes().items() if r.variant_of == row)]


def get(name: str) -> Recipe:
    """The recipe of that name or alias. Raises BadInput with the nearest name when there is none."""
    known = _by_name()
    if name not in known:
        _plugins.cache_clear()  # a package may have been installed since
        known = _by_name()
    if name not in known:
        raise unknown("recipe", name, known)
    return known[name]


def _by_name() -> dict[str, Recipe]:
    return {key: recipe for recipe in recipes().values() for key in (recipe.name, *recipe.aliases)}


def _all() -> Iterator[tuple[str, Iterable[Recipe]]]:
    for module in _siblings():
        full = f"{__package__}.{module}"
        yield full, getattr(importlib.import_module(full), "RECIPES", ())
    for point in _plugins(tuple(sys.path)):
        yield f"plugin '{point.name}'", _load(point)


@lru_cache(maxsize=4)
def _plugins(path: tuple[str, ...]) -> EntryPoints:
    """What the packages on sys.path add. Kept, since it takes 20 ms to read what all of them say of themselves."""
    return entry_points(group=GROUP)


def _load(point: EntryPoint) -> tuple[Recipe, ...]:
    from paradigms.contract import Recipe

    where = f"plugin '{point.name}' ({point.value})"
    try:
        loaded = point.load()
        found = tuple(getattr(loaded, "RECIPES", loaded))
    except (Exception, SystemExit) as error:  # a stranger's code may raise anything
        raise BadInput(f"{where} can not be loaded: {type(error).__name__}: {error}; mend or uninstall it") from error
    if not found or not all(isinstance(r, Recipe) for r in found):
        raise BadInput(f"{where} must name a module with RECIPES or a tuple of Recipe; mend or uninstall it")
    return found


def _names_of(point: EntryPoint) -> dict[str, str]:
    source = _source_of(point.module)
    try:
        static = _names_in(source) if source is not None and (point.attr or "RECIPES") == "RECIPES" else None
    except (OSError, SyntaxError, ValueError):
        static = None
    if static:
        return static
    try:
        return {name: recipe.name for recipe in _load(point) for name in (recipe.name, *recipe.aliases)}
    except BadInput:
        return {point.name: point.name}


def _siblings() -> list[str]:
    found = pkgutil.iter_modules([str(Path(__file__).parent)])
    return [m.name for m in found if not m.ispkg and m.name not in _NOT_A_PARADIGM]


def _names_in(source: Path) -> dict[str, str] | None:
    """The names and aliases in `RECIPES = (Recipe("name", ...), ...)`, with the name of the recipe that each finds.

    Empty where there is no RECIPES, None where it is not so plain.
    """
    text = source.read_text(encoding="utf-8")
    foot = re.search(r"^RECIPES\b", text, re.MULTILINE)
    if foot is None:
        return {}
    first, *more = ast.parse(text[foot.start() :], str(source)).body
    value = getattr(first, "value", None)
    if not isinstance(value, (ast.Tuple, ast.List)) or any("RECIPES" in ast.dump(node) for node in more):
        return None
    found: dict[str, str] = {}
    for call in value.elts:
        if not isinstance(call, ast.Call):
            return None
        called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        given = {f.arg: f.value for f in call.keywords}
        try:
            name = ast.literal_eval(call.args[0] if call.args else given["name"])
            aliases = ast.literal_eval(given["aliases"]) if "aliases" in given else ()
        except (KeyError, ValueError):
            return None
        if called != "Recipe":
            return None
        found |= {str(key): str(name) for key in (name, *aliases)}
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
