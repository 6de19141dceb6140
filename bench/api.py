"""The suite from Python, as `bench` itself shows it: `load`, `sample`, `score`, `train` and `frame`.

Each does what the command of the same name does, with the same bits and the same rows, and what it takes may be a path, a
name, or what is in memory. A mistake raises `BadInput`, one line that says what is wrong and what to do next.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from bench import runs, scores, store, suite, tiers
from bench.data import Dataset
from bench.data.array import keep_arrays
from bench.data.names import Name, OwnData
from bench.inputs.chosen import run_on
from bench.inputs.data import dataset_of, place_of
from bench.inputs.plans import labels_of, plan_of
from bench.inputs.runs import Runs
from bench.inputs.samples import external_of
from bench.inputs.training import training_of
from bench.opened import Opened, opened
from bench.progress import Progress, graceful_stop
from bench.reading import Range
from paradigms.core.plans import OptionValue
from paradigms.errors import BadInput

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from pandas import DataFrame

    Array = ArrayLike | Tensor
    # A name that there is, "folder:PATH@SIZE", "array:PATH.npz"; or in memory: x, (x, y), arrays by name, items x or (x, y).
    Data = str | Dataset | Array | tuple[Array, Array] | Mapping[str, Array] | TorchDataset[Any]

__all__ = ["frame", "load", "sample", "score", "train"]


def load(run: str | Path, dataset: Data | None = None, *, device: str = "auto", out: str | Path = "runs") -> Opened:
    """A trained run, held open: its folder, the content of run.json, its recipe and its model.

    The model is in eval mode and has its averaged weights, as `bench sample` takes them.

    Args:
        run:     the run's folder, or a recipe's name: its newest finished run on `dataset` under `out`.
        dataset: of a recipe's runs, "digits" by default; beside a folder: where the run's own data are now.
        device:  "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:1".
        out:     the folder of the runs, where the runs that this one needs may lie too.

    Raises:
        BadInput: there is no such run, it has not finished, a file of it is damaged, or a run that it needs is gone.

    >>> run = load("vae", "ring8", out=runs)
    >>> run.info.status, run.space.shape
    ('ok', (2,))
    """
    _texts(device=device)
    under = Runs(Path(out))
    place = None if dataset is None else _place_of(dataset, under)
    return run_on(str(run), place, under).open(device)


def sample(
    run: Opened | str | Path,
    n: int = 64,
    sampler: str | None = None,
    steps: int | None = None,
    *,
    seed: int = 0,
    label: str | int | Sequence[int] | Tensor | None = None,
    guidance: float | None = None,
    device: str = "auto",
    out: str | Path = "runs",
    **options: OptionValue,
) -> Tensor:
    """n samples of a run: images uint8 (n, C, H, W), integers 0 to levels - 1 as the data has them, or vectors float32 (n, D).

    The same bits as `bench sample RUN --to x.npz`; sample i does not depend on n.

    Args:
        run:      what `load` gave, or what it takes.
        n:        how many, at least 1.
        sampler:  one of the recipe's (`bench list samplers`), its default otherwise.
        steps:    of the sampler, at least 1; the sampler's own number otherwise.
        seed:     of the samples, at least 0.
        label:    of a run that was trained with labels: a class by number or name, or a class number for each sample;
                  by default as often as the training examples have each.
        guidance: 1 is the model with labels, 0 without, more is guided.
        device:   as in `load`, where the run is not open yet.
        options:  of the sampler, as eta=0.5. Write an option with a dash in its name as **{"guide-to": 0.5}.

    Raises:
        BadInput: as `load`; or a sampler, number of steps, label or option that the run does not have.

    >>> sample(run, 3).shape
    torch.Size([3, 2])
    """
    n, seed = _whole(n, 1, "n"), _whole(seed, 0, "seed")
    steps = None if steps is None else _whole(steps, 1, "steps")
    held = run if isinstance(run, Opened) else load(run, device=device, out=out)
    model = held.paradigm
    texts = [f"{key}={value}" for key, value in options.items()]
    plan = plan_of(model.card, held.info.recipe, sampler, steps, guidance, texts)
    model.check(plan)
    return scores.draw(model, plan, n, seed, _labels(held, label, n, seed), held.device).x


def score(
    samples: Array | str | Path,
    dataset: Data = "digits",
    *,
    labels: Array | None = None,
    test: Data | str | Path | None = None,
    resize: Literal["bicubic", "bilinear", "area", "nearest"] | None = None,
    crop: bool = False,
    span: tuple[float, float] | None = None,
    features: Sequence[str] = (),
    tier: str | None = None,
    name: str = "",
    to: str | Path | None = None,
    out: str | Path = "runs",
) -> DataFrame:
    """What samples score against the data, a row for each metric: the rows of `bench evaluate samples.npz`.

    Rows with the status "external" are of the samples; those with the status "baseline" are the floor, what as many real
    training examples score. `bench.store.Row` says what each column means.

    Args:
        samples:  images (N, H, W), (N, H, W, C) or (N, C, H, W), integers as the data has them or floats in [-1, 1];
                  vectors (N, D); or the path of an .npz, .npy or .safetensors file or of a folder of images.
        dataset:  what they are compared with (see `train`).
        labels:   the class number (N,) that each sample was drawn for, where samples are an array.
        test:     as in `train`.
        resize:   how images of another size are brought to the data's; without it they are refused.
        crop:     cut images to their largest centred square first.
        span:     (low, high), the numbers that stand for black and white, where they are not those above.
        features: further feature spaces, as "inception-2015" or "net.onnx".
        tier:     whose table the rows shall stand in: as many samples are scored as it draws.
        name:     what the rows call the samples; by default "samples", or as their file is called.
        to:       a folder to keep the rows in; inside a folder of runs, `bench report` shows them.
        out:      a folder of runs, by whose names data may be meant.

    Raises:
        BadInput: samples of another shape or range than the data, or not finite; too few; or data that can not be had.

    >>> rows = score(sample(run, 500), "ring8")
    >>> sorted(rows[rows.status == "external"].metric)[:3]
    ['c2st', 'energy', 'mmd2']
    """
    place = _data(dataset, Runs(Path(out)), test).place
    _texts(name=name, **({} if tier is None else {"tier": tier}))
    joined = None if tier is None else tiers.get(tier)
    external = external_of(resize, crop, _span(span), features, joined, name, None if to is None else Path(to))
    given: Path | scores.Samples
    if isinstance(samples, (str, Path)):
        if labels is not None:
            raise BadInput("labels go with an array of samples; a file holds its own, as labels")
        given = Path(samples)
    else:
        found = runs.dataset(place)
        given = scores.samples_of(
            samples, labels, found.space, external.resize, span=external.span, crop=crop, found=found
        )
    return store.table(external.score(given, place, Progress()))


def train(
    recipe: str,
    dataset: Data = "digits",
    *,
    test: Data | str | Path | None = None,
    tier: str = "quick",
    seed: int = 0,
    settings: Mapping[str, object] | None = None,
    match: Literal["flops", "images", "seconds"] | None = None,
    conditional: bool = False,
    device: str = "auto",
    precision: Literal["fp32", "tf32", "bf16"] = "fp32",
    compiled: bool = False,
    threads: int | None = None,
    name: str | None = None,
    out: str | Path = "runs",
) -> Opened:
    """Trains a recipe, and what it needs first, unless that is done; what was interrupted goes on where it was.

    The run is the one that `bench train` makes, in the same folder under `out` and with the same bits.

    Args:
        recipe:   its name; `bench list recipes` shows them.
        dataset:  a name (`bench list datasets`), "folder:PATH@SIZE" for a folder of images or "array:PATH.npz" for a file
                  of arrays. Or data in memory: x, (x, y), arrays by the names x, y, x_test, y_test, or a torch Dataset of
                  x or (x, y). Images are integers 0 to 255, (N, H, W), (N, H, W, C) or (N, C, H, W), square; vectors are
                  floats (N, D); y is a class for each. What is in memory is written into the cache, as a file that is
                  called by its content: the same data again are the same data set.
        test:     the held-out part: another folder of images, or data in memory, of the same form as `dataset`. Without it
                  about one in five examples is held out by a hash of its content.
        tier:     budget and protocol, as "smoke" or "mine.toml:tiny"; `bench list tiers` shows them.
        seed:     of the training, at least 0.
        settings: changes to the recipe's config, as {"lr": 5e-4}.
        match:    what makes budgets equal; the tier's own by default.
        conditional: tell the model the classes.
        device:   "auto", "cpu", "cuda" or "cuda:1".
        precision: of the networks. compiled: compile them for training.
        threads:  CPU threads; by default every core above 16 pixels, else one.
        name:     what tables call a user's own data.
        out:      the folder of the runs.

    Raises:
        BadInput: an unknown name or setting, data that the recipe can not model, a place that can not be written, or a
                  training that diverged or failed, with its reason.
        KeyboardInterrupt: on Ctrl-C, after a checkpoint.

    >>> again = train("vae", "ring8", tier="smoke", out=runs)
    >>> again.folder == run.folder
    True
    """
    _texts(recipe=recipe, tier=tier, device=device)
    seed = _whole(seed, 0, "seed")
    threads = None if threads is None else _whole(threads, 1, "threads")
    if not isinstance(settings, (Mapping, NoneType)):
        raise BadInput(f"settings must be a dictionary, as {{'lr': 5e-4}}, not {settings!r}")
    chosen, out = tiers.matched(tier, match), Path(out)
    found = _data(dataset, Runs(out), test, name)
    training = training_of(
        recipe,
        found,
        seed,
        chosen,
        out,
        [f"{key}={text}" for key, text in runs.flat(settings or {}).items()],
        conditional=conditional,
        device=device,
        precision=precision,
        compiled=compiled,
        threads=threads,
    )
    with graceful_stop() as stopping:
        folder = training.ensure(Progress(f"train {recipe} seed {seed}", None, stopping))
    return opened(folder, training.device, found.place if found.own else None, out)


def frame(where: str | Path = "runs", *, tier: str = "") -> DataFrame:
    """Every row under a folder of runs, as one DataFrame with the columns and types of `bench.store.Row`.

    A folder that can not be trusted is left out, with a warning (UserWarning) that says why.

    Args:
        where: a folder with runs in it, at any depth.
        tier:  what this tier measured of runs of other tiers too; by default each run by its own.

    Raises:
        BadInput: there is no such folder, or there are no rows in it.

    >>> frame(runs).recipe.unique().tolist()
    ['vae']
    """
    root = Path(where)
    if not root.is_dir():
        raise BadInput(f"there is no folder {root}; train something first, or name the folder that holds the runs")
    under = Runs(root)
    found = suite.check(under.results(tiers.name_of(tier)), under.folders)
    for line in (*(f"left out: {reason}" for reason in under.lost), *found.warnings):
        warnings.warn(line, stacklevel=2)
    return suite.frame(found.folders, {})


# ------------------------------------------------------------------------------------------------- what is given


def _whole(value: Any, least: int, what: str) -> int:
    """A whole number of any type. Raises BadInput."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        raise BadInput(f"{what} must be a whole number of at least {least}, not {value!r}")
    return number


