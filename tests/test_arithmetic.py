"""Precision and compilation: what they change, what they leave, and what a run is called."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from bench import arithmetic, runs, suite, tiers
from bench.arithmetic import USUAL, Arithmetic, chosen, compile_networks, computing
from bench.loop import Loop, _prepare
from bench.runs import training
from paradigms import catalogue
from paradigms.backbones import Backbone
from paradigms.contract import Frozen
from paradigms.core.data import Data, Space
from paradigms.core.noise import BLOCKS, Noise
from paradigms.core.plans import Plan
from paradigms.errors import BadInput
from paradigms.testing import build, examples

CPU = torch.device("cpu")
DIGITS = Space((1, 8, 8), 0, 17)


class Product(Backbone):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)

    def forward(self, x):
        self.seen = self.linear(x)
        return self.seen


def small(**changes) -> tiers.Tier:
    quick = tiers.get("quick")
    budget = replace(quick.small, flops=3e9, seconds=1e9, params=40_000, **changes)
    return replace(quick, name="test", small=budget)


def test_products_of_networks_are_bfloat16_and_what_they_return_is_not():
    net, x = Product(), torch.randn(8, 64)
    full = net(x)
    with computing("bf16", CPU):
        lower = net(x)
        outside = x @ x.T
    assert net.seen.dtype == torch.bfloat16
    assert lower.dtype == outside.dtype == torch.float32
    assert 1e-4 < (lower - full).abs().max() < 0.05
    assert torch.equal(outside, x @ x.T)
    assert torch.equal(net(x), full)


@pytest.mark.parametrize(
    "name",
    [
        "ddpm",
        "gan",
        "gan-hinge",
        "wgan-gp",
        "hvae",
        "vae",
        "vq-vae",
        "consistency",
        "mean-flow",
        "tarflow",
    ],
)
def test_a_step_in_bfloat16_is_near_one_in_float32(name):
    losses = []
    for precision in ("fp32", "bf16"):
        model = build(name, DIGITS)
        model.precision = precision
        x = DIGITS.decode(examples(DIGITS, 16).x)
        loop = Loop(model, Data(x, None, DIGITS), 8, 10, ("d", name, 0))
        loop.step(0)
        losses.append(next(v for k, v in loop.means().items() if k.startswith("loss")))
        assert all(p.dtype == torch.float32 for p in model.parameters())
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.03)


def test_likelihoods_and_adaptive_solvers_stay_in_float32():
    model = build("flow-matching", DIGITS).eval()
    x, kind = examples(DIGITS, 2).x, model.card.likelihoods[0]
    z = model.prior(2, Noise("z"))
    found = {}
    for model.precision in ("fp32", "bf16"):
        for plan in (Plan("rk45"), Plan("heun", 2)):
            with torch.no_grad(), arithmetic.sampling(model, plan, CPU):
                found[model.precision, plan.sampler] = model.sample(z, plan, Noise("s"))
        found[model.precision, "log p"] = model.log_likelihood(x, kind, Noise("l")).value
    for same in ("rk45", "log p"):
        assert torch.equal(found["fp32", same], found["bf16", same])
    assert not torch.equal(found["fp32", "heun"], found["bf16", "heun"])


@pytest.mark.parametrize("name", ["reflow", "latent-ddpm", "normalizing-flow"])
def test_what_is_prepared_to_be_learnt_from_is_computed_in_fp32(name, tmp_path):
    made = []
    for precision in ("fp32", "bf16"):
        recipe, space = catalogue.get(name), DIGITS
        parents = {role: Frozen(build(need.recipe, space)) for role, need in recipe.needs.items()}
        model = recipe.build(space, 8, parents)
        for one in (model, *(parent.model for parent in parents.values())):
            one.precision = precision
        data = Data(space.decode(examples(space, 16).x), None, space)
        made.append(_prepare(model, data, ("d", name, 0), tmp_path / precision, None, "")[0])
    for here, there in zip(*[(d.x, d.z) for d in made], strict=True):
        assert here is there is None or torch.equal(here, there)


def planned(name: str, arithmetic: Arithmetic = USUAL, settings: tuple[str, ...] = (), **changes) -> runs.Run:
    return runs.define(name, "digits", 0, small(**changes), settings, arithmetic=arithmetic)


def test_the_arithmetic_is_part_of_a_runs_name_and_the_usual_one_is_not():
    usual, others = planned("ddpm"), (Arithmetic("bf16"), Arithmetic(compiled=True), Arithmetic(noise=2))
    assert len({usual.id, *(planned("ddpm", other).id for other in others)}) == 4
    assert planned("ddpm", Arithmetic("fp32", False, 1)).id == usual.id
    assert {blocks.version for blocks in BLOCKS.values()} == {1, 2}


def pretend_cards(monkeypatch, *models: str) -> None:
    """As many GPUs, by their models' names; `cuda` alone is the first."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(models))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: models[torch.device(device).index or 0])


