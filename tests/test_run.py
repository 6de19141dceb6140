"""Runs: identity, settings, widths, schedules, parents, caching, resume, failures, damaged folders; and the catalogue.

The recipes used here come from a file outside the package, through an entry point, as a stranger's would.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import bench.data
from bench import runs, scores, store, suite, tiers
from bench.cli import app
from bench.loop import Loop
from bench.progress import Progress, Silent
from bench.runs import budget, loading, machine, make, settings, training
from bench.runs.info import SCHEMA
from bench.store import files
from bench.suite import grid, stages
from paradigms import catalogue, plugins
from paradigms.contract import Frozen, Trainable
from paradigms.core.data import Data, Space
from paradigms.errors import BadInput
from reports.files import fingerprint
from reports.layout import LOG, STATE

PLUGIN = '''
"""A regression that knows its place, one that needs it, and some that fail."""
from dataclasses import dataclass

import torch
from torch import nn

from paradigms.contract import Trainable, Update
from paradigms.recipe import Need, Recipe


@dataclass(frozen=True)
class Config:
    batch: int = 16
    lr: float = 1e-2


class Mean(Trainable):
    def __init__(self, config, space, width, parents):
        super().__init__(config, space, width, parents)
        self.parents = parents
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(space.dim, width), nn.SiLU(), nn.Linear(width, space.dim))

    @staticmethod
    def refuses(config, space):
        return "it wants vectors" if space.is_image else None

    def optimizers(self):
        return {self.net: torch.optim.AdamW(self.net.parameters(), lr=self.config.lr, fused=True)}

    def updates(self, batch, progress, noise):
        target = next(iter(self.parents.values())).model.net(batch.x) if self.parents else batch.x
        loss = (self.net(batch.x + noise.normal(*batch.x.shape)) - target).square().mean()
        yield Update(self.net, loss)


class Diverging(Mean):
    def updates(self, batch, progress, noise):
        yield Update(self.net, self.net(batch.x).mean() * (float("nan") if progress > 0.5 else 1.0))


class Ill(Mean):
    def symptom(self, terms):
        return f"its loss is {terms['loss'] > 0}ly positive"


class Broken(Mean):
    def optimizers(self):
        if self.net[1].weight.device.type != "meta":
            raise ValueError("no such optimizer")
        return super().optimizers()


RECIPES = (
    Recipe("mean", Mean, Config(), "predicts the data"),
    Recipe("child", Mean, Config(lr=1e-3), "predicts what its teacher does", {"teacher": Need("mean", Mean, 0.5)}, 0.5),
    Recipe("grandchild", Mean, Config(), "", {"teacher": Need("child", Mean, 0.5)}),
    Recipe("diverging", Diverging, Config(), ""),
    Recipe("lodger", Mean, Config(), "", {"host": Need("mean", Mean, 0.5, at_sampling=True)}),
    Recipe("orphan", Mean, Config(), "", {"teacher": Need("diverging", Mean)}),
    Recipe("ill", Ill, Config(), ""),
    Recipe("broken", Broken, Config(), ""),
    Recipe("ouroboros", Mean, Config(), "", {"teacher": Need("ouroboros", Mean)}),
    Recipe("variant", Mean, Config(lr=0.1), "quicker", variant_of="mean", aliases=("other", "another")),
)
'''

TIER = replace(
    tiers.get("smoke"),
    name="tiny",
    vectors=tiers.Budget(flops=2 * 16 * 7 * 5 * 50 * 60, seconds=1e9, images=320, params=500),
)


@pytest.fixture(autouse=True)
def stranger(tmp_path, monkeypatch):
    """An installed plugin, a small data set, one thread."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "stranger.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "stranger", raising=False)
    points = [EntryPoint("stranger", "stranger", catalogue.DOOR.group)]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == catalogue.DOOR.group else [])
    plugins.forget()
    space = Space((3,), classes=2)
    x, y = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
    toy = bench.data.Dataset(
        "toy", space, Data(x[:30], y[:30], space), Data(x[30:], y[30:], space), "c0ffee", ("a", "b")
    )
    monkeypatch.setattr(bench.data, "load", lambda name, source=None: toy, raising=False)
    runs.dataset.cache_clear()
    yield points
    runs.dataset.cache_clear()


@pytest.fixture
def out(tmp_path):
    return tmp_path / "runs"


def plan(recipe="mean", seed=0, settings=(), tier=TIER, match="", **options):
    return runs.define(recipe, "toy", seed, replace(tier, match=match or tier.match), settings, **options)


class Seen(Progress):
    """Notes the stages; stops after `at` steps of `stage`."""

    def __init__(self, stage="", at=-1):
        super().__init__()
        self.stop, self.stages = (stage, at), []

    def update(self, stage, done, total, **facts):
        self.stages += [] if stage in self.stages else [stage]
        if (stage, done) == self.stop:
            raise KeyboardInterrupt


# -------------------------------------------------------------------------------------------------------- identity


