"""The space of FID: the Inception network of 2015 behind its own treatment of an image; its 95 MB are downloaded."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import torch

from bench.data.files import Origin, Part, Progress, obtain
from bench.features.inception import DIM, SIDE, Inception
from bench.features.policy import Adapted, Policy
from bench.features.space import Extractor, FeatureSpace
from paradigms.core.data import Space

__all__ = ["FID", "INCEPTION", "frechet_title", "inception"]

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
    body = Extractor(Adapted(network, Policy(channels=3, range="bytes"), space.levels), DIM)
    name, digest = FID.split("@")[0], hashlib.sha256(data).hexdigest()
    return FeatureSpace(name, digest[:12], space.shape, body, pixels=SIDE**2)
