"""The row: one measured number with everything that is needed to know what it means."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

__all__ = ["ADDED", "NO_RUN", "SCHEMA", "SIGNED", "STATUSES", "Row", "columns"]

SCHEMA = 3
# What each version added. Rows of an older one are read with these columns empty: nobody wrote down what they held.
ADDED = {2: ("data", "samples", "resize", "torch"), 3: ("low", "high", "reading")}
NO_RUN = ("baseline", "external")  # the status of rows of no run
STATUSES = ("ok", "baseline", "external", "diverged", "failed")
SIGNED = ("value", "low", "high")  # the columns whose numbers may be negative


def _column(doc: str, default: Any = "") -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True)
class Row:
    """One measured number with all that is needed to know what it means. A column that does not apply is "" or None."""

    schema: int = _column("version of this table", SCHEMA)
    run: str = _column("id of the run: its seed and the hash of what defines it, as in the folder's name")
    status: str = _column(
        '"ok", "baseline" (no model), "external" (samples from elsewhere), "diverged" or "failed"', "ok"
    )
    reason: str = _column("why the run stopped, why the value is missing, or a caveat")
    recipe: str = _column("recipe, or the name of a baseline or of external samples")
    paradigm: str = _column("title of the paradigm")
    tier: str = _column("budget and evaluation protocol")
    dataset: str = _column("data set")
    data: str = _column("first 12 hex digits of the sha256 over the data set's decoded examples")
    split: str = _column('reference split: "test", "train" or ""')
    seed: int | None = _column("training seed", None)
    sampler: str = _column("sampler that drew the samples")
    steps: int | None = _column("steps of the sampler", None)
    options: str = _column('options of the sampler or of the likelihood, "name=value,..."')
    headline: bool = _column("drawn by the plan that the card named as its default before any score was seen", False)
    calls: float | None = _column("network calls per sample, or per example of a likelihood, counted", None)
    conditional: bool = _column("the model was trained with class labels", False)
    metric: str = _column("what was measured")
    value: float | None = _column("the number; None when it could not be measured (see reason)", None)
    error: float | None = _column("standard error of the value within this run, where there is one", None)
    low: float | None = _column("lower end of a proportion's 95 % interval (Wilson's), within this run", None)
    high: float | None = _column("upper end of the same", None)
    n: int | None = _column("samples, examples or repeats behind the value", None)
    n_ref: int | None = _column("size of the reference set", None)
    draw: int | None = _column("which disjoint set of samples: 0, 1, ... of one stream", None)
    samples: str = _column("first 12 hex digits of the sha256 over external samples, as they were scored")
    resize: str = _column('what was done to external samples of another size, as "64×64 to 32×32, bicubic"')
    reading: str = _column("how external samples were read: range taken, share clipped, what was cut or left out")
    unit: str = _column("unit of the value")
    kind: str = _column("kind of likelihood; numbers of different kinds are never compared")
    relation: str = _column('how a printed likelihood stands to the true one: "=", "≤" (bound), "≈" or ""')
    features: str = _column(
        "feature space: name, policy for size, channels and range where it has one, hash of its weights"
    )
    weights: str = _column('"ema" (averaged) or "raw"')
    fraction: float | None = _column("part of the training budget after which the weights were taken", None)
    images: int | None = _column("training examples seen, repeats counted", None)
    flops: float | None = _column("floating-point operations spent on training this run", None)
    seconds: float | None = _column("wall-clock seconds spent on training this run", None)
    cost_total: float | None = _column("training FLOPs including the runs it needed", None)
    seconds_total: float | None = _column("training seconds including the runs it needed", None)
    images_total: int | None = _column("training examples seen including the runs it needed", None)
    params_trained: int | None = _column("parameters trained, all networks together", None)
    params_sampling: int | None = _column("parameters used to sample", None)
    device: str = _column("device of the measurement")
    threads: int | None = _column("CPU threads of the measurement", None)
    dtype: str = _column("number format of the network's arithmetic")
    torch: str = _column("version of torch that the number was made with")
    contended: bool = _column("other work ran on the machine, or on the same GPU, during the timing or training", False)
    code: str = _column(
        "short sha256 over the sources that trained the model; a+b: trained by version a, measured by version b"
    )


def columns() -> list[tuple[str, str, str]]:
    """(name, type, meaning) of every column of `Row`, in order."""
    return [(f.name, str(f.type), f.metadata["doc"]) for f in fields(Row)]