def test_identity_is_what_matters():
    base = plan()
    same = [plan(), replace(base, place="elsewhere"), pickle.loads(pickle.dumps(base))]
    same += [replace(base, tier=replace(TIER, name="other", samples=7, summary="evaluation is not training"))]
    assert {run.id for run in same} == {base.id}
    other = [plan(seed=1), plan("child"), plan(settings=["lr=0.5"]), plan(conditional=True), plan(match="images")]
    other += [replace(base, checksum="decaf"), replace(base, share=0.5)]
    other += [plan(tier=replace(TIER, vectors=replace(TIER.vectors, flops=1.0)))]
    assert len({run.where for run in (base, *other)}) == len(other) + 1
    child = plan("child")
    fewer = [
        runs.define("flow-matching", "ring8", 0, TIER, ["unlabelled=0.3"], conditional=told) for told in (False, True)
    ]
    usual = [runs.define("flow-matching", "ring8", 0, TIER, conditional=told) for told in (False, True)]
    assert [a.id == b.id for a, b in zip(fewer, usual)] == [True, False], "without labels none can be withheld"
    inside = [
        [
            runs.define("latent-ddpm", "ring8", 0, TIER, some, conditional=told).id
            for some in ([], ["inner.unlabelled=0.3"])
        ]
        for told in (False, True)
    ]
    assert [a == b for a, b in inside] == [True, False]
    assert replace(child, parents=(("teacher", plan(settings=["lr=0.5"])),)).id != child.id


@pytest.mark.heavy
def test_identity_does_not_depend_on_the_process():
    script = (
        "import sys; sys.path.insert(0, 'tests')\nfrom bench.runs import Run\nfrom bench.tiers import get\n"
        "from paradigms.core.data import Space\nfrom dataclasses import dataclass\n"
        "@dataclass(frozen=True)\nclass C:\n    a: float = 0.1\n    b: tuple = (1, 2)\n"
        "print(Run('r', C(), 'd', 'c', Space((2,)), 3, get('quick')).where)"
    )
    cwd = Path(__file__).parents[1]
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=cwd,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    assert found.pop().startswith("d/r/3-")


@pytest.mark.parametrize("name", ["folder:/home/me/cats@32", "../../etc", "a b", "é", ".hidden", "x" * 300, "CON\0"])
def test_any_name_makes_one_safe_folder_name(name):
    slug = runs.slug(name)
    assert Path(slug).name == slug
    assert len(slug) < 80
    assert slug.isascii()
    assert not slug.startswith(".")
    assert slug != runs.slug(name + "!")
    assert runs.slug("fashion-mnist@14") == "fashion-mnist@14"


def test_a_parent_gets_its_share_of_the_budget():
    child = plan("child")
    assert child.share == 0.5
    ((role, parent),) = child.parents
    assert (role, parent.recipe, parent.share, parent.seed) == ("teacher", "mean", 0.5, 0)
    assert parent.id != plan("mean").id  # half a budget is another run
    assert replace(parent, share=1.0).id == plan("mean").id


def test_what_can_not_be_planned_is_one_clear_line(monkeypatch):
    with pytest.raises(BadInput, match="did you mean 'mean'"):
        plan("meen")
    with pytest.raises(BadInput, match=r"needs itself \(ouroboros -> ouroboros\)"):
        plan("ouroboros")
    image = Space((1, 8, 8), levels=17)
    assert runs.refusal("mean", image) == "it wants vectors"
    assert runs.refusal("child", image) == "it wants vectors"
    assert runs.refusal("child", Space((3,))) is None
    found = replace(bench.data.load("toy"), space=image)
    monkeypatch.setattr(bench.data, "load", lambda name, source=None: found)
    runs.dataset.cache_clear()
    with pytest.raises(BadInput, match="mean can not model toy: it wants vectors"):
        plan()
    with pytest.raises(BadInput, match="no labels"):
        plan(conditional=True)


# -------------------------------------------------------------------------------------------------------- settings


@dataclass(frozen=True)
class Inner:
    depth: int = 2


@dataclass(frozen=True)
class Settings:
    batch: int = 8
    lr: float = 1e-3
    flag: bool = False
    name: str = "a"
    clip: float | None = None
    kind: Literal["cosine", "linear"] = "cosine"
    widths: tuple[int, ...] = (1, 2)
    betas: tuple[float, float] = (0.9, 0.99)
    inner: Inner = Inner()

    def __post_init__(self):
        if self.batch < 1:
            raise ValueError("batch must be at least 1")


@pytest.mark.parametrize(
    ("setting", "field", "value"),
    [
        ("batch=16", "batch", 16),
        ("batch=1e3", "batch", 1000),
        ("lr=2e-4", "lr", 2e-4),
        ("lr=1", "lr", 1.0),
        ("flag=true", "flag", True),
        ("flag=off", "flag", False),
        ("name=b=c", "name", "b=c"),
        ("clip=1.5", "clip", 1.5),
        ("clip=none", "clip", None),
        ("kind=linear", "kind", "linear"),
        ("widths=3, 4,5", "widths", (3, 4, 5)),
        ("widths=(7,)", "widths", (7,)),
        ("betas=0,0.9", "betas", (0.0, 0.9)),
        ("inner.depth=5", "inner", Inner(5)),
    ],
)
def test_settings_take_the_type_of_their_field(setting, field, value):
    changed = getattr(runs.configure(Settings(), [setting]), field)
    assert changed == value
    assert type(changed) is type(value)


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ("bach=3", "did you mean 'batch'"),
        ("batch", "write it as key=value; keys: batch, lr"),
        ("batch=many", "'batch' must be a whole number, not 'many'"),
        ("batch=1.5", "'batch' must be a whole number"),
        ("batch=0", "batch must be at least 1"),
        ("lr=fast", "'lr' must be a number"),
        ("lr=nan", "'lr' must be a number"),
        ("lr=", "'lr' must be a number"),
        ("flag=maybe", "'flag' must be true or false"),
        ("clip=x", "'clip' must be a number or none"),
        ("kind=square", "'kind' must be cosine or linear"),
        ("widths=1,x", "'widths' must be values separated by commas, each a whole number"),
        ("betas=1", "'betas' must be 2 values"),
        ("inner=3", "name one of its parts: depth"),
        ("inner.deep=3", "did you mean 'depth'"),
        ("dept=3", "did you mean 'inner.depth'"),
        ("lr.x=3", "'lr' has no parts"),
        ("batch=1e400", "'batch' must be a whole number"),
        ("batch=9223372036854775808", "is more than files hold"),
        ("widths=1,1e30", "is more than files hold"),
        ("lr=1e101", "is more than files hold"),
    ],
)
def test_bad_settings_are_one_clear_line(setting, match):
    with pytest.raises(BadInput, match=match) as error:
        runs.configure(Settings(), [setting])
    assert "\n" not in str(error.value)
    assert f"--set {setting}" in str(error.value)


