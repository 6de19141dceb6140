"""Feature spaces: shipped weights are what was committed, extractors stay frozen, and a name never hides a change."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pickle
import shutil
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.torch import load as load_tensors
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from bench.data import load
from bench.data.files import Origin, Part
from bench.features import (
    FID,
    SUMS,
    WEIGHTS,
    Architecture,
    Classifier,
    Extractor,
    FeatureSpace,
    cached,
    fid,
    frechet_title,
    hashes,
    inception,
    named,
    random_conv,
    serialise,
    shipped,
    spaces_for,
)
from bench.features import cache as feature_cache
from bench.features import train as train_features
from bench.features.classifier import read_card
from bench.features.fid import INCEPTION, INCEPTION_ORIGIN
from bench.features.policy import IMAGENET
from bench.features.train import Training, accuracy, augment, fit, recipe
from bench.metrics import frechet_distance
from paradigms.core.data import Data, Space
from paradigms.errors import BadInput
from reports import metrics

DIGITS = Space((1, 8, 8), classes=10, levels=17)


@pytest.fixture(scope="module")
def digits() -> tuple[Data, Data]:
    dataset = load("digits")
    return dataset.train, dataset.test


@pytest.fixture(params=["digits", "random-conv"])
def space(request: pytest.FixtureRequest) -> FeatureSpace:
    return next(s for s in spaces_for("digits", DIGITS) if s.name == request.param)


# ---------------------------------------------------------------------------------------------------------- names


def test_classifier_first_then_random_conv() -> None:
    assert [s.name for s in spaces_for("digits", DIGITS)] == ["digits", "random-conv"]
    assert [s.name for s in spaces_for("folder:/some/where@16", Space((3, 16, 16), levels=256))] == ["random-conv"]
    assert spaces_for("ring8", Space((2,))) == []


def test_an_id_is_the_name_and_the_hash_of_the_file() -> None:
    space = shipped("digits")
    digest = hashlib.sha256((WEIGHTS / "digits.safetensors").read_bytes()).hexdigest()
    assert space.id == f"digits@{digest[:12]}"
    assert (space.dim, space.classes, space.shape) == (64, 10, (1, 8, 8))


@pytest.mark.parametrize("name", sorted(hashes()))
def test_every_shipped_file_is_intact_small_and_fits_its_data(name: str) -> None:
    data = (WEIGHTS / f"{name}.safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() == hashes()[name]
    assert len(data) <= 1_000_000
    space = shipped(name)
    assert read_card(data, Path(name))["dataset"] == name
    x = torch.rand(3, *space.shape) * 2 - 1
    values, logits = space(x)
    assert values.shape == (3, space.dim)
    assert logits is not None
    assert logits.shape == (3, space.classes)


def test_no_file_is_shipped_without_a_hash() -> None:
    assert {p.name.removesuffix(".safetensors") for p in WEIGHTS.glob("*.safetensors")} == set(hashes())


def test_a_data_set_of_another_size_is_refused() -> None:
    with pytest.raises(BadInput, match=r"digits@.* retrain"):
        spaces_for("digits", Space((1, 16, 16), classes=10, levels=17))


# ------------------------------------------------------------------------------------------------------- integrity


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("digits.safetensors", SUMS):
        shutil.copy(WEIGHTS / name, tmp_path / name)
    return tmp_path


def test_a_flipped_bit_is_refused_wherever_it_is(folder: Path) -> None:
    path = folder / "digits.safetensors"
    good = path.read_bytes()
    for place in (3, 60, len(good) // 2, len(good) - 1):
        bad = bytearray(good)
        bad[place] ^= 4
        path.write_bytes(bad)
        with pytest.raises(BadInput, match=r"damaged.*reinstall"):
            shipped("digits", folder)
    path.write_bytes(good)
    assert shipped("digits", folder).id == shipped("digits").id


def test_truncated_missing_and_unknown_weights_are_refused(folder: Path) -> None:
    path = folder / "digits.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BadInput, match="damaged"):
        shipped("digits", folder)
    path.unlink()
    with pytest.raises(BadInput, match=r"missing.*reinstall"):
        shipped("digits", folder)
    with pytest.raises(BadInput, match="no classifier is shipped for data set 'digit'"):
        shipped("digit", folder)


def test_a_missing_or_damaged_list_is_not_taken_for_an_empty_one(folder: Path) -> None:
    (folder / SUMS).write_text("nonsense\n")
    with pytest.raises(BadInput, match=r"can not be read.*reinstall"):
        hashes(folder)
    (folder / SUMS).unlink()
    with pytest.raises(BadInput, match=r"can not be read.*reinstall"):
        shipped("digits", folder)


def test_a_file_that_is_not_of_this_package_is_refused(folder: Path) -> None:
    path = folder / "digits.safetensors"
    for content in (b"", b"not a safetensors file at all", (2**60).to_bytes(8, "little")):
        path.write_bytes(content)
        (folder / SUMS).write_text(f"{hashlib.sha256(content).hexdigest()}  digits.safetensors\n")
        with pytest.raises(BadInput, match="not a weights file"):
            shipped("digits", folder)


def test_random_conv_is_the_map_its_hash_names(digits: tuple[Data, Data]) -> None:
    """A change of the map without a change of its id would mix two spaces in one column: pinned, change both."""
    space = random_conv((1, 8, 8))
    assert space.id == "random-conv@9cf4fb382435"
    assert random_conv((1, 28, 28)).id == "random-conv@b8f0f6182ece"
    x = torch.linspace(-1, 1, 64).sin().reshape(1, 1, 8, 8)
    expected = torch.tensor([0.650729, 0.655460, 0.732814, 0.636842])
    torch.testing.assert_close(space(x)[0][0, :4], expected, rtol=1e-4, atol=1e-5)


def test_the_digits_classifier_is_the_map_its_hash_names() -> None:
    x = torch.linspace(-1, 1, 64).sin().reshape(1, 1, 8, 8)
    expected = torch.tensor([-0.090515, 0.421744, -0.092411, 0.774169])
    torch.testing.assert_close(shipped("digits")(x)[0][0, :4], expected, rtol=1e-4, atol=1e-5)


def test_making_a_space_draws_nothing_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    random_conv((3, 32, 32))
    shipped("digits")
    assert torch.equal(before, torch.get_rng_state())


# ------------------------------------------------------------------------------------------------------ extraction


def test_accuracy_is_what_the_weights_claim(digits: tuple[Data, Data]) -> None:
    space = shipped("digits")
    _, test = digits
    _, logits = space(test.all().x)
    assert logits is not None
    measured = (logits.argmax(1) == test.y).double().mean().item()
    assert measured == pytest.approx(space.accuracy, abs=2.5 / len(test))  # other machines may move an image or two
    assert measured > 0.985


def test_the_network_was_trained_on_this_training_split() -> None:
    card = read_card((WEIGHTS / "digits.safetensors").read_bytes(), WEIGHTS)
    assert card["data"] == load("digits").checksum


def test_features_have_unit_variance_on_the_training_split(digits: tuple[Data, Data]) -> None:
    values, _ = shipped("digits")(digits[0].all().x)
    assert values.double().var(0).mean().item() == pytest.approx(1, abs=1e-4)


def test_the_chunk_does_not_matter(space: FeatureSpace, digits: tuple[Data, Data]) -> None:
    x = digits[1].all().x[:130]
    whole, logits = space(x)
    for chunk in (1, 7, 64):
        parts, part_logits = space(x, chunk)
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
        if logits is not None:
            torch.testing.assert_close(part_logits, logits, rtol=1e-4, atol=1e-4)


def test_an_extractor_stays_in_eval_mode_and_frozen(space: FeatureSpace, digits: tuple[Data, Data]) -> None:
    x = digits[1].all().x[:32]
    before, logits = space(x)
    holder = nn.Module()
    holder.extractor = space.extractor
    if space.head is not None:
        holder.head = space.head
    holder.train()
    space.extractor.train()
    assert not any(m.training for m in holder.modules() if m is not holder)
    assert not any(p.requires_grad for p in holder.parameters())
    after, again = space(x)
    assert torch.equal(before, after)
    if logits is not None and again is not None:
        assert torch.equal(logits, again)  # the head has dropout while it is trained


def test_eval_mode_reaches_dropout_and_batch_statistics() -> None:
    extractor = Extractor(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Dropout(0.5)), 4)
    x = torch.randn(16, 1, 2, 2)
    before = extractor(x)
    extractor.train()
    assert torch.equal(extractor(x), before)
    assert torch.equal(extractor.body[1].running_mean, torch.zeros(4))


def test_features_are_float32_under_autocast_and_in_float64(space: FeatureSpace, digits: tuple[Data, Data]) -> None:
    x = digits[1].all().x[:16]
    plain, _ = space(x)
    with torch.autocast("cpu", torch.bfloat16):
        autocast, _ = space(x)
    assert autocast.dtype == space(x.double())[0].dtype == torch.float32
    assert torch.equal(autocast, plain)


def test_torchmetrics_takes_an_extractor_as_it_is(space: FeatureSpace, digits: tuple[Data, Data]) -> None:
    """The distance of precomputed features is that of torchmetrics with the network itself, batch by batch."""
    train, test = (split.all().x[:700] for split in digits)
    metric = FrechetInceptionDistance(feature=space.extractor)
    metric.train()
    for part in train.split(100):
        metric.update(part, real=False)
    for part in test.split(333):
        metric.update(part, real=True)
    ours = frechet_distance(space.features(train), space.features(test)).value
    assert ours == pytest.approx(metric.compute().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 1, 9, 9), "must be"),
        (torch.zeros(2, 3, 8, 8), "must be"),
        (torch.zeros(0, 1, 8, 8), "no images"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "encoded"),
    ],
)
def test_wrong_images_are_refused(x: Tensor, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        shipped("digits")(x)


@pytest.mark.parametrize("shape", [(1, 2, 2), (1, 8, 8), (3, 9, 20), (1, 28, 28), (3, 32, 32), (3, 64, 64)])
def test_random_conv_takes_any_image(shape: tuple[int, ...]) -> None:
    space = random_conv(shape)
    x = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    values, logits = space(x)
    assert values.shape == (4, 64)
    assert logits is None
    assert values.isfinite().all()
    assert space.accuracy != space.accuracy  # nan: it never saw a label


def test_random_conv_is_zero_on_blank_images() -> None:
    """Of any grey: the first filters answer to differences only."""
    for level in (-1.0, 0.3):
        values, _ = random_conv((1, 8, 8))(torch.full((1, 1, 8, 8), level))
        torch.testing.assert_close(values, torch.zeros(1, 64), rtol=0, atol=1e-5)


def test_a_part_put_into_training_behind_its_back_is_put_back() -> None:
    """BatchNorm left in train mode: features would depend on the batch, and the statistics would move."""
    extractor = Extractor(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten()), 4 * 36)
    x = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    before = extractor(x)
    extractor.body.train()
    extractor.body[2].train()
    assert torch.equal(extractor(x), before)
    torch.testing.assert_close(extractor(x[:1]), before[:1])
    assert torch.equal(extractor.body[1].running_mean, torch.zeros(4))
    assert int(extractor.body[1].num_batches_tracked) == 0


class Half(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).half()


def test_half_precision_leaves_as_float32_and_what_is_not_finite_is_refused() -> None:
    space = FeatureSpace("half", "0", (1, 2, 2), Extractor(Half(), 4))
    assert space(torch.zeros(2, 1, 2, 2))[0].dtype == torch.float32
    x = torch.zeros(3, 1, 2, 2)
    x[1] = 1e6  # infinite in half precision
    with pytest.raises(BadInput, match="features of 1 of 3 images are not finite"):
        space(x)
    x[2, 0, 0, 0] = float("nan")
    with pytest.raises(BadInput, match="1 of 3 images are not finite"):
        space(x)


# ------------------------------------------------------------------------------------------- what a user asks for


BYTES = Space((1, 8, 8), levels=256)
COLOUR = Space((3, 8, 8), levels=256)

MODULE = """
import torch
from torch import nn


