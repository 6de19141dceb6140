"""Data sets: known contents, exact densities, damaged files, downloads, folders of images."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.data import describe, fetch, info, known, load
from bench.data import files as files_module
from bench.data import sets as sets_module
from bench.data import toys as toys_module
from bench.data.cifar import CIFAR10, RECORD, load_cifar10, parse_batch
from bench.data.dataset import label_of
from bench.data.digits import split
from bench.data.files import Origin, Part, cache_folder, obtain
from bench.data.idx import FASHION_MNIST, MNIST, halved, load_idx, paired, parse_idx
from bench.data.names import FolderName
from bench.data.toys import COVERED, TOYS, load_toy
from paradigms.errors import BadInput

F64 = torch.float64


def read_from(patch: pytest.MonkeyPatch, name: str, origin: Origin) -> None:
    """While `patch` holds, a data set is read from these files."""
    known = sets_module.definitions()
    patch.setitem(known, name, replace(known[name], origin=origin))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a cache of its own and talks to 127.0.0.1 without a proxy."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("BENCH_DATA", str(folder))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return folder


# ---------------------------------------------------------------------------------------------------------- names


def test_names_load_nothing_heavy() -> None:
    code = (
        "import sys; from bench.data.names import describe, info; import bench.data; describe(); info('digits');"
        "print([m for m in ('torch', 'numpy', 'sklearn', 'PIL', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_info_agrees_with_what_is_loaded() -> None:
    for name in ("digits", "stacked-digits", *TOYS):
        said, data = info(name), load(name)
        assert data.name == name
        assert data.space.shape == said.shape == tuple(data.train.x.shape[1:]) == tuple(data.test.x.shape[1:])
        assert (data.space.classes, data.space.levels) == (said.classes, said.levels)
        assert (len(data.train), len(data.test)) == (said.n_train, said.n_test)
        assert len(data.labels) == said.classes
        assert data.source
        for part in (data.train, data.test):
            if not said.classes:
                assert part.y is None
                continue
            assert part.y is not None
            assert part.y.dtype == torch.int64
            assert part.y.unique().tolist() == list(range(said.classes))


def test_every_name_has_a_loader_or_is_described() -> None:
    assert [d.name for d in describe()] == [*known(), "folder:PATH@SIZE", "array:PATH.npz"]
    assert set(known()) == {
        "digits",
        "stacked-digits",
        *TOYS,
        *(d.name for d in sets_module.definitions().values() if d.origin),
    }
    assert all(d.title and d.where for d in known().values())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fashon-mnist", "did you mean 'fashion-mnist'"),
        ("digit", "did you mean 'digits'"),
        ("zzzz", "known: array:PATH.npz, checkerboard"),
        ("mnist@7", "unknown data set 'mnist@7'"),
        ("folder:", "names no folder"),
        ("folder:@32", "names no folder"),
        ("folder:x@0", "SIZE must be between 2 and 1024"),
        ("folder:x@99999999999999999999", "SIZE must be between"),
        ("folder:/does/not/exist", "is not a folder"),
    ],
)
def test_bad_names(name: str, words: str) -> None:
    with pytest.raises(BadInput, match="(?s)" + words) as caught:
        load(name)
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput):
        fetch(name)


def test_a_folder_of_ones_own_is_not_taken_for_a_data_set_of_a_like_name(tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    with pytest.raises(BadInput, match=rf"write folder:{tmp_path}/digits@SIZE"):
        info(f"{tmp_path}/digits")


def test_folder_names() -> None:
    assert FolderName.parse("folder:/a/b") == FolderName(Path("/a/b"), 32)
    assert FolderName.parse("folder:/a/b@64") == FolderName(Path("/a/b"), 64)
    assert FolderName.parse("folder:/a/me@home") == FolderName(Path("/a/me@home"), 32)
    assert FolderName.parse("folder:/a/me@home@8") == FolderName(Path("/a/me@home"), 8)


def test_a_source_for_a_set_without_files_is_refused(tmp_path: Path) -> None:
    for name in ("digits", "stacked-digits", "ring8", f"folder:{tmp_path}"):
        with pytest.raises(BadInput, match="--from"):
            load(name, tmp_path)
        with pytest.raises(BadInput, match="--from"):
            fetch(name, tmp_path)
    assert fetch("digits") == fetch("gmm16") == []


# --------------------------------------------------------------------------------------------------------- digits


def test_digits_are_known() -> None:
    data = load("digits")
    # Pinned: a different split makes every feature network and every published number another one.
    assert data.checksum == "cf2d422ad814952f01590ff51f914d8b2001b837920dd2874f03237649fbbf2d"
    assert data.train.x.dtype == torch.uint8
    assert int(data.train.x.max()) == int(data.test.x.max()) == 16
    assert data.train.y is not None
    assert data.test.y is not None
    train, test = data.train.y.bincount(), data.test.y.bincount()
    assert int((train - test).abs().max()) <= 1
    assert (train + test).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_digits_splits_share_no_image_and_lose_none() -> None:
    from sklearn.datasets import load_digits

    data = load("digits")
    both = torch.cat([data.train.x, data.test.x]).view(-1, 64)
    assert len(both.unique(dim=0)) == 1797
    bunch = load_digits()
    train, test = split(bunch.target)
    assert sorted([*train, *test]) == list(range(1797))
    assert np.array_equal(bunch.data[train], data.train.x.view(-1, 64).numpy())
    assert np.array_equal(bunch.target[test], data.test.y.numpy())


def test_changed_digits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.data import digits

    pixels, labels = digits._read()
    pixels[3, 3] ^= 1
    monkeypatch.setattr(digits, "_read", lambda: (pixels, labels))
    with pytest.raises(BadInput, match="reinstall scikit-learn"):
        load("digits")


def test_stacked_digits_are_three_digits_of_their_split() -> None:
    data, base = load("stacked-digits"), load("digits")
    assert data.checksum == "1416a55d09cd" + data.checksum[12:], "the same on every machine"
    assert (data.stacked, data.labels) == ("digits", ())
    known = {}
    for part in ("train", "test"):
        single, stacked = getattr(base, part), getattr(data, part)
        known[part] = {image.numpy().tobytes(): int(label) for image, label in zip(single.x, single.y, strict=True)}
        found = [[known[part][c.numpy().tobytes()] for c in image] for image in stacked.x]  # KeyError: of elsewhere
        labels = torch.tensor(found)
        # Channels are drawn on their own: each of the 1,000 triples as often as chance has it.
        counts = torch.bincount(labels @ torch.tensor([100, 10, 1]), minlength=1000).double()
        expected = len(stacked) / 1000
        assert (counts - expected).square().sum() / expected == pytest.approx(1000, abs=6 * math.sqrt(2 * 1000))
        assert not torch.equal(labels[:, 0], labels[:, 1])
    assert not set(known["train"]) & set(known["test"])
    assert torch.equal(load("stacked-digits").train.x, data.train.x)


def test_stacked_mnist_is_made_alike(small: tuple[Origin, dict[str, bytes]], tmp_path: Path, monkeypatch) -> None:
    origin, content = small
    read_from(monkeypatch, "mnist", origin)
    read_from(monkeypatch, "stacked-mnist", origin)
    data, base = load("stacked-mnist", write(tmp_path, content)), load("mnist", tmp_path)
    assert (data.name, data.space.shape, data.space.levels, data.stacked) == (
        "stacked-mnist", (3, *base.space.shape[1:]), 256, base.name,
    )  # fmt: skip
    assert data.train.x[:50].flatten(0, 1).unique(dim=0).shape[0] <= len(base.train)


def test_encode_decode_round_trip() -> None:
    data = load("digits")
    batch = data.train.all()
    assert batch.x.dtype == torch.float32
    assert float(batch.x.abs().max()) < 1
    assert torch.equal(data.space.decode(batch.x), data.train.x)
    toy = load("ring8")
    assert torch.equal(toy.space.decode(toy.train.all().x), toy.train.x)


# ----------------------------------------------------------------------------------------------------------- toys


def plane(half: float, n: int) -> tuple[torch.Tensor, float]:
    """Midpoints of n×n cells of [-half, half]² and the area of one."""
    step = 2 * half / n
    line = -half + step * (torch.arange(n, dtype=F64) + 0.5)
    return torch.cartesian_prod(line, line), step**2


# The midpoint rule is exact to rounding where its step is below 0.7 sd, and on squares whose edges are cell edges.
@pytest.mark.parametrize(
    ("name", "half", "n"),
    [("ring8", 2.5, 100), ("grid25", 2.0, 160), ("moons", 3.5, 120), ("checkerboard", 2 * math.sqrt(3), 160)],
)
def test_planar_densities_integrate_to_one_and_know_their_entropy(name: str, half: float, n: int) -> None:
    density = load_toy(name).density
    assert density is not None
    assert density.log_prob is not None
    assert density.entropy is not None
    points, area = plane(half, n)
    log_p = density.log_prob(points)
    assert log_p.dtype == F64
    p = log_p.exp()
    assert float(p.sum() * area) == pytest.approx(1, abs=1e-6)
    assert float(-torch.special.xlogy(p, p).sum() * area) == pytest.approx(density.entropy, abs=1e-6)
    # Variance 1 on average over the coordinates, mean 0: what the scaling is for.
    assert float((p[:, None] * points.square()).sum() * area / 2) == pytest.approx(1, abs=2e-4)
    assert float((p[:, None] * points).sum(0).abs().max() * area) < 1e-6


@pytest.mark.parametrize("name", list(TOYS))
def test_samples_come_from_the_density(name: str) -> None:
    data = load_toy(name)
    density = data.density
    assert density is not None
    assert density.log_prob is not None
    for part in (data.train, data.test):
        nll = -density.log_prob(part.x)
        assert bool(nll.isfinite().all())
        error = float(nll.std()) / math.sqrt(len(nll))
        assert abs(float(nll.mean()) - density.entropy) < 4 * error + 1e-9
    assert float(data.train.x.var(0).mean()) == pytest.approx(1, abs=0.03)
    assert data.train.x.dtype == torch.float32


def test_planar_samples_fill_cells_as_the_density_says() -> None:
    """A chi-square test over cells: sees a wrong shape that the mean of log p would not."""
    for name in ("ring8", "grid25", "moons", "checkerboard"):
        density = load_toy(name).density
        assert density is not None
        assert density.log_prob is not None
        fine, cells, half = 160, 16, 2 * math.sqrt(3)
        points, area = plane(half, fine)
        ratio = fine // cells
        p = (density.log_prob(points).exp() * area).view(cells, ratio, cells, ratio).sum((1, 3)).flatten()
        n = 40_000
        x, _ = density.sample(n, torch.Generator().manual_seed(5))
        cell = ((x.to(F64) + half) / (2 * half) * cells).floor().clamp(0, cells - 1).long()
        count = torch.bincount(cell[:, 0] * cells + cell[:, 1], minlength=cells**2)
        used = n * p > 5
        chi = float(((count - n * p).square() / (n * p))[used].sum())
        free = int(used.sum())
        assert abs(chi - free) < 5 * math.sqrt(2 * free), name


def test_the_sixteen_dimensional_mixture_against_torch() -> None:
    means, factor = toys_module.gmm16_parameters()
    density = toys_module.gmm16()
    x, _ = density.sample(2000, torch.Generator().manual_seed(1))
    torch_mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(16, dtype=F64)),
        torch.distributions.MultivariateNormal(means, scale_tril=factor),
    )
    assert density.log_prob is not None
    assert torch.allclose(density.log_prob(x), torch_mixture.log_prob(x.to(F64)), rtol=0, atol=1e-10)


def test_the_part_left_out_of_the_mixtures_entropy_is_negligible() -> None:
    """H(y|x) = E[log p(x) - log p(x, y)] by Monte Carlo."""
    means, factor = toys_module.gmm16_parameters()
    density = toys_module.gmm16()
    x, y = density.sample(30_000, torch.Generator().manual_seed(2))
    own = torch.empty(len(x), dtype=F64)
    for k in range(16):
        mode = torch.distributions.MultivariateNormal(means[k], scale_tril=factor[k])
        own[y == k] = mode.log_prob(x[y == k].to(F64)) - math.log(16)
    assert density.log_prob is not None
    assert -1e-9 < float((density.log_prob(x) - own).mean()) < 1e-5


def test_the_moons_quadrature_has_converged(monkeypatch: pytest.MonkeyPatch) -> None:
    points, _ = plane(5.0, 30)
    coarse = toys_module.moons().log_prob
    monkeypatch.setattr(toys_module, "NODES", 300)
    fine = toys_module.moons().log_prob
    assert coarse is not None
    assert fine is not None
    a, b = coarse(points), fine(points)
    assert float((a - b).abs().max()) < 1e-10


def test_the_checkerboard_ends_at_its_edges() -> None:
    density = toys_module.checkerboard()
    assert density.log_prob is not None
    side = math.sqrt(3) / 2
    centres = torch.tensor([[0.5, 0.5], [0.5, -0.5], [1.5, -0.5], [2.5, 2.5], [-1.99, -1.99]], dtype=F64) * side
    got = density.log_prob(centres)
    assert got.isfinite().tolist() == [True, False, True, False, True]
    assert float(got[0]) == pytest.approx(-math.log(6))


@pytest.mark.parametrize("name", ["ring8", "grid25", "checkerboard", "gmm16"])
def test_modes(name: str) -> None:
    data = load_toy(name)
    density = data.density
    assert density is not None
    assert density.modes is not None
    assert density.modes.shape == (data.space.classes, *data.space.shape)
    x, y = data.train.x.to(F64), data.train.y
    distance = torch.cdist(x, density.modes)
    nearest = distance.argmin(1)
    assert float((nearest != y).double().mean()) < 1e-3  # the label is the nearest mode
    share = 1.0 if name == "checkerboard" else COVERED
    assert float((distance.amin(1) <= density.mode_radius).double().mean()) == pytest.approx(share, abs=4e-3)


def test_moons_have_no_modes() -> None:
    density = load_toy("moons").density
    assert density is not None
    assert density.modes is None
    assert density.mode_radius == 0


def test_toys_are_the_same_every_time_and_their_splits_differ() -> None:
    for name in TOYS:
        first, again = load_toy(name), load_toy(name)
        assert first.checksum == again.checksum
        assert not torch.equal(first.train.x[:10], first.test.x[:10])
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    load_toy("ring8")
    assert torch.equal(state, torch.random.get_rng_state())  # the global generator is left alone


def test_log_prob_does_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    x = load_toy("gmm16").test.x[:100]
    whole = toys_module.gmm16().log_prob
    assert whole is not None
    expected = whole(x)
    monkeypatch.setattr(toys_module, "CHUNK", 7)
    assert torch.allclose(whole(x), expected, rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------------------ canonical files


def idx(array: np.ndarray) -> bytes:
    """An array of bytes as an IDX file."""
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.astype(np.uint8).tobytes()


def origin_of(like: Origin, content: dict[str, bytes]) -> Origin:
    """`like`, but made of `content`."""
    parts = tuple(
        Part(part.name, len(content[part.name]), hashlib.sha256(content[part.name]).hexdigest(), part.also)
        for part in like.parts
    )
    return replace(like, parts=parts, system=None)


@pytest.fixture
def small() -> tuple[Origin, dict[str, bytes]]:
    """MNIST with 5 + 3 images, and its files."""
    draw = np.random.default_rng(0)
    content = {
        "train-images-idx3-ubyte": idx(draw.integers(0, 256, (5, 28, 28))),
        "train-labels-idx1-ubyte": idx(np.arange(5)),
        "t10k-images-idx3-ubyte": idx(draw.integers(0, 256, (3, 28, 28))),
        "t10k-labels-idx1-ubyte": idx(np.array([9, 0, 4])),
    }
    return origin_of(MNIST, content), content


def write(folder: Path, content: dict[str, bytes], packed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(data, mtime=0) if packed else data)
    return folder


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("below", ["", "raw", "MNIST/raw"])
def test_idx_files_from_a_folder(small: tuple[Origin, dict[str, bytes]], tmp_path: Path, packed: bool, below: str):
    origin, content = small
    write(tmp_path / "in" / below, content, packed)
    data = load_idx(origin.name, False, obtain(origin, tmp_path / "in"))
    assert data.train.x.shape == (5, 1, 28, 28)
    assert data.train.x.numpy().tobytes() == content["train-images-idx3-ubyte"][16:]
    assert data.test.y is not None
    assert data.test.y.tolist() == [9, 0, 4]
    assert data.checksum == load_idx(origin.name, False, obtain(origin, tmp_path / "in")).checksum
    assert not cache_folder().exists()  # reading leaves nothing behind


def test_dotted_names_and_one_file_for_its_folder(small: tuple[Origin, dict[str, bytes]], tmp_path: Path) -> None:
    origin, content = small
    folder = write(tmp_path / "in", {name.replace("-idx", ".idx"): data for name, data in content.items()})
    assert len(load_idx(origin.name, False, obtain(origin, folder / "train-images.idx3-ubyte")).train) == 5


def test_the_right_set_is_found_among_equal_names(small: tuple[Origin, dict[str, bytes]], tmp_path: Path) -> None:
    origin, content = small
    write(tmp_path / "in" / "A", {name: data[:-1] + b"\x01" for name, data in content.items()})
    write(tmp_path / "in" / "B", content)
    assert len(load_idx(origin.name, False, obtain(origin, tmp_path / "in")).train) == 5


def test_halved_images_are_rounded_means() -> None:
    x = torch.tensor([[0, 1, 255, 255], [0, 1, 255, 254], [1, 1, 0, 0], [0, 0, 0, 1]], dtype=torch.uint8)[None, None]
    # Means 0.5, 254.75, 0.5, 0.25; halves go up.
    assert halved(x).tolist() == [[[[1, 255], [1, 0]]]]
    big = torch.randint(0, 256, (7, 3, 28, 28), dtype=torch.uint8)
    exact = torch.nn.functional.avg_pool2d(big.double(), 2)
    assert torch.equal(halved(big), (exact + 0.5).floor().to(torch.uint8))


def test_fourteen_pixels(small: tuple[Origin, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    origin, content = small
    read_from(monkeypatch, "mnist@14", origin)
    read_from(monkeypatch, "mnist", origin)
    folder = write(tmp_path / "in", content)
    small_, whole = load("mnist@14", folder), load("mnist", folder)
    assert (small_.name, small_.space.shape, small_.space.levels) == ("mnist@14", (1, 14, 14), 256)
    assert torch.equal(small_.test.x, halved(whole.test.x))
    assert small_.checksum != whole.checksum


def damage(kind: str, data: bytes) -> bytes:
    packed = gzip.compress(data, mtime=0)
    return {
        "gz cut short": packed[: len(packed) // 2],
        "gz flipped": packed[:40] + bytes([packed[40] ^ 255]) + packed[41:],
        "other content": gzip.compress(data[:-1] + bytes([data[-1] ^ 1])),
        "shorter": gzip.compress(data[:-100]),
        "longer": gzip.compress(data + bytes(10_000_000)),
        "empty": b"",
        "a web page": b"<html>404</html>",
    }[kind]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("gz cut short", "cut short or damaged"),
        ("gz flipped", "damaged|wrong checksum"),
        ("other content", "wrong checksum"),
        ("shorter", "holds 3,836 bytes, expected 3,936"),
        ("longer", "more than 3,936 bytes"),
        ("empty", "holds 0 bytes"),
        ("a web page", "holds 16 bytes"),
    ],
)
def test_damaged_files(small: tuple[Origin, dict[str, bytes]], tmp_path: Path, kind: str, words: str) -> None:
    origin, content = small
    folder = write(tmp_path / "in", content, packed=True)
    name = "train-images-idx3-ubyte"
    (folder / f"{name}.gz").write_bytes(damage(kind, content[name]))
    with pytest.raises(BadInput, match=words) as caught:
        load_idx(origin.name, False, obtain(origin, folder))
    assert f"{name}.gz" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not cache_folder().exists()


def test_missing_files(small: tuple[Origin, dict[str, bytes]], tmp_path: Path) -> None:
    origin, content = small
    with pytest.raises(BadInput, match=r"nowhere does not exist; give --from"):
        load_idx(origin.name, False, obtain(origin, tmp_path / "nowhere"))
    folder = write(tmp_path / "in", content)
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(BadInput, match=r"does not hold train-images-idx3-ubyte.*or the same with \.gz"):
        load_idx(origin.name, False, obtain(origin, folder))


def test_idx_headers_that_lie() -> None:
    good = idx(np.zeros((2, 3, 4)))
    assert parse_idx(good, 3, "f").shape == (2, 3, 4)
    assert parse_idx(idx(np.zeros((0, 3, 4))), 3, "f").shape == (0, 3, 4)
    for bad, words in [
        (b"", "not an IDX file"),
        (good[:10], "not an IDX file"),
        (b"\x00\x00\x0d\x03" + good[4:], "not an IDX file"),  # floats
        (idx(np.zeros(24)), "3 dimensions"),
        (good[:-1], "announces 2 × 3 × 4 bytes and holds 23"),
        (good + b"\0", "holds 25"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 12, "announces 4294967295"),
        (bytes([0, 0, 8, 3]) + (2**31).to_bytes(4, "big") * 2 + (4).to_bytes(4, "big"), "holds 0"),  # 2⁶⁴ = 0
    ]:
        with pytest.raises(BadInput, match=words):
            parse_idx(bad, 3, "f")


def test_labels_must_match_images() -> None:
    images = np.zeros((3, 28, 28), np.uint8)
    with pytest.raises(BadInput, match="3 images and 2 labels"):
        paired(images, np.zeros(2, np.uint8), "set")
    with pytest.raises(BadInput, match="label 10"):
        paired(images, np.array([0, 10, 1], np.uint8), "set")


# -------------------------------------------------------------------------------------------------------- CIFAR-10


@pytest.fixture
def small_cifar() -> tuple[Origin, dict[str, bytes]]:
    """CIFAR-10 with two records a batch, and its files."""
    draw = np.random.default_rng(1)
    content = {}
    for i, part in enumerate(CIFAR10.parts):
        records = draw.integers(0, 256, (2, RECORD), dtype=np.uint8)
        records[:, 0] = i, i + 1
        content[part.name] = records.tobytes()
    return origin_of(CIFAR10, content), content


def tar(content: dict[str, bytes], below: str = "cifar-10-batches-bin/") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in {"../../evil.txt": b"x", **content}.items():
            member = tarfile.TarInfo(below + name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def test_cifar_from_batches_from_the_archive_and_from_its_folder(
    small_cifar: tuple[Origin, dict[str, bytes]], tmp_path: Path
) -> None:
    origin, content = small_cifar
    (tmp_path / "whole").mkdir()
    archive = tmp_path / "whole" / "cifar-10-binary.tar.gz"
    archive.write_bytes(tar(content))
    write(tmp_path / "bins" / "cifar-10-batches-bin", content)
    sources = [tmp_path / "bins", tmp_path / "bins" / "cifar-10-batches-bin", archive, archive.parent]
    sets = [load_cifar10(obtain(origin, source)) for source in sources]
    assert len({data.checksum for data in sets}) == 1
    data = sets[0]
    assert data.train.y is not None
    assert data.train.y.tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5]  # the published order
    assert data.train.x.shape == (10, 3, 32, 32)
    # Plane by plane: the second plane of the first record starts at byte 1 + 1024.
    assert int(data.train.x[0, 1, 0, 0]) == content["data_batch_1.bin"][1 + 1024]
    assert not (tmp_path.parent / "evil.txt").exists()


def test_cifar_archives_that_are_refused(small_cifar: tuple[Origin, dict[str, bytes]], tmp_path: Path) -> None:
    origin, content = small_cifar
    archive = tmp_path / "cifar-10-binary.tar.gz"
    whole = tar(content)
    for data, words in [
        (whole[: len(whole) // 2], "cut short or damaged"),
        (b"hello", "no tar archive"),
        (tar({k: v for k, v in content.items() if k != "test_batch.bin"}), "does not hold test_batch.bin"),
        (tar({**content, "test_batch.bin": bytes(2 * RECORD)}), "wrong checksum"),
    ]:
        archive.write_bytes(data)
        with pytest.raises(BadInput, match=words):
            load_cifar10(obtain(origin, archive))


def test_pickles_are_never_opened(small_cifar: tuple[Origin, dict[str, bytes]], tmp_path: Path) -> None:
    origin, _ = small_cifar
    (tmp_path / "a").mkdir()
    python = tmp_path / "a" / "cifar-10-python.tar.gz"
    python.write_bytes(b"\x80\x04.")
    batch = tmp_path / "b" / "cifar-10-batches-py" / "data_batch_1"
    batch.parent.mkdir(parents=True)
    batch.write_bytes(b"\x80\x04.")
    for source in (python, python.parent, batch, tmp_path / "b"):
        with pytest.raises(BadInput, match="pickles, which are never opened; get https"):
            load_cifar10(obtain(origin, source))


def test_cifar_records() -> None:
    with pytest.raises(BadInput, match="no whole number"):
        parse_batch(bytes(RECORD - 1), "f")
    with pytest.raises(BadInput, match="label 200"):
        parse_batch(bytes([200]) + bytes(RECORD - 1), "f")


# --------------------------------------------------------------------------------------------- cache and downloads


class Server:
    """A data host on 127.0.0.1: answers[path] is a body, or a function that writes the answer itself."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes | Callable[[BaseHTTPRequestHandler], None]] = {}
        self.asked: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                answer = server.answers.get(self.path)
                if answer is None:
                    self.send_error(404)
                elif callable(answer):
                    answer(self)
                else:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/data"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def offer(self, content: dict[str, bytes]) -> None:
        self.answers |= {f"/data/{name}.gz": gzip.compress(data, mtime=0) for name, data in content.items()}

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    for name in ("MNIST", "FASHION_MNIST", "CIFAR10"):
        monkeypatch.setenv(f"BENCH_DATA_URL_{name}", server.url)
    yield server
    server.close()


