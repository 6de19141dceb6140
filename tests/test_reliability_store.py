"""Nothing is believed in another's place, nothing that was promised is missed in silence, no writer loses another's work.

Faults are injected into the store, and into the folders of two small recipes that come from a file outside the package.
"""

from __future__ import annotations

import builtins
import csv
import dataclasses
import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import installed_package, jobs_here
from typer.testing import CliRunner, Result

import reports
from bench import cli, measure, runs, scores, store, suite, tiers
from bench.progress import Progress, Silent
from bench.runs.info import step_of
from bench.runs.training import OWN
from bench.scores import baselines, pictures, pools
from bench.store import Row
from bench.suite import stages
from paradigms.core.plans import Plan
from paradigms.errors import BadInput
from reports import files
from reports.files import fingerprint
from reports.layout import LOG, PREPARED, STATE

PLUGIN = """
from dataclasses import dataclass, replace

import torch

from paradigms.backbones import Backbone
from paradigms.contract import Paradigm, Update
from paradigms.recipe import Need, Recipe
from paradigms.core.plans import Card, Plan, Sampler
from reports.files import fingerprint


@dataclass(frozen=True)
class Config:
    batch: int = 16
    lr: float = 1e-2


class Affine(Backbone):
    def __init__(self, dim, width):
        super().__init__()
        self.layer, self.idle = torch.nn.Linear(dim, dim), torch.nn.Parameter(torch.zeros(width))

    def forward(self, z):
        return self.layer(z)


class First(Paradigm):
    card = Card(
        title="Affine", paper="none", year=1800, url="", default=Plan("push"), no_likelihood="it has none",
        samplers=(Sampler("push", (1,), calls=(1, 0), options={"times": 1.0}, ranges={"times": (0.0, 9.0)}),),
    )

    def __init__(self, config, space, width, parents):
        super().__init__(config, space, width, parents)
        self.net = Affine(space.dim, width)

    def prepare(self, data, noise):
        return replace(data, x=data.x + 0.1 * noise.normal(*data.x.shape))

    def optimizers(self):
        return {self.net: torch.optim.Adam(self.net.parameters(), self.config.lr)}

    def updates(self, batch, progress, noise):
        yield Update(self.net, (self.net(batch.x) - batch.x).square().mean() + 0 * self.net.idle.sum())

    def prior(self, n, noise):
        return noise.normal(n, *self.space.shape)

    def sample(self, z, plan, noise, cond=None, watch=None):
        return self.net(z) * plan.option("times", 1.0)


class Second(First):
    pass


RECIPES = (
    Recipe("first", First, Config(), ""),
    Recipe("second", Second, Config(lr=2e-2), ""),
    Recipe("pupil", First, Config(lr=3e-2), "", {"teacher": Need("first", First)}),
)
"""
TINY = """
[tiny]
base = "smoke"
samples = 60
likelihood_n = 8
likelihood_calls = 1
snapshot_seeds = 1
timing_repeats = 2
timing_seconds = 0.01
vectors = { flops = 2e4, seconds = 1e9, images = 2000, params = 60 }
[other]
base = "smoke"
samples = 40
likelihood_n = 8
likelihood_calls = 1
vectors = { flops = 3e4, seconds = 1e9, images = 2000, params = 60 }
"""


# ------------------------------------------------------------------------------------------------------------ store


def test_no_writer_of_a_folder_loses_what_another_writes(tmp_path):
    """Threads in pairs, let loose together: each file that was written is listed, and rows stay under their own key."""
    rows = {key: [Row(recipe=key, metric="fd", value=1.0)] for key in ("a", "b")}

    def pair(folder: Path) -> None:
        start, failed = threading.Barrier(2), list[BaseException]()

        def write(key: str) -> None:
            try:
                start.wait()
                store.write_manifest(folder, {key: store.put(folder / key, key.encode())})
                store.save_rows(folder, rows[key], key)
            except BaseException as error:
                failed.append(error)

        writers = [threading.Thread(target=write, args=(key,)) for key in rows]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert not failed

    for k in range(30):
        folder = tmp_path / str(k)
        pair(folder)
        assert {"a", "b"} <= set(store.manifest(folder)), k
        assert store.load_rows(folder) == rows[str(store.results_key(folder))], k
        store.verify(folder)


def test_no_process_loses_what_another_writes(tmp_path):
    script = (
        "import sys\nfrom pathlib import Path\nfrom bench import store\n"
        "folder, name = Path(sys.argv[1]), sys.argv[2]\nprint(flush=True)\nsys.stdin.readline()\n"
        "for k in range(40):\n"
        "    store.write_manifest(folder, {f'{name}{k}': store.put(folder / f'{name}{k}', name.encode())})\n"
        "    store.save_rows(folder, [store.Row(recipe=name, n=k)], f'{name} {k}')\n"
    )
    folder = tmp_path / "one"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": Path(__file__).parents[1]}
    both = [subprocess.Popen([sys.executable, "-c", script, str(folder), name], **pipes) for name in "ab"]
    for process in both:
        process.stdout.readline()
    for process in both:
        process.stdin.write(b"\n")
        process.stdin.close()
    assert [process.wait() for process in both] == [0, 0]
    for process in both:
        process.stdout.close()
    assert {f"{name}{k}" for name in "ab" for k in range(40)} | {store.RESULTS} == set(store.manifest(folder))
    (row,) = store.load_rows(folder)
    assert store.results_key(folder) == f"{row.recipe} {row.n}"


def test_a_lock_is_held_by_one_thread_which_may_take_it_again(tmp_path):
    waited, inside = threading.Event(), list[str]()

    def other() -> None:
        with store.locked(tmp_path, waited.set):
            inside.append("other")

    with store.locked(tmp_path):
        with store.locked(tmp_path / "." / ""):
            store.save_rows(tmp_path, [Row()], "k")
        thread = threading.Thread(target=other)
        thread.start()
        waited.wait()
        inside.append("this")
    thread.join()
    assert inside == ["this", "other"]


