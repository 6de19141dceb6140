"""Sums of the first 1, 2, ... numbers, with the same bits at every call on any device."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["running_sums"]


def running_sums(x: Tensor) -> Tensor:
    """The cumulative sums along the last axis of x (..., K), in its precision.

    On a GPU by a product with a triangle in float64: torch's own sums there have no order that repeats, and deterministic
    mode refuses them.
    """
    if x.device.type == "cpu":
        return x.cumsum(-1)
    triangle = torch.ones(x.shape[-1], x.shape[-1], dtype=torch.float64, device=x.device).triu()
    return (x.double() @ triangle).to(x.dtype)
