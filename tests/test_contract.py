"""Every recipe keeps the contract: one suite over all of them, on images and on vectors, with and without labels."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace

import pytest
import torch
from helpers import thinned
from torch import Tensor, nn

from bench.gpu_check import few as few_calls
from paradigms import catalogue
from paradigms.backbones import count_calls
from paradigms.contract import Frozen, Paradigm
from paradigms.core.data import Data, Pairs, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Kind, Plan, Sampler
from paradigms.errors import BadInput
from paradigms.maths.paths import COORDINATES, expand
from paradigms.testing import build, changed, checks, examples, examples_for, shake, state_of, train_a_little
from paradigms.testing.checks import draw, few, labels

RECIPES = catalogue.recipes()
IMAGES, LABELLED = Space((1, 8, 8), 0, 17), Space((1, 8, 8), 10, 17)
COLOUR, LARGE = Space((3, 14, 14), 0, 256), Space((3, 28, 28), 10, 256)
VECTORS, MARKED = Space((2,)), Space((2,), 4)
NAMES = {IMAGES: "images", LABELLED: "labelled", COLOUR: "colour", LARGE: "large", VECTORS: "vectors", MARKED: "marked"}

SMALL = [IMAGES, LABELLED, VECTORS, MARKED]
PARADIGMS = [name for name, recipe in RECIPES.items() if issubclass(recipe.paradigm, Paradigm)]


# They train on codes, of another shape than the data.
CODED = [name for name, recipe in RECIPES.items() if recipe.paradigm.inside()]


def takes(name: str, space: Space) -> bool:
    return RECIPES[name].paradigm.refuses(RECIPES[name].config, space) is None


def crossed(arguments: tuple[str, ...], cases: list[tuple[bool, tuple]]):
    """Parametrises a test over cases, named by their values; those that are not tried by default are with `-m matrix`."""
    return pytest.mark.parametrize(
        arguments,
        [
            pytest.param(*case, id="-".join(map(called, case)), marks=() if tried else pytest.mark.matrix)
            for tried, case in cases
        ],
    )


def called(value: str | Space | Sampler | Kind) -> str:
    return NAMES[value] if isinstance(value, Space) else value.name if isinstance(value, Sampler) else str(value)


def small_of(index: int, spaces: list[Space]) -> Space:
    """Another space for each recipe in turn, of those that take no time if there are any."""
    return (quick := [s for s in spaces if s in SMALL] or spaces)[index % len(quick)]


def over(spaces: list[Space], names: list[str] | None = None, *, once: str = ""):
    """Over recipes x spaces, as far as the recipe takes them; by default in one space each.

    once: a method's name, where by default one recipe will do of those that share it.
    """
    cases, seen = [], set()
    for index, name in enumerate(names or RECIPES):
        if taken := [s for s in spaces if takes(name, s)]:
            method = getattr(RECIPES[name].paradigm, once) if once else name
            cases += [(method not in seen and s == small_of(index, taken), (name, s)) for s in taken]
            seen.add(method)
    return crossed(("name", "space"), cases)


def tried(name: str) -> list[Sampler]:
    """Every sampler once: models of a Gaussian path share theirs, and beside three of them only the main ones are tried."""
    paradigm, everything = RECIPES[name].paradigm, name in ("ddpm", "score-sde", "flow-matching")
    if everything or not (hasattr(paradigm, "denoiser") or name in CODED):
        return list(paradigm.card.samplers)
    return [s for s in paradigm.card.samplers if s.main or s.name == paradigm.card.default.sampler]


def over_samplers(spaces: list[Space], *, each: bool = False):
    """Over recipes x samplers x spaces; by default in one space each sampler of one recipe, and each class by its default
    (`each`: each recipe)."""
    cases, seen = [], set()
    for index, name in enumerate(PARADIGMS):
        taken = [s for s in spaces if takes(name, s)]
        for sampler in tried(name) if taken else ():
            paradigm = RECIPES[name].paradigm
            own = sampler.name == paradigm.card.default.sampler and (each or paradigm.sample not in seen)
            first = own or sampler.name not in seen
            seen |= {sampler.name, paradigm.sample} if own else {sampler.name}
            cases += [(first and s == small_of(index, taken), (name, sampler, s)) for s in taken]
    return crossed(("name", "sampler", "space"), cases)


def over_kinds(most: float = math.inf):
    """Over recipes x kinds of likelihood of at most so many calls; by default each kind of each class once."""
    cases, seen = [], set[tuple]()
    for name in PARADIGMS:
        paradigm = RECIPES[name].paradigm
        for kind in (k for k in paradigm.card.likelihoods if k.calls <= most):
            cases.append(((paradigm.log_likelihood, kind.name) not in seen, (name, kind)))
            seen.add((paradigm.log_likelihood, kind.name))
    return crossed(("name", "kind"), cases)


def exact(model: Paradigm) -> Paradigm:
    """In float64, with the parents that it holds."""
    for held in vars(model.core).values():
        if isinstance(held, Frozen):
            held.model.double()
    return model.double().eval()


# -------------------------------------------------------------------------------------------------------- training


@over([*SMALL, COLOUR], once="updates")
def test_an_update_moves_its_module_and_nothing_else(name, space):
    checks.updates_move_their_module(RECIPES[name], space)


@over(SMALL, once="updates")
def test_every_parameter_is_trained(name, space):
    checks.every_parameter_is_trained(RECIPES[name], space)


@over(SMALL, once="updates")
def test_updates_leave_nothing_behind(name, space):
    checks.updates_leave_nothing_behind(RECIPES[name], space)


@over(SMALL, once="updates")
def test_a_step_is_a_function_of_batch_progress_and_noise(name, space):
    checks.losses_follow_the_noise_alone(RECIPES[name], space)


@over([IMAGES, COLOUR, VECTORS], once="updates")
def test_an_unconditional_model_owns_nothing_for_labels(name, space):
    model = build(name, space)
    assert not [m for m in model.modules() if isinstance(m, nn.Embedding)]
    told = build(name, Space(space.shape, 10, space.levels))
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in told.parameters())


@over([IMAGES, LARGE], [n for n, r in RECIPES.items() if r.needs])
def test_a_child_leaves_its_parents_alone(name, space):
    model = build(name, space)
    parents = [v.model for v in vars(model).values() if hasattr(v, "model") and not isinstance(v, nn.Module)]
    assert len(parents) == len(RECIPES[name].needs)
    for parent, need in zip(parents, RECIPES[name].needs.values()):
        assert isinstance(parent, need.provides)
        before = state_of(parent)
        train_a_little(model.train())
        if isinstance(model, Paradigm):
            draw(model.eval(), model.card.default, y=labels(space, 3))
        assert not changed(before, state_of(parent))
        assert not parent.training
        assert all(p.grad is None and not p.requires_grad for p in parent.parameters())
        assert not {id(p) for p in parent.parameters()} & {id(p) for p in model.parameters()}


@over([*SMALL, COLOUR], once="updates")
def test_prepare_returns_data_of_the_same_kind(name, space):
    model, n = build(name, space, shaken=False), 32
    x, y = examples(space, n)
    data = model.prepare(Data(space.decode(x), y, space), Noise("prepare"))
    assert (data.space.shape == model.space.shape) == (name not in CODED)
    assert len(data) > 0
    assert all(u.loss.isfinite() for u in model.train().updates(data.batch(torch.arange(4)), 0.0, Noise(0)))


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_accepts_these_spaces(name):
    """Small ones; of large images some refuse in words."""
    assert all(
        takes(name, space) for space in SMALL if not space.classes or name != "ot-flow-matching"
    )  # knows no labels
    for space in (LABELLED, COLOUR, LARGE):
        reason = RECIPES[name].paradigm.refuses(RECIPES[name].config, space)
        assert reason is None or len(reason.split()) > 3


ODD = [(1, 7, 7), (3, 5, 8), (1, 8, 12), (1, 33, 33), (1, 48, 36)]


@pytest.mark.parametrize(
    ("name", "shape"), thinned([(n, s) for n in RECIPES for s in ODD], lambda case: RECIPES[case[0]].paradigm.updates)
)
def test_any_image_is_either_modelled_or_refused_in_words(name, shape):
    space, recipe = Space(shape, 0, 256), RECIPES[name]
    reason = recipe.paradigm.refuses(recipe.config, space)
    if reason is not None:
        assert len(reason.split()) > 3
        return
    model = build(name, space)
    for update in model.updates(examples_for(model, 2), 0.5, Noise(0)):
        assert update.loss.isfinite()
    if isinstance(model, Paradigm):
        sampler = model.card.sampler(model.card.default.sampler)
        assert draw(model.eval(), few(sampler), 2).shape == (2, *shape)


# -------------------------------------------------------------------------------------------------------- sampling


@over_samplers(SMALL, each=True)
def test_a_sampler_gives_examples_of_the_space(name, space, sampler):
    checks.samples_are_of_the_space(build(name, space).eval(), sampler)


@over_samplers([LABELLED, MARKED, LARGE])
def test_same_noise_same_bits_and_other_noise_other_samples(name, space, sampler):
    checks.samples_follow_the_noise(build(name, space).eval(), sampler)


@over_samplers(SMALL)
def test_chunks_are_rows_of_the_whole(name, space, sampler):
    """In float64, where what is left of other batch sizes' rounding is small however much a sampler multiplies it."""
    model, y = exact(build(name, space)), labels(space, 7)
    plan = few(sampler)
    whole = draw(model, plan, 7, y=y)
    parts = torch.cat([draw(model, plan, n, first, y) for first, n in ((0, 3), (3, 1), (4, 3))])
    torch.testing.assert_close(parts, whole, rtol=1e-7, atol=1e-7)


