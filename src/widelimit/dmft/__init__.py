"""Dynamical mean-field theory: the limit of infinite width in which networks learn features."""

from widelimit.dmft.causal import Plan, mlp, plan
from widelimit.dmft.checks import Diverged
from widelimit.dmft.flow import gradient_flow, one_sample_flow
from widelimit.dmft.fluctuations import FiniteWidth, finite_width
from widelimit.dmft.labelled import Labelled
from widelimit.dmft.lazy import lazy
from widelimit.dmft.linear import linear
from widelimit.dmft.problem import Problem, ResidualProblem
from widelimit.dmft.proportional import Proportional, ProportionalProblem, proportional
from widelimit.dmft.residual import residual
from widelimit.dmft.residual_depth import infinite_depth
from widelimit.dmft.solution import Solution
from widelimit.dmft.two_layer import two_layer

__all__ = [
    "Diverged",
    "FiniteWidth",
    "Labelled",
    "Plan",
    "Problem",
    "Proportional",
    "ProportionalProblem",
    "ResidualProblem",
    "Solution",
    "finite_width",
    "gradient_flow",
    "infinite_depth",
    "lazy",
    "linear",
    "mlp",
    "one_sample_flow",
    "plan",
    "proportional",
    "residual",
    "two_layer",
]