class Pixels(nn.Flatten):
    'What the network is given.'


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(192, 3)
        self.layer.weight.data = torch.linspace(-1, 1, 576).view(3, 192)
        self.layer.bias.data.zero_()

    def forward(self, x):
        return self.layer(x.flatten(1)), None


class Mixed(nn.Module):
    def forward(self, x):
        return x.flatten(1) - x.flatten(1).mean(0)


def text():
    return "no module"


def broken():
    raise ZeroDivisionError("in the\\nfactory")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An installed module with factories; a fresh name each time, as Python keeps modules."""
    name = "their_" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def integers(space: Space, n: int = 4) -> Tensor:
    return torch.randint(space.levels, (n, *space.shape), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("space", [BYTES, COLOUR, DIGITS], ids=["grey", "colour", "digits"])
def test_a_network_is_given_what_the_policy_says(module: str, space: Space) -> None:
    k = integers(space)
    white = space.levels - 1
    for settings, expected in (
        ("range=symmetric", k * 2 / white - 1),
        ("range=unit", k / white),
        ("range=bytes", k * 255 / white),
    ):
        found = named(f"{module}:Pixels:{settings}", space)
        torch.testing.assert_close(found(space.encode(k))[0], expected.float().flatten(1), rtol=0, atol=2e-4)
        assert found.name == f"{module}.Pixels/own-size,own-channels,{settings.removeprefix('range=')}"
    rgb = named(f"{module}:Pixels:channels=3,range=unit", space)(space.encode(k))[0].view(4, 3, 8, 8)
    torch.testing.assert_close(rgb, (k / white).expand(4, 3, 8, 8), rtol=0, atol=1e-6)
    luma = named(f"{module}:Pixels:channels=1,range=bytes", space)(space.encode(k))[0].view(4, 8, 8)
    if space.shape[0] == 3:
        wanted = [np.asarray(Image.fromarray(image.permute(1, 2, 0).byte().numpy()).convert("L")) for image in k]
        assert np.abs(luma.numpy() - np.stack(wanted)).max() <= 0.51, "Pillow rounds"
    mean, deviation = torch.tensor(IMAGENET).view(2, 3, 1, 1)
    imagenet = named(f"{module}:Pixels:channels=3,range=imagenet", space)(space.encode(k))[0].view(4, 3, 8, 8)
    torch.testing.assert_close(imagenet, (rgb - mean) / deviation)


@pytest.mark.parametrize("resize", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [5, 13])
def test_a_network_sees_images_resized_as_pillow_would(module: str, resize: str, size: int) -> None:
    k = integers(BYTES)
    found = named(f"{module}:Pixels:size={size},resize={resize},range=bytes", BYTES)
    assert found.id.startswith(f"{module}.Pixels/{size}-{resize},own-channels,bytes@")
    values = found(BYTES.encode(k))[0].view(4, size, size)
    for image, value in zip(k[:, 0].numpy().astype(np.float32), values.numpy()):
        wanted = Image.fromarray(image).resize((size, size), Image.Resampling[resize.upper()])
        assert np.abs(np.asarray(wanted).clip(0, 255) - value).max() < 0.02


def trained_norm() -> nn.Sequential:
    """A network whose features tell train from eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5), nn.Flatten())
        net[1].running_mean.normal_()
        net[1].running_var.uniform_(0.5, 2.0)
    return net


