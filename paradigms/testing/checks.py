"""The conformance checks: what every recipe of the suite is held to, each a function of a recipe and a space.

A check raises `Problem` with what is wrong. `check_recipe` does all of them; the names are those that `bench check` prints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paradigms.backbones import count_calls
from paradigms.backbones.networks import Network, Networks
from paradigms.contract import Paradigm
from paradigms.core.data import Data, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Kind, Plan, Sampler
from paradigms.errors import BadInput
from paradigms.recipe import Recipe
from paradigms.testing.models import (
    build,
    changed,
    descend,
    examples,
    examples_for,
    names_of,
    shake,
    state_of,
    train_a_little,
)

__all__ = ["CHECKS", "SPACES", "Problem", "Result", "check_backbone", "check_recipe", "draw", "few", "labels"]

# What recipes are tried on, as far as they take it.
SPACES = {
    "images": Space((1, 8, 8), 0, 17),
    "labelled images": Space((1, 8, 8), 10, 17),
    "vectors": Space((2,)),
    "labelled vectors": Space((2,), 4),
}


class Problem(AssertionError):
    """What a check found to be wrong, in words for the author."""


@dataclass(frozen=True)
class Result:
    """One check on one kind of data. problem: what is wrong; "" where all is well."""

    check: str
    space: str
    problem: str = ""


def _hold(holds: object, problem: str) -> None:
    if not holds:
        raise Problem(problem)


def labels(space: Space, n: int) -> Tensor | None:
    """(n,) labels 0, 1, 2 ...; None where there are no classes."""
    return torch.arange(n) % space.classes if space.classes else None


def few(sampler: Sampler) -> Plan:
    """A plan with few steps: enough for churn to find levels where it adds noise and others where it does not, and for the
    reverse SDE not to end where clipping hides all else. Of an adaptive solver at a coarse tolerance."""
    more = sampler.name in ("churn", "reverse-sde")
    coarse = tuple((name, 1e-2) for name in ("rtol", "atol") if sampler.calls is None and name in sampler.options)
    return Plan(sampler.name, 1 if sampler.steps == (1,) else 12 if more else 3, coarse)


def draw(model: Paradigm, plan: Plan, n: int = 3, first: int = 0, y: Tensor | None = None, seed: int = 0) -> Tensor:
    """Samples `first` ... `first` + n, in the precision of the model."""
    z = model.prior(n, Noise("z", seed).rows(first))
    z = z.to(next(model.parameters()).dtype) if z.is_floating_point() else z
    with torch.no_grad():
        return model.sample(z, plan, Noise("sampler", seed).rows(first), None if y is None else y[first : first + n])


# -------------------------------------------------------------------------------------------------------- training


def updates_move_their_module(recipe: Recipe, space: Space) -> None:
    """An update moves its own module and nothing else; `after` moves only what no optimizer holds."""
    model = build(recipe, space).train()
    optimizers, batch = model.optimizers(), examples_for(model)
    held = [p for o in optimizers.values() for group in o.param_groups for p in group["params"]]
    modules = set()
    for k in range(2):
        for update in model.updates(batch, 0.5 + 0.1 * k, Noise(k)):
            before = state_of(model)
            descend(optimizers, update)
            after = state_of(model)
            moved, allowed = changed(before, after), names_of(model, update.module.parameters())
            _hold(moved, "a step moved nothing")
            _hold(
                moved <= allowed, f"a step moved {', '.join(sorted(moved - allowed))}, which its module does not hold"
            )
            modules.add(update.module)
            if update.after is not None:
                update.after()
                moved = changed(after, state_of(model))
                _hold(moved, "`after` moved nothing")
                _hold(not moved & names_of(model, held), "`after` moved what an optimizer holds")
    _hold(modules == set(optimizers), "a module has an optimizer and no update, or the other way round")


def updates_leave_nothing_behind(recipe: Recipe, space: Space) -> None:
    """A step may be run only to count its cost: nothing changes unless the caller steps."""
    model = train_a_little(build(recipe, space)).eval()  # dropout draws from the global generator by design
    optimizers, batch = model.optimizers(), examples_for(model)
    for o in optimizers.values():
        o.zero_grad(set_to_none=True)
    before, x, state = state_of(model), batch.x.clone(), torch.get_rng_state()
    list(model.updates(batch, 0.3, Noise(1)))
    _hold(not changed(before, state_of(model)), "the weights changed without a step")
    _hold(all(not o.state for o in optimizers.values()), "an optimizer has a state without a step")
    _hold(all(p.grad is None for p in model.parameters()), "a gradient was left in the parameters")
    _hold(torch.equal(batch.x, x) and not batch.x.requires_grad, "the batch was written to")
    _hold(torch.equal(torch.get_rng_state(), state), "drew from the global generator; draw from `noise`")


def every_parameter_is_trained(recipe: Recipe, space: Space) -> None:
    """Every parameter that wants a gradient has an optimizer and is reached by a finite gradient, but for those `idle`."""
    model = build(recipe, space, shaken=False).train()  # as a run starts: many branches silent
    optimizers, silent = model.optimizers(), set[str]()
    for k, progress in enumerate((0.0, 0.5, 0.875, 0.125, 0.25, 0.375, 0.625, 0.75)):
        for update in model.updates(examples_for(model, 16, seed=k), progress, Noise(k)):
            _hold(update.loss.shape == () and update.loss.isfinite(), "a loss is no finite scalar")
            _hold(all(torch.as_tensor(t).isfinite().all() for t in update.terms.values()), "a term is not finite")
            reached = descend(optimizers, update)
            _hold(all(p.grad is None or p.grad.isfinite().all() for p in reached), "a gradient is not finite")
            if update.after is not None:
                update.after()
        held = names_of(model.core, (p for o in optimizers.values() for g in o.param_groups for p in g["params"]))
        named = dict(model.core.named_parameters())
        idle = {name for name in held if named[name].grad is None or not named[name].grad.abs().max() > 0}
        silent = silent & idle if k else idle
        if k >= 2 and silent <= model.idle:
            break  # every branch has spoken
    unmoved = ", ".join(sorted(silent - model.idle))
    _hold(not unmoved, f"no gradient ever reached {unmoved}; name it in `idle` if that is meant")
    wanted = names_of(model.core, (p for p in model.parameters() if p.requires_grad))
    _hold(wanted == held, f"no optimizer holds {', '.join(sorted(wanted - held))}, which wants a gradient")


def losses_follow_the_noise_alone(recipe: Recipe, space: Space) -> None:
    """The losses of a step are a function of batch, progress and noise; on images they follow it, but for `noiseless`."""
    model = build(recipe, space).eval()
    first, again, other = (
        [update.loss.detach() for update in model.updates(examples_for(model), 0.3, Noise(k))] for k in (1, 1, 2)
    )
    _hold(first == again, "the same batch, progress and noise gave other losses")
    if model.noiseless:
        _hold(first == other, "it says `noiseless`, and another noise gave other losses")
    elif space.is_image:  # on vectors a loss may need no noise, as a flow's: nothing is dequantised
        _hold(first != other, "another noise gave the same losses; draw from `noise`, or say `noiseless = True`")


def prepare_returns_data_to_train_on(recipe: Recipe, space: Space) -> None:
    """`prepare` returns data that the model can be trained on."""
    model, n = build(recipe, space, shaken=False), 32
    x, y = examples(space, n)
    data = model.prepare(Data(space.decode(x), y, space), Noise("prepare"))
    _hold(
        data.space.shape == model.space.shape, f"prepare gave data of shape {data.space.shape}, not {model.space.shape}"
    )
    _hold(len(data) > 0, "prepare gave no data")
    losses = [u.loss for u in model.train().updates(data.batch(torch.arange(4)), 0.0, Noise(0))]
    _hold(losses and all(loss.shape == () and loss.isfinite() for loss in losses), "a loss is no finite scalar")


def weights_make_the_round_trip(recipe: Recipe, space: Space) -> None:
    """A model that loads another's weights draws the same samples."""
    model = train_a_little(build(recipe, space).train()).eval()
    other = shake(build(recipe, space), seed=5).eval()  # same parents, other weights
    other.load_state_dict({name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()})
    _hold(not changed(state_of(model), state_of(other)), "not all weights are in the state_dict")
    if isinstance(model, Paradigm):
        plan, y = model.card.default, labels(space, 2)
        _hold(torch.equal(draw(model, plan, 2, y=y), draw(other, plan, 2, y=y)), "equal weights drew other samples")


