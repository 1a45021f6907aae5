"""Lazy or rich: the contract, resuming, the scale's identities, and that nothing is tuned on test images."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import lazy_or_rich, lazy_or_rich_report, lazy_or_rich_sizes
from experiments import lazy_or_rich_networks as networks
from experiments.lazy_or_rich import PRESETS, run
from experiments.lazy_or_rich_networks import Schedule
from experiments.lazy_or_rich_sizes import RIDGES, Sample, choose_ridge, choose_share, targets
from tests.experiments.support import killed, stored
from widelimit.kernels.dynamics import linearise
from widelimit.models import MLP, initialise, rules
from widelimit.optim import sgd
from widelimit.scaling import dmft

SMOKE = PRESETS["smoke"]
SCHEDULE = Schedule(0.2, 0.9, 30)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The smoke preset, run once."""
    directory = tmp_path_factory.mktemp("lazy_or_rich") / "run"
    return run(SMOKE, directory), directory


@pytest.fixture(scope="module")
def small():
    """A small network, its start, and a task: apply, params, x [12, 5], y [12, 3]."""
    shape = networks.describe(16, 1, inputs=5, outputs=3)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 5)).astype(np.float32), rng.normal(size=(12, 3)).astype(np.float32)
    return networks.forward(shape), networks.draw(shape, 0), x, y


def test_contract(smoke):
    """A directory with everything in it, a row per cell, and the claims in the order of the page."""
    summary, directory = smoke
    rows, written = stored(directory)
    scales, sizes = SMOKE.seeds * len(SMOKE.log2_scales), SMOKE.splits * len(SMOKE.sizes)
    assert len(rows) == scales + len(lazy_or_rich_sizes.PREDICTORS) * sizes
    assert len(written["claims"]) == lazy_or_rich_report.CLAIMS
    assert {path.name for path in directory.glob("*.png")} == {"scale.png", "samples.png"}
    assert {name: len(table) for name, table in written["tables"].items()} == {
        "scale": len(SMOKE.log2_scales),
        "accuracy": len(SMOKE.sizes),
        "tuned": len(SMOKE.sizes),
    }
    assert [claim.holds for claim in summary.claims[:5]] == [True] * 5  # what does not need many samples


def test_killed_anywhere_it_ends_with_the_same_numbers(smoke, tmp_path):
    """Cut within a seed's scales and within a line, it goes on to the same rows and the same summary."""
    _, directory = smoke
    lines = (directory / "rows.jsonl").read_bytes().splitlines(keepends=True)
    place = killed(directory, tmp_path / "killed", b"".join(lines[:6]) + lines[6][:40])
    run(SMOKE, place)
    assert stored(place) == stored(directory)


def test_a_linear_model_is_the_same_at_every_scale(small):
    """F = J v for a model that is linear in its parameters, so the scale cancels to rounding."""
    apply, start, x, y = small
    linear = linearise(apply, start)
    ends = [networks.descend(linear, start, x, y, scale, SCHEDULE).train for scale in (0.125, 1.0, 32.0)]
    for end in ends[1:]:
        np.testing.assert_allclose(end, ends[0], atol=2e-5)


def test_the_own_prediction_is_the_linearised_descent(small):
    """Eigenvectors of the full kernel and steps in parameter space agree, with momentum, at test points."""
    apply, start, x, y = small
    x_test = np.flip(x, axis=1).copy()
    own = networks.own_prediction(apply, start, x, y, x_test, SCHEDULE)
    linear = linearise(apply, start)
    end = networks.descend(linear, start, x, y, 1.0, SCHEDULE)
    np.testing.assert_allclose(networks.outputs(linear, start, end.offset, 1.0, x_test), own, atol=1e-4)


