"""Learning a permutation from basis vectors: the limit of a two-layer ReLU network in closed form.

Reference: arXiv 2502.16763.
"""

from __future__ import annotations

import numpy as np

# By the number k of basis vectors and of ones m in the test input; the numbers are cut, not rounded.
PUBLISHED = {(5, 2): (0.5606322, -0.0146398, 0.0132346), (10, 2): (0.5654218, -0.0098503, 0.0065187)}


def closed_form(k, m):
    """mu_in, mu_out, variance of the trained infinitely wide network at the test input."""
    angle = np.arccos(1 / np.sqrt(m))
    inside = (np.sqrt(1 - 1 / m) + 2 * (np.pi - angle) / np.sqrt(m)) / (2 * np.pi * k)
    outside = 1 / (2 * np.pi * k)  # both kernels of orthogonal inputs
    a, b = (1 - 1 / (2 * np.pi)) / k, 1 / (2 * np.pi * k)
    c = b * (m * inside + (k - m) * outside) / (a + k * b)
    mu_in, mu_out = (inside - c) / a, (outside - c) / a
    k_in = (np.sqrt(1 - 1 / m) + (np.pi - angle) / np.sqrt(m)) / (2 * np.pi * k)
    spread = (0.5 - 1 / (2 * np.pi)) / k * (m * mu_in**2 + (k - m) * mu_out**2)
    spread += b * (m * mu_in + (k - m) * mu_out) ** 2
    cross = m * mu_in * k_in + (k - m) * mu_out * outside
    return mu_in, mu_out, 1 / (2 * k) + spread - 2 * cross