def test_the_model_of_gpu_is_part_of_a_runs_name(monkeypatch, tmp_path):
    """Noise there is that of one model: see `noise.BLOCKS`."""
    pretend_cards(monkeypatch, "Card A", "Card B")
    on_a, on_b = (planned("consistency", chosen(torch.device("cuda", k))) for k in (0, 1))
    assert len({planned("consistency").id, on_a.id, on_b.id}) == 3
    assert on_a.parents[0][1].id != on_b.parents[0][1].id
    assert on_a.id == planned("consistency", chosen(torch.device("cuda"))).id
    with pytest.raises(BadInput, match="planned for Card A, not for Card B"):
        runs.ensure(on_a, tmp_path, device=torch.device("cuda", 1))
    with pytest.raises(BadInput, match="planned for no model of GPU, not for Card B"):
        runs.ensure(planned("ddpm", Arithmetic(noise=2)), tmp_path, device=torch.device("cuda", 1))
    assert vars(USUAL) == {"precision": "fp32", "compiled": False, "noise": 1, "card": ""}


def test_a_suite_on_all_gpus_takes_those_of_one_model_and_names_the_others(monkeypatch, caplog):
    pretend_cards(monkeypatch, "Card A", "Card B", "Card A")
    assert runs.gpus_of(torch.device("cuda")) == ["0", "2"]
    assert "only Card A is used, as noise on Card B is not the same" in caplog.text
    assert runs.gpus_of(torch.device("cuda", 1)) == ["1"]
    caplog.clear()
    pretend_cards(monkeypatch, "Card A", "Card A")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5")
    assert runs.gpus_of(torch.device("cuda")) == ["3", "GPU-5"]
    assert not caplog.text


def test_what_a_recipe_can_not_have_it_does_not_get():
    asked = Arithmetic("bf16", compiled=True)
    had = [planned(name, asked).arithmetic for name in ("normalizing-flow", "mean-flow", "gan")]
    assert [(a.precision, a.compiled) for a in had] == [("fp32", True), ("bf16", False), ("bf16", True)]
    # A run of a recipe that takes nothing of it is the usual one.
    assert planned("normalizing-flow", Arithmetic("bf16")).id == planned("normalizing-flow").id


def test_a_run_is_not_trained_where_its_noise_is_another(tmp_path):
    run = planned("ddpm", Arithmetic(noise=2))
    with pytest.raises(BadInput, match="another kind of device"):
        runs.ensure(run, tmp_path, device="cpu")


def test_a_run_in_bfloat16_says_so_in_its_file_and_rows(tmp_path):
    run = planned("flow-matching", chosen(CPU, "bf16"))
    model, info = runs.load(runs.ensure(run, tmp_path, device="cpu"))
    assert (info.precision, info.dtype, info.compiled, info.noise) == ("bf16", "bfloat16", False, 1)
    assert runs.base_row(info).dtype == "bfloat16"
    assert model.precision == "bf16"


@pytest.mark.parametrize(
    ("precision", "words"), [("tf32", "of GPUs"), ("fp64", "unknown precision 'fp64'"), ("bfloat16", "bf16")]
)
def test_what_a_device_does_not_have_is_refused(precision, words):
    with pytest.raises(BadInput, match=words):
        chosen(CPU, precision)


def test_only_networks_that_can_be_are_compiled():
    def named(name: str) -> list[str]:
        model = build(name, DIGITS)
        names = {module: n for n, module in model.named_modules()}
        return [names[m] for m in compile_networks(model)]

    assert named("ddpm") == ["net"]
    assert named("gan") == ["generator"]
    assert named("normalizing-flow") == ["flow"]
    assert catalogue.get("mean-flow").paradigm.eager == {"*"}


