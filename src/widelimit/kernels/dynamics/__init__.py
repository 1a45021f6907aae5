"""Training in function space: regression, flow and descent under a fixed kernel, linearised models."""

from widelimit.kernels.dynamics.descend import Descent, descend
from widelimit.kernels.dynamics.ensemble import Gaussian, ensemble, gp_inference
from widelimit.kernels.dynamics.gradient import Trajectory, gradient_descent, gradient_flow, largest_rate
from widelimit.kernels.dynamics.linearise import linearise, quadratic, telescoping, telescoping_step
from widelimit.kernels.dynamics.regression import (
    Regression,
    kernel_regression,
    leave_one_out,
    log_marginal_likelihood,
)

__all__ = [
    "Descent",
    "Gaussian",
    "Regression",
    "Trajectory",
    "descend",
    "ensemble",
    "gp_inference",
    "gradient_descent",
    "gradient_flow",
    "kernel_regression",
    "largest_rate",
    "leave_one_out",
    "linearise",
    "log_marginal_likelihood",
    "quadratic",
    "telescoping",
    "telescoping_step",
]