def _texts(**given: object) -> None:
    for what, value in given.items():
        if not isinstance(value, str):
            raise BadInput(f"{what} must be a text, not {value!r}")


def _span(given: tuple[float, float] | None) -> Range | None:
    """(low, high) as a range. Raises BadInput."""
    if given is None:
        return None
    low, high = given if isinstance(given, (tuple, list)) and len(given) == 2 else (given, given)
    return Range.parse(f"{low}..{high}")


def _data(given: Data, under: Runs, test: Data | str | Path | None = None, name: str | None = None) -> Dataset:
    """The data set that a user means, by the name that these runs have for it. Raises BadInput."""
    return dataset_of(_place_of(given, under, test, name), under)


def _place_of(given: Data, under: Runs, test: Data | str | Path | None = None, name: str | None = None) -> Name:
    """The name of data that a user gives; those in memory are written into the cache. Raises BadInput."""
    if isinstance(given, Dataset):
        place = given.place
    elif isinstance(given, Path):
        raise BadInput(f"{given} is a path: write 'folder:{given}@SIZE' for images, or 'array:{given}' for arrays")
    elif isinstance(given, str):
        if test is not None and not isinstance(test, (str, Path)):
            raise BadInput(f"test must be a folder beside '{given}', not data in memory")
        place = place_of(given, under, None if test is None else Path(test), name)
    elif isinstance(test, (str, Path)):
        raise BadInput("test must be in memory, as the examples are, not a path")
    else:
        place = keep_arrays(_arrays(given) | {f"{key}_test": part for key, part in _arrays(test).items()}, name)
    if isinstance(place, OwnData):  # what lies there may have changed since it was last read
        runs.dataset.cache_clear()
        scores.forget()
    return place


