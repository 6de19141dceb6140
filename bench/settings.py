"""What the settings of a recipe are: name, default, type and meaning, read from its config.

A config is a dataclass whose docstring gives meanings as "name: meaning." or "name, name: meaning.". A setting that no
docstring explains has the meaning "".
"""

from __future__ import annotations

import inspect
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, Literal

from paradigms.contract import Recipe

__all__ = ["described", "meanings", "type_in_words"]

_NOTE = r"(?: \([^()]*\))?"  # as in "dropout (images only)"
_REST = re.compile(r"\.? The others (?:as|without)\b.*$")  # "The others as before."


def described(recipe: Recipe) -> list[dict[str, Any]]:
    """The settings of a recipe, as `--set` takes them: {"recipe", "setting", "default", "type", "meaning"} of each."""
    return [{"recipe": recipe.name, **setting} for setting in _described(recipe.config)]


def _described(config: Any, before: str = "") -> Iterator[dict[str, Any]]:
    """The settings of a config; those of a config inside it have its name and a dot before theirs."""
    found, hints = meanings(type(config)), typing.get_type_hints(type(config))
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            yield from _described(value, f"{before}{f.name}.")
            continue
        yield {
            "setting": before + f.name,
            "default": value,
            "type": type_in_words(hints[f.name]),
            "meaning": found.get(f.name, ""),
        }


def meanings(config: type) -> dict[str, str]:
    """{name: meaning} of the fields of a config that its docstring explains, or one that it inherits or refers to."""
    names = [f.name for f in fields(config)]
    found: dict[str, str] = {}
    for text in _docstrings(config):
        for name, meaning in _explained(text, names):
            found.setdefault(name, meaning)
    return found


def _docstrings(config: type) -> Iterator[str]:
    """The docstring of a config, of the configs that it inherits from, and of those that it names, as in "see `Shared`"."""
    pending, seen = list[type](config.__mro__), set[type]()
    while pending:
        some = pending.pop(0)
        text = some.__doc__
        if some in seen or not is_dataclass(some) or not text or text.startswith(f"{some.__name__}("):
            continue  # of a dataclass without a docstring Python makes the signature one
        seen.add(some)
        yield inspect.cleandoc(text)
        module = sys.modules.get(some.__module__)
        named = (getattr(module, name, None) for name in re.findall(r"`(\w+)`", text))
        pending += [one for one in named if inspect.isclass(one)]


def _explained(text: str, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(name, meaning) for each of the names that a docstring explains."""
    text = " ".join(text.split())
    name = rf"(?:{'|'.join(names)}){_NOTE}"
    heads = list(re.finditer(rf"(?:^|(?<=[.;,)] ))({name}(?:(?:, | and ){name})*): ", text))
    for head, following in zip(heads, [*heads[1:], None]):
        meaning = text[head.end() : following.start() if following else len(text)]
        meaning = _REST.sub("", meaning.strip(" ,;")).removesuffix(".")
        for one in re.split(r", | and ", head[1]):
            known, _, note = one.partition(" ")
            yield known, f"{meaning} {note}".strip()


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