@over_samplers([IMAGES, VECTORS])
def test_a_sampler_makes_the_calls_it_claims(name, space, sampler):
    checks.calls_are_as_claimed(build(name, space).eval(), sampler)


@over_samplers([VECTORS, MARKED])
def test_declared_options_exist_and_their_defaults_are_the_real_ones(name, space, sampler):
    model, plan, y = build(name, space).eval(), replace(few(sampler), options=()), labels(space, 3)
    plain = draw(model, plan, y=y)
    assert torch.equal(draw(model, Plan(plan.sampler, plan.steps, tuple(sampler.options.items())), y=y), plain)
    guides = {o for o in sampler.options if o.startswith("guid")}  # a model without labels knows of none
    if space.classes and guides and plan.steps == 3:  # so few levels may all lie on one side of an end
        plan = replace(plan, steps=6)
    tried = {o: v for o, v in sampler.options.items() if (o in guides) == bool(space.classes)}
    other = {option: another(name, sampler, option, value) for option, value in tried.items()}
    all_changed = draw(model, Plan(plan.sampler, plan.steps, tuple(other.items())), y=y)
    for option, value in tried.items():
        but_one = tuple({**other, option: value}.items())
        assert not torch.equal(draw(model, Plan(plan.sampler, plan.steps, but_one), y=y), all_changed), option


