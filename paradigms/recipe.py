"""A recipe: a paradigm with its settings and what it needs trained first, and how its model is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from paradigms.backbones import mark_networks
from paradigms.contract import Denoises, Frozen, Trainable
from paradigms.core.data import Space
from paradigms.core.plans import Card
from paradigms.standardise import Standardised, standardised

__all__ = ["Need", "Recipe"]


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
        around = [parent.model for parent in parents.values() if isinstance(parent.model, Standardised)]
        inside = {
            role: Frozen(parent.model.core, parent.images) if parent.model in around else parent
            for role, parent in parents.items()
        }
        for role, need in self.needs.items():
            if not isinstance(inside[role].model, need.provides):
                raise TypeError(f"{self.name}: its {role} '{need.recipe}' is not a {need.provides.__name__}")
        model = self.paradigm(self.config if config is None else config, space, width, inside)
        mark_networks(model)
        # What stands on a model that has no such map lives in that one's units.
        fixed = space.is_image or space.levels or len(around) < len(parents)
        return model if fixed else standardised(model, around)
