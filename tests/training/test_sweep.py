"""The sweep trains what a plain loop trains, in every mode, and one cell's end is no other's."""

from __future__ import annotations

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.training.sweep_problem import (
    ADAM,
    BATCH,
    EXTRAS,
    RATES,
    SEEDS,
    SGD,
    STEPS,
    batches,
    data,
    initialise,
    loss,
    measure,
)
from widelimit.training import Mode, Problem, SweepResult, sweep

ONE = jax.devices()[:1]


def run(problem: Problem = ADAM, **changes: object) -> SweepResult:
    """Sweeps the shared problem; float32, one device and one group unless told otherwise."""
    settings = {
        "learning_rates": RATES,
        "seeds": SEEDS,
        "data": data(),
        "batches": batches(),
        "mode": Mode(len(RATES) * len(SEEDS)),
        "extras": EXTRAS,
        "evaluation": data(),
        "chunk": 3,
        "devices": ONE,
    }
    return sweep(problem, **{**settings, **changes})


def plain_loop(
    problem: Problem, rate: float, seed: int, rows: np.ndarray, extras: object
) -> tuple[list, dict]:
    """The textbook loop: one cell, one step after the other, with optax and nothing of ours around it."""
    samples = jax.tree.map(jnp.asarray, data(np.float64))
    params = problem.initialise(jax.random.key(seed), extras)
    optimizer = problem.optimizer(rate, extras)
    state, losses = optimizer.init(params), []
    for index in rows:
        batch = jax.tree.map(lambda array, index=index: array[index], samples)
        value, gradient = jax.value_and_grad(problem.loss)(params, batch, extras)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(float(value))
    return losses, {name: float(value) for name, value in problem.measure(params, samples, extras).items()}


@pytest.mark.parametrize("problem", [ADAM, SGD], ids=["adam", "momentum"])
@pytest.mark.parametrize(
    "mode", [pytest.param(Mode(6), marks=pytest.mark.slow), Mode(1, in_flight=2), Mode(4)], ids=str
)
def test_every_cell_equals_a_plain_loop(problem, mode):
    """Loss by loss and in the final weights: chunks, groups, padding and masks change nothing."""
    with jax.enable_x64(True):
        extras = {"scale": np.float64(0.7)}
        x64 = {"data": data(np.float64), "evaluation": data(np.float64), "extras": extras}
        result = run(problem, mode=mode, **x64)
        assert result.losses.shape == (len(RATES), len(SEEDS), STEPS)
        for r, rate in enumerate(RATES):
            for s, seed in enumerate(SEEDS):
                losses, metrics = plain_loop(problem, rate, seed, batches()[s], extras)
                np.testing.assert_allclose(result.losses[r, s], losses, rtol=1e-12)
                for name, value in metrics.items():
                    np.testing.assert_allclose(result.metrics[name][r, s], value, rtol=1e-12)
    assert (result.diverged_at == -1).all()


def test_modes_and_chunks_agree_to_rounding():
    """In float32: at once, one by one, in groups that do not divide R S, in chunks that do not divide T."""
    reference = run()
    for changes in (
        {"mode": Mode(1)},
        {"mode": Mode(1, 6)},
        {"mode": Mode(4, 2)},
        {"chunk": 1},
        {"chunk": 50},
    ):
        result = run(**changes)
        np.testing.assert_allclose(result.losses, reference.losses, rtol=2e-5)
        np.testing.assert_allclose(result.metrics["weight"], reference.metrics["weight"], rtol=1e-4)


def test_calls_in_flight_do_not_change_a_bit():
    """How many groups run side by side is no part of the arithmetic."""
    one, many = run(mode=Mode(1, 1)), run(mode=Mode(1, 6))
    np.testing.assert_array_equal(one.losses, many.losses)
    chex.assert_trees_all_equal(dict(one.metrics), dict(many.metrics))


@pytest.mark.parametrize("group", [1, 2])
def test_eight_devices_give_the_numbers_of_one(group):
    """Six cells over eight devices, two of which get copies.

    A cell that runs alone on its device runs the same program as one that runs alone on the only device:
    equal bit for bit. A vmap over two cells may order sums differently: equal to rounding.
    """
    sharded = run(mode=Mode(group), devices=jax.devices())
    single = run(mode=Mode(1))
    if group == 1:
        np.testing.assert_array_equal(sharded.losses, single.losses)
        chex.assert_trees_all_equal(dict(sharded.metrics), dict(single.metrics))
    np.testing.assert_allclose(sharded.losses, single.losses, rtol=2e-5)
    assert len(jax.devices()) == 8