def another(name: str, sampler: Sampler, option: str, value):
    """A value that the option may take besides its default, and that is not the same under another name."""
    if option in sampler.falling:
        return "0.8/0.3"  # for three steps
    if option == "on":
        return "linear" if name == "edm" else "edm"
    if option in sampler.choices:
        return "quadratic" if "quadratic" in sampler.choices[option] else sampler.choices[option][1]
    if option.startswith("guid"):
        return {"guidance": 3.0, "guide-from": 0.7, "guide-to": 5.0}[option]
    low, high = sampler.ranges.get(option, (0.0, 1.0))
    if isinstance(low, int):
        return int(value) % high + 1
    return value * {"from": 40, "to": 0.1, "churn": 0.1, "noise": 0.9}.get(option, 1e-3) or min(1.0, high)


@over_samplers([IMAGES, VECTORS])
def test_watching_shows_the_way_and_changes_nothing(name, space, sampler):
    model, seen = build(name, space).eval(), []
    z = model.prior(3, Noise("z"))
    with torch.no_grad():
        plain = model.sample(z, few(sampler), Noise("s"))
        watched = model.sample(z, few(sampler), Noise("s"), watch=lambda t, x: seen.append((t, x.clone())))
    assert torch.equal(plain, watched)
    assert all(x.shape == plain.shape for _, x in seen)
    times = [t for t, _ in seen]
    assert times == sorted(times, reverse=True)
    assert not times or 0 <= times[-1] < times[0] <= 1


@over_samplers([LABELLED, MARKED])
def test_samples_follow_their_labels(name, space, sampler):
    """Row by row: another label changes its own row and no other."""
    model, y = exact(shake(build(name, space), 0.3, seed=1)), torch.tensor([0, 1, 2])
    if hasattr(model, "reach"):
        model.reach.fill_(math.inf)  # where every number is clipped there is nothing to compare
    first = draw(model, few(sampler), y=y)
    other = draw(model, few(sampler), y=torch.tensor([0, 3, 2]))
    assert (first[1] - other[1]).abs().max() > 1e-3
    torch.testing.assert_close(first[[0, 2]], other[[0, 2]], rtol=1e-7, atol=1e-7)


