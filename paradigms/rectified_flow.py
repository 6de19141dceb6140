"""Rectified flow: train a flow anew on the pairs that a trained one makes, and its paths come out straighter.

Model.      A trained flow (the parent) carries noise z to x along its ODE, one x for each z. The same kind of network is
            trained on lines between these pairs, x_t = (1 - t) x + t z, and starts from the parent's weights. The first
            reflow turns flow matching into a 2-rectified flow, another into a 3-rectified one. Where paths are straight
            one step is enough, and a map from z to x can be distilled.

Objective.  Reflow (Liu et al., eq. 1 with the coupling of section 2.1):  E_{t, (z, x)} || u(x_t, t) - (z - x) ||^2.
            Its flow has the same marginals, transport costs that are no larger for any convex cost (theorem 3.5), and if
            repeated paths that become straight (theorem 3.7). Distillation (section 2.3): the same at t = 1 alone,
                E_{(z, x)} || u(z, 1) - (z - x) ||^2.

Sampling.   The ODE as in flow matching, in few steps; distilled, x = z - u(z, 1).

Likelihood. That of the reflowed ODE; the distilled map has none.

References
    X. Liu, C. Gong, Q. Liu. Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow. ICLR 2023.
        arXiv:2209.03003
    S. Lee, Z. Lin, G. Fanti. Improving the Training of Rectified Flows. NeurIPS 2024. arXiv:2405.20320

Where this differs from the papers
    - Time runs the other way than in Liu et al.: here t = 0 is data.
    - Pairs are drawn once, by Heun's method (they take adaptive RK45), and as many as `drawing` pays for: a part of what the
      parent's training cost, a step of training being three calls of the network. Both papers draw without limit.
    - Distilled with the squared error in place of LPIPS, which knows other data than these.
    - The whole of [0, 1] is trained and solved, and distilled at t = 1. Their code leaves out the 1e-3 next to the noise: it
      trains on t <= 0.999 and asks at 0.999 first, with the noise of t = 1.
    - z and x of a pair are not independent, so E[z | x_t] is no score and only solvers of the ODE are offered.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from paradigms import optim
from paradigms.contract import Frozen, Update
from paradigms.core.data import Batch, Data, Pairs, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Card, Plan, Sampler
from paradigms.core.settings import Settings, setting
from paradigms.diffusion import Diffusion, FromNoise
from paradigms.errors import BadInput
from paradigms.maths import bounds, samplers
from paradigms.maths.denoiser import Denoiser, Velocity
from paradigms.maths.paths import LinearPath
from paradigms.maths.times import TIMES
from paradigms.recipe import Need, Recipe

TRAINING = 3  # calls of the network that a training step costs for each example: one forward, two of it backward
CHUNK = 256  # pairs drawn at a time
ODE = samplers.ode_samplers(main=("euler", "heun", "rk45"))


@dataclass(frozen=True)
class Config(Settings):
    drawing: float = setting(
        0.25,
        above=0,
        most=10,
        says="most that drawing the pairs may cost, as a part of what the parent's training cost",
    )
    steps: int = setting(8, least=1, says="Heun steps by which a pair is drawn")
    most: int = setting(200_000, least=1, says="pairs at most")
    times: str = setting("uniform", among=TIMES, says="density of t in training; no effect on a distilled map")
    batch: int = optim.batch(64)
    lr: float = optim.lr(1e-3)
    weight_decay: float = optim.weight_decay(0.0)
    clip: float = optim.clip(1.0)

    def pairs(self, images: int) -> int:
        """How many pairs are drawn from a parent that was trained on so many examples: at least a batch."""
        calls = 2 * self.steps
        return max(self.batch, min(self.most, int(self.drawing * TRAINING * images / calls)))


class Rectified(FromNoise):
    """What both share. `net`: (x_t, t, y) -> u, at first the parent's."""

    def __init__(self, config: Config, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.parent = parents["parent"]
        d = self.parent.model.denoiser()
        if d.path != LinearPath() or d.prediction != Velocity():
            raise BadInput(
                f"a rectified flow goes on from a velocity along {LinearPath()}; its parent predicts "
                f"{type(d.prediction).__name__} along {d.path}: name flow-matching, or a flow made from it"
            )
        if self.parent.model.space != space:
            raise BadInput(
                f"the parent of a rectified flow models {self.parent.model.space} and not {space}; train one on this data"
            )
        self.net = copy.deepcopy(self.parent.model.net).requires_grad_(True)

    @torch.no_grad()
    def prepare(self, data: Data, noise: Noise) -> Data:
        """Pairs (x, z) that the parent's ODE makes, with labels as frequent as in the data."""
        n, plan = self.config.pairs(self.parent.images), Plan("heun", self.config.steps)
        y = None
        if self.space.classes:
            assert data.y is not None
            y = data.y[noise.at("labels").integers(len(data), n).to(data.y.device)]
        xs, zs = [], []
        for first in range(0, n, CHUNK):
            rows = noise.at("pairs").rows(first)
            z = rows.normal(min(CHUNK, n - first), *self.space.shape)
            d = self.parent.model.denoiser(None if y is None else y[first : first + CHUNK])
            xs.append(samplers.sample(ODE, d, z, plan, rows))
            zs.append(z)
        return Data(torch.cat(xs), y, replace(self.space, levels=0), torch.cat(zs))

    @abstractmethod
    def loss(self, x: Tensor, z: Tensor, y: Tensor | None, noise: Noise) -> Tensor:
        """Of pairs x, z (B, ...)."""

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        if not isinstance(batch, Pairs):
            raise TypeError("a rectified flow trains on the pairs that `prepare` draws")
        yield self.descent(self.loss(batch.x, batch.z, batch.y, noise), {}, progress)


class Reflow(Rectified, Diffusion):
    """A flow on straightened paths."""

    card = Card(
        title="Rectified flow (reflow)",
        paper="Liu et al., Flow Straight and Fast: Rectified Flow",
        year=2023,
        url="https://arxiv.org/abs/2209.03003",
        samplers=ODE,
        default=Plan("euler", 4),
        likelihoods=bounds.kinds(diffusion=False),
    )

    def loss(self, x: Tensor, z: Tensor, y: Tensor | None, noise: Noise) -> Tensor:
        t = TIMES[self.config.times].quantile(noise.uniform(len(x)))
        return (self.net(LinearPath().perturb(x, z, t), t, y) - (z - x)).square().mean()

    def denoiser(self, cond: Tensor | None = None) -> Denoiser:
        """x0 and eps are the ends of the line that u points along: means given x_t, of a coupling that is not independent."""
        return Denoiser(self.net, LinearPath(), Velocity(), y=cond)


class Distilled(Rectified):
    """A map from noise to data in one step."""

    noiseless = True  # the end of a pair is a function of its start
    card = Card(
        title="Rectified flow (distilled)",
        paper="Liu et al., Flow Straight and Fast: Rectified Flow",
        year=2023,
        url="https://arxiv.org/abs/2209.03003",
        samplers=(Sampler("one-step", (1,), note="x = z - u(z, 1)"),),
        default=Plan("one-step", 1),
        no_likelihood="a distilled map defines samples, not a density",
    )

    def loss(self, x: Tensor, z: Tensor, y: Tensor | None, noise: Noise) -> Tensor:
        return (self.net(z, z.new_ones(len(z)), y) - (z - x)).square().mean()

    def sample(
        self,
        z: Tensor,
        plan: Plan,
        noise: Noise,
        cond: Tensor | None = None,
        watch: Callable[[float, Tensor], None] | None = None,
    ) -> Tensor:
        if watch:
            watch(1.0, z)
        x = z - self.net(z, z.new_ones(len(z)), cond)
        if watch:
            watch(0.0, x)
        return x


RECIPES = (
    Recipe(
        "reflow", Reflow, Config(), "2-rectified flow, on pairs drawn from flow-matching",
        needs={"parent": Need("flow-matching")}, variant_of="flow-matching", aliases=("rectified-flow",),
    ),
    Recipe(
        "reflow-3", Reflow, Config(), "3-rectified flow, on pairs drawn from reflow",
        needs={"parent": Need("reflow")}, variant_of="flow-matching", title="Rectified flow (two reflows)",
    ),
    Recipe(
        "reflow-distilled", Distilled, Config(), "reflow distilled to one step",
        needs={"parent": Need("reflow")}, variant_of="flow-matching",
    ),
    Recipe(
        "reflow-equal-total", Reflow, Config(), "reflow and its parent on one budget, half each",
        needs={"parent": Need("flow-matching", share=0.5)}, share=0.5, variant_of="flow-matching",
        title="Rectified flow (reflow), equal total",
    ),
    Recipe(
        "reflow-distilled-equal-total", Distilled, Config(),
        "flow matching on half of one budget, reflow and its distillation on a quarter each",
        needs={"parent": Need("reflow-equal-total", share=0.25)}, share=0.25, variant_of="flow-matching",
        title="Rectified flow (distilled), equal total",
    ),
)  # fmt: skip
