"""What training does to one eigendirection: the share of the residual that is left, and its dual variable."""

from __future__ import annotations

from typing import Any

import numpy as np

from widelimit.kernels.dynamics.problem import Spectrum


def check_times(times: Any) -> np.ndarray:
    """Returns times as float64 [T]."""
    values = np.atleast_1d(np.asarray(times, np.float64))
    if values.ndim != 1 or np.isnan(values).any() or (values < 0).any():
        raise ValueError(f"times must be numbers from 0 to infinity, shape [T]; got {times!r}.")
    return values


def check_steps(steps: Any) -> np.ndarray:
    """Returns numbers of steps as int64 [T]."""
    given = np.atleast_1d(np.asarray(steps))
    whole = given.ndim == 1 and given.dtype.kind in "iuf" and np.isfinite(given).all()
    if not whole or (given < 0).any() or (given != np.floor(given)).any():
        raise ValueError(f"steps must be whole numbers from 0, shape [T]; got {steps!r}.")
    return given.astype(np.int64)


def check_rate(rate: Any, momentum: Any) -> None:
    """Refuses rates and momenta that are no gradient descent."""
    if not np.isscalar(rate) and np.ndim(rate) != 0 or not np.isfinite(float(rate)) or float(rate) <= 0:
        raise ValueError(f"rate must be a positive number; got {rate!r}.")
    if np.ndim(momentum) != 0 or not 0 <= float(momentum) < 1:
        raise ValueError(f"momentum must be a number from 0 to below 1; got {momentum!r}.")


def flow_factors(spectrum: Spectrum, samples: int, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns p = exp(-lam t/N) and q = (1 - p)/lam, both [T, n]; q = t/N where lam is 0."""
    clock = times / samples
    with np.errstate(invalid="ignore", over="ignore"):
        z = clock[:, None] * spectrum.values
        left = np.exp(-z)
        dual = -np.expm1(-z) / np.where(spectrum.values > 0, spectrum.values, 1.0)
    dual = np.where(spectrum.values > 0, dual, clock[:, None])
    return _forget_rounding(spectrum, clock, left, dual)


def descent_factors(
    spectrum: Spectrum, samples: int, rate: float, steps: np.ndarray, momentum: float, nesterov: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns p, the residual left after t steps, and q = (1 - p)/lam, both [T, n].

    Not finite where the iteration has overflowed.
    """
    x = rate * spectrum.values / samples
    clock = rate / samples * steps / (1.0 - momentum)
    if momentum == 0.0:
        left, dual = _powers(x, steps)
    else:
        left, dual = _recursion(x, steps, momentum, nesterov)
    return _forget_rounding(spectrum, clock, left, dual * (rate / samples))


def _forget_rounding(
    spectrum: Spectrum, clock: np.ndarray, left: np.ndarray, dual: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Directions that are nothing but rounding count as never learned once rounding would decide."""
    with np.errstate(invalid="ignore"):  # infinite time, floor 0 of a kernel that is zero
        late = clock[:, None] * spectrum.floor > 1.0
    forget = (spectrum.values <= spectrum.floor) & late
    forget |= (spectrum.values == 0.0) & np.isinf(clock[:, None])
    return np.where(forget, 1.0, left), np.where(forget, 0.0, dual)


def _powers(x: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(1 - x)^t and (1 - (1 - x)^t)/x, without cancellation where x is small."""
    t = steps[:, None].astype(np.float64)
    small = x < 0.5
    inner = np.where(small, x, 0.0)
    with np.errstate(over="ignore"):
        left = np.where(small, np.exp(t * np.log1p(-inner)), (1.0 - x) ** steps[:, None])
        learned = np.where(small, -np.expm1(t * np.log1p(-inner)), 1.0 - left)
    return left, np.where(x > 0, learned / np.where(x > 0, x, 1.0), t)


def _recursion(
    x: np.ndarray, steps: np.ndarray, momentum: float, nesterov: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Momentum: p and q obey a linear recursion per eigenvalue, advanced by powers of its matrix.

    With d the velocity, ``d' = beta d + p``, ``q' = q + d'`` (Nesterov: ``q + p + beta d'``),
    ``p' = p - x (q' - q)``; the state is (p, d, q).
    """
    beta, one, zero = momentum, np.ones_like(x), np.zeros_like(x)
    on_p, on_d = (1.0 + beta, beta**2) if nesterov else (1.0, beta)
    rows = [
        [1.0 - on_p * x, -on_d * x, zero],
        [one, beta * one, zero],
        [on_p * one, on_d * one, one],
    ]
    matrix = np.moveaxis(np.array(rows), -1, 0)
    left, dual = np.empty((len(steps), len(x))), np.empty((len(steps), len(x)))
    state, done, gap, power = np.stack([one, zero, zero], axis=-1), 0, -1, matrix
    with np.errstate(over="ignore", invalid="ignore"):
        for index in np.argsort(steps, kind="stable"):
            if steps[index] - done != gap:
                gap = int(steps[index] - done)
                power = np.linalg.matrix_power(matrix, gap)
            state, done = np.einsum("nij,nj->ni", power, state), int(steps[index])
            left[index], dual[index] = state[:, 0], state[:, 2]
    return left, dual
