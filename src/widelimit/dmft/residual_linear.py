"""Deep linear residual networks of infinite width and finite depth: exact, causal, with nothing sampled."""

from __future__ import annotations

import time

import numpy as np

from widelimit.dmft.checks import check_field
from widelimit.dmft.labelled import Labelled
from widelimit.dmft.problem import ResidualProblem
from widelimit.dmft.solution import Solution
from widelimit.dmft.steps import check_memory, float64_errors, outcome, wide


def residual_linear(problem: ResidualProblem, *, memory: str | float = 4 * 2**30) -> Solution:
    r"""Returns the training of an infinitely wide linear residual network; ``linear`` calls it.

    With ``beta = b L^-alpha`` and a = keep for the first and the last layer, beta keep for branches,

    ``h^k = sum_{j<=k} (a u^j + C^j g^j)``,  ``g^k = sum_{j>=k} (a r^j + D^j h^j)``,  k = 0..L,

    where ``C^{k+1} = beta keep gamma0 A^k + (b^2 / L) gamma0 drive H^k share Delta`` with
    ``gamma0 A^k = d h^k / d r^k``, and D alike. Fields of all layers belong to one site, so covariances of
    g between layers are kept. Cost ``O(L^2 (P T)^2 C T)``, memory
    ``8 L (P T)^2 + 16 L^2 P C T^2`` bytes.

    Args:
        problem: with ``activation="identity"``.
        memory: bytes that may be used, or text such as "2GiB".

    Raises:
        ValueError: if memory does not suffice.
        Diverged: if training blows up.

    Example:
        >>> problem = ResidualProblem(
        ...     targets=[1.0], kernel=[[1.0]], steps=1, learning_rate=0.1, depth=4, activation="identity"
        ... )
        >>> residual_linear(problem).ntk.values[0].round(6).item()
        6.835938

    Reference:
        Bordelon et al., Depthwise Hyperparameter Transfer in Residual Networks (arXiv 2309.16620).
    """
    began = time.perf_counter()
    state = _State(problem, memory)
    with np.errstate(over="ignore", invalid="ignore"):
        for t in range(problem.steps + 1):
            state.forward(t)
            state.backward(t)
    return state.solution(began)


