"""For authors of plug-ins: the conformance checks that our own recipes are held to, small models, and perfect networks.

`bench check NAME` runs the checks; in tests of one's own

    from paradigms.testing import check_recipe

    def test_my_model_keeps_the_contract():
        assert all(not result.problem for result in check_recipe(my_module.RECIPES[0]))
"""

from __future__ import annotations

from paradigms.testing.checks import CHECKS, SPACES, Problem, Result, check_backbone, check_recipe
from paradigms.testing.models import build, changed, descend, examples, examples_for, shake, state_of, train_a_little
from paradigms.testing.oracle import Exact, Mixture

__all__ = [
    "CHECKS",
    "SPACES",
    "Exact",
    "Mixture",
    "Problem",
    "Result",
    "build",
    "changed",
    "check_backbone",
    "check_recipe",
    "descend",
    "examples",
    "examples_for",
    "shake",
    "state_of",
    "train_a_little",
]
