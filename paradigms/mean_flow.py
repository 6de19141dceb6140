"""Mean flow: a network of the average velocity between two times, trained from scratch by an identity it must fulfil.

Model.      Along z_t = (1 - t) x + t eps with velocity v the average velocity from r to t > r is
                u(z_t, r, t) = 1 / (t - r) int_r^t v(z_s, s) ds,        so that  z_r = z_t - (t - r) u(z_t, r, t).
            A network is told z_t, t and t - r.

Objective.  The derivative of (t - r) u along the path gives the mean-flow identity (Geng et al., eq. 6)
                u = v - (t - r) du/dt,        du/dt = v dz u + dt u        (r held fixed),
            whose right side, without gradient and with the line's velocity eps - x for v, is the network's target (eq. 9-11).
            du/dt is one Jacobian-vector product. With r = t it is flow matching, of which most examples are. Each example is
            weighted by 1 / (|error|^2 + c)^p.

Sampling.   z_r = z_t - (t - r) u(z_t, r, t): from t = 1 to r = 0 in one step, or along falling times.

Likelihood. None: one step is no flow whose density could be followed.

References
    Z. Geng, M. Deng, X. Bai, J. Z. Kolter, K. He. Mean Flows for One-step Generative Modeling. NeurIPS 2025. arXiv:2505.13447

Where this differs from the paper
    - The rows of a batch with r = t are a fixed part, not drawn; only the others pay for the derivative, in a pass of its own
      without gradient.
    - The network is told times slowed down: du/dt is a target here, and multiplies what an embedding's high frequencies leave
      of noise in u. On digits, all else equal, one step's distance falls from 15 to 5.
    - No guidance, no dropout, no augmentation; times and p as tuned for short budgets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from paradigms import optim
from paradigms.backbones import bfloat16, build
from paradigms.contract import Frozen, Update
from paradigms.core.data import Batch, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Card, Plan, Sampler
from paradigms.core.settings import Settings, setting
from paradigms.diffusion import FromNoise
from paradigms.maths.likelihood import dequantise
from paradigms.maths.paths import LinearPath, expand
from paradigms.recipe import Recipe

LINEAR = LinearPath()
SLOW = 1 / 32  # of the times that the network is told: of its frequencies the highest is half a cycle then, not 16


@dataclass(frozen=True)
class Config(Settings):
    same: float = setting(0.5, least=0, below=1, says="the part of a batch with r = t")
    P_mean: float = setting(-0.6, says="mean of log (t / (1 - t)) in training")
    P_mean_r: float = setting(-4.0, says="mean of log (r / (1 - r)) in training")
    P_std: float = setting(1.6, above=0, says="standard deviation of both")
    p: float = setting(0.75, least=0, most=1, says="power in the weight")
    c: float = setting(1e-3, above=0, says="constant in the weight")
    batch: int = optim.batch(64)
    lr: float = optim.lr(2e-3)
    clip: float = optim.clip(1.0)
    backbone: str = optim.backbone("auto")


class MeanFlow(FromNoise):
    """See the module's text. `net`: (z_t, slowed (t, t - r), y) -> u."""

    eager = frozenset({"*"})  # its loss holds a forward derivative of the network
    card = Card(
        title="Mean flow",
        paper="Geng et al., Mean Flows for One-step Generative Modeling",
        year=2025,
        url="https://arxiv.org/abs/2505.13447",
        samplers=(
            Sampler(
                "mean-flow",
                (1, 2, 4, 8),
                options={"times": "even"},
                falling={"times": (0.001, 0.999)},
                note="times: between the steps",
            ),
        ),
        default=Plan("mean-flow", 1),
        no_likelihood="one step is no flow whose density could be followed",
    )

    def __init__(self, config: Config, space: Space, width: int, parents: Mapping[str, Frozen]) -> None:
        super().__init__(config, space, width, parents)
        self.net = build.denoiser(space, width, 0.0, config.backbone, times=2)
        # Group normalisation has a forward derivative in this layout only.
        self.net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    path = LINEAR

    def jump_to_data(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        return x_t - expand(t, x_t) * self.u(x_t, torch.zeros_like(t), t, cond)

    def u(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """The average velocity from r to t (B,) at z (B, ...)."""
        return self.net(z, self.told(r, t), y)

    @staticmethod
    def told(r: Tensor, t: Tensor) -> Tensor:
        """What the network is told of the times (B,): (B, 2)."""
        return SLOW * torch.stack([t, t - r], dim=1)

    @torch.no_grad()
    def derivative(self, z: Tensor, r: Tensor, t: Tensor, v: Tensor, y: Tensor | None) -> Tensor:
        """du/dt = v dz u + dt u (B, ...), by forward-mode differentiation, in float32."""
        # Fused attention has no forward derivative. (torch.func.jvp gives the same at a third more time.)
        with sdpa_kernel(SDPBackend.MATH), bfloat16(None), forward_ad.dual_level():
            # Beside a moving tensor a still one is dear, however small (twice the time on vectors): these stand at speed 0.
            still = {
                name: forward_ad.make_dual(p.detach(), torch.zeros_like(p))
                for name, p in self.net.named_parameters()
                if p.dim() == 1
            }
            moving = forward_ad.make_dual(z, v), self.told(r, forward_ad.make_dual(t, torch.ones_like(t)))
            return forward_ad.unpack_dual(functional_call(self.net, still, (*moving, y))).tangent

    def times(self, n: int, noise: Noise) -> tuple[Tensor, Tensor, int]:
        """(r, t) with r <= t (n,), and how many are different: the first ones."""
        draws = self.config.P_std * noise.normal(n, 2)
        draws = torch.sigmoid(draws + draws.new_tensor([self.config.P_mean, self.config.P_mean_r]))
        t, r = draws.amax(1), draws.amin(1)
        m = n - int(self.config.same * n)
        return torch.cat([r[:m], t[m:]]), t, m

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        x, y = dequantise(batch.x, self.space.levels, noise), batch.y
        eps = noise.normal(*x.shape)
        r, t, m = self.times(len(x), noise)
        z, v = LINEAR.perturb(x, eps, t), eps - x
        target = v.clone()
        du = self.derivative(z[:m], r[:m], t[:m], v[:m], None if y is None else y[:m])
        target[:m] -= expand(t[:m] - r[:m], x) * du
        error = (self.u(z, r, t, y) - target).square().flatten(1).sum(1)
        weight = (error.detach() + self.config.c).pow(-self.config.p)
        loss = (weight * error).mean()
        yield self.descent(loss, {"error": error.mean()}, progress)

    def sample(
        self,
        z: Tensor,
        plan: Plan,
        noise: Noise,
        cond: Tensor | None = None,
        watch: Callable[[float, Tensor], None] | None = None,
    ) -> Tensor:
        even = tuple(1 - i / plan.steps for i in range(1, plan.steps))
        times = (1.0, *plan.numbers("times", even), 0.0)
        if watch:
            watch(1.0, z)
        for t, r in pairwise(times):
            rows = z.new_tensor([r, t])[:, None].expand(2, len(z))
            z = z - (t - r) * self.u(z, rows[0], rows[1], cond)
            if watch:
                watch(r, z)
        return z


RECIPES = (
    Recipe(
        "mean-flow",
        MeanFlow,
        Config(),
        "average velocity by the mean-flow identity; one step, no teacher",
        variant_of="consistency",
    ),
)
