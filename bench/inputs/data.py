"""Names of data sets: a known one, a folder of images or a file of arrays, or what runs call a user's own data."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.inputs.runs import Runs
from paradigms.errors import BadInput

if TYPE_CHECKING:
    from bench.data import Dataset
    from bench.data.names import Name, OwnData

__all__ = ["about", "announced", "dataset_of", "is_gone", "name_in_rows", "place_of", "same_data"]


def place_of(name: str, runs: Runs, test: Path | None = None, called: str | None = None) -> Name:
    """The data set that a name means: a known one, a user's own data, or what `runs` call a user's own data.

    test, called: the values of --test and --name, which only a user's own data take. Raises BadInput.
    """
    from bench.data import names

    if (own_place := names.own_data(name, test, called)) is not None:
        return own_place
    if test is not None or called is not None:
        raise BadInput(f"{'--test' if test else '--name'} goes with folder:PATH; '{name}' has its own")
    known = {} if name in names.known() else _own_called(name, runs.infos())
    if not known:
        names.info(name)
        return name
    (own, source), *others = known.items()
    if others:
        raise BadInput(f"'{name}' may be {' or '.join(known)} under {runs.root}; write out which")
    return names.stored(source, own)


def dataset_of(place: Name, runs: Runs) -> Dataset:
    """The data set. A user's own data that `runs` were trained on have the name that they have there, if given none.

    Raises BadInput where a user's own data are gone, or other data have their name there.
    """
    from bench.data.names import OwnData
    from bench.runs import dataset

    if isinstance(place, OwnData) and place.name and is_gone(place):
        raise BadInput(
            f"the {place.what} of '{place.name}' lay in {place.path}, which is no {place.place}; if they were moved, say "
            f"where they are: --dataset {place.form}"
        )
    found = dataset(place)
    if not isinstance(place, OwnData):
        return found
    infos = [info for info in runs.infos() if info.get("source")]
    own = [str(info.get("dataset", "")) for info in infos if info.get("checksum") == found.checksum]
    if own and not place.name and found.name not in own:
        found = dataset(place.named(own[0]))
    if any(info.get("dataset") == found.name and info.get("checksum") != found.checksum for info in infos):
        raise BadInput(f"other {place.what} have the name '{found.name}' in {runs.root}; choose another with --name")
    return found


def announced(place: Name, runs: Runs) -> Dataset:
    """As `dataset_of`. Of a user's own data it prints on stderr how many there are and what was decided about them."""
    from bench.data.names import OwnData
    from bench.runs import dataset

    found = dataset_of(place, runs)
    if not isinstance(place, OwnData):
        return found
    if not place.name and (first := dataset(place).name) != found.name:
        print(f"{first} holds the {place.what} of '{found.name}', and goes on under that name", file=sys.stderr)
    train, test = len(found.train), len(found.test)
    counts = f"{found.name}: {train:,} training and {test:,} held-out {place.what}"
    print(counts, *about(found), sep="\n", file=sys.stderr)
    return found


def about(found: Dataset) -> list[str]:
    """What a user must know of a data set before training on it, a line each."""
    from bench.features import too_few

    return [line for line in (*found.about(), too_few(found)) if line]


def is_gone(place: OwnData) -> bool:
    """Whether a user's own data are no longer where they lay. The held-out part is not looked for."""
    return place.gone() == place.path


def same_data(place: Name) -> Callable[[Mapping[str, Any]], bool]:
    """A test of run.json: whether that run was trained on this data set.

    A user's own data are known by their checksum or, where they are gone, by where they lay. Raises BadInput where they
    can not be read.
    """
    from bench.data.names import OwnData

    if not isinstance(place, OwnData):
        return lambda info: info.get("dataset") == place
    if is_gone(place):
        return lambda info: info.get("source") == place.as_json()
    from bench.runs import dataset

    found = dataset(place)
    return lambda info: info.get("checksum") == found.checksum


def name_in_rows(dataset: str, under: Runs) -> str:
    """The name that rows of these runs have for what a user calls `dataset`; the same name where no run knows it."""
    from bench.data.names import own_data

    infos = list(under.infos()) if dataset else []
    known = any(info.get("dataset") == dataset for info in infos)
    if not known and (place := own_data(dataset)) is not None:
        from bench import runs

        same = same_data(place)
        trained = next((str(info.get("dataset", "")) for info in infos if same(info)), "")
        return trained or (dataset if is_gone(place) else runs.dataset(place).name)
    return next(iter(_own_called(dataset, infos)), dataset)


def _own_called(name: str, infos: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """{whole name: source} of users' own data that runs know by a name, or else by one that begins with it."""
    from bench.data.names import is_stored

    known: dict[str, Mapping[str, Any]] = {}
    for info in infos:
        source = info.get("source", {})
        if is_stored(source):
            known.setdefault(str(info.get("dataset")), source)
    whole = {own: source for own, source in known.items() if own == name}
    return whole or {own: source for own, source in known.items() if own.rpartition("-")[0] == name}