def test_a_download_is_verified_cached_and_done_once(
    small: tuple[Origin, dict[str, bytes]], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin, content = small
    read_from(monkeypatch, "mnist", origin)
    server.offer(content)
    seen: list[tuple[str, int, int]] = []
    paths = fetch("mnist", progress=lambda *event: seen.append(event))
    assert [path.name for path in paths] == [part.name for part in origin.parts]
    assert {path.read_bytes() for path in paths} == set(content.values())
    assert sorted(cache_folder().rglob("*")) == sorted([cache_folder() / "mnist", *paths])  # nothing else is left
    assert len({what for what, _, _ in seen}) == 4
    assert all(0 < done <= total for _, done, total in seen)
    asked = len(server.asked)
    assert fetch("mnist") == paths
    assert len(load("mnist").train) == 5
    assert len(server.asked) == asked


def test_a_damaged_cache_is_fetched_again(small: tuple[Origin, dict[str, bytes]], server: Server) -> None:
    origin, content = small
    server.offer(content)
    obtain(origin)
    victim = cache_folder() / "mnist" / "t10k-images-idx3-ubyte"
    victim.write_bytes(victim.read_bytes()[:-1] + b"\x07")
    assert obtain(origin)[victim.name].data == content[victim.name]
    assert victim.read_bytes() == content[victim.name]

    victim.write_bytes(b"")
    server.answers.clear()  # and when it can not be fetched, both troubles are told
    with pytest.raises(BadInput, match=r"t10k-images-idx3-ubyte holds 0 bytes.*404"):
        obtain(origin)


def test_an_import_goes_into_the_cache(
    small: tuple[Origin, dict[str, bytes]], tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin, content = small
    read_from(monkeypatch, "mnist", origin)
    folder = write(tmp_path / "in", content, packed=True)
    paths = fetch("mnist", folder)
    assert all(path.parent == cache_folder() / "mnist" for path in paths)
    for path in folder.iterdir():
        path.unlink()
    assert len(load("mnist").train) == 5
    assert server.asked == []


def test_the_system_folder_is_used_where_it_lies(
    small: tuple[Origin, dict[str, bytes]], tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin, content = small
    folder = write(tmp_path / "usr", content, packed=True)
    read_from(monkeypatch, "mnist", replace(origin, system=folder))
    assert sorted(fetch("mnist")) == sorted(folder.iterdir())
    assert not cache_folder().exists()
    assert server.asked == []
    assert FASHION_MNIST.system == Path("/usr/share/datasets/fashion-mnist")


def cut_off(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.wfile.write(b"x" * 100)


def stall(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.wfile.write(b"x" * 100)
    handler.wfile.flush()
    handler.connection.recv(1)  # says nothing until the client hangs up


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(bytes(1 << 16))
    except OSError:
        pass


def nonsense(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"not http at all\r\n\r\n")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "answers 404"),
        (cut_off, "ended after 100 of 5,000 bytes"),
        (stall, "sent nothing for 0.2 s"),
        (endless, "sends more than the expected"),
        (nonsense, "no connection to 127.0.0.1"),
        (b"<html>login</html>", "holds 18 bytes"),
        (gzip.compress(b"wrong", mtime=0), "holds 5 bytes"),
    ],
)
def test_downloads_that_fail_leave_nothing(
    small: tuple[Origin, dict[str, bytes]],
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    answer: bytes | Callable[[BaseHTTPRequestHandler], None] | None,
    words: str,
) -> None:
    origin, content = small
    if answer is stall:
        monkeypatch.setattr(files_module, "TIMEOUT", 0.2)
    server.offer(content)
    path = "/data/t10k-images-idx3-ubyte.gz"
    if answer is None:
        del server.answers[path]
    else:
        server.answers[path] = answer
    with pytest.raises(BadInput, match=words) as caught:
        obtain(origin)
    assert "bench data mnist --from FOLDER" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not cache_folder().exists()


def test_the_next_mirror_is_tried(
    small: tuple[Origin, dict[str, bytes]], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin, content = small
    server.offer(content)
    monkeypatch.delenv("BENCH_DATA_URL_MNIST")
    origin = replace(origin, urls=("http://127.0.0.1:9/", server.url))
    assert obtain(origin)["t10k-labels-idx1-ubyte"].data == content["t10k-labels-idx1-ubyte"]


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "fashion-mnist@14", "cifar10"])
def test_offline(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = replace(sets_module.definitions()[name].origin, system=None)
    read_from(monkeypatch, name, origin)
    monkeypatch.setenv(origin.variable, "http://127.0.0.1:9/")  # nothing listens there
    for call in (load, fetch):
        with pytest.raises(BadInput, match=r"could not be downloaded: no connection to 127\.0\.0\.1:9") as caught:
            call(name)
        assert f"bench data {origin.name} --from FOLDER" in str(caught.value)
    assert not cache_folder().exists()


def test_cifar_is_downloaded_as_its_archive(small_cifar: tuple[Origin, dict[str, bytes]], server: Server) -> None:
    origin, content = small_cifar
    server.answers["/data/cifar-10-binary.tar.gz"] = tar(content)
    assert len(load_cifar10(obtain(origin, None)).test) == 2
    assert server.asked == ["/data/cifar-10-binary.tar.gz"]
    assert (cache_folder() / "cifar10" / "test_batch.bin").read_bytes() == content["test_batch.bin"]
    load_cifar10(obtain(origin, None))
    assert len(server.asked) == 1


def test_a_cache_that_can_not_be_written(
    small: tuple[Origin, dict[str, bytes]], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin, content = small
    server.offer(content)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "file"))
    with pytest.raises(BadInput, match="file"):
        obtain(origin)


def test_published_files_are_pinned() -> None:
    assert [part.size for part in MNIST.parts] == [47_040_016, 60_008, 7_840_016, 10_008]
    assert [part.size for part in FASHION_MNIST.parts] == [part.size for part in MNIST.parts]
    assert {part.size for part in CIFAR10.parts} == {30_730_000}
    hashes = [part.sha256 for origin in (MNIST, FASHION_MNIST, CIFAR10) for part in origin.parts]
    assert len(set(hashes)) == 14
    assert all(len(h) == 64 for h in hashes)
    assert all(url.startswith("http") for origin in (MNIST, FASHION_MNIST, CIFAR10) for url in origin.addresses())


# --------------------------------------------------------------------------------------------------------- folders


def pictures(root: Path, n: int, classes: tuple[str, ...] = (), mode: str = "RGB", size: int = 20) -> Path:
    draw = np.random.default_rng(3)
    for i in range(n):
        folder = root / classes[i % len(classes)] if classes else root
        folder.mkdir(parents=True, exist_ok=True)
        shape = (size, size, 3) if mode == "RGB" else (size, size)
        Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{i:03}.png")
    return root


def test_a_folder_with_classes(tmp_path: Path) -> None:
    root = pictures(tmp_path / "in", 60, ("zebra", "ant", "bee"))
    (root / "ant" / "notes.txt").write_text("not an image")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "x.png").write_bytes(b"junk")
    data = load(f"folder:{root}@8")
    assert (data.space.shape, data.space.classes, data.space.levels) == ((3, 8, 8), 3, 256)
    assert data.labels == ("ant", "bee", "zebra")
    assert len(data.train) + len(data.test) == 60
    assert 3 <= len(data.test) <= 24
    assert data.train.y is not None
    assert data.test.y is not None
    assert (data.train.y.bincount(minlength=3) + data.test.y.bincount(minlength=3)).tolist() == [20, 20, 20]
    assert data.train.x.dtype == torch.uint8


