"""Python's door to the suite: the same bits and rows as the command line, data in memory, and mistakes in one line."""

from __future__ import annotations

import doctest
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset
from typer.testing import CliRunner, Result

import bench
from bench import api, cli, store
from bench import data as data_sets
from bench.data.array import keep_arrays
from bench.inputs.runs import Runs

ROOT = Path(__file__).parents[1]
TIER = """
[tiny]
base = "smoke"
match = "images"
samples = 32
max_calls = 8
likelihood_n = 8
likelihood_calls = 2
raw_seeds = 0
snapshot_seeds = 0
small = { flops = 1e9, seconds = 1e9, images = 128, params = 20_000 }
vectors = { flops = 1e9, seconds = 1e9, images = 512, params = 20_000 }
"""
TINY = "mine.toml:tiny"


def command(*arguments: object) -> Result:
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A place with one run of vectors, made and scored from the command line."""
    world = tmp_path_factory.mktemp("api")
    (world / "mine.toml").write_text(TIER)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        patch.setenv("BENCH_DATA", str(world / "cache"))
        command("train", "vae", "--dataset", "ring8", "--tier", TINY)
        command("evaluate", "vae", "--dataset", "ring8", "--tier", TINY)
        yield world


@pytest.fixture(scope="module")
def run(world: Path) -> bench.Opened:
    return bench.load("vae", "ring8")


def refused(words: str, function, *arguments, **options) -> None:
    """One line that says so."""
    with pytest.raises(bench.BadInput) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    assert re.search(words, str(caught.value)), str(caught.value)


# ------------------------------------------------------------------------------------------------------ the door


def test_it_is_light_until_it_is_used():
    code = "import sys, bench; print(sorted({'torch', 'pandas', 'typer'} & set(sys.modules)), bench.BadInput.__name__)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert out.stdout == "[] BadInput\n"


def test_every_name_is_there_and_is_said():
    assert all(callable(getattr(bench, name)) and name in dir(bench) for name in bench.__all__)
    with pytest.raises(AttributeError, match="no attribute 'sampel'"):
        bench.sampel  # noqa: B018


def test_what_its_docstrings_show(world, run, monkeypatch):
    """Each example is run; only what trains by a tier of a file stands for the shipped one."""
    monkeypatch.setattr(api.tiers, "get", lambda name, get=api.tiers.get: get(TINY if name == "smoke" else name))
    tests = doctest.DocTestFinder().find(api, globs={**vars(api), "runs": Path("runs"), "run": run})
    results = [doctest.DocTestRunner().run(test) for test in tests if test.examples]
    assert len(results) == 5
    assert not sum(result.failed for result in results)


def test_every_block_of_the_page(world, monkeypatch):
    monkeypatch.setattr(api.tiers, "get", lambda name, get=api.tiers.get: get(TINY if name == "smoke" else name))
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    assert len(blocks) >= 6
    for block in blocks:
        exec(block, names)
    assert names["mine"].info.dataset == "iris"
    assert names["again"].folder == names["run"].folder


# ---------------------------------------------------------------------------------------- as on the command line


def test_a_run_is_opened(run):
    assert run.folder == next(Path("runs/ring8/vae").glob("0-*"))
    assert (run.info.recipe, run.recipe.name, run.space.shape, run.model.training) == ("vae", "vae", (2,), False)
    assert run.data.name == "ring8"
    assert bench.load(run.folder).info == run.info == bench.load(str(run.folder)).info


def test_samples_are_those_of_the_command_line(run, tmp_path):
    command("sample", run.folder, "-n", 5, "--seed", 3, "--option", "temperature=0.5", "--to", tmp_path / "x.npz")
    same = np.load(tmp_path / "x.npz")["samples"]
    x = bench.sample(run, 5, seed=3, temperature=0.5)
    assert x.dtype == torch.float32
    assert np.array_equal(same, x.numpy())
    assert torch.equal(x, bench.sample(run.folder, 9, seed=3, temperature=0.5)[:5])
    assert not torch.equal(x, bench.sample(run, 5, seed=4, temperature=0.5))
    assert torch.equal(x, bench.sample(run, np.int64(5), seed=np.uint8(3), temperature=np.float32(0.5)))


def test_scores_are_those_of_the_command_line(run, tmp_path):
    x = bench.sample(run, 64)
    np.savez(tmp_path / "mine.npz", samples=x.numpy())
    expected = json.loads(command("evaluate", tmp_path / "mine.npz", "--dataset", "ring8", "--json").stdout)
    for given, name in ((x, "mine"), (x.numpy(), "mine"), (tmp_path / "mine.npz", ""), (x.tolist(), "mine")):
        rows = bench.score(given, "ring8", name=name)
        assert list(rows.columns) == [name for name, _, _ in store.columns()]
        found = json.loads(rows.to_json(orient="records", double_precision=15))
        for row, same in zip(found, expected, strict=True):
            value, its = row.pop("value"), same.pop("value") if given is x else same["value"]
            assert value == pytest.approx(its, rel=1e-14)
            if given is x:
                same["value"] = its
            for key in ("error", "low", "high"):
                assert row.pop(key) == (None if same[key] is None else pytest.approx(same[key], rel=1e-13)), key
            assert row == {k: v for k, v in same.items() if k in row}
    assert set(bench.score(x, "ring8").query("status == 'external'").recipe) == {"samples"}


def test_a_run_trained_here_is_the_one_of_the_command_line(run, tmp_path):
    """The folder's name and every byte of the weights; a setting is the same setting."""
    here = bench.train("vae", "ring8", tier=TINY, out=tmp_path)
    assert here.folder.relative_to(tmp_path) == run.folder.relative_to("runs")
    hashes = [store.manifest(r.folder)["weights.safetensors"]["sha256"] for r in (here, run)]
    assert hashes[0] == hashes[1]
    assert torch.equal(bench.sample(here, 4), bench.sample(run, 4))
    before = (here.folder / "run.json").read_bytes()
    assert bench.train("vae", "ring8", tier=TINY, out=tmp_path).folder == here.folder
    assert (here.folder / "run.json").read_bytes() == before
    other = bench.train("vae", "ring8", tier=TINY, out=tmp_path, settings={"lr": 5e-4, "batch": 32})
    command("train", "vae", "--dataset", "ring8", "--tier", TINY, "--set", "lr=5e-4", "--set", "batch=32")
    assert (Path("runs") / other.folder.relative_to(tmp_path)).is_dir()
    assert (other.info.config["lr"], other.info.config["batch"]) == (5e-4, 32)


