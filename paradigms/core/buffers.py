"""Buffers of one number, read without waiting for a GPU each time."""

from __future__ import annotations

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["number"]

_READ = WeakTensorKeyDictionary()


def number(buffer: Tensor) -> float:
    """A buffer of one number as a Python one. A GPU is waited for only where the buffer has changed since the last time."""
    kept = _READ.get(buffer)
    if kept is None or kept[0] != buffer._version:
        kept = _READ[buffer] = buffer._version, float(buffer)
    return kept[1]
