"""The notebooks of the documentation: plain, without output, and every cell runs."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from paradigms import plugins

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def cells(path: Path, kind: str) -> list[str]:
    return ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_without_output(path):
    held = json.loads(path.read_text())
    assert (held["nbformat"], held["nbformat_minor"]) == (4, 5)
    code = [cell for cell in held["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= 4
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len({cell["id"] for cell in held["cells"]}) == len(held["cells"])
    for text in cells(path, "code"):
        compile(text, path.name, "exec")


def run(name: str, world: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the cells of a notebook leave behind, run one after the other in a folder of their own."""
    patch.chdir(world)
    patch.setattr(sys, "path", [*sys.path])
    shutil.copy(EXAMPLES / "my_paradigm.py", world)
    names: dict[str, Any] = {}
    for text in cells(EXAMPLES / name, "code"):
        exec(text, names)
    return names


@pytest.mark.heavy
def test_compare_on_my_images(tmp_path, monkeypatch):
    names = run("compare_on_my_images.ipynb", tmp_path, monkeypatch)
    assert {r.info.status for r in names["runs"].values()} == {"ok"}
    assert len({r.info.checksum for r in names["runs"].values()}) == 1
    table = names["table"]
    assert set(table.index) == {"vae", "flow-matching", "real-train"}
    assert table.notna().all().all()
    assert table["kd"].idxmin() == "real-train"
    assert names["grid"].size == (512, 512)


@pytest.mark.heavy
def test_add_my_method(tmp_path, monkeypatch, capsys):
    names = run("add_my_method.ipynb", tmp_path, monkeypatch)
    said = capsys.readouterr().out
    assert (names["mine"].info.recipe, names["mine"].info.status) == ("independent-normals", "ok")
    assert "temperature from 0 to 2, not 3" in said
    table = names["table"]
    assert set(table.index) == {"independent-normals", "vae", "real-train"}
    assert table.notna().all().all()
    assert names["cold"].shape == (8, 1, 8, 8)
    plugins.forget()
    sys.modules.pop("my_package.my_paradigm", None)
