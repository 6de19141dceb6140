"""Anyone's samples, scored as a model's are."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bench import runs
from bench.data import Dataset
from bench.data.names import Name, readable
from bench.metrics import Tell
from bench.progress import Progress
from bench.reading import Range
from bench.scores import pictures, quality
from bench.scores.baselines import floor_rows
from bench.scores.kept import are_whole, rows_in
from bench.scores.pools import Pool, pool_size
from bench.scores.reference import REFERENCE, Reference, reference_of
from bench.scores.rows import row_of_data
from bench.scores.samples import read_samples
from bench.scores.target import SAMPLE, Resize, Samples
from bench.scores.work import Parts, tell_of
from bench.store import RESULTS, Row, locked, save_rows
from bench.tiers import Tier
from paradigms.core.plans import Plan
from paradigms.errors import BadInput
from reports.layout import GRID, SAMPLES

__all__ = ["score"]

# Names that say nothing of the model: the folder's name goes before them.
COMMON = frozenset(
    {"samples", "sample", "images", "image", "imgs", "x", "arr", "data", "fake", "generated", "gen", "out", "output"}
)


def score(
    what: Path | Samples,
    name: Name,
    progress: Progress,
    *,
    resize: Resize | None = None,
    specs: Sequence[str] = (),
    tier: Tier | None = None,
    to: Path | None = None,
    called: str = "",
    span: Range | None = None,
    crop: bool = False,
) -> list[Row]:
    """The same metrics for anyone's samples: an .npz, .npy or .safetensors file, a folder of images, or what
    `samples_of` gave. Raises BadInput.

    Their rows have the status "external"; those of the floor ("real-train") follow: as many real images, scored alike.
    The numbers depend on what the files hold and on no name.

    resize: how samples of another size are brought to the data's; without it they are refused.
    span, crop: as in `read_samples`.
    called: the name of their rows; else the file's, after its folder's where that one is as common as "samples".
    specs:  feature spaces besides the data set's own (see `bench.features.named`).
    tier:   whose report the rows shall stand in: as many samples are scored as it draws, a fixed choice of them.
    to:     a folder for the rows, a picture and the first samples; inside a folder of runs, `bench report` shows them. It
            keeps what the same samples scored on other data, by other tiers and in other spaces.
    """
    found = runs.dataset(name)
    if isinstance(what, Samples):
        path, given = SAMPLE, what
    else:
        path = Path(what)
        given = read_samples(path, found.space, resize, span=span, crop=crop, found=found, on_progress=progress.update)
    given = _chosen(given, path, found, tier, progress)
    digest = _content(given)
    name_of = _readable(called) or (str(path) if path is SAMPLE else _name_of(path, digest, to))
    base = _base(found, given, digest, name_of, tier)
    _join(to, base, [])
    rows, floor = _scored(base, given, found, specs, path, progress)
    if to is not None:
        with locked(to):
            stay = _join(to, base, rows)
            if not stay or not are_whole(to, (GRID, SAMPLES)):
                pictures.keep(to, Pool(Plan("external"), given.x, given.y, None), found)
            save_rows(to, [*stay, *rows], digest)
    return rows + floor()


def _chosen(given: Samples, path: Path, found: Dataset, tier: Tier | None, progress: Progress) -> Samples:
    """As many of the samples as are scored, in an order that depends on their content where they must be ordered."""
    most = len(given.x) if tier is None else pool_size(found, tier)
    if not found.space.is_image:
        most = min(most, len(found.test), REFERENCE)  # of vectors no more are compared
    if len(given.x) > most or (path is not SAMPLE and path.is_dir()):
        return _by_content(given, most, tell_of(progress.update, "order the samples"))
    return given


def _base(found: Dataset, given: Samples, digest: str, name: str, tier: Tier | None) -> Row:
    """The columns that all rows of the samples share."""
    return dataclasses.replace(
        row_of_data(found),
        status="external",
        run=f"external-{digest[:10]}",
        recipe=name,
        tier=tier.name if tier else "",
        headline=True,
        samples=digest[:12],
        resize=given.resized,
        reading=given.reading,
    )


def _scored(
    base: Row, given: Samples, found: Dataset, specs: Sequence[str], path: Path, progress: Progress
) -> tuple[list[Row], Callable[[], list[Row]]]:
    """The rows of samples in the data set's own feature spaces and in those named, and what makes those of the floor.

    Raises BadInput where nothing could be measured.
    """
    n = len(given.x)
    own = reference_of(found, on_progress=progress.update)
    named = reference_of(found, tuple(specs), on_progress=progress.update) if specs else None
    refs: list[Reference] = [own] if named is None else [own, named]
    parts = Parts(progress)
    of_own = parts.add("", quality.costs(n, own))
    of_named = parts.add("", {} if named is None else quality.costs(n, named, copies=False))
    floor_costs = {what: cost for ref in refs for what, cost in quality.costs(n, ref, ("test",), False).items()}
    of_floor = parts.add("the floor: ", floor_costs)
    rows = quality.rows(base, given.x, given.y, own, on_progress=of_own)
    if named is not None:
        rows += quality.rows(base, given.x, given.y, named, copies=False, on_progress=of_named)
    if not any(row.value is not None and math.isfinite(row.value) for row in rows):
        reason = next((row.reason for row in rows if row.reason), "give more samples")
        raise BadInput(f"{path}: nothing can be measured with {n} sample{'s' * (n != 1)}: {reason}")
    return rows, lambda: floor_rows(refs, n, on_progress=of_floor)


def _join(to: Path | None, base: Row, rows: Sequence[Row]) -> list[Row]:
    """The rows in `to` that stay with new ones: what the samples scored on other data, by another tier, in another space.

    Raises BadInput where they are those of others.
    """
    kept = rows_in(to) if to is not None else []
    if other := next((row.recipe for row in kept if row.recipe != base.recipe), None):
        raise BadInput(f"{to} holds the rows of {other}; name a new folder for those of {base.recipe}")
    spaces = {row.features for row in rows}
    return [
        row
        for row in kept
        if (row.dataset, row.tier) != (base.dataset, base.tier)
        or (row.samples == base.samples and row.features not in spaces)
    ]


def _by_content(given: Samples, most: int, tell: Tell = lambda done, of: None) -> Samples:
    """At most so many samples, in an order that depends on what each holds: not on names, nor on the order they came in.

    The order is that of a hash, so that they are a random choice.
    """
    keys = list[bytes]()
    for index, row in enumerate(given.x):
        if index % 4096 == 0:
            tell(index, len(given.x))
        label = b"" if given.y is None else str(int(given.y[index])).encode()
        keys.append(hashlib.blake2b(row.contiguous().numpy().tobytes() + label, digest_size=16).digest())
    chosen = torch.tensor(sorted(range(len(keys)), key=keys.__getitem__)[:most])
    return given._replace(x=given.x[chosen], y=None if given.y is None else given.y[chosen])


def _name_of(path: Path, digest: str, to: Path | None) -> str:
    """What samples are called: by their file or folder, and by the folder around it where that says too little.

    It does so where the name is a common one, or where other samples of that name are kept next to `to`.
    """
    path = Path(os.path.abspath(path))
    own = path.name if path.is_dir() else path.stem
    siblings = [folder.parent for folder in to.parent.glob(f"*/{RESULTS}") if folder.parent != to] if to else []
    rows = [row for folder in siblings for row in rows_in(folder)[:1]]
    taken = any(
        row.status == "external" and row.recipe == _readable(own) and row.samples != digest[:12] for row in rows
    )
    if path.parent.name and (taken or own.lower() in COMMON):
        own = f"{path.parent.name}/{own}"
    return _readable(own)


def _readable(name: str) -> str:
    """A name on one line, that can be written."""
    return " ".join(readable(name).split())


def _content(given: Samples) -> str:
    """sha256 over type, shape and bytes of samples as they are scored, and of their labels."""
    digest = hashlib.sha256()
    for tensor in (given.x, given.y):
        if tensor is not None:
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.contiguous().reshape(-1).numpy().data)
    return digest.hexdigest()