def test_a_folder_without_classes_is_unlabelled(tmp_path: Path) -> None:
    one = load(f"folder:{pictures(tmp_path / 'flat', 30)}@8")
    below = load(f"folder:{pictures(tmp_path / 'below', 30, ('only',))}@8")
    for data in (one, below):
        assert data.space.classes == 0
        assert data.train.y is None
        assert data.labels == ()


def test_the_split_survives_moving_and_adding(tmp_path: Path) -> None:
    first = load(f"folder:{pictures(tmp_path / 'a', 40)}@8")
    moved = load(f"folder:{(tmp_path / 'a').rename(tmp_path / 'b')}@8")
    assert moved.checksum == first.checksum
    Image.new("RGB", (20, 20), "red").save(tmp_path / "b" / "new.png")
    more = load(f"folder:{tmp_path / 'b'}@8")

    def rows(x: torch.Tensor) -> set[bytes]:
        return {image.numpy().tobytes() for image in x}

    assert rows(first.test.x) <= rows(more.test.x)
    assert rows(first.train.x) <= rows(more.train.x)
    assert len(more.train) + len(more.test) == 41


def test_copies_stay_on_one_side(tmp_path: Path) -> None:
    root = pictures(tmp_path / "in", 20)
    for i in range(60):
        (root / f"copy{i}.png").write_bytes((root / "000.png").read_bytes())
    data = load(f"folder:{root}@8")
    train = {image.numpy().tobytes() for image in data.train.x}
    test = {image.numpy().tobytes() for image in data.test.x}
    assert not train & test


