"""Flow matching: regress the velocity of simple paths from data to noise, and follow it back.

Model.      A network u(x_t, t) that predicts the velocity of a path x_t = alpha_t x + sigma_t eps from data x (t = 0) to
            noise eps ~ N(0, I) (t = 1), dx_t/dt = alpha' x + sigma' eps. On the linear path x_t = (1 - t) x + t eps that is
            eps - x, a constant along each line. Diffusions are other paths: the VP SDE's, and the cosine one, which runs
            along a circle.

Objective.  Conditional flow matching (Lipman et al., eq. 9; Liu et al., eq. 1):
                E_{t, x, eps} || u(x_t, t) - (alpha' x + sigma' eps) ||^2,      t ~ U(0, 1) or more where it is hard.
            The minimiser is the mean velocity given x_t, whose flow carries the marginals p_t into each other. That holds for
            any coupling of x and eps with the right marginals; here they are independent (others: `ot_flow_matching`,
            `rectified_flow`).

Sampling.   Solve dx/dt = u(x, t) from x_1 = z ~ N(0, I) down to t = 0, by Euler, Heun, or an adaptive method. As x and eps
            are independent, u gives the score too, and every other sampler of a Gaussian path serves as well:
            `maths.samplers`.

Likelihood. The same ODE run from data to noise: log p(x) = log N(x_1; 0, I) + int_0^1 div u dt (Chen et al. 2018), with the
            exact trace or Hutchinson's: `maths.bounds`.

References
    Y. Lipman, R. Chen, H. Ben-Hamu, M. Nickel, M. Le. Flow Matching for Generative Modeling. ICLR 2023. arXiv:2210.02747
    X. Liu, C. Gong, Q. Liu. Flow Straight and Fast: Rectified Flow. ICLR 2023. arXiv:2209.03003
    M. Albergo, E. Vanden-Eijnden. Building Normalizing Flows with Stochastic Interpolants. ICLR 2023. arXiv:2209.15571

Where this differs from the papers
    - Time runs the other way than in Lipman et al.: here t = 0 is data.
    - sigma_min = 0, as in rectified flow. Trained on uniformly dequantised pixels, whose density is what its likelihood
      measures; samples are rounded to the levels by whoever scores them.
    - The VP path, whose velocity has no bound at t = 0, ends at a tenth of a bin of noise; Lipman et al. at t = 1e-5. Its prior
      is N(0, sigma(1)^2 I), of variance 1 - 4e-5 for their 1, and its likelihood is of x: D log alpha(t_min) is added to the
      density of alpha x, -7e-5 nats a dimension on digits.
    - The whole of [0, 1] is trained and solved. Rectified flow's code leaves out the 1e-3 next to the noise: it trains on
      t <= 0.999 and starts its ODE there, from the noise of t = 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from paradigms.contract import Frozen
from paradigms.core.data import Space
from paradigms.core.plans import Card, Plan
from paradigms.diffusion import Matching, Timed
from paradigms.maths import bounds, samplers
from paradigms.maths.paths import CosinePath, LinearPath, VPPath
from paradigms.recipe import Recipe

FLOOR = 0.1  # noise at the end of the VP path, in bin widths (images) or twentieths (vectors)


CARD = Card(
    title="Flow matching (linear path)",
    paper="Lipman et al., Flow Matching for Generative Modeling; Liu et al., Rectified Flow",
    year=2023,
    url="https://arxiv.org/abs/2210.02747",
    samplers=samplers.offered(free=True, main=("euler", "heun", "rk45")),
    default=Plan("heun", 16),
    likelihoods=bounds.kinds(diffusion=False),
)


class FlowMatching(Matching):
    """Noise drawn independently, the linear path."""

    card = CARD
    path = LinearPath()


class CosineFlowMatching(Matching):
    """The path along a circle, alpha = cos and sigma = sin of (pi / 2) t."""

    card = replace(
        CARD,
        title="Flow matching (cosine path)",
        paper="Albergo & Vanden-Eijnden, Building Normalizing Flows with Stochastic Interpolants",
        url="https://arxiv.org/abs/2209.15571",
    )
    path = CosinePath()


class VPFlowMatching(Matching):
    """The path of the VP SDE. Its ODE is solved in coordinates whose velocity is bounded."""

    card = replace(
        CARD,
        title="Flow matching (VP path)",
        paper="Lipman et al., Flow Matching for Generative Modeling",
        samplers=samplers.offered(grid="cosine", on="cosine", main=("euler", "heun", "rk45")),
        likelihoods=bounds.kinds(on="cosine"),
    )
    path = VPPath()

    def __init__(self, config: Timed, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        lowest = torch.tensor(FLOOR * space.bin, dtype=torch.float64)
        self.t_min = float(self.path.time_of_log_snr(2 * (torch.sqrt(1 - lowest.square()) / lowest).log()))


RECIPES = (
    Recipe("flow-matching", FlowMatching, Timed(), "velocity regression on straight paths; ODE sampling"),
    Recipe("flow-matching-cosine", CosineFlowMatching, Timed(), "the path along a circle", variant_of="flow-matching"),
    Recipe("flow-matching-vp", VPFlowMatching, Timed(), "the path of the VP SDE", variant_of="flow-matching"),
)
