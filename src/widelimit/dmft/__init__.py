"""Dynamical mean-field theory: the limit of infinite width in which networks learn features."""

from widelimit.dmft.checks import Diverged
from widelimit.dmft.labelled import Labelled
from widelimit.dmft.lazy import lazy
from widelimit.dmft.problem import Problem, ResidualProblem
from widelimit.dmft.solution import Solution

__all__ = [
    "Diverged",
    "Labelled",
    "Problem",
    "ResidualProblem",
    "Solution",
    "lazy",
]