def parameters_grow_with_the_width(recipe: Recipe, space: Space) -> None:
    """The suite searches the width that meets the parameter target."""
    if not recipe.needs:  # a child may copy its teacher
        sizes = [sum(p.numel() for p in build(recipe, space, width).parameters()) for width in (8, 16, 24, 32)]
        _hold(sizes == sorted(set(sizes)), f"widths 8, 16, 24 and 32 have {sizes} parameters; make them grow")


# -------------------------------------------------------------------------------------------------------- sampling


def _sampled(recipe: Recipe, space: Space) -> Iterator[tuple[Paradigm, Sampler]]:
    """A model, and each of its samplers in turn; nothing of what does not sample."""
    if issubclass(recipe.paradigm, Paradigm):
        for sampler in recipe.paradigm.card.samplers:
            yield build(recipe, space).eval(), sampler


def samplers_give_examples_of_the_space(recipe: Recipe, space: Space) -> None:
    """Samples are float32, finite, of the space's shape and not all alike; z and the model are left as they were."""
    for model, sampler in _sampled(recipe, space):
        samples_are_of_the_space(model, sampler)


def samples_are_of_the_space(model: Paradigm, sampler: Sampler) -> None:
    """The same of one sampler."""
    space, y, z = model.space, labels(model.space, 3), model.prior(3, Noise("z"))
    kept, state, before = z.clone(), torch.get_rng_state(), state_of(model)
    with torch.no_grad():
        x = model.sample(z, few(sampler), Noise("sampler"), y)
    name = f"sampler {sampler.name}"
    _hold(x.shape == (3, *space.shape), f"{name} gave shape {tuple(x.shape)}, not {(3, *space.shape)}")
    _hold(x.dtype == torch.float32, f"{name} gave {x.dtype}, not float32")
    _hold(x.isfinite().all(), f"{name} gave numbers that are not finite")
    _hold(x.std() > 0, f"{name} gave one number only")
    _hold(torch.equal(z, kept), f"{name} wrote to z")
    _hold(torch.equal(torch.get_rng_state(), state), f"{name} drew from the global generator; draw from `noise`")
    _hold(not changed(before, state_of(model)), f"{name} changed the model")


