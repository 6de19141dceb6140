"""Files that mean harm, and whole files in another's place: nothing in them runs, nothing is waited for, no memory is
taken before it is asked how much, and what is read is what it is read as."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from onnx import TensorProto, helper
from PIL import EpsImagePlugin, Image
from torch import nn

from bench.cli import app
from bench.data import folder as folder_module
from bench.features import named
from paradigms.contract import Space
from paradigms.errors import BadInput
from reports.page import _picture

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
    assert not _picture(path)
    assert len(started) == 1
