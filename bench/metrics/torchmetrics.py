"""The suite's metrics as `torchmetrics.Metric`s, for anyone's loop and for any number of ranks.

    real = Moments.of(network(real_images))
    metric = StreamMetric(FrechetDistance(real), through=network)
    for images in loader:
        metric.update(images)
    metric.compute()

`StreamMetric` holds a metric that one pass is enough for (`Moments`, `FrechetDistance`, `Sharpness`, `LabelHistogram`,
`ClassifierScore`, or anyone's own `Stream`) as one float64 tensor. What ranks have seen is merged by the stream's own
`merge`, so that it is as good as one stream. `PoolMetric` keeps the features of all samples, for a metric that needs every
pair (`kernel_distance`, `neighbourhoods`).

Only whoever uses this file imports torchmetrics, which takes a second.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from bench.metrics.stream import Stream
from bench.metrics.values import Features, Value

__all__ = ["PoolMetric", "StreamMetric"]


class StreamMetric(Metric):
    """A stream as a metric.

    `update(batch)` takes what the stream takes, or what `through` makes that of. `compute()` gives the stream's result as
    float64 tensors: a scalar for a `Value`, a tuple for a tuple. Both raise BadInput as the stream does; so does
    `forward`, whose value is of one batch alone, where that is too small.

    Args:
        stream:  what is reset to; it is not changed, and may have seen batches already.
        through: a module or function from a batch to what the stream takes, as images (B, C, H, W) to features (B, d).
        options: of `torchmetrics.Metric`, as sync_on_compute.
    """

    full_state_update = False
    is_differentiable = False
    seen: Tensor

    def __init__(self, stream: Stream[Any], through: Callable[[Tensor], Tensor] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.stream, self.through = stream, through
        self.add_state("seen", _flat(stream), dist_reduce_fx=self._merged)

    def update(self, batch: Tensor) -> None:
        stream = _filled(self.stream, self.seen)
        stream.update(batch if self.through is None else self.through(batch))
        self.seen = _flat(stream).to(self.seen.device)

    def compute(self) -> Any:
        return _tensors(_filled(self.stream, self.seen).compute(), self.seen.device)

    def _merged(self, ranks: Tensor) -> Tensor:
        """What all ranks (R, k) have seen, (k,). Called by torchmetrics."""
        first, *others = (_filled(self.stream, rank) for rank in ranks)
        for other in others:
            first.merge(other)
        return _flat(first).to(ranks.device)


class PoolMetric(Metric):
    """A metric of the features of all samples against those of real data.

    Args:
        real:    features of real data, in one feature space.
        of:      the metric, from features of samples and of real data: `kernel_distance`, `neighbourhoods` ...
        through: a module or function from a batch to features (B, d); without it `update` takes features.
        options: of `torchmetrics.Metric`.

    `compute()` gives a float64 scalar, or of several values a dictionary by metric. It raises BadInput as the metric does.
    Features of all ranks must be of the type of the real ones.
    """

    full_state_update = False
    is_differentiable = False
    values: list[Tensor]

    def __init__(
        self,
        real: Features,
        of: Callable[[Features, Features], Value | Sequence[Value]],
        through: Callable[[Tensor], Tensor] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.real, self.of, self.through = real, of, through
        self.add_state("values", [], dist_reduce_fx="cat")

    def update(self, batch: Tensor) -> None:
        self.values.append(batch if self.through is None else self.through(batch))

    def compute(self) -> Tensor | dict[str, Tensor]:
        dim = self.real.space.dim
        values = dim_zero_cat(self.values) if len(self.values) else torch.empty(0, dim)
        real = Features(self.real.values.to(values.device), None, self.real.space)
        return _tensors(self.of(Features(values, None, self.real.space), real), values.device)

    def _sync_dist(self, *arguments: Any, **named: Any) -> None:
        # torchmetrics would gather a vector from a rank that has seen nothing, where the others have matrices.
        if not len(self.values):
            self.values = [self.real.values.new_empty(0, self.real.space.dim, device=self.device)]
        super()._sync_dist(*arguments, **named)


# ---------------------------------------------------------------------------------------------------------- state


def _flat(stream: Stream[Any]) -> Tensor:
    """All that a stream has seen, as one float64 tensor (k,); counts are exact up to 2^53."""
    parts = []
    for value in (getattr(stream, name) for name in stream.state):
        flat = _flat(value) if isinstance(value, Stream) else torch.as_tensor(value, dtype=torch.float64).flatten()
        parts.append(flat)
    return torch.cat(parts)


def _filled(stream: Stream[Any], flat: Tensor) -> Stream[Any]:
    """A stream like this one that has seen what `flat` says."""
    filled = copy.copy(stream)
    for name in stream.state:
        value = getattr(stream, name)
        size = len(_flat(value)) if isinstance(value, Stream) else torch.as_tensor(value).numel()
        part, flat = flat[:size], flat[size:]
        if isinstance(value, Stream):
            setattr(filled, name, _filled(value, part))
        elif isinstance(value, Tensor):
            setattr(filled, name, part.view(value.shape).to(value.device, value.dtype, copy=True))
        else:
            setattr(filled, name, type(value)(part.item()))
    return filled


def _tensors(result: Any, device: torch.device) -> Any:
    if isinstance(result, Value):
        return torch.tensor(result.value, dtype=torch.float64, device=device)
    if isinstance(result, list):
        return {value.metric: _tensors(value, device) for value in result}
    if isinstance(result, tuple):
        return tuple(_tensors(part, device) for part in result)
    return torch.as_tensor(result, dtype=torch.float64, device=device)