def samplers_follow_their_noise(recipe: Recipe, space: Space) -> None:
    """Same noise, same bits; other noise, other samples; only a sampler that says so draws more than the prior's."""
    for model, sampler in _sampled(recipe, space):
        samples_follow_the_noise(model, sampler)


def samples_follow_the_noise(model: Paradigm, sampler: Sampler) -> None:
    """The same of one sampler."""
    y, name = labels(model.space, 2), f"sampler {sampler.name}"
    first, again, other = (draw(model, few(sampler), 2, y=y, seed=seed) for seed in (0, 0, 1))
    _hold(torch.equal(first, again), f"{name} gave other samples for the same noise")
    _hold(not torch.equal(first, other), f"{name} gave the same samples for other noise")
    z = model.prior(2, Noise("z"))
    with torch.no_grad():
        a, b = (model.sample(z, few(sampler), Noise("sampler", seed), y) for seed in (0, 1))
    _hold(torch.equal(a, b) == (not sampler.stochastic), f"{name} says stochastic={sampler.stochastic}, and is not so")


def samplers_make_the_calls_they_claim(recipe: Recipe, space: Space) -> None:
    """The card's network calls are those that are made."""
    for model, sampler in _sampled(recipe, space):
        calls_are_as_claimed(model, sampler)


