"""Another package of one of the three names is found before anything of it is used, and said in a line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bench import start

ROOT = Path(start.__file__).parents[1]
CODE = "from bench.start import main; main()"


def begun(*path: Path, code: str = CODE) -> subprocess.CompletedProcess[str]:
    """`bench list tiers` where Python looks in these folders first."""
    places = os.pathsep.join(map(str, path))
    return subprocess.run(
        [sys.executable, "-c", code, "list", "tiers"],
        capture_output=True, text=True, cwd=path[0], env={**os.environ, "PYTHONPATH": places},
    )  # fmt: skip


def refused(found: subprocess.CompletedProcess[str], *words: str) -> None:
    assert (found.returncode, found.stdout) == (2, "")
    (line,) = found.stderr.splitlines()
    for word in ("error: ", *words, "install paradigm-bench into an environment of its own"):
        assert word in line


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Where the first files of the three packages are installed."""
    for name in start.NAMES:
        (tmp_path / "site" / name).mkdir(parents=True)
        shutil.copy(ROOT / name / "__init__.py", tmp_path / "site" / name)
    shutil.copy(start.__file__, tmp_path / "site" / "bench")
    return tmp_path / "site"


def test_the_command_begins_here():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"bench": "bench.start:main"}
    assert start.clash() == ""


def test_it_starts_where_all_is_its_own(tmp_path):
    (tmp_path / "reports").mkdir()  # a folder of results, say, is no package that comes first
    found = begun(tmp_path, ROOT)
    assert (found.returncode, found.stderr) == (0, "")
    assert "smoke" in found.stdout


@pytest.mark.parametrize("name", ["paradigms", "reports"])
@pytest.mark.parametrize("file", ["{}/__init__.py", "{}.py"])
def test_another_that_comes_first_is_named(tmp_path, name, file):
    path = tmp_path / file.format(name)
    path.parent.mkdir(exist_ok=True)
    path.write_text("raise SystemExit('this code was run')")
    refused(begun(tmp_path, ROOT), f"another package is called '{name}'", f"Python finds {path}")
    python = begun(tmp_path, ROOT, code="import bench; bench.load")
    assert "this code was run" not in python.stderr
    assert python.stderr.splitlines()[-1].startswith(f"ImportError: another package is called '{name}'")


@pytest.mark.parametrize("name", start.NAMES)
def test_another_that_was_written_over_it_is_named(site, name):
    (site / name / "__init__.py").write_text('"""Something else."""\n__distribution__ = "other"\n')
    refused(begun(site), f"has written its '{name}' over this one's", str(site / name))


def test_one_that_is_missing_is_named(site):
    shutil.rmtree(site / "reports")
    found = begun(site, code=f"import sys; sys.path = [p for p in sys.path if p != {str(ROOT)!r}]\n"
                  "sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n" + CODE)  # fmt: skip
    refused(found, "the package 'reports' is not beside 'bench'")


def test_it_costs_next_to_nothing():
    """It opens three small files and imports nothing."""
    code = "import sys; from bench import start; before = set(sys.modules); start.clash(); print(set(sys.modules) - before)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout == "set()\n"
