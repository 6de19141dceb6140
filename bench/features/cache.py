"""The features of real images, kept on disk for the next process."""

from __future__ import annotations

import contextlib
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from bench.data.dataset import Dataset
from bench.data.files import HEADS, cache_folder
from bench.data.whole import read_whole
from bench.features.space import Features, FeatureSpace
from bench.store import write_atomic
from paradigms.errors import BadInput

if TYPE_CHECKING:
    from bench.metrics.blocks import Tell

__all__ = ["cached"]


def cached(space: FeatureSpace, dataset: Dataset, split: str, x: Tensor, tell: Tell | None = None) -> Features:
    """The features of real images x (N, C, H, W), integers of a split, kept on disk for the next process.

    The key holds all that decides them: the images themselves, the data set's checksum, split, space (name, policy and
    hash), the sources of spaces, the version of torch and its threads. It is part of what the file's hash is of, so that
    another key's file in its place is not believed. What is damaged is computed anew, and a cache that can not be written
    costs time only.
    """
    parts = [dataset.checksum, split, _digest(x), space.id, _code(), torch.__version__, torch.get_num_threads()]
    if space.device.type != "cpu":
        parts.append(torch.cuda.get_device_name(space.device))
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
    path = cache_folder() / "features" / f"{key}.safetensors"
    with contextlib.suppress(BadInput, SafetensorError, ValueError, KeyError):
        data = read_whole(path, HEADS + 4 * len(x) * (space.dim + space.classes))
        if _bound(key, data[64:]) == data[:64]:
            found = load_tensors(data[64:])
            return Features(found["values"].to(space.device), found.get("logits"), space)
    features = space.features(x, stored=dataset.space, tell=tell)
    tensors = {"values": features.values.cpu()} | ({} if features.logits is None else {"logits": features.logits})
    body = save_tensors({name: tensor.contiguous() for name, tensor in tensors.items()})
    with contextlib.suppress(BadInput):
        write_atomic(path, _bound(key, body) + body)
    return features


def _bound(key: str, body: bytes) -> bytes:
    """A hash, 64 hex digits, that says what the body of a cached file is and what it is the file of."""
    return hashlib.sha256(key.encode() + body).hexdigest().encode()


def _digest(x: Tensor) -> str:
    return hashlib.sha256(x.contiguous().reshape(-1).numpy().data).hexdigest()


@cache
def _code() -> str:
    """Short sha256 over the sources that compute features."""
    names = ("space", "classifier", "convolutions", "policy", "requested", "fid", "inception")
    sources = [(Path(__file__).parent / f"{name}.py").read_bytes() for name in names]
    return hashlib.sha256(b"".join(sources)).hexdigest()[:12]
