"""A paradigm of one's own in one file: every coordinate is drawn by itself, from a normal of its own.

Model. x = mean + exp(log_std) z with z ~ N(0, I), a mean and a spread for each coordinate.

Objective. The mean negative log-likelihood of dequantised examples.

Sampling. One pass of the network over noise, whose size is the option `temperature`.

Likelihood. The density is a product of normals; of integers, a bound on the mass of their bin by dequantisation.

A package adds the file by an entry point in its pyproject.toml, and every command knows the recipe from then on:

    [project.entry-points."paradigms.recipes"]
    mine = "my_package.my_paradigm"
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from paradigms.backbones import Backbone
from paradigms.contract import Paradigm, Update
from paradigms.core.plans import Card, Estimate, Kind, Plan, Sampler
from paradigms.core.settings import Settings, setting
from paradigms.maths.likelihood import dequantise, log_mass, normal_log_prob
from paradigms.recipe import Recipe


@dataclass(frozen=True)
class Config(Settings):
    """What `--set` can change and `bench list settings` shows: the default, the range and the meaning of each field."""

    batch: int = setting(64, least=1, says="examples a step")
    lr: float = setting(0.01, above=0, says="learning rate of Adam")


class Affine(Backbone):
    """z (B, D) -> x (B, D). A Backbone is a network, whose calls are counted."""

    def __init__(self, dim, width):
        super().__init__()
        self.mean, self.log_std = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        # The suite chooses `width` so that all models have as many parameters. A network proper makes its layers of it.
        self.idle = nn.Parameter(torch.zeros(width))

    def forward(self, z):
        return self.mean + self.log_std.exp() * z


class IndependentNormals(Paradigm):
    idle = frozenset({"net.idle"})  # else a parameter that no gradient reaches is a fault
    # What it claims, as data: tests and tables read it.
    card = Card(
        title="Independent normals",
        paper="none",
        year=1809,
        url="https://example.org",
        samplers=(
            # One step, which calls the network 0 times for each step and once more.
            Sampler("push", (1,), calls=(0, 1), options={"temperature": 1.0}, ranges={"temperature": (0.0, 2.0)}),
        ),
        default=Plan("push"),
        # Of examples with levels, one draw of the dequantisation gives a bound, and the mean of K draws another.
        likelihoods=(Kind("exact", "≤", 0), Kind("mean", "≤", 0, (("K", 8),), ranges={"K": (1, 100_000)})),
    )

    def __init__(self, config, space, width, parents):
        super().__init__(config, space, width, parents)
        self.net = Affine(space.dim, width)

    def optimizers(self):
        return {self.net: torch.optim.Adam(self.net.parameters(), self.config.lr)}

    def updates(self, batch, progress, noise):
        """One loss a step: the trainer takes it down and comes back. A GAN would yield two."""
        x = dequantise(batch.x, self.space.levels, noise)  # all that is random is drawn from `noise`
        loss = -self._log_density(x).mean() + 0 * self.net.idle.sum()
        # A product of matrices, as networks have: the budget is counted in them.
        loss = loss + 0 * (x.flatten(1) @ x.flatten(1).T).mean()
        yield Update(self.net, loss, {"loss": loss})

    def symptom(self, terms):
        """What the last line of the log shows to be wrong, in words; it may be left out."""
        return "blind to neighbours: every pixel is drawn alone" if terms["loss"] > 0 else None

    def _log_density(self, x):
        return normal_log_prob(x.flatten(1), self.net.mean, self.net.log_std).sum(1)

    def prior(self, n, noise):
        return noise.normal(n, *self.space.shape)

    def sample(self, z, plan, noise, cond=None, watch=None):
        return self.net(plan.option("temperature", 1.0) * z.flatten(1)).view(z.shape)

    def log_likelihood(self, x, kind, noise, cond=None):
        """Nats of each example (B,)."""
        draws = [dequantise(x, self.space.levels, noise) for _ in range(int(kind.option("K", 1)))]
        log = torch.stack([log_mass(self._log_density(draw), self.space) for draw in draws]).mean(0)
        return Estimate(log)


RECIPES = (Recipe("independent-normals", IndependentNormals, Config(), "a normal for each coordinate"),)
