"""Spectral normalisation: a network each of whose linear maps stretches nothing by more than 1 (arXiv:1802.05957).

The largest singular value is tracked by power iteration whose vectors are buffers. They move only when
`power_iteration` is called, so that a forward pass has no side effects.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

FIRST = 15  # power iterations at the start: random vectors know nothing of the weight


class Spectral(nn.Module):
    """W -> W / sigma(W), sigma(W) = u^T W v (Miyato et al. 2018, eq. 19), W any weight as a matrix (rows, rest).

    u and v are constants to the gradient, as in the paper, which is then that of eq. 10.
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)
        self.register_buffer("u", F.normalize(torch.randn_like(matrix[:, 0]), dim=0))
        self.register_buffer("v", torch.zeros_like(matrix[0]))
        for _ in range(FIRST):
            self.iterate(matrix)

    @torch.no_grad()
    def iterate(self, weight: Tensor) -> None:
        """One step of the power method (Algorithm 1): v <- W^T u, u <- W v, each at length 1."""
        matrix = weight.detach().flatten(1)
        self.v.copy_(F.normalize(matrix.T @ self.u, dim=0))
        self.u.copy_(F.normalize(matrix @ self.v, dim=0))

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            return weight / torch.dot(self.u, weight.flatten(1) @ self.v)


def normalise(net: nn.Module) -> None:
    """Puts every linear map, convolution and label embedding of `net` under spectral normalisation, in place.

    Their weights start Glorot-uniform, as the paper's: a weight at zero has no direction to normalise.
    """
    for module in list(net.modules()):
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
            nn.init.xavier_uniform_(module.weight)
            parametrize.register_parametrization(module, "weight", Spectral(module.weight))


def power_iteration(net: nn.Module) -> None:
    """One step for every normalised weight of `net`: to be called once after each optimizer step."""
    for module in net.modules():
        if isinstance(module, parametrize.ParametrizationList):
            for spectral in module:
                spectral.iterate(module.original)  # type: ignore[operator]
