"""Runs without what they were made from: a child whose teacher is gone or damaged, alone or in another place.

The recipes come from a file outside the package; a run takes a moment.
"""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import installed_package, jobs_here
from typer.testing import CliRunner, Result

from bench import cli, runs, scores, store, suite, tiers
from bench.progress import Progress, Silent
from bench.runs.loading import _places
from bench.scores import kept as kept_rows
from bench.scores import likelihood, pictures, pools
from bench.scores import run as evaluation
from bench.store import files
from bench.suite import grid, stages
from bench.suite.jobs import record_failure
from bench.workers import Outcome
from paradigms.core.plans import Plan
from paradigms.errors import BadInput

PLUGIN = '''
from dataclasses import dataclass
from pathlib import Path

import torch

from paradigms.backbones import Backbone
from paradigms.contract import Paradigm, Update
from paradigms.recipe import Need, Recipe
from paradigms.core.plans import Card, Plan, Sampler


@dataclass(frozen=True)
class Config:
    batch: int = 16
    lr: float = 1e-2
    shape: tuple[float, ...] = (1.0, 2.0)
    note: str = "a b"


class Affine(Backbone):
    def __init__(self, dim, width):
        super().__init__()
        self.layer, self.idle = torch.nn.Linear(dim, dim), torch.nn.Parameter(torch.zeros(width))

    def forward(self, z):
        return self.layer(z)


class Teacher(Paradigm):
    """Has a buffer that its children draw with, and which only its training tells."""

    card = Card(
        title="Affine", paper="none", year=1800, url="", default=Plan("push"), no_likelihood="it has none",
        samplers=(Sampler("push", (1,), calls=(1, 0), options={"times": 1.0}, ranges={"times": (0.0, 9.0)}),),
    )

    def __init__(self, config, space, width, parents):
        super().__init__(config, space, width, parents)
        self.parents = parents
        self.net = Affine(space.dim, width)
        self.register_buffer("spread", torch.tensor(0.0))

    def prepare(self, data, noise):
        self.spread.copy_(data.x.std())
        return data

    def optimizers(self):
        return {self.net: torch.optim.Adam(self.net.parameters(), self.config.lr)}

    def updates(self, batch, progress, noise):
        yield Update(self.net, (self.net(batch.x) - batch.x).square().mean() + 0 * self.net.idle.sum())

    def prior(self, n, noise):
        return noise.normal(n, *self.space.shape)

    def factor(self):
        return self.spread

    def sample(self, z, plan, noise, cond=None, watch=None):
        return self.net(z) * self.factor() * plan.option("times", 1.0)


class Pupil(Teacher):
    def factor(self):
        return self.parents["teacher"].model.factor()


class Lodger(Teacher):
    def sample(self, z, plan, noise, cond=None, watch=None):
        return self.parents["host"].model.net(super().sample(z, plan, noise))


RECIPES = (
    Recipe("master", Teacher, Config(), ""),
    Recipe("pupil", Pupil, Config(), "", {"teacher": Need("master", Teacher)}),
    Recipe("pupils-pupil", Pupil, Config(), "", {"teacher": Need("pupil", Teacher)}),
    Recipe("lodger", Lodger, Config(), "", {"host": Need("master", Teacher, at_sampling=True)}),
    Recipe("half-lodger", Lodger, Config(), "", {"host": Need("master", Teacher, 0.5, at_sampling=True)}, 0.5),
    Recipe("lodgers-lodger", Lodger, Config(), "", {"host": Need("lodger", Teacher, at_sampling=True)}),
    Recipe("lodgers-pupil", Pupil, Config(), "", {"teacher": Need("pupil", Teacher)}),
)
'''