def test_a_config_survives_its_run_json():
    config = runs.configure(Settings(), ["widths=4,5", "inner.depth=9", "clip=2"])
    values = json.loads(json.dumps(dataclasses.asdict(config)))
    assert settings.restored(Settings(), values, Path("run.json")) == config
    with pytest.raises(BadInput, match="no longer has"):
        settings.restored(Settings(), {"colour": 1}, Path("run.json"))


# -------------------------------------------------------------------------------------------------- width and steps


@pytest.mark.parametrize("large", [0, 10**9])
@pytest.mark.parametrize("target", [20, 500, 10_000, 300_000])
def test_the_width_is_the_nearest_to_the_target(target, large, monkeypatch):
    monkeypatch.setattr(budget, "LARGE", large)  # networks on the meta device, and real ones
    recipe = catalogue.get("mean")
    width, params = runs.fit_width(recipe, Space((3,)), target, {}, recipe.config)

    def count(w):
        return 7 * w + 3

    assert params == count(width)
    assert abs(params - target) <= min(abs(count(width - 1) - target), abs(count(width + 1) - target)) + 1
    assert abs(params / target - 1) < 0.25


def test_flops_fix_the_number_of_steps(out):
    info = runs.read_info(runs.ensure(plan(), out))
    width = info.width
    # Two layers forward, two gradients to weights, one to the hidden layer.
    assert info.flops_per_step == 2 * 16 * 3 * width * 5
    assert info.planned_steps == info.steps == int(TIER.vectors.flops / info.flops_per_step)
    assert info.bound == "flops"
    assert 0.98 < info.flops / TIER.vectors.flops <= 1
    half = runs.read_info(runs.ensure(replace(plan(), share=0.5), out))
    assert half.steps == info.steps // 2


def test_images_fix_the_number_of_steps(out):
    info = runs.read_info(runs.ensure(plan(match="images"), out))
    assert (info.steps, info.images, info.bound) == (20, 320, "images")


@pytest.fixture
def millisecond_steps(monkeypatch):
    """A clock that advances by 1 ms whenever it is read, so that each step takes that long."""
    ticks = itertools.count()
    monkeypatch.setattr(budget, "_clock", lambda device, threads: lambda: next(ticks) / 1000)


def test_the_cap_in_seconds_binds_and_says_so(out, millisecond_steps):
    tier = replace(TIER, vectors=replace(TIER.vectors, flops=1e15, seconds=0.1239))
    info = runs.read_info(runs.ensure(plan(tier=tier), out))
    assert info.bound == "seconds"
    assert info.seconds_per_step == pytest.approx(1e-3)
    assert info.steps == 120, "two significant digits"
    assert runs.read_info(runs.ensure(plan(tier=tier, match="seconds"), out)).bound == "seconds"


@pytest.mark.parametrize(("matters", "steps"), [(1e3, 6), (1.0, 26)])
def test_steps_are_timed_again_only_where_the_cap_is_near(matters, steps):
    """Also where one phase of the training alone is slow."""
    done = []

    def clock():
        return sum(0.95 if k == 500 else 0.01 for k in done)

    loop = SimpleNamespace(steps=1000, step=done.append)
    seconds = budget._seconds_per_step(loop, clock, 100.0, matters)
    assert seconds == pytest.approx((0.95 + 4 * 0.01) / 5)
    assert len(done) == steps


def test_all_seeds_share_one_schedule(out, monkeypatch, millisecond_steps):
    tier = replace(TIER, vectors=replace(TIER.vectors, seconds=0.05), match="seconds")
    steps = {runs.read_info(runs.ensure(plan(tier=tier, seed=seed), out)).steps for seed in range(3)}
    assert len(steps) == 1
    assert len(list((out / "toy" / "mean").glob("plan-*.json"))) == 1
    monkeypatch.setattr(budget, "_calibrate", lambda *_: pytest.fail("calibrated again"))
    runs.ensure(plan(tier=tier, seed=3), out)


@pytest.mark.parametrize(("steps", "rounded"), [(0.5, 0.5), (7.9, 7), (56, 56), (563, 560), (12_999, 12_000)])
def test_two_digits(steps, rounded):
    assert budget._two_digits(steps) == rounded


def test_a_missed_parameter_target_is_said(out):
    tier = replace(TIER, vectors=replace(TIER.vectors, params=3))
    info = runs.read_info(runs.ensure(plan(tier=tier, match="images"), out))
    assert info.width == 1
    assert "10 trained parameters are +233% off the target of 3" in info.params_note


def test_a_budget_below_one_step_is_refused(out):
    tier = replace(TIER, vectors=replace(TIER.vectors, flops=10.0))
    with pytest.raises(BadInput, match="does not pay for one step"):
        runs.ensure(plan(tier=tier), out)


# ---------------------------------------------------------------------------------------------------------- ensure


