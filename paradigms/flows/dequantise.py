"""From integers to densities: where in its bin a pixel is put, uniformly or by a learned flow (Ho et al. 2019).

With y = x + (u - 1/2) 2/L and u ~ q(u | x) on [0, 1)^D, Jensen's inequality gives
    log P(x) >= E_q [log p(y) + D log(2/L) - log q(u | x)],     tight as q approaches the flow's own density in the bin.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paradigms.backbones.embed import Embedding
from paradigms.core.noise import Noise
from paradigms.flows import Chain, Transform
from paradigms.flows.coupling import Affine, Coupling, ImageConditioner
from paradigms.flows.linear import Mixing
from paradigms.flows.multiscale import Squeeze
from paradigms.maths.likelihood import dequantise, standard_normal_log_prob


class Dequantiser(nn.Module, ABC):
    """Puts bin-centred x (B, *shape) somewhere in its bin."""

    @abstractmethod
    def forward(self, x: Tensor, y: Tensor | None, noise: Noise) -> tuple[Tensor, Tensor]:
        """(the point, shaped as x; log q(u | x), (B,) or a scalar); y: labels."""


class Uniform(Dequantiser):
    """q = 1: anywhere in the bin alike. Real-valued data (levels = 0) stays as it is."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor, y: Tensor | None, noise: Noise) -> tuple[Tensor, Tensor]:
        return dequantise(x, self.levels, noise), x.new_zeros(())


class Variational(Dequantiser):
    """q(u | x): a conditional flow from eps ~ N(0, I) through mixings and affine couplings told of x, then a sigmoid.

    Images with even sides. It starts within 1 % of uniform, since sigmoid(1.702 eps) is nearly the normal CDF of eps.
    """

    def __init__(self, shape: tuple[int, ...], levels: int, classes: int, width: int, steps: int, bound: float) -> None:
        super().__init__()
        self.levels, c = levels, 4 * shape[0]
        emb = 2 * width if classes else 0
        self.embed = Embedding(2 * width, classes, timed=False)
        self.context = ImageConditioner(c, width, width, 1, emb)
        self.context.head.reset_parameters()  # its last layer is no coupling's
        transforms: list[Transform] = [Squeeze()]
        for _ in range(steps):
            net = Told(ImageConditioner(c // 2 + width, c, width, 0))
            transforms += [Mixing(c), Coupling(net, c // 2, Affine(bound))]
        self.flow = Chain(transforms)

    def forward(self, x: Tensor, y: Tensor | None, noise: Noise) -> tuple[Tensor, Tensor]:
        eps = noise.normal(*x.shape).to(x.dtype)
        context = self.context(F.pixel_unshuffle(x, 2), self.embed(None, y))
        v, log_det = self.flow(eps, context)
        v = 1.702 * F.pixel_shuffle(v, 2)
        log_slope = F.logsigmoid(v) + F.logsigmoid(-v) + math.log(1.702)
        log_q = standard_normal_log_prob(eps) - log_det - log_slope.flatten(1).sum(1)
        return x + (v.sigmoid() - 0.5) * (2 / self.levels), log_q


class Told(nn.Module):
    """A conditioner whose `cond` is a feature map, joined to its input's channels."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        return self.net(torch.cat([x, cond], dim=1))