def test_images_are_cached_and_the_cache_notices_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.data import folder as folder_module

    root = pictures(tmp_path / "in", 30)
    calls: list[Path] = []
    decode = folder_module._decode_one
    monkeypatch.setattr(folder_module, "SETTLED", 0)
    monkeypatch.setattr(folder_module, "_decode_one", lambda path, size: calls.append(path) or decode(path, size))
    seen: list[tuple[str, int, int]] = []
    assert fetch(f"folder:{root}@8", progress=lambda *event: seen.append(event)) == [root]
    assert seen == [("decode images", 30, 30)]
    first = load(f"folder:{root}@8")
    assert len(calls) == 30
    (stored,) = (cache_folder() / "folder").iterdir()
    data = bytearray(stored.read_bytes())
    data[-1] ^= 1
    stored.write_bytes(data)  # a flipped bit is noticed
    assert load(f"folder:{root}@8").checksum == first.checksum
    assert len(calls) == 60
    Image.new("RGB", (9, 9)).save(root / "000.png", "BMP")  # and so is another image
    assert load(f"folder:{root}@8").checksum != first.checksum
    assert len(calls) == 90
    load(f"folder:{root}@9")
    assert len(calls) == 120
    changed, stat = root / "000.png", (root / "000.png").stat()
    Image.new("RGB", (9, 9), "red").save(
        changed, "BMP"
    )  # of the same size, with its old time, as an archive unpacks it
    os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert changed.stat().st_size == stat.st_size
    load(f"folder:{root}@9")
    assert len(calls) == 150
    monkeypatch.setattr(folder_module, "SETTLED", 10**18)  # a change in the same tick as the last can not be seen
    load(f"folder:{root}@9")
    assert len(calls) == 180


