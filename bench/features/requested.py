"""Feature spaces that a user names: FID's network, random convolutions, a file of a network, or a factory."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.data.files import Progress
from bench.data.whole import read_whole
from bench.features.classifier import LARGEST, classifier_in
from bench.features.convolutions import RANDOM, random_conv
from bench.features.fid import INCEPTION, inception
from bench.features.policy import Adapted, Policy
from bench.features.space import Extractor, FeatureSpace
from paradigms.core.data import Space
from paradigms.errors import BadInput, unknown

__all__ = ["named"]

PROGRAMS = (".pt", ".pth", ".pt2", ".ts", ".ptl", ".pkl", ".pickle")  # files of torch that run code, and pickles


def named(spec: str, space: Space, progress: Progress | None = None) -> FeatureSpace:
    """The feature space that `--features SPEC` names, for images of `space`.

    SPEC: `inception-2015[:from=PATH]`; `random-conv`; a file: ONNX (.onnx) or a classifier made by
    `bench.features.train` (.safetensors), neither of which runs code; or `package.module:factory`, a function without
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
            found = classifier_in(name, data, path)
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
    body = Extractor(Adapted(network, policy, space.levels), 0)
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
    options.log_severity_level = 4  # errors are reported below
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