def calls_are_as_claimed(model: Paradigm, sampler: Sampler) -> None:
    """The same of one sampler."""
    y = labels(model.space, 2)
    for steps in (1,) if sampler.steps == (1,) else (1, 2, 5):
        with count_calls() as count:
            draw(model, Plan(sampler.name, steps), 2, y=y)
        name, claimed = f"sampler {sampler.name} at {steps} steps", sampler.calls_at(steps)
        if claimed is None:
            _hold(count.calls > 0, f"{name} made no network call")
        else:
            _hold(count.calls == claimed, f"{name} made {count.calls} network calls, and claims {claimed}")
            _hold(count.examples == 2 * count.calls, f"{name} asked the network for other than its batch")


def chunks_are_rows_of_the_whole(recipe: Recipe, space: Space) -> None:
    """Samples do not depend on the size of the batch that they are drawn in."""
    if not issubclass(recipe.paradigm, Paradigm) or recipe.needs:
        return
    model, y = build(recipe, space).double().eval(), labels(space, 5)
    plan = few(next(s for s in model.card.samplers if s.name == model.card.default.sampler))
    whole = draw(model, plan, 5, y=y)
    parts = torch.cat([draw(model, plan, n, first, y) for first, n in ((0, 3), (3, 2))])
    _hold(torch.allclose(parts, whole, rtol=1e-7, atol=1e-7), "a batch cut in two gave other samples than the whole")


# ------------------------------------------------------------------------------------------------------ likelihood


def likelihoods_are_as_claimed(recipe: Recipe, space: Space) -> None:
    """Each kind on the card that costs at most 100 calls: values, terms and errors (B,), at the declared cost."""
    if not issubclass(recipe.paradigm, Paradigm):
        return
    for kind in recipe.paradigm.card.likelihoods_on(space):
        if kind.calls <= 100:
            likelihood_is_as_claimed(build(recipe, space).eval(), kind)


def likelihood_is_as_claimed(model: Paradigm, kind: Kind) -> None:
    """The same of one kind."""
    x, y = examples(model.space, 3)
    kept, state, name = x.clone(), torch.get_rng_state(), f"likelihood {kind}"
    with torch.no_grad(), count_calls() as count:
        estimate = model.log_likelihood(x, kind, Noise("likelihood"), y)
    _hold(
        count.examples == len(x) * kind.calls or (model.space.levels == 0 and kind.option("draws", 1) > 1),
        f"{name} asked the network for {count.examples} rows, and claims {kind.calls} calls for each of {len(x)} examples",
    )
    for values in (estimate.value, *estimate.terms.values(), *estimate.errors.values()):
        _hold(values.shape == (3,) and values.dtype == torch.float32, f"{name} gave no float32 of shape (B,)")
        _hold(values.isfinite().all() and not values.requires_grad, f"{name} is not finite, or wants a gradient")
    _hold(all((error >= 0).all() for error in estimate.errors.values()), f"{name} has a negative error")
    if estimate.terms:
        total = torch.stack(list(estimate.terms.values())).sum(0)
        _hold(torch.allclose(total, -estimate.value, rtol=1e-5, atol=1e-4), f"{name}: the terms do not sum to -value")
    _hold(torch.equal(x, kept), f"{name} wrote to x")
    _hold(torch.equal(torch.get_rng_state(), state), f"{name} drew from the global generator; draw from `noise`")
    _hold(kind.relation in ("=", "≤", "≈"), f"{name}: relation must be =, ≤ or ≈")


def the_card_is_whole(recipe: Recipe, space: Space) -> None:
    """What tables and the suite read of a recipe is there."""
    _hold(recipe.name and recipe.summary, "the recipe has no name or no summary")
    _hold(getattr(recipe.config, "batch", 0) > 0, "the config has no batch above 0")
    if not issubclass(recipe.paradigm, Paradigm):
        return
    card = recipe.paradigm.card
    _hold(
        card.title and card.paper and card.url.startswith("https://"), "the card has no title, paper or https address"
    )
    _hold(len({s.name for s in card.samplers}) == len(card.samplers), "two samplers have one name")
    default = card.sampler(card.default.sampler)
    if default is None:
        raise Problem(f"the default sampler {card.default.sampler} is not on the card")
    _hold(card.default.steps in default.steps, "the default's number of steps is not among those of its sampler")
    _hold(set(dict(card.default.options)) <= set(default.options), "the default has an option that its sampler has not")
    _hold(len({str(kind) for kind in card.likelihoods}) == len(card.likelihoods), "two kinds of likelihood are one")
    _hold(
        bool(card.likelihoods) == (not card.no_likelihood),
        "the card must have likelihoods, or no_likelihood say why not",
    )