TINY = """
[tiny]
base = "smoke"
samples = 100
likelihood_n = 8
likelihood_calls = 1
timing_repeats = 2
timing_seconds = 0.01
vectors = { flops = 2e4, seconds = 1e9, images = 2000, params = 60 }
[other]
base = "smoke"
samples = 60
likelihood_n = 8
likelihood_calls = 1
vectors = { flops = 3e4, seconds = 1e9, images = 2000, params = 60 }
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("home")
    (root / "affine_models.py").write_text(PLUGIN)
    (root / "t.toml").write_text(TINY)
    return root


@pytest.fixture(autouse=True)
def installed(home: Path):
    with installed_package("affine_models", home):
        yield


@pytest.fixture(scope="module")
def made(home: Path) -> dict[str, Path]:
    """Filled by `trained`: each recipe is trained once."""
    return {}


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output folder, `runs` of the folder that one is in."""
    monkeypatch.chdir(tmp_path)
    return Path("runs")


def tier(name: str = "tiny") -> tiers.Tier:
    return tiers.tiers()[name]


def planned(recipe: str, seed: int = 0, settings: tuple[str, ...] = ()) -> runs.Run:
    return runs.define(recipe, "ring8", seed, tier(), settings)


def trained(recipe: str, out: Path, home: Path, seed: int = 0, settings: tuple[str, ...] = ()) -> Path:
    """A run with all that it needs, trained in a place of the module's and copied into `out`."""
    run = planned(recipe, seed, settings)
    runs.ensure(run, home / "made", Progress(), device="cpu")
    for one in grid._with_parents([run]).values():
        if not one.folder(out).exists():
            shutil.copytree(one.folder(home / "made"), one.folder(out))
    return run.folder(out)


def parent_of(folder: Path, out: Path) -> Path:
    (where,) = runs.read_info(folder).parents.values()
    return out / where


def drawn(folder: Path, out: Path | None = None) -> torch.Tensor:
    model, _ = runs.load(folder, out=out)
    return pools.draw(model, Plan("push"), 16, 0).x


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def refused(result: Result, *words: str) -> str:
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert all(word in line for word in words), line
    return line


# ------------------------------------------------------------------------------------------- not needed to sample


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