def as_onnx(net: nn.Sequential, path: Path) -> None:
    """Written out operator by operator: an independent reading of the same network."""
    conv, norm = net[0], net[1]
    parts = (conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var)
    tensors = [numpy_helper.from_array(t.detach().numpy(), name) for name, t in zip("wbsomv", parts)]
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c", "s", "o", "m", "v"], ["n"], epsilon=norm.eps),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])
    f = helper.make_tensor_value_info("f", TensorProto.FLOAT, ["n", 54])
    graph = helper.make_graph(nodes, "net", [x], [f], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def test_a_network_from_a_file_is_the_network_in_eval_mode(tmp_path: Path) -> None:
    net, path = trained_norm(), tmp_path / "my net.onnx"
    as_onnx(net, path)
    space = named(f"{path}:channels=3,range=unit", BYTES)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert space.id == f"my-net/own-size,rgb,unit@{digest[:12]}"
    k = integers(BYTES, 9)
    expected = net.eval()((k / 255).expand(-1, 3, -1, -1)).detach()
    space.extractor.train()
    values, logits = space(BYTES.encode(k))
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)
    assert (values.dtype, logits, space.dim) == (torch.float32, None, 54)
    torch.testing.assert_close(space(BYTES.encode(k), chunk=4)[0], values, rtol=1e-4, atol=1e-5)  # 4 + 4 + 1


