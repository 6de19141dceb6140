"""The contract every paradigm keeps, and the small types that cross the borders between modules.

A paradigm yields each loss together with the module that the loss trains; whoever drives it (the trainer) descends and
resumes the generator. So one loop trains a GAN (two optimizers, the second loss sees the stepped critic), a consistency
model (a target moved after each step) and a plain regression alike, and never asks which of them it holds.

Conventions: t = 0 is data, t = 1 is noise. Images are (B, C, H, W) float32 in [-1, 1] at bin centres; vectors are
(B, D). Log-likelihoods are nats per example.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.weak import WeakTensorKeyDictionary

from paradigms.errors import BadInput, unknown

if TYPE_CHECKING:
    from paradigms.maths.denoiser import Denoiser
    from paradigms.maths.observation import Observation
    from paradigms.maths.paths import GaussianPath

__all__ = [
    "Batch",
    "Card",
    "Codec",
    "Data",
    "Denoises",
    "Estimate",
    "Frozen",
    "Jumps",
    "Kind",
    "Need",
    "Noise",
    "Pairs",
    "Paradigm",
    "Plan",
    "Recipe",
    "Sampler",
    "Setting",
    "Space",
    "Trainable",
    "Update",
    "check_settings",
    "number",
    "settings_text",
]


# ---------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Space:
    """What one example is.

    shape:   (C, H, W) of an image or (D,) of a vector.
    classes: how many labels a model of this space is told; 0 = unconditional.
    levels:  how many integer values a pixel takes (256; 17 for scikit-learn's digits); 0 = real-valued.
    """

    shape: tuple[int, ...]
    classes: int = 0
    levels: int = 0

    @property
    def dim(self) -> int:
        return math.prod(self.shape)

    @property
    def is_image(self) -> bool:
        return len(self.shape) == 3

    @property
    def bin(self) -> float:
        """The unit of the least noise: the width of a level's bin on [-1, 1], a twentieth of real-valued data's unit."""
        return 2 / self.levels if self.levels else 0.05

    def encode(self, k: Tensor) -> Tensor:
        """Integers k in [0, L) to bin centres (2k + 1)/L - 1, float32; real-valued data passes unchanged."""
        if not self.levels:
            return k
        return k.to(torch.float32, copy=True).mul_(2).add_(1).div_(self.levels).sub_(1)

    def decode(self, x: Tensor) -> Tensor:
        """Float images to the integer of the bin they fall in (uint8); real-valued data passes unchanged."""
        if not self.levels:
            return x
        return ((x + 1) * (self.levels / 2)).floor_().clamp_(0, self.levels - 1).to(torch.uint8)


class Batch(NamedTuple):
    """x: (B, *shape) float32. y: (B,) int64 labels, or None when the model is unconditional."""

    x: Tensor
    y: Tensor | None = None


class Pairs(Batch):
    """A batch of examples that a model made, and z (B, *shape) float32, the noise that each was made of."""

    z: Tensor

    def __new__(cls, x: Tensor, y: Tensor | None, z: Tensor) -> Pairs:
        pairs = super().__new__(cls, x, y)
        pairs.z = z
        return pairs


@dataclass(frozen=True)
class Data:
    """A split held on one device: integers where the space has levels, float32 otherwise; batched by index.

    z: the noise that each example was made of, where `Trainable.prepare` drew such pairs.
    """

    x: Tensor
    y: Tensor | None
    space: Space
    z: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, index: Tensor) -> Batch:
        """The examples at `index` (B,), encoded; labels only when the space has classes. `Pairs` where there is z."""
        y = self.y.index_select(0, index) if self.y is not None and self.space.classes else None
        x = self.space.encode(self.x.index_select(0, index))
        return Batch(x, y) if self.z is None else Pairs(x, y, self.z.index_select(0, index))

    def all(self) -> Batch:
        return self.batch(torch.arange(len(self), device=self.x.device))

    def unlabelled(self) -> Data:
        """The same examples for a model that is told no labels."""
        return replace(self, y=None, space=replace(self.space, classes=0))

    def to(self, device: torch.device | str) -> Data:
        y, z = (None if v is None else v.to(device) for v in (self.y, self.z))
        return replace(self, x=self.x.to(device), y=y, z=z)


# ---------------------------------------------------------------------------------------------------- randomness


def seed_of(*coords: object) -> int:
    """A 63-bit seed that is a pure function of the coordinates."""
    return int.from_bytes(hashlib.blake2b(repr(coords).encode(), digest_size=8).digest(), "big") >> 1


class Blocks(NamedTuple):
    """How `Noise` cuts a draw into blocks on a kind of device: at most so many rows and about so many numbers a block.

    version: of the numbers that come out; runs of different versions have different noise.
    """

    version: int
    rows: int
    numbers: int


# On a CPU a number costs the most: little waste at batch 1. On a GPU a launch does: one block holds any usual batch, and
# filling it takes less than some 0.05 ms. There the numbers are those of one model of GPU: torch gives a thread of the
# kernel a stream of its own, and takes as many threads as the multiprocessors hold (`calc_execution_policy` in ATen's
# cuda/DistributionTemplates.h), 221,184 on 108 of them and 270,336 on 132. A larger draw goes round them again.
BLOCKS: Mapping[str, Blocks] = {"cpu": Blocks(1, 1024, 2**12), "cuda": Blocks(2, 4096, 2**23)}


class Noise:
    """Counter-based randomness: what is drawn depends on (coords, how many draws came before, row), on nothing else.

    Rows are drawn in fixed blocks (`BLOCKS`), one generator seed per block, so that a batch cut in chunks, micro-batches
    or ranks gives the same rows as the whole: chunk [a, b) uses `noise.rows(a)`. No state has to be saved to resume.
    """

    def __init__(self, *coords: object, first: int = 0, device: torch.device | str = "cpu") -> None:
        self.coords = coords
        self.first = first
        self.device = torch.device(device)
        self._draws = 0
        self._generator = torch.Generator(self.device)

    def rows(self, first: int) -> Noise:
        """The same stream from its first draw, for rows `first`, `first` + 1, ..."""
        return Noise(*self.coords, first=first, device=self.device)

    def at(self, *coords: object) -> Noise:
        """An independent stream named by further coordinates, at the same rows."""
        return Noise(*self.coords, *coords, first=self.first, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, float32, `shape` = (rows, ...)."""
        return self._draw(shape, lambda s: torch.randn(s, generator=self._generator, device=self.device))

    def uniform(self, *shape: int) -> Tensor:
        """Uniform on [0, 1), float32."""
        return self._draw(shape, lambda s: torch.rand(s, generator=self._generator, device=self.device))

    def rademacher(self, *shape: int) -> Tensor:
        """-1 or +1 with equal probability, float32."""
        return self.uniform(*shape).sub_(0.5).sign_().add_(0.5).sign_()

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform on {0, ..., high - 1}, int64."""
        return self._draw(shape, lambda s: torch.randint(high, s, generator=self._generator, device=self.device))

    def _draw(self, shape: tuple[int, ...], draw: Callable[[tuple[int, ...]], Tensor]) -> Tensor:
        n, rest, most = shape[0], tuple(shape[1:]), BLOCKS[self.device.type]
        size = max(1, min(most.rows, most.numbers // max(1, math.prod(rest))))
        k, self._draws = self._draws, self._draws + 1
        first, last = self.first // size, max(self.first, self.first + n - 1) // size
        blocks = []
        for block in range(first, last + 1):
            self._generator.manual_seed(seed_of(*self.coords, k, block))
            blocks.append(draw((size, *rest)))
        whole = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
        offset = self.first - first * size
        return whole[offset : offset + n]


_READ = WeakTensorKeyDictionary()


def number(buffer: Tensor) -> float:
    """A buffer of one number as a Python one. A GPU is waited for only where the buffer has changed since the last time."""
    kept = _READ.get(buffer)
    if kept is None or kept[0] != buffer._version:
        kept = _READ[buffer] = buffer._version, float(buffer)
    return kept[1]


# ------------------------------------------------------------------------------------------------------- training


class Update(NamedTuple):
    """One descent step asked for by a paradigm.

    module:     whose parameters this loss trains; a key of `Trainable.optimizers()`.
    loss:       scalar.
    terms:      scalars for the log.
    settings:   optimizer settings for this step ("lr", "betas" ...), set before it; lr is multiplied by the warm-up.
    clip:       largest gradient norm; larger ones are scaled down.
    skip_above: a step whose gradient norm exceeds this is skipped, counted and logged.
    after:      called once after the optimizer step: a consistency target, a codebook.
    """

    module: nn.Module
    loss: Tensor
    terms: Mapping[str, Tensor] = {}
    settings: Mapping[str, Any] = {}
    clip: float = math.inf
    skip_above: float = math.inf
    after: Callable[[], None] | None = None


class Trainable(nn.Module, ABC):
    """Anything the trainer trains: paradigms, and codecs or noisy classifiers, which are trained but never ranked.

    `width` scales every network; the runner searches for the width whose trained parameters meet the target.

    fp32:      why products in bfloat16 are wrong for it, in words for the user; "" where they are not.
    eager:     its networks that can not be compiled, by attribute: those whose gradient is differentiated again, and
               those differentiated forward. {"*"}: all.
    precision: what this model computes its networks in, "fp32", "tf32" or "bf16"; set by whoever builds it.
    """

    fp32: ClassVar[str] = ""
    eager: ClassVar[frozenset[str]] = frozenset()
    precision: str = "fp32"

    def __init__(self, config: Any, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__()
        self.config = config
        self.space = space

    @staticmethod
    def inside() -> str:
        """The recipe of the model that this one holds inside itself, whose settings stand in `config.inner`; "" for none."""
        return ""

    @staticmethod
    def refuses(config: Any, space: Space) -> str | None:
        """Why this paradigm can not model such data, in words for the user; None when it can."""
        return None

    @abstractmethod
    def optimizers(self) -> dict[nn.Module, Optimizer]:
        """The optimizer of each trained module. Created anew by the caller, once per run."""

    @abstractmethod
    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        """The losses of one training step, in order. `progress` = step / steps in [0, 1].

        No side effects outside `Update.after`: a step may be run only to count its FLOPs.
        """

    def prepare(self, data: Data, noise: Noise) -> Data:
        """Called once before step 0, before the average is copied: data-dependent initialisation, drawn pairs, codes.

        Returns the data to train on.
        """
        return data

    @property
    def core(self) -> Trainable:
        """The model proper, in its own units: itself, but for models of vectors (`paradigms.standardise`)."""
        return self

    def to_core(self, x: Tensor) -> Tensor:
        """Data (B, *shape) in the units of `core`."""
        return x

    def from_core(self, z: Tensor) -> Tensor:
        """What `core` makes (B, *shape), in the units of the data."""
        return z

    def symptom(self, terms: Mapping[str, float]) -> str | None:
        """What the terms of the log say is wrong with the model, in words for the user; None when nothing is.

        terms: means of `Update.terms` over the last part of the training. Collapse of samples or of a latent shows
        there long before a score does.
        """
        return None


class Frozen:
    """A trained parent held by a child: its averaged weights, in eval mode, without gradients.

    images: the examples that it was trained on, repetitions counted: what its training cost, whatever the budget is in.
    Not a Module on purpose: a child that stores it does not train, average or save it.
    """

    def __init__(self, model: Trainable, images: int = 0) -> None:
        self.model: Any = model.eval().requires_grad_(False)
        self.images = images


# -------------------------------------------------------------------------------------------- sampling, likelihood


Setting = float | str


def settings_text(options: Iterable[tuple[str, Setting]], between: str = ",") -> str:
    """Options as they are written everywhere: name=value,..."""
    return between.join(f"{k}={v}" if isinstance(v, str) else f"{k}={v:g}" for k, v in options)


class _Options:
    """What plans and kinds of likelihood share: options by name, numbers or words."""

    options: tuple[tuple[str, Setting], ...]

    def settings(self) -> dict[str, Setting]:
        """Every option that is set, by name."""
        return dict(self.options)

    def option(self, name: str, default: float) -> float:
        """A number. Raises TypeError for a word."""
        value = self.settings().get(name, default)
        if isinstance(value, str):
            raise TypeError(f"{name} is a number, not '{value}'")
        return value

    def word(self, name: str, default: str) -> str:
        return str(self.settings().get(name, default))

    def numbers(self, name: str, default: tuple[float, ...]) -> tuple[float, ...]:
        """A list of numbers written 0.8/0.4; `default` for a word in its place."""
        value = dict(self.options).get(name, "")
        try:
            return tuple(float(v) for v in str(value).split("/"))
        except ValueError:
            return default


@dataclass(frozen=True)
class Plan(_Options):
    """How to draw: a sampler of the card, its number of steps, and its options by name."""

    sampler: str
    steps: int = 1
    options: tuple[tuple[str, Setting], ...] = ()

    def __str__(self) -> str:
        return f"{self.sampler}-{self.steps}" + (f" {settings_text(self.options, ' ')}" if self.options else "")


def check_settings(
    name: str,
    given: Iterable[tuple[str, Setting]],
    ranges: Mapping[str, tuple[float, float]],
    choices: Mapping[str, tuple[str, ...]],
) -> None:
    """Raises BadInput for a word that is no choice, or a number outside its range; two ints: whole numbers only."""
    for key, value in given:
        if key in choices:
            if value not in choices[key]:
                raise BadInput(
                    f"{name} takes {key} from {', '.join(choices[key])}; not {settings_text([('', value)])[1:]}"
                )
            continue
        if isinstance(value, str):
            raise BadInput(f"{name} takes a number for {key}, not '{value}'")
        low, high = ranges.get(key, (-math.inf, math.inf))
        whole = isinstance(low, int) and isinstance(high, int)
        if not low <= value <= high or (whole and value != int(value)):
            what = f"whole numbers {key} from {low:,} to {high:,}" if whole else f"{key} from {low:g} to {high:g}"
            raise BadInput(f"{name} takes {what}, not {value:g}")


@dataclass(frozen=True)
class Sampler:
    """A sampler's claims, held by the tests.

    steps:      the step counts that a sweep tries.
    calls:      (a, b): network calls = a * steps + b, options at their defaults. None: adaptive, known only by counting.
    order:      of the numerical method, where it has one.
    stochastic: draws noise beyond the prior.
    options:    what `Plan.options` may hold, with defaults; `ranges` the numbers that each may take, both ends included
                (two ints: whole numbers only), `choices` the words.
    beside:     options that act only where another one is not at its default, and that one.
    falling:    options that are lists of falling numbers strictly within a range, one for each step after the first,
                written 0.8/0.4; their default is a word.
    most:       the largest number of steps.
    main:       tried at every step count in a short sweep; the others only in a full one.
    """

    name: str
    steps: tuple[int, ...]
    calls: tuple[int, int] | None = (1, 0)
    order: int | None = None
    stochastic: bool = False
    options: Mapping[str, Setting] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)
    falling: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    note: str = ""
    most: int = 100_000
    main: bool = True

    def check(self, plan: Plan) -> None:
        """Raises BadInput when the plan asks for what this sampler does not have."""
        if self.steps == (1,) and plan.steps != 1:
            raise BadInput(f"{self.name} takes no number of steps; leave it out")
        if not 1 <= plan.steps <= self.most:
            raise BadInput(f"{self.name} takes 1 to {self.most:,} steps, not {plan.steps}")
        for name, _ in plan.options:
            if name not in self.options:
                raise unknown(f"option of {self.name}", name, self.options)
        lists = [(name, value) for name, value in plan.options if name in self.falling]
        for name, value in lists:
            if value != self.options[name]:
                self._check_falling(plan, name, value)
        check_settings(self.name, (o for o in plan.options if o not in lists), self.ranges, self.choices)

    def _check_falling(self, plan: Plan, name: str, value: Setting) -> None:
        low, high = self.falling[name]
        numbers = plan.numbers(name, ())
        given = f"{name}={settings_text([('', value)])[1:]}"
        if not numbers:
            raise BadInput(f"{self.name} takes {name} written 0.8/0.4, or {self.options[name]}; not {given}")
        if len(numbers) != plan.steps - 1:
            raise BadInput(
                f"{given} is for {len(numbers) + 1} steps, not {plan.steps}; give one for each after the first"
            )
        if not all(a > b for a, b in pairwise((high, *numbers, low))):
            raise BadInput(f"{self.name} takes falling {name} between {low:g} and {high:g}; not {given}; sort them")

    def calls_at(self, steps: int) -> int | None:
        return None if self.calls is None else self.calls[0] * steps + self.calls[1]


@dataclass(frozen=True)
class Kind(_Options):
    """A kind of likelihood a paradigm can compute.

    relation:    how the printed negative log-likelihood stands to the model's own: "=" exact, "≤" the true one is at most
                 this (a bound), "≈" an estimate.
    calls:       network calls per image it spends, so that a tier can choose what it can afford.
    dequantised: a density of continuous data, so on data with levels an exact one still only bounds the mass.
    levels_only: it says nothing new of data without levels, so there it is not asked for.
    ranges:      the numbers that each option may take, both ends included; two ints: whole numbers only.
    choices:     the words that an option may be.
    defaults:    options that are only spoken of where they are given.
    """

    name: str
    relation: str
    calls: int
    options: tuple[tuple[str, Setting], ...] = ()
    dequantised: bool = False
    note: str = ""
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict, hash=False)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    defaults: Mapping[str, Setting] = field(default_factory=dict, hash=False)
    levels_only: bool = False

    def settings(self) -> dict[str, Setting]:
        """Every option by name, defaults among them."""
        return {**self.defaults, **dict(self.options)}

    def check(self) -> None:
        """Raises BadInput when an option is outside its range, or no choice."""
        check_settings(self.name, self.options, self.ranges, self.choices)

    def relation_on(self, space: Space) -> str:
        """The relation on this kind of data."""
        return "≤" if self.relation == "=" and self.dequantised and space.levels else self.relation

    def __str__(self) -> str:
        return f"{self.name}({settings_text(self.options)})" if self.options else self.name


@dataclass(frozen=True)
class Estimate:
    """A log-likelihood, nats per example, (B,), with named parts and named errors (each (B,))."""

    value: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    errors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """What a paradigm says of itself, as data. `default` is the headline plan, named before any score is seen."""

    title: str
    paper: str
    year: int
    url: str
    samplers: tuple[Sampler, ...]
    default: Plan
    likelihoods: tuple[Kind, ...] = ()
    no_likelihood: str = ""

    def sampler(self, name: str) -> Sampler | None:
        return next((s for s in self.samplers if s.name == name), None)

    def likelihoods_on(self, space: Space) -> tuple[Kind, ...]:
        """The kinds of likelihood that say something of such data."""
        return tuple(kind for kind in self.likelihoods if space.levels or not kind.levels_only)


class Paradigm(Trainable):
    """A way of learning to generate. Every subclass is final."""

    card: Card

    @abstractmethod
    def prior(self, n: int, noise: Noise) -> Tensor:
        """n draws of z, the noise that `sample` starts from."""

    @abstractmethod
    def sample(
        self,
        z: Tensor,
        plan: Plan,
        noise: Noise,
        cond: Tensor | None = None,
        watch: Callable[[float, Tensor], None] | None = None,
    ) -> Tensor:
        """Samples (B, *shape) from prior draws z. `watch(t, x_t)` sees the intermediate states where there are any."""

    def check(self, plan: Plan) -> None:
        """Raises BadInput when this model, as it was trained, can not draw by a plan that its card offers."""

    def log_likelihood(self, x: Tensor, kind: Kind, noise: Noise, cond: Tensor | None = None) -> Estimate:
        """Log-likelihood of bin-centred (or real) x (B, *shape): a log mass on data with levels, else a log density."""
        raise NotImplementedError(self.card.no_likelihood)


@runtime_checkable
class Denoises(Protocol):
    """What a model needs of its teacher: all that it knows of noised data, and the network behind it, to start from."""

    net: nn.Module

    def denoiser(self, cond: Tensor | None = None) -> Denoiser: ...


@runtime_checkable
class Jumps(Protocol):
    """What a model of few steps makes of noised data x_t = alpha x + sigma eps: where the path through it ends."""

    path: GaussianPath

    def jump_to_data(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class Codec(Protocol):
    """What a model of codes needs of its first stage: q(z | x) = N(mu, sd^2), and p(x | z).

    space, latent: of x and of z. law: p(x | z), given what `decode` makes of z.
    """

    space: Space
    latent: Space
    law: Observation

    def encode(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """mu and log sd, each (B, *latent.shape)."""
        ...

    def decode(self, z: Tensor, cond: Tensor | None = None) -> Tensor: ...


# --------------------------------------------------------------------------------------------------------- recipes


@dataclass(frozen=True)
class Need:
    """A recipe that must be trained first.

    share:       the part of a full budget that the parent is trained for.
    at_sampling: the parent's parameters are also needed to sample or for a likelihood; without it a finished child is loaded
                 by the parent's settings and buffers alone where the parent is gone.
    """

    recipe: str
    provides: type = Denoises
    share: float = 1.0
    at_sampling: bool = False


@dataclass(frozen=True)
class Recipe:
    """A row of the comparison: a paradigm, its settings, and what it needs trained first.

    share:      the part of a full budget that it is trained for.
    variant_of: the recipe that stands for this paradigm where every paradigm has one row; "" for that one itself.
    aliases:    other names it is found by.
    title:      what it is, where the card's title does not say it.
    """

    name: str
    paradigm: type[Trainable]
    config: Any
    summary: str
    needs: Mapping[str, Need] = field(default_factory=dict)
    share: float = 1.0
    variant_of: str = ""
    aliases: tuple[str, ...] = ()
    title: str = ""

    @property
    def heading(self) -> str:
        """What it is: its own title, else its card's, else the name of its class (of what does not sample)."""
        card: Card | None = getattr(self.paradigm, "card", None)
        return self.title or (card.title if card else self.paradigm.__name__)

    def build(self, space: Space, width: int, parents: Mapping[str, Frozen], config: Any = None) -> Trainable:
        """The model; of vectors one on any scale. Raises TypeError when a parent can not do what the need asks of it."""
        from paradigms.standardise import Standardised, standardised

        around = [parent.model for parent in parents.values() if isinstance(parent.model, Standardised)]
        inside = {
            role: Frozen(parent.model.core, parent.images) if parent.model in around else parent
            for role, parent in parents.items()
        }
        for role, need in self.needs.items():
            if not isinstance(inside[role].model, need.provides):
                raise TypeError(f"{self.name}: its {role} '{need.recipe}' is not a {need.provides.__name__}")
        model = self.paradigm(self.config if config is None else config, space, width, inside)
        # What stands on a model that has no such map lives in that one's units.
        fixed = space.is_image or space.levels or len(around) < len(parents)
        return model if fixed else standardised(model, around)