class _State:
    """Arrays that grow row by row; times come first on every axis, then layers of g, then samples or outputs.

    h[k] is H^k; g, response and by_u[j] are <g g>, d g / d r and d g / d u^j (of training points) of all
    layers; q[k] is <g h^k>; by_r[k] is d h^k / d r; c holds the coefficients of g^j in slot j; push and
    driven are as in ``linear``, of H^{-1} = K first.
    """

    def __init__(self, problem: ResidualProblem, memory: str | float) -> None:
        """Everything is zero but the kernel of the inputs."""
        self.problem, self.gamma0, self.depth = problem, problem.gamma0, problem.depth
        self.keep, self.drive = problem.memory()
        self.shares, self.errors = problem.shares(), float64_errors(problem)
        self.times, self.layers = problem.steps + 1, problem.depth + 1
        self.n, self.p, self.outputs = problem.points, problem.samples, problem.outputs
        self.wide = self.layers * self.outputs  # of all g at one time
        self.branch = problem.branch_scale * problem.depth**-problem.branch_exponent
        self.step = self.branch**2 * problem.branch_rate  # b^2 / L
        h, g, p = (self.times * size for size in (self.n, self.wide, self.p))
        numbers = h * h + 2 * h * g + g * p + 2 * self.times * self.outputs * h
        self.bytes = check_memory(self.layers * numbers + 3 * g * g + h * g, memory)
        one, zeros, layers = self.times * self.outputs, np.zeros, self.layers
        self.inputs = np.tile(np.asarray(problem.kernel), (1, self.times))
        self.h, self.q, self.by_r = zeros((layers, h, h)), zeros((layers, g, h)), zeros((layers, h, g))
        self.g, self.response, self.by_u = zeros((g, g)), zeros((g, g)), zeros((layers, g, p))
        self.c, self.push, self.driven = (
            zeros((h, g)),
            zeros((layers + 1, one, h)),
            zeros((layers + 1, one, h)),
        )
        self.error = zeros((self.times, self.p, self.outputs))
        self.f = zeros((self.times, self.n, self.outputs))

    def _slot(self, layer: int, t: int) -> np.ndarray:
        """Places of g^layer at the times before t."""
        places = np.arange(t * self.wide).reshape(t, self.layers, self.outputs)
        return np.asarray(places[:, layer].reshape(-1))

    def _until(self, layer: int, t: int) -> np.ndarray:
        """1 where g at times before t is of this layer or one below, else 0."""
        return np.asarray(np.arange(t * self.wide) % self.wide < (layer + 1) * self.outputs, np.float64)

    def _scale(self, layer: int) -> float:
        """Of the initial weights behind h^layer."""
        return 1.0 if layer == 0 else self.branch

    def forward(self, t: int) -> None:
        """The stream h of step t from the inputs to the last branch, the predictions and their errors."""
        n, past = self.n, slice(0, t * self.wide)
        now, new = slice(t * n, (t + 1) * n), slice(0, (t + 1) * n)
        keep, kept = self.keep[t], np.repeat(self.keep[: t + 1], n)
        c, noise, by_r = (np.zeros((n, t * self.wide)) for _ in range(3))
        across, initial = np.zeros((t * self.wide, n)), np.zeros((n, (t + 1) * n))
        self._push_now(0, t)
        for k in range(self.layers):
            slot, scale = self._slot(k, t), self._scale(k)
            step = 1.0 if k == 0 else self.step
            add = step * self.gamma0 * self.driven[k][: t * self.outputs, now].T
            if k:
                add += scale * keep * self.by_r[k - 1][now][:, self._slot(k - 1, t)]
            self.c[now, slot] = c[:, slot] = add
            by_r += add @ self.response[slot, past]
            self.by_r[k][now, past] = by_r
            below = self._row(k - 1, t)
            noise += scale * keep * self._trained(below[:, : t * n], t) @ self.by_u[k][past, : t * self.p].T
            initial += scale**2 * keep * kept * below
            across += self.g[past, slot] @ add.T
            self.q[k][past, now] = noise.T + across
            row = self.h[k][now, new]
            row[:] = initial + (noise * self._until(k, t)) @ self.c[new, past].T + c @ self.q[k][past, new]
            self.h[k][: t * n, now] = row[:, : t * n].T
            self._push_now(k + 1, t)
        self._predict(t)

    def _row(self, layer: int, t: int) -> np.ndarray:
        """<h(t) h(s)> for s <= t; of the inputs for layer -1."""
        new = slice(0, (t + 1) * self.n)
        return self.inputs[:, new] if layer < 0 else self.h[layer][t * self.n : (t + 1) * self.n, new]

    def _trained(self, array: np.ndarray, t: int) -> np.ndarray:
        """Columns [time, sample] of training points alone."""
        return array.reshape(len(array), t, self.n)[:, :, : self.p].reshape(len(array), t * self.p)

    def _push_now(self, index: int, t: int) -> None:
        """Errors of steps s < t times H between s and t."""
        n, rows, now = self.n, slice(0, t * self.outputs), slice(t * self.n, (t + 1) * self.n)
        seen = self._row(index - 1, t)[:, : t * n].reshape(n, t, n)[:, :, : self.p]
        self.push[index][rows, now] = np.einsum("msp,spc->scm", seen, self.error[:t]).reshape(
            t * self.outputs, n
        )
        drive = np.repeat(self.drive[t, :t], self.outputs)[:, None]
        self.driven[index][rows, now] = drive * self.push[index][rows, now]

    def _predict(self, t: int) -> None:
        """The predictions <w h^L> / gamma0, and their errors."""
        n, outputs, last = self.n, self.outputs, self.depth
        now, past = slice(t * n, (t + 1) * n), slice(0, t * outputs)
        initial = self.by_r[last][now][:, self._slot(last, t)].reshape(n, t, outputs).sum(1)
        driven = self.driven[last + 1][past, now].reshape(t, outputs, n).sum(0)
        self.f[t] = self.keep[t] / self.gamma0 * initial + driven.T
        start, size = (np.trace(self._row(last, s)[:, s * n :]) for s in (0, t))
        check_field(t, float(np.sqrt(size)), float(np.sqrt(start)), self.gamma0)
        if t < self.problem.steps:
            self.error[t] = self.shares[t, :, None] * self.errors(self.f[t, : self.p])

    def backward(self, t: int) -> None:
        """Fields g of step t from the readout to the inputs."""
        n, outputs, wide = self.n, self.outputs, self.wide
        for index in range(self.layers + 1):
            row = self._row(index - 1, t).reshape(n, t + 1, n)[: self.p].reshape(self.p, -1)
            self.push[index][t * outputs : (t + 1) * outputs, : (t + 1) * n] = self.error[t].T @ row
        coefficients = np.zeros((self.layers, outputs, t * self.p))
        through = np.zeros((self.layers, outputs, t * wide))  # D^k C, summed over the layers from k on
        for k in range(self.depth, -1, -1):
            self._back(k, t, coefficients, through)
        self._by_u(t, coefficients, through)
        self._across(t)
        here = slice(t * wide, (t + 1) * wide)
        for k in range(self.depth, -1, -1):
            rows = slice(t * wide + k * outputs, t * wide + (k + 1) * outputs)
            equal = self._product(k, t, coefficients[k], here)
            if k < self.depth:
                equal += self.g[slice(rows.stop, rows.stop + outputs), here]
            self.g[rows, here] = equal
        self.g[here, here] = (self.g[here, here] + self.g[here, here].T) / 2

    def _back(self, k: int, t: int, coefficients: np.ndarray, through: np.ndarray) -> None:
        """D^k(t) and what it leads through; d g^k(t) / d r, and <g^k(t) g(s)> for s < t."""
        outputs, wide, p = self.outputs, self.wide, self.p
        past, samples = slice(0, t * wide), slice(0, t * p)
        rows = slice(t * wide + k * outputs, t * wide + (k + 1) * outputs)
        above = slice(rows.stop, rows.stop + outputs)  # g^{k+1}
        last, keep = k == self.depth, self.keep[t]
        step = 1.0 if last else self.step
        gram = np.tile(np.eye(outputs), t) if last else self.g[above][:, self._slot(k + 1, t)]
        gram = gram.reshape(outputs, t, outputs) * self.drive[t, :t, None]
        d = step * self.gamma0 * np.einsum("asc,spc->asp", gram, self.error[:t]).reshape(outputs, t * p)
        if not last:
            kept = self._scale(k + 1) * np.repeat(self.keep[:t], p)
            by_u = through[k + 1] @ self.by_u[k + 1][past, samples] + kept * coefficients[k + 1 :].sum(0)
            d += self.branch * keep * by_u
            self.response[rows] = self.response[above]
        coefficients[k] = d
        self.response[rows, past] += d @ self._before(self.by_r[k], t)
        self.response[rows, rows] += keep * (1.0 if last else self.branch) * np.eye(outputs)
        through[k] = (d @ self._before(self.c, t)) * self._until(k, t)
        row = self._product(k, t, d, past)
        if not last:
            through[k] += through[k + 1]
            row = row + self.g[above, past]
        self.g[rows, past] = row
        self.g[past, rows] = row.T

    def _before(self, array: np.ndarray, t: int) -> np.ndarray:
        """Rows of training points and columns before t."""
        rows = array.reshape(self.times, self.n, -1)[:t, : self.p, : t * self.wide]
        return rows.reshape(t * self.p, t * self.wide)

    def _by_u(self, t: int, coefficients: np.ndarray, through: np.ndarray) -> None:
        """D g(t) / d u^j of all layers."""
        wide, samples = self.wide, slice(0, t * self.p)
        here, past = slice(t * wide, (t + 1) * wide), slice(0, t * wide)
        total = np.cumsum(coefficients[::-1], axis=0)[::-1]  # from each layer on
        kept = np.repeat(self.keep[:t], self.p)
        for j in range(self.layers):
            direct = total[np.maximum(np.arange(self.layers), j)].reshape(wide, t * self.p)
            row = through.reshape(wide, t * wide) @ self.by_u[j][past, samples]
            self.by_u[j][here, samples] = row + self._scale(j) * kept * direct

    def _product(self, k: int, t: int, d: np.ndarray, columns: slice) -> np.ndarray:
        """<(a r^k(t) + D^k h^k) g> with g at the places of columns."""
        outputs, wide = self.outputs, self.wide
        last, size = k == self.depth, columns.stop
        times = size // wide
        scale = self.keep[t] * (1.0 if last else self.branch)
        if last:
            gram = np.tile(np.eye(outputs), times)
        else:
            begin = t * wide + (k + 1) * outputs
            gram = self.g[begin : begin + outputs][:, self._slot(k + 1, times)]
        row = scale * gram @ self.response[columns][:, self._slot(k, times)].T
        if t:
            row = row + d @ self._trained(self.q[k][columns, : t * self.n], t).T
        return np.asarray(row)

    def _across(self, t: int) -> None:
        """<g(t) h^k(s)> of all layers for s <= t."""
        n, wide = self.n, self.wide
        here, new = slice(t * wide, (t + 1) * wide), slice(0, (t + 1) * n)
        kept = np.repeat(self.keep[: t + 1], n)
        across, through = np.zeros((wide, (t + 1) * n)), np.zeros((wide, (t + 1) * n))
        for k in range(self.layers):
            by_u = self.by_u[k][here, : t * self.p]
            if k == 0:
                seen = by_u.reshape(wide, t, self.p).sum(1) @ self.inputs[: self.p, new]
            else:
                rows = self.h[k - 1][: t * n, new].reshape(t, n, (t + 1) * n)[:, : self.p]
                seen = by_u @ rows.reshape(t * self.p, (t + 1) * n)
            across += self._scale(k) * kept * seen
            slot = self._slot(k, t)
            through += self.g[here, slot] @ self.c[new, slot].T
            self.q[k][here, new] = across + through

    def solution(self, began: float) -> Solution:
        """What was found, in labelled axes."""
        problem, times, n, outputs = self.problem, self.times, self.n, self.outputs
        predictions, loss = outcome(problem, self.f)
        g = self.g.reshape(times, self.layers, outputs, times, self.layers, outputs)
        gradients = np.einsum("tlaslb->ltasb", g)
        features = self.h.reshape(self.layers, times, n, times, n)
        h = np.einsum("ltmtn->ltmn", features)
        equal = np.einsum("ltatb->ltab", gradients)
        ntk = np.einsum("tab,mn->tmanb", equal[0], np.asarray(problem.kernel))
        ntk += self.step * np.einsum("ltab,ltmn->tmanb", equal[1:], h[:-1])
        ntk += np.einsum("tmn,ab->tmanb", h[-1], np.eye(outputs))
        axes: tuple[str, ...] = ("layer", "time", "output", "time'", "output'")
        ntk_axes: tuple[str, ...] = ("time", "sample", "output", "sample'", "output'")
        if not wide(problem):
            gradients, axes = gradients[:, :, 0, :, 0], ("layer", "time", "time'")
            ntk, ntk_axes = ntk[:, :, 0, :, 0], ("time", "sample", "sample'")
        return Solution(
            problem=problem,
            solver="linear",
            predictions=predictions,
            loss=loss,
            features=Labelled(features, ("layer", "time", "sample", "time'", "sample'"), first_layer=0),
            gradients=Labelled(gradients, axes, first_layer=0),
            ntk=Labelled(ntk, ntk_axes),
            diagnostics={"seconds": time.perf_counter() - began, "bytes": self.bytes},
        )
