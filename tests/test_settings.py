"""A setting states its range and its meaning once: listed, kept by the config, and named by the error."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

from bench import cli, runs
from bench.settings import described
from paradigms import catalogue
from paradigms.core.settings import Range, Settings, is_conditional, meaning_of, range_of, require, setting
from paradigms.errors import BadInput
from paradigms.recipe import Recipe

RECIPES = catalogue.recipes()


def parts(config, before=""):
    """(dotted name, config that has the field, field) of each setting, those of a config inside it among them."""
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            yield from parts(value, f"{before}{f.name}.")
        else:
            yield before + f.name, config, f


def outside(allowed: Range) -> list:
    """Values just outside of a range, one at each of its ends."""
    step = 1 if isinstance(allowed.least, int) or isinstance(allowed.most, int) else 1e-3
    ends = [allowed.above, allowed.below]
    ends += [None if allowed.least is None else allowed.least - step]
    ends += [None if allowed.most is None else allowed.most + step]
    return [end for end in ends if end is not None] + (["nonsense"] if allowed.among else [])


@pytest.mark.parametrize("name", RECIPES)
def test_every_setting_means_something_and_keeps_its_range(name):
    config = RECIPES[name].config
    for key, owner, f in parts(config):
        kind = type(owner)
        assert meaning_of(kind, f.name), key
        allowed = range_of(kind, f.name)
        assert getattr(owner, f.name) in allowed, key
        for value in outside(allowed):
            with pytest.raises(BadInput) as error:
                runs.configure(config, [f"{key}={value}"], name)
            text = str(error.value)
            assert "\n" not in text
            assert f"--set {key}={value}: {f.name} must be" in text or f"'{f.name}' must be" in text
            assert str(allowed) in text
    listed = described(RECIPES[name])
    assert [row["setting"] for row in listed] == [key for key, *_ in parts(config)]
    assert all(row["meaning"] for row in listed)


def test_the_command_line_names_the_range_and_exits_with_2(tmp_path):
    for change, said in (
        ("P_std=0", "--set P_std=0: P_std must be above 0, not 0.0"),
        ("floor=much", "--set floor=much: 'floor' must be a number, above 0 and at most 1, not 'much'"),
        ("sigma_max=9", "sigma_max must be at least 10, not 9.0, or t = 1 is not noise"),
        ("backbone=vit", "backbone must be one of auto, mlp, not 'vit'"),
    ):
        given = ["train", "edm", "--dataset", "ring8", "--tier", "smoke", "--set", change, "--out", str(tmp_path)]
        result = CliRunner().invoke(cli.app, given)
        assert result.exit_code == 2
        (line,) = result.stderr.splitlines()
        assert said in line


@pytest.mark.parametrize(
    ("allowed", "words"),
    [
        (Range(), ""),
        (Range(least=1), "at least 1"),
        (Range(above=0), "above 0"),
        (Range(most=64), "at most 64"),
        (Range(below=0.5), "below 0.5"),
        (Range(least=2, most=100_000), "from 2 to 100,000"),
        (Range(least=0, below=1), "from 0 to below 1"),
        (Range(above=0, most=4), "above 0 and at most 4"),
        (Range(above=0, below=1), "above 0 and below 1"),
        (Range(among=("a", "b")), "one of a, b"),
    ],
)
def test_a_range_in_words(allowed, words):
    assert str(allowed) == words


@dataclass(frozen=True)
class Base(Settings):
    batch: int = setting(8, least=1, says="examples a step")
    unlabelled: float = setting(0.1, least=0, below=1, conditional=True, says="share without a label")


@dataclass(frozen=True)
class Derived(Base):
    batch: int = 16
    ratio: float = 2.0  # a plain field

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.ratio <= self.batch, "ratio must be at most batch")


def test_another_default_keeps_range_and_meaning():
    assert Derived().batch == 16
    assert meaning_of(Derived, "batch") == "examples a step"
    assert is_conditional(Derived, "unlabelled")
    with pytest.raises(ValueError, match="batch must be at least 1, not 0"):
        Derived(batch=0)
    with pytest.raises(ValueError, match="ratio must be at most batch"):
        Derived(ratio=17.0)


def test_a_config_of_plain_fields_works_as_before():
    @dataclass(frozen=True)
    class Plain:
        batch: int = 4

    rows = described(Recipe("plain", object, Plain(), "of another package"))
    assert rows == [
        {"recipe": "plain", "setting": "batch", "default": 4, "type": "a whole number", "range": "", "meaning": ""}
    ]
    assert runs.configure(Plain(), ["batch=9"]).batch == 9
    assert Derived().ratio in range_of(Derived, "ratio")