@over([LABELLED, MARKED], once="updates")
def test_the_loss_depends_on_the_labels(name, space):
    model = build(name, space).eval()
    batch, z = examples_for(model), examples(space).z
    first, other = (
        [u.loss.item() for u in model.updates(Pairs(batch.x, y, z), 0.5, Noise(0))]
        for y in (batch.y, (batch.y + 1) % space.classes)
    )
    assert all(a != pytest.approx(b, rel=1e-6) for a, b in zip(first, other, strict=True))


# ------------------------------------------------------------------------------------------------------ likelihood


@over_kinds()
def test_a_declared_likelihood_is_computed_at_the_declared_cost(name, kind):
    model = build(name, VECTORS).eval()
    checks.likelihood_is_as_claimed(model, kind)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", ["ddpm", "score-sde", "flow-matching", "hvae", "latent-ddpm"])
def test_a_likelihood_of_images_is_as_claimed(name):
    """Its parts sum to it, also where a density is turned into a mass."""
    model = build(name, IMAGES).eval()
    for kind in model.card.likelihoods_on(IMAGES):
        if kind.calls <= 51:
            checks.likelihood_is_as_claimed(model, kind)


@over(SMALL, [n for n in PARADIGMS if RECIPES[n].paradigm.card.likelihoods], once="log_likelihood")
def test_likelihoods_in_chunks_equal_the_whole(name, space):
    model, (x, y) = build(name, space).eval(), examples(space, 5)
    kind = few_calls(min(model.card.likelihoods, key=lambda kind: kind.calls))

    def value(rows: slice) -> Tensor:
        with torch.no_grad():
            noise = Noise("l").rows(rows.start)
            return model.log_likelihood(x[rows], kind, noise, None if y is None else y[rows]).value

    whole = value(slice(0, 5))
    assert whole.shape == (5,)
    assert whole.isfinite().all()
    torch.testing.assert_close(torch.cat([value(slice(0, 2)), value(slice(2, 5))]), whole, rtol=1e-5, atol=1e-3)
    if y is not None:
        with torch.no_grad():
            other = model.log_likelihood(x, kind, Noise("l"), (y + 1) % space.classes).value
        assert ((other - whole).abs() > 1e-4).all()


@over_kinds(most=100)
def test_a_likelihood_on_levels_counts_dequantisation_draws(name, kind):
    """`calls` is a promise on data with levels too, for every kind that is cheap enough to try."""
    model, x = build(name, Space((1, 4, 4), 0, 17)).eval(), examples(Space((1, 4, 4), 0, 17), 2).x
    with torch.no_grad(), count_calls() as count:
        model.log_likelihood(x, kind, Noise("l"))
    assert count.examples == len(x) * kind.calls


@pytest.mark.parametrize("name", PARADIGMS)
def test_a_likelihood_is_declared_if_and_only_if_there_is_one(name):
    model = build(name, VECTORS)
    declared = bool(model.card.likelihoods)
    assert declared == (not model.card.no_likelihood)
    for space in (VECTORS, Space((1, 8, 8), 0, 17)):
        assert declared == bool(model.card.likelihoods_on(space))
    if not declared:  # those that are declared are computed by the tests above
        with pytest.raises(NotImplementedError, match=model.card.no_likelihood):
            model.log_likelihood(examples(VECTORS).x, Kind("any", "=", 1), Noise(0))


# ------------------------------------------------------------------------------------------------- card, weights


@pytest.mark.parametrize("name", PARADIGMS)
def test_the_card_is_whole(name):
    recipe, card = RECIPES[name], RECIPES[name].paradigm.card
    assert recipe.name == name
    assert recipe.summary
    assert recipe.config.batch > 0
    assert card.title
    assert card.paper
    assert 2010 < card.year < 2100
    assert card.url.startswith("https://")
    assert len({s.name for s in card.samplers}) == len(card.samplers)
    default = card.sampler(card.default.sampler)
    assert default is not None
    assert card.default.steps in default.steps, "the sweep has to hold the headline"
    assert set(dict(card.default.options)) <= set(default.options)
    assert len({str(kind) for kind in card.likelihoods}) == len(card.likelihoods)
    for role, need in recipe.needs.items():
        assert need.recipe in RECIPES, role
        assert 0 < need.share <= 1


