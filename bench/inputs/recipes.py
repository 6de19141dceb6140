"""Words that name recipes. Reads the names only, so that no paradigm is imported."""

from __future__ import annotations

import os
from collections.abc import Iterable

from paradigms.errors import BadInput, unknown

__all__ = ["ALL", "FAMILY", "ROWS", "SETS", "check_recipe", "is_recipe", "listed_recipes"]

# Words for sets of recipes: one recipe per paradigm, and every one. NAME+ is a recipe with its variants.
ROWS, ALL, FAMILY = "rows", "all", "+"
SETS = (ROWS, ALL)


def is_recipe(text: str) -> bool:
    """Whether a word names a recipe. Then it does so even where a file or folder has that name, which is `./word`."""
    from paradigms.catalogue import names

    return os.sep not in text and text in names()


def check_recipe(name: str, known: Iterable[str] | None = None) -> None:
    """Raises BadInput for an unknown name, before torch is imported. known: the names that there are, if read already."""
    from paradigms.catalogue import names

    known = names() if known is None else known
    if name not in known:
        raise unknown("recipe", name, known)


def listed_recipes(text: str) -> list[str]:
    """The names in a list a,b,c, in which `rows`, `all` and NAME+ stand for several. Raises BadInput for an unknown one."""
    from paradigms.catalogue import names

    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise BadInput("--recipes is empty; give recipes separated by commas, rows or all")
    known = names()
    for name in found:
        if name not in SETS:
            check_recipe(name.removesuffix(FAMILY), known)
    return found
