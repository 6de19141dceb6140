"""Feature spaces: frozen networks in which samples and real images are compared.

A Frechet distance is not a number but a (feature space, sample size, split) tuple, so a space here is a thing with a
name and a hash, and both go into every row. Two kinds exist, with different blind spots:

- a small *classifier* of the data set, trained on its training split by `bench.train_features` and shipped as package
  data. It sees what tells the classes apart and may ignore the rest. Retraining it makes a new space.
- *random-conv*, convolutions with fixed random weights. It never saw a label or an image, exists for any image shape,
  and sees texture and layout alike.

Features are float32 and computed on the CPU wherever the samples were drawn, so one space gives one set of numbers.

References: Heusel et al. 2017 (arXiv:1706.08500) for the distance; Kynkäänniemi et al. 2022 (arXiv:2203.06026) for what
a classifier's features hide; Naeem et al. 2020 (arXiv:2002.09797) for random networks as an embedding.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from paradigms.contract import Space
from paradigms.errors import BadInput

__all__ = [
    "Architecture",
    "Classifier",
    "Extractor",
    "FeatureSpace",
    "Features",
    "random_conv",
    "shipped",
    "spaces_for",
]

WEIGHTS = Path(__file__).parent / "weights"
PIXELS = 2**20  # of a chunk at most: 32 channels of them are 128 MiB
SUMS = "SHA256SUMS"  # the committed hash of every shipped file, in the format of sha256sum


# ------------------------------------------------------------------------------------------------------- networks


@dataclass(frozen=True)
class Architecture:
    """A LeNet-like classifier: 3x3 convolutions, each followed by SiLU and average pooling, then a layer of features.

    shape:    (C, H, W) of an image.
    channels: output channels of each convolution.
    pools:    how much each convolution's output is pooled (1: not at all).
    features: units of the layer that is compared.
    classes:  of the data set.
    dropout:  on the features, while training.
    """

    shape: tuple[int, int, int]
    channels: tuple[int, ...] = (32, 64)
    pools: tuple[int, ...] = (1, 2)
    features: int = 64
    classes: int = 10
    dropout: float = 0.5

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """From JSON, which knows no tuples."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)