def test_a_finished_run_is_loaded_and_not_trained_again(out):
    seen = Seen()
    folder = runs.ensure(plan(), out, seen)
    assert seen.stages == ["plan mean", "train mean"]
    assert {p.name for p in folder.iterdir()} == whole(folder)
    again = Seen()
    assert runs.ensure(plan(), out, again) == folder
    assert again.stages == []
    model, info = runs.load(folder)
    assert not model.training
    assert (info.status, info.recipe, info.id, info.where) == ("ok", "mean", plan().id, plan().where)
    raw, _ = runs.load(folder, "raw")
    assert not torch.equal(raw.net[1].weight, model.net[1].weight)
    row = runs.base_row(info)
    assert (row.run, row.recipe, row.seed, row.fraction, row.flops) == (info.id, "mean", 0, 1.0, info.flops)
    assert row.params_trained == info.params_trained == sum(p.numel() for p in model.parameters())


def test_parents_come_first_and_are_charged_once(out):
    seen = Seen()
    folder = runs.ensure(plan("grandchild"), out, seen)
    assert [s for s in seen.stages if s.startswith("train")] == ["train mean", "train child", "train grandchild"]
    info = runs.read_info(folder)
    assert len(info.costs) == 3
    assert info.flops_total == sum(cost["flops"] for cost in info.costs.values()) > info.flops
    model, _ = runs.load(folder)
    teacher = model.parents["teacher"]
    assert isinstance(teacher, Frozen)
    state = runs.load(out / info.parents["teacher"])[0].core.state_dict()
    assert all(torch.equal(t, state[n]) for n, t in teacher.model.state_dict().items())
    assert not any(p.requires_grad for p in teacher.model.parameters())


def test_parents_that_were_deleted_are_not_needed_to_be_a_cache_hit(out):
    folder = runs.ensure(plan("child"), out)
    seen = Seen()
    (out / runs.read_info(folder).parents["teacher"] / "weights.safetensors").unlink()
    assert runs.ensure(plan("child"), out, seen) == folder
    assert seen.stages == []
    runs.load(folder)


def test_a_deleted_parent_that_samples_are_drawn_with_is_made_anew(out, caplog):
    folder = runs.ensure(plan("lodger"), out)
    host = out / runs.read_info(folder).parents["host"]
    before = (host / "weights.safetensors").read_bytes()
    shutil.rmtree(host)
    seen = Seen()
    assert runs.ensure(plan("lodger"), out, seen) == folder
    assert (host / "weights.safetensors").read_bytes() == before
    assert [f"{folder} was trained on {host}, which is gone" in r.getMessage() for r in caplog.records] == [True]
    runs.load(folder)


def weights(folder):
    """The sha256 of the final weights and of those kept on the way."""
    found = {name: entry["sha256"] for name, entry in store.manifest(folder).items() if name.endswith(".safetensors")}
    assert len(found) == 3
    return found


def whole(folder):
    """The names of the files of a finished run."""
    steps = runs.read_info(folder).planned_steps
    kept = {f"at-{round(part * steps)}.safetensors" for part in runs.SNAPSHOTS}
    return {"run.json", LOG, "weights.safetensors", "manifest.json", ".lock"} | kept


