"""The kernel as an operator is the kernel: against the Jacobian's, batched, sharded, in both precisions."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.kernels.spectra.problem import OUTPUTS, SAMPLES, inputs, jacobian_kernel, network, weights
from widelimit import models, scaling
from widelimit.kernels import empirical
from widelimit.kernels.spectra import as_matrix, eigenvalues, from_matrix, hessian, operator

RATES = {"first": 0.5, "shift": 3.0, "last": 2}
SHAPE = (SAMPLES, OUTPUTS)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("float64", 1e-14)])
@pytest.mark.parametrize("batch_size", [None, 1, 7, 8, 24, 100])
def test_operator_is_the_jacobian_kernel(dtype, tolerance, batch_size):
    """Theta = J R J^T to rounding, for batches that divide N, that do not, and that exceed it."""
    with jax.enable_x64(dtype == "float64"):
        params, x = weights(dtype), inputs(dtype)
        expected = jacobian_kernel(network, params, x, RATES)
    theta = operator(network, params, x, rates=RATES, batch_size=batch_size)
    assert theta.shape == (SAMPLES * OUTPUTS,) * 2 and theta.vector_shape == SHAPE and theta.dtype == dtype
    assert theta.dense().dtype == dtype
    np.testing.assert_allclose(theta.dense(), expected, atol=tolerance * np.abs(expected).max())


def test_it_agrees_with_the_empirical_ntk_of_our_models():
    """Rows are (sample, output) as in as_matrix; Rules bring their learning rates."""
    config = models.MLPConfig(
        inputs=3, outputs=2, depth=1, width=16, base_width=8, parametrization=scaling.mup(table=8)
    )
    rules, model = models.rules(config, "sgd"), models.MLP(config)
    params = models.initialise(jax.random.key(2), rules)

    def apply(p, x):
        return model.apply({"params": p, "multipliers": rules.multiplier}, x)

    dense = as_matrix(empirical.ntk(apply, params, inputs(), rates=rules))
    theta = operator(apply, params, inputs(), rates=rules, batch_size=5)
    np.testing.assert_allclose(theta.dense(), dense, atol=3e-6 * np.abs(dense).max())


def test_any_linen_model_with_image_outputs():
    """A plain Flax model; axes of an output beyond the first are flattened."""
    model = nn.Sequential([nn.Conv(2, (2, 2)), nn.gelu])
    x = jax.random.normal(jax.random.key(3), (3, 2, 2, 1))
    params = jax.jit(model.init)(jax.random.key(4), x)["params"]

    def apply(p, x):
        return model.apply({"params": p}, x)

    with jax.numpy_rank_promotion("allow"):
        theta = operator(apply, params, x, batch_size=2)
        assert theta.vector_shape == (3, 8)
        expected = jacobian_kernel(apply, params, x)
        np.testing.assert_allclose(theta.dense(), expected, atol=3e-6 * np.abs(expected).max())


def test_inputs_may_be_a_pytree_and_outputs_a_vector():
    """Samples with two parts; one output per sample and no axis for it."""
    x = {"left": inputs(), "right": jnp.arange(SAMPLES)}

    def apply(params, x):
        return x["left"] @ params["w"] * x["right"].astype("float32")

    params = {"w": jnp.ones(3)}
    theta = operator(apply, params, x, batch_size=5)
    features = np.asarray(x["left"], float) * np.arange(SAMPLES)[:, None]
    np.testing.assert_allclose(theta.dense(), features @ features.T, atol=1e-4)
    assert theta.vector_shape == (SAMPLES, 1)


def test_it_passes_through_jit_and_compiles_once_per_network():
    """The operator is a pytree: new parameters are new arguments of the same program."""
    traces = []

    @jax.jit
    def product(theta, v):
        traces.append(1)
        return theta.matvec(v)

    v = jnp.ones(SHAPE)
    for scale in (1.0, 2.0):
        params = jax.tree.map(lambda leaf, s=scale: s * leaf, weights())
        theta = operator(network, params, inputs(), batch_size=8)
        np.testing.assert_allclose(product(theta, v), theta.matvec(v), rtol=1e-5)
    assert len(traces) == 1


@pytest.mark.parametrize("batch_size", [None, 8, 5])
def test_sharded_data_give_the_same_product(batch_size):
    """Samples over 8 devices, parameters everywhere: the product does not change."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    v = jax.random.normal(jax.random.key(5), SHAPE)
    alone = operator(network, weights(), inputs()).matvec(v)
    theta = operator(network, weights(), jax.device_put(inputs(), rows), batch_size=batch_size)
    shared = theta.matvec(jax.device_put(v, rows))
    assert len(shared.sharding.device_set) == 8
    np.testing.assert_allclose(shared, alone, atol=2e-6 * np.abs(alone).max())


def test_batches_bound_the_memory():
    """With 64 times the samples, temporary memory stays when batched, and grows as much when not."""

    def temporary(samples, batch_size):
        x, v = jnp.ones((samples, 3)), jnp.ones((samples, OUTPUTS))
        theta = operator(network, weights(), x, batch_size=batch_size)
        program = jax.jit(lambda theta, v: theta.matvec(v)).lower(theta, v).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert temporary(64 * 64, None) > 30 * temporary(64, None)
    # What grows is a strided copy of the inputs and of v, and the result, which any kernel product has.
    assert temporary(64 * 64, 64) < temporary(64, None) + 64 * 64 * (2 * 3 + 4 * OUTPUTS) * 4