def test_torchscript_comes_in_by_a_factory_and_is_known_by_its_graph_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The class of a script says nothing, its tensors little: a network that only calculates otherwise is another one."""
    file = tmp_path / "net.pt"
    source = "import torch\n\ndef net():\n    return torch.jit.load(r'{}')\n"
    name = "scripted_" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]
    (tmp_path / f"{name}.py").write_text(source.format(file))
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for last in (nn.ReLU(), nn.Tanh()):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), last).eval()
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", DeprecationWarning)
            net[1].weight.fill_(0.01)
            net[1].bias.zero_()
            torch.jit.trace(net, torch.zeros(2, 1, 8, 8)).save(str(file))
            found.append(named(f"{name}:net", BYTES))
    assert found[0].dim == 3
    assert found[0].hash != found[1].hash


def test_a_factory_s_network_is_known_by_its_source_and_its_tensors(module: str, tmp_path: Path) -> None:
    space = named(f"{module}:Linear:channels=3", BYTES)
    assert space.dim == 3
    assert space.id == named(f"{module}:Linear:channels=3", BYTES).id
    other = module + "b"
    (tmp_path / f"{other}.py").write_text(MODULE.replace("linspace(-1, 1", "linspace(-2, 1"))
    assert named(f"{other}:Linear:channels=3", BYTES).hash != space.hash


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("{m}:text", "must return a torch module, not str"),
        ("{m}:broken", "ZeroDivisionError: in the factory"),
        ("{m}:absent", "has no attribute 'absent'"),
        ("no_such_module:f", "No module named 'no_such_module'"),
        ("{m}:Mixed", "depend on the batch"),
        ("{m}:Linear", r"does not take images \(1, 8, 8\) as 'own-size,own-channels,symmetric'.*channels=3"),
        ("{m}:Pixels:siez=3", "did you mean 'size'"),
        ("{m}:Pixels:size=0", "up to 1024"),
        ("{m}:Pixels:size=9999", "up to 1024"),
        ("{m}:Pixels:channels=2", "one of 0, 1, 3"),
        ("{m}:Pixels:range=byte", "one of symmetric, unit, bytes, imagenet"),
        ("inception-2015:size=32", "takes from=PATH only"),
        ("inceptoin-2015", "did you mean 'inception-2015'"),
        ("{t}/none.onnx", "does not exist"),
        ("{t}", "unknown feature space"),
        ("{t}/junk.pt", "a .pt file is a program.*torch.onnx.export"),
        ("{t}/junk.PT2:channels=3", "a .pt2 file is a program"),
        ("{t}/junk.onnx", "no ONNX model"),
        ("{t}/junk.safetensors", "not a weights file"),
        ("{t}/evil.pt", "is a program"),
        ("{w}/digits.safetensors:size=3", "no settings"),
        ("{w}/mnist.safetensors", r"of images \(1, 28, 28\)"),
    ],
)
def test_spaces_that_can_not_be_had_are_one_line(spec: str, words: str, module: str, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "run",)

    for suffix in ("pt", "pt2", "onnx", "safetensors"):
        (tmp_path / f"junk.{suffix}").write_bytes(b"no network at all")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(BadInput, match=words) as told:
        named(spec.format(m=module, t=tmp_path, w=WEIGHTS), BYTES)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "run").exists(), "a pickle was opened"


def test_vectors_have_no_feature_space() -> None:
    with pytest.raises(BadInput, match="holds vectors"):
        named("random-conv", Space((2,)))


def test_a_classifier_of_ones_own_is_named_by_its_file(tmp_path: Path) -> None:
    shutil.copy(WEIGHTS / "digits.safetensors", tmp_path / "mine.safetensors")
    space = named(str(tmp_path / "mine.safetensors"), DIGITS)
    assert space.id == shipped("digits").id.replace("digits", "mine")
    assert space.classes == 10
    assert named("random-conv", DIGITS).id == random_conv((1, 8, 8)).id


# ------------------------------------------------------------------------------------------------------------ FID


def test_inception_is_the_graph_of_torch_fidelity() -> None:
    """Names, sizes and outputs. With these weights torch-fidelity 0.4.0 gives the pinned numbers to 1e-6."""
    network = inception.Inception().eval()
    state = network.state_dict()
    assert (len(state), sum(t.numel() for t in state.values())) == (566, 23_885_486)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in state.items():
        if name.endswith("conv.weight"):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / tensor[0].numel()) ** 0.5)
        elif name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif name.endswith(("running_mean", "bn.bias")):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    grid = torch.arange(28.0)
    x = (127.5 + 127.5 * torch.sin(grid[:, None] * grid / 9)).round().expand(1, 3, 28, 28)
    with torch.no_grad():
        values = network(x)
    assert values.shape == (1, inception.DIM)
    pinned = torch.tensor([0.0, 2.986653, 3.424628, 4.867261])
    torch.testing.assert_close(values[0, [0, 500, 1000, 2047]], pinned, rtol=1e-4, atol=1e-4)


def test_enlarging_reads_pixel_i_at_i_times_the_ratio() -> None:
    """TensorFlow 1's: no half-pixel centres. NumPy's interpolation, which holds the last value, is the reference."""
    x = torch.rand(2, 3, 7, 5, generator=torch.Generator().manual_seed(0)) * 255
    found = inception.enlarge(x, 19)
    wanted = x.numpy()
    for dim, n in ((2, 7), (3, 5)):
        at = np.arange(19) * n / 19
        wanted = np.apply_along_axis(lambda v, at=at, n=n: np.interp(at, np.arange(n), v), dim, wanted)
    torch.testing.assert_close(found, torch.from_numpy(wanted).float(), rtol=1e-5, atol=1e-3)
    assert torch.equal(inception.enlarge(found, 19), found)


class Small(nn.Module):
    """In Inception's place, for the loading around it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 3
        return self.fc(x.mean((2, 3)))


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Origin, bytes]:
    """A small file published as Inception's, and an empty cache."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        buffer = io.BytesIO()
        torch.save(Small().state_dict(), buffer)
    data = buffer.getvalue()
    part = Part("small.pth", len(data), hashlib.sha256(data).hexdigest())
    origin = dataclasses.replace(INCEPTION_ORIGIN, parts=(part,), urls=("http://127.0.0.1:9/",))
    monkeypatch.setattr(fid, "Inception", Small)
    monkeypatch.setattr(fid, "DIM", 4)
    monkeypatch.setattr(fid, "INCEPTION_ORIGIN", origin)
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "cache"))
    return origin, data


def test_inception_from_a_local_file_is_checked_and_fed_bytes(weights: tuple[Origin, bytes], tmp_path: Path) -> None:
    _, data = weights
    path = tmp_path / "small.pth"
    path.write_bytes(data)
    space = named(f"{INCEPTION}:from={path}", DIGITS)
    assert space.dim == 4
    assert space.id == f"{FID.split('@')[0]}@{hashlib.sha256(data).hexdigest()[:12]}"
    k = integers(DIGITS)
    state = torch.load(io.BytesIO(data), weights_only=True)
    grey = (k * 255 / 16).float().mean((1, 2, 3))[:, None].expand(-1, 3)
    torch.testing.assert_close(space(DIGITS.encode(k))[0], grey @ state["fc.weight"].T + state["fc.bias"])
    assert not any(m.training for m in space.extractor.modules())
    # Other weights than the published ones are another space, whatever it is called.
    assert frechet_title(space.id) != "FID"
    path.write_bytes(data[:-1] + b"?")
    with pytest.raises(BadInput, match="wrong checksum"):
        named(f"{INCEPTION}:from={path}", DIGITS)


def test_inception_that_is_not_there_says_where_to_get_it(weights: tuple[Origin, bytes]) -> None:
    words = r"could not be downloaded: no connection.*--features inception-2015:from=PATH"
    with pytest.raises(BadInput, match=words) as told:
        named(INCEPTION, DIGITS)
    assert "\n" not in str(told.value)


def test_inception_is_downloaded_once_and_verified(
    weights: tuple[Origin, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    origin, data = weights
    asked: list[str] = []
    body = [data[:-1] + b"?", data]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            answer = body.pop(0)
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        monkeypatch.setenv(origin.variable, f"http://127.0.0.1:{server.server_port}/v")
        with pytest.raises(BadInput, match="wrong checksum"):
            named(INCEPTION, DIGITS)
        first = named(INCEPTION, DIGITS)
        assert named(INCEPTION, DIGITS).id == first.id
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert asked == ["/v/small.pth"] * 2, "the second is kept"


def test_the_name_fid_is_kept_for_one_space() -> None:
    assert INCEPTION_ORIGIN.parts[0].sha256.startswith("6726825d0af5f729")
    assert frechet_title(FID) == "FID"
    assert metrics.FID == FID, "the report calls the same space so"
    assert frechet_title("digits@75d34dedc4ae") == "FD-digits"
    assert frechet_title("mnist@14@42f3079cbab3") == "FD-mnist@14"
    name, _, digest = FID.partition("@")
    for other in (
        f"{name}@0{digest[1:]}",
        f"{INCEPTION}/300-bilinear,rgb,bytes@{digest}",
        name,
        f"{INCEPTION}@{digest}",
    ):
        assert frechet_title(other) == f"FD-{other.split('@')[0]}"


# ---------------------------------------------------------------------------------------------------------- cache


def test_features_of_real_images_are_computed_once_on_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    dataset, space = load("digits"), shipped("digits")
    x = dataset.test.x[:200]
    first = cached(space, dataset, "test", x)
    (file,) = (tmp_path / "features").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(FeatureSpace, "features", None)
        again = cached(space, dataset, "test", x)
    assert torch.equal(first.values, again.values)
    assert first.logits is not None
    assert again.logits is not None
    assert torch.equal(first.logits, again.logits)
    for place in (5, 70, file.stat().st_size - 1):  # a flipped bit, wherever it is, is computed anew and mended
        bad = bytearray(file.read_bytes())
        bad[place] ^= 1
        file.write_bytes(bad)
        assert torch.equal(cached(space, dataset, "test", x).values, first.values)
    file.write_bytes(b"")
    assert torch.equal(cached(space, dataset, "test", x).values, first.values)
    assert [f.name for f in (tmp_path / "features").iterdir()] == [file.name]


def test_the_cache_is_keyed_by_all_that_decides_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    dataset, space = load("digits"), shipped("digits")
    x = dataset.test.x[:50]
    cached(space, dataset, "test", x)
    cached(space, dataset, "train", x)
    cached(space, dataset, "test", x[:49])
    cached(space, dataset, "test", x.flip(0))
    cached(space, dataclasses.replace(dataset, checksum="0"), "test", x)
    cached(dataclasses.replace(space, hash="0" * 12), dataset, "test", x)
    cached(dataclasses.replace(space, name="digits/9-bicubic,rgb,unit"), dataset, "test", x)
    cached(random_conv((1, 8, 8)), dataset, "test", x)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "99")
        cached(space, dataset, "test", x)
    with monkeypatch.context() as patch:
        patch.setattr(feature_cache, "_code", lambda: "other")
        cached(space, dataset, "test", x)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 64)
        cached(space, dataset, "test", x)
    cached(space, dataset, "test", x)
    assert len(list((tmp_path / "features").iterdir())) == 11


def test_a_cache_that_can_not_be_written_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "file"))
    dataset, space = load("digits"), shipped("digits")
    assert torch.equal(cached(space, dataset, "test", dataset.test.x[:9]).values, space(dataset.test.all().x[:9])[0])


# -------------------------------------------------------------------------------------------------------- training


def test_the_file_is_a_function_of_weights_and_card() -> None:
    """safetensors writes several metadata keys in an arbitrary order; the hash must not move with it."""
    architecture = Architecture((1, 8, 8), channels=(4,), pools=(2,), features=8)
    net = Classifier(architecture)
    files = {serialise(net, architecture, accuracy=0.5, dataset="d", data="c", zebra=1.0) for _ in range(20)}
    assert len(files) == 1
    data = files.pop()
    card = read_card(data, Path("x"))
    assert Architecture.parse(card["architecture"]) == architecture
    assert json.dumps(card)
    other = Classifier(architecture)
    other.load_state_dict(load_tensors(data))
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(other.eval()(x), net.eval()(x))


def test_normalising_leaves_the_logits() -> None:
    architecture = Architecture((1, 8, 8), channels=(4,), pools=(2,), features=8)
    net = Classifier(architecture).eval()
    x = torch.randn(200, 1, 8, 8)
    before = net(x)
    net.normalise(x)
    torch.testing.assert_close(net(x), before, rtol=1e-4, atol=1e-5)
    assert net.body(x).var(0).mean().item() == pytest.approx(1, abs=1e-4)


def test_training_is_deterministic_and_leaves_the_global_generator(digits: tuple[Data, Data]) -> None:
    architecture, training = recipe("digits", DIGITS)
    short = Training(**{**vars(training), "epochs": 2})
    before = torch.get_rng_state()
    a = fit(digits[0], architecture, short)
    torch.rand(3)
    b = fit(digits[0], architecture, short)
    assert all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values()))
    torch.set_rng_state(before)
    fit(digits[0], architecture, short)
    assert torch.equal(torch.get_rng_state(), before)


def test_augmentation_moves_whole_images() -> None:
    training = Training(epochs=1, shift=1, shifted=1.0)
    x = torch.full((400, 2, 5, 5), -0.9)
    x[:, :, 2, 2] = 0.7
    moved = augment(x, training, torch.Generator().manual_seed(0))
    assert moved.shape == x.shape
    assert ((moved == 0.7).sum((2, 3)) == 1).all()  # one bright pixel each, in both channels
    places = {tuple(p.tolist()) for p in (moved[:, 0] == 0.7).nonzero()[:, 1:]}
    assert places == {(r, c) for r in (1, 2, 3) for c in (1, 2, 3)}
    assert torch.equal(moved[:, 0], moved[:, 1])
    assert torch.equal(augment(x, Training(epochs=1, shifted=0.0), torch.Generator()), x)


def test_mirroring_is_only_where_asked() -> None:
    x = torch.arange(25.0).reshape(1, 1, 5, 5).expand(200, 1, 5, 5)
    flipped = augment(x, Training(epochs=1, shifted=0.0, flip=True), torch.Generator().manual_seed(0))
    same = (flipped == x).all(3).all(2).all(1)
    mirrored = (flipped == x.flip(3)).all(3).all(2).all(1)
    assert (same ^ mirrored).all()
    assert 60 < int(mirrored.sum()) < 140
    assert not recipe("mnist", Space((1, 28, 28), 10, 256))[1].flip
    assert recipe("fashion-mnist@14", Space((1, 14, 14), 10, 256))[1].flip


def test_the_script_ships_a_network_with_its_hash(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a folder where a file of another data set stays, and so does its hash."""
    (folder / SUMS).write_text(f"{'0' * 64}  other.safetensors\n")
    tiny = Architecture((1, 8, 8), channels=(4,), pools=(2,), features=8)
    monkeypatch.setattr(train_features, "recipe", lambda name, space: (tiny, Training(epochs=1)))
    threads = torch.get_num_threads()
    train_features.main(["digits", "--to", str(folder)])
    assert torch.get_num_threads() == threads
    space = shipped("digits", folder)
    assert (space.dim, space.classes) == (8, 10)
    assert space.id in capsys.readouterr().out
    assert sorted(hashes(folder)) == ["digits", "other"]
    assert sorted(p.name for p in folder.iterdir()) == sorted(["digits.safetensors", SUMS])


