"""Feature spaces: frozen networks in which samples and real images are compared.

A Frechet distance is not a number but a (feature space, sample size, split) tuple, so a space here is a thing with a
name and a hash, and both go into every row. Two kinds exist, with different blind spots:

- a small *classifier* of the data set, trained on its training split by `bench.train_features` and shipped as package
  data. It sees what tells the classes apart and may ignore the rest. Retraining it makes a new space.
- *random-conv*, convolutions with fixed random weights. It never saw a label or an image, exists for any image shape,
  and sees texture and layout alike.

`named` adds those that a user asks for: `inception-2015`, the only one whose distance may be called FID, and any
network of theirs (ONNX, a factory in an installed module, a classifier that `bench.train_features` made of their folder
of images). These take images of a size and range of their own, and what is done to an image on the way is part of the
space's name: name/policy@hash.

A file that is read here is data and never runs code: an ONNX graph, tensors in safetensors, tensors unpickled with
`weights_only` and checked by hash. What torch itself saves is a program and is refused: `torch.export.load` unpickles
and evaluates text of the file, and TorchScript can write files (`torch.save` is one of its operators). A factory is
code, and is imported and called.

Features are float32 and computed on the CPU wherever the samples were drawn, so one space gives one set of numbers.

References: Heusel et al. 2017 (arXiv:1706.08500) for the distance; Kynkäänniemi et al. 2022 (arXiv:2203.06026) for what
a classifier's features hide; Naeem et al. 2020 (arXiv:2002.09797) for random networks as an embedding.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib
import inspect
import io
import json
import math
import os
import re
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, get_args

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn import functional as F

from bench.data.dataset import HELD_OUT, Dataset
from bench.data.files import HEADS, Origin, Part, Progress, cache_folder, obtain
from bench.data.whole import read_whole
from bench.inception import DIM, SIDE, Inception
from bench.store import metadata, write_atomic
from paradigms.core.data import Space
from paradigms.errors import BadInput, unknown

if TYPE_CHECKING:
    from bench.metrics.blocks import Tell

__all__ = [
    "FID",
    "Architecture",
    "Classifier",
    "Extractor",
    "FeatureSpace",
    "Features",
    "Policy",
    "cached",
    "frechet_title",
    "named",
    "random_conv",
    "shipped",
    "spaces_for",
]

CPU = torch.device("cpu")
WEIGHTS = Path(__file__).parent / "weights"
PIXELS = 2**20  # of a chunk at most: 32 channels of them are 128 MiB
RANDOM = "random-conv"
MOST = 1 << 16  # units, channels, pixels of a side: a bound against what no file can mean
LARGEST = 2 << 30  # bytes of a network's file: an ONNX model can not be larger
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


# --------------------------------------------------------------------------------------------------------- spaces


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
        stored: what x is where it holds the data's integers: a chunk of them is encoded at a time. tell: is told how many
        images are done, and of how many. Raises BadInput on images of another shape, and when an image or a feature is
        not finite.
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


def too_few(found: Dataset) -> str:
    """What it means that few images are held out, in a line to be read before training; "" where there are enough."""
    from bench.metrics.values import PER_FEATURE  # which reads features

    need = max((PER_FEATURE * space.dim for space in spaces_for(found.name, found.space)), default=0)
    lack = need - len(found.test)
    if lack <= 0:
        return ""
    more = f"{lack:,} more held-out images"
    if found.drawn:
        more = f"{lack * HELD_OUT:,} more images, of which a fifth is held out,"
    return (
        f"{len(found.test):,} held-out images are too few for a Frechet distance, which needs {need:,} here: the kernel "
        f"distance leads, which is unbiased at any number and sees only large differences at this one; {more} would do"
    )


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


LISTED = re.compile(r"(?P<hash>[0-9a-f]{64})  (?P<name>\S+)\.safetensors")


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
    return _classifier(name, data, path)


def _classifier(name: str, data: bytes, path: Path) -> FeatureSpace:
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
    """What `serialise` wrote beside the tensors. Raises BadInput."""
    try:
        card = json.loads(metadata(data)["card"])
        if not isinstance(card, dict):
            raise ValueError("its card is no JSON object")
        return card
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _foreign_weights(path, error) from None


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
    return FeatureSpace(RANDOM, digest.hexdigest()[:12], tuple(shape), Extractor(net, net.FEATURES))


# ------------------------------------------------------------------------------------------------ what a user asks for

Range = Literal["symmetric", "unit", "bytes", "imagenet"]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PROGRAMS = (".pt", ".pth", ".pt2", ".ts", ".ptl", ".pkl", ".pickle")  # files of torch that run code, and pickles


@dataclass(frozen=True)
class Policy:
    """What is done to an image before a foreign network sees it; as text, part of the space's name.

    size:     side in pixels; 0: the data's own size.
    resize:   "bilinear" or "bicubic", antialiased; used where the size differs.
    channels: 3 repeats a grey image, 1 takes the luma of a colour one (ITU-R 601); 0: the data's own.
    range:    of black and white: "symmetric" [-1, 1], "unit" [0, 1], "bytes" [0, 255], "imagenet": its mean and
              standard deviation.
    """

    size: int = 0
    resize: Literal["bilinear", "bicubic"] = "bilinear"
    channels: Literal[0, 1, 3] = 0
    range: Range = "symmetric"

    def __str__(self) -> str:
        size = f"{self.size}-{self.resize}" if self.size else "own-size"
        channels = {0: "own-channels", 1: "grey", 3: "rgb"}[self.channels]
        return f"{size},{channels},{self.range}"

    @classmethod
    def parse(cls, text: str, spec: str) -> Self:
        """From "size=224,channels=3,range=imagenet". Raises BadInput."""
        known = {f.name: f for f in fields(cls)}
        choices = {"resize": ("bilinear", "bicubic"), "channels": ("0", "1", "3"), "range": get_args(Range)}
        values: dict[str, Any] = {}
        for part in filter(None, text.split(",")):
            key, _, value = part.partition("=")
            if key not in known:
                raise unknown(f"setting in --features {spec}:", key, known)
            if key in choices and value not in choices[key]:
                raise BadInput(f"--features {spec}: {key} is one of {', '.join(choices[key])}, not '{value}'")
            if key == "size" and not (value.isascii() and value.isdigit() and 1 <= int(value) <= 1024):
                raise BadInput(f"--features {spec}: size is a whole number of pixels up to 1024, not '{value}'")
            values[key] = int(value) if key in ("size", "channels") else value
        return cls(**values)


class _Adapted(nn.Module):
    """A foreign network behind a policy: bin centres in, features (B, d) out."""

    def __init__(self, network: nn.Module, policy: Policy, levels: int) -> None:
        super().__init__()
        self.network, self.policy, self.levels = network, policy, levels

    def forward(self, x: Tensor) -> Tensor:
        # Back to integers k = 0 ... L - 1, and these evenly over [0, 1]: a byte is a byte.
        x = (((x + 1) * self.levels - 1) / 2 / (self.levels - 1)).clamp(0, 1)
        if self.policy.channels == 3 and x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        elif self.policy.channels == 1 and x.shape[1] == 3:
            x = (x * x.new_tensor((0.299, 0.587, 0.114)).view(3, 1, 1)).sum(1, keepdim=True)
        size = self.policy.size
        if size and tuple(x.shape[2:]) != (size, size):
            x = F.interpolate(x, (size, size), mode=self.policy.resize, align_corners=False, antialias=True).clamp(0, 1)
        if self.policy.range == "imagenet":
            mean, deviation = (x.new_tensor(v).view(3, 1, 1) for v in IMAGENET)
            x = (x - mean) / deviation
        elif self.policy.range != "unit":
            x = x * 255 if self.policy.range == "bytes" else x * 2 - 1
        found = self.network(x)
        found = found[0] if isinstance(found, (tuple, list)) else found
        return found.reshape(len(x), -1)


def named(spec: str, space: Space, progress: Progress | None = None) -> FeatureSpace:
    """The feature space that `--features SPEC` names, for images of `space`.

    SPEC: `inception-2015[:from=PATH]`; `random-conv`; a file: ONNX (.onnx) or a classifier made by
    `bench.train_features` (.safetensors), neither of which runs code; or `package.module:factory`, a function without
    arguments that returns a module, which is imported and called. A network may be followed by a policy:
    `net.onnx:size=224,channels=3,range=imagenet`. It is given (B, C, H, W) float32 and must return features (B, d).
    Raises BadInput.
    """
    if not space.is_image:
        raise BadInput(f"--features {spec}: feature spaces are of images, and this data set holds vectors")
    head, _, tail = spec.rpartition(":")
    what, settings = (head, tail) if head and "=" in tail else (spec, "")
    if what == INCEPTION:
        key, _, source = settings.partition("=")
        if settings and key != "from":
            raise BadInput(f"--features {spec}: {INCEPTION} takes from=PATH only; how it resizes is part of its name")
        return inception(space, Path(source) if settings else None, progress)
    if what == RANDOM:
        if settings:
            raise BadInput(f"--features {spec}: {RANDOM} takes images as they are; no settings")
        return random_conv(space.shape)
    path, suffix = Path(what), Path(what).suffix.lower()
    if suffix in PROGRAMS:
        raise BadInput(
            f"--features {spec}: a {suffix} file is a program, which could do anything as it is read; write the network as "
            "ONNX (torch.onnx.export), or load it in a function of your own: --features your_module:function"
        )
    if suffix in (".onnx", ".safetensors"):
        try:
            data = read_whole(path, LARGEST)
        except BadInput as error:
            raise BadInput(f"--features {spec}: {error}") from None
        name, digest = re.sub(r"[^\w.@+-]+", "-", path.stem, flags=re.ASCII), hashlib.sha256(data).hexdigest()
        if suffix == ".safetensors":
            if settings:
                raise BadInput(f"--features {spec}: a classifier of this package takes images as they are; no settings")
            found = _classifier(name, data, path)
            if found.shape != space.shape:
                raise BadInput(
                    f"--features {spec}: {found.id} is of images {found.shape}, the data set's {space.shape}"
                )
            return found
        return _foreign(name, digest, _onnx(data, path), Policy.parse(settings, spec), space, spec)
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", what, re.ASCII):
        network, digest = _made(what)
        return _foreign(what.replace(":", "."), digest, network, Policy.parse(settings, spec), space, spec)
    raise unknown("feature space", what, (INCEPTION, RANDOM, "net.onnx", "package.module:factory"))


def _foreign(name: str, digest: str, network: nn.Module, policy: Policy, space: Space, spec: str) -> FeatureSpace:
    """A user's network behind its policy, after it was tried on two images."""
    body = Extractor(_Adapted(network, policy, space.levels), 0)
    try:
        # Black, grey and white, so that a network which mixes the images of a batch is seen.
        grey = (torch.arange(3) * (space.levels - 1)).div(2, rounding_mode="floor")
        x = space.encode(grey.view(3, 1, 1, 1).expand(3, *space.shape))
        with torch.no_grad():
            values, fewer = body(x), body(x[1:])
    except (Exception, SystemExit) as error:  # whatever a stranger's network raises
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise BadInput(
            f"--features {spec}: the network does not take images {space.shape} as '{policy}' ({reason}); "
            "say what it needs, as in size=224,channels=3,range=imagenet"
        ) from None
    if not values.shape[1] or not values.isfinite().all():
        raise BadInput(
            f"--features {spec}: of 3 images it gives {tuple(values.shape)}; finite features (3, d) are needed"
        )
    if not torch.allclose(values[1:], fewer, rtol=1e-3, atol=1e-4 * (1 + float(values.abs().max()))):
        raise BadInput(
            f"--features {spec}: an image's features depend on the batch it is in; export the network in eval mode"
        )
    body.num_features = values.shape[1]
    return FeatureSpace(f"{name}/{policy}", digest[:12], space.shape, body, pixels=policy.size**2)