def one(path: Path, size: int) -> np.ndarray:
    from bench.data.folder import _decode_one

    return _decode_one(path, size)


def test_shrinking_is_antialiased(tmp_path: Path) -> None:
    """One-pixel stripes shrunk by 4 are grey (at the border nearly so); unfiltered they would be black or white."""
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    for mode in ("L", "1"):
        Image.fromarray(stripes).convert(mode).save(tmp_path / "x.png")
        small = one(tmp_path / "x.png", 16)
        assert small.shape == (16, 16, 1)
        assert np.abs(small - 127.5).max() < 12
        assert np.abs(small[:, 2:-2] - 127.5).max() < 2


def test_the_centre_is_cut_out(tmp_path: Path) -> None:
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 200
    Image.fromarray(wide).save(tmp_path / "x.png")
    assert (one(tmp_path / "x.png", 5) == 200).all()
    Image.fromarray(wide.T.copy()).save(tmp_path / "y.png")
    assert (one(tmp_path / "y.png", 5) == 200).all()


def test_odd_images(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(np.full((4, 4), 257 * 130, np.uint16)).save(path)
    assert (one(path, 4) == 130).all()  # 16 bits are scaled, not clipped

    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(path)
    assert (one(path, 4) == 255).all()  # what is transparent is white, whatever colour hides there
    Image.new("LA", (4, 4), (0, 0)).save(path)
    assert one(path, 4).shape == (4, 4, 1)
    assert (one(path, 4) == 255).all()

    Image.new("CMYK", (4, 4), (0, 0, 0, 0)).save(tmp_path / "c.jpg")
    assert one(tmp_path / "c.jpg", 4).shape == (4, 4, 3)

    turned = Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 2, 0).repeat(8, 0).repeat(8, 1))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    turned.save(path, exif=exif)
    upright = one(path, 16)[:, :, 0]
    assert (upright[:8] == 0).all()
    assert (upright[8:] == 255).all()

    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(BadInput, match="real numbers"):
        one(tmp_path / "f.tif", 4)

    for wrong in (np.full((4, 4), 65536, np.int32), np.full((4, 4), -1, np.int32)):
        Image.fromarray(wrong).save(tmp_path / "i.tif")
        with pytest.raises(BadInput, match=r"holds integers .* beyond the 0 to 65535 of 16 bits"):
            one(tmp_path / "i.tif", 4)


