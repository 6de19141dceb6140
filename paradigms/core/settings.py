"""Settings of a recipe: a field of its config states its default, its range and its meaning once.

    @dataclass(frozen=True)
    class Config(Settings):
        first: float = setting(0.7, above=0, most=4, says="noise of step 1 in bin widths")

`Settings` refuses what lies outside of a range, `--set first=9` says which range that is, and `bench list settings` lists
all of it. Conditions on several fields stay in the config's `__post_init__`, as calls of `require`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from typing import Any

__all__ = ["Range", "Settings", "is_conditional", "meaning_of", "range_of", "require", "setting"]


def require(holds: bool, text: str) -> None:
    """Raises ValueError with what a setting must be, when it is not; for a config's __post_init__."""
    if not holds:
        raise ValueError(text)


@dataclass(frozen=True)
class Range:
    """The values that a setting may take: numbers between two ends, or words.

    least, most:  the ends that belong to the range. above, below: those that do not.
    among:        the words.
    otherwise:    what goes wrong outside of the range, for the error.

    None, where a setting may be None, is in every range.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    among: Collection[str] = ()
    otherwise: str = ""

    def __contains__(self, value: Any) -> bool:
        return value is None or (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
            and (not self.among or value in self.among)
        )

    def __str__(self) -> str:
        """In words, to stand after "must be"; "" for a range without ends."""
        if self.among:
            return f"one of {', '.join(self.among)}"
        if self.least is not None and (self.most is not None or self.below is not None):
            return f"from {_written(self.least)} to {_upper(self.most, self.below).removeprefix('at most ')}"
        low = f"at least {_written(self.least)}" if self.least is not None else ""
        low = f"above {_written(self.above)}" if self.above is not None else low
        return " and ".join(filter(None, (low, _upper(self.most, self.below))))


def _upper(most: float | None, below: float | None) -> str:
    if most is not None:
        return f"at most {_written(most)}"
    return f"below {_written(below)}" if below is not None else ""


def _written(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def setting(
    default: Any,
    *,
    says: str,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    among: Collection[str] = (),
    otherwise: str = "",
    conditional: bool = False,
) -> Any:
    """A field of a config with its default, its range (see `Range`) and its meaning in words.

    conditional: the setting has no effect on a model without labels, and is no part of the identity of such a run.
    A subclass that gives the field another default keeps the range and the meaning.
    """
    allowed = Range(least, above, most, below, among, otherwise)
    return field(default=default, metadata={"says": says, "range": allowed, "conditional": conditional})


@dataclass(frozen=True)
class Settings:
    """A config whose fields are checked: raises ValueError for a value outside of its field's range."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value, allowed = getattr(self, f.name), range_of(type(self), f.name)
            if value not in allowed:
                why = f", or {allowed.otherwise}" if allowed.otherwise else ""
                raise ValueError(f"{f.name} must be {allowed}, not {value!r}{why}")


def range_of(config: type, name: str) -> Range:
    """The values that a field of a config may take; all for a field without `setting`."""
    found: Range = _stated(config, name, "range", Range())
    return found


def meaning_of(config: type, name: str) -> str:
    """What a field of a config means, in words; "" for a field without `setting`."""
    return str(_stated(config, name, "says", ""))


def is_conditional(config: type, name: str) -> bool:
    """Whether a field of a config has no effect on a model without labels."""
    return bool(_stated(config, name, "conditional", False))


def _stated(config: type, name: str, key: str, default: Any) -> Any:
    """What the field says under a key, where it was last given by `setting`: in the config or in one that it extends."""
    for base in config.__mro__:
        known = vars(base).get("__dataclass_fields__", {})
        if name in known and key in known[name].metadata:
            return known[name].metadata[key]
    return default
