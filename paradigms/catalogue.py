"""Finds the recipes: `RECIPES` at the foot of each sibling file, and what installed packages add by an entry point.

Adding a paradigm is adding one file here, or shipping a package with

    [project.entry-points."paradigms.recipes"]
    my-model = "my_package.my_model"            # a module with RECIPES, or "my_package.my_model:RECIPES"

`names()` reads the sources without running them, so that shell completion does not wait for torch (`paradigms.plugins`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from paradigms import plugins
from paradigms.errors import BadInput, unknown

if TYPE_CHECKING:
    from paradigms.recipe import Recipe

__all__ = ["DOOR", "family", "get", "names", "recipes", "rows"]

DOOR = plugins.Door(
    "paradigms.recipes",
    "RECIPES",
    "Recipe",
    "paradigms.recipe",
    "paradigms",
    frozenset({"contract", "recipe", "errors", "catalogue", "plugins"}),
    frozenset({"name", "aliases"}),
)


def names() -> dict[str, str]:
    """Every name and alias, sorted, with the name of the recipe that it finds; from the sources, where it can be.

    A plugin that can not be loaded is named by its entry point: `get` says what is wrong with it.
    """
    found: dict[str, str] = {}
    for name, fields in DOOR.described().items():
        for key in (name, *fields.get("aliases", ())):
            found.setdefault(key, name)
    return dict(sorted(found.items()))


def recipes() -> dict[str, Recipe]:
    """Every recipe by its own name; of one that holds another inside, with that one's settings in `config.inner`.

    A plugin's recipe that takes a name which exists, varies what is no row or holds what there is not is left out, with a
    warning; so is a plugin that can not be loaded. Raises BadInput where one of ours does so.
    """
    found: dict[str, plugins.Found] = {}
    taken: dict[str, str] = {}
    for one in (*DOOR.ours(), *DOOR.added()):
        recipe: Recipe = one.definition
        twice = next((name for name in (recipe.name, *recipe.aliases) if name in taken), None)
        if twice is not None:
            _refuse(one, f"recipe '{twice}' is defined by {taken[twice]} and by {one.where}; rename one")
            continue
        taken |= dict.fromkeys((recipe.name, *recipe.aliases), one.where)
        found[recipe.name] = one
    sound = {name: one.definition for name, one in found.items()}
    while lost := {name: why for name, recipe in sound.items() if (why := _adrift(recipe, sound))}:
        for name, why in lost.items():
            _refuse(found[name], f"{found[name].where}: {why}; mend it")
            del sound[name]
    return {name: _filled(recipe, sound) for name, recipe in sorted(sound.items())}


def _refuse(one: plugins.Found, why: str) -> None:
    """Warns of a plugin's recipe that is left out. Raises BadInput of one of ours."""
    if not one.plugin:
        raise BadInput(why)
    plugins.warn(f"left out: {why}")


def _adrift(recipe: Recipe, known: dict[str, Recipe]) -> str:
    """What a recipe says of others that is not so; "" where all is."""
    row, inside = known.get(recipe.variant_of), recipe.paradigm.inside()
    if recipe.variant_of and (row is None or row.variant_of):
        what = "no recipe's name" if row is None else "itself a variant"
        return f"'{recipe.name}' says it varies '{recipe.variant_of}', which is {what}"
    if inside and inside not in known:
        return f"'{recipe.name}' holds '{inside}' inside, which is no recipe's name"
    return ""


def _filled(recipe: Recipe, known: dict[str, Recipe]) -> Recipe:
    inside = recipe.paradigm.inside()
    return replace(recipe, config=replace(recipe.config, inner=known[inside].config)) if inside else recipe


def rows() -> list[str]:
    """The recipes that vary no other: one for each paradigm."""
    return [name for name, recipe in recipes().items() if not recipe.variant_of]


def family(name: str) -> list[str]:
    """The row that a recipe belongs to, and its variants. Raises BadInput as `get` does."""
    recipe = get(name)
    row = recipe.variant_of or recipe.name
    return [row, *(other for other, r in recipes().items() if r.variant_of == row)]


def get(name: str) -> Recipe:
    """The recipe of that name or alias.

    Raises BadInput with the nearest name when there is none, or with what is wrong with the plugin that it would come from.
    """
    known = _by_name()
    if name not in known:
        plugins.forget()
        known = _by_name()
    if name not in known:
        raise DOOR.broken(name) or unknown("recipe", name, known)
    return known[name]


def _by_name() -> dict[str, Recipe]:
    return {key: recipe for recipe in recipes().values() for key in (recipe.name, *recipe.aliases)}
