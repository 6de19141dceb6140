"""The picture of a way from noise to data: what it follows, what it shows, and what it says where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench import runs, trajectory
from paradigms.contract import Jumps
from paradigms.core.data import Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Plan
from paradigms.errors import BadInput
from paradigms.testing import build
from reports.strips import Strip, strips


@pytest.mark.parametrize("name", ["flow-matching", "score-sde-ve", "consistency", "mean-flow", "ddpm"])
def test_the_way_begins_with_the_prior_and_ends_with_the_samples(name: str) -> None:
    model = build(name, Space((2,))).eval()
    plan = Plan(model.card.default.sampler, 4)
    way = trajectory.follow(model, plan, 5, seed=3)
    noise = Noise("sample", 3)
    with torch.no_grad():
        x = model.sample(model.prior(5, noise.at("prior")), plan, noise.at("steps"))
    assert torch.equal(way.states[-1], x)
    assert list(way.times) == sorted(way.times, reverse=True)
    assert way.times[-1] == 0
    assert way.states.shape == (len(way.times), 5, 2)


def test_a_map_takes_data_without_noise_to_itself() -> None:
    for name in ("consistency", "consistency-training", "mean-flow"):
        model, x = build(name, Space((2,))).eval(), torch.randn(4, 2)
        assert isinstance(model, Jumps)
        with torch.no_grad():
            torch.testing.assert_close(model.jump_to_data(x, torch.zeros(4)), x)
            assert not torch.allclose(model.jump_to_data(x, torch.ones(4)), x)


@pytest.mark.heavy
@pytest.mark.parametrize(("dataset", "name"), [("digits", "ddpm"), ("ring8", "consistency"), ("ring8", "score-sde")])
def test_a_picture_is_drawn(dataset: str, name: str, tmp_path: Path) -> None:
    found = runs.dataset(dataset)
    model = build(name, found.train.unlabelled().space).eval()
    plan = Plan(model.card.default.sampler, 3)
    trajectory.draw(model, plan, found, name, 0, lambda n: None, tmp_path / "way.png")
    picture = Image.open(tmp_path / "way.png")
    assert min(picture.size) > 200
    assert np.asarray(picture.convert("L")).std() > 10


def test_one_step_without_states_has_no_way() -> None:
    model = build("gan", Space((2,))).eval()
    with pytest.raises(BadInput, match="no trajectory"):
        trajectory.follow(model, Plan("generator"), 3, seed=0)


def test_other_dimensions_are_refused_in_words(tmp_path: Path) -> None:
    found = runs.dataset("gmm16")
    model = build("flow-matching", found.train.unlabelled().space).eval()
    with pytest.raises(BadInput, match="16 dimensions"):
        trajectory.draw(model, Plan("euler", 2), found, "flow-matching", 0, lambda n: None, tmp_path / "way.png")


def test_strips_show_every_state_at_its_time() -> None:
    svg = strips("a title", [Strip("states", (1.0, 0.25), np.zeros((2, 1, 4, 4, 1)))], "svg").decode()
    assert svg.count("<image") == 2
    assert strips("a title", [Strip("states", (1.0,), np.zeros((1, 1, 4, 4, 3)))])[:4] == b"\x89PNG"
