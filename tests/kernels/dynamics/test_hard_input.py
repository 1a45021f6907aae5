"""Hard input: the right answer or one clear sentence, never NaN, and no warning (those are errors here)."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from widelimit.kernels import analytic
from widelimit.kernels.dynamics import (
    ensemble,
    gp_inference,
    gradient_descent,
    gradient_flow,
    kernel_regression,
    largest_rate,
    leave_one_out,
    log_marginal_likelihood,
)
from widelimit.models import MLPConfig
from widelimit.scaling import ntk

KERNEL, TARGETS = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([1.0, 3.0])
EVERY = {
    "flow": lambda k, y: gradient_flow(k, y, [1.0, np.inf]).train,
    "descent": lambda k, y: gradient_descent(k, y, 0.1, 3, momentum=0.5).train,
    "cross-entropy": lambda k, y: (
        gradient_descent(k, np.eye(2)[: len(y)], 0.1, 3, loss="cross_entropy").train
    ),
    "regression": lambda k, y: kernel_regression(k, y).train,
    "posterior": lambda k, y: gp_inference(k, y[:1]).mean,
    "ensemble": lambda k, y: ensemble(k, k, y, [1.0, np.inf]).covariance,
    "left out": lambda k, y: leave_one_out(k, y, ridge=1.0),
    "likelihood": lambda k, y: log_marginal_likelihood(k, y, ridge=1.0),
}
every = pytest.mark.parametrize("run", EVERY.values(), ids=EVERY)


@every
def test_zero_inputs_teach_nothing(run):
    """A network without biases has a zero kernel on zero inputs: predictions stay finite."""
    assert np.isfinite(run(np.zeros((2, 2)), TARGETS)).all()
    assert largest_rate(np.zeros((2, 2))) == np.inf
    assert (
        gradient_flow(np.zeros((2, 2)), TARGETS, np.inf, initial=TARGETS + 1).train[0] == TARGETS + 1
    ).all()


@every
def test_one_zero_input_among_others(run):
    """Its row and column are zero; the other sample is learned as if alone."""
    kernel = np.array([[2.0, 0.0], [0.0, 0.0]])
    assert np.isfinite(run(kernel, TARGETS)).all()
    np.testing.assert_allclose(kernel_regression(kernel, TARGETS).train, [1.0, 0.0], atol=1e-15)
    np.testing.assert_allclose(gradient_flow(kernel, TARGETS, np.inf).train[0], [1.0, 0.0], atol=1e-15)


@every
def test_one_sample(run):
    """N = 1 is a kernel too."""
    assert np.isfinite(run(np.array([[2.0]]), TARGETS[:1])).all()
    assert gradient_flow([[2.0]], [3.0], 0.5).train[0, 0] == pytest.approx(3 * (1 - np.exp(-1.0)), rel=1e-14)
    assert kernel_regression([[2.0]], [3.0], test=[[1.0]], ridge=1.0).test[0] == pytest.approx(1.0, rel=1e-15)


@every
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int32", "uint8"])
def test_any_real_dtype_is_computed_in_float64(run, dtype):
    """Half precision and integers hold these kernels exactly, so the result is that of float64."""
    given = jnp.asarray(KERNEL, dtype)
    expected, found = run(KERNEL, TARGETS), run(given, TARGETS)
    assert np.asarray(found).dtype == np.float64
    np.testing.assert_array_equal(found, expected)


@every
@pytest.mark.parametrize("scale", [1e-8, 1e8, 1e-150, 1e150])
def test_any_scale(run, scale):
    """Nothing overflows, vanishes, or is taken for rounding because of its unit."""
    found = run(scale * KERNEL, TARGETS)
    if scale == 1e150 and run is EVERY["descent"]:  # the rate is 1e150 times too large
        assert np.isposinf(found).all()
    else:
        assert np.isfinite(found).all()
    np.testing.assert_allclose(kernel_regression(scale * KERNEL, TARGETS).train, TARGETS, rtol=1e-14)


@every
def test_negative_eigenvalues_from_rounding_are_zero(run):
    """Singular kernels with the rounding of their dtype: finite, and as the exact kernel to rounding."""
    rng = np.random.default_rng(0)
    for dtype, size in (("float64", 1e-15), ("float32", 1e-6)):
        noise = size * rng.normal(size=(2, 2))
        kernel = (np.ones((2, 2)) + noise + noise.T - size * np.eye(2) * 5).astype(dtype)
        assert np.linalg.eigvalsh(kernel)[0] < 0
        assert np.isfinite(run(kernel, TARGETS)).all()
        np.testing.assert_allclose(kernel_regression(kernel, TARGETS).train, [2.0, 2.0], atol=20 * size)
        losses = gradient_flow(kernel, TARGETS, np.logspace(0, 20, 200)).loss
        assert losses.max() <= losses[0] * (1 + 1e-14)  # e^(-lam t) with lam < 0 would grow
        np.testing.assert_allclose(
            gradient_flow(kernel, TARGETS, np.inf).train[0], [2.0, 2.0], atol=20 * size
        )


def test_eigenvalues_that_are_rounding_are_not_inverted():
    """Contradictory targets of three near-duplicates are averaged, whatever the noise of the kernel is."""
    y = np.array([1.0, 3.0, 8.0])
    noisy = np.ones((3, 3)) + 1e-9 * np.array(
        [[-1, 1, 0], [1, -1, 0], [0, 0, 1.0]]
    )  # beyond float64, as arccos
    pivot = np.ones((3, 3)) + 4e-16 * np.diag([0.0, 1.0, 2.0])  # Cholesky succeeds
    for kernel, allowed in ((noisy, 1e-8), (pivot, 1e-14)):
        fit, flow = kernel_regression(kernel, y), gradient_flow(kernel, y, np.inf)
        assert fit.rank == 1
        np.testing.assert_allclose(fit.train, 4.0, atol=allowed)
        np.testing.assert_allclose(flow.train[0], 4.0, atol=allowed)


def test_a_ridge_is_taken_at_its_word():
    """Below the rounding of a float32 kernel too: who sets one has judged the noise. Nothing is left out."""
    fit = kernel_regression(np.ones((2, 2), "float32"), TARGETS, ridge=1e-8)
    assert fit.rank == 2
    np.testing.assert_allclose(fit.train, 2.0, atol=1e-7)
    np.testing.assert_allclose(fit.coefficients, [-1e8, 1e8], rtol=1e-6)
    below = np.ones((2, 2), "float32") - np.float32(1e-6) * np.eye(
        2, dtype="float32"
    )  # and under its rounding
    fit = kernel_regression(below, TARGETS, ridge=1e-7)
    assert fit.rank == 2
    np.testing.assert_allclose(fit.coefficients, [-1e7, 1e7], rtol=1e-6)


@pytest.mark.parametrize("run", [EVERY[name] for name in ("flow", "descent", "regression", "ensemble")])
def test_an_indefinite_kernel_is_refused(run):
    """An eigenvalue of -1 is no rounding; float32 is given more room than float64, and no more than half."""
    with pytest.raises(ValueError, match=r"positive semi-definite; its eigenvalues reach from -1 to 3"):
        run(np.array([[1.0, 2.0], [2.0, 1.0]]), TARGETS)
    slightly = np.diag([1.0, -1e-5])
    assert np.isfinite(run(slightly.astype("float32"), TARGETS)).all()
    with pytest.raises(ValueError, match="more than rounding"):
        run(slightly, TARGETS)


@every
def test_what_is_no_kernel_is_refused(run):
    """NaN, infinity, rectangles, asymmetry, other shapes and complex numbers: a sentence each."""
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="must be finite; 1 of its 4 entries"):
            run(np.array([[1.0, 0.0], [0.0, value]]), TARGETS)
    for shape in [(2, 3), (2,), (2, 2, 2), (2, 2, 2, 3), (0, 0)]:
        with pytest.raises(ValueError, match="must have shape"):
            run(np.ones(shape), TARGETS)
    with pytest.raises(
        ValueError, match="must be symmetric; entries differ from their mirror image by up to 1"
    ):
        run(np.array([[2.0, 1.0], [0.0, 2.0]]), TARGETS)
    with pytest.raises(TypeError, match="must hold real numbers; got dtype complex128"):
        run(KERNEL.astype(complex), TARGETS)


@pytest.mark.parametrize("activation", ["relu", "erf", "gelu"])
def test_kernels_of_networks_on_duplicate_and_zero_inputs(activation):
    """analytic.kernel of such inputs, float16 too: the duplicate changes nothing, and nothing is NaN."""
    config = MLPConfig(
        inputs=3, outputs=1, width=8, base_width=1, parametrization=ntk(), activation=activation, bias_std=0.1
    )
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(4, 3)), np.zeros((1, 3)), rng.normal(size=(2, 3))]).astype("float16")
    y, order = (
        rng.normal(size=(5, 1)),
        [0, 1, 2, 3, 4, 0, 5, 6],
    )  # training points, one of them twice, test points
    once, twice = analytic.kernel(config, x), analytic.kernel(config, x[order])
    alone = ensemble(once.nngp, once.ntk, y, [np.inf])
    again = ensemble(twice.nngp, twice.ntk, np.concatenate([y, y[:1]]), [np.inf])
    np.testing.assert_allclose(again.mean[0], alone.mean[0][order], atol=1e-6)
    np.testing.assert_allclose(again.covariance[0], alone.covariance[0][order][:, order], atol=1e-6)
    fit = kernel_regression(twice.ntk[:6, :6], np.concatenate([y, y[:1]]), test=twice.ntk[6:, :6])
    np.testing.assert_allclose(fit.test, alone.mean[0, 5:], atol=1e-6)
    assert fit.rank == 5
    posterior, same = gp_inference(once.nngp, y), gp_inference(twice.nngp, np.concatenate([y, y[:1]]))
    np.testing.assert_allclose(posterior.mean, same.mean, atol=1e-6)
    np.testing.assert_allclose(posterior.covariance, same.covariance, atol=1e-6)


def test_targets_and_points_that_do_not_fit_are_refused():
    """Each sentence gives the shape that was expected, with the numbers of this kernel."""
    with pytest.raises(ValueError, match=r"targets must have shape \[2, O\] .* got \(3,\)"):
        gradient_flow(KERNEL, np.ones(3), 1.0)
    with pytest.raises(ValueError, match=r"targets must have shape \[2, 3\] .* got \(2, 2\)"):
        gradient_flow(np.einsum("ij,op->ijop", KERNEL, np.eye(3)), np.ones((2, 2)), 1.0)
    with pytest.raises(ValueError, match=r"test must be the kernel .* \('M', 2\); got \(2, 3\)"):
        gradient_flow(KERNEL, TARGETS, 1.0, test=np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"initial must have shape \(2,\); got \(2, 1\)"):
        gradient_flow(KERNEL, TARGETS, 1.0, initial=np.ones((2, 1)))
    with pytest.raises(ValueError, match="initial_test needs test"):
        gradient_flow(KERNEL, TARGETS, 1.0, initial_test=np.ones(2))
    with pytest.raises(ValueError, match="targets must be finite"):
        gradient_flow(KERNEL, [1.0, np.nan], 1.0)
    with pytest.raises(ValueError, match=r"N at most the 2 points of nngp; got \(3,\)"):
        gp_inference(KERNEL, np.ones(3))
    with pytest.raises(ValueError, match=r"ntk must have shape \(2, 1\).* got \(3, 3\)"):
        ensemble(KERNEL, np.eye(3), TARGETS[:1], 1.0)
    with pytest.raises(ValueError, match="nngp must have shape .P, P., one for all outputs"):
        gp_inference(np.einsum("ij,op->ijop", KERNEL, np.eye(3)), TARGETS)
    indefinite = np.array([[1.0, 3.0], [3.0, 2.0]])
    with pytest.raises(ValueError, match="gives a point the variance -7"):
        gp_inference(indefinite, [1.0])
    for form in ("full", "diagonal"):
        with pytest.raises(ValueError, match="gives a point the variance -7"):
            ensemble(indefinite, indefinite, [1.0], np.inf, form=form)


@pytest.mark.parametrize("times", [[-1.0], [np.nan], [[1.0]]])
def test_times_that_do_not_exist_are_refused(times):
    """Negative, NaN, or not a list."""
    with pytest.raises(ValueError, match="times must be numbers from 0 to infinity"):
        gradient_flow(KERNEL, TARGETS, times)


def test_steps_and_rates_that_do_not_exist_are_refused():
    """Fractions of a step, negative rates, momentum of one."""
    for steps in (1.5, -1, [[1]], np.inf, "two"):
        with pytest.raises(ValueError, match="steps must be whole numbers from 0"):
            gradient_descent(KERNEL, TARGETS, 0.1, steps)
    for rate in (0.0, -1.0, np.nan, np.inf, [0.1]):
        with pytest.raises(ValueError, match="rate must be a positive number"):
            gradient_descent(KERNEL, TARGETS, rate, 1)
    for momentum in (1.0, -0.1, np.nan):
        with pytest.raises(ValueError, match="momentum must be a number from 0 to below 1"):
            gradient_descent(KERNEL, TARGETS, 0.1, 1, momentum=momentum)
    with pytest.raises(ValueError, match="momentum needs rate and steps"):
        ensemble(KERNEL, KERNEL, TARGETS, 1.0, momentum=0.5)
    for when, got in (
        ({}, "none of them"),
        ({"rate": 0.1}, "rate"),
        ({"steps": 3}, "steps"),
        ({"times": 1.0, "rate": 0.1}, "times and rate"),
        ({"times": 1.0, "rate": 0.1, "steps": 3}, "times and rate and steps"),
    ):
        with pytest.raises(ValueError, match=f"gradient descent rate and steps, .* got {got}[.]"):
            ensemble(KERNEL, KERNEL, TARGETS, **when)
    with pytest.raises(ValueError, match='"full" or "diagonal"'):
        ensemble(KERNEL, KERNEL, TARGETS, 1.0, form="half")


def test_regularisation_is_absolute_and_never_negative():
    """What is passed is added, and reported as passed."""
    fit = kernel_regression([[1e8]], [1.0], jitter=1e8)
    assert fit.train.tolist() == [0.5] and fit.jitter == 1e8
    for wrong in (-1.0, np.nan, [1.0, 1.0]):
        with pytest.raises(ValueError, match="added to the diagonal as it is"):
            kernel_regression(KERNEL, TARGETS, ridge=wrong)


def test_formulas_that_need_an_inverse_say_so():
    """Duplicates without noise: no leave-one-out formula, no density."""
    for run in (leave_one_out, log_marginal_likelihood):
        with pytest.raises(ValueError, match="singular: 1 of its 2 eigenvalues are rounding"):
            run(np.ones((2, 2)), TARGETS)


def test_no_test_points_and_no_steps():
    """Empty sets are sets."""
    assert gradient_flow(KERNEL, TARGETS, 1.0, test=np.zeros((0, 2))).test.shape == (1, 0)
    assert gradient_descent(KERNEL, TARGETS, 0.1, []).train.shape == (0, 2)
    assert gp_inference(KERNEL, TARGETS).covariance.shape == (0, 0)
