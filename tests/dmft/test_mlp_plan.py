"""What a run of the causal solver takes, and how it goes on after it was killed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widelimit import dmft
from widelimit.dmft.causal import planner
from widelimit.dmft.causal.noise import draw
from widelimit.dmft.causal.replica import Runner
from widelimit.dmft.causal.settings import DEFAULTS, settings
from widelimit.dmft.causal.state import start
from widelimit.dmft.causal.store import Store
from widelimit.kernels.empirical.budget import tree_bytes


def problem(steps=5, points=2, **changes):
    """Points without overlap."""
    given = {"targets": np.arange(points) - 0.5, "kernel": np.eye(points), "learning_rate": 0.3, "depth": 2}
    return dmft.Problem(steps=steps, **(given | changes))


@pytest.mark.parametrize("options", [{"samples": 2000}, {"response": "pathwise", "samples": 400}])
def test_bytes_are_predicted_within_a_factor_of_two(options):
    """Beside what XLA says that the last window's program holds: arguments, results and temporaries."""
    p = problem(steps=29, points=8)
    s = settings(p, **{**DEFAULTS, **options})
    planned = dmft.plan(p, **options)
    with jax.enable_x64(True):
        runner = Runner(p, s, planned.windows)
        window = planned.windows[-1]
        tables, noise = runner._arguments(draw(s, 0), window)
        state = jax.eval_shape(lambda: start(s, window))
        stats = runner._program(window).lower(tables, noise, state, jnp.int32(0)).compile().memory_analysis()
    used = stats.argument_size_in_bytes + stats.temp_size_in_bytes
    kept = planned.parts["results"] - tree_bytes(state.rows)  # the host's: means and errors
    assert 0.5 < (planned.bytes - kept) / used < 2


def test_time_grows_with_samples_steps_and_points_as_stated():
    """The count of operations: linear in samples, square in steps and points where samples dominate."""

    def flops(points, samples, window):
        s = settings(problem(40, points), **{**DEFAULTS, "samples": samples})
        return planner.window_flops(s, window)

    small = flops(4, 10**5, 41)
    assert flops(4, 2 * 10**5, 41) / small == pytest.approx(2, rel=0.05)
    assert flops(8, 10**5, 41) / small == pytest.approx(4, rel=0.05)
    assert flops(4, 10**5, 82) / small == pytest.approx(2, rel=0.05)  # of one step; there are twice as many
    plans = [dmft.plan(problem(40, 4), samples=1000, replicas=count) for count in (8, 16)]
    assert 9 * plans[1].flops == 17 * plans[0].flops  # one replica is solved twice, for the bias


def test_a_budget_chooses_windows_and_refuses_with_the_numbers():
    """Less memory takes other windows, which hold less twice; too little is refused before a start."""
    p = problem(steps=99, points=4)
    free = dmft.plan(p, samples=40000)
    tight = dmft.plan(p, samples=40000, memory=int(0.95 * free.bytes))
    assert tight.windows != free.windows and tight.bytes <= 0.95 * free.bytes
    with pytest.raises(
        ValueError, match=r"need .*iB \(fields .*\), and memory is .*: take \d+ samples"
    ) as caught:
        dmft.mlp(p, samples=40000, memory=free.bytes // 2)
    fits = int(str(caught.value).split(": take ")[1].split()[0])
    assert dmft.plan(p, samples=fits, memory=free.bytes // 2).samples == fits
    with pytest.raises(TypeError, match="options are those of mlp"):
        dmft.plan(p, sample=3)


@pytest.mark.slow
def test_windows_change_nothing_but_rounding(monkeypatch):
    """Blocks of steps are a matter of speed: several windows give what one gives, to float64 rounding."""
    p = problem(steps=9)
    options = {"samples": 100, "replicas": 2, "dtype": "float64", "control_variate": False}
    one = dmft.mlp(p, **options)
    monkeypatch.setattr(planner, "LEAST", 2)
    monkeypatch.setattr(planner, "GROWTHS", (1.9,))
    assert len(dmft.plan(p, **options).windows) > 1
    several = dmft.mlp(p, **options)
    np.testing.assert_allclose(one.predictions.values, several.predictions.values, atol=1e-9)
    np.testing.assert_allclose(one.gradients.values, several.gradients.values, atol=1e-8)


def test_a_killed_run_goes_on_with_the_same_numbers(tmp_path, monkeypatch):
    """Killed while the third replica is written: the rest is solved, and all is as without the kill."""
    options = {"samples": 64, "replicas": 4}
    whole = dmft.mlp(problem(), **options)
    save = Store.save

    def killed(self, replica, arrays):
        if replica == 2:
            (self._path / ".tmp-half").write_bytes(b"half a file")
            raise KeyboardInterrupt
        save(self, replica, arrays)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Store, "save", killed)
        dmft.mlp(problem(), **options, directory=tmp_path)
    again = dmft.mlp(problem(), **options, directory=tmp_path)
    assert again.diagnostics["replicas_resumed"] == 2
    for name in ("predictions", "loss", "features", "gradients", "feature_response", "ntk"):
        a, b = getattr(whole, name), getattr(again, name)
        assert np.array_equal(a.values, b.values) and np.array_equal(a.stderr, b.stderr), name
    with pytest.raises(ValueError, match="holds replicas of another problem or of other settings"):
        dmft.mlp(problem(gamma0=0.5), **options, directory=tmp_path)
    with pytest.raises(ValueError, match="holds replicas of another problem or of other settings"):
        dmft.mlp(problem(), samples=64, replicas=4, seed=1, directory=tmp_path)


def test_progress_counts_every_step(capsys):
    """A bar on standard error ends at 100%."""
    dmft.mlp(problem(), samples=20, replicas=2, progress=True)
    assert "dmft.mlp: 100%" in capsys.readouterr().err