@pytest.mark.parametrize("stop", [17, 30])  # before and after the first weights that are kept on the way
def test_a_stopped_run_goes_on_with_the_steps_it_began_with(stop, out, tmp_path, monkeypatch):
    expected = weights(runs.ensure(plan(), tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        runs.ensure(plan(), out, Seen("train mean", stop))
    folder = plan().folder(out)
    assert (folder / STATE).exists()
    assert runs.read_info(folder).status == "training"
    with pytest.raises(BadInput, match="has not finished training"):
        runs.load(folder)
    monkeypatch.setattr(budget, "_calibrate", lambda *_: pytest.fail("calibrated again"))
    store.save_rows(folder, [store.Row(status="failed", reason="its process was killed")], key="failed")
    (folder / ".weights.safetensors.1.tmp").write_text("cut short")
    runs.ensure(plan(), out)
    assert {p.name for p in folder.iterdir()} == whole(folder)
    info = runs.read_info(folder)
    assert info.resumed == (stop,)
    assert info.codes == (info.code,)
    assert weights(folder) == expected
    assert not (folder / STATE).exists()


def test_weights_kept_on_the_way_are_loaded_with_what_they_had_cost(out):
    folder = runs.ensure(plan(), out)
    last, info = runs.load(folder)
    first, second = runs.snapshots(folder)
    for step in (first, second):
        model, then = runs.load(folder, step=step)
        assert not torch.equal(model.net[1].weight, last.net[1].weight)
        assert (then.steps, then.images) == (step, step * info.batch)
        assert then.flops == pytest.approx(step * info.flops_per_step)
        assert then.flops_total == pytest.approx(then.flops)
        assert runs.base_row(then).fraction == step / info.planned_steps
    data = bytearray((folder / f"at-{first}.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / f"at-{first}.safetensors").write_bytes(data)
    with pytest.raises(BadInput, match="damaged"):
        runs.load(folder, step=first)
    with pytest.raises(BadInput, match="not listed"):
        runs.load(folder, step=7)
    assert runs.snapshots(out) == []


def test_other_seeds_have_other_weights_and_the_same_seed_the_same(out, tmp_path):
    first, second = (weights(runs.ensure(plan(), where)) for where in (out, tmp_path / "again"))
    assert first == second
    assert weights(runs.ensure(plan(seed=1), out)) != first


@pytest.mark.parametrize("name", ["weights.safetensors", "run.json", "manifest.json"])
def test_a_crash_between_the_last_files_costs_nothing(name, out, monkeypatch):
    write = store.write_atomic

    def crash(path, data):
        if path.name == name and (path.parent / STATE).exists():
            raise KeyboardInterrupt
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomic", crash)
        with pytest.raises(KeyboardInterrupt):
            runs.ensure(plan(), out)
    info = runs.read_info(runs.ensure(plan(), out))
    assert info.status == "ok"
    assert info.steps == info.planned_steps


def test_divergence_is_recorded_in_a_row_and_never_a_hit(out):
    folder = runs.ensure(plan("diverging"), out)
    info = runs.read_info(folder)
    assert info.status == "diverged"
    assert "loss is nan" in info.reason
    assert 0 < info.steps < info.planned_steps
    (row,) = store.load_rows(folder)
    assert (row.status, row.reason, row.recipe) == ("diverged", info.reason, "diverging")
    assert row.fraction == pytest.approx(0.5, abs=0.05)
    assert not (folder / "weights.safetensors").exists()
    with pytest.raises(BadInput, match="diverged: step"):
        runs.load(folder)
    seen = Seen()
    runs.ensure(plan("diverging"), out, seen)
    assert "train diverging" in seen.stages


def test_a_run_whose_parent_diverged_fails_and_says_why(out):
    runs.ensure(plan("diverging"), out)
    seen = Seen()
    folder = runs.ensure(plan("orphan"), out, seen)
    assert seen.stages == []  # the parent is not tried again with the same code
    info = runs.read_info(folder)
    assert info.status == "failed"
    assert info.reason.startswith("it needs toy/diverging/0-")
    assert "loss is nan" in info.reason


def test_a_failure_is_recorded_with_its_place_and_the_traceback_kept(out):
    folder = runs.ensure(plan("broken"), out)
    info = runs.read_info(folder)
    line = next(n for n, text in enumerate(PLUGIN.splitlines(), 1) if "no such optimizer" in text)
    assert (info.status, info.reason) == ("failed", f"ValueError: no such optimizer (stranger.py:{line})")
    assert "Traceback" in (folder / "error.txt").read_text()
    assert store.load_rows(folder)[0].status == "failed"


def test_a_failed_run_is_tried_again_and_leaves_no_trace(out, tmp_path, stranger):
    folder = runs.ensure(plan("broken"), out)
    path = tmp_path / "site" / "stranger.py"
    path.write_text(PLUGIN.replace('if self.net[1].weight.device.type != "meta"', "if False"))
    del sys.modules["stranger"]
    assert runs.ensure(plan("broken"), out) == folder
    assert runs.read_info(folder).status == "ok"
    assert not (folder / "error.txt").exists()
    assert not (folder / "results.jsonl").exists()


def test_no_memory_on_the_device_is_one_line_with_what_to_set(out, monkeypatch):
    def full(self, k):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(Loop, "step", full)
    monkeypatch.setattr(budget, "_calibrate", lambda *_: budget.Spending(8, 10, "", 20, 16, 1.0, 1.0, "flops"))
    info = runs.read_info(runs.ensure(plan(), out))
    assert info.status == "failed"
    assert info.reason.startswith(
        "out of memory: cpu has no room for mean at batches of 16; take smaller ones (--set batch=N)"
    )


@pytest.mark.parametrize("line", [b"\xff\xfe", b"[1]\n", b'{"a": 1}\n'])
def test_a_damaged_log_does_not_cost_the_training(line, out, tmp_path):
    expected = weights(runs.ensure(plan(), tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        runs.ensure(plan(), out, Seen("train mean", 17))
    with open(plan().folder(out) / LOG, "ab") as file:
        file.write(line)
    folder = runs.ensure(plan(), out)
    assert (runs.read_info(folder).status, weights(folder)) == ("ok", expected)


def test_a_failure_keeps_the_checkpoint_and_the_next_attempt_goes_on_from_it(out, tmp_path, monkeypatch):
    expected = weights(runs.ensure(plan(), tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        runs.ensure(plan(), out, Seen("train mean", 17))

    def full(*_, **__):
        raise MemoryError

    for name in ("train", "build"):  # while training, and before
        with monkeypatch.context() as patch:
            patch.setattr(training, name, full)
            folder = runs.ensure(plan(), out)
        assert runs.read_info(folder).status == "failed"
        assert (folder / STATE).exists()
    info = runs.read_info(runs.ensure(plan(), out))
    assert (info.status, info.reason, info.resumed) == ("ok", "", (17,))
    assert weights(folder) == expected
    assert {p.name for p in folder.iterdir()} == whole(folder)


@pytest.mark.parametrize(("key", "value"), [("planned_steps", 999), ("batch", 4), ("width", "x")])
def test_a_run_json_edited_while_training_is_refused_and_nothing_lost(key, value, out):
    with pytest.raises(KeyboardInterrupt):
        runs.ensure(plan(), out, Seen("train mean", 17))
    path = plan().folder(out) / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(BadInput, match=r"run\.json is damaged or was edited"):
        runs.ensure(plan(), out)
    assert (path.parent / STATE).exists()


def test_an_edited_plan_is_refused(out):
    folder = runs.ensure(plan(), out)
    (path,) = folder.parent.glob("plan-*.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "planned_steps": 83}))
    with pytest.raises(BadInput, match=r"plan-.* was edited .*; delete this file"):
        runs.ensure(plan(seed=1), out)


def test_other_code_is_said_and_new_seeds_share_the_schedule(out, monkeypatch, caplog):
    runs.ensure(plan("child"), out)
    assert runs.other_code([plan("child"), plan("child", seed=1)], out) is None
    assert not caplog.records
    monkeypatch.setattr(make, "code_version", lambda recipe=None, config=None: "0ther")
    line = runs.other_code([plan("child"), plan("child", seed=1)], out)
    assert line is not None
    assert "2 finished runs were trained by another version" in line
    assert "--out" in line
    assert "\n" not in line
    runs.ensure(plan("child"), out)
    assert [record.getMessage() for record in caplog.records] == [line]
    monkeypatch.setattr(budget, "_calibrate", lambda *_: pytest.fail("calibrated again"))
    runs.ensure(plan("child", seed=1), out)


def test_a_trained_run_without_its_manifest_is_not_trained_again(out):
    folder = runs.ensure(plan(), out)
    (folder / "manifest.json").unlink()
    with pytest.raises(BadInput, match=r"manifest\.json is missing"):
        runs.ensure(plan(), out)
    assert (folder / "weights.safetensors").exists()


def test_rows_hold_the_images_of_all_that_a_run_stands_on(out):
    info = runs.read_info(runs.ensure(plan("child"), out))
    row = runs.base_row(info)
    assert row.images_total == info.images_total
    assert row.images_total > row.images


def test_a_suite_leaves_out_what_is_damaged_and_goes_on(out, monkeypatch, caplog):
    planned = [plan("child"), plan("child", seed=1), plan("mean", seed=2)]
    teacher = runs.ensure(planned[0].parents[0][1], out)
    (teacher / "weights.safetensors").write_bytes(b"")
    whole = runs.ensure(planned[2], out)
    asked, shown = [], []
    monkeypatch.setattr(stages, "plan_runs", lambda *_: (planned, {}))
    monkeypatch.setattr(scores, "is_evaluated", lambda *_: False)
    monkeypatch.setattr(scores, "has_baselines", lambda *_: True)
    monkeypatch.setattr(stages, "perform", lambda jobs, *_: asked.extend(job.name for job in jobs) or {})
    monkeypatch.setattr(stages, "report", lambda found, *_, **__: shown.extend(found.run_folders) or [])
    result = suite.everything("toy", None, TIER, out, lambda _: Silent(), timing=False)
    assert asked == ["train mean seed 1", "train child seed 1", "evaluate child seed 1", "evaluate mean seed 2"]
    assert [name for name, _ in result.failures] == ["mean seed 0", "child seed 0"]
    assert str(teacher) in result.failures[0][1]
    assert "it needs mean seed 0, which is damaged" in result.failures[1][1]
    assert len(caplog.records) == 2
    assert whole in shown


@pytest.mark.parametrize("name", ["run.json", LOG, store.RESULTS])
def test_a_report_leaves_out_a_damaged_folder_and_names_it(name, out, tmp_path, monkeypatch, caplog):
    folders = [runs.ensure(plan(seed=seed), out) for seed in (0, 1)]
    for folder in folders:
        store.save_rows(folder, [runs.base_row(runs.read_info(folder))], key="k")
    assert suite.damaged(folders) == {}
    with open(folders[0] / name, "a") as file:
        file.write(" ")
    if name == "run.json":
        (folders[0] / name).write_text("[]")
    assert list(suite.damaged(folders)) == [folders[0]]
    page = tmp_path / "report" / "report.html"

    def render(frame, records, *_):
        assert [record["seed"] for record in records] == [1]
        lost = frame[frame["status"] == "failed"]
        assert sorted(frame["seed"]) == ([1] if name == "run.json" else [0, 1]), "never an absence where it is known"
        assert [name in reason for reason in lost["reason"]] == [True] * (len(frame) - 1)
        return {page: store.put(page, b"page")}

    monkeypatch.setattr("reports.render", render)
    assert suite.report(suite.check(folders, folders), page.parent) == [page]
    (record,) = caplog.records
    assert str(folders[0] / name) in record.getMessage()
    if name == store.RESULTS:
        assert "delete this file" in record.getMessage()
    with pytest.raises(BadInput, match="no results that are whole"):
        suite.report(suite.check(folders[:1], folders[:1]), page.parent)


def test_a_report_shows_no_picture_but_a_run_s_own(out, tmp_path, monkeypatch, caplog):
    """Of another run, damaged, cut, deleted, a pipe, or in no list: it is named, and the words stand in its place."""
    folders, real = [runs.ensure(plan(seed=seed), out) for seed in (0, 1)], out / "baselines"
    for folder, colour in zip((*folders, real), ("red", "green", "blue"), strict=True):
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), colour).save(folder / "grid.png")
        store.save_rows(folder, [store.Row(dataset="ring8", recipe="real-train", metric="fd")], key="k")
        store.write_manifest(folder, {"grid.png": fingerprint((folder / "grid.png").read_bytes())})
    good = {folder: (folder / "grid.png").read_bytes() for folder in (*folders, real)}
    told = []

    def render(frame, records, grids, to, *_):
        told.append((grids, {Path(record["folder"]): record["grid"] for record in records}))
        return {to / "report.html": store.put(to / "report.html", b"page")}

    def report() -> list[str]:
        caplog.clear()
        suite.report(suite.check(folders, folders, {"ring8": real / "grid.png"}), tmp_path)
        return [record.getMessage() for record in caplog.records]

    monkeypatch.setattr("reports.render", render)
    assert not report()
    assert told.pop() == ({"ring8": good[real]}, {folder: good[folder] for folder in folders})
    assert not report()
    assert not told, "the report of before is kept"

    def pipe(path: Path) -> None:
        path.unlink()
        os.mkfifo(path)

    wrongs = [
        lambda path: path.write_bytes(good[folders[0]] if path.parent != folders[0] else good[real]),
        lambda path: path.write_bytes(good[path.parent][:-1]),
        lambda path: path.write_bytes(good[path.parent][:60] + b"x" + good[path.parent][61:]),
        lambda path: path.unlink(),
        pipe,
    ]
    for wrong in wrongs:
        for folder in (*folders, real):
            path = folder / "grid.png"
            wrong(path)
            (line,) = report()
            assert line.startswith((f"warning: picture left out: {path}", f"warning: {folder} lacks grid.png"))
            assert "\n" not in line
            grids, shown = told.pop()
            assert (grids or {}).get("ring8") == (None if folder == real else good[real])
            assert shown == {other: None if other == folder else good[other] for other in folders}
            path.unlink(missing_ok=True)
            path.write_bytes(good[folder])
            assert not report(), "a picture that is whole again is shown again"
            told.clear()
    answer = CliRunner().invoke(app, ["report", str(out), "--to", str(tmp_path / "cli")])
    assert answer.exit_code == 0, answer.output
    wrongs[0](folders[1] / "grid.png")
    answer = CliRunner().invoke(app, ["report", str(out), "--to", str(tmp_path / "cli")])
    assert answer.exit_code == 1, answer.output


@pytest.mark.parametrize("name", ["run.json", "weights.safetensors", "log.jsonl"])
def test_a_damaged_file_is_named_with_the_next_step(name, out):
    folder = runs.ensure(plan(), out)
    path = folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadInput, match=rf"{name.replace('.', '[.]')} .*delete the folder") as error:
        runs.ensure(plan(), out)
    assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(BadInput, match=rf"{name.replace('.', '[.]')} is missing.*delete the folder"):
        runs.ensure(plan(), out)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', '{"schema": 1, "colour": 2}'])
def test_a_run_json_that_is_none_is_refused(text, out):
    folder = runs.ensure(plan(), out)
    (folder / "run.json").write_text(text)
    with pytest.raises(BadInput, match=r"run\.json .*delete the folder"):
        runs.load(folder)


def test_folders_that_are_no_runs_and_newer_runs(out, tmp_path):
    with pytest.raises(BadInput, match="is not a run"):
        runs.load(tmp_path)
    folder = runs.ensure(plan(), out)
    (folder / "run.json").write_text('{"schema": 99}')
    with pytest.raises(BadInput, match="newer version"):
        runs.load(folder)


def test_an_unwritable_place_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"can not write .*--out"):
        runs.ensure(plan(), tmp_path / "file" / "runs")


def test_two_processes_do_not_train_the_same_folder(out):
    """A second process that finds the folder locked waits, and then finds the run finished."""
    folder = plan().folder(out)
    folder.mkdir(parents=True)
    script = (
        f"import fcntl, sys\nfile = open({str(folder / '.lock')!r}, 'a')\nfcntl.flock(file, fcntl.LOCK_EX)\n"
        "print(flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()

        class Waiting(Seen):
            def update(self, stage, done, total, **facts):
                super().update(stage, done, total, **facts)
                if stage == "wait for mean":
                    process.stdin.close()  # which ends the process, and with it the lock

        seen = Waiting()
        runs.ensure(plan(), out, seen)
        assert seen.stages[:2] == ["wait for mean", "plan mean"]


def test_labels_are_told_only_on_request(out, monkeypatch):
    told = []
    build = loading.build

    def watched(recipe, space, *rest):
        told.append(space.classes)
        return build(recipe, space, *rest)

    for module in (budget, training, loading):
        monkeypatch.setattr(module, "build", watched)
    runs.ensure(plan(), out)
    runs.load(runs.ensure(plan(conditional=True), out))
    assert set(told[:2]) == {0}
    assert set(told[2:]) == {2}


def test_devices():
    assert runs.device_of("cpu") == torch.device("cpu")
    assert runs.device_of("auto").type in ("cpu", "cuda")
    with pytest.raises(BadInput, match="did you mean 'cpu'"):
        runs.device_of("cpuu")
    with pytest.raises(BadInput, match="is not there"):
        runs.device_of(f"cuda:{torch.cuda.device_count()}")


def test_what_the_log_says_is_wrong_is_kept(out):
    folder = runs.ensure(plan("ill"), out)
    assert runs.read_info(folder).symptom == "its loss is Truely positive"
    assert suite.records([folder])[0]["symptom"] == "its loss is Truely positive"
    assert runs.read_info(runs.ensure(plan("mean"), out)).symptom == ""


def test_a_run_from_before_symptoms_is_still_a_run(out):
    """Its run.json lacks the field and has the schema before; one of a later schema is refused as such."""
    folder = runs.ensure(plan("mean"), out)
    assert runs.read_info(folder).schema == SCHEMA
    values = store.read_sealed(folder / runs.INFO)
    del values["symptom"]
    told = store.write_sealed(folder / runs.INFO, {**values, "schema": 1})
    store.write_manifest(folder, {runs.INFO: told})
    assert runs.is_finished(folder)
    assert runs.read_info(folder).symptom == ""
    assert runs.load(folder)[1].schema == 1
    store.write_sealed(folder / runs.INFO, {**values, "schema": SCHEMA + 1})
    with pytest.raises(BadInput, match="written by a newer version"):
        runs.read_info(folder)


# ------------------------------------------------------------------------------------------------------- catalogue


def test_names_are_those_of_the_recipes():
    own = list(catalogue.recipes())
    assert {name for name, of in catalogue.names().items() if name == of} == set(own)
    assert list(catalogue.names()) == sorted(catalogue.names())
    assert "orphan" in catalogue.names()


def test_names_do_not_import_torch():
    script = "import sys; from paradigms.catalogue import names; assert names(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[1], check=True)


def test_an_entry_point_may_name_a_tuple_or_a_module(stranger):
    stranger[:] = [EntryPoint("any", "stranger:RECIPES", catalogue.DOOR.group)]
    assert catalogue.get("mean").summary == "predicts the data"
    assert "mean" in catalogue.names()


def test_names_that_a_plugin_computes_are_found_by_loading_it(stranger, tmp_path):
    assert catalogue.names()
    assert "stranger" not in sys.modules  # its names can be read
    source = PLUGIN.replace("RECIPES = (", "_MADE = (") + '\nRECIPES = tuple(r for r in _MADE if "ph" in r.name)\n'
    (tmp_path / "site" / "stranger.py").write_text(source)
    assert set(catalogue.names().values()) == set(catalogue.recipes())
    assert "orphan" in catalogue.names()


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ("import nonsense_that_is_not_there", "can not be loaded: ModuleNotFoundError: No module named 'nonsense"),
        ("1/0", "can not be loaded: ZeroDivisionError"),
        ("x = (", "can not be loaded: SyntaxError"),
        ("raise SystemExit(0)", "can not be loaded: SystemExit"),
        ("RECIPES = ()", "must name a module with RECIPES"),
        ("RECIPES = ('mean',)", "must name a module with RECIPES"),
        ("", "can not be loaded: TypeError"),
    ],
)
def test_a_broken_plugin_is_one_clear_line(source, match, stranger, tmp_path, caplog):
    (tmp_path / "site" / "broken_plugin.py").write_text(source)
    sys.modules.pop("broken_plugin", None)
    stranger.append(EntryPoint("bad", "broken_plugin", catalogue.DOOR.group))
    plugins._warned.clear()
    assert {"gan", "mean"} <= catalogue.recipes().keys()  # the rest goes on
    assert catalogue.recipes()
    (record,) = caplog.records  # said once
    with pytest.raises(BadInput, match=match) as error:
        catalogue.get("bad")
    for text in (record.getMessage(), str(error.value)):
        assert "plugin 'bad' (broken_plugin)" in text
        assert "\n" not in text
    assert catalogue.names()  # completion goes on


def test_a_name_taken_twice_is_left_out(stranger, caplog):
    stranger.append(EntryPoint("twin", "stranger:RECIPES", catalogue.DOOR.group))
    plugins._warned.clear()
    assert "mean" in catalogue.recipes()
    assert "'mean' is defined by plugin 'stranger' (stranger) and by plugin 'twin'" in caplog.text


def test_an_alias_finds_its_recipe_and_its_runs_bear_the_recipes_name():
    assert catalogue.get("another") is catalogue.get("variant")
    assert catalogue.names()["another"] == catalogue.names()["variant"] == "variant"
    assert plan("another") == plan("variant")
    assert plan("another").where.startswith("toy/variant/")
    with pytest.raises(BadInput, match="did you mean 'another'"):
        catalogue.get("anothr")


def test_variants_stand_behind_their_row():
    assert "variant" not in catalogue.rows()
    assert "mean" in catalogue.rows()
    assert catalogue.family("mean") == catalogue.family("other") == ["mean", "variant"]


@pytest.mark.parametrize(
    ("recipe", "match"),
    [
        ('Recipe("third", Mean, Config(), "", aliases=("mean",))', "'mean' is defined by plugin .stranger. .* and by"),
        ('Recipe("other", Mean, Config(), "")', "'other' is defined by plugin .stranger. .* and by"),
        ('Recipe("third", Mean, Config(), "", variant_of="mane")', "varies 'mane', which is no recipe's name"),
        ('Recipe("third", Mean, Config(), "", variant_of="variant")', "varies 'variant', which is itself a variant"),
    ],
)
def test_a_name_that_leads_nowhere_or_twice_is_left_out(recipe, match, stranger, tmp_path, caplog):
    (tmp_path / "site" / "more.py").write_text(f"from stranger import *\nRECIPES = ({recipe},)\n")
    sys.modules.pop("more", None)
    stranger.append(EntryPoint("more", "more", catalogue.DOOR.group))
    plugins._warned.clear()
    assert "third" not in catalogue.recipes()
    assert re.search(match, caplog.text)


def test_sets_of_recipes(monkeypatch):
    """A suite's recipes by word: rows, all, NAME+; what a set can not run is left out with its reason."""
    monkeypatch.setattr(grid, "Paradigm", Trainable)  # of this file's recipes none samples

    def names(*asked):
        planned, skipped = suite.plan_runs("toy", asked, TIER, 1, False)
        return [run.recipe for run in planned], skipped

    assert names("mean+") == (["mean", "variant"], {})
    assert names("other+", "another", "child") == (["mean", "variant", "child"], {})
    monkeypatch.setattr(runs, "refusal", lambda name, space: None if name in ("variant", "child") else "too round")
    found, skipped = names("all")
    assert found == ["child", "variant"]
    assert skipped["mean"] == "too round"
    found, skipped = names("rows")
    assert found == ["child"]
    assert "variant" not in skipped
    assert names("mean+", "mean")[0] == ["mean", "variant"], "what is asked for by its name is tried"
    with pytest.raises(BadInput, match="no recipe can model 'toy'; gan: too round"):
        names("gan+")
    with pytest.raises(BadInput, match="unknown recipe 'meen'; did you mean 'mean'"):
        names("meen+")


def test_experiments_are_no_part_of_a_runs_code(monkeypatch):
    read = Path.read_bytes

    def seen(path):
        assert "lab" not in path.parts
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", seen)
    assert machine._code_here.__wrapped__() == machine._code_here()
