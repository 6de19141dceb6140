"""A feature space: a frozen network with a name and a hash, and the features that it gives."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Self

import torch
from torch import Tensor, nn

from paradigms.core.data import Space
from paradigms.errors import BadInput

if TYPE_CHECKING:
    from bench.metrics.blocks import Tell

__all__ = ["Extractor", "FeatureSpace", "Features"]

CPU = torch.device("cpu")
PIXELS = 2**20  # of a chunk at most: 32 channels of them are 128 MiB


class Extractor(nn.Module):
    """A network as a fixed map from images (B, C, H, W) to features (B, d) in float32.

    Neither `train()` nor a holder's `train()` takes it out of eval mode, a part that was put into training is put back
    before it is used, and autocast does not reach it. `num_features` is what torchmetrics' FrechetInceptionDistance
    looks for: an Extractor can be handed to it as it is.
    """

    def __init__(self, body: nn.Module, num_features: int) -> None:
        super().__init__()
        self.body = body
        self.num_features = num_features
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        if any(module.training for module in self.modules()):
            self.eval()
        with torch.autocast(x.device.type, enabled=False):
            return self.body(x.to(torch.float32)).to(torch.float32)


@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """A frozen extractor with a name, the hash of its weights, and where it is a classifier its head.

    name:     "digits", "mnist" ... for the classifiers, or "random-conv"; with a policy, "inception-2015/299-...".
    hash:     first 12 hex digits of the sha256 of the weights.
    accuracy: of the classifier on the held-out split; nan for a space that never saw a label.
    pixels:   that the network sees of an image, where they are not the image's own.
    """

    name: str
    hash: str
    shape: tuple[int, ...]
    extractor: Extractor
    head: nn.Module | None = None
    classes: int = 0
    accuracy: float = float("nan")
    pixels: int = 0
    device: torch.device = CPU

    def on(self, device: torch.device) -> FeatureSpace:
        """The same, computed there, where its features then lie; logits come back to the CPU."""
        if device == self.device:
            return self
        head = None if self.head is None else copy.deepcopy(self.head).to(device)
        return replace(self, extractor=copy.deepcopy(self.extractor).to(device), head=head, device=device)

    @property
    def id(self) -> str:
        return f"{self.name}@{self.hash}"

    @property
    def dim(self) -> int:
        return self.extractor.num_features

    @torch.no_grad()
    def __call__(
        self, x: Tensor, chunk: int = 1000, stored: Space | None = None, tell: Tell | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Features (N, dim) and logits (N, classes), None without a head, of bin-centred images x (N, C, H, W).

        Float32, on the space's device, the same for any `chunk` up to rounding (large images go through in smaller ones).
        stored: what x is where it holds the data's integers: a chunk of them is encoded at a time. tell: is called
        with the number of images done, and of all. Raises BadInput on images of another shape, and when an image or a
        feature is not finite.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise BadInput(
                f"feature space {self.id}: images must be {self.shape}, got {tuple(x.shape[1:])}; "
                "compare samples and reference at one size"
            )
        if stored is None and not x.is_floating_point():
            raise BadInput(f"feature space {self.id}: images must be encoded (float in [-1, 1]), got {x.dtype}")
        if not len(x):
            raise BadInput(f"feature space {self.id}: no images given")
        if x.is_floating_point() and (bad := sum(int((~p.isfinite().flatten(1).all(1)).sum()) for p in x.split(chunk))):
            raise BadInput(f"feature space {self.id}: {bad} of {len(x)} images are not finite")
        chunk = min(chunk, max(1, PIXELS // (self.pixels or math.prod(self.shape[1:]))))
        parts, done = list[Tensor](), 0
        for part in x.split(chunk):
            parts.append(self.extractor((part if stored is None else stored.encode(part)).to(self.device)))
            done += len(part)
            if tell is not None:
                tell(done, len(x))
        values = torch.cat(parts)
        if bad := int((~values.isfinite().all(1)).sum()):
            raise BadInput(f"feature space {self.id}: the features of {bad} of {len(x)} images are not finite")
        return values, None if self.head is None else self.head(values).cpu()

    def features(self, x: Tensor, chunk: int = 1000, stored: Space | None = None, tell: Tell | None = None) -> Features:
        """As a call, in one value that says which space it is of."""
        return Features(*self(x, chunk, stored, tell), self)


class Features(NamedTuple):
    """values (N, d) float32, logits (N, K) or None, and the space they are of."""

    values: Tensor
    logits: Tensor | None
    space: FeatureSpace
