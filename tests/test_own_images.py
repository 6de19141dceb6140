"""A folder of one's own images from the command line: one data set however it is written, moved, renamed or linked."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from bench import cli, runs, store
from bench.data.names import FolderName
from bench.inputs.chosen import run_on
from bench.inputs.runs import Runs
from bench.runs.loading import _places
from paradigms.errors import BadInput

TIER = """
[tiny]
base = "smoke"
match = "images"
samples = 32
likelihood_n = 8
likelihood_calls = 2
raw_seeds = 0
snapshot_seeds = 0
small = { flops = 1e9, seconds = 1e9, images = 128, params = 20_000 }
"""


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    for word in ("error: ", *words):
        assert word in line


def images(root: Path, classes: tuple[str, ...], n: int, seed: int) -> Path:
    draw = np.random.default_rng(seed)
    for i in range(n):
        folder = root / classes[i % len(classes)]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{i:03}.png")
    return root


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A place with images and one run on them."""
    world = tmp_path_factory.mktemp("own")
    (world / "mine.toml").write_text(TIER)
    images(world / "imgs", ("ant", "bee"), 100, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        done = train("folder:imgs@8")
        assert done.exit_code == 0, done.output
        assert "classes, training + held-out examples: ant " in done.stderr
        yield world


def train(name: str, *more: object, out: str = "runs") -> Result:
    return bench("train", "vae", "--dataset", name, "--tier", "mine.toml:tiny", "--out", out, *more)


def evaluated(run: Path, *more: object) -> Result:
    return bench("evaluate", run, "--tier", "mine.toml:tiny", *more)


def found(out: Path) -> list[Path]:
    return sorted(path.parent for path in out.glob("*/*/*/run.json"))


def test_spellings_and_moved_images_are_one_run(world: Path) -> None:
    (first,) = found(world / "runs")
    assert first.parents[1].name.startswith("imgs@8-")
    (world / "link").symlink_to("imgs")
    shutil.copytree(world / "imgs", world / "copy of it")
    for name in ("imgs/", "./imgs", f"{world}/imgs", "../" + world.name + "/imgs", "link", "copy of it"):
        result = train(f"folder:{name}@8")
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith(f"runs/{first.relative_to(world / 'runs')}\n")
    assert found(world / "runs") == [first]
    # Elsewhere, under another name: the same id and the same weights, bit for bit.
    assert train("folder:copy of it@8", out="apart").exit_code == 0
    (other,) = found(world / "apart")
    assert other.parents[1].name.startswith("copy-of-it@8-")
    assert other.name == first.name
    assert (other / "weights.safetensors").read_bytes() != b""
    one, two = (runs.load(folder)[0].state_dict() for folder in (first, other))
    assert all(bool((one[k] == two[k]).all()) for k in one)


def test_a_name_of_ones_own(world: Path) -> None:
    (first,) = found(world / "runs")
    result = train("folder:imgs@8", "--name", "my cats", out="named")
    assert result.exit_code == 0, result.output
    (named,) = found(world / "named")
    assert (named.name, runs.read_info(named).dataset) == (first.name, "my cats")
    assert train("my cats", out="named").exit_code == 0, "the report's commands name it so"
    assert train("folder:imgs@8", out="named").exit_code == 0
    assert found(world / "named") == [named]
    images(world / "others", ("ant", "bee"), 40, 9)
    refused(train("folder:others@8", "--name", "my cats", out="named"), "other images have the name 'my cats'")
    refused(train("digits", "--name", "x", out="named"), "--name goes with folder:PATH")
    refused(train("digits", "--test", "others", out="named"), "--test goes with folder:PATH")
    refused(train("folder:imgs@8", "--name", "digits", out="named"), "choose another")


def test_samples_on_ones_own_images_are_compared_where_no_run_is(world: Path) -> None:
    for name in ("one", "other"):
        samples = images(world / name, ("ant", "bee"), 24, len(name))
        done = bench("evaluate", samples, "--dataset", "folder:imgs@8", "--to", world / "only" / name)
        assert done.exit_code == 0, done.output
    done = bench("compare", "one", "other", "only", "--dataset", "folder:./imgs@8", "--metric", "kd")
    assert done.exit_code == 0, done.output


def test_a_test_folder_is_what_is_held_out(world: Path) -> None:
    images(world / "held", ("ant", "cat"), 20, 5)
    said = bench("data", "folder:imgs@8", "--test", "held", "--name", "both")
    assert said.exit_code == 0, said.output
    assert "both: 100 training and 20 test examples" in said.stdout
    assert "ant 50 + 10, bee 50 + 0, cat 0 + 10" in said.stdout
    assert "class without a training example: cat" in said.stdout
    assert train("folder:imgs@8", "--test", "held", out="tested").exit_code == 0
    (run,) = found(world / "tested")
    assert runs.read_info(run).source == {"folder": f"{world}/imgs", "size": 8, "test": f"{world}/held"}
    assert runs.data_of(run, runs.read_info(run)).test.x.shape[0] == 20
    assert found(world / "runs")[0].name != run.name
    refused(train("folder:imgs@8", "--test", "nowhere", out="tested"), "--test", "is not a folder")


def test_images_that_were_moved_are_found_by_their_checksum(world: Path) -> None:
    (run,) = found(world / "runs")
    apart = world / "moved"
    shutil.copytree(world / "runs", apart / "runs")
    moved = apart / run.relative_to(world)
    (world / "imgs").rename(world / "pics")
    runs.dataset.cache_clear()
    try:
        refused(evaluated(moved), "run.json names the images in", f"{world}/imgs", "folder:PATH@8")
        refused(train("imgs@8"), "the images of 'imgs@8-", f"lay in {world}/imgs, which is no folder", "folder:PATH@8")
        refused(evaluated(moved, "--dataset", "folder:others@8"), "trained on other data")
        refused(evaluated(moved, "--dataset", "folder:pics@9"), "8 px, not of 9")
        refused(evaluated(moved, "--dataset", "digits"), "not on 'digits'")
        assert bench("sample", moved, "-n", 2, "--to", "x.npz").exit_code == 0, "which needs no images"
        for verb, *more in (("sample", "-n", 2, "--to", "x.npz"), ("time", "--tier", "mine.toml:tiny")):
            refused(bench(verb, moved, "--dataset", "folder:others@8", *more), "trained on other data")
        done = evaluated(moved, "--dataset", "folder:pics@8")
        assert done.exit_code == 0, done.output
        assert {row.dataset for row in store.load_rows(moved)} == {runs.read_info(run).dataset}
        done = bench("sample", "vae", "--dataset", "folder:imgs@8", "-n", 2, "--to", "x.npz", "--out", apart / "runs")
        assert done.exit_code == 0, "by where they were"
        done = bench("sample", "vae", "--dataset", "folder:pics@8", "-n", 2, "--to", "x.npz", "--out", apart / "runs")
        assert done.exit_code == 0, "by what they are"
    finally:
        (world / "pics").rename(world / "imgs")
        runs.dataset.cache_clear()


def test_runs_older_than_the_hint_are_read(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = found(world / "runs")
    old = world / "older" / "folder-imgs-8-1" / "vae" / run.name
    shutil.copytree(run, old)
    values = {k: v for k, v in store.read_sealed(old / "run.json").items() if k != "source"}
    told = store.write_sealed(old / "run.json", values | {"schema": 2, "dataset": "folder:imgs@8"})
    store.write_manifest(old, {"run.json": told})
    info = runs.read_info(old)
    assert info.source == {}
    assert runs.data_of(old, info).checksum == info.checksum
    assert run_on("vae", FolderName.parse("folder:./imgs@8"), Runs(world / "older")).folder == old
    (world / "far").mkdir()
    monkeypatch.chdir(world / "far")
    with pytest.raises(BadInput, match=f"names the images in imgs@8, looked for at {world}/far/imgs"):
        runs.data_of(old, info)


def test_a_linked_run_finds_what_it_needs(world: Path) -> None:
    (run,) = found(world / "runs")
    (world / "linked" / "a" / "b").mkdir(parents=True)
    (world / "linked" / "a" / "b" / "0-x").symlink_to(run)
    there = world / "linked" / "a" / "b" / "0-x"
    places = _places(there, str(run.relative_to(world / "runs")), None)
    assert next(place for place in places if place.exists()) == run
    assert bench("sample", there, "-n", 2, "--to", world / "x.npz").exit_code == 0


def test_names_that_are_no_utf8_never_end_in_a_traceback(world: Path) -> None:
    odd = os.fsdecode(b"b\xff")
    images(world / odd, (os.fsdecode(b"a\xfe"), "b"), 60, 3)
    name = f"folder:{odd}@8"
    said = bench("data", name)
    assert said.exit_code == 0, said.output
    assert "b\\xff@8-" in said.stdout
    result = train(name, "--conditional", "--json", out=os.fsdecode(b"out\xfd"))
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["source"]["folder"] == f"{world}/{odd}"
    (run,) = found(world / os.fsdecode(b"out\xfd"))
    assert runs.read_info(run).source["folder"] == f"{world}/{odd}"
    assert runs.data_of(run, runs.read_info(run)).labels == ("a\\xfe", "b")
    (run / "run.json").read_text("utf-8")
    done = bench("sample", run, "--label", os.fsdecode(b"a\xfe"), "-n", 2, "--to", os.fsdecode(b"s\xfc.npz"))
    assert done.exit_code == 0, done.output
    row = store.Row(run="1", recipe=os.fsdecode(b"bad\xff"), dataset="d", metric="fd", value=1.0)
    store.save_rows(world / "rows", [row], "key")
    assert store.load_rows(world / "rows")[0].recipe == "bad\\xff"
    assert runs.slug(odd) != runs.slug(os.fsdecode(b"b\xfe"))


def test_samples_are_not_written_among_ones_own_images(world: Path) -> None:
    (run,) = found(world / "runs")
    before = sorted((world / "imgs").rglob("*"))
    refused(bench("sample", run, "-n", 2, "--to", world / "imgs"), "images in it, as ant/000.png", "name another")
    assert sorted((world / "imgs").rglob("*")) == before


def test_a_label_without_training_examples_is_said(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = world / "five" / "train"
    images(folder, ("ant", "bee"), 30, 7)
    images(world / "five" / "test", ("ant", "zebra"), 10, 8)
    result = train("folder:five@8", "--conditional", out="five-runs")
    assert result.exit_code == 0, result.output
    assert "class without a training example: zebra" in result.stderr
    (run,) = found(world / "five-runs")
    done = bench("sample", run, "--label", "zebra", "-n", 2, "--to", world / "x.npz")
    assert "never shown label zebra" in done.stderr


def test_too_few_images_for_a_frechet_distance_are_said_before_training(world: Path, tmp_path: Path) -> None:
    """64 features want 640 held-out images; a fifth of 100 or so is held out."""
    said = bench("data", f"folder:{world / 'imgs'}@8").output
    held = len(runs.dataset(FolderName.parse(f"folder:{world / 'imgs'}@8")).test)
    assert f"{held} held-out images are too few for a Frechet distance, which needs 640 here: the kernel" in said
    assert f"{(640 - held) * 5:,} more images, of which a fifth is held out, would do" in said
    images(tmp_path / "held", ("ant", "bee"), 20, 1)
    said = bench("data", f"folder:{world / 'imgs'}@8", "--test", tmp_path / "held").output
    assert "620 more held-out images would do" in said
    assert "too few" not in bench("data", "digits").output
