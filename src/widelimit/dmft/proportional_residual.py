"""Residual deep linear networks in the proportional limit: fields as linear forms of all layers' noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from widelimit.dmft.proportional_steps import Steps

if TYPE_CHECKING:
    from widelimit.dmft.proportional import ProportionalProblem


class ResidualSteps(Steps):
    r"""``h^l = h^{l-1} + b (u^l + C^l g^l)`` and ``g^{l-1} = g^l + b (r^l + D^l h^{l-1})``.

    With ``C^l = R^{l-1} + b g tril(H^{l-1} eta0)``, R the response of h^{l-1} to r^l, and ``D^l = R^l + b g
    tril(G^l eta0)``, R that of g^l to u^l. As a site carries its stream through all layers, a field depends
    on every layer's noise: it is kept as its coefficients, [time, source, time]. Sources are u^0 .. u^L, r^1
    .. r^L and the readout's start.
    """

    def __init__(self, problem: ProportionalProblem) -> None:
        """No field is known yet."""
        super().__init__(problem)
        n, depth = problem.steps + 1, problem.depth
        self.forms_h, self.forms_g = np.zeros((2, depth + 1, n, 2 * depth + 2, n))
        # By source, the covariance of its noise: matrices that grow as they become known.
        self.noises = [self.seen, *self.h[:-1], *self.g[1:], self.ones]

    def backward(self, t: int) -> None:
        """g^L .. g^0 at time t, which need fields up to the time before."""
        depth, scale, drive = self.problem.depth, self.problem.branch_scale, self._drive(t)
        assert scale is not None
        field = np.tensordot(drive, self.forms_h[depth, :t], 1)
        field[-1, t] += 1.0
        self._keep(self.forms_g[depth], self.g[depth], t, field)
        for layer in range(depth, 0, -1):
            response = self.forms_g[layer, t, layer, :t]
            d = response + scale * drive * self.g[layer, t, :t]
            branch = np.tensordot(d, self.forms_h[layer - 1, :t], 1)
            branch[depth + layer, t] += 1.0
            field = field + scale * branch
            self._keep(self.forms_g[layer - 1], self.g[layer - 1], t, field)
        for layer in range(depth + 1):
            self.r_g[layer, t] = self.forms_g[layer, t, layer]

    def forward(self, t: int) -> None:
        """h^0 .. h^L at time t."""
        depth, scale, drive = self.problem.depth, self.problem.branch_scale, self._drive(t)
        assert scale is not None
        c = -self.q[t, : t + 1] * self.inverse_nu / self.problem.g
        c[:t] += drive * self.seen[t, :t]
        field = np.tensordot(c, self.forms_g[0, : t + 1], 1)
        field[0, t] += 1.0
        self._keep(self.forms_h[0], self.h[0], t, field)
        for layer in range(1, depth + 1):
            c = self.forms_h[layer - 1, t, depth + layer, : t + 1].copy()
            c[:t] += scale * drive * self.h[layer - 1, t, :t]
            branch = np.tensordot(c, self.forms_g[layer, : t + 1], 1)
            branch[layer, t] += 1.0
            self.r_h[layer - 1, t] = self.forms_h[layer - 1, t, depth + layer]
            field = field + scale * branch
            self._keep(self.forms_h[layer], self.h[layer], t, field)
        self.r_h[depth, t] = self.forms_h[depth, t, -1]

    def _drive(self, t: int) -> np.ndarray:
        """Strength of every update before time t."""
        return np.asarray(self.problem.g * self.eta[:t])

    def _keep(self, forms: np.ndarray, covariance: np.ndarray, t: int, field: np.ndarray) -> None:
        """Adds a field's coefficients, and a row and column of its covariance."""
        forms[t] = field
        now = slice(None, t + 1)
        row = sum(
            (field[source, now] @ noise[now, now]) @ forms[now, source, now].T
            for source, noise in enumerate(self.noises)
        )
        covariance[t, now] = covariance[now, t] = row
