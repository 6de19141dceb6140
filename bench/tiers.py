"""Tiers: how much a run may spend and how it is evaluated, as data. The shipped ones are in tiers.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paradigms.errors import BadInput, unknown

if TYPE_CHECKING:
    from paradigms.core.data import Space

__all__ = ["MATCHES", "MOST_SEEDS", "SWEEPS", "Budget", "Tier", "get", "is_small", "matched", "name_of", "tiers"]

MATCHES = ("flops", "images", "seconds")
SWEEPS = ("main", "all")
SMALL_IMAGE = 16
MOST_SEEDS = 10_000
MOST_AT_ONCE = {"draws": 1_000, "batch": 1_000_000}  # which are held in memory
LONGEST = 64  # characters of a name
_SHIPPED = Path(__file__).with_name("tiers.toml")
# None of the seeds; of anything else there must be some.
_MAY_BE_ZERO = {"batch", "sweep_seeds", "timing_seeds", "raw_seeds", "snapshot_seeds"}
MOST = {"int": 2**63 - 1, "float": 1e100}  # that files hold
_NUMBER = {"int": "a whole number", "float": "a number", "str": "a text", "Budget": "a table"}


@dataclass(frozen=True)
class Budget:
    """What one run on one kind of data may spend; tiers.toml says what each field means."""

    flops: float
    seconds: float
    images: int
    params: int
    batch: int = 0
    lr: float = 1.0

    def spending(self) -> dict[str, float]:
        """What may be spent. Batch and learning rate are part of a run's settings, which they change."""
        return {name: getattr(self, name) for name in ("flops", "seconds", "images", "params")}


@dataclass(frozen=True)
class Tier:
    """A budget for each kind of data and an evaluation protocol; tiers.toml says what each field means."""

    name: str
    summary: str
    match: str
    seeds: int
    vectors: Budget
    small: Budget
    images: Budget
    samples: int
    max_calls: int
    sweep_seeds: int
    likelihood_n: int
    likelihood_calls: int
    timing_repeats: int
    timing_seconds: float
    timing_seeds: int
    mode_samples: int = 10_000
    sweep: str = "all"
    draws: int = 1
    raw_seeds: int = 0
    snapshot_seeds: int = 0

    def budget(self, space: Space) -> Budget:
        """The budget for data of this space."""
        if not space.is_image:
            return self.vectors
        return self.small if is_small(space) else self.images


def is_small(space: Space) -> bool:
    """Whether data are vectors or images of at most `SMALL_IMAGE` pixels a side."""
    return not space.is_image or max(space.shape[1:]) <= SMALL_IMAGE


def tiers() -> dict[str, Tier]:
    """The shipped tiers by name, from the cheapest."""
    return {name: _tier(name, table, _SHIPPED) for name, table in _tables(_SHIPPED).items()}


def get(which: str) -> Tier:
    """A shipped tier by name, or `path.toml` (a file with one tier), or `path.toml:name`. Raises BadInput."""
    path, colon, name = which, "", ""
    if not which.endswith(".toml"):
        path, colon, name = which.rpartition(":")
    if not path.endswith(".toml"):
        shipped = tiers()
        if which not in shipped:
            raise unknown("tier", which, shipped)
        return shipped[which]
    found = _tables(Path(path))
    if not colon and len(found) == 1:
        name = next(iter(found))
    if name not in found:
        raise (
            unknown(f"tier in {path}", name, found)
            if name
            else BadInput(f"{path} holds {', '.join(found)}; name one, as in {path}:{next(iter(found))}")
        )
    return _tier(name, found[name], Path(path))


def matched(which: str, match: str | None) -> Tier:
    """As `get`, with another measure by which budgets are equal, unless that is None. Raises BadInput."""
    if match is not None and match not in MATCHES:
        raise unknown("match", match, MATCHES)
    tier = get(which)
    return tier if match is None else replace(tier, match=match)


def name_of(which: str) -> str:
    """The name by which rows know a tier that `get` takes, or any text that names none. Raises BadInput for a bad file."""
    return get(which).name if which.endswith(".toml") else which.rpartition(".toml:")[2]


LARGEST = 1 << 20  # bytes of a file of tiers


def _tables(path: Path) -> dict[str, dict[str, Any]]:
    from bench.data.whole import read_whole

    try:
        found = tomllib.loads(read_whole(path, LARGEST).decode())
    except (BadInput, ValueError, RecursionError) as error:
        raise BadInput(f"can not read tiers from {path}: {error}; give FILE.toml:NAME") from None
    if not found or not all(isinstance(table, dict) for table in found.values()):
        raise BadInput(f"{path} must hold one table for each tier, as in [quick]")
    return found


def _tier(name: str, table: Mapping[str, Any], path: Path) -> Tier:
    """A table of a file as a Tier, after checking every field."""
    if not (0 < len(name.strip()) <= LONGEST and name.isprintable()):  # it stands in run.json, rows and tables
        raise BadInput(
            f"{path}: the name of a tier has 1 to {LONGEST} characters that can be shown, unlike [{name[:LONGEST]}]"
        )
    values = dict(table)
    base = values.pop("base", None)
    if base is not None:
        shipped = tiers()
        if base not in shipped:
            raise unknown(f"base of [{name}] in {path}: tier", str(base), shipped)
        defaults = {f.name: getattr(shipped[base], f.name) for f in fields(Tier)}
    else:
        defaults = {}
    tier = _fill(Tier, {**values, "name": name}, defaults, f"{path} [{name}]")
    if tier.match not in MATCHES:
        raise unknown(f"match in {path} [{name}]", tier.match, MATCHES)
    if tier.sweep not in SWEEPS:
        raise unknown(f"sweep in {path} [{name}]", tier.sweep, SWEEPS)
    return tier


def _fill(kind: Any, values: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> Any:
    known = {f.name: f for f in fields(kind)}
    for name in values:
        if name not in known:
            raise unknown(f"field in {where}:", name, known)
    filled = {}
    for name, f in known.items():
        if name not in values:
            if name not in defaults and f.default is MISSING:
                raise BadInput(f"{where} lacks '{name}'; give it, or start from a shipped tier with base = \"quick\"")
            filled[name] = defaults.get(name, f.default)
            continue
        value = values[name]
        if f.type == "Budget" and isinstance(value, dict):
            inherited = defaults.get(name)
            filled[name] = _fill(Budget, value, vars(inherited) if inherited else {}, f"{where}.{name}")
            continue
        if f.type == "float" and type(value) is int:
            value = float(value)
        if type(value).__name__ != f.type:
            raise BadInput(f"{where}: '{name}' must be {_NUMBER[str(f.type)]}, not {value!r}")
        if isinstance(value, (int, float)) and not 0 <= value < float("inf"):
            raise BadInput(f"{where}: '{name}' must be finite and not negative, not {value!r}")
        most = MOST_SEEDS if name.endswith("seeds") else MOST_AT_ONCE.get(name, MOST.get(str(f.type), value))
        if value > most:  # run.json could not be read again, or the runs could not be counted
            raise BadInput(f"{where}: '{name}' must be at most {most:,}")
        if value == 0 and name not in _MAY_BE_ZERO:
            raise BadInput(f"{where}: '{name}' must be more than 0")
        filled[name] = value
    if kind is Budget and filled["flops"] < filled["params"]:  # every run would fail, one by one
        raise BadInput(
            f"{where}: flops = {filled['flops']:g} do not pay for one example through a network of "
            f"params = {filled['params']:,}; give more of them"
        )
    return kind(**filled)
