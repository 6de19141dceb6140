"""A backbone of one's own in one file: a plain network of two layers, for `--set backbone=tiny`.

[project.entry-points."paradigms.backbones"]
mine = "my_package.my_backbone"
"""

import torch
from torch import nn

from paradigms.backbones.networks import Networks


class Tiny(nn.Module):
    """(x (B, *shape), t (B,) or (B, times), y (B,) or None) -> (B, outputs * C, ...). Any module will do."""

    def __init__(self, space, width, dropout, outputs, times):
        super().__init__()
        self.shape = (outputs * space.shape[0], *space.shape[1:])
        self.embed = nn.Embedding(space.classes, width) if space.classes else None
        self.inside = nn.Linear(space.dim + times, width)
        self.outside = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, outputs * space.dim))

    def forward(self, x, t, y=None):
        h = self.inside(torch.cat([x.flatten(1), t.view(len(x), -1)], 1))
        if self.embed is not None:
            h = h + self.embed(y)
        return self.outside(h).view(-1, *self.shape)


BACKBONES = (Networks("tiny", title="two layers, whatever the data", denoiser=Tiny),)