def _arrays(data: Data | None) -> dict[str, Any]:
    """The arrays of data in memory by name, x and y; none of None."""
    if data is None:
        return {}
    if isinstance(data, Mapping):
        return dict(data)
    if isinstance(data, TorchDataset):
        items = [data[k] for k in range(len(data))] if hasattr(data, "__len__") else [*cast(Iterable[Any], data)]
        if not items:
            raise BadInput("the torch Dataset holds no example")
        if not isinstance(items[0], (tuple, list)):
            return {"x": _stacked(items)}
        if any(len(item) != 2 for item in items):
            raise BadInput("the items of a torch Dataset must be x or (x, y)")
        x, y = zip(*items, strict=True)
        return {"x": _stacked(x), "y": _stacked(y)}
    if isinstance(data, tuple):
        if len(data) != 2:
            raise BadInput(f"data in memory are x or (x, y), not a tuple of {len(data)}")
        return dict(zip(("x", "y"), data))
    return {"x": data}


def _stacked(items: Sequence[Any]) -> Any:
    """The items of a torch Dataset as one array (N, ...). Raises BadInput where they are of several shapes."""
    import numpy as np

    from bench.data.array import as_numpy

    try:
        return np.stack([as_numpy(item) for item in items])
    except (ValueError, TypeError) as error:
        raise BadInput(f"the items of a torch Dataset can not be stacked ({error}); give all one shape") from None


def _labels(run: Opened, label: Any, n: int, seed: int) -> Tensor | None:
    """Labels (n,) to draw for, or None for an unconditional model. Raises BadInput."""
    classes = run.space.classes
    one = label is None or isinstance(label, (str, int))
    text = None if label is None else str(label)
    if one or not classes:
        return labels_of(run, text, n, seed)
    try:
        many = torch.as_tensor(label)
    except (ValueError, TypeError, RuntimeError):
        many = torch.empty(0)
    if many.shape != (n,) or many.is_floating_point() or not bool(((many >= 0) & (many < classes)).all()):
        raise BadInput(f"label must be a class, or {n} class numbers from 0 to {classes - 1}, one for each sample")
    return many.long()