def test_same_seed_same_start_and_same_batches():
    """Common random numbers: the first loss of a seed is the same at every rate, the next ones are not."""
    result = run()
    np.testing.assert_array_equal(result.losses[0, :, 0], result.losses[2, :, 0])
    assert result.losses[0, 0, 0] != result.losses[0, 1, 0]
    subset = run(learning_rates=RATES[1:2], seeds=SEEDS[1:], batches=batches()[1:], mode=Mode(6))
    np.testing.assert_allclose(subset.losses[0, 0], result.losses[1, 1], rtol=2e-5)


def test_other_extras_run_the_same_program():
    """Standard and muP differ in the values of arrays only: nothing is traced again."""
    traced = []

    def counted(params, batch, extras):
        traced.append(1)
        return extras["scale"] * loss(params, batch, extras)

    problem = dataclasses.replace(ADAM, loss=counted)
    first = run(problem)
    count = len(traced)
    second = run(problem, extras={"scale": np.float32(1.4)}, learning_rates=(0.3, 0.2, 0.1))
    assert len(traced) == count > 0
    assert not np.allclose(first.losses, second.losses)


def bomb(limit: float) -> Problem:
    """SGD on |w|^p grows without bound at rates above ``limit``, doubling or so each step."""

    def quadratic(w, batch, extras):
        return jnp.sum(w**2) / limit

    return Problem(
        initialise=lambda key, extras: jax.random.normal(key, (3,)),
        loss=quadratic,
        optimizer=lambda rate, extras: optax.adam(rate) if extras else optax.sgd(rate),
        measure=lambda w, evaluation, extras: {"loss": jnp.sum(w**2)},
    )


@pytest.mark.parametrize("mode", [Mode(6), Mode(1, 6), Mode(2)], ids=str)
def test_a_diverged_cell_is_frozen_and_recorded_and_the_others_do_not_notice(mode):
    """The middle rate explodes: its losses are infinite from the step on at which the multiple is passed."""
    problem = bomb(1.0)
    kwargs = {"extras": None, "mode": mode, "divergence": 100.0, "chunk": 3}
    healthy = run(problem, learning_rates=[0.1, 0.3], **{**kwargs, "mode": Mode(1, 4)})
    result = run(problem, learning_rates=[0.1, 3.0, 0.3], **kwargs)
    # Each step multiplies w by |1 - 2 rate| = 5 and the loss by 25: 1, 25, 625 > 100.
    np.testing.assert_array_equal(result.diverged_at, [[-1, -1], [2, 2], [-1, -1]])
    assert np.isfinite(result.losses[1, :, :2]).all() and np.isinf(result.losses[1, :, 2:]).all()
    assert np.isnan(result.metrics["loss"][1]).all()
    np.testing.assert_allclose(result.losses[[0, 2]], healthy.losses, rtol=1e-6)
    np.testing.assert_allclose(result.metrics["loss"][[0, 2]], healthy.metrics["loss"], rtol=1e-6)
    row = result.rows()[2]
    assert (
        row["diverged"]
        and row["diverged_at"] == 2
        and row["learning_rate"] == 3.0
        and row["seed"] == SEEDS[0]
    )
    assert result.rows()[0]["diverged_at"] is None


def test_nan_and_infinity_count_as_divergence_whatever_the_multiple():
    """With an infinite multiple only what is not finite counts; NaN does not slip through the comparison."""

    def loss_of(w, batch, extras):
        return jnp.sum(jnp.where(w > 1.65, jnp.nan, w))

    problem = Problem(
        initialise=lambda key, extras: jnp.ones(1),
        loss=loss_of,
        optimizer=lambda rate, extras: optax.sgd(-rate),
    )
    result = run(problem, learning_rates=[0.1, 0.4], divergence=np.inf)
    np.testing.assert_array_equal(result.diverged_at[1], [2, 2])
    assert np.isinf(result.losses[1, :, 2:]).all()
    np.testing.assert_allclose(result.losses[0, 0], 1 + 0.1 * np.arange(STEPS), rtol=1e-6)
    assert not result.metrics


