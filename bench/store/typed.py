"""Values out of JSON, compared with the types that dataclasses have."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, Literal

__all__ = ["LARGEST", "fits", "fitting", "short"]

LARGEST = 1e100  # a number beyond is none to compute with: squares and sums of them are infinite


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


_fields = cache(fields)  # of thousands of rows


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
    for f in _fields(kind):
        if f.name not in values:
            if f.default is MISSING and f.default_factory is MISSING:
                raise ValueError(f"'{f.name}' is missing")
            continue
        value = values[f.name]
        if not fits(hints[f.name])(value):
            raise ValueError(f"'{f.name}' is {short(value)}, not {f.type}")
        if type(value) in (int, float) and value < 0 and f.name not in signed:
            raise ValueError(f"'{f.name}' is {short(value)}, which is below 0")
    return dict(values)


def short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = "a number"
    return text if len(text) <= 40 else f"{text[:40]}…"
