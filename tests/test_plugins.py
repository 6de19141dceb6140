"""What other packages add, from the examples in the documentation: found, checked, used, and never in the way."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from bench import checks, recipes
from bench.cli import app
from bench.data import load, names, sets
from bench.data.dataset import Dataset
from bench.lab import readme
from bench.metrics import Compared, Value, table, values_of
from bench.runs.budget import build as build_model
from bench.scores import kept
from paradigms import catalogue, plugins
from paradigms.backbones import build
from paradigms.contract import Paradigm
from paradigms.core.data import Space
from paradigms.errors import BadInput
from paradigms.recipe import Recipe
from reports import metrics
from reports.metrics import Metric

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
ADDED = {
    "bench.metrics": "my_metric",
    "bench.datasets": "my_dataset",
    "paradigms.backbones": "my_backbone",
    "paradigms.recipes": "my_paradigm",
}


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


GIVEN = Compared(torch.zeros(2, 1), torch.zeros(2, 1), None, None, None, None, None, "test")


@pytest.mark.parametrize("made", [Value("mine", 1.0), [Value("mine", 1.0), Value("mine", 2.0)]])
def test_a_metric_gives_one_value_or_several(made):
    assert {value.metric for value in values_of(Metric("mine", by=lambda _: made), GIVEN)} == {"mine"}


@pytest.mark.parametrize("made", [None, 1.0, Value("fd", 1.0), [1.0]])
def test_what_is_no_value_of_the_metric_is_a_line(made):
    with pytest.raises(BadInput, match=r"metric mine must return a Value\('mine', number\)"):
        values_of(Metric("mine", by=lambda _: made), GIVEN)


@pytest.mark.parametrize(
    ("x", "levels"),
    [
        (torch.zeros(9, 1, 4, 4), 0),
        (torch.zeros(9, 3, dtype=torch.uint8), 5),
        (torch.zeros(9, 1, 4, 4, dtype=torch.uint8), 1),
        (torch.zeros(9, 1, 4, 4, dtype=torch.uint8), 1000),
    ],
)
def test_a_data_set_is_of_images_with_levels_or_vectors_without(x, levels):
    with pytest.raises(BadInput, match=f"have levels={levels}; images have 2 to 256 of them, vectors none"):
        Dataset.of("mine", (x, None), (x, None), levels=levels)


def test_what_has_no_backbone_is_not_said_to_be_in_bf16(monkeypatch):
    class Bare(Paradigm):
        def __init__(self, config, space, width, parents):
            super().__init__(config, space, width, parents)
            self.net = nn.Linear(2, 2)

    monkeypatch.setattr(Bare, "__abstractmethods__", frozenset())
    bare = Recipe("bare", Bare, None, ""), Space((1, 4, 4), levels=4), 8, {}, None, 0, torch.device("cpu")
    assert build_model(*bare, "fp32").precision == "fp32"
    with pytest.raises(BadInput, match="--precision bf16: bare has no network that subclasses"):
        build_model(*bare, "bf16")


def test_lists_show_them(installed, caplog):
    assert CliRunner().invoke(app, ["list", "metrics"]).exit_code == 0
    assert "plugin 'bad' (broken_one) can not be loaded" in caplog.text
    for kind, name in (
        ("datasets", "spiral"),
        ("metrics", "mean_gap"),
        ("backbones", "tiny"),
        ("recipes", "independent-normals"),
        ("recipes", "spiral"),
        ("samplers", "independent-normals"),
        ("settings independent-normals", "learning rate of Adam"),
        ("settings vae", "tiny"),
    ):
        result = CliRunner().invoke(app, ["list", *kind.split(), "--json"])
        assert result.exit_code == 0
        assert name in result.stdout, (kind, name)


def test_what_is_generated_is_of_ours_alone(installed):
    assert "spiral" in names.known()
    assert recipes.kept() == recipes.KEPT.read_text("utf-8") != recipes._asked()
    assert not [page for page, text in readme.generated().items() if page.read_text("utf-8") != text]


@pytest.mark.parametrize("module", ["my_metric", "my_dataset", "my_backbone", "my_paradigm"])
def test_the_examples_pass_the_checks(module, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    results = [result for _, result in checks.checked(module)]
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


def test_recipes_of_a_module_may_stand_on_one_another(monkeypatch, tmp_path):
    text = (EXAMPLES / "my_paradigm.py").read_text()
    text = text.replace("from paradigms.recipe import Recipe", "from paradigms.recipe import Need, Recipe")
    text += "NEEDS = {'it': Need('independent-normals', Trainable)}\n"
    text += "RECIPES += (Recipe('child', IndependentNormals, Config(), 'a child', NEEDS),)\n"
    text = text.replace("import Paradigm", "import Paradigm, Trainable", 1)
    (tmp_path / "a_family.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    results = [(thing.name, result.problem) for thing, result in checks.checked("a_family")]
    assert {name for name, _ in results} == {"independent-normals", "child"}
    assert not [problem for _, problem in results if problem]
    assert "child" not in catalogue.names(), "only while it is checked"
    sys.modules.pop("a_family", None)


def test_what_is_there_already_is_not_taken_for_another(caplog):
    assert not [result for _, result in checks.checked("paradigms.ncsn") if result.problem]
    assert "left out" not in caplog.text
    assert not plugins._taken


BROKEN = {
    "        self.net = Affine(space.dim, width)": (
        "        self.net = Affine(space.dim, width)\n        self.more = nn.Linear(2, 2)",
        "no optimizer holds more.bias, more.weight, which wants a gradient",
    ),
    'frozenset({"net.idle"})': ("frozenset()", "no gradient ever reached net.idle; name it in `idle` if that is meant"),
    " + 0 * self.net.idle.sum()": ("", ""),
    "x = dequantise(batch.x, self.space.levels, noise)": ("x = batch.x", "another noise gave the same losses"),
    "    idle = ": ("    noiseless = True\n    idle = ", "it says `noiseless`, and another noise gave other losses"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_an_author_forgot_is_said(what, monkeypatch, tmp_path):
    other, problem = BROKEN[what]
    text = (EXAMPLES / "my_paradigm.py").read_text()
    assert what in text
    (tmp_path / "a_slip.py").write_text(text.replace(what, other, 1))
    monkeypatch.syspath_prepend(tmp_path)
    try:
        found = {result.problem for _, result in checks.checked("a_slip")} - {""}
    finally:
        sys.modules.pop("a_slip", None)
    assert any(problem in one for one in found) if problem else not found
