"""Figures: data in, (figure, axes) out; nothing is shown or global; matplotlib loads when one is drawn."""

from widelimit.figures.convergence import errors_against_width
from widelimit.figures.coordinates import size_against_width
from widelimit.figures.curves import training_curves
from widelimit.figures.dmft import dmft_overview
from widelimit.figures.eigenvalues import eigenvalues_before_and_after
from widelimit.figures.exponents import exponents_against_theory
from widelimit.figures.limit import limit_story
from widelimit.figures.optimum import loss_against_rate, optimum_against_width
from widelimit.figures.rates import best_rates_beside_theory, rates_beside_theory
from widelimit.figures.samples import error_against_samples
from widelimit.figures.scales import measures_against_scale
from widelimit.figures.style import CATEGORIES, new_figure, ordered_colors, style
from widelimit.figures.sweep import theory_beside_networks

__all__ = [
    "CATEGORIES",
    "best_rates_beside_theory",
    "dmft_overview",
    "eigenvalues_before_and_after",
    "error_against_samples",
    "errors_against_width",
    "exponents_against_theory",
    "limit_story",
    "loss_against_rate",
    "measures_against_scale",
    "new_figure",
    "optimum_against_width",
    "ordered_colors",
    "rates_beside_theory",
    "size_against_width",
    "style",
    "theory_beside_networks",
    "training_curves",
]