@over([*SMALL, COLOUR], once="updates")
def test_weights_make_the_round_trip(name, space, tmp_path):
    from safetensors.torch import load_file, save_file

    model = train_a_little(build(name, space).train()).eval()
    state = {k: v.contiguous().clone() for k, v in model.state_dict().items()}
    save_file(state, tmp_path / "weights.safetensors")
    other = shake(build(name, space), seed=5).eval()  # same parents, other weights
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert not changed(state_of(model), state_of(other))
    if isinstance(model, Paradigm):
        plan, y = few(model.card.sampler(model.card.default.sampler)), labels(space, 2)
        assert torch.equal(draw(model, plan, 2, y=y), draw(other, plan, 2, y=y))


@pytest.mark.parametrize(
    "name",
    thinned(
        [(n,) for n in PARADIGMS if hasattr(RECIPES[n].paradigm, "denoiser")],
        lambda case: RECIPES[case[0]].paradigm.denoiser,
    ),
)
def test_a_denoiser_tells_data_from_noise(name):
    """x0 and eps give back the state, at (B,) times as at fixed ones, in coordinates of its own as of another path."""
    for space in (IMAGES, MARKED):
        model, (x, y) = build(name, space).double().eval(), examples(space, 3)
        x, times = x.double(), torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
        with torch.no_grad():
            for d in (model.denoiser(y), *(model.denoiser(y).on(path) for path in COORDINATES.values())):
                t = times.clamp(d.t_min, d.t_max)
                x0, eps = d.both(x, t)
                assert x0.shape == eps.shape == d.velocity(x, t).shape == x.shape
                alpha, sigma = expand(d.path.alpha(t), x), expand(d.path.sigma(t), x)
                torch.testing.assert_close(alpha * x0 + sigma * eps, x, rtol=1e-9, atol=1e-9)
                at = replace(d, reach=math.inf).along(t, x)
                for k, when in enumerate(t.tolist()):
                    for found, expected in zip((*at.both(x, when), at.velocity(x, when)), (x0, eps, d.velocity(x, t))):
                        torch.testing.assert_close(found[k], expected[k], rtol=1e-9, atol=1e-9)


@over([IMAGES, VECTORS], [name for name, recipe in RECIPES.items() if not recipe.needs])  # a child may copy its teacher
def test_parameters_grow_with_the_width(name, space):
    checks.parameters_grow_with_the_width(RECIPES[name], space)


def test_a_parent_must_do_what_the_need_asks():
    recipe = RECIPES["consistency"]
    with pytest.raises(TypeError, match="teacher 'flow-matching' is not a Denoises"):
        recipe.build(VECTORS, 8, {"teacher": Frozen(build("vae", VECTORS))})


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("vae", "latent=0"),
        ("vae", "batch=0"),
        ("vae", "dropout=1"),
        ("vae", "warm_up=-1"),
        ("gan", "lr=-1"),
        ("gan", "beta2=1"),
        ("ddpm", "predicts=score"),
        ("ddpm", "schedule=sigmoid"),
        ("ddpm", "beta_T=2"),
        ("ddpm", "backbone=conv"),
        ("score-sde", "sde=vpp"),
        ("edm", "sigma_max=1"),
        ("ncsn", "L=1"),
        ("score-sde", "floor=20"),
        ("score-sde", "beta_max=1"),
        ("consistency", "steps_end=100"),
        ("consistency", "steps_start=0"),
        ("normalizing-flow", "bound=0"),
    ],
)
def test_a_config_refuses_what_can_not_be_trained(name, setting):
    key, _, text = setting.partition("=")
    kind = type(getattr(RECIPES[name].config, key))
    value = kind(text if kind is str else float(text))
    with pytest.raises(ValueError, match=key):
        dataclasses.replace(RECIPES[name].config, **{key: value})


def test_a_sampler_refuses_what_it_does_not_have():
    ddim, generator = RECIPES["ddpm"].paradigm.card.sampler("ddim"), RECIPES["gan"].paradigm.card.samplers[0]
    ddim.check(Plan("ddim", 50, (("eta", 1.0),)))
    for plan in (
        Plan("ddim", 0),
        Plan("ddim", 10**9),
        Plan("ddim", 9, (("eta", 5.0),)),
        Plan("ddim", 9, (("et", 1.0),)),
    ):
        with pytest.raises(BadInput):
            ddim.check(plan)
    with pytest.raises(BadInput, match="no number of steps"):
        generator.check(Plan("generator", 5))