Check = Callable[[Recipe, Space], None]
CHECKS: tuple[Check, ...] = (
    the_card_is_whole,
    updates_move_their_module,
    updates_leave_nothing_behind,
    every_parameter_is_trained,
    losses_follow_the_noise_alone,
    prepare_returns_data_to_train_on,
    weights_make_the_round_trip,
    parameters_grow_with_the_width,
    samplers_give_examples_of_the_space,
    samplers_follow_their_noise,
    samplers_make_the_calls_they_claim,
    chunks_are_rows_of_the_whole,
    likelihoods_are_as_claimed,
)


def check_recipe(recipe: Recipe) -> Iterator[Result]:
    """The results of all checks on every kind of data that the recipe takes."""
    taken = 0
    for where, space in SPACES.items():
        try:
            reason = recipe.paradigm.refuses(recipe.config, space)
        except Exception as error:  # an author's code may raise anything
            yield Result("refuses", where, f"{type(error).__name__}: {error}")
            continue
        if reason is not None:
            yield Result("refuses in words", where, "" if len(reason.split()) > 3 else f"'{reason}' says too little")
            continue
        taken += 1
        for check in CHECKS:
            yield Result(check.__name__.replace("_", " "), where, _problem(check, recipe, space))
    if not taken:
        yield Result("takes some data", "all", "it refuses all kinds of data")


def _problem(check: Callable[..., object], *given: object) -> str:
    try:
        check(*given)
    except (Problem, BadInput) as error:
        return str(error)
    except (Exception, SystemExit) as error:  # an author's code may raise anything
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


# ------------------------------------------------------------------------------------------------------- backbones


def check_backbone(found: Networks) -> Iterator[Result]:
    """The results of the checks of a backbone's networks, on every kind of data that it takes."""
    roles = [role for role in ("denoiser", "encoder", "decoder") if getattr(found, role) is not None]
    taken = False
    for where, space in SPACES.items():
        if problem := _problem(found.refuses, space):
            yield Result("says which data it takes", where, problem)
        elif found.refuses(space) is None:
            taken = taken or bool(roles)
            for role in roles:
                yield Result(role, where, _problem(_check_network, found, role, space))
    if not taken:
        yield Result("makes some network for some data", "all", "it has none, or refuses all kinds of data")


def _check_network(found: Networks, role: str, space: Space) -> None:
    """Shapes, labels, gradients and growth of one network."""
    make: Callable[..., nn.Module] = getattr(found, role)
    sizes = {
        "denoiser": lambda width: (space, width, 0.0, 2, 1),
        "encoder": lambda width: (space, 5, width, 0.0, False, 1),
        "decoder": lambda width: (space, 5, 2, width, 0.0, False, 1),
    }[role]
    (x, y), n = examples(space, 3), 3
    inputs = {"denoiser": (x, torch.rand(n), y), "encoder": (x, y), "decoder": (torch.randn(n, 5), y)}[role]
    wanted = (n, 5) if role == "encoder" else (n, 2 * space.shape[0], *space.shape[1:])
    net = shake(Network(make(*sizes(16))))
    out = net(*inputs)
    _hold(out.shape == wanted, f"it gave shape {tuple(out.shape)}, not {wanted}")
    out.square().mean().backward()
    unused = [name for name, p in net.named_parameters() if p.grad is None]
    _hold(not unused, f"no gradient reaches {', '.join(unused)}")
    if y is not None:
        other = net(*inputs[:-1], (y + 1) % space.classes)
        _hold(not torch.equal(out, other), "it does not depend on the labels")
    counts = [sum(p.numel() for p in make(*sizes(width)).parameters()) for width in (8, 16, 32)]
    _hold(counts == sorted(set(counts)), f"widths 8, 16 and 32 have {counts} parameters; make them grow")
