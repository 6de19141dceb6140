"""Walking below a folder: links are followed, every folder is entered once, what is lost is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench import cli, store
from bench.inputs.runs import Runs
from bench.walk import walk


def test_links_are_followed_and_circles_end(tmp_path: Path) -> None:
    for name in ("root/a/x", "root/z", "far/deep"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("root/a/x/f", "root/z/f", "far/deep/f", "far/g"):
        (tmp_path / name).write_text("")
    root = tmp_path / "root"
    (root / "0-link-to-z").symlink_to(root / "z")  # sorts before what it leads to, which goes by its own name
    (root / "far").symlink_to(tmp_path / "far")
    (root / "z" / "up").symlink_to("..")
    (tmp_path / "far" / "back").symlink_to(root)
    (root / "gone").symlink_to(tmp_path / "nowhere")
    (root / "file").symlink_to(tmp_path / "far" / "g")
    found = walk(root)
    assert [f.relative_to(root).as_posix() for f in found.holding("f")] == ["a/x", "far/deep", "z"]
    assert "file" in dict(found.folders)[root]
    assert list(found.lost) == [root / "gone"]
    assert "nowhere" in found.lost[root / "gone"]
    assert {p.relative_to(root).as_posix() for p in found.again} == {"0-link-to-z", "far/back", "z/up"}
    assert walk(tmp_path / "none").folders == []


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shut").mkdir()
    scan = os.scandir

    def refuse(path: Path):
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = walk(tmp_path)
    assert found.lost == {tmp_path / "shut": f"{tmp_path / 'shut'} can not be read: Permission denied"}


def rows_in(folder: Path, recipe: str, seed: int) -> None:
    folder.mkdir(parents=True)
    row = store.Row(
        run=f"{seed}-{recipe}", recipe=recipe, dataset="digits", tier="t", seed=seed, metric="fd", value=1.0
    )
    store.save_rows(folder, [row], "key")


def test_linked_runs_are_in_frames_and_lists(tmp_path: Path) -> None:
    """A whole data set's folder linked, and single runs: none is left out."""
    rows_in(tmp_path / "big" / "digits" / "vae" / "0-a", "vae", 0)
    rows_in(tmp_path / "else" / "1-b", "vae", 1)
    runs = tmp_path / "runs"
    rows_in(runs / "ring8" / "vae" / "2-c", "vae", 2)
    (runs / "digits").symlink_to(tmp_path / "big" / "digits")
    (tmp_path / "big" / "digits" / "vae" / "1-b").symlink_to(tmp_path / "else" / "1-b")
    (runs / "self").symlink_to(runs)
    assert sorted(store.frame(runs)["seed"]) == [0, 1, 2]
    for seed, folder in enumerate((runs / "digits/vae/0-a", runs / "digits/vae/1-b", runs / "ring8/vae/2-c")):
        (folder / "run.json").write_text(f'{{"recipe": "vae", "seed": {seed}}}')
    assert len(Runs(runs).newest_first) == 3
    (runs / "digits" / "vae" / "3-d").symlink_to(tmp_path / "gone")
    listed = CliRunner().invoke(cli.app, ["list", "runs", "--out", str(runs)])
    assert "3-d links to" in listed.stderr
    result = CliRunner().invoke(cli.app, ["report", str(runs), "--to", str(tmp_path / "to"), "--formats", "md"])
    assert "3-d links to" in result.stderr
    assert result.exit_code != 0
