"""Flow matching with minibatch optimal transport: noise is assigned to the nearest examples before the paths are drawn.

Model.      As in `flow_matching`: a network u(x_t, t) that predicts the velocity of the line x_t = (1 - t) x + t eps.

Objective.  E || u(x_t, t) - (eps - x) ||^2 over pairs (x, eps) of a batch that minimise sum_i |x_i - eps_pi(i)|^2 over the
            assignments pi (Tong et al., section 3.2.3). Their lines cross less than those of independent pairs, so that the
            velocity at a point varies less and its flow is straighter. The marginals of x and eps stay as they are, which is
            all that flow matching needs.

Sampling.   The ODE dx/dt = u(x, t) from noise to data. Given x, eps is not N(0, I): u is no score, and the samplers that
            need one do not serve.

Likelihood. As in `flow_matching`, by the same ODE.

References
    A. Tong et al. Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal Transport. TMLR 2024.
        arXiv:2302.00482
    H. K. Cheng, A. Schwing. The Curse of Conditions: Analyzing and Improving Optimal Transport for Conditional Flow-Based
        Generation. ICCV 2025. arXiv:2503.10636

Where this differs from the paper
    - The assignment is made within parts of the batch: its cost grows as the cube of their size. 64 images or 20 vectors at a
      time, it takes less than a tenth of a training step.
    - It is unconditional. An assignment that does not see the labels makes the noise depend on them, y given eps is then not
      y, and a sampler that draws both independently starts outside of what was trained (Cheng & Schwing, section 3).
    - sigma = 0, the direction of time and the data are those of `flow_matching`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from paradigms.core.data import Space
from paradigms.core.plans import Card, Plan
from paradigms.core.settings import require, setting
from paradigms.diffusion import Matching, Timed
from paradigms.maths import bounds, samplers
from paradigms.maths.couplings import assign
from paradigms.maths.paths import LinearPath
from paradigms.recipe import Recipe


@dataclass(frozen=True)
class Config(Timed):
    coupled: int = setting(0, least=0, says="examples among which the noise is assigned; 0: 64 images or 20 vectors")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.coupled != 1, "coupled must be 0, or 2 or more: how many the noise is shared by")


class OTFlowMatching(Matching):
    """The linear path between examples and the noise that is assigned to them."""

    card = Card(
        title="Flow matching (minibatch optimal transport)",
        paper="Tong et al., Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal Transport",
        year=2024,
        url="https://arxiv.org/abs/2302.00482",
        samplers=samplers.ode_samplers(main=("euler", "heun", "rk45")),
        default=Plan("heun", 16),
        likelihoods=bounds.kinds(diffusion=False),
    )
    config: Config
    path = LinearPath()

    @staticmethod
    def refuses(config: Config, space: Space) -> str | None:
        if space.classes:
            return (
                "an optimal transport that does not see the labels makes the noise depend on them, while sampling draws "
                "it independently (arXiv:2503.10636); train it without labels, or use flow-matching"
            )
        return None

    def couple(self, x: Tensor, eps: Tensor) -> Tensor:
        return eps[assign(x, eps, self.config.coupled or (64 if self.space.is_image else 20))]


RECIPES = (
    Recipe(
        "ot-flow-matching", OTFlowMatching, Config(),
        "noise assigned to examples by optimal transport; unconditional",
        variant_of="flow-matching", aliases=("ot-cfm",),
    ),
)  # fmt: skip
