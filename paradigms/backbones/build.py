"""Which network of a backbone a space calls for. All recipes on one data set draw on the same sizes and blocks.

A backbone is one file of this folder with `BACKBONES` at its foot, or comes from another package:

    [project.entry-points."paradigms.backbones"]
    my-net = "my_package.my_net"                # a module with BACKBONES
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from torch import nn

from paradigms.backbones import Backbone
from paradigms.backbones.networks import Network, Networks
from paradigms.core.data import Space
from paradigms.errors import BadInput
from paradigms.plugins import Door, foreign_file

__all__ = ["DOOR", "convolutional", "decoder", "denoiser", "encoder", "known", "plugin_files"]

DOOR = Door(
    "paradigms.backbones",
    "BACKBONES",
    "Networks",
    "paradigms.backbones.networks",
    "paradigms.backbones",
    frozenset({"build", "networks"}),
    frozenset({"name", "title", "source"}),
)


def known() -> Mapping[str, Networks]:
    """By name every backbone, ours and those of other packages."""
    return _known(tuple(sys.path), DOOR.points())


@lru_cache(maxsize=4)
def _known(path: tuple[str, ...], points: tuple[EntryPoint, ...]) -> Mapping[str, Networks]:
    return DOOR.known()


def plugin_files(config: Any) -> set[Path]:
    """The files of other packages that make the networks of a recipe with these settings, a config or a mapping."""
    settings = config if isinstance(config, Mapping) else getattr(config, "__dict__", {})
    found = known().get(str(settings.get("backbone", "auto")))
    made = (found.denoiser, found.encoder, found.decoder) if found else ()
    own = {file for one in made if one is not None and (file := foreign_file(one)) is not None}
    inner = settings.get("inner")
    return own | (plugin_files(inner) if inner is not None else set())


def convolutional(space: Space, backbone: str) -> bool:
    """Whether a space is modelled by our convolutions: images, unless another backbone is asked for."""
    return space.is_image and backbone == "auto"


def denoiser(
    space: Space, width: int, dropout: float = 0.0, backbone: str = "auto", outputs: int = 1, times: int = 1
) -> Backbone:
    """(x_t (B, *shape), t (B,), y) -> (B, *shape): a U-Net on images, a residual MLP on vectors (or on request).

    outputs: how many numbers for each of x's, stacked along the first axis. times: how many times it is told, t (B, times)
    where there are several. Raises BadInput where the backbone has no such network, or none for this space.
    """
    return _made("denoiser", backbone, space, width, dropout, outputs, times)


def encoder(
    space: Space,
    dout: int,
    width: int,
    dropout: float = 0.0,
    backbone: str = "auto",
    plain: bool = False,
    depth: int = 1,
) -> Backbone:
    """(x (B, *shape), y) -> (B, dout). plain: no normalisation, labels by projection, as a critic wants.

    Raises BadInput as `denoiser` does.
    """
    return _made("encoder", backbone, space, dout, width, dropout, plain, depth)


def decoder(
    space: Space,
    din: int,
    cout: int,
    width: int,
    dropout: float = 0.0,
    backbone: str = "auto",
    plain: bool = False,
    depth: int = 1,
) -> Backbone:
    """(z (B, din), y) -> (B, cout * C, ...): `cout` numbers for each number of x, stacked along the first axis.

    Raises BadInput as `denoiser` does.
    """
    return _made("decoder", backbone, space, din, cout, width, dropout, plain, depth)


def _made(role: str, backbone: str, space: Space, *sizes: Any) -> Backbone:
    found = known()[backbone]
    make = getattr(found, role)
    if make is None:
        roles = [name for name in ("denoiser", "encoder", "decoder") if getattr(found, name) is not None]
        raise BadInput(f"backbone '{backbone}' makes no {role}, only {' and '.join(roles)}; choose another backbone")
    if (reason := found.refuses(space)) is not None:
        raise BadInput(f"backbone '{backbone}' is not for such data: {reason}; choose another backbone")
    net: nn.Module = make(space, *sizes)
    return net if isinstance(net, Backbone) else Network(net)