class _Onnx(nn.Module):
    """An ONNX session as a module; its first input takes the images, its first output gives the features."""

    def __init__(self, session: Any) -> None:
        super().__init__()
        self.session = session

    def forward(self, x: Tensor) -> Tensor:
        given = {self.session.get_inputs()[0].name: x.contiguous().numpy()}
        return torch.from_numpy(self.session.run(None, given)[0])


def _onnx(data: bytes, path: Path) -> nn.Module:
    try:
        import onnxruntime
    except ImportError:
        raise BadInput(f"{path} is read by onnxruntime, which is not installed: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what is wrong is said by us
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # Weights in other files would not be in the hash, and a path could lead anywhere: they are looked for where none is.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    try:
        # Its second try would print what went wrong in the first, in words of the file.
        return _Onnx(onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"], enable_fallback=0))
    except Exception as error:  # its exceptions share no class
        if "external data" in str(error).lower():
            raise BadInput(
                f"{path} keeps weights in another file; write it as one: torch.onnx.export(..., external_data=False)"
            ) from None
        raise BadInput(f"{path} is no ONNX model that onnxruntime {onnxruntime.__version__} can read") from None


def _made(spec: str) -> tuple[nn.Module, str]:
    """A factory's network, and a hash over its tensors and the source that defines it."""
    where, _, name = spec.partition(":")
    try:
        module = importlib.import_module(where)
        network = getattr(module, name)()
    except (Exception, SystemExit) as error:
        raise BadInput(f"--features {spec}: {type(error).__name__}: {' '.join(str(error).split())[:160]}") from None
    if not isinstance(network, nn.Module):
        raise BadInput(f"--features {spec}: it must return a torch module, not {type(network).__name__}")
    digest = hashlib.sha256()
    for kind in dict.fromkeys((module, inspect.getmodule(type(network)))):
        if (source := getattr(kind, "__file__", None)) and Path(source).suffix == ".py":
            digest.update(Path(source).read_bytes())
    digest.update(str(getattr(network, "inlined_graph", "")).encode())  # of TorchScript, whose class says nothing
    for key, tensor in network.state_dict().items():
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return network.float(), digest.hexdigest()


# ------------------------------------------------------------------------------------------------------------ FID

INCEPTION = "inception-2015"
_INCEPTION_FILE = Part(
    "weights-inception-2015-12-05-6726825d.pth",
    95_628_359,
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)
INCEPTION_ORIGIN = Origin(
    INCEPTION,
    (_INCEPTION_FILE,),
    ("https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/",),
    packed=False,
    offline=f"get {_INCEPTION_FILE.name} elsewhere and give --features {INCEPTION}:from=PATH",
)
# The one space whose Frechet distance is called FID: these weights, behind this treatment of an image.
FID = f"{INCEPTION}/{SIDE}-tensorflow-bilinear,rgb,bytes@{_INCEPTION_FILE.sha256[:12]}"


def frechet_title(features: str) -> str:
    """What a Frechet distance in a space is called: "FID" for one only, "FD-<name>" for every other."""
    return "FID" if features == FID else f"FD-{features.rpartition('@')[0] or features}"


def inception(space: Space, source: Path | None = None, progress: Progress | None = None) -> FeatureSpace:
    """Inception-v3 of 2015 on images of `space`, grey ones repeated. Its 95 MB come from `source`, the cache or a download.

    Raises BadInput when they are not there or not the published ones, whose sha256 is checked.
    """
    (part,) = INCEPTION_ORIGIN.parts
    data = obtain(INCEPTION_ORIGIN, source, progress)[part.name].data
    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    with torch.device("meta"):
        network = Inception()
    network.load_state_dict(state, assign=True)
    # The network resizes by itself, as TensorFlow did.
    body = Extractor(_Adapted(network, Policy(channels=3, range="bytes"), space.levels), DIM)
    name, digest = FID.split("@")[0], hashlib.sha256(data).hexdigest()
    return FeatureSpace(name, digest[:12], space.shape, body, pixels=SIDE**2)


# ------------------------------------------------------------------------------------------------------------ cache


def cached(space: FeatureSpace, dataset: Dataset, split: str, x: Tensor, tell: Tell | None = None) -> Features:
    """The features of real images x (N, C, H, W), integers of a split, kept on disk for the next process.

    The key holds all that decides them: the images themselves, the data set's checksum, split, space (name, policy and
    hash), the code of this file, the version of torch and its threads. It is part of what the file's hash is of, so that
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
    here = Path(__file__).parent
    return hashlib.sha256(b"".join((here / name).read_bytes() for name in ("features.py", "inception.py"))).hexdigest()[
        :12
    ]