class Classifier(nn.Module):
    """`body` maps images (B, C, H, W) in [-1, 1] to features (B, d), `head` features to logits (B, K)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        channels, height, width = architecture.shape
        layers: list[nn.Module] = []
        for out, pool in zip(architecture.channels, architecture.pools, strict=True):
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.SiLU()]
            if pool > 1:
                layers.append(nn.AvgPool2d(pool))
            channels, height, width = out, height // pool, width // pool
        layers += [nn.Flatten(), nn.Linear(channels * height * width, architecture.features), nn.SiLU(), _Scale()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Dropout(architecture.dropout), nn.Linear(architecture.features, architecture.classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    @torch.no_grad()
    def normalise(self, x: Tensor) -> None:
        """Scales the features by one number so that over images x their variance is 1 on average; logits stay.

        Training leaves the scale of a SiLU layer arbitrary. In these units a Frechet distance of d (64) is as much as
        all the variance of the real images, in every shipped space.
        """
        scale, last = self.body[-1], self.head[-1]
        assert isinstance(scale, _Scale)
        assert isinstance(last, nn.Linear)
        factor = torch.cat([self.body(part) for part in x.split(1000)]).double().var(0).mean().rsqrt().float()
        scale.factor.mul_(factor)
        last.weight.div_(factor)


class _Scale(nn.Module):
    """Multiplies by one stored number."""

    factor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Extractor(nn.Module):
    """A network as a fixed map from images (B, C, H, W) to features (B, d) in float32.

    Neither `train()` nor a holder's `train()` takes it out of eval mode, and autocast does not reach it. `num_features`
    is what torchmetrics' FrechetInceptionDistance looks for: an Extractor can be handed to it as it is.
    """

    def __init__(self, body: nn.Module, num_features: int) -> None:
        super().__init__()
        self.body = body
        self.num_features = num_features
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.body(x.to(torch.float32))


# --------------------------------------------------------------------------------------------------------- spaces


@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """A frozen extractor with a name, the hash of its weights, and where it is a classifier its head.

    name:     "digits", "mnist" ... for the classifiers, or "random-conv".
    hash:     first 12 hex digits of the sha256 of the weights.
    accuracy: of the classifier on the held-out split; nan for a space that never saw a label.
    """

    name: str
    hash: str
    shape: tuple[int, ...]
    extractor: Extractor
    head: nn.Module | None = None
    classes: int = 0
    accuracy: float = float("nan")

    @property
    def id(self) -> str:
        return f"{self.name}@{self.hash}"

    @property
    def dim(self) -> int:
        return self.extractor.num_features

    @torch.no_grad()
    def __call__(self, x: Tensor, chunk: int = 1000) -> tuple[Tensor, Tensor | None]:
        """Features (N, dim) and logits (N, classes), None without a head, of bin-centred images x (N, C, H, W).

        Float32, on the CPU, the same for any `chunk` up to rounding (large images go through in smaller ones). Raises
        BadInput on images of another shape.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise BadInput(
                f"feature space {self.id}: images must be {self.shape}, got {tuple(x.shape[1:])}; "
                "compare samples and reference at one size"
            )
        if not x.is_floating_point():
            raise BadInput(f"feature space {self.id}: images must be encoded (float in [-1, 1]), got {x.dtype}")
        if not len(x):
            raise BadInput(f"feature space {self.id}: no images given")
        chunk = min(chunk, max(1, PIXELS // math.prod(self.shape[1:])))
        values = torch.cat([self.extractor(part.cpu()) for part in x.split(chunk)])
        return values, None if self.head is None else self.head(values)

    def features(self, x: Tensor, chunk: int = 1000) -> Features:
        """As a call, in one value that says which space it is of."""
        return Features(*self(x, chunk), self)


class Features(NamedTuple):
    """values (N, d) float32, logits (N, K) or None, and the space they are of."""

    values: Tensor
    logits: Tensor | None
    space: FeatureSpace


def spaces_for(dataset_name: str, space: Space) -> list[FeatureSpace]:
    """The spaces in which this data set is scored: its classifier first where one is shipped, then "random-conv".

    Vectors have none. Raises BadInput when shipped weights are missing, damaged or of another image shape.
    """
    if not space.is_image:
        return []
    classifiers = [shipped(dataset_name)] if dataset_name in hashes() else []
    for found in classifiers:
        if found.shape != space.shape:
            raise BadInput(
                f"feature space {found.id} is of images {found.shape}, data set '{dataset_name}' has {space.shape}; "
                f"retrain it: python -m bench.train_features {dataset_name}"
            )
    return [*classifiers, random_conv(space.shape)]


def hashes(folder: Path = WEIGHTS) -> dict[str, str]:
    """The committed sha256 of each shipped classifier, by data set name. Raises BadInput when the list is not there."""
    path = folder / SUMS
    try:
        lines = [line.split() for line in path.read_text("utf-8").splitlines()]
        return {file.removesuffix(".safetensors"): digest for digest, file in lines}
    except (OSError, ValueError) as error:  # never as if nothing were shipped: images would lose a space unseen
        raise BadInput(
            f"the list of feature weights {path} can not be read ({error}); reinstall the package"
        ) from error


def shipped(name: str, folder: Path = WEIGHTS) -> FeatureSpace:
    """The classifier shipped for the data set `name`, its file checked against the committed hash.

    Raises BadInput when there is none, or when the file is missing or not the one that was committed.
    """
    expected = hashes(folder).get(name)
    path = folder / f"{name}.safetensors"
    if expected is None:
        raise BadInput(f"no classifier is shipped for data set '{name}'; known: {', '.join(sorted(hashes(folder)))}")
    if not path.exists():
        raise BadInput(f"feature weights {path} are missing; reinstall the package")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != expected:
        raise BadInput(
            f"feature weights {path} are damaged (sha256 {digest[:12]}, committed {expected[:12]}); "
            "reinstall the package"
        )
    card = read_card(data, path)
    architecture = Architecture.parse(card["architecture"])
    with torch.device("meta"):  # no initial values: they would be drawn from the global generator
        classifier = Classifier(architecture)
    classifier.load_state_dict(load_tensors(data), assign=True)
    return FeatureSpace(
        name,
        digest[:12],
        architecture.shape,
        Extractor(classifier.body, architecture.features),
        Extractor(classifier.head, architecture.classes),
        architecture.classes,
        card["accuracy"],
    )


def serialise(classifier: Classifier, architecture: Architecture, **card: float | str) -> bytes:
    """The bytes of a weights file: float32 tensors and, as one JSON text, the architecture and how it was trained."""
    text = json.dumps({"architecture": asdict(architecture), **card}, sort_keys=True)
    # One metadata key only: safetensors writes several in an arbitrary order, and the hash must not depend on it.
    return save_tensors({k: v.contiguous() for k, v in classifier.state_dict().items()}, {"card": text})


def read_card(data: bytes, path: Path) -> dict[str, Any]:
    """What `serialise` wrote beside the tensors."""
    try:
        size = int.from_bytes(data[:8], "little")
        return json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["card"])
    except (ValueError, KeyError, SafetensorError) as error:
        raise BadInput(f"{path} is not a weights file of this package ({error}); reinstall the package") from error


# ---------------------------------------------------------------------------------------------------- random-conv


class _RandomConvolutions(nn.Module):
    """Three rectified convolutions with random weights, averaged over the quadrants of the image: (B, 64).

    The filters of the first layer sum to zero over each input channel, so it answers to edges and grain and not to a
    constant; the rectification is what makes the mean of an answer depend on more than the pixels' first two moments.
    Features are differences from those of a blank image, times a constant that makes distances of order 1 on digits.
    """

    CHANNELS = (32, 32, 16)
    FEATURES = 64
    SCALE = 4.0
    SEED = 20_251

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        # All that makes the map what it is; hashed with the weights.
        self.design = f"3x3 replicate, zero-sum first, relu, quadrants minus blank, {self.CHANNELS}, {self.SCALE}"
        bits = np.random.Philox(key=self.SEED)
        layers: list[nn.Module] = []
        channels, size = shape[0], min(shape[1:])
        for i, out in enumerate(self.CHANNELS):
            layer = nn.Conv2d(channels, out, 3, padding=1, padding_mode="replicate", device="meta")
            weight = _uniform(bits, out, channels, 3, 3)
            if i == 0:
                weight = weight - weight.sum((2, 3), keepdim=True) / 9
            state = {"weight": weight * math.sqrt(6 / (9 * channels)), "bias": _uniform(bits, out) * 0.1}
            layer.load_state_dict({k: v.float() for k, v in state.items()}, assign=True)
            layers += [layer, nn.ReLU()]
            if size > 8 and i < 2:  # coarser strokes on larger images, in the reach of the same small filters
                layers.append(nn.AvgPool2d(2))
                size //= 2
                self.design += f", pooled after {i + 1}"
            channels = out
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        with torch.no_grad():
            self.register_buffer("blank", self.layers(torch.full((1, *shape), -1.0)))

    def forward(self, x: Tensor) -> Tensor:
        return (self.layers(x) - self.blank) * self.SCALE


def _uniform(bits: np.random.Philox, *shape: int) -> Tensor:
    """Uniform on [-1, 1), float64, from the generator's raw bits, which NumPy fixes for good.

    Of 24 bits, so that sums of a few are exact in any order, and the weights and their hash the same on every machine.
    """
    raw = bits.random_raw(math.prod(shape)) >> 40
    return torch.from_numpy(raw.astype(np.float64) / 2**23 - 1).reshape(shape)


def random_conv(shape: tuple[int, ...]) -> FeatureSpace:
    """The label-free space of 64 random-convolution features for images of `shape` (C, H, W)."""
    net = _RandomConvolutions(shape)
    digest = hashlib.sha256(net.design.encode())
    for parameter in net.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return FeatureSpace("random-conv", digest.hexdigest()[:12], tuple(shape), Extractor(net, net.FEATURES))