def test_the_frame_is_what_was_measured(run, tmp_path):
    rows = bench.frame("runs")
    own = rows[rows.run == run.info.id]
    written = [json.loads(line) for line in (run.folder / store.RESULTS).read_text().splitlines()]
    kept = [row for row in written if "metric" in row]
    assert own.metric.tolist() == [row["metric"] for row in kept]
    assert own.value.tolist() == pytest.approx(
        [float("nan") if r["value"] is None else r["value"] for r in kept], nan_ok=True
    )
    assert (str(rows.dtypes["seed"]), str(rows.dtypes["value"]), str(rows.dtypes["headline"])) == (
        "Int64",
        "float64",
        "bool",
    )


def test_a_damaged_folder_is_left_out_with_a_warning(run, tmp_path):
    import shutil

    shutil.copytree("runs", tmp_path / "runs")
    path = tmp_path / run.folder / store.RESULTS
    path.write_text(path.read_text().replace('"vae"', '"gan"', 1))
    copy = tmp_path / "runs" / "ring8" / "whole"
    shutil.copytree(run.folder, copy)
    with pytest.warns(UserWarning, match="left out: .*results.jsonl"):
        rows = bench.frame(tmp_path / "runs")
    assert set(rows.recipe) == {"vae"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bench.frame(copy)


# -------------------------------------------------------------------------------------------------- data in memory


class Items(Dataset):
    def __init__(self, *parts):
        self.parts = parts

    def __len__(self):
        return len(self.parts[0])

    def __getitem__(self, k):
        return self.parts[0][k] if len(self.parts) == 1 else tuple(part[k] for part in self.parts)


class Stream(IterableDataset):
    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return iter(self.x)


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    return draw.integers(0, 256, (60, 8, 8), dtype=np.uint8), np.arange(60) % 2


def test_data_in_memory_are_one_data_set_however_they_are_given(world, images):
    x, y = images
    forms = [
        (x, y),
        (torch.from_numpy(x), torch.from_numpy(y)),
        (x[:, None], y.astype(np.int32)),
        (x[..., None], [int(label) for label in y]),
        {"x": x, "y": y},
        {"samples": x, "labels": y},
        Items(x, y),
        Items(torch.from_numpy(x)[:, None], y),
    ]
    found = [api._data(form, Runs(world)) for form in forms]
    assert len({(f.name, f.checksum, f.place.path) for f in found}) == 1
    assert (found[0].space.shape, found[0].space.levels, found[0].space.classes) == ((1, 8, 8), 256, 2)
    assert torch.equal(torch.cat([found[0].train.x, found[0].test.x]).sum(), torch.from_numpy(x).sum())
    alone = [api._data(form, Runs(world)) for form in (x, Items(x), Stream(x), x.tolist())]
    assert len({f.checksum for f in alone}) == 1
    assert not alone[0].space.classes
    np.savez(world / "same.npz", x=x, y=y)
    assert data_sets.load("array:same.npz").checksum == found[0].checksum
    np.save(world / "same.npy", x)
    assert data_sets.load("array:same.npy").checksum == alone[0].checksum


def test_the_held_out_part_follows_the_content(world, images):
    """Neither the order of the examples nor further ones move an example to the other side; copies share a side."""
    x, _ = images

    def held(part: np.ndarray) -> set[bytes]:
        return {row.numpy().tobytes() for row in api._data(part, Runs(world)).test.x}

    assert held(x) == held(x[::-1]) >= held(x[:40])
    twice = api._data(np.concatenate([x, x]), Runs(world))
    train, test = ({row.numpy().tobytes() for row in part.x} for part in (twice.train, twice.test))
    assert not train & test
    assert len(twice.test) == 2 * len(test) == 2 * len(held(x))
    given = api._data(x[:50], Runs(world), test=x[50:])
    assert (len(given.train), len(given.test), given.drawn) == (50, 10, False)
    assert torch.equal(given.test.x[:, 0], torch.from_numpy(x[50:]))


def test_a_run_of_data_in_memory_is_found_scored_and_resumed(world, images):
    """From Python and from the command line, by the data, by the file and by the name that they were given."""
    x, y = images
    run = bench.train("vae", (x, y), tier=TINY, name="noise", out="own")
    assert (run.info.dataset, run.info.checksum) == ("noise", run.data.checksum)
    assert bench.train("vae", Items(x, y), tier=TINY, out="own").folder == run.folder
    np.savez(world / "noise.npz", x=x, y=y)
    assert bench.train("vae", "array:noise.npz", tier=TINY, out="own").folder == run.folder
    found = [bench.load("vae", data, out="own").folder for data in ("noise", (x, y), "array:noise.npz")]
    assert set(found) == {run.folder}
    told = command("data", "array:noise.npz").stdout
    assert "46 training and 14 test examples of shape (1, 8, 8), 256 levels, 2 classes" in told
    rows = bench.score(bench.sample(run, 32), (x, y), out="own")
    assert set(rows.dataset) == {"noise"}
    by_name = json.loads(
        command("evaluate", "vae", "--dataset", "noise", "--out", "own", "--tier", TINY, "--json").stdout
    )
    assert {row["dataset"] for row in by_name} == {"noise"}
    assert command("train", "vae", "--dataset", "array:noise.npz", "--tier", TINY, "--out", "own").stdout.startswith(
        str(run.folder)
    )


def test_a_damaged_file_in_the_cache_is_written_anew(world, images):
    place = api._data(images, Runs(world)).place
    place.path.write_bytes(place.path.read_bytes()[:-100])
    refused("is no whole .npz", data_sets.load, place)
    assert len(api._data(images, Runs(world)).train) + len(data_sets.load(place).test) == 60


def test_a_file_that_was_written_anew_is_read_anew(world, images):
    x, _ = images
    np.save(world / "changing.npy", x)
    first = api._data("array:changing.npy", Runs(world)).checksum
    np.save(world / "changing.npy", x[::-1])
    assert api._data("array:changing.npy", Runs(world)).checksum != first


def test_a_file_that_is_gone_or_changed_is_said(world, images):
    x, _ = images
    np.save(world / "going.npy", x)
    run = bench.train("vae", "array:going.npy", tier=TINY, out="going")
    assert run.info.dataset.startswith("going-")
    (world / "going.npy").rename(world / "gone.npy")
    refused(
        "names the examples in .*going.npy, .* which is no file; .*--dataset array:PATH.npz",
        lambda: bench.load(run.folder).data,
    )
    assert bench.load(run.folder, "array:gone.npy").data.checksum == run.info.checksum
    np.save(world / "gone.npy", 255 - x)
    refused("was trained on other data", lambda: bench.load(run.folder, "array:gone.npy").data)


def test_labels_are_told_and_asked_for(world, images):
    x, y = images
    run = bench.train("vae", (x, np.where(y, "odd", "even")), tier=TINY, conditional=True, out="labels")
    assert run.data.labels == ("even", "odd")
    assert torch.equal(bench.sample(run, 4, label="odd"), bench.sample(run, 4, label=[1, 1, 1, 1]))
    assert torch.equal(bench.sample(run, 4, label=1), bench.sample(run, 4, label=torch.ones(4, dtype=torch.int32)))
    refused("label must be a class, or 4 class numbers from 0 to 1", bench.sample, run, 4, label=[0, 1, 2, 0])
    refused("label must be a class", bench.sample, run, 4, label=[0, 1])
    refused("label must be a class", bench.sample, run, 4, label=[0.0, 1.0, 0.0, 1.0])
    refused("unknown label 'evn'", bench.sample, run, 4, label="evn")


# ------------------------------------------------------------------------------------------------------- mistakes

X = np.zeros((10, 8, 8), dtype=np.uint8)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": X.astype(float)}, "images must be integers 0 to 255: round them"),
        ({"x": X.astype(bool)}, "write images as integers 0 to 255"),
        ({"x": X.astype(int) - 1}, "holds integers -1 to -1, but images hold 0 to 255"),
        ({"x": X.astype(np.uint64) + 256}, "holds integers 256 to 256"),
        ({"x": X[:, :4]}, "must be square"),
        ({"x": np.zeros((10, 8, 8, 2), int)}, "with 1 or 3 channels"),
        ({"x": X[:0]}, "x holds no example"),
        ({"x": np.zeros((4, 0, 0), int)}, "x holds no example"),
        ({"x": np.zeros((4, 0))}, "x holds no example"),
        ({"x": np.zeros((10, 2), int)}, "int64 of shape .10, 2., but examples are images"),
        ({"x": np.float64(3)}, "float64 of shape .., but"),
        ({"x": np.array([[1.0], [np.nan]])}, "not finite, in 1 of 2 examples"),
        ({"x": np.array([[1.0], [1e300]])}, "not finite, in 1 of 2 examples"),
        ({"x": X}, "10 examples, of which 1 differ, are too few"),
        ({"x": [[1, 2], [3]]}, "x is no array of numbers"),
        ({"x": np.array([{}, {}])}, "object of shape"),
        ({"y": X[:, 0, 0], "z": X}, "there is no array x"),
        ({"x": X, "y": X}, "y must hold 10 classes"),
        ({"x": X, "y": np.arange(9)}, "y must hold 10 classes"),
        ({"x": X, "y": np.linspace(0, 1, 10)}, "y must hold 10 classes"),
        ({"x": X, "y": X[:, 0, 0], "x_test": X}, "there is y without y_test"),
        ({"x": X, "y_test": X[:, 0, 0], "x_test": X}, "there is y_test without y"),
        ({"x": X, "y_test": X[:, 0, 0]}, "y_test without x_test"),
        ({"x": X, "x_test": X[:, :4, :4]}, "x holds images of shape .1, 8, 8. and x_test images of shape .1, 4, 4."),
        ({"x": X, "y": ["a"] * 10, "x_test": X, "y_test": np.arange(10)}, "must both hold integers, or both texts"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_data(world, arrays, words):
    refused(words, keep_arrays, arrays)


def test_files_that_are_no_data(world):
    (world / "text.npz").write_text("no zip")
    refused("text.npz is no whole .npz or .npy file", data_sets.load, "array:text.npz")
    np.save(world / "objects.npy", np.array([{}], dtype=object))
    refused("objects.npy is no whole .npz or .npy file of plain numbers", data_sets.load, "array:objects.npy")
    whole = world / "whole.npz"
    np.savez(whole, x=X)
    (world / "cut.npz").write_bytes(whole.read_bytes()[:-30])
    refused("cut.npz is no whole", data_sets.load, "array:cut.npz")
    refused("does not exist", data_sets.load, "array:none.npz")
    refused("names no .npz or .npy file", data_sets.load, "array:mine.csv")
    refused("write array:whole.npz", data_sets.load, "whole.npz")


def test_a_small_file_that_unpacks_to_much_is_not_unpacked(world, monkeypatch):
    monkeypatch.setattr("bench.data.array.LARGEST", 100_000)
    np.savez_compressed(world / "bomb.npz", x=np.zeros((4000, 8, 8), np.uint8))
    assert (world / "bomb.npz").stat().st_size < 10_000
    refused("unpacks to .* and at most", data_sets.load, "array:bomb.npz")


def test_classes_that_are_one_are_none_and_what_is_not_used_is_said(world):
    draw = np.random.default_rng(1)
    found = data_sets.load(keep_arrays({"x": draw.normal(size=(50, 3)), "y": np.ones(50, int), "seed": np.array(3)}))
    assert (found.space.shape, found.space.levels, found.space.classes) == ((3,), 0, 0)
    assert found.notes == ("not used: seed", "all examples have one class, so there are no labels")


def test_mistakes_are_one_line(world, run, images):
    x, y = images
    refused("unknown run or recipe 'vea'; did you mean 'vae'", bench.load, "vea")
    refused("no run of gan on digits", bench.load, "gan")
    refused("unknown data set 'ring9'; did you mean 'ring8'", bench.train, "vae", "ring9")
    refused("unknown recipe 'vea'; did you mean 'vae'", bench.train, "vea", "ring8")
    refused("unknown tier 'smok'", bench.train, "vae", "ring8", tier="smok")
    refused("unknown match 'step'", bench.train, "vae", "ring8", match="step")
    refused("unknown setting .*'lrr'", bench.train, "vae", "ring8", tier=TINY, settings={"lrr": 1})
    refused("'lr' must be a number", bench.train, "vae", "ring8", tier=TINY, settings={"lr": "fast"})
    refused("seed must be a whole number of at least 0, not -1", bench.train, "vae", "ring8", seed=-1)
    refused("threads must be", bench.train, "vae", "ring8", threads=0)
    refused("write 'folder:imgs@SIZE'", bench.train, "vae", Path("imgs"))
    refused("not a tuple of 3", bench.train, "vae", (x, y, y))
    refused("test must be in memory", bench.train, "vae", x, test="held-out")
    refused("not data in memory", bench.train, "vae", "folder:imgs", test=x)
    refused("holds no example", bench.train, "vae", Items(x[:0]))
    refused("can not be stacked", bench.train, "vae", Items([x[0], x[0, :4]]))
    refused("must be x or .x, y.", bench.train, "vae", Items(x, y, y))
    refused("--name report means something else", bench.train, "vae", x, name="report")
    refused("n must be a whole number of at least 1, not 0", bench.sample, run, 0)
    refused("n must be", bench.sample, run, 2.5)
    refused("n must be", bench.sample, run, True)
    refused("recipe must be a text, not None", bench.train, None, "ring8")
    refused("tier must be a text, not 3", bench.train, "vae", "ring8", tier=3)
    refused("device must be a text", bench.load, run.folder, device=0)
    refused("unknown device 'gpu'", bench.load, run.folder, device="gpu")
    refused("settings must be a dictionary", bench.train, "vae", "ring8", settings=["lr=1"])
    refused("there is no array x", bench.train, "vae", None)
    refused("object of shape", bench.train, "vae", object())
    refused("is no range", bench.score, X, "digits", span=5)
    refused("not of Python objects", bench.score, run, "ring8")
    refused("steps must be", bench.sample, run, 2, steps=0)
    refused("has no sampler 'ddim'", bench.sample, run, 2, "ddim")
    refused("unknown option of sampler", bench.sample, run, 2, eta=0.5)
    refused("temperature from 0", bench.sample, run, 2, temperature=-1)
    refused("trained without labels", bench.sample, run, 2, label=1)
    refused("trained without labels", bench.sample, run, 2, label=[1, 1])
    refused("has no guidance", bench.sample, run, 2, guidance=2.0)
    refused(r"samples holds an array of shape \(4, 3\)", bench.score, np.zeros((4, 3)), "ring8")
    refused("not finite, in 1 of 4 samples", bench.score, np.array([[0, 0], [0, 0], [0, np.inf], [0, 0]]), "ring8")
    refused("samples must hold an array of integers or floats", bench.score, np.array(["a", "b"]), "ring8")
    refused("samples are no array of numbers", bench.score, [[1, 2], [3]], "ring8")
    refused("none.npz does not exist", bench.score, "none.npz", "ring8")
    refused("labels go with an array", bench.score, "none.npz", "ring8", labels=[1])
    refused("labels must be 4 integers", bench.score, np.zeros((4, 2)), "ring8", labels=[1])
    refused("unknown way to resize 'cubic'", bench.score, X, "digits", resize="cubic")
    refused("is no range", bench.score, X, "digits", span=(1, 0))
    refused("--range is for images", bench.score, np.zeros((4, 2)), "ring8", span=(0, 1))
    refused("there is no folder nowhere", bench.frame, "nowhere")
    (world / "empty").mkdir(exist_ok=True)
    refused("no results in empty", bench.frame, "empty")


def test_a_first_stage_does_not_sample(world, images):
    stage = bench.train("autoencoder", images[0], tier=TINY, out="stages")
    assert isinstance(stage.folder, Path)
    refused("'autoencoder' is a first stage for others and does not sample", bench.sample, stage)


def test_a_training_that_diverges_says_so(world):
    x = np.random.default_rng(0).normal(size=(200, 2))
    refused("has no weights, it diverged: ", bench.train, "vae", x, tier=TINY, out="wild", settings={"lr": 1e9})


def test_labels_of_samples_are_scored(world):
    found = data_sets.load("digits")
    rows = bench.score(found.test.x[:100], "digits", labels=found.test.y[:100])
    accuracy = rows.query("metric == 'label_accuracy' and status == 'external'").value
    assert float(accuracy.iloc[0]) > 0.9
    assert isinstance(rows, pd.DataFrame)
