"""Files that mean harm, and whole files in another's place: nothing in them runs, nothing is waited for, no memory is
taken before it is asked how much, and what is read is what it is read as."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import os
import pickle
import re
import signal
import sys
import tarfile
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import typer
from onnx import TensorProto, helper
from PIL import EpsImagePlugin, Image
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn
from typer.testing import CliRunner

from bench.cli import app
from bench.data import digits as digits_module
from bench.data import folder as folder_module
from bench.data import load
from bench.data.files import Origin, Part, cache_folder, obtain
from bench.data.whole import read_whole
from bench.features import SUMS, WEIGHTS, FeatureSpace, cached, hashes, named, random_conv, spaces_for
from bench.pack import unpack
from bench.reading import Range
from bench.scores import arrays, read_samples
from bench.store import read_json
from bench.tiers import get as named_tier
from paradigms.core.data import Space
from paradigms.errors import BadInput
from reports.writers.grids import readable_image

BYTES = Space((1, 8, 8), levels=256)
DIGITS = Space((1, 8, 8), classes=10, levels=17)


@contextmanager
def refused(words: str) -> Iterator[None]:
    """One line that has these words."""
    with pytest.raises(BadInput, match=words) as told:
        yield
    assert "\n" not in str(told.value)


# ------------------------------------------------------------------------------------------------- files that are code


class Touch:
    """What a pickle makes a file with when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (self.path,)


def saved(value: object) -> bytes:
    data = io.BytesIO()
    torch.save(value, data)
    return data.getvalue()


def exported() -> dict[str, bytes]:
    """The members of what torch.export.save writes."""
    net, file = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Flatten()), io.BytesIO()
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(net, (torch.zeros(4, 1, 8, 8),), dynamic_shapes=dynamic), file)
    with zipfile.ZipFile(file) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def zipped(members: dict[str, bytes], below: str = "archive/") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(below + name, data)
    return file.getvalue()


def programs(mark: Path) -> dict[str, bytes]:
    """Archives of torch.export that create `mark` when torch opens them: in every place that it unpickles or evaluates."""
    good, evil, bare = exported(), saved(Touch(mark)), pickle.dumps(Touch(mark))
    weights, constants = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"
    entry = json.loads(good[weights])["config"]["0.weight"]

    def constant(name: str, data: bytes) -> dict[str, bytes]:
        config = json.dumps({"config": {"c": {**entry, "path_name": name, "is_param": False, "use_pickle": True}}})
        return {**good, constants: config.encode(), f"data/constants/{name}": data}

    told = json.loads(good[weights])
    told["config"]["0.weight"]["use_pickle"] = True
    text = good["models/model.json"].decode()
    symbol = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    first = text.index('"expr_str": "') + len('"expr_str": "')
    evaluated = text[:first] + symbol + text[text.index('"', first) :]
    older = {"version": b"8.1", "serialized_exported_program.json": good["models/model.json"]}
    older |= {f"serialized_{part}.pt": saved({}) for part in ("state_dict", "constants", "example_inputs")}
    return {
        "weight": zipped({**good, weights: json.dumps(told).encode(), "data/weights/weight_0": evil}),
        "weights of an older format": zipped({**good, "data/weights/model.pt": evil}),
        "constant": zipped(constant("tensor_0", evil)),
        "custom object": zipped(constant("custom_obj_0", evil)),
        "opaque object": zipped(constant("opaque_obj_0", bare)),
        "constants of an older format": zipped({**good, "data/constants/model.pt": evil}),
        "sample inputs": zipped({**good, "data/sample_inputs/model.pt": evil}),
        "evaluated text": zipped({**good, "models/model.json": evaluated.encode()}),
        **{
            f"{part} of the oldest format": zipped({**older, f"serialized_{part}.pt": evil}, "")
            for part in ("state_dict", "constants", "example_inputs")
        },
    }


