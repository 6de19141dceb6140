"""Files that are whole or not there, manifests that notice a flipped bit, rows that come back as they were."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from bench import store, tiers
from bench.store import Row, manifests
from paradigms.core.data import Space
from paradigms.errors import BadInput
from reports.files import fingerprint

ROWS = [
    Row(run="0-ab", recipe="ddpm", seed=0, metric="fd", value=2.5, n=898, headline=True, relation="≤", calls=20),
    Row(run="1-cd", recipe="gan", status="diverged", reason="step 3: loss is nan"),
]


# ----------------------------------------------------------------------------------------------------------- files


def test_write_atomic_replaces_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b.txt"
    store.write_atomic(path, b"one")
    store.write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["b.txt"]


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_crash_while_writing_keeps_the_old_file(call, tmp_path, monkeypatch):
    path = tmp_path / "b.txt"
    store.write_atomic(path, b"one")

    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, call, crash)
        with pytest.raises(KeyboardInterrupt):
            store.write_atomic(path, b"two")
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["b.txt"]


def test_a_process_killed_while_writing_leaves_a_whole_file(tmp_path):
    path = tmp_path / "b.bin"
    script = (
        "from pathlib import Path\nfrom bench.store import write_atomic\nimport itertools, sys\n"
        f"for k in itertools.count():\n    write_atomic(Path({str(path)!r}), bytes([k % 256]) * 2_000_000)\n"
        "    print(k, flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
    ) as process:
        for _ in range(5):
            process.stdout.readline()
        process.kill()
    data = path.read_bytes()
    assert len(data) == 2_000_000
    assert len(set(data)) == 1


def test_a_sealed_object_notices_any_change(tmp_path):
    path = tmp_path / "plan-1.json"
    value = {"width": 3, "steps": 1e9, "shape": (1, 8), "note": "≤"}
    store.write_sealed(path, value)
    assert store.read_sealed(path) == {**value, "shape": [1, 8]}
    for changed in (path.read_text().replace("3", "4", 1), '{"width": 3}', "[]"):
        path.write_text(changed)
        with pytest.raises(BadInput, match=r"plan-1\.json .*delete this file"):
            store.read_sealed(path)


def test_what_can_not_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"can not write .*--out") as error:
        store.write_atomic(tmp_path / "file" / "x.json", b"")
    assert "\n" not in str(error.value)


# -------------------------------------------------------------------------------------------------------- manifest


def test_every_flipped_bit_is_noticed(tmp_path):
    data = bytes(range(64))
    store.write_manifest(tmp_path, {"w.bin": store.put(tmp_path / "w.bin", data)})
    store.verify(tmp_path)
    for bit in range(0, 512, 7):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        (tmp_path / "w.bin").write_bytes(bad)
        with pytest.raises(BadInput, match=r"w\.bin is damaged.*delete"):
            store.verify(tmp_path)


def test_missing_unlisted_and_unreadable_files_are_named(tmp_path):
    (tmp_path / "w.bin").write_bytes(b"1")
    with pytest.raises(BadInput, match=r"w\.bin is not listed"):
        store.read_verified(tmp_path, "w.bin")
    store.write_manifest(tmp_path, {"w.bin": store.put(tmp_path / "w.bin", b"1")})
    (tmp_path / "w.bin").unlink()
    with pytest.raises(BadInput, match=r"w\.bin is missing"):
        store.read_verified(tmp_path, "w.bin")
    (tmp_path / store.MANIFEST).write_text("{")
    with pytest.raises(BadInput, match=r"manifest\.json is not a JSON object"):
        store.verify(tmp_path)


def test_the_manifest_keeps_what_was_listed_before(tmp_path):
    for name in ("a", "b"):
        store.write_manifest(tmp_path, {name: store.put(tmp_path / name, b"1")}, key=name)
    assert {n: e["key"] for n, e in store.manifest(tmp_path).items()} == {"a": "a", "b": "b"}


# ------------------------------------------------------------------------------------------------------------ rows


def test_rows_come_back_as_they_were(tmp_path):
    store.save_rows(tmp_path, ROWS, key="k1")
    assert store.load_rows(tmp_path) == ROWS
    assert store.results_key(tmp_path) == "k1"
    assert store.results_key(tmp_path / "elsewhere") is None


def test_a_value_that_is_not_finite_says_what_it_was(tmp_path):
    store.save_rows(
        tmp_path, [Row(metric="fd", value=math.nan), Row(metric="fd", value=math.inf, reason="why")], key=""
    )
    first, second = store.load_rows(tmp_path)
    assert (first.value, first.reason) == (None, "the value is nan")
    assert (second.value, second.reason) == (None, "why")


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("[]", "bad row"),
        ('{"schema": 2, "colour": 1}', "bad row"),
        ('{"schema": 99}', "newer version.*upgrade"),
        ('{"metric": "fd"}', "its schema is None"),
        ('{"schema": "1"}', "its schema is '1'"),
        ('{"schema": 0}', "its schema is 0"),
        ('{"schema": 1, "resize": "x"}', "schema 1 has no column 'resize'"),
    ],
)
def test_rows_of_another_kind_are_refused(line, match, tmp_path):
    data = f"{line}\n".encode()
    store.write_manifest(tmp_path, {store.RESULTS: store.put(tmp_path / store.RESULTS, data)})
    with pytest.raises(BadInput, match=match):
        store.load_rows(tmp_path)


def test_rows_of_the_first_schema_are_read_with_what_they_lack_left_empty(tmp_path):
    row = dataclasses.asdict(Row(metric="fd", value=1.5, features="digits@9f3c"))
    later = {name for added in store.ADDED.values() for name in added}
    old = {k: v for k, v in row.items() if k not in later} | {"schema": 1}
    data = f"{json.dumps(old)}\n".encode()
    store.write_manifest(tmp_path, {store.RESULTS: store.put(tmp_path / store.RESULTS, data)})
    (read,) = store.load_rows(tmp_path)
    assert read == Row(metric="fd", value=1.5, features="digits@9f3c")
    assert (read.schema, read.data, read.torch) == (store.SCHEMA, "", "")


def test_every_column_that_was_added_says_when():
    names = {f.name for f in dataclasses.fields(Row)}
    assert set(store.ADDED) == set(range(2, store.SCHEMA + 1))
    assert {name for added in store.ADDED.values() for name in added} <= names


def test_frame_has_typed_columns_in_order(tmp_path):
    store.save_rows(tmp_path / "digits" / "ddpm" / "0-ab", ROWS[:1], key="")
    store.save_rows(tmp_path / "digits" / "gan" / "1-cd", ROWS[1:], key="")
    table = store.frame(tmp_path)
    assert list(table.columns) == [name for name, _, _ in store.columns()]
    assert len(table) == 2
    assert table.dtypes["value"] == "float64"
    assert table.dtypes["seed"] == "Int64"
    assert table.dtypes["headline"] == "bool"
    assert table.loc[0, "seed"] == 0
    assert len(store.frame([tmp_path / "digits" / "gan" / "1-cd"])) == 1
    empty = store.frame(tmp_path / "nowhere")
    assert len(empty) == 0
    assert (empty.dtypes == table.dtypes).all()


def test_every_column_is_documented_and_plain():
    for name, kind, doc in store.columns():
        assert doc, name
        assert kind in ("int", "str", "bool", "float | None", "int | None"), name
    assert json.dumps(dataclasses.asdict(Row()))


# ----------------------------------------------------------------------------------------------------------- tiers


def test_shipped_tiers_are_complete_and_ordered():
    found = tiers.tiers()
    assert list(found) == ["smoke", "quick", "minutes", "gpu-minute", "standard", "gpu", "full"]
    for kind in ("vectors", "small", "images"):
        # "minutes" is as many of them on any data; the others grow with the data.
        spent = [getattr(tier, kind).flops for name, tier in found.items() if name != "minutes" or kind != "images"]
        assert spent == sorted(spent)


def test_a_tier_knows_the_budget_of_a_space():
    tier = tiers.get("quick")
    assert tier.budget(Space((2,))) == tier.vectors
    assert tier.budget(Space((1, 8, 8), levels=17)) == tier.small
    assert tier.budget(Space((3, 16, 16), levels=256)) == tier.small
    assert tier.budget(Space((1, 28, 28), levels=256)) == tier.images


def test_a_user_changes_only_what_they_name(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[long]\nbase = "quick"\nseeds = 7\nsmall = { seconds = 99 }\n')
    for which in (str(path), f"{path}:long"):
        tier = tiers.get(which)
        assert (tier.name, tier.seeds, tier.small.seconds) == ("long", 7, 99.0)
        assert tier.small.flops == tiers.get("quick").small.flops
        assert tier.images == tiers.get("quick").images


SOME = ("seeds", "samples", "max_calls", "likelihood_n", "likelihood_calls", "timing_repeats", "timing_seconds")
SPENT = ("flops", "seconds", "images", "params")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('[t]\nbase = "quick"\nseed = 1', "did you mean 'seeds'"),
        ('[t]\nbase = "quick"\nseeds = "three"', "'seeds' must be a whole number"),
        ('[t]\nbase = "quick"\nseeds = true', "'seeds' must be a whole number"),
        ('[t]\nbase = "quick"\nseeds = -1', "not negative"),
        ('[t]\nbase = "quick"\nseeds = 100000', "'seeds' must be at most 10,000"),
        ('[t]\nbase = "quick"\ndraws = 100_000_000_000', "'draws' must be at most 1,000"),
        ('[t]\nbase = "quick"\nsmall = { batch = 100_000_000_000 }', "'batch' must be at most 1,000,000"),
        ('[t]\nbase = "quick"\nsamples = 9223372036854775808', "'samples' must be at most"),
        ('[t]\nbase = "quick"\nsmall = { flops = 1e200 }', "'flops' must be at most"),
        *((f'[t]\nbase = "quick"\n{name} = 0', f"'{name}' must be more than 0") for name in SOME),
        *((f'[t]\nbase = "quick"\nsmall = {{ {name} = 0 }}', f"'{name}' must be more than 0") for name in SPENT),
        ('[t]\nbase = "quick"\nsmall = { flops = 1 }', "do not pay for one example"),
        ('[t]\nbase = "quick"\nsmall = { flop = 1 }', "did you mean 'flops'"),
        ('[t]\nbase = "quick"\nsmall = 3', "'small' must be a table"),
        ('[t]\nbase = "quik"', "did you mean 'quick'"),
        *(
            (f'["{name}"]\nbase = "quick"', "characters that can be shown")
            for name in ("", " ", "\\u0000", "\\u001b", "a" * 65)
        ),
        ('[t]\nbase = "quick"\nmatch = "flop"', "did you mean 'flops'"),
        ("[t]\nseeds = 1", "lacks"),
        ("seeds = 1", "one table for each tier"),
        ("[t", "can not read tiers"),
    ],
)
def test_bad_tiers_are_one_clear_line(text, match, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(BadInput, match=match) as error:
        tiers.get(str(path))
    assert "\n" not in str(error.value)


def test_unknown_tiers():
    with pytest.raises(BadInput, match="did you mean 'smoke'"):
        tiers.get("smok")
    with pytest.raises(BadInput, match="can not read"):
        tiers.get("nowhere.toml")


def test_every_field_of_a_tier_has_a_type_that_is_checked():
    for kind in (tiers.Tier, tiers.Budget):
        assert {f.type for f in dataclasses.fields(kind)} <= {"str", "int", "float", "Budget"}
        assert typing.get_type_hints(kind)


def test_files_are_verified_without_being_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log.jsonl").write_bytes(b"1\n" * 1000)
    store.write_manifest(tmp_path, {"log.jsonl": fingerprint(b"1\n" * 1000)})
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} is read whole"))
    monkeypatch.setattr(manifests, "read_json", lambda path: json.loads(path.read_text()))
    store.verify(tmp_path)
    store.verify(tmp_path, ["log.jsonl"])
    monkeypatch.undo()
    with pytest.raises(BadInput, match="is not listed"):
        store.verify(tmp_path, ["other"])
    (tmp_path / "log.jsonl").write_bytes(b"2\n" * 1000)
    with pytest.raises(BadInput, match=r"log\.jsonl is damaged"):
        store.verify(tmp_path)
    (tmp_path / "log.jsonl").unlink()
    with pytest.raises(BadInput, match="is missing"):
        store.verify(tmp_path)


def test_the_folder_of_the_baselines_is_one_whatever_a_tier_is_called():
    assert store.baselines_of(Path("runs/d"), "quick") == Path("runs/d/baselines/quick")
    assert store.baselines_of(Path("runs/d"), "my tier/2.") == Path("runs/d/baselines/my-tier-2")
