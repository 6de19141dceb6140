"""What a metric of one's own is given: samples, the real data of one split, and their features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from bench.metrics.values import Features, Value
from paradigms.errors import BadInput
from reports.metrics import Metric

if TYPE_CHECKING:
    from bench.data import Density

__all__ = ["Compared", "values_of"]


@dataclass(frozen=True, eq=False)
class Compared:
    """One comparison of samples with real data, on the CPU but for features.

    samples, real:           (N, *shape) and (M, *shape) as the data is stored: uint8 images, float32 vectors.
    labels, real_labels:     (N,) and (M,); None where samples were drawn for none, or the data have none.
    features, real_features: of images in one feature space: `.values` (N, D), `.logits` of a classifier's space or None,
                             `.space`. None for a metric that is not on "features".
    density:                 of toys, whose log p is known.
    split:                   "test" or "train".
    """

    samples: Tensor
    real: Tensor
    labels: Tensor | None
    real_labels: Tensor | None
    features: Features | None
    real_features: Features | None
    density: Density | None
    split: str


def values_of(metric: Metric, given: Compared) -> Sequence[Value]:
    """What a metric's own function says. Raises BadInput where that is no value of the metric."""
    assert metric.by is not None
    made = metric.by(given)
    values = [made] if isinstance(made, Value) or not isinstance(made, Iterable) else list(made)
    if not values:
        raise BadInput(f"metric {metric.name} returned no value; mend it")
    for value in values:
        if not isinstance(value, Value) or value.metric != metric.name:
            raise BadInput(
                f"metric {metric.name} must return a Value('{metric.name}', number), or a list of them; mend it"
            )
    return values