def test_images_on_another_scale_and_grey_ones_in_colour_are_said(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    draw = np.random.default_rng(0)
    for kind, most, said in (("uint8", 16, "than 15 of 255"), ("uint16", 4096, "than 16 of 255"), ("uint8", 256, "")):
        for i in range(20):
            Image.fromarray(draw.integers(0, most, (8, 8)).astype(kind)).save(root / f"{i}.png")
        assert said in (note := " ".join(load(f"folder:{root}@8").notes))
        assert ("nearly black" in note) == bool(said)
    for i in range(20):
        Image.open(root / f"{i}.png").convert("RGB").save(root / f"{i}.png")
    assert "every image is grey and yet stored in colour" in load(f"folder:{root}@8").notes[0]
    Image.new("RGB", (8, 8), "red").save(root / "0.png")
    assert load(f"folder:{root}@8").notes == ()


def test_grey_folders_have_one_channel_and_mixed_ones_three(tmp_path: Path) -> None:
    root = pictures(tmp_path / "in", 30, mode="L")
    assert load(f"folder:{root}@8").space.shape == (1, 8, 8)
    Image.new("RGB", (5, 5), "red").save(root / "red.png")
    assert load(f"folder:{root}@8").space.shape == (3, 8, 8)


def test_folders_that_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BadInput, match="holds no images"):
        load(f"folder:{empty}")
    few = pictures(tmp_path / "few", 1)
    with pytest.raises(BadInput, match="too few"):
        load(f"folder:{few}")
    broken = pictures(tmp_path / "broken", 20)
    whole = (broken / "007.png").read_bytes()
    for junk in (whole[: len(whole) // 2], b"junk", b""):
        (broken / "007.png").write_bytes(junk)
        with pytest.raises(BadInput, match=r"007\.png is not a readable image") as caught:
            load(f"folder:{broken}")
        assert "\n" not in str(caught.value)
    same = pictures(tmp_path / "same", 1)
    for i in range(1, 40):
        (same / f"{i}.png").write_bytes((same / "000.png").read_bytes())
    with pytest.raises(BadInput, match=r"all 40 images in .*same are the same at 8 px, so none can be held out"):
        load(f"folder:{same}@8")
    with pytest.raises(BadInput, match=r"--test .* is not a folder"):
        load(FolderName.parse(f"folder:{broken}@8", tmp_path / "none"))
    many = pictures(tmp_path / "many", 900, size=2)
    with pytest.raises(BadInput, match="choose a smaller @SIZE"):
        load(f"folder:{many}@1024")


# ---------------------------------------------------------------------------- splits, links, what is left out, names


def rows(x: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in x}


def decoded(folder: Path) -> set[bytes]:
    return {one(path, 8).transpose(2, 0, 1).tobytes() for path in folder.rglob("*.png")}


def filled(root: Path, **folders: int) -> Path:
    """So many pictures, all different, in each folder; a__b is a/b."""
    for k, (name, n) in enumerate(folders.items()):
        (root / name.replace("__", "/")).mkdir(parents=True, exist_ok=True)
        draw = np.random.default_rng([k, *root.name.encode("utf-8", "surrogateescape")])
        for i in range(n):
            grey = Image.fromarray(draw.integers(0, 256, (8, 8), dtype=np.uint8))
            grey.save(root / name.replace("__", "/") / f"{i:03}.png")
    return root


@pytest.mark.parametrize(
    ("folders", "trained", "held", "classes", "said"),
    [
        ({"train__a": 9, "train__b": 9, "test__a": 3, "test__b": 3}, "train", "test", ("a", "b"), "test/ is held out"),
        ({"Training": 9, "TEST": 3}, "Training", "TEST", (), "Training/ is trained on, TEST/ is held out"),
        ({"train2017": 9, "val2017": 3}, "train2017", "val2017", (), "val2017/ is held out, as there is no test/"),
        ({"train": 9, "validation": 3}, "train", "validation", (), "validation/ is held out, as there is no test/"),
        ({"train": 9, "valid": 4, "test": 3}, "train", "test", (), "4 images in valid/ left out"),
        ({"train": 9, "test": 3, "extra": 5}, "train", "test", (), "5 images outside the splits left out"),
        ({"train_set__train__a": 9, "train_set__train__b": 9, "test__test__b": 3}, "train_set", "test", ("a", "b"), "b 9 + 3"),
        ({"images__train": 9, "images__val": 3}, "images/train", "images/val", (), "val/ is held out"),
        ({"images__train__a": 9, "images__train__b": 9, "images__test__b": 3}, "images/train", "images/test", ("a", "b"), "b"),
    ],
)  # fmt: skip
def test_folders_called_train_and_test_are_splits(
    tmp_path: Path, folders: dict[str, int], trained: str, held: str, classes: tuple[str, ...], said: str
) -> None:
    data = load(f"folder:{filled(tmp_path / 'in', **folders)}@8")
    assert rows(data.train.x) == decoded(tmp_path / "in" / trained)
    assert rows(data.test.x) == decoded(tmp_path / "in" / held)
    assert data.labels == classes
    assert said in "\n".join(data.about())


def test_splits_below_classes(tmp_path: Path) -> None:
    folders = {f"{c}__{s}": n for c in ("cat", "dog") for s, n in (("train", 9), ("test", 3))}
    data = load(f"folder:{filled(tmp_path / 'in', **folders)}@8")
    assert data.labels == ("cat", "dog")
    assert rows(data.test.x) == decoded(tmp_path / "in/cat/test") | decoded(tmp_path / "in/dog/test")
    assert data.test.y is not None
    assert data.test.y.tolist() == [0] * 3 + [1] * 3
    filled(tmp_path / "in", bird=4)
    with pytest.raises(BadInput, match="is divided into splits, but other images are not"):
        load(f"folder:{tmp_path / 'in'}@8")


def test_train_alone_is_split_as_it_would_be_itself(tmp_path: Path) -> None:
    root = filled(tmp_path / "in", train__a=20, train__b=20, test=0)
    whole, part = load(f"folder:{root}@8"), load(f"folder:{root / 'train'}@8")
    assert whole.checksum == part.checksum
    assert "test/ holds no images" in whole.notes
    assert "train/ is alone: one in five of its images is held out, chosen by name" in whole.notes


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        ({"val": 9}, "holds val/ but no train/"),
        ({"val": 9, "Testing": 9}, "holds Testing/ and val/ but no train/"),
        ({"bus": 9, "train": 9}, "holds train/ beside 9 images elsewhere, as bus/: .* a split, never a class"),
        ({"cat": 9, "dog": 9, "test": 3}, "holds test/ beside 18 images elsewhere"),
        ({"train__train": 9, "train__test": 3}, "/train/ holds test/: a folder of that name is a split, never a class"),
        ({"train__cat": 9, "train__val": 3, "test": 3}, "/train/ holds val/: a folder of that name is a split"),
    ],
)
def test_splits_that_are_refused(tmp_path: Path, folders: dict[str, int], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        load(f"folder:{filled(tmp_path / 'in', **folders)}@8")


def test_empty_folders_and_splits_that_lie_too_deep_are_said(tmp_path: Path) -> None:
    root = filled(tmp_path / "in", a=9, b=9, c=0, d=0)
    assert load(f"folder:{root}@8").notes == ("c/, d/ hold no images",)
    root = filled(tmp_path / "deep", in__images__train=30, in__images__val=9)
    (note,) = load(f"folder:{root}@8").notes
    assert note.startswith("folders called like splits in in/images/ are not taken for them")
    assert note.endswith(f"name {root}/in/images")


def test_a_held_out_part_of_ones_own(tmp_path: Path) -> None:
    root, other = filled(tmp_path / "in", a=9, b=9), filled(tmp_path / "other", a__x=2, b=3)
    data = load(FolderName.parse(f"folder:{root}@8", other))
    assert rows(data.train.x) == decoded(root)
    assert rows(data.test.x) == decoded(other)
    assert (data.labels, data.test.y is not None and data.test.y.tolist()) == (("a", "b"), [0] * 2 + [1] * 3)
    inside = load(FolderName.parse(f"folder:{root}@8", root / "b"))
    assert rows(inside.train.x) == decoded(root / "a"), "what is held out is not trained on"
    assert rows(inside.test.x) == decoded(root / "b")
    assert "9 images that --test holds too left out of the training part" in inside.notes
    with pytest.raises(BadInput, match="holds every image"):
        load(FolderName.parse(f"folder:{root}@8", tmp_path / "in" / ".." / "in"))
    split = filled(tmp_path / "split", train=5, test=5)
    with pytest.raises(BadInput, match="divided into splits itself"):
        load(FolderName.parse(f"folder:{split}@8", other))
    (other / "copy.png").write_bytes((root / "a" / "000.png").read_bytes())
    assert "1 held-out image of 6 equal a training image" in load(FolderName.parse(f"folder:{root}@8", other)).notes


def test_links_are_followed_once(tmp_path: Path) -> None:
    real = filled(tmp_path / "real", a=20, b=20)
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        (tmp_path / "in" / name).symlink_to(real / name)
    linked = load(f"folder:{tmp_path / 'in'}@8")
    assert (linked.checksum, linked.labels) == (load(f"folder:{real}@8").checksum, ("a", "b"))
    (real / "a" / "circle").symlink_to(real)
    (real / "a" / "again").symlink_to(real / "b")
    (real / "a" / "gone.png").symlink_to(tmp_path / "nowhere")
    again = load(f"folder:{real}@8")
    assert again.checksum == linked.checksum
    assert "2 links to folders already read left out, the first of them a/again" in again.notes
    assert "1 link to what is not there left out, the first of them a/gone.png" in again.notes


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    root = pictures(tmp_path / "in", 30)
    (root / "001.png").rename(root / "001.JFIF")
    for name in ("a.heic", "b.heic", "c.txt", "README", "._x.png"):
        (root / name).write_bytes(b"junk")
    data = load(f"folder:{root}@8")
    assert len(data.train) + len(data.test) == 30
    assert "4 files of other kinds left out: .heic 2, no suffix 1, .txt 1" in data.notes
    assert "1 hidden image left out" in data.notes


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("A", "B", "a"), {"a": 2, "A": 0, "b": 1, "0": 0, "02": 2, "3": None, "c": None}),
        (("1", "10", "2"), {"1": 0, "10": 1, "2": 2, "0": None, "01": 0, "002": 2, "3": None}),
        (("01", "02", "11"), {"1": 0, "2": 1, "11": 2, "0": None}),
        (("1", "01"), {"1": 0, "01": 1, "001": None}),
        (("3", "cat"), {"CAT": 1, "3": 0, "1": None}),
        (("Ab", "aB"), {"AB": None, "aB": 1}),
        (("e\u0301", "f"), {"\u00e9": 0, "e\u0301": 0, "\u00c9": 0, "e": None}),
        (("e\u0301", "\u00e9"), {"\u00e9": 1, "e\u0301": 0, "\u00c9": None}),
        (("0", "1"), {"1": 1, "2": None, "9" * 5000: None, "²": None, "-1": None, "": None}),
    ],
)
def test_a_class_is_found_by_its_own_name_before_any_other(
    names: tuple[str, ...], found: dict[str, int | None]
) -> None:
    assert {text: label_of(text, names) for text in found} == found


