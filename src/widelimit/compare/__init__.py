"""Finite versus limit: fitted exponents, optima, error bars and claims.

Arrays of numbers in, estimates with standard errors out. Only ``finite_ensemble`` knows networks: those whose
infinite-width limit the solvers of ``dmft`` solve.
"""

from widelimit.compare.claims import Claim
from widelimit.compare.convergence import Convergence, convergence
from widelimit.compare.coordinates import Sizes, contributions, coordinate_sizes
from widelimit.compare.ensembles import (
    chi_square_score,
    samples_for_slope,
    second_moment_scores,
    squared_length_of_mean,
)
from widelimit.compare.extrapolate import agreement, richardson
from widelimit.compare.finite import Ensembles, finite_ensemble
from widelimit.compare.fit import PowerLaw, fit_exponent
from widelimit.compare.one_step import (
    LinearProblem,
    LinearWeights,
    best_rate,
    limiting_rate,
    loss_polynomial,
)
from widelimit.compare.optimum import Optimum, find_optimum, widen
from widelimit.compare.proportional import ProportionalNetworks, finite_proportional
from widelimit.compare.statistics import (
    CombinedZ,
    Estimate,
    bootstrap_counts,
    bootstrap_stderr,
    combine_z,
    family_quantile,
    family_tolerance,
    joint_stderr,
    mean_over_seeds,
    paired_difference,
    pooled_degrees,
    z_score,
)
from widelimit.compare.summary import Summary, markdown_table
from widelimit.compare.transfer import regret, transfer

__all__ = [
    "Claim",
    "CombinedZ",
    "Convergence",
    "Ensembles",
    "Estimate",
    "LinearProblem",
    "LinearWeights",
    "Optimum",
    "PowerLaw",
    "ProportionalNetworks",
    "Sizes",
    "Summary",
    "agreement",
    "best_rate",
    "bootstrap_counts",
    "bootstrap_stderr",
    "chi_square_score",
    "combine_z",
    "contributions",
    "convergence",
    "coordinate_sizes",
    "family_quantile",
    "family_tolerance",
    "find_optimum",
    "finite_ensemble",
    "finite_proportional",
    "fit_exponent",
    "joint_stderr",
    "limiting_rate",
    "loss_polynomial",
    "markdown_table",
    "mean_over_seeds",
    "paired_difference",
    "pooled_degrees",
    "regret",
    "richardson",
    "samples_for_slope",
    "second_moment_scores",
    "squared_length_of_mean",
    "transfer",
    "widen",
    "z_score",
]