def scripts(mark: Path) -> dict[str, bytes]:
    """TorchScript that writes a file: as it is used, and as it is loaded."""

    class Writes(nn.Module):
        def __init__(self, where: str) -> None:
            super().__init__()
            self.where = where

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.save(x, self.where)
            return x.flatten(1)

    class Opens(nn.Module):
        def __init__(self, where: str) -> None:
            super().__init__()
            self.where = where

        @torch.jit.export
        def __getstate__(self) -> tuple[str, bool]:
            return self.where, self.training

        @torch.jit.export
        def __setstate__(self, state: tuple[str, bool]) -> None:
            self.where, self.training = state[0], state[1]
            torch.save(0, self.where)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)

    found = {}
    for kind in (Writes, Opens):
        data = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.script(kind(str(mark))), data)
        found[f"script that {kind.__name__.lower()}"] = data.getvalue()
    return found


def test_no_file_that_is_given_for_a_network_runs(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    hostile = {**programs(mark), **scripts(mark), "pickle": pickle.dumps(Touch(mark)), "of torch": saved(Touch(mark))}
    ran = set()
    for name, data in hostile.items():  # that they do what they are feared for
        with suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if name.startswith("script"):
                torch.jit.load(io.BytesIO(data))(torch.zeros(2, 1, 8, 8))
            else:
                torch.export.load(io.BytesIO(data))
        if mark.exists():
            ran.add(name)
            mark.unlink()
    assert ran, "they would"
    for name, data in hostile.items():
        for suffix in (".pt2", ".pt", ".pth", ".ts", ".ptl", ".PT2", ".pkl", ".onnx", ".safetensors"):
            path = tmp_path / f"net{suffix}"
            path.write_bytes(data)
            for spec in (f"{path}", f"{path}:channels=3"):
                with refused("is a program|no ONNX model|not a weights file|no settings"):
                    named(spec, BYTES)
            path.unlink()
        assert not mark.exists(), name


def test_help_says_what_runs_code() -> None:
    command: Any = typer.main.get_command(app)
    told = next(option.help for option in command.commands["evaluate"].params if option.name == "features")
    assert "net.onnx, my.safetensors, which run no code, or package.module:factory, which is code and runs" in told


def as_onnx(where: str | None) -> bytes:
    """A linear network whose weights lie in another file, or in itself."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[64, 2])
    if where is None:
        tensor.raw_data = bytes(4 * 128)
    else:
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", where), ("offset", "0"), ("length", str(4 * 128))):
            tensor.external_data.add(key=key, value=value)
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["n", 1, 8, 8]), ("y", ["n", 2]))
    )
    graph = helper.make_graph(nodes, "net", [x], [y], [tensor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def test_onnx_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Not what is wrong with it either: a file's words can hold a terminal's commands."""
    good = as_onnx(None)
    for place in range(0, 150):
        (tmp_path / "net.onnx").write_bytes(good[:place] + b"\xec" + good[place + 1 :])
        with suppress(BadInput):
            named(str(tmp_path / "net.onnx"), BYTES)
    assert capfd.readouterr() == ("", "")


def test_onnx_reads_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hash would not hold what lies there, and the path is the file's own choice."""
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    for name in ("weights", "below/weights"):
        (tmp_path / name).write_bytes(bytes(4 * 128))
    path = tmp_path / "below" / "net.onnx"
    for where in ("weights", "../weights", str(tmp_path / "weights"), "/dev/zero"):
        path.write_bytes(as_onnx(where))
        with refused("keeps weights in another file.*external_data=False"):
            named(str(path), BYTES)
    path.write_bytes(as_onnx(None))
    assert named(str(path), BYTES).dim == 2


def test_a_picture_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands PostScript to an interpreter, whatever the file is called."""
    started: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given, **how: started.append(given))
    path = tmp_path / "x.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n")
    with suppress(Exception), Image.open(path) as image:
        image.load()
    assert len(started) == 1, "as it would be"
    with refused("x.png is not a readable image"):
        folder_module.read_image(path)
    assert not readable_image(path)
    assert len(started) == 1


# ------------------------------------------------------------------------------------------------ what would not end


def fed(path: Path) -> Path:
    """A pipe that nobody writes to: who opens it waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    return path


@pytest.fixture
def alarm() -> Iterator[None]:
    """What waits for ever fails, and does not hold up the tests."""

    def end(*_: object) -> None:
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(600)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("alarm")
def test_pipes_and_devices_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, zero = fed(tmp_path / "pipe"), tmp_path / "zero"
    zero.symlink_to("/dev/zero")
    for path in (pipe, zero):
        with refused("is no regular file"):
            read_whole(path)
        with refused("is no regular file"):
            read_samples(path, BYTES)
        (tmp_path / "own.toml").unlink(missing_ok=True)
        (tmp_path / "own.toml").symlink_to(path)
        with refused("is no regular file"):
            named_tier(str(tmp_path / "own.toml"))
    with refused("Is a directory"):
        read_whole(tmp_path)
    for suffix in ("npz", "npy", "safetensors"):
        with refused("is no regular file"):
            read_samples(fed(tmp_path / f"x.{suffix}"), BYTES)
    for suffix in ("onnx", "safetensors"):
        with refused("is no regular file"):
            named(str(fed(tmp_path / f"net.{suffix}")), BYTES)
    fed(tmp_path / "pictures" / "a.png")
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "b.png").symlink_to("/dev/zero")
    for folder in ("pictures", "devices"):
        with refused("is no regular file"):
            read_samples(tmp_path / folder, BYTES)
        with refused("is no regular file"):
            load(f"folder:{tmp_path / folder}@8")
    for name in ("mnist", "cifar10"):
        for source in (pipe, zero):
            with refused("does not hold"):
                load(name, source)
    fed(tmp_path / "weights" / SUMS)
    with refused("can not be read"):
        hashes(tmp_path / "weights")
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "cache"))
    space, digits = random_conv((1, 8, 8)), load("digits")
    wanted = cached(space, digits, "test", digits.test.x[:9]).values
    (file,) = (tmp_path / "cache" / "features").iterdir()
    file.unlink()
    fed(file)
    assert torch.equal(cached(space, digits, "test", digits.test.x[:9]).values, wanted)