def test_a_large_scale_tends_to_it_like_one_over_the_scale(small):
    """The distance halves with every doubling of the scale, and is no rounding."""
    apply, start, x, y = small
    own = networks.own_prediction(apply, start, x, y, x, SCHEDULE)
    off = [
        np.linalg.norm(np.asarray(networks.descend(apply, start, x, y, scale, SCHEDULE).train[-1]) - own)
        for scale in (16.0, 32.0, 64.0)
    ]
    np.testing.assert_allclose([off[0] / off[1], off[1] / off[2]], 2.0, rtol=0.1)


def test_the_rich_network_is_the_mean_field_network():
    """Scale 1/(gamma0 sqrt(width)) under the NTK parametrization is DMFT's network with its learning rate."""
    gamma0, width, rate = 0.7, 16, 0.3
    shape = networks.describe(width, 2, inputs=5, outputs=3)
    other = dataclasses.replace(shape, parametrization=dmft(gamma0=gamma0))
    own, model = rules(other, "sgd"), MLP(other)
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(12, 5)), jnp.float32)
    y = jnp.asarray(rng.normal(size=(12, 3)), jnp.float32)

    def apply(params, inputs):
        return model.apply({"params": params, "multipliers": own.multiplier}, inputs)

    start = params = initialise(jax.random.key(3), own)
    first = apply(start, x)
    optimizer = sgd(rate, own)
    state = optimizer.init(params)
    gradient = jax.jit(jax.grad(lambda p: 0.5 * jnp.mean(jnp.sum((apply(p, x) - first - y) ** 2, axis=1))))
    for _ in range(5):
        updates, state = optimizer.update(gradient(params), state, params)
        params = jax.tree.map(jnp.add, params, updates)
    same = initialise(jax.random.key(3), rules(shape, "sgd"))
    scale = 1 / (gamma0 * np.sqrt(width))
    end = networks.descend(networks.forward(shape), same, x, y, scale, Schedule(rate, 0.0, 5))
    moved = apply(params, x) - first
    assert np.linalg.norm(moved) > 0.1 * np.linalg.norm(y)
    np.testing.assert_allclose(end.train[-1], moved, atol=1e-5)


def test_the_smallest_scale_is_stable_at_the_shared_rate(smoke):
    """One rate serves all scales: every descent ends below its start, and fits."""
    rows, _ = stored(smoke[1])
    losses = [row["train_loss"] for row in rows if row["part"] == "scale"]
    assert max(losses) < 0.05 * 0.45  # half of |y|^2 = 0.9


def test_nothing_is_chosen_on_test_images(monkeypatch):
    """Ridge, rate, C and gamma stay what they are when the test images and their digits are others."""
    config = dataclasses.replace(SMOKE, sizes=(24,))
    sample = lazy_or_rich.load(config, 0, 24)
    setting = lazy_or_rich_sizes.Networks(
        networks.describe(16, 1), (0,), Schedule(0.25, 0.9, 10), 16.0, 0.25, (0.25, 0.5)
    )
    other = sample._replace(
        x_test=-sample.x_test[::-1].copy(), labels_test=(sample.labels_test + 3).astype(np.int32) % 10
    )
    chosen = ("ridge", "validation_error", "rate_share", "validation_loss", "cost", "gamma")
    one, two = (lazy_or_rich_sizes.compare(case, setting) for case in (sample, other))
    for row, again in zip(one, two, strict=True):
        assert row["accuracy"] != again["accuracy"]
        assert {key: row[key] for key in chosen if key in row} == {
            key: again[key] for key in chosen if key in again
        }
    assert {key for row in one for key in row} >= {*chosen}


def test_training_and_test_images_are_disjoint_and_splits_nested():
    """A smaller training set begins a larger one, and the test images are the same for both."""
    config = PRESETS["default"]
    small, large = (lazy_or_rich.load(config, 3, samples) for samples in (32, 1000))
    np.testing.assert_array_equal(large.x[:32], small.x)
    np.testing.assert_array_equal(large.x_test, small.x_test)
    images = {row.tobytes() for row in large.x}
    assert len(large.x_test) == 797 and not images & {row.tobytes() for row in large.x_test}
    assert 0.8 < np.mean(large.x**2) < 1.6