@pytest.mark.heavy
def test_a_compiled_step_is_the_eager_one():
    losses = []
    for compiled in (False, True):
        model = build("flow-matching", DIGITS)
        if compiled:
            compile_networks(model)
        loop = Loop(model, Data(DIGITS.decode(examples(DIGITS, 16).x), None, DIGITS), 8, 10, ("d", "fm", 0))
        for k in range(3):
            loop.step(k)
        losses.append(loop.means()["loss"])
        assert all("_orig_mod" not in name for name in model.state_dict())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_tier_sets_the_batch_to_the_nearest_multiple_of_the_recipes_own_and_scales_its_rates():
    for name in ("ddpm", "wgan-gp", "gan-nonsaturating", "latent-ddpm"):
        own, config = catalogue.get(name).config, planned(name, batch=500, lr=0.5).config
        own, config = (getattr(c, "inner", c) for c in (own, config))
        assert config.batch % own.batch == 0
        assert math.isclose(config.batch, 500, rel_tol=0.06)
        assert config.lr == own.lr / 2
    game = planned("gan-nonsaturating", batch=500, lr=0.5).config
    assert game.critic_lr == catalogue.get("gan-nonsaturating").config.critic_lr / 2
    assert planned("ddpm", settings=("batch=32",), batch=500).config.batch == 32


def test_settings_of_a_suite_reach_what_its_recipes_need():
    """Where a recipe is named that only others need, where it is a row too, and where it stands two steps above."""

    def made(names: list[str], *settings: str) -> dict[str, runs.Run]:
        return {run.recipe: run for run in suite.plan_runs("digits", names, small(), 1, False, settings, USUAL)[0]}

    names = ["latent-ddpm", "consistency", "flow-matching", "reflow-3", "gan"]
    usual, changed = (
        made(names),
        made(names, "autoencoder.lr=1e-2", "flow-matching.batch=16", "latent-ddpm.inner.lr=1e-4"),
    )
    codec, teacher = (dict(changed[name].parents) for name in ("latent-ddpm", "consistency"))
    assert codec["codec"].config.lr == 1e-2
    assert changed["latent-ddpm"].config.inner.lr == 1e-4
    assert teacher["teacher"].config.batch == 16
    assert changed["flow-matching"].config.batch == 16
    reflow = dict(changed["reflow-3"].parents)["parent"]
    assert reflow.config == dict(usual["reflow-3"].parents)["parent"].config
    assert dict(reflow.parents)["parent"].id == changed["flow-matching"].id
    assert {name for name in names if changed[name].id != usual[name].id} == {*names} - {"gan"}
    assert codec["codec"].id != dict(usual["latent-ddpm"].parents)["codec"].id
    same = made(["consistency"], f"consistency.lr={usual['consistency'].config.lr}")
    assert same["consistency"].id == usual["consistency"].id


def test_a_run_says_what_settings_it_stands_on_and_how_it_is_made_again(tmp_path):
    settings = ("flow-matching.batch=16", "lr=0.002")
    run = runs.define("consistency", "moons", 0, tiers.get("smoke"), settings)
    info = training._start(run, CPU, 1)
    assert info.above == {"flow-matching.batch": "16"}
    words = runs.again(info, tmp_path).split()
    again = [text for option, text in itertools.pairwise(words) if option == "--set"]
    assert sorted(again) == sorted(settings)
    assert runs.define("consistency", "moons", 0, tiers.get("smoke"), again).id == run.id
    teacher = runs.again(info, tmp_path, "teacher")
    assert "train flow-matching " in teacher
    assert "--set batch=16 " in teacher
    assert training._start(runs.define("gan", "moons", 0, tiers.get("smoke")), CPU, 1).above == {}


def test_settings_of_a_suite_go_to_their_recipe():
    made, _ = suite.plan_runs("digits", ["ddpm", "gan"], small(), 1, False, ["ddpm.lr=1e-4", "gan.batch=16"], USUAL)
    configs = {run.recipe: run.config for run in made}
    assert (configs["ddpm"].lr, configs["gan"].batch) == (1e-4, 16)
    for setting, words in (
        ("lr=1e-4", "RECIPE.key=value"),
        ("vae.lr=1", "not among the recipes"),
        ("dpm.lr=1", "unknown recipe"),
        ("ddpm.speed=1", "speed"),
    ):
        with pytest.raises(BadInput, match=words):
            suite.plan_runs("digits", ["ddpm", "gan"], small(), 1, False, [setting], USUAL)