@pytest.mark.usefixtures("alarm")
def test_a_pipe_in_a_folder_of_runs_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("run.json", "manifest.json", "results.jsonl"):
        folder = tmp_path / "digits" / name / "0-aaaaaaaaaa"
        fed(folder / name)
        with refused("is no regular file"):
            read_json(folder / name)
    told = CliRunner().invoke(app, ["list", "runs", "--out", str(tmp_path)])
    assert told.exit_code == 0, told.output


# ------------------------------------------------------------------------------------ what would take all the memory


def head(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    """Of an .npy file."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
    return file.getvalue()


def npz(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@contextmanager
def memory(most: int) -> Iterator[None]:
    """No more than `most` bytes are taken at a time by what numpy and Python allocate."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < most, f"{peak:,} bytes"


def test_samples_are_judged_by_their_heads(tmp_path: Path) -> None:
    """The shape before the size, the size before a byte is unpacked, labels as samples."""
    path = npz(tmp_path / "x.npz", {"samples.npy": head((1, 1, 8192, 8192)) + bytes(64 << 20)})
    with memory(16 << 20):
        with refused(r"shape \(1, 1, 8192, 8192\), but samples of the data set have shape \(N, 1, 8, 8\)"):
            read_samples(path, BYTES)
        for shape in ((1 << 27, 1, 8, 8), (1 << 62, 1, 8, 8)):
            size = f"{shape[0] * 64 / 2**30:,.1f} GiB, and at most 4 GiB"
            with refused(re.escape(size)):
                read_samples(npz(path, {"samples.npy": head(shape)}), BYTES)
            (tmp_path / "x.npy").write_bytes(head(shape))
            with refused(re.escape(size)):
                read_samples(tmp_path / "x.npy", BYTES)
        good = head((2, 1, 8, 8)) + bytes(128)
        with refused(r"labels must be 2 integers, one for each sample, not int64 \(137438953472,\)"):
            read_samples(npz(path, {"samples.npy": good, "labels.npy": head((1 << 37,), "<i8")}), DIGITS)
        read = read_samples(npz(path, {"samples.npy": good, "notes.npy": head((1 << 37,), "<i8")}), BYTES)
        assert read.x.shape == (2, 1, 8, 8)
        assert "not used: notes" in read.reading
        for shape in ((-1, 1, 8, 8), (-4, -1, 8, 8), (2, 1, 8, 8)):  # a head that promises what does not follow
            with refused("no whole .npz"):
                read_samples(npz(path, {"samples.npy": head(shape) + bytes(127)}), BYTES)
        with refused("holds 1,001 arrays, and at most 1,000"):
            read_samples(npz(path, {f"{i}.npy": good for i in range(1001)}), BYTES)
        sparse = tmp_path / "x.safetensors"
        text = json.dumps({"samples": {"dtype": "U8", "shape": [1 << 27, 1, 8, 8], "data_offsets": [0, 1 << 33]}})
        sparse.write_bytes(len(text).to_bytes(8, "little") + text.encode())
        os.truncate(sparse, 8 + len(text) + (1 << 33))
        with refused("8.0 GiB, and at most 4 GiB"):
            read_samples(sparse, BYTES)
        sparse.write_bytes((1 << 62).to_bytes(8, "little"))
        with refused("no whole .npz"):
            read_samples(sparse, BYTES)


@pytest.mark.parametrize(
    "kind", ["uint8", "int16", "float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "bool"]
)
def test_heads_of_tensors_are_those_of_their_arrays(kind: str, tmp_path: Path) -> None:
    tensor = torch.tensor([0.0, 1.0, -1.0, 0.5]).repeat(2, 16).view(2, 1, 8, 8)
    tensor = tensor.abs().round() if kind in ("uint8", "int16", "bool") else tensor
    (tmp_path / "x.safetensors").write_bytes(save_tensors({"a": tensor.to(getattr(torch, kind))}))
    with arrays.heads(tmp_path / "x.safetensors") as heads:
        array = heads["a"].read()
        assert (array.dtype, array.shape) == (heads["a"].dtype, heads["a"].shape)


def test_no_part_of_the_samples_is_left_out_unseen(tmp_path: Path) -> None:
    """numpy reads the first array of a file that several were appended to, and one of two of a name."""
    array, packed = np.zeros((4, 1, 8, 8), np.uint8), io.BytesIO()
    np.save(packed, array)
    appended = tmp_path / "appended.npy"
    with appended.open("wb") as file:
        for _ in range(2):
            np.save(file, array)
    with refused("holds more behind an array"):
        read_samples(appended, BYTES, span=Range(0, 255))
    with refused("holds more behind an array"):
        read_samples(npz(tmp_path / "x.npz", {"samples.npy": 2 * packed.getvalue()}), BYTES, span=Range(0, 255))
    for names in (("samples.npy", "samples"), ("samples.npy", "samples.npy")):
        path = tmp_path / "twice.npz"
        with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
            warnings.simplefilter("ignore")
            for name in names:
                archive.writestr(name, packed.getvalue())
        with refused("holds several arrays called samples"):
            read_samples(path, BYTES, span=Range(0, 255))


def test_names_of_arrays_make_no_endless_message(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, **{"a" * 50_000: np.zeros((4, 1, 8, 8)), "b": np.zeros((4, 1, 8, 8))})
    with pytest.raises(BadInput, match="which are the samples") as told:
        read_samples(path, BYTES)
    assert len(str(told.value)) < 600


def test_labels_that_are_no_array(tmp_path: Path) -> None:
    good = head((2, 1, 8, 8)) + bytes(128)
    for name, data in (("labels", b"no array"), ("labels.npy", b""), ("y.npy", b"\x93NUMPY"), ("y", pickle.dumps([1]))):
        with refused("labels must be 2 integers, one for each sample, not something that is no array of numbers"):
            read_samples(npz(tmp_path / "x.npz", {"samples.npy": good, name: data}), DIGITS)
    with refused("labels must be 2 integers.* not float64"):
        read_samples(npz(tmp_path / "x.npz", {"samples.npy": good, "y.npy": head((2,), "<f8") + bytes(16)}), DIGITS)


def test_large_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("net.onnx", "net.safetensors"):
        path = tmp_path / name
        path.touch()
        os.truncate(path, 1 << 40)
        with refused("holds 1,099,511,627,776 bytes, and at most 2,147,483,648 are read"):
            named(str(path), BYTES)
    for name in ("train-images-idx3-ubyte", "cifar-10-binary.tar.gz"):
        path = tmp_path / name
        path.touch()
        os.truncate(path, 1 << 40)
        with refused("holds 1,099,511,627,776 bytes, and at most"):
            load("mnist" if name.startswith("train") else "cifar10", tmp_path)


def test_archives_unpack_to_no_more_than_they_should(tmp_path: Path) -> None:
    part = Part("inner.bin", 100, "0" * 64)
    origin = Origin("bombs", (part,), (), archive="bombs.tar.gz", archive_size=1000)
    bomb = io.BytesIO()
    with tarfile.open(fileobj=bomb, mode="w:gz", compresslevel=1) as archive:
        for name in ("zeros", "inner.bin"):
            info = tarfile.TarInfo(name)
            info.size = 64 << 20
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    (tmp_path / origin.archive).write_bytes(bomb.getvalue())
    with memory(16 << 20), refused("unpacks to more than 1,049,576 bytes"):
        obtain(origin, tmp_path)
    (tmp_path / origin.archive).unlink()
    (tmp_path / "inner.bin.gz").write_bytes(gzip.compress(bytes(64 << 20)))
    with memory(16 << 20), refused("holds more than 100 bytes, expected 100"):
        obtain(origin, tmp_path)


def test_a_large_picture_takes_little_more_memory_than_it_holds(tmp_path: Path) -> None:
    side, path = 2000, tmp_path / "x.png"
    Image.new("I;16", (side, side)).save(path, compress_level=1)
    tracemalloc.start()  # of numpy's arrays; Pillow's own are not seen
    try:
        image = folder_module.read_image(path)
        assert tracemalloc.get_traced_memory()[1] < 4 * side * side
    finally:
        tracemalloc.stop()
    assert image.size == (side, side)


@pytest.mark.parametrize("kind", ["RGBA", "LA", "I;16", "P", "PA", "1", "CMYK"])
def test_a_picture_taken_in_strips_is_the_same(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "x.tif"
    if kind == "I;16":
        Image.fromarray(rng.integers(0, 65536, (23, 17)).astype(np.uint16)).save(path)
    else:
        colours = Image.fromarray(rng.integers(0, 256, (23, 17, 4)).astype(np.uint8), "RGBA")
        path = path if kind == "CMYK" else path.with_suffix(".png")
        made = colours if kind == "RGBA" else colours.convert("RGB").convert("P" if kind == "PA" else kind)
        made.save(path, **({"transparency": 3} if kind == "PA" else {}))
    whole = np.asarray(folder_module.read_image(path))
    monkeypatch.setattr(folder_module, "STRIP", 5 * 17)
    assert np.array_equal(np.asarray(folder_module.read_image(path)), whole)


def test_a_picture_of_any_size_is_refused_by_its_head(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.png").write_bytes(png_head())
    with memory(16 << 20):
        for read in (lambda: read_samples(tmp_path / "in", BYTES), lambda: load(f"folder:{tmp_path / 'in'}@8")):
            with refused(r"900000000 pixels\) exceeds limit of 178956970 pixels"):
                read()


# -------------------------------------------------------------------------------------- damage, and the wrong place


def test_homes_that_are_not_known_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, path in (("BENCH_DATA", "~nobody.of.this.name/x"), ("XDG_CACHE_HOME", "~nobody.of.this.name")):
        monkeypatch.delenv("BENCH_DATA", raising=False)
        monkeypatch.setenv(name, path)
        with refused("is not known; set BENCH_DATA"):
            cache_folder()
    with refused("does not exist"):
        named("inception-2015:from=~nobody.of.this.name/x", BYTES)


@pytest.mark.parametrize("url", ["http://[::1", "http://[x]/", "nonsense", "http://127.0.0.1:port/"])
def test_addresses_that_are_none_are_one_line(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    monkeypatch.setenv("BENCH_DATA_URL_NONE", url)
    with refused("no connection to"):
        obtain(Origin("none", (Part("a", 3, "0" * 64),), ()))


def test_settings_of_a_space_that_takes_none_are_refused() -> None:
    for spec in ("random-conv:size=99", "random-conv:channels=3"):
        with refused("takes images as they are; no settings"):
            named(spec, BYTES)


@pytest.mark.parametrize("body", ["sys.exit(0)", "torch.nn.Module()", "Ends()"])
def test_a_factory_that_ends_the_program_is_one_line(
    body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "class Ends(torch.nn.Module):\n    def forward(self, x):\n        sys.exit(0)\n"
    (tmp_path / "ending.py").write_text(f"import sys, torch\n{text}def net():\n    return {body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "ending", raising=False)
    with refused("--features ending:net: "):
        named("ending:net", BYTES)


def test_damaged_digits_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """scikit-learn's file, cut, flipped anywhere, of other numbers, of none, a bomb, or not there."""
    good = digits_file().read_bytes()
    path = tmp_path / "datasets" / "data" / "digits.csv.gz"
    path.parent.mkdir(parents=True)
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(digits_module.importlib.util, "find_spec", lambda name: spec)
    flips = [good[:i] + bytes([good[i] ^ 255]) + good[i + 1 :] for i in (0, 3, 100, len(good) // 2, len(good) - 3)]
    cuts = [good[:n] for n in (0, 1, 2, 10, 1000, len(good) - 1)]
    texts = [b"", b"\n", b"a,b\n", b"1,2\n3\n", b"1,2\n3,4\n", b"nan,inf\n1e999,-1\n", bytes(1 << 26)]
    for bad in (*flips, *cuts, *map(gzip.compress, texts), b"<html>404</html>"):
        path.write_bytes(bad)
        with refused("digits.*reinstall scikit-learn"), warnings.catch_warnings():
            warnings.simplefilter("error")
            load("digits")
    path.write_bytes(good)
    assert load("digits").checksum
    path.unlink()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with refused("are not there .*reinstall scikit-learn"):
        load("digits")


def digits_file() -> Path:
    (place,) = importlib.util.find_spec("sklearn").submodule_search_locations  # type: ignore[union-attr]
    return Path(place, "datasets", "data", "digits.csv.gz")


def test_a_cut_list_of_weights_takes_no_space_away(tmp_path: Path) -> None:
    """A list without a name that is there, cut anywhere, or of other lines."""
    whole = (WEIGHTS / SUMS).read_bytes()
    for path in WEIGHTS.glob("*.safetensors"):
        (tmp_path / path.name).touch()
    (tmp_path / SUMS).write_bytes(whole)
    assert hashes(tmp_path) == hashes()
    for n in range(len(whole)):
        (tmp_path / SUMS).write_bytes(whole[:n])
        with refused("leaves out|can not be read.*reinstall"):
            hashes(tmp_path)
    lines = whole.splitlines(keepends=True)
    for i in range(len(lines)):
        (tmp_path / SUMS).write_bytes(b"".join(lines[:i] + lines[i + 1 :]))
        with refused("leaves out .*reinstall the package"):
            hashes(tmp_path)
    for text in (b"\xff\n", whole.replace(b".safetensors", b".pt"), whole.replace(b"  ", b" x "), whole.upper()):
        (tmp_path / SUMS).write_bytes(text)
        with refused("can not be read.*reinstall"):
            hashes(tmp_path)


GOOD_CARD = {"architecture": {"shape": [1, 8, 8]}, "accuracy": 0.5}


@pytest.mark.parametrize(
    "change",
    [
        *({"accuracy": value} for value in (None, "much", [], float("nan"), float("inf"), -1, 2)),
        *({"architecture": value} for value in (None, 3, [], "x", {"shap": [1, 8, 8]}, {})),
        *(
            {"architecture": {**GOOD_CARD["architecture"], **value}}  # type: ignore[dict-item]
            for value in (
                {"shape": [8, 8]}, {"shape": 8}, {"shape": [1, 8, 0]}, {"shape": [1, 8, -8]}, {"shape": [1, 8, 8.0]},
                {"shape": [1, 1 << 40, 1 << 40]}, {"shape": [True, 8, 8]}, {"shape": [1, 2, 8]}, {"shape": ["1", 8, 8]},
                {"pools": [0, 2]}, {"pools": [1]}, {"pools": []}, {"pools": [16, 2]}, {"pools": None}, {"channels": [[], 2]},
                {"channels": [32, -1]}, {"channels": [32, 1 << 62]}, {"channels": [3] * 65, "pools": [1] * 65},
                {"features": 0}, {"features": "64"}, {"features": 63}, {"classes": None}, {"classes": 11}, {"classes": True},
                {"dropout": 2}, {"dropout": "x"}, {"dropout": None}, {"more": 1},
            )
        ),
    ],
)  # fmt: skip
def test_cards_that_make_no_network(change: dict[str, Any], tmp_path: Path) -> None:
    tensors = load_tensors((WEIGHTS / "digits.safetensors").read_bytes())
    path = tmp_path / "mine.safetensors"
    path.write_bytes(save_tensors(tensors, {"card": json.dumps(GOOD_CARD)}))
    assert named(str(path), DIGITS).accuracy == 0.5
    path.write_bytes(save_tensors(tensors, {"card": json.dumps({**GOOD_CARD, **change})}))
    with refused("is not a weights file of this package"):
        named(str(path), DIGITS)


def test_weights_files_that_make_no_network(tmp_path: Path) -> None:
    tensors = load_tensors((WEIGHTS / "digits.safetensors").read_bytes())
    path, card = tmp_path / "mine.safetensors", {"card": json.dumps(GOOD_CARD)}
    first = next(name for name, tensor in tensors.items() if tensor.ndim)
    for held, told in (
        ({}, card),
        (tensors, {}),
        (tensors, {"other": ""}),
        *(
            (tensors, {"card": text})
            for text in ("", "3", "[]", "{}", "null", '{"accuracy": 1}', "[" * 100_000, "\x00")
        ),
        ({name: tensor.half() for name, tensor in tensors.items()}, card),
        ({**tensors, first: tensors[first].double()}, card),
        ({**tensors, first: tensors[first][:1]}, card),
        ({**tensors, "more": torch.zeros(1)}, card),
        ({name: tensor for name, tensor in tensors.items() if name != first}, card),
    ):
        path.write_bytes(save_tensors({k: v.contiguous() for k, v in held.items()}, told))
        with refused("is not a weights file of this package"):
            named(str(path), DIGITS)


def test_another_keys_cached_features_are_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of cached files in each other's places change nothing: every space, split and number of images its own."""
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    digits = load("digits")
    asked = [
        (space, split, n) for space in spaces_for("digits", DIGITS) for split in ("train", "test") for n in (20, 30)
    ]

    def answers() -> list[torch.Tensor]:
        return [cached(space, digits, split, getattr(digits, split).x[:n]).values for space, split, n in asked]

    wanted = answers()
    files = sorted((tmp_path / "features").iterdir())
    assert len(files) == len(asked)
    kept = {file: file.read_bytes() for file in files}
    for shift in range(1, len(files)):
        for i, file in enumerate(files):
            file.write_bytes(kept[files[(i + shift) % len(files)]])
        assert all(torch.equal(a, b) for a, b in zip(answers(), wanted, strict=True))
        assert {file: file.read_bytes() for file in files} == kept, "and are made anew"
    monkeypatch.setattr(FeatureSpace, "features", None)
    assert all(torch.equal(a, b) for a, b in zip(answers(), wanted, strict=True)), "what lies in its place is believed"


def test_another_folders_cached_pixels_are_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(folder_module, "SETTLED", 0)
    names = []
    for number, (count, size) in enumerate(((40, 8), (40, 8), (41, 8), (40, 9))):
        root = tmp_path / str(number)
        root.mkdir()
        for i in range(count):
            pixels = np.random.default_rng([number, i]).integers(0, 256, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"{i:03}.png")
        names.append(f"folder:{root}@{size}")
    wanted = [load(name).checksum for name in names]
    files = sorted((cache_folder() / "folder").iterdir())
    kept = {file: file.read_bytes() for file in files}
    assert len(set(wanted)) == len(files) == 4
    for shift in (1, 2, 3):
        for i, file in enumerate(files):
            file.write_bytes(kept[files[(i + shift) % 4]])
        assert [load(name).checksum for name in names] == wanted
        assert {file: file.read_bytes() for file in files} == kept, "and are made anew"
    monkeypatch.setattr(folder_module, "_decode_one", None)
    assert [load(name).checksum for name in names] == wanted, "what lies in its place is believed"


def test_packed_batches_that_lie(tmp_path: Path) -> None:
    """A mosaic of any size, of another kind, or none."""
    for data in (b"", b"\x00\x00\x00\x01\x05RIFF", (1 << 31).to_bytes(4, "big"), b"\x00\x00\x00\x01\x05" + png_head()):
        with refused("is damaged, or was not packed by this program"):
            unpack(data, "x")


def png_head() -> bytes:
    """A PNG of 30,000 by 30,000 pixels that is all head."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = (30_000).to_bytes(4, "big")
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + size + bytes([8, 2, 0, 0, 0]))
    return head + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