def test_who_waits_for_the_lock_may_give_up(tmp_path):
    def enough() -> None:
        raise KeyboardInterrupt

    ended = list[bool]()

    def other() -> None:
        with pytest.raises(KeyboardInterrupt), store.locked(tmp_path, enough):
            pytest.fail("held twice")
        ended.append(True)

    with store.locked(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert ended == [True]


def test_a_lock_whose_folder_was_deleted_meanwhile_is_taken_in_the_new_one(tmp_path):
    folder, waiting, got = tmp_path / "f", threading.Event(), list[bool]()

    def other() -> None:
        with store.locked(folder, waiting.set):
            got.append((folder / store.LOCK).exists())

    with store.locked(folder):
        thread = threading.Thread(target=other)
        thread.start()
        waiting.wait()
        shutil.rmtree(folder)
    thread.join()
    assert got == [True]


def test_the_next_writer_removes_what_nobody_writes(tmp_path):
    """Whose number a file bears is of no account: it may be that of a process in another container, or of a later one."""
    names = [f".{name}.{number}.tmp" for name in ("a", "b.c") for number in (os.getppid(), os.getpid(), 10**12)]
    for name in (*names, ".x.tmp", "y.1.tmp"):
        (tmp_path / name).write_text("half")
    (tmp_path / ".link.1.tmp").symlink_to("y.1.tmp")
    os.mkfifo(tmp_path / ".pipe.1.tmp")
    with open(tmp_path / names[2], "rb") as written:
        fcntl.flock(written, fcntl.LOCK_EX)
        store.save_rows(tmp_path, [Row()], "k")
    assert {p.name for p in tmp_path.iterdir()} == {
        *(names[2], ".x.tmp", "y.1.tmp"),  # of one who writes, and of none
        *(store.LOCK, store.MANIFEST, store.RESULTS),
    }


def test_a_file_is_locked_until_it_is_whole(tmp_path, monkeypatch):
    """Another process that sweeps meanwhile leaves it."""
    real, seen = os.fsync, []

    def sweeps(file):
        if not seen:
            seen.append(True)
            code = "import sys; from reports.files import sweep; sweep(sys.argv[1])"
            subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
        real(file)

    monkeypatch.setattr("reports.files.os.fsync", sweeps)
    monkeypatch.setattr("reports.files.os.getpid", lambda: 10**12)  # of no process here
    store.write_atomic(tmp_path / "a", b"whole")
    assert seen
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a": "whole"}


def test_two_writers_of_one_number_do_not_share_a_file(tmp_path, monkeypatch):
    """As two containers may have it: the second waits for the first, and writes a file of its own."""
    real, ended = os.fsync, []

    def second(file):
        if not ended:
            ended.append(threading.Thread(target=store.write_atomic, args=(tmp_path / "a", b"second")))
            ended[0].start()
        real(file)

    monkeypatch.setattr("reports.files.os.fsync", second)
    store.write_atomic(tmp_path / "a", b"the first")
    ended[0].join()
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a": "second"}


@pytest.mark.parametrize("name", ["/dev/zero", "../x", "a/../../x", "a/..", ".", "", "a//b", "x\0"])
def test_a_manifest_lists_nothing_outside_its_folder(name, tmp_path):
    store.write_json(tmp_path / store.MANIFEST, {"files": {name: {"sha256": "0" * 64}}})
    for reads in (store.verify, store.manifest, store.load_rows, store.results_key):
        with pytest.raises(BadInput, match=r"which is no file in its folder|is not a manifest"):
            reads(tmp_path)


def test_what_is_listed_and_is_no_file_is_never_read(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/zero")
    (tmp_path / "below").mkdir()
    for name in ("fifo", "link", "below"):
        store.write_json(tmp_path / store.MANIFEST, {"files": {name: {"sha256": "0" * 64}}})
        with pytest.raises(BadInput, match=f"{name}( is no |: Is a directory)"):
            store.verify(tmp_path)


def test_a_file_of_another_size_is_not_even_read(tmp_path, monkeypatch):
    store.write_manifest(tmp_path, {"a": store.put(tmp_path / "a", b"right")})
    with open(tmp_path / "a", "wb") as file:
        file.truncate(1 << 40)  # of holes
    monkeypatch.setattr(Path, "read_bytes", lambda path: path.open("rb").read(1 << 20))
    with pytest.raises(BadInput, match="a is damaged"):
        store.verify(tmp_path)


@pytest.mark.parametrize("entry", [{"bytes": []}, {"bytes": 1.5}, {"bytes": 10**30}, {"key": 3}, {"sha256": None}])
def test_an_entry_of_a_manifest_has_its_types(entry, tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    files = {"a": {"sha256": "00", "bytes": 1, **entry}}
    (tmp_path / store.MANIFEST).write_text(json.dumps({"schema": store.SCHEMA, "files": files}))
    with pytest.raises(BadInput, match="is not a manifest"):
        store.read_verified(tmp_path, "a")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("../outside"), Path.mkdir])
def test_a_lock_is_a_file_of_the_folder_and_nothing_else(make, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    make(folder / store.LOCK)
    if (folder / store.LOCK).is_fifo():  # which can be locked, and is not waited for
        with store.locked(folder):
            pass
    else:
        with pytest.raises(store.Unwritable, match="can not write"), store.locked(folder):
            pass
    assert not (tmp_path / "outside").exists()


def test_a_file_of_json_without_end_is_not_read(tmp_path):
    with open(tmp_path / "run.json", "wb") as file:
        file.truncate(1 << 33)
    with pytest.raises(BadInput, match="at most"):
        store.read_json(tmp_path / "run.json")


def test_a_writer_removes_what_a_dead_one_left_of_its_file(tmp_path):
    """Where no lock is taken too, as in caches."""
    (tmp_path / ".a.999999999.tmp").write_bytes(b"half")
    (tmp_path / ".b.999999999.tmp").write_bytes(b"half")
    store.write_atomic(tmp_path / "a", b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.999999999.tmp", "a"]


def test_a_manifest_holds_what_was_written_not_what_lies_there(tmp_path):
    said = store.put(tmp_path / "a", b"right")
    (tmp_path / "a").write_bytes(b"wrong")
    store.write_manifest(tmp_path, {"a": said})
    with pytest.raises(BadInput, match="a is damaged"):
        store.verify(tmp_path)


def test_what_is_listed_and_gone_stays_listed(tmp_path):
    for name in "ab":
        store.write_manifest(tmp_path, {name: store.put(tmp_path / name, b"x")})
    (tmp_path / "a").unlink()
    store.save_rows(tmp_path, [Row()], "k")
    assert store.missing(tmp_path) == ["a"]
    with pytest.raises(BadInput, match=r"a is missing, but manifest\.json lists it"):
        store.verify(tmp_path)


# ------------------------------------------------------------------------------------------------------------- runs

REPORT = suite.report


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("home")
    (root / "placed_models.py").write_text(PLUGIN)
    (root / "t.toml").write_text(TINY)
    return root


@pytest.fixture(autouse=True)
def installed(home: Path):
    with installed_package("placed_models", home):
        yield


@pytest.fixture(autouse=True)
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs of a suite, done one after the other in this process."""

    def report(found, to, formats=None, *rest, **options):
        return REPORT(found, to, formats or ("csv",), *rest, **options)  # without figures

    monkeypatch.setattr(stages, "report", report)
    return jobs_here(monkeypatch)


def tier(name: str = "tiny") -> tiers.Tier:
    return tiers.tiers()[name]


def planned(recipe: str, seed: int = 0, settings: tuple[str, ...] = ()) -> runs.Run:
    return runs.define(recipe, "ring8", seed, tier(), settings)


def everything(out: Path) -> suite.Result:
    return suite.everything("ring8", ["first", "second"], tier(), out, lambda _: Silent(), seeds=2, device="cpu")


@pytest.fixture(scope="module")
def made(home: Path) -> Path:
    """Filled by `out`: a finished suite, once."""
    return home / "made"


@pytest.fixture
def out(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: list[str]) -> Path:
    """A finished suite of two recipes with two seeds, in `runs` of the folder that one is in."""
    if not made.exists():
        monkeypatch.chdir(made.parent)
        assert everything(Path("made")).failures == ()
    shutil.copytree(made, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    jobs.clear()
    return Path("runs")


@pytest.fixture
def unreported(monkeypatch: pytest.MonkeyPatch) -> None:
    """No report is written: most of the time of a suite of so small runs."""
    monkeypatch.setattr(stages, "report", lambda *_, **__: [])


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def said(result: Result, caplog: pytest.LogCaptureFixture) -> str:
    """What a command told of beside its output, and its exit code is that of a failure."""
    assert result.exit_code == 1, result.output
    text = result.stderr + caplog.text
    caplog.clear()
    return text


def refused(result: Result, *words: str) -> str:
    assert result.exit_code == 2, result.output
    *warnings, line = result.stderr.splitlines()
    assert all(warning.startswith("warning: ") for warning in warnings)
    assert all(word in line for word in words), line
    return line


def weights(folder: Path) -> bytes:
    return (folder / runs.WEIGHTS).read_bytes()


class StopAt(Progress):
    """Stops a training after so many steps; before, does something at a step."""

    def __init__(self, at: int, then: Callable[[], object] | None = None, when: int = -1) -> None:
        super().__init__()
        self.at, self.then, self.when = at, then, when

    def update(self, stage, done, total, **facts):
        if stage.startswith("train ") and done == self.when and self.then is not None:
            self.then()
        if stage.startswith("train ") and done == self.at:
            raise KeyboardInterrupt


def begun(recipe: str, seed: int, out: Path, settings: tuple[str, ...] = ()) -> Path:
    """A run that was stopped half way."""
    run = planned(recipe, seed, settings)
    with pytest.raises(KeyboardInterrupt):
        runs.ensure(run, out, StopAt(40), device="cpu")
    return run.folder(out)


# ------------------------------------------------------------------------------------- whole files in other places


@pytest.mark.parametrize("name", [STATE, PREPARED])
@pytest.mark.parametrize("other", [("first", 1), ("second", 0), ("first", 0, ("lr=0.5",))])
def test_a_checkpoint_of_another_run_is_not_gone_on_from(name, other, tmp_path):
    """Of another seed, recipe or setting: all of one shape."""
    mine, its = begun("first", 0, tmp_path), begun(*other[:2], tmp_path, *other[2:])
    shutil.copy(its / name, mine / name)
    with pytest.raises(BadInput, match=rf"{name} is of '{its.name}', and lies in the place of '{mine.name}'; delete"):
        runs.ensure(planned("first", 0), tmp_path, Progress(), device="cpu")
    assert runs.read_info(mine).status == "training"


def test_a_plan_of_another_run_is_not_followed(tmp_path):
    for recipe in ("first", "second"):
        runs.ensure(planned(recipe), tmp_path, Progress(), device="cpu")
    (its,), (mine,) = ((tmp_path / "ring8" / recipe).glob("plan-*.json") for recipe in ("first", "second"))
    shutil.copy(its, mine)
    with pytest.raises(BadInput, match=r"plan-\w+\.json is of '\w+', and lies in the place of .* delete this file"):
        runs.ensure(planned("second", 1), tmp_path, Progress(), device="cpu")


def test_a_run_under_the_name_of_another_seed_is_not_that_seed(out, jobs, caplog):
    mine, other = (planned("first", seed).folder(out) for seed in (0, 1))
    shutil.rmtree(other)
    shutil.copytree(mine, other)
    result = everything(out)
    (failure,) = result.failures
    assert failure[0] == "first seed 1"
    assert f"{other} holds the run {mine.name}, not {other.name}" in failure[1]
    assert jobs == []
    frame = result.frame()
    (row,) = frame[frame["run"] == other.name].itertuples()
    assert (row.status, row.seed, row.recipe, row.reason) == ("failed", 1, "first", failure[1])
    assert set(frame[(frame["recipe"] == "first") & (frame["status"] == "ok")]["seed"]) == {0}
    for verb in (("sample",), ("evaluate",), ("time",), ("compare", mine)):
        refused(bench(*verb, other), f"holds the run {mine.name}, not {other.name}")
    refused(bench("train", "first", "--dataset", "ring8", "--tier", "tiny", "--seed", 1), "not " + other.name)
    assert f"not {other.name}" in said(bench("report", "--formats", "csv"), caplog)
    assert f"{other} holds the run" in (out / "report" / "report.csv").read_text()
    listed = {row["run"]: row for row in json.loads(bench("list", "runs", "--json").stdout)}
    assert listed[str(other)]["status"] == "damaged"
    assert f"not {other.name}" in listed[str(other)]["note"]
    assert listed[str(mine)]["status"] == "ok"
    assert bench("sample", "first", "--dataset", "ring8").exit_code == 0, "the one that lies where it belongs"


def test_runs_that_changed_places_are_both_noticed(out, unreported):
    a, b = (planned("first", seed).folder(out) for seed in (0, 1))
    shutil.move(a, out / "x")
    shutil.move(b, a)
    shutil.move(out / "x", b)
    assert sorted(name for name, _ in everything(out).failures) == ["first seed 0", "first seed 1"]


def test_a_run_may_be_moved_copied_linked_and_called_otherwise(out, tmp_path):
    run = planned("first").folder(out)
    for place in ("elsewhere/run", "elsewhere/0-x", f"elsewhere/{run.name}", "a/b/c/best"):
        shutil.copytree(run, tmp_path / place)
    (tmp_path / "linked").symlink_to(run.absolute())
    shutil.copytree(out, tmp_path / "other-runs")
    places = ["elsewhere/run", "elsewhere/0-x", f"elsewhere/{run.name}", "a/b/c/best", "linked", run]
    for place in [*places, planned("first").folder(tmp_path / "other-runs")]:
        done = bench("sample", place, "-n", 2, "--to", "x.npz")
        assert done.exit_code == 0, done.output
        assert bench("evaluate", place).exit_code == 0
    assert bench("compare", "elsewhere/run", planned("second").folder(out)).exit_code == 0


@pytest.mark.parametrize("name", ["weights.safetensors", "at"])
def test_weights_of_another_run_are_not_drawn_from_whatever_the_manifest_says(name, out):
    mine, its = (planned(recipe).folder(out) for recipe in ("first", "second"))
    step = runs.snapshots(mine)[0] if name == "at" else None
    name = name if step is None else f"at-{step}.safetensors"
    data = (its / name).read_bytes()
    store.write_manifest(mine, {name: store.put(mine / name, data)})
    with pytest.raises(BadInput, match=rf"{name} is of '{its.name}', and lies in the place of '{mine.name}'; delete"):
        runs.load(mine, step=step)
    (mine / name).write_bytes(b"no tensors")
    store.write_manifest(mine, {name: fingerprint(b"no tensors")})
    with pytest.raises(BadInput, match=rf"{name} does not say what it is of"):
        runs.load(mine, step=step)


def test_what_a_parent_is_rebuilt_from_is_compared_with_the_parent(tmp_path):
    folders = [runs.ensure(planned("pupil", seed), tmp_path, Progress(), device="cpu") for seed in (0, 1)]
    data = (folders[1] / runs.PARENTS).read_bytes()
    store.write_manifest(folders[0], {runs.PARENTS: store.put(folders[0] / runs.PARENTS, data)})
    shutil.rmtree(tmp_path / "ring8" / "first")
    with pytest.raises(BadInput, match=r"parents\.safetensors is of '1-"):
        runs.load(folders[0])
    runs.load(folders[1])


@pytest.mark.parametrize(
    "part",
    [
        measure.TIMING,
        *(pytest.param(part, marks=pytest.mark.heavy) for part in (f"{runs.PROTOCOLS}/other", scores.PLANS)),
    ],
)
def test_rows_of_another_run_are_not_shown_as_this_ones(part, out, caplog):
    mine, its = (planned(recipe).folder(out) for recipe in ("first", "second"))
    for folder in (mine, its):
        scores.evaluate(folder, tier("other"), Progress())
        scores.sampled(folder, [Plan("push", 1, (("times", 2.0),))], tier(), Progress())
    shutil.rmtree(mine / part)
    shutil.copytree(its / part, mine / part)
    with pytest.raises(BadInput, match=f"is of '{its.name}', and lies in the place of '{mine.name}'"):
        store.load_rows(mine / part)
    done = bench("report", "--formats", "csv", "--tier", "other" if "other" in part else "tiny")
    assert f"is of '{its.name}'" in said(done, caplog)


def test_baselines_of_other_data_are_not_shown_beside_runs(out, tmp_path, caplog):
    mine = out / "ring8" / store.BASELINES / "tiny"
    rows = [dataclasses.replace(row, dataset="moons") for row in store.load_rows(mine)]
    its = tmp_path / "moons" / store.BASELINES / "tiny"
    store.save_rows(its, rows, "key")
    assert store.load_rows(its) == rows, "with no run beside them they are whose they say"
    shutil.rmtree(mine)
    shutil.copytree(its, mine)
    with pytest.raises(BadInput, match="is of 'moons', and lies in the place of 'ring8'"):
        store.load_rows(mine)
    assert "is of 'moons'" in said(bench("report", "--formats", "csv", "--tier", "tiny"), caplog)


@pytest.mark.parametrize(
    ("theirs", "mine"),
    [
        (".", "samplers"),
        ("likelihood", "samplers"),
        ("protocols/quick", "protocols/standard"),
        ("protocols/quick/timing", "timing"),
    ],
)
def test_rows_of_another_part_of_the_run_are_not_believed(theirs, mine, tmp_path):
    run = tmp_path / "some" / "0-aaaaaaaaaa"
    for place in (theirs, mine):
        (run / place).mkdir(parents=True, exist_ok=True)
        store.write_sealed(run / store.INFO, {"id": run.name})
        store.save_rows(run / place, [Row(metric="fd", value=1.0)], "k")
        assert store.load_rows(run / place)
    for name in (store.RESULTS, store.MANIFEST):
        shutil.copy(run / theirs / name, run / mine / name)
    with pytest.raises(BadInput, match=f"is of '{theirs}', and lies in the place of '{mine}'"):
        store.load_rows(run / mine)
    store.save_rows(run / mine, [Row(metric="fd", value=2.0)], "k")
    assert [row.value for row in store.load_rows(run / mine)] == [2.0]
    moved = run.rename(tmp_path / "mine")  # a run may lie anywhere
    assert store.load_rows(moved / theirs)


def test_baselines_of_another_tier_are_not_believed(out):
    mine = out / "ring8" / store.BASELINES / "tiny"
    shutil.copytree(mine, mine.with_name("quick"))
    with pytest.raises(BadInput, match="is of 'tiny', and lies in the place of 'quick'"):
        store.load_rows(mine.with_name("quick"))


def test_rows_of_earlier_versions_do_not_say_where_they_belong(tmp_path):
    run = tmp_path / "0-aaaaaaaaaa"
    run.mkdir()
    store.write_sealed(run / store.INFO, {"id": run.name})
    store.save_rows(run, [Row(metric="fd", value=1.0)], "k")
    listed = store.read_json(run / store.MANIFEST)
    del listed["files"][store.RESULTS]["place"]
    store.write_json(run / store.MANIFEST, listed)
    assert store.load_rows(run)


def test_a_run_of_other_data_beside_them_does_not_condemn_baselines(out):
    mine = out / "ring8" / store.BASELINES / "tiny"
    for name in ("aaa", "zzz"):
        stray = out / "ring8" / name / "0-aaaaaaaaaa"
        stray.mkdir(parents=True)
        store.write_sealed(stray / "run.json", {"dataset": "moons"})
    assert store.load_rows(mine)


def test_a_report_is_not_written_over_results(out):
    for folder in (planned("first").folder(out), out / "ring8" / store.BASELINES / "tiny"):
        before = (folder / store.MANIFEST).read_bytes()
        refused(bench("report", "--to", folder), "choose another")
        assert (folder / store.MANIFEST).read_bytes() == before
        assert store.load_rows(folder)


@pytest.mark.parametrize(
    ("theirs", "formats"),
    [
        ("report.csv", "csv"),
        (store.MANIFEST, "csv"),
        pytest.param("report.html", "html", marks=pytest.mark.heavy),
        pytest.param("table.tex", "md,tex", marks=pytest.mark.heavy),
        pytest.param("figures", "md", marks=pytest.mark.heavy),
    ],
)
def test_a_report_is_not_written_over_a_file_that_no_report_wrote(theirs, formats, out, tmp_path):
    to = tmp_path / "to"
    to.mkdir()
    (to / theirs).write_text("mine")
    refused(bench("report", out, "--to", to, "--formats", formats), f"{to / theirs} is no part of a report")
    assert {path.name: path.read_text() for path in to.iterdir() if path.name != store.LOCK} == {theirs: "mine"}
    (to / theirs).unlink()
    assert bench("report", out, "--to", to, "--formats", formats).exit_code == 0


def test_a_report_of_another_format_does_not_give_the_folder_away(out, tmp_path):
    to = tmp_path / "to"
    (to / "figures").mkdir(parents=True)
    (to / "figures" / "mine.svg").write_text("mine")
    assert bench("report", out, "--to", to, "--formats", "csv").exit_code == 0
    for _ in range(2):
        refused(bench("report", out, "--to", to, "--formats", "md"), f"{to / 'figures'} is no part of a report")
    assert bench("report", out, "--to", to, "--formats", "csv").exit_code == 0
    (to / "figures").rename(tmp_path / "elsewhere")
    for formats in ("md", "csv", "md"):
        assert bench("report", out, "--to", to, "--formats", formats).exit_code == 0
    assert (tmp_path / "elsewhere" / "mine.svg").read_text() == "mine"


def test_a_report_that_was_interrupted_is_written_anew(out, tmp_path, monkeypatch):
    to = tmp_path / "to"

    def killed(data):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("reports.writers.report.files", SimpleNamespace(write=files.write, fingerprint=killed))
        bench("report", out, "--to", to, "--formats", "csv")
    assert {path.name for path in to.iterdir()} == {store.LOCK, store.MANIFEST, "report.csv"}
    assert bench("report", out, "--to", to, "--formats", "csv").exit_code == 0
    assert set(store.manifest(to)) == {"report.csv", "table.csv"}


@pytest.mark.heavy
def test_the_names_of_a_reports_files_are_known(out, tmp_path):
    for name, its in reports.FILES.items():
        bench("report", out, "--to", tmp_path / name, "--formats", name)
        assert {key for key in store.manifest(tmp_path / name) if "/" not in key} == set(its)


@pytest.mark.parametrize("part", [".", "figures"])
def test_a_report_is_not_written_over_others_files_behind_a_link(part, out, tmp_path):
    home, to = tmp_path / "home", tmp_path / "report"
    kept = strangers(home)
    place = to / part
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(home)
    refused(
        bench("report", out, "--to", to, "--formats", "md"), f"{place} is a link to {home}, which holds other files"
    )
    assert there(kept)
    assert {path.name for path in home.iterdir()} <= {"photographs", "thesis.tex", store.LOCK}


def test_a_damaged_manifest_of_the_baselines_ends_no_report(out, caplog):
    (out / "ring8" / store.BASELINES / "tiny" / store.MANIFEST).write_bytes(b"{")
    done = bench("report", "--formats", "csv")
    assert done.exit_code == 1
    assert "`bench all` or `bench evaluate` makes it anew" in said(done, caplog)


@pytest.mark.parametrize("change", [{"status": None}, {"seed": 10**30}, {"recipe": "\ud800"}, {"id": 3}])
def test_a_run_json_that_lacks_what_names_it_stops_no_other(change, out, caplog):
    folder = planned("first").folder(out)
    told = {**store.read_json(folder / store.INFO), **change}
    told = {name: value for name, value in told.items() if value is not None}
    (folder / store.INFO).write_text(json.dumps(told))
    assert str(planned("second").folder(out)) in bench("list", "runs", "--json").stdout
    done = bench("report", "--formats", "csv")
    assert done.exit_code == 1, done.output
    assert "left out" in said(done, caplog)


def test_every_file_of_a_run_in_the_place_of_every_like_one_is_noticed(out):
    """Whatever single file is another run's, the run that it came to does not stand as it is."""
    folders = [planned(recipe, seed).folder(out) for recipe in ("first", "second") for seed in (0, 1)]
    tried = 0
    for mine in folders:
        for its in folders:
            for path in sorted(path for path in its.rglob("*") if path.is_file() and not path.name.startswith(".")):
                here = mine / path.relative_to(its)
                if mine == its or not here.exists():
                    continue
                before = here.read_bytes()
                if path.read_bytes() != before:
                    shutil.copy(path, here)
                    assert not stands(mine), here
                    tried += 1
                    here.write_bytes(before)
    assert tried > 80
    assert all(map(stands, folders))


def stands(folder: Path) -> bool:
    """Whether a suite would take a run, its rows and its times as they are."""
    try:
        return (
            runs.is_finished(folder)
            and scores.is_evaluated(folder, tier())
            and suite.check([folder, folder / measure.TIMING], ()).warnings == []
        )
    except BadInput:
        return False


# -------------------------------------------------------------------------------------------------- what is missed


@pytest.mark.heavy
def test_every_file_that_is_deleted_is_missed(out, caplog):
    folder = planned("first").folder(out)
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        before = path.read_bytes()
        path.unlink()
        assert not stands(folder), path
        if path.name != runs.INFO:  # without which it is no run
            assert path.name in said(bench("report", "--formats", "csv", "--to", "r"), caplog), path
            note = {row["run"]: row["note"] for row in json.loads(bench("list", "runs", "--json").stdout)}[str(folder)]
            assert path.name in note or path.parent != folder, path
        path.write_bytes(before)
    assert stands(folder)
    assert bench("report", "--formats", "csv", "--to", "r").exit_code == 0


@pytest.mark.heavy
def test_a_run_whose_rows_are_gone_is_a_row_that_says_so(out, jobs, caplog):
    for folder in (planned("first").folder(out), planned("second", 1).folder(out)):
        (folder / store.RESULTS).unlink()
    text = said(bench("report", "--formats", "md"), caplog)
    assert text.count("results.jsonl is missing, but manifest.json lists it") == 2
    text = (out / "report" / "report.md").read_text()
    assert "seed 0 failed" in text
    assert "seed 1 failed" in text
    done = bench("compare", "first", "second")
    assert done.stderr.count("results.jsonl is missing") == 2
    assert everything(out).failures == ()
    assert sorted(jobs) == ["evaluate first seed 0", "evaluate second seed 1"]
    assert bench("report", "--formats", "csv").exit_code == 0


def test_copies_of_a_run_with_other_rows_are_never_averaged(out, tmp_path):
    """The copy may come first by name, or be measured anew by other code; equal copies are one run."""
    run = planned("first").folder(out)
    before, alike = suite.check([run], []), out / "a copy"
    shutil.copytree(run, alike)
    assert not suite.check([alike, run], []).warnings
    rows = [dataclasses.replace(row, value=row.value and 3 * row.value) for row in store.load_rows(run)]
    store.save_rows(alike, rows, "again")
    found = suite.check([alike, run], [])
    assert found.folders == before.folders
    assert found.warnings == [
        f"left out: {alike} holds other rows of the run {run.name} than {run}; delete one of the two"
    ]
    assert suite.frame(found.folders, {}).equals(suite.frame(before.folders, {}))
    assert bench("report", out, "--to", tmp_path / "report", "--formats", "csv").exit_code == 1
    moved = out / "moved"
    run.rename(moved)
    assert suite.check([alike, moved], []).folders == (alike,)


def test_rows_of_the_floor_that_are_gone_are_said(out, jobs, caplog):
    floor = out / "ring8" / "baselines" / "tiny"
    (floor / store.RESULTS).unlink()
    assert f"{floor}/results.jsonl is missing" in said(bench("report", "--formats", "csv"), caplog)
    assert everything(out).failures == ()
    assert jobs == ["baselines"]


@pytest.mark.parametrize("name", [scores.GRID, scores.SAMPLES])
def test_pictures_and_samples_that_are_gone_or_anothers_are_made_again(name, out, jobs, unreported):
    floor, run, its = out / "ring8" / "baselines" / "tiny", planned("first").folder(out), planned("second").folder(out)
    (floor / name).unlink()
    shutil.copy(its / name, run / name)
    assert everything(out).failures == ()
    assert sorted(jobs) == ["baselines", "evaluate first seed 0"]
    for folder in (floor, run):
        store.verify(folder)
    jobs.clear()
    everything(out)
    assert jobs == []


def test_baselines_that_are_stopped_before_their_last_file_are_made_again(out, monkeypatch):
    floor = out / "ring8" / "baselines" / "tiny"
    names = {path.name for path in floor.iterdir()}
    for module, last in (
        (pictures, "grid_png"),
        (pictures, "npz"),
        (baselines, "save_rows"),
        (pictures, "write_manifest"),
    ):
        shutil.rmtree(floor)
        with monkeypatch.context() as patch:
            patch.setattr(module, last, lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                scores.score_baselines("ring8", tier(), floor, Progress())
        assert not scores.has_baselines("ring8", tier(), floor), last
        scores.score_baselines("ring8", tier(), floor, Progress())
        assert {path.name for path in floor.iterdir()} == names


def test_a_picture_of_someones_samples_that_is_gone_is_made_again(out):
    npz = planned("first").folder(out) / scores.SAMPLES
    for _ in range(2):
        assert bench("evaluate", npz, "--dataset", "ring8", "--to", "ext", "--name", "mine").exit_code == 0
        store.verify(Path("ext"))
        assert set(store.manifest(Path("ext"))) == {store.RESULTS, scores.GRID, scores.SAMPLES}
        (Path("ext") / scores.SAMPLES).unlink()


def test_an_answer_given_meanwhile_is_kept(out, monkeypatch):
    """Two ask different things of one run: whoever writes last keeps the other's answer."""
    folder = planned("first").folder(out)
    two, three = (Plan("push", 1, (("times", t),)) for t in (2.0, 3.0))
    draw, asked = pools.draw, list[object]()

    def meanwhile(model, plan, *rest):
        if not asked:
            asked.append(plan)
            scores.sampled(folder, [three], tier(), Progress())
        return draw(model, plan, *rest)

    monkeypatch.setattr(pools, "draw", meanwhile)
    scores.sampled(folder, [two], tier(), Progress())
    assert {row.options for row in store.load_rows(folder / scores.PLANS)} == {"times=2", "times=3"}


def test_a_leftover_checkpoint_of_a_finished_run_is_removed(out, unreported):
    finished = [planned("first", seed).folder(out) for seed in (0, 1)]
    for folder in finished:
        for name in (STATE, PREPARED):
            (folder / name).write_bytes(b"left by a kill")
    everything(out)
    for folder in finished:
        assert not (folder / STATE).exists()
        assert not (folder / PREPARED).exists()
    (finished[0] / STATE).write_bytes(b"left by a kill")
    runs.ensure(planned("first"), out, Progress(), device="cpu")
    assert not (finished[0] / STATE).exists()


# ------------------------------------------------------------------------------------- what vanishes in training


def lines(folder: Path) -> list[dict]:
    return [
        {k: v for k, v in json.loads(line).items() if k != "seconds"}
        for line in (folder / LOG).read_text().splitlines()
    ]


@pytest.mark.parametrize("name", [LOG, STATE, PREPARED, runs.INFO])
def test_what_vanishes_while_a_run_trains_is_there_when_it_ends(name, out, tmp_path, monkeypatch):
    monkeypatch.setattr("bench.loop.CHECKPOINT_SECONDS", 0)
    expected, there = planned("first").folder(out), tmp_path / "again"
    folder = planned("first").folder(there)
    runs.ensure(planned("first"), there, StopAt(-1, (folder / name).unlink, 60), device="cpu")
    assert {p.name for p in folder.iterdir()} == {p.name for p in expected.iterdir()} - {
        *(scores.GRID, scores.SAMPLES, store.RESULTS, measure.TIMING)
    }
    assert lines(folder) == lines(expected)
    assert weights(folder) == weights(expected)
    assert runs.is_finished(folder)


def strangers(folder: Path) -> dict[str, str]:
    """What somebody keeps in a folder of their own."""
    (folder / "photographs").mkdir(parents=True)
    (folder / "photographs" / "one.jpg").write_text("dear")
    (folder / "thesis.tex").write_text("dear")
    return {str(folder / name): "dear" for name in ("photographs/one.jpg", "thesis.tex")}


def there(files: dict[str, str]) -> bool:
    return all(os.path.exists(path) and Path(path).read_text() == text for path, text in files.items())


@pytest.mark.parametrize("link", [True, False])
def test_a_training_deletes_nothing_of_others_where_its_folder_should_be(link, tmp_path):
    folder = planned("first").folder(tmp_path / "out")
    home = tmp_path / "home" if link else folder
    kept = strangers(home)
    if link:
        folder.parent.mkdir(parents=True)
        folder.symlink_to(home)
    with pytest.raises(BadInput, match=r"holds no run but photographs; move that elsewhere, or choose another --out"):
        runs.ensure(planned("first"), tmp_path / "out", device="cpu")
    assert there(kept)


def test_a_link_to_others_files_that_are_called_like_a_runs_is_not_followed(tmp_path):
    folder, home = planned("first").folder(tmp_path / "out"), tmp_path / "home"
    home.mkdir()
    (home / scores.GRID).write_text("dear")
    folder.parent.mkdir(parents=True)
    folder.symlink_to(home)
    with pytest.raises(BadInput, match=f"a link to {home}, holds no run but {scores.GRID}"):
        runs.ensure(planned("first"), tmp_path / "out", device="cpu")
    assert (home / scores.GRID).read_text() == "dear"


def test_a_resumed_training_leaves_notes_beside_it_alone(tmp_path):
    folder = begun("first", 0, tmp_path)
    kept = strangers(folder)
    (folder / measure.TIMING).mkdir()
    runs.ensure(planned("first"), tmp_path, device="cpu")
    assert there(kept)
    assert not (folder / measure.TIMING).exists()
    assert runs.is_finished(folder)


def test_what_a_run_holds_is_known_as_its_own(out):
    names = {path.name for path in planned("second").folder(out).iterdir() if not path.name.startswith(".")}
    assert {name for name in names if not step_of(name)} <= OWN
    parts = (scores.GRID, scores.SAMPLES, scores.ASKED, scores.PLANS, scores.SPACES, measure.TIMING)
    assert OWN.issuperset(parts)


@pytest.mark.parametrize("harm", ["gone", "a digit", "cut", "another's"])
def test_the_log_of_a_resumed_training_is_not_believed_line_by_line(harm, out, tmp_path):
    expected, there = planned("first").folder(out), tmp_path / "again"
    folder = begun("first", 0, there)
    data = (folder / LOG).read_bytes()
    (folder / LOG).unlink()
    if harm == "a digit":
        (folder / LOG).write_bytes(data.replace(b'"loss": 0.', b'"loss": 9.', 3))
        assert (folder / LOG).read_bytes() != data
    elif harm == "cut":
        (folder / LOG).write_bytes(data[: len(data) // 2])
    elif harm == "another's":
        shutil.copy(planned("second").folder(out) / LOG, folder / LOG)
    runs.ensure(planned("first"), there, Progress(), device="cpu")
    assert lines(folder) == lines(expected)


def test_weights_kept_on_the_way_can_not_vanish(out, tmp_path):
    """They wait in the checkpoint, which is hashed, until the run ends."""
    expected, there = planned("first").folder(out), tmp_path / "again"
    folder = begun("first", 0, there)
    for path in folder.glob("at-*"):
        path.unlink()
    runs.ensure(planned("first"), there, Progress(), device="cpu")
    assert runs.snapshots(folder) == runs.snapshots(expected) != []
    for step in runs.snapshots(folder):
        name = f"at-{step}.safetensors"
        assert (folder / name).read_bytes() == (expected / name).read_bytes()


# ------------------------------------------------------------------------------------------------ read-only places


@pytest.fixture
def sealed(out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The finished suite in a place that nothing can be written to; for root, too."""
    root, open_file, open_low = str(out.absolute()), builtins.open, os.open

    def inside(path) -> bool:
        return isinstance(path, (str, os.PathLike)) and os.path.abspath(path).startswith(root)

    def refuse(path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    def file(path, mode="r", *rest, **options):
        return refuse(path) if inside(path) and set(mode) & set("wax+") else open_file(path, mode, *rest, **options)

    def low(path, flags, *rest, **options):
        changes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        return refuse(path) if inside(path) and changes else open_low(path, flags, *rest, **options)

    monkeypatch.setattr(builtins, "open", file)
    monkeypatch.setattr(os, "open", low)
    for name in ("unlink", "rename", "replace", "rmdir", "mkdir"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda path, *rest, real=real, **o: refuse(path) if inside(path) else real(path, *rest, **o)
        )
    return out


def test_a_stopped_suite_leaves_a_report_of_what_had_ended(tmp_path, caplog, monkeypatch):
    """Stopped before anything had ended there is none; after the runs of one recipe their table; then the rest is made."""
    report, perform, let = tmp_path / "report" / "ring8-tiny" / "report.csv", stages.perform, list[str]()

    def stopped(jobs, *args, **named):
        perform([job for job in jobs if any(word in job.name for word in let)], *args, **named)
        raise KeyboardInterrupt

    def shown() -> set[str]:
        with open(report) as file:
            return {line["recipe"] for line in csv.DictReader(file)}

    with monkeypatch.context() as patch:
        patch.setattr(stages, "perform", stopped)
        for let[:] in ([], ["second"]):
            assert not report.exists()
            with pytest.raises(KeyboardInterrupt):
                everything(tmp_path)
    assert f"stopped; {report} shows what had ended" in caplog.text
    assert shown() == {"second"}
    assert not everything(tmp_path).failures
    assert shown() > {"first", "second"}  # and the baselines


def test_a_finished_suite_on_a_read_only_place_is_shown_again(sealed, jobs):
    arguments = ("--dataset", "ring8", "--tier", "tiny", "--recipes", "first,second", "--seeds", 2, "--device", "cpu")
    done = bench("all", *arguments)
    assert done.exit_code == 0, done.output
    assert jobs == []
    assert "first" in done.stdout
    assert "report: runs/report/ring8-tiny/" in done.stdout
    run = planned("first").folder(sealed)
    for words in (
        ("list", "runs"),
        ("compare", "first", "second"),
        ("evaluate", run),
        ("sample", run, "--to", "x.npz"),
    ):
        done = bench(*words)
        assert done.exit_code == 0, done.output
    done = bench("train", "first", "--dataset", "ring8", "--tier", "tiny", "--device", "cpu")
    assert done.exit_code == 0, done.output
    refused(bench("report", "--formats", "csv"), "can not write", "Read-only file system", "choose another")
    assert bench("report", "--formats", "csv", "--to", "r").exit_code == 0


def test_what_is_wanting_on_a_read_only_place_is_one_line(sealed, jobs):
    arguments = ("all", "--dataset", "ring8", "--tier", "tiny", "--recipes", "first", "--device", "cpu")
    refused(bench(*arguments, "--seeds", 3), "can not write to runs", "Read-only file system")
    assert jobs == []