def test_hessian_of_any_loss():
    """Its dense form is jax.hessian, over a pytree, in the order of ravel_pytree."""

    def loss(params):
        return jnp.sum(jnp.sin(params["a"]) ** 2) * params["b"]

    point = {"a": jnp.array([0.3, -1.0, 2.0]), "b": jnp.array(0.7)}
    flat, unravel = ravel_pytree(point)
    expected = jax.hessian(lambda p: loss(unravel(p)))(flat)
    np.testing.assert_allclose(hessian(loss, point).dense(), expected, atol=1e-6)


def test_hessian_and_kernel_share_their_eigenvalues_at_a_perfect_fit():
    """For |f - y|^2 / (2 N) at f = y, H = J^T J / N and Theta = J J^T: the same eigenvalues, over N."""
    with jax.enable_x64(True):
        params, x = weights("float64"), inputs("float64")
        y = network(params, x)
        curvature = hessian(lambda p: jnp.sum((network(p, x) - y) ** 2) / (2 * SAMPLES), params)
        kernel = eigenvalues(operator(network, params, x).dense())
        sharp = eigenvalues(curvature.dense())
    rank = min(len(kernel), len(sharp))
    np.testing.assert_allclose(sharp[:rank], kernel[:rank] / SAMPLES, atol=1e-13 * kernel[0])


def test_dense_matrices_keep_their_precision():
    """float64 stays although JAX's default is float32; whole numbers become float64."""
    matrix = np.array([[2.0, 1e-12], [1e-12, 1.0]])
    assert np.asarray(from_matrix(matrix).matvec(np.array([0.0, 1.0])))[0] == 1e-12
    assert from_matrix(matrix.astype(np.float32)).dtype == np.float32
    assert from_matrix([[2, 1], [1, 2]]).dense().dtype == np.float64


def bad(**changes):
    """Calls operator with one argument replaced."""
    arguments = {"apply": network, "params": weights(), "x": inputs()} | changes
    return operator(**arguments)


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: bad(batch_size=0), ValueError, "positive integer or None; got 0"),
        (lambda: bad(batch_size=2.5), ValueError, "positive integer or None; got 2.5"),
        (lambda: bad(x=jnp.zeros((0, 3))), ValueError, r"at least 1 sample, .* got shapes \(0, 3\)"),
        (lambda: bad(x={}), ValueError, "arrays with a leading axis of samples; got {}"),
        (
            lambda: bad(x=(inputs(), jnp.ones(3))),
            ValueError,
            r"one leading axis .* the same for all its arrays",
        ),
        (lambda: bad(apply=lambda p, x: network(p, x).sum()), ValueError, r"an array \[24, ...\]"),
        (lambda: bad(apply=lambda p, x: (network(p, x),)), ValueError, "a row a sample; got tuple"),
        (
            lambda: bad(params=weights() | {"last": jnp.ones((7, 2), int)}),
            TypeError,
            "floating-point arrays only; last is of dtype int32",
        ),
        (
            lambda: bad(apply=lambda p, x: network(p, x).astype("bfloat16")),
            TypeError,
            "dtype float32; got bfloat16",
        ),
        (
            lambda: bad(rates={"first": 1.0}),
            ValueError,
            "rates must be Rules, or a pytree of numbers with the structure of params",
        ),
        (
            lambda: bad(rates=weights()),
            ValueError,
            r"one number for each parameter; got shape \(3, 7\)",
        ),
        (
            lambda: bad(params=jax.tree.map(lambda w: w.astype("float16"), weights())),
            TypeError,
            "got float16",
        ),
        (lambda: bad(params={}), ValueError, "no array to differentiate by"),
        (
            lambda: hessian(lambda p: p, jnp.ones(2)),
            TypeError,
            "must return one number of dtype float32",
        ),
        (lambda: hessian(jnp.sum, jnp.ones(2, int)), TypeError, "got int32"),
        (lambda: bad().matvec(jnp.ones(48)), ValueError, r"shape \(24, 2\); got \(48,\)"),
        (lambda: bad().matvec(jnp.ones(SHAPE, int)), TypeError, "the operator's dtype float32; got int32"),
        (
            lambda: from_matrix(np.ones((2, 3))),
            ValueError,
            r"the matrix must have shape \[N, N\]; got shape \(2, 3\)",
        ),
        (lambda: from_matrix([[0.0, 1.0], [0.0, 0.0]]), ValueError, "symmetric"),
    ],
)
def test_bad_input_is_one_sentence(call, error, sentence):
    """What is no kernel says why."""
    with pytest.raises(error, match=sentence):
        call()


def test_explicit_mesh_axes_are_refused():
    """jax.make_mesh makes them by default, and the sum over samples then fails deep inside JAX."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    x = jax.device_put(inputs(), NamedSharding(mesh, PartitionSpec("data")))
    with pytest.raises(ValueError, match="mesh axes of type Auto"):
        bad(x=x)