def test_one_name_in_two_encodings_is_one_class(tmp_path: Path) -> None:
    """As where an archive of one system was unpacked beside that of another."""
    root = filled(tmp_path / "in", **{"train__caf\u00e9": 3, "train__tea": 4, "test__cafe\u0301": 2, "test__tea": 2})
    data = load(f"folder:{root}@8")
    assert data.labels == ("cafe\u0301", "tea")
    assert data.train.y is not None
    assert data.test.y is not None
    assert (data.train.y.bincount().tolist(), data.test.y.bincount().tolist()) == ([3, 4], [2, 2])
    assert "2 folders are called cafe\u0301, in other encodings of its letters: one class" in data.notes
    own = ("cafe\u0301", "cafz")
    alone = load(f"folder:{pictures(tmp_path / 'alone', 40, own)}@8")
    assert alone.labels == own  # in the order that it always had


def test_classes_are_told_with_their_counts(tmp_path: Path) -> None:
    root = filled(tmp_path / "in", train__a=4, train__b=3, test__a=2, test__z=1)
    told = load(f"folder:{root}@8").about()
    assert told[0] == "classes, training + held-out examples: a 4 + 2, b 3 + 0, z 0 + 1"
    assert "class without a training example: z, which no model is shown" in told
    assert "class without a held-out example: b" in told
    filled(tmp_path / "lines", **{"a\nb": 9, "c": 9})
    assert "a?b " in load(f"folder:{tmp_path / 'lines'}@8").about()[0]
    filled(tmp_path / "loose", a=9, b=9)
    (tmp_path / "loose" / "x.png").write_bytes((root / "train" / "a" / "000.png").read_bytes())
    told = load(f"folder:{tmp_path / 'loose'}@8").about()
    assert told[:2] == ["no classes", "1 image outside the class folders, so there are no labels"]
    assert load("digits").about()[0].startswith("classes, training + held-out examples: 0 ")


