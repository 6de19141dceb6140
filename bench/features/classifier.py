"""The classifiers of data sets whose features are compared: the network, its file, and the list of shipped ones."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from bench.data.whole import read_whole
from bench.features.space import Extractor, FeatureSpace
from bench.store import metadata
from paradigms.errors import BadInput

__all__ = [
    *("LARGEST", "SUMS", "WEIGHTS", "Architecture", "Classifier", "classifier_in", "hashes", "listed", "read_card"),
    *("serialise", "shipped"),
]

WEIGHTS = Path(__file__).parent / "weights"
MOST = 1 << 16  # units, channels, pixels of a side: a bound against what no file can mean
LARGEST = 2 << 30  # bytes of a network's file: an ONNX model can not be larger
SUMS = "SHA256SUMS"  # the committed hash of every shipped file, in the format of sha256sum
LISTED = re.compile(r"(?P<hash>[0-9a-f]{64})  (?P<name>\S+)\.safetensors")


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
        found = cls(**fields)
        found._check()
        return found

    def _check(self) -> None:
        """Raises ValueError where no network can be built from it."""
        counts = [self.shape, self.channels, self.pools, (self.features, self.classes)]
        if not all(type(some) is tuple and all(type(n) is int and 1 <= n <= MOST for n in some) for some in counts):
            raise ValueError(f"shape, channels, pools, features and classes must be whole numbers from 1 to {MOST:,}")
        if (
            len(self.shape) != 3
            or not len(self.channels) == len(self.pools) <= 64
            or math.prod(self.pools) > min(self.shape[1:])
        ):
            raise ValueError(
                "an image has three sizes, and each of at most 64 convolutions a pool that leaves a pixel of it"
            )
        if type(self.dropout) not in (int, float) or not 0 <= self.dropout <= 1:
            raise ValueError("dropout is a number from 0 to 1")


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


def hashes(folder: Path = WEIGHTS) -> dict[str, str]:
    """The committed sha256 of each shipped classifier, by data set name.

    Raises BadInput when the list is not there, is cut or leaves out a file: never as if nothing were shipped, as images
    would lose a space unseen.
    """
    found = listed(folder)
    if left_out := sorted({path.stem for path in folder.glob("*.safetensors")} - found.keys()):
        raise BadInput(f"the list of feature weights {folder / SUMS} leaves out {left_out[0]}; reinstall the package")
    return found


def listed(folder: Path) -> dict[str, str]:
    """The sha256 of each classifier that the list in `folder` names. Raises BadInput when it can not be read."""
    path = folder / SUMS
    try:
        text = read_whole(path, 1 << 20).decode()
        lines = [LISTED.fullmatch(line) for line in text.splitlines()]
        if not text.endswith("\n") or not all(lines):
            raise ValueError("a line of it is cut or is no hash with a name")
        return {line["name"]: line["hash"] for line in lines if line}
    except (BadInput, ValueError) as error:
        raise BadInput(f"the list of feature weights {path} can not be read ({error}); reinstall the package") from None


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
    data = read_whole(path, LARGEST)
    digest = hashlib.sha256(data).hexdigest()
    if digest != expected:
        raise BadInput(
            f"feature weights {path} are damaged (sha256 {digest[:12]}, committed {expected[:12]}); "
            "reinstall the package"
        )
    return classifier_in(name, data, path)


def classifier_in(name: str, data: bytes, path: Path) -> FeatureSpace:
    """The space of a weights file that `serialise` wrote."""
    card, digest = read_card(data, path), hashlib.sha256(data).hexdigest()
    try:
        architecture = Architecture.parse(card["architecture"])
        accuracy = float(card["accuracy"])
        if not 0 <= accuracy <= 1:
            raise ValueError("its accuracy is not between 0 and 1")
        tensors = load_tensors(data)
        if strange := [name for name, tensor in tensors.items() if tensor.dtype != torch.float32]:
            raise ValueError(f"'{strange[0]}' is not of 32-bit floats")
        with torch.device("meta"):  # no initial values: they would be drawn from the global generator
            classifier = Classifier(architecture)
        classifier.load_state_dict(tensors, assign=True)
    except KeyError as error:
        raise _foreign_weights(path, f"its card has no {error}") from None
    except Exception as error:  # a stranger's file can be wrong in any way
        raise _foreign_weights(path, error) from None
    return FeatureSpace(
        name,
        digest[:12],
        architecture.shape,
        Extractor(classifier.body, architecture.features),
        Extractor(classifier.head, architecture.classes),
        architecture.classes,
        accuracy,
    )


def _foreign_weights(path: Path, why: object) -> BadInput:
    reason = " ".join(str(why).split())[:160]
    return BadInput(f"{path} is not a weights file of this package ({reason}); get another, or reinstall the package")


def serialise(classifier: Classifier, architecture: Architecture, **card: float | str) -> bytes:
    """The bytes of a weights file: float32 tensors and, as one JSON text, the architecture and how it was trained."""
    text = json.dumps({"architecture": asdict(architecture), **card}, sort_keys=True)
    # One metadata key only: safetensors writes several in an arbitrary order, and the hash must not depend on it.
    return save_tensors({k: v.contiguous() for k, v in classifier.state_dict().items()}, {"card": text})


def read_card(data: bytes, path: Path) -> dict[str, Any]:
    """The card that `serialise` wrote with the tensors. Raises BadInput."""
    try:
        card = json.loads(metadata(data)["card"])
        if not isinstance(card, dict):
            raise ValueError("its card is no JSON object")
        return card
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _foreign_weights(path, error) from None
