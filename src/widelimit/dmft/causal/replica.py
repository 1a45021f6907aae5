"""One replica: the steps of all times, in windows that grow, so that few programs are compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from widelimit.dmft.causal.noise import Noise
from widelimit.dmft.causal.settings import Settings
from widelimit.dmft.causal.state import Rows, State, grow, start
from widelimit.dmft.causal.step import Step, Tables
from widelimit.dmft.problem import Problem


class Runner:
    """The compiled programs of a problem; every replica uses the same ones.

    Args:
        problem: what is solved.
        settings: how.
        windows: ends of the windows of time.
    """

    def __init__(self, problem: Problem, settings: Settings, windows: Sequence[int]) -> None:
        self.problem, self.settings, self.windows = problem, settings, windows
        self.clipped = 0.0  # part of all kernels' directions that the last replica clipped
        keep, drive = problem.memory()
        drive = np.concatenate([drive, drive[-1:]])  # the Euler rule looks one time ahead of the last: unused
        push = problem.gamma0 * drive[:, :, None] * problem.shares()
        extra = ((0, 0), (0, 1), (0, settings.points - settings.train))
        self._keep, self._push = keep, np.pad(push, extra)
        self._programs: dict[int, Callable[..., State]] = {}

    def run(self, noise: Noise, ridge: float | None = None) -> Iterator[tuple[int, Rows]]:
        """Yields, after each window, the times done and the rows of results. Runs in float64 mode.

        Args:
            noise: of the replica.
            ridge: of Stein's responses; None is that of the settings.
        """
        begin, state = 0, start(self.settings, self.windows[0])
        for end in self.windows:
            state = grow(state, self.settings, end)
            state = self._program(end)(*self._arguments(noise, end, ridge), state, jnp.int32(begin))
            yield end, state.rows
            begin = end
        factors = (*state.forward, *state.backward)
        directions = sum(len(factor.inverse) for factor in factors)
        self.clipped = sum(int(factor.clipped) for factor in factors) / max(directions, 1)

    def _arguments(self, noise: Noise, window: int, ridge: float | None = None) -> tuple[Tables, Noise]:
        """The tables and the noise, cut to a window."""
        p, c = self.settings.points, self.settings.outputs
        root = _root(np.asarray(self.problem.kernel))
        first = (jnp.asarray(root) @ noise.first.astype(root.dtype)).astype(noise.first.dtype)
        tables = Tables(
            jnp.asarray(self.problem.kernel),
            jnp.asarray(self._keep),
            jnp.asarray(self.settings.ridge if ridge is None else ridge),
            jnp.asarray(self._push[:, :window]),
        )
        cut = Noise(
            first,
            noise.last,
            tuple(eps[: window * p] for eps in noise.forward),
            tuple(eps[: window * c * p] for eps in noise.backward),
        )
        return tables, cut

    def _program(self, window: int) -> Callable[..., State]:
        """The compiled steps from the end of the window before to that of this one."""
        if window not in self._programs:

            def steps(tables: Tables, noise: Noise, state: State, begin: jax.Array) -> State:
                def one(t: jax.Array, state: State) -> State:
                    return Step(self.problem, self.settings, tables, noise, state, t).run()

                return lax.fori_loop(begin, jnp.int32(window), one, state)

            self._programs[window] = jax.jit(steps, donate_argnums=2)
        return self._programs[window]


def _root(kernel: np.ndarray) -> np.ndarray:
    """The symmetric root of a semi-definite matrix."""
    values, vectors = np.linalg.eigh(kernel)
    root: np.ndarray = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    return root
