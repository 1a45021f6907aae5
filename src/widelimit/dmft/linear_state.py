"""The closed equations of a deep linear network, advanced step by step."""

from __future__ import annotations

import time

import numpy as np

from widelimit.dmft.checks import check_field
from widelimit.dmft.labelled import Labelled
from widelimit.dmft.problem import Problem
from widelimit.dmft.solution import Solution
from widelimit.dmft.steps import check_memory, float64_errors, outcome, wide


class LinearState:
    """Arrays that grow row by row; times and samples (or outputs) share one axis, time first.

    By layer, 0..L+1: h holds H, g holds G, a is ``d h^l / d r^l``, c the coefficients of g in h, b is
    ``d g^{l+1} / d u^{l+1}`` of training points, response is ``d g^l / d r^l``, q is <g^l h^l>, push is
    ``share Delta H^l`` and driven the same times ``drive(time of H, time of
    Delta)``; driven_g likewise of G.
    """

    def __init__(self, problem: Problem, memory: str | float) -> None:
        """Everything is zero but the kernel behind, and the identity in front."""
        self.problem, self.gamma0 = problem, problem.gamma0
        self.keep, self.drive = problem.memory()
        self.shares, self.errors = problem.shares(), float64_errors(problem)
        self.times, self.depth = problem.steps + 1, problem.depth
        self.n, self.p, self.outputs = problem.points, problem.samples, problem.outputs
        h, g, p = (self.times * size for size in (self.n, self.outputs, self.p))
        numbers = h * h + 5 * h * g + 3 * g * g + g * p + (h + p) * g * (problem.depth > 1)
        self.bytes = check_memory(problem.depth * numbers, memory)
        self.inputs = np.tile(np.asarray(problem.kernel), (1, self.times))
        self.h, self.a, self.c = self._zeros(h, h), self._zeros(h, g), self._zeros(h, g)
        self.g, self.response, self.b = self._zeros(g, g), self._zeros(g, g), self._zeros(g, p)
        self.q, self.push, self.driven = self._zeros(g, h), self._zeros(g, h), self._zeros(g, h)
        self.driven_g = self._zeros(g, g)
        self.g[-1] = np.tile(np.eye(self.outputs), (self.times, self.times))
        self.error = np.zeros((self.times, self.p, self.outputs))  # share times Delta
        self.f = np.zeros((self.times, self.n, self.outputs))

    def _zeros(self, rows: int, columns: int) -> np.ndarray:
        """One matrix a layer; pages that are never touched cost nothing."""
        return np.zeros((self.depth + 2, rows, columns))

    def forward(self, t: int) -> None:
        """Fields h of step t, layer by layer, then the predictions and their errors."""
        n, past = self.n, slice(0, t * self.outputs)
        now, new = slice(t * n, (t + 1) * n), slice(0, (t + 1) * n)
        keep, kept = self.keep[t], np.repeat(self.keep[t] * self.keep[: t + 1], n)
        self._push_now(0, t)
        for layer in range(1, self.depth + 1):
            c = keep * self.a[layer - 1][now, past] + self.gamma0 * self.driven[layer - 1][past, now].T
            self.c[layer][now, past] = c
            self.a[layer][now, past] = c @ self.response[layer][past, past]
            self.q[layer][past, now] = self._across(layer, t)
            noise = self.q[layer][past, now].T - c @ self.g[layer][past, past]  # keep <u(t) g>
            row = self.h[layer][now, new]
            np.matmul(noise, self.c[layer][new, past].T, out=row)
            row += c @ self.q[layer][past, new]
            row += kept * self._row(layer - 1, t)
            self.h[layer][: t * n, now] = row[:, : t * n].T
            self._push_now(layer, t)
        self._predict(t)

    def _row(self, layer: int, t: int) -> np.ndarray:
        """<h(t) h(s)> for s <= t."""
        new = slice(0, (t + 1) * self.n)
        return self.inputs[:, new] if layer == 0 else self.h[layer][t * self.n : (t + 1) * self.n, new]

    def _push_now(self, layer: int, t: int) -> None:
        """Errors of steps s < t times H between s and t."""
        n, outputs = self.n, self.outputs
        rows, now = slice(0, t * outputs), slice(t * n, (t + 1) * n)
        seen = self._row(layer, t)[:, : t * n].reshape(n, t, n)[:, :, : self.p]
        self.push[layer][rows, now] = np.einsum("msp,spc->scm", seen, self.error[:t]).reshape(t * outputs, n)
        drive = np.repeat(self.drive[t, :t], outputs)[:, None]
        self.driven[layer][rows, now] = drive * self.push[layer][rows, now]

    def _across(self, layer: int, t: int) -> np.ndarray:
        """<g(s) h(t)> for s < t, from the layer below and how the weights between moved from s to t."""
        n, outputs, past = self.n, self.outputs, slice(0, t * self.outputs)
        now, ratio = slice(t * n, (t + 1) * n), self.keep[t] / self.keep[:t]
        if layer == 1:  # g(s) with h(s) itself: inputs do not move
            equal = self.q[1].reshape(self.times, outputs, self.times, n)[:t, :, :t]
            below = np.einsum("scsm->scm", equal).reshape(t * outputs, n)
        else:
            below = self.q[layer - 1][past, now]
        until_t = self.g[layer][past, past] @ self.driven[layer - 1][past, now]
        until_s = self.driven_g[layer][past, past] @ self.push[layer - 1][past, now]
        across: np.ndarray = np.repeat(ratio, outputs)[:, None] * (below - self.gamma0 * until_s)
        return across + self.gamma0 * until_t

    def _predict(self, t: int) -> None:
        """The predictions <w h^L> / gamma0, and their errors."""
        n, outputs, last = self.n, self.outputs, self.depth
        now, past = slice(t * n, (t + 1) * n), slice(0, t * outputs)
        initial = self.a[last][now, past].reshape(n, t, outputs).sum(1)  # <r h>: r is the same at all times
        driven = self.driven[last][past, now].reshape(t, outputs, n).sum(0)
        self.f[t] = self.keep[t] / self.gamma0 * initial + driven.T
        for layer in range(1, last + 1):
            start, size = (np.trace(self._row(layer, s)[:, s * n :]) for s in (0, t))
            check_field(t, float(np.sqrt(size)), float(np.sqrt(start)), self.gamma0)
        if t < self.problem.steps:
            self.error[t] = self.shares[t, :, None] * self.errors(self.f[t, : self.p])

    def backward(self, t: int) -> None:
        """Fields g of step t, from the last layer to the first, and what the errors of this step push."""
        n, outputs = self.n, self.outputs
        now, old = slice(t * outputs, (t + 1) * outputs), slice(0, t * outputs)
        until, samples = slice(0, (t + 1) * outputs), slice(0, t * self.p)
        keep, kept = self.keep[t], np.repeat(self.keep[:t], self.p)
        for layer in range(self.depth + 1):
            seen = self._row(layer, t).reshape(n, t + 1, n)[: self.p].reshape(self.p, -1)
            self.push[layer][now, : (t + 1) * n] = self.error[t].T @ seen
        for layer in range(self.depth, 0, -1):
            d = keep * self.b[layer][now, samples] + self._driven_back(layer, t)
            response = d @ self._trained(self.a[layer], t)
            self.response[layer][now, old] = response
            self.response[layer][now, now] = keep * np.eye(outputs)
            if layer > 1:
                again = (d @ self._trained(self.c[layer], t)) @ self.b[layer - 1][old, samples]
                self.b[layer - 1][now, samples] = d * kept + again
            self.q[layer][now, : (t + 1) * n] = self._back_across(layer, t)
            q = (
                self.q[layer]
                .reshape(-1, self.times, n)[until, :t, : self.p]
                .reshape((t + 1) * outputs, t * self.p)
            )
            row = keep * self.g[layer + 1][now, until] @ self.response[layer][until, until].T + d @ q.T
            self.g[layer][now, until] = row
            self.g[layer][until, now] = row.T
            self.driven_g[layer][now, old] = row[:, old] * np.repeat(self.drive[t, :t], outputs)

    def _driven_back(self, layer: int, t: int) -> np.ndarray:
        """gamma0 drive(t, s) G(t, s) share Delta(s), which multiplies h(s) in g(t)."""
        outputs = self.outputs
        above = self.g[layer + 1][t * outputs : (t + 1) * outputs, : t * outputs].reshape(outputs, t, outputs)
        driven = np.einsum("asc,spc->asp", above * self.drive[t, :t, None], self.error[:t])
        return self.gamma0 * driven.reshape(outputs, t * self.p)

    def _trained(self, array: np.ndarray, t: int) -> np.ndarray:
        """Rows of training points before t."""
        past = array.reshape(self.times, self.n, -1)[:t, : self.p, : t * self.outputs]
        return past.reshape(t * self.p, t * self.outputs)

    def _back_across(self, layer: int, t: int) -> np.ndarray:
        """<g(t) h(s)> for s <= t, from the layer above and how the weights between moved from s to t."""
        n, outputs = self.n, self.outputs
        now, old, new = slice(t * outputs, (t + 1) * outputs), slice(0, t * outputs), slice(0, (t + 1) * n)
        ratio = np.repeat(self.keep[t] / self.keep[: t + 1], n)
        if layer == self.depth:
            above = self.gamma0 * self.f[: t + 1].transpose(2, 0, 1).reshape(outputs, -1)
        else:
            above = self.q[layer + 1][now, new]
        g = self.g[layer + 1][now, old]
        drive = np.repeat(self.drive[t, :t], outputs)
        there = (g * drive) @ self.push[layer][old, new]
        back: np.ndarray = ratio * (above - self.gamma0 * g @ self.driven[layer][old, new])
        return back + self.gamma0 * there

    def solution(self, began: float) -> Solution:
        """What was found, in labelled axes."""
        problem, layers = self.problem, slice(1, self.depth + 1)
        predictions, loss = outcome(problem, self.f)
        responses = self.depth > 1
        return Solution(
            problem=problem,
            solver="linear",
            predictions=predictions,
            loss=loss,
            features=self._labelled(self.h[layers], "sample", "sample"),
            gradients=self._labelled(self.g[layers], "output", "output"),
            feature_response=self._labelled(self.a[1:-2], "sample", "output", -1) if responses else None,
            gradient_response=self._labelled(self.b[1:-2], "output", "sample", -1) if responses else None,
            ntk=self._ntk(),
            diagnostics={"seconds": time.perf_counter() - began, "bytes": self.bytes},
        )

    def _labelled(self, arrays: np.ndarray, first: str, second: str, power: int = 0) -> Labelled:
        """Layers of one kind; the axis of outputs stays where targets have one. gamma0 to the power."""
        sides = [("time", first), ("time'", f"{second}'")]
        shape, axes = [len(arrays)], ["layer"]
        for (clock, name), size in zip(sides, arrays.shape[1:], strict=True):
            shape.append(self.times)
            axes.append(clock)
            if not name.startswith("output") or wide(self.problem):
                shape.append(size // self.times)
                axes.append(name)
        values = arrays.reshape(shape)
        return Labelled(values / self.gamma0 if power else values, tuple(axes))

    def _ntk(self) -> Labelled:
        """Of each time with itself, sum over layers of G^{l+1} H^l."""
        n, times, outputs = self.n, self.times, self.outputs
        ntk = np.zeros((times, n, outputs, n, outputs))
        for layer in range(self.depth + 1):
            g = np.einsum("tatb->tab", self.g[layer + 1].reshape(times, outputs, times, outputs))
            if layer == 0:
                h = np.broadcast_to(np.asarray(self.problem.kernel), (times, n, n))
            else:
                h = np.einsum("tmtn->tmn", self.h[layer].reshape(times, n, times, n))
            ntk += np.einsum("tab,tmn->tmanb", g, h)
        if wide(self.problem):
            return Labelled(ntk, ("time", "sample", "output", "sample'", "output'"))
        return Labelled(ntk[:, :, 0, :, 0], ("time", "sample", "sample'"))
