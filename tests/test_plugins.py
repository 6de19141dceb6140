"""What other packages add, from the examples in the documentation: found, checked, used, and never in the way."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench import checks
from bench.cli import app
from bench.data import load, sets
from bench.metrics import table
from bench.scores import kept
from paradigms import plugins
from paradigms.backbones import build
from reports import metrics

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
ADDED = {"bench.metrics": "my_metric", "bench.datasets": "my_dataset", "paradigms.backbones": "my_backbone"}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The examples as other packages add them, and in each group one that can not be loaded."""
    (tmp_path / "broken_one.py").write_text("raise RuntimeError('half\\nmade')")
    for name in ADDED.values():
        shutil.copy(EXAMPLES / f"{name}.py", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def points(group: str) -> list[EntryPoint]:
        mine = [EntryPoint("mine", ADDED[group], group)] if group in ADDED else []
        return [*mine, EntryPoint("bad", "broken_one", group)]

    for module in (plugins, metrics):
        monkeypatch.setattr(module, "entry_points", points)
    _forget()
    yield tmp_path
    monkeypatch.undo()
    _forget()
    for name in (*ADDED.values(), "broken_one"):
        sys.modules.pop(name, None)


def _forget() -> None:
    plugins.forget()
    plugins._warned.clear()
    for kept_table in (metrics._known, table._known, sets._definitions, build._known):
        kept_table.cache_clear()


def test_each_is_found_and_what_is_broken_costs_a_line(installed, caplog):
    assert "spiral" in sets.definitions()
    assert metrics.known()["mean_gap"].direction == "↓"
    assert "mean_gap" in table.known()
    assert "tiny" in build.known()
    assert load("spiral").space.classes == 2
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1  # the same in each group
    assert all("plugin 'bad' (broken_one) can not be loaded: RuntimeError: half made" in line for line in lines)


def test_a_metrics_code_is_in_the_key_of_the_rows(installed, monkeypatch):
    with_it = kept.code()
    assert table.plugin_files() == {installed / "my_metric.py"}
    monkeypatch.setattr(plugins, "entry_points", lambda group: [])
    _forget()
    assert kept.code() != with_it


def test_lists_show_them(installed):
    for kind, name in (("datasets", "spiral"), ("metrics", "mean_gap"), ("backbones", "tiny")):
        result = CliRunner().invoke(app, ["list", kind, "--json"])
        assert result.exit_code == 0
        assert name in result.stdout


@pytest.mark.parametrize("module", ["my_metric", "my_dataset", "my_backbone", "my_paradigm"])
def test_the_examples_pass_the_checks(module, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    results = [result for thing in checks.things_called(module) for result in checks.check(thing)]
    assert results
    assert not [result for result in results if result.problem]


def test_a_failed_check_is_exit_1_and_a_wrong_name_exit_2(monkeypatch, tmp_path):
    text = (EXAMPLES / "my_metric.py").read_text().replace("gap.item()", "float('nan')")
    (tmp_path / "bad_metric.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["check", "bad_metric"])
    assert result.exit_code == 1
    assert "FAIL  mean_gap: gives a finite value of its name (digits): it gave [nan]" in result.stdout
    assert CliRunner().invoke(app, ["check", "nonsense"]).exit_code == 2
    sys.modules.pop("bad_metric", None)