def test_the_script_refuses_what_has_no_labelled_images(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="'ring8' has no labelled images"):
        train_features.main(["ring8", "--to", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_a_labelled_folder_gets_a_network_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(60):
        place = tmp_path / "in" / "ab"[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        grey = np.random.default_rng(index).integers(0, 128, (8, 8)) + 127 * (index % 2)
        Image.fromarray(grey.astype(np.uint8)).save(place / f"{index}.png")
    name, to = f"folder:{tmp_path / 'in'}@8", tmp_path / "out"
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "cache"))
    tiny = Architecture((1, 8, 8), channels=(4,), pools=(2,), features=8, classes=2)
    monkeypatch.setattr(train_features, "recipe", lambda name, space: (tiny, Training(epochs=1, batch=8)))
    with pytest.raises(BadInput, match="--to DIR"):
        train_features.main([name])
    train_features.main([name, "--to", str(to)])
    (file,) = to.glob("*.safetensors")
    space = named(str(file), load(name).space)
    assert (space.dim, space.classes, space.shape) == (8, 2, (1, 8, 8))
    assert space.id in capsys.readouterr().out


@pytest.mark.learning
def test_the_script_makes_a_network_like_the_shipped_one(digits: tuple[Data, Data]) -> None:
    net = fit(digits[0], *recipe("digits", DIGITS))
    assert accuracy(net, digits[1]) == pytest.approx(shipped("digits").accuracy, abs=0.006)