def damaged(folder: Path) -> None:
    data = bytearray((folder / runs.WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / runs.WEIGHTS).write_bytes(data)


def without_weights(folder: Path) -> None:
    (folder / runs.WEIGHTS).unlink()


def half_written(folder: Path) -> None:
    info = store.read_sealed(folder / runs.INFO)
    store.write_sealed(folder / runs.INFO, {**info, "status": "training"})
    (folder / store.MANIFEST).unlink()


def without_record(folder: Path) -> None:
    (folder / runs.INFO).write_text("[]")


REPORT = suite.report
HARMS = [gone, damaged, without_weights, half_written, without_record]


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("recipe", ["pupil", "pupils-pupil"])
def test_a_pupil_draws_the_same_whatever_became_of_its_teacher(recipe, harm, out, home):
    folder = trained(recipe, out, home)
    before = drawn(folder)
    assert torch.isfinite(before).all()
    harm(parent_of(folder, out))
    if recipe == "pupils-pupil":
        shutil.rmtree(out / "ring8" / "master")
    assert torch.equal(drawn(folder), before)
    seen = []
    progress = Progress()
    progress.update = lambda stage, *_, **__: seen.append(stage)
    assert runs.ensure(planned(recipe), out, progress, device="cpu") == folder
    assert not seen, "nothing is trained"


def test_a_copy_of_the_folder_alone_does_all_that_a_run_does(out, home, tmp_path):
    folder = trained("pupil", out, home)
    before = drawn(folder)
    lone = tmp_path / "elsewhere" / folder.name
    shutil.copytree(folder, lone)
    shutil.rmtree(out)
    assert bench("sample", lone, "-n", 16, "--to", tmp_path / "x.npz").exit_code == 0
    with np.load(tmp_path / "x.npz") as kept:
        assert np.array_equal(kept["samples"], before.numpy())
    for verb in ("evaluate", "time"):
        done = bench(verb, lone, "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)
    assert bench("report", lone.parent, "--formats", "csv").exit_code == 0
    assert not any(_places(Path("/x"), "d/r/0-1", None)[0].exists() for _ in "1"), "near the root"


@pytest.mark.heavy
def test_lists_reports_and_comparisons_ask_for_no_teacher(out, home):
    for seed in (0, 1):
        folder = trained("pupil", out, home, seed)
        scores.evaluate(folder, tier(), Progress())
        scores.evaluate(trained("master", out, home, seed), tier(), Progress())
        shutil.rmtree(parent_of(folder, out))
    scores.evaluate(trained("lodger", out, home), tier(), Progress())
    shutil.rmtree(out / "ring8" / "master")
    listed = bench("list", "runs", "--json")
    assert {row["status"] for row in json.loads(listed.stdout)} == {"ok"}
    assert bench("report", "--formats", "csv,tex").exit_code == 0
    done = bench("compare", "pupil", "lodger", "--json")
    assert done.exit_code == 0, done.output


def test_a_run_from_before_says_what_makes_its_teacher_and_training_it_does(out, home):
    """Older runs kept nothing of how their teachers are built."""
    folder = trained("pupil", out, home)
    before, teacher = drawn(folder), parent_of(folder, out)
    (folder / runs.PARENTS).unlink()
    listed = {name: said for name, said in store.manifest(folder).items() if name != runs.PARENTS}
    store.write_json(folder / store.MANIFEST, {"schema": store.SCHEMA, "files": listed})
    assert torch.equal(drawn(folder), before)
    shutil.rmtree(teacher)
    line = refused(
        bench("sample", folder), f"pupil {folder.name} needs its teacher master {teacher.name}, which is gone"
    )
    assert "`bench train master --dataset ring8 --tier tiny --seed 0` makes it anew" in line
    done = bench("train", "pupil", "--dataset", "ring8", "--tier", "tiny")
    assert done.exit_code == 0, done.output
    assert torch.equal(drawn(folder), before)


@pytest.mark.parametrize(
    "name",
    [
        "consistency-edm",
        *(
            pytest.param(name, marks=pytest.mark.heavy)
            for name in (
                "consistency",
                "easy-consistency-edm",
                "progressive-distillation",
                "reflow-3",
                "reflow-distilled",
            )
        ),
    ],
)
def test_shipped_recipes_draw_the_same_without_their_teachers(name, out, tmp_path):
    budget = replace(tier().vectors, flops=1e7, params=700)
    folder = runs.ensure(runs.define(name, "ring8", 0, replace(tier(), vectors=budget)), out, Progress(), device="cpu")
    lone = shutil.copytree(folder, tmp_path / "alone")
    (one, _), (two, _) = runs.load(folder), runs.load(lone)
    plan = one.card.default
    assert torch.equal(pools.draw(one, plan, 8, 0).x, pools.draw(two, plan, 8, 0).x)


# ----------------------------------------------------------------------------------------------- needed to sample


@pytest.mark.parametrize("harm", HARMS)
def test_what_a_run_needs_to_draw_is_named_with_its_role_and_the_command(harm, out, home):
    folder = trained("lodger", out, home)
    before, host = drawn(folder), parent_of(folder, out)
    harm(host)
    who = f"lodger {folder.name} needs its host master {host.name}"
    command = "bench train master --dataset ring8 --tier tiny --seed 0"
    for verb in ("sample", "evaluate", "time"):
        refused(bench(verb, folder), who, f"`{command}` makes it anew")
    if harm is not half_written:
        shutil.rmtree(host, ignore_errors=True)
    assert bench(*shlex.split(command)[1:]).exit_code == 0
    assert torch.equal(drawn(folder), before)


@pytest.mark.parametrize(
    ("recipe", "settings", "extra"),
    [
        ("half-lodger", (), ""),
        (
            "half-lodger",
            ("lr=0.02", "shape=3,4", "note=it's"),
            """ --set lr=0.02 --set shape=3.0,4.0 --set 'note=it'"'"'s'""",
        ),
    ],
)
def test_a_parent_of_another_share_is_made_by_training_its_child(recipe, settings, extra, out, home):
    folder = trained(recipe, out, home, 1, settings)
    before, host = drawn(folder), parent_of(folder, out)
    shutil.rmtree(host)
    line = refused(bench("sample", folder), f"needs its host master {host.name}, which is gone")
    command = line.split("`")[1]
    assert command == f"bench train half-lodger --dataset ring8 --tier tiny --seed 1{extra}"
    assert bench(*shlex.split(command)[1:]).exit_code == 0
    assert torch.equal(drawn(folder), before)


def test_what_is_needed_by_what_is_needed_is_named(out, home):
    folder = trained("lodgers-lodger", out, home)
    host = parent_of(folder, out)
    shutil.rmtree(parent_of(host, out))
    refused(
        bench("sample", folder),
        f"lodgers-lodger {folder.name} needs its host lodger {host.name}: ",
        f"lodger {host.name} needs its host master",
        "`bench train master --dataset ring8 --tier tiny --seed 0` makes it anew",
    )
    assert bench("train", "lodgers-lodger", "--dataset", "ring8", "--tier", "tiny").exit_code == 0
    assert torch.isfinite(drawn(folder)).all()


def test_parents_are_found_beside_their_child_and_in_the_folder_that_is_named(out, home, tmp_path):
    folder = trained("lodger", out, home)
    before, host = drawn(folder), parent_of(folder, out)
    flat, named = tmp_path / "flat", tmp_path / "named"
    for one in (folder, host):
        shutil.copytree(one, flat / one.name)
        shutil.copytree(one, named / one.parent.name / one.name)
    lone = shutil.copytree(folder, tmp_path / "lone" / folder.name)
    assert all(torch.equal(drawn(one), before) for one in (flat / folder.name, named / "lodger" / folder.name))
    assert torch.equal(drawn(lone, out), before)
    assert bench("sample", lone, "--to", tmp_path / "x.npz").exit_code == 0, "runs is the folder by default"
    out.rename("kept")
    line = refused(bench("sample", lone), "which is gone", str(out / "ring8" / "master"))
    assert "--out" not in line
    assert bench("sample", lone, "--out", "kept", "--to", tmp_path / "x.npz").exit_code == 0
    assert bench("evaluate", lone, "--out", "kept").exit_code == 0
    assert bench("time", lone, "--out", "kept").exit_code == 0
    # A linked run: its parents are where it is linked, or where it lies.
    linked = tmp_path / "linked" / "ring8"
    shutil.copytree(flat / host.name, linked / "master" / host.name)
    (linked / "lodger").mkdir()
    (linked / "lodger" / folder.name).symlink_to(lone)
    assert torch.equal(drawn(linked / "lodger" / folder.name), before)


def test_a_child_that_can_not_be_trained_says_whose_parent_is_damaged(out, home):
    folder = trained("pupils-pupil", out, home)
    teacher = parent_of(folder, out)
    damaged(teacher)
    shutil.rmtree(folder)
    refused(
        bench("train", "pupils-pupil", "--dataset", "ring8", "--tier", "tiny"),
        f"pupils-pupil {folder.name} needs its teacher pupil {teacher.name}: ",
        f"{teacher / runs.WEIGHTS} is damaged",
    )


def test_an_unfinished_run_names_the_command_that_goes_on(out, home):
    folder = trained("master", out, home, 3, ("lr=0.5",))
    half_written(folder)
    command = "`bench train master --dataset ring8 --tier tiny --seed 3 --set lr=0.5`"
    refused(bench("sample", folder), f"{folder} has no weights", command)


# -------------------------------------------------------------------------------------------------------- the suite


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs of a suite, done one after the other in this process."""
    monkeypatch.setattr(stages, "report", lambda *_, **__: [])
    return jobs_here(monkeypatch)


def everything(recipe: str, out: Path, timing: bool = False) -> suite.Result:
    return suite.everything("ring8", [recipe], tier(), out, lambda _: Silent(), seeds=1, device="cpu", timing=timing)


def test_a_suite_makes_a_parent_anew_only_where_it_is_needed(out, home, jobs, caplog):
    for recipe in ("pupil", "lodger"):
        folder = trained(recipe, out, home)
        assert everything(recipe, out, timing=True).failures == ()
        jobs.clear()
        shutil.rmtree(out / "ring8" / "master")
        caplog.clear()
        assert everything(recipe, out, timing=True).failures == ()
        assert jobs == [], "its rows and times are there"
        (folder / store.RESULTS).unlink()
        result = everything(recipe, out)
        assert result.failures == ()
        anew = ["train master seed 0"] if recipe == "lodger" else []
        assert jobs == [*anew, f"evaluate {recipe} seed 0"]
        assert ["is gone and is made anew" in r.getMessage() for r in caplog.records] == [True] * len(anew)
        shutil.rmtree(out / "ring8" / "master", ignore_errors=True)
        shutil.rmtree(folder / "timing")
        jobs.clear()
        assert everything(recipe, out, timing=True).failures == ()
        assert jobs == [*anew, "time sampling"]
        jobs.clear()


@pytest.mark.parametrize("recipe", ["pupil", "lodger"])
def test_a_damaged_parent_fails_a_suite_only_where_it_is_needed(recipe, out, home, jobs):
    folder = trained(recipe, out, home)
    everything(recipe, out)
    jobs.clear()
    damaged(parent_of(folder, out))
    assert everything(recipe, out).failures == ()
    (folder / store.RESULTS).unlink()
    if recipe == "pupil":
        assert everything(recipe, out).failures == ()
        assert jobs == ["evaluate pupil seed 0"]
    else:
        with pytest.raises(
            BadInput, match=r"weights.safetensors is damaged.*delete the folder.*; it needs master seed 0"
        ):
            everything(recipe, out)


# -------------------------------------------------------------------------------------------------------- protocols


def tables(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.rglob("*.csv")))


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.heavy
def test_another_protocol_leaves_the_rows_of_a_runs_own(out, home, jobs, monkeypatch):
    monkeypatch.setattr(stages, "report", REPORT)
    folders = [trained("master", out, home, seed) for seed in (0, 1)] + [trained("lodger", out, home)]
    for folder in folders:
        scores.evaluate(folder, tier(), Progress())
    run, before = folders[0], content(folders[0])
    (first, *_), pooled = store.load_rows(run), bench("compare", "master", "lodger").stdout
    assert "tier tiny" in pooled
    done = bench("evaluate", run, "--tier", "other")
    assert done.exit_code == 0, done.output
    place = run / "protocols" / "other"
    assert (
        f"measured by tier other, not by the run's own, tiny, whose rows stay as they are\nkept in {place}"
        in done.stdout
    )
    rows = store.load_rows(place)
    assert {(row.tier, row.run) for row in rows} == {("other", first.run)}
    assert {row.n for row in rows if row.metric == "w2"} == {60}
    assert {row.n for row in store.load_rows(run) if row.metric == "w2"} == {100}
    assert {name: data for name, data in content(run).items() if not name.startswith("protocols/")} == before
    assert bench("compare", "master", "lodger").stdout == pooled, "both seeds, as before"
    assert bench("report", "--formats", "csv").exit_code == 0
    assert "other" not in tables(out / "report")
    # Asked for, it is shown as what it is.
    line = refused(bench("compare", "master", "lodger", "--tier", "other"), "no results of lodger by tier other")
    assert line.endswith("make them: bench evaluate lodger --dataset ring8 --tier other")
    assert bench("evaluate", folders[2], "--tier", "other").exit_code == 0
    asked = bench("compare", "master", "lodger", "--tier", "other").stdout
    assert "tier other" in asked
    assert "(trained under tiny)" in asked
    assert bench("report", "--tier", "other", "--formats", "csv").exit_code == 0
    assert "trained under tiny" in tables(out / "report-other")
    refused(bench("report", "--tier", "smoke"), "no results of tier smoke", "`bench evaluate RUN --tier smoke`")
    # Neither is done again, and a suite does not undo it.
    kept = content(run)
    assert scores.is_evaluated(run, tier())
    assert scores.is_evaluated(run, tier("other"))
    bench("evaluate", run, "--tier", "other", "--json")
    everything("master", out)
    assert jobs == ["baselines"]
    assert content(run) == kept


def test_a_suite_of_an_equal_budget_has_its_own_rows_and_times(out, home, jobs, monkeypatch):
    """Two tiers that differ in what they measure alone share the trained runs."""
    twin = replace(tier(), name="twin", samples=50, timing_repeats=3)
    run = trained("master", out, home)
    everything("master", out, timing=True)
    before = content(run)
    shown = []
    monkeypatch.setattr(stages, "report", lambda found, *_, **more: shown.append((found.folders, more["tier"])) or [])
    again = suite.everything("ring8", ["master"], twin, out, lambda _: Silent(), seeds=1, device="cpu")
    assert again.trained == 0
    ((folders, name),) = shown
    assert name == "twin"
    rows = [row for folder in folders for row in store.load_rows(folder)]
    assert {row.tier for row in rows} == {"twin"}
    assert {"w2", "latency"} <= {row.metric for row in rows if row.run}
    assert {k: v for k, v in content(run).items() if not k.startswith("protocols/")} == before
    jobs.clear()
    everything("master", out, timing=True)
    assert jobs == []
    (table,) = again.comparison().query("recipe == 'master'").to_dict("records")
    assert table["tier"] == "twin"


def test_questions_of_ones_own_are_kept_one_by_one(out, home, monkeypatch):
    run = trained("master", out, home)
    places = (run / "samplers", run / "protocols" / "other" / "samplers")
    two = ["push-1:times=2", "push-1:times=3"]
    assert bench("evaluate", run, "--sampler", two[0]).exit_code == 0
    first = store.load_rows(places[0])
    assert bench("evaluate", run, "--sampler", two[0], "--tier", "other").exit_code == 0
    assert store.load_rows(places[0]) == first
    assert {row.tier for row in store.load_rows(places[1])} == {"other"}
    # Another question, by later code: the first answer stays, and is not taken for one of the later code.
    with monkeypatch.context() as patch:
        patch.setattr(kept_rows, "code", lambda *_: "later")
        assert bench("evaluate", run, "--sampler", two[1]).exit_code == 0
        both = store.load_rows(places[0])
        assert [row for row in both if row.options == "times=2"] == first
        assert {row.options for row in both} == {"times=2", "times=3"}
        drawn_again = []
        draw = pools.draw
        patch.setattr(pools, "draw", lambda *a: drawn_again.append(a[1]) or draw(*a))
        bench("evaluate", run, "--sampler", two[0], "--sampler", two[1])
        assert [str(plan) for plan in drawn_again] == ["push-1 times=2"]
    # One that fails leaves the old answer.
    before = content(places[0])
    with monkeypatch.context() as patch:
        patch.setattr(pools, "draw", lambda *_: 1 / 0)
        assert bench("evaluate", run, "--sampler", two[0], "--force").exit_code == 1
    assert content(places[0]) == before


def test_a_stopped_evaluation_leaves_what_was_there(out, home, monkeypatch):
    run = trained("master", out, home)
    scores.evaluate(run, tier(), Progress())
    before = content(run)

    def stopped(*_, **__):
        raise KeyboardInterrupt

    places = (pools, "draw"), (likelihood, "none_row"), (pictures, "keep"), (evaluation, "save_rows")
    for module, where in places:
        with monkeypatch.context() as patch:
            patch.setattr(module, where, stopped)
            with pytest.raises(KeyboardInterrupt):
                scores.evaluate(run, tier(), Progress(), force=True)
        assert store.load_rows(run), where
        assert content(run) == before, where


@pytest.mark.parametrize("writes", range(4))
def test_rows_are_whole_wherever_their_writing_stops(writes, tmp_path, monkeypatch):
    old, new = ([store.Row(metric=name, value=1.0)] for name in ("old", "new"))
    store.save_rows(tmp_path, old, "k1")
    write, done = store.write_atomic, []

    def failing(path, data):
        if len(done) == writes:
            raise KeyboardInterrupt
        done.append(path)
        write(path, data)

    monkeypatch.setattr(files, "write_atomic", failing)
    try:
        store.save_rows(tmp_path, new, "k2")
    except KeyboardInterrupt:
        assert writes < 3
    expected = (new, "k2") if writes > 1 else (old, "k1")
    assert (store.load_rows(tmp_path), store.results_key(tmp_path)) == expected
    monkeypatch.undo()
    store.save_rows(tmp_path, new, "k3")
    assert (store.load_rows(tmp_path), store.results_key(tmp_path)) == (new, "k3")
    (tmp_path / store.RESULTS).write_text("{}\n")
    with pytest.raises(BadInput, match="is damaged"):
        store.load_rows(tmp_path)


def test_an_evaluation_that_dies_is_a_row_beside_those_of_before(out, home):
    run, folder = planned("master"), trained("master", out, home)
    rows = scores.evaluate(folder, tier(), Progress())
    record_failure(run, out, Outcome(failure="its process was killed"))
    *before, failed = store.load_rows(folder)
    assert [row.metric for row in before] == [row.metric for row in rows]
    assert (failed.status, failed.metric, failed.reason) == ("failed", "evaluation", "its process was killed")
    assert not scores.is_evaluated(folder, tier())


def test_samples_keep_their_rows_of_every_tier_space_and_data_set(out, home, tmp_path):
    x = torch.randn(80, 2).numpy()
    np.save(tmp_path / "mine.npy", x)
    np.save(tmp_path / "yours.npy", x)
    to = tmp_path / "ext"
    for dataset, name in (("ring8", "tiny"), ("ring8", "other"), ("ring8", "tiny"), ("gmm16", "tiny")):
        if dataset == "gmm16":
            np.save(tmp_path / "mine.npy", torch.randn(80, 16).numpy())
        done = bench("evaluate", tmp_path / "mine.npy", "--dataset", dataset, "--tier", name, "--to", to)
        assert done.exit_code == 0, done.output
    rows = store.load_rows(to)
    counts = {(r.dataset, r.tier): sum((s.dataset, s.tier) == (r.dataset, r.tier) for s in rows) for r in rows}
    assert set(counts) == {("ring8", "tiny"), ("ring8", "other"), ("gmm16", "tiny")}
    assert counts["ring8", "tiny"] == counts["ring8", "other"], "scored twice, kept once"
    store.verify(to)
    line = refused(
        bench("evaluate", tmp_path / "yours.npy", "--dataset", "ring8", "--to", to), "holds the rows of mine"
    )
    assert "name a new folder" in line
    assert store.load_rows(to) == rows


def test_of_several_numbers_of_samples_in_a_space_one_is_shown(tmp_path):
    """The tier's own where it has the space, else the largest."""
    made = [store.Row(metric="fd", features=space, n=n, value=1.0) for space in ("mine", "theirs") for n in (50, 90)]
    store.save_rows(tmp_path / scores.SPACES, made, "k")
    assert {(row.features, row.n) for row in scores.shown(tmp_path / scores.SPACES)} == {
        ("mine", 90),
        ("theirs", 90),
    }
    store.save_rows(tmp_path, made[:1], "k")
    assert scores.shown(tmp_path / scores.SPACES) == made[3:]
    assert scores.shown(tmp_path) == made[:1]


def test_times_say_which_tier_took_them(out, home):
    run = trained("master", out, home)
    done = bench("time", run, "--tier", "other", "--json")
    assert {row["tier"] for row in json.loads(done.stdout)} == {"other"}
    assert "median, by tier other" in bench("time", run, "--tier", "other").stdout
    assert not (run / "timing").exists()
