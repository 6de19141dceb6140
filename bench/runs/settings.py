"""A recipe's settings: from `key=value` texts, from run.json, and back to texts."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bench import store
from bench.settings import type_in_words
from bench.tiers import Budget
from paradigms.core.settings import range_of
from paradigms.errors import BadInput, unknown

__all__ = ["changes", "configure", "flat", "restored", "sized", "tuples"]


def configure(config: Any, settings: Sequence[str], recipe: str = "RECIPE") -> Any:
    """A recipe's config with `key=value` changes; a dotted key reaches into a nested one.

    Raises BadInput, which names the type that a value must have, or the command that lists what can be set.
    """
    see = f"see `bench list settings {recipe}`"
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise BadInput(
                f"--set {setting}: write it as key=value; keys: {', '.join(flat(dataclasses.asdict(config)))}; {see}"
            )
        config = _changed(config, key.strip(), text.strip(), setting, see)
    return config


def _changed(config: Any, key: str, text: str, setting: str, see: str) -> Any:
    name, dot, rest = key.partition(".")
    hints = typing.get_type_hints(type(config))
    if name not in {f.name for f in fields(config)}:
        raise BadInput(
            f"{unknown(f'setting in --set {setting}:', name, list(flat(dataclasses.asdict(config))))}; {see}"
        )
    current = getattr(config, name)
    if dot or is_dataclass(current):
        if not is_dataclass(current):
            raise BadInput(f"--set {setting}: '{name}' has no parts")
        if not dot:
            raise BadInput(f"--set {setting}: name one of its parts: {', '.join(f.name for f in fields(current))}")
        value = _changed(current, rest, text, setting, see)
    else:
        try:
            value = _parse(text, hints[name])
        except (ValueError, OverflowError):
            kind, allowed = type_in_words(hints[name]), str(range_of(type(config), name))
            must = ", ".join(filter(None, (kind, allowed)))
            raise BadInput(f"--set {setting}: '{name}' must be {must}, not '{text}'") from None
        if not store.fits(hints[name])(value):  # run.json could not be read again
            raise BadInput(
                f"--set {setting}: {text} is more than files hold; give a whole number of at most 63 bits, or a number of at "
                f"most {store.LARGEST:g}"
            )
    try:
        return replace(config, **{name: value})
    except ValueError as error:  # a config may check itself
        raise BadInput(f"--set {setting}: {error}") from None


_SWITCH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _parse(text: str, hint: Any) -> Any:
    """A text as a value of a type. Raises ValueError."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if type(None) in args and text.lower() == "none":
            return None
        for arg in args:
            with suppress(ValueError):
                if arg is not type(None):
                    return _parse(text, arg)
        raise ValueError(text)
    if origin is Literal:
        return next(a for a in args if str(a) == text) if text in map(str, args) else _fail(text)
    if origin is tuple:
        parts = [part.strip() for part in text.strip("()[] ").split(",") if part.strip()]
        kinds = [args[0]] * len(parts) if len(args) == 2 and args[1] is ... else list(args)
        if len(kinds) != len(parts):
            raise ValueError(text)
        return tuple(_parse(part, kind) for part, kind in zip(parts, kinds))
    if hint is bool:
        return _SWITCH[text.lower()] if text.lower() in _SWITCH else _fail(text)
    if hint is int:
        value = float(text.replace("_", "")) if re.search(r"[eE.]", text) else int(text)
        return int(value) if value == int(value) else _fail(text)
    if hint is float:
        return value if math.isfinite(value := float(text)) else _fail(text)
    if hint is str:
        return text
    raise ValueError(text)


def _fail(text: str) -> Any:
    raise ValueError(text)


def restored(config: Any, values: Any, where: Path) -> Any:
    """A config of the same type with the values of a run.json. Raises BadInput."""
    hints = typing.get_type_hints(type(config))
    if not isinstance(values, Mapping):
        raise BadInput(f"{where} has settings of another kind than the recipe; train the run anew")
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if name not in {f.name for f in fields(config)}:
            raise BadInput(f"{where} has the setting '{name}', which the recipe no longer has; train the run anew")
        current = getattr(config, name)
        if is_dataclass(current):
            changes[name] = restored(current, value, where)
        elif store.fits(hints[name])(value):
            changes[name] = tuples(value)
        else:
            raise BadInput(f"{where}: the setting '{name}' must be {type_in_words(hints[name])}; train the run anew")
    try:
        return replace(config, **changes)
    except ValueError as error:  # a config may check itself
        raise BadInput(f"{where}: {error}; train the run anew") from None


def tuples(value: Any) -> Any:
    return tuple(tuples(v) for v in value) if isinstance(value, list) else value


def sized(config: Any, budget: Budget) -> Any:
    """A config with the batch and the learning rates that a budget sets, also of what is inside it."""
    changes: dict[str, Any] = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            changes[f.name] = sized(value, budget)
        elif f.name == "batch" and budget.batch:
            changes[f.name] = value * max(1, round(budget.batch / value))
        elif (f.name == "lr" or f.name.endswith("_lr")) and budget.lr != 1:
            changes[f.name] = value * budget.lr
    return replace(config, **changes) if changes else config


def changes(usual: Any, config: Mapping[str, Any]) -> dict[str, str]:
    """What a config has other than the usual one of its recipe, as --set takes it."""
    was, now = flat(dataclasses.asdict(usual)), flat(config)
    return {key: text for key, text in now.items() if was.get(key, text) != text}


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Settings by their dotted keys, each as --set takes it."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{name}.")
        elif isinstance(value, (list, tuple)):
            found[before + name] = ",".join(map(str, value))
        else:
            found[before + name] = str(value).lower() if value is None or isinstance(value, bool) else str(value)
    return found
