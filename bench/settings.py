"""What the settings of a recipe are: name, default, type, range and meaning, read from its config."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, Literal

from paradigms.core.settings import meaning_of, range_of
from paradigms.recipe import Recipe

__all__ = ["described", "type_in_words"]


def described(recipe: Recipe) -> list[dict[str, Any]]:
    """The settings of a recipe, as `--set` takes them: {"recipe", "setting", "default", "type", "range", "meaning"} of each.

    Range and meaning of a field without `paradigms.core.settings.setting` are "".
    """
    return [{"recipe": recipe.name, **setting} for setting in _described(recipe.config)]


def _described(config: Any, before: str = "") -> Iterator[dict[str, Any]]:
    """The settings of a config; those of a config inside it have its name and a dot before theirs."""
    kind = type(config)
    hints = typing.get_type_hints(kind)
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            yield from _described(value, f"{before}{f.name}.")
            continue
        yield {
            "setting": before + f.name,
            "default": value,
            "type": type_in_words(hints[f.name]),
            "range": str(range_of(kind, f.name)),
            "meaning": meaning_of(kind, f.name),
        }


def type_in_words(hint: Any) -> str:
    """The type of a setting as a user reads it, with its article."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("none" if a is type(None) else type_in_words(a) for a in args)
    if origin is Literal:
        return " or ".join(map(str, args))
    if origin is tuple:
        many = args[1:] == (...,)
        return f"values separated by commas, each {type_in_words(args[0])}" if many else f"{len(args)} values"
    known = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    return known.get(hint, "set in code")