def test_the_weights_of_a_frozen_cell_stay_finite():
    """What is frozen is the state before the step that would have spoiled it: no NaN is carried along."""
    from widelimit.training import program
    from widelimit.training import run as run_module
    from widelimit.training.grid import check_grid

    samples = data()
    grid = check_grid([3.0, 0.1], SEEDS, batches(), samples, samples, 3, 100.0)
    inputs = run_module.Inputs(samples, None, samples, 100.0)
    under_way = run_module.Run(bomb(1.0), grid, Mode(4), tuple(ONE), inputs)
    under_way.advance()
    under_way.advance()
    cells: program.Cell = under_way._running[0]
    frozen, moving = np.asarray(cells.params)[:2], np.asarray(cells.params)[2:]
    start = np.stack([jax.random.normal(jax.random.key(seed), (3,)) for seed in SEEDS])
    np.testing.assert_allclose(frozen, start * 25.0, rtol=1e-5)  # two steps of factor -5, none after
    np.testing.assert_allclose(moving, start * 0.8**6, rtol=1e-5)


def test_progress_counts_steps_over_all_cells():
    """Every chunk of every wave is reported once, padding not counted."""
    seen: list[tuple[int, int]] = []
    run(mode=Mode(4), on_chunk=lambda done, total: seen.append((done, total)))
    assert seen == [(12, 42), (24, 42), (28, 42), (34, 42), (40, 42), (42, 42)]


def test_a_final_measurement_that_is_not_finite_is_divergence_after_the_last_step():
    """The last update is seen by no loss: the measurement reports it."""
    problem = dataclasses.replace(ADAM, measure=lambda p, e, x: {"loss": jnp.log(-jnp.abs(p["w"][0, 0]))})
    result = run(problem)
    assert (result.diverged_at == STEPS).all() and np.isfinite(result.losses).all()


BAD = {
    "no rates": ({"learning_rates": []}, ValueError, "at least one rate"),
    "negative rate": ({"learning_rates": [0.1, -0.1]}, ValueError, "positive and finite; got -0.1"),
    "NaN rate": ({"learning_rates": [float("nan")]}, ValueError, "positive and finite"),
    "repeated rate": ({"learning_rates": [0.1, 0.1]}, ValueError, "must all be different"),
    "no seeds": ({"seeds": [], "batches": batches(seeds=0)}, ValueError, "seeds must hold"),
    "repeated seed": ({"seeds": [1, 1]}, ValueError, "must all be different"),
    "fractional seed": ({"seeds": [1, 2.0]}, TypeError, "whole number; got 2.0"),
    "negative seed": ({"seeds": [-1, 2]}, ValueError, "0 to 4294967295; got -1"),
    "batches of other seeds": ({"batches": batches()[:1]}, ValueError, "with 2 seeds"),
    "no steps": ({"batches": batches(steps=0)}, ValueError, "at least one step"),
    "float batches": ({"batches": batches().astype(float)}, TypeError, "whole numbers"),
    "batch out of range": ({"batches": batches() + 10}, ValueError, "the 20 rows of data"),
    "NaN data": ({"data": {**data(), "x": np.full((20, 5), np.nan, np.float32)}}, ValueError, "'x'.*finite"),
    "NaN evaluation": ({"evaluation": {"x": np.full((2, 5), np.inf)}}, ValueError, "evaluation.*finite"),
    "ragged data": ({"data": {**data(), "y": np.zeros(19, np.int32)}}, ValueError, "as many rows in each"),
    "no data": ({"data": {}}, ValueError, "as many rows in each"),
    "chunk 0": ({"chunk": 0}, ValueError, "at least 1 step"),
    "divergence below 1": ({"divergence": 0.5}, ValueError, "at least 1; got 0.5"),
    "NaN divergence": ({"divergence": float("nan")}, ValueError, "at least 1"),
    "loss per sample": (
        {"problem": dataclasses.replace(ADAM, loss=lambda p, b, e: b["x"][:, 0] * p["w"][0, 0])},
        TypeError,
        r"the loss must be one floating number per cell.*\(4,\)",
    ),
    "vector metric": (
        {"problem": dataclasses.replace(ADAM, measure=lambda p, e, x: {"norms": p["w"][0]})},
        TypeError,
        "norms must be one floating number",
    ),
}


@pytest.mark.parametrize(("changes", "error", "sentence"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_in_one_sentence(changes, error, sentence):
    """Before anything is compiled or run."""
    with pytest.raises(error, match=f"(?s){sentence}") as caught:
        run(**changes)
    assert "\n" not in str(caught.value)


def test_the_shared_problem_learns():
    """The tests above would pass on a network that does nothing."""
    result = run(batches=batches(40), learning_rates=[0.05], chunk=20)
    assert (result.metrics["loss"] < 0.7 * result.losses[:, :, 0]).all()
    assert BATCH == batches().shape[2] and initialise and measure
