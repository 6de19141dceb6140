"""Feature spaces: shipped weights are what was committed, extractors stay frozen, and a name never hides a change."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as load_tensors
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from bench import train_features
from bench.data import load
from bench.features import (
    SUMS,
    WEIGHTS,
    Architecture,
    Classifier,
    Extractor,
    FeatureSpace,
    hashes,
    random_conv,
    read_card,
    serialise,
    shipped,
    spaces_for,
)
from bench.metrics import frechet_distance
from bench.train_features import Training, accuracy, augment, fit, recipe
from paradigms.contract import Data, Space
from paradigms.errors import BadInput

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


@pytest.mark.slow
def test_the_script_makes_a_network_like_the_shipped_one(digits: tuple[Data, Data]) -> None:
    net = fit(digits[0], *recipe("digits", DIGITS))
    assert accuracy(net, digits[1]) == pytest.approx(shipped("digits").accuracy, abs=0.006)