def test_the_ridge_with_fewest_leave_one_out_errors(monkeypatch):
    """Chosen among the stated multiples by the count of wrong digits, then by squared residuals."""
    labels = np.array([0, 1, 0, 1, 0, 1], np.int32)
    kernel = 2.0 * np.eye(6) + np.equal.outer(labels, labels)
    residuals = iter([0.2, 0.1, 0.3, 0.1, 0.3, 0.3])
    wrong = iter([0, 1, 0, 0, 0, 0])

    def away(_, y, *, ridge):
        assert np.isclose(ridge, 3.0 * RIDGES).any()
        outputs = y + next(residuals) * np.eye(10)[0]
        outputs[0] = np.where(next(wrong), np.eye(10)[5], outputs[0])
        return outputs

    monkeypatch.setattr(lazy_or_rich_sizes.dynamics, "leave_one_out", away)
    assert choose_ridge(kernel, labels) == pytest.approx((3.0 * RIDGES[3], 0.0))


def test_a_rate_that_diverges_is_not_chosen():
    """Beyond the largest stable rate the held-out loss is infinite, or at least the larger one."""
    sample = Sample(*(lazy_or_rich.load(dataclasses.replace(SMOKE, sizes=(24,)), 0, 24)))
    kernel = 3.0 * np.eye(24) + 1.0
    setting = lazy_or_rich_sizes.Networks(
        networks.describe(16, 1), (0,), Schedule(0.25, 0.0, 60), 16.0, 16.0, (0.2, 1000.0)
    )
    assert choose_share(setting, sample, kernel)[0] == 0.2


@pytest.mark.slow
def test_a_scale_that_diverges_is_a_row_and_no_verdict(tmp_path):
    """At three times the largest stable rate the lazy end diverges: the run ends, and decides nothing."""
    config = dataclasses.replace(
        SMOKE, rate=3.0, rich_rates=(3.0,), seeds=2, sizes=(20,), width=16, test_samples=50
    )
    summary = run(config, tmp_path / "run")
    rows, _ = stored(tmp_path / "run")
    assert any(row["diverged"] for row in rows if row["part"] == "scale")
    assert summary.claims[0].holds == "inconclusive"


@pytest.mark.parametrize("wrong", [0.0, -0.5, -2.0])
def test_the_default_tells_the_laws_from_their_rivals(wrong):
    """A kernel that stays, moves like 1/sqrt(scale) or like 1/scale^2 is noticed; 1/scale is not refused."""
    config = PRESETS["default"]
    scales = list(config.log2_scales)
    alpha = 2.0 ** np.array(scales)
    noise = 1 + 0.01 * np.random.default_rng(0).normal(size=(config.seeds, len(scales)))

    def verdicts(exponent):
        table = dict.fromkeys(("test_error", "own_test_error", "alignment"), noise * alpha ** (-1.0))
        table |= dict.fromkeys(("kernel_change", "own_distance"), noise * alpha**exponent)
        table["cka_gap"] = noise * alpha ** (2 * exponent)
        claims = lazy_or_rich_report._scale_claims(config, scales, table)
        return [claim.holds for claim in claims[:3]]

    assert verdicts(wrong) == [False] * 3
    assert verdicts(-1.0) == [True] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log2_scales": (0, 1)}, "log2_scales must be 3 or more increasing"),
        ({"lazy_from": 6}, "three of log2_scales"),
        ({"sizes": (10,)}, "sizes must start at 20"),
        ({"sizes": (32, 1700)}, "leave 97 for testing"),
        ({"seeds": 1}, "two seeds"),
        ({"momentum": 1.0}, "momentum must lie"),
        ({"gamma0": 0.0}, "positive and finite"),
        ({"width": 0}, "must be at least 1"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PRESETS["default"], **change)


def test_targets_are_centred():
    assert np.abs(targets(np.arange(10)).sum(axis=1)).max() < 1e-6