def test_a_folder_is_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pictures(tmp_path / "imgs", 30)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(root)
    spellings = ("imgs", "imgs/", "./imgs", "imgs/.", "imgs/../imgs", str(root), "~/imgs", "link", "link/../imgs")
    data = [load(f"folder:{spelling}@{size}") for spelling in spellings for size in ("8", "08")]
    assert {(d.name, d.key) for d in data} == {(f"imgs@8-{data[0].checksum[:8]}", data[0].key)}
    assert {d.own for d in data} == {data[0].own}
    moved = load(f"folder:{root.rename(tmp_path / 'pics')}@8")
    assert (moved.key, moved.name) == (data[0].key, f"pics@8-{moved.checksum[:8]}")
    own = load(FolderName.parse("folder:pics@8", own="my cats"))
    assert (own.key, own.name) == (data[0].key, "my cats")
    assert load(own.place).name == "my cats"
    for bad in ("", " ", "digits", "folder:x", "report", "a" * 65, "..", "\x1b[2J"):
        with pytest.raises(BadInput, match="--name"):
            FolderName.parse("folder:pics@8", own=bad)
    for bad in ("folder:~nobody-of-that-name/x", "folder:" + "x" * 300, "folder:gone"):
        with pytest.raises(BadInput, match="is not a folder"):
            load(bad)


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    root = filled(tmp_path / os.fsdecode(b"b\xff"), a=20, b=20)
    (root / "a").rename(root / os.fsdecode(b"a\xfe"))
    (root / "b" / "000.png").rename(root / "b" / os.fsdecode(b"\xfd.png"))
    (root / os.fsdecode(b"note.\xfc")).write_text("x")
    data = load(f"folder:{root}@8")
    assert data.name == f"b\\xff@8-{data.checksum[:8]}"
    assert data.labels == ("a\\xfe", "b")
    "\n".join((data.name, data.source, *data.about())).encode()
    assert FolderName.stored(data.own.as_json(), data.name) == data.own if data.own else False
