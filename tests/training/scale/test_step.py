"""One step: the same numbers on any mesh and in any number of parts, by the collectives it should need."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.training.scale.support import (
    collectives,
    decoder_trainer,
    mlp_trainer,
    products,
    samples,
    shared_mlp_trainer,
    token_windows,
)
from widelimit.training.scale import Trainer, make_mesh, token_cross_entropy

# A sum of n float32 numbers in another order differs by about sqrt(n) 2^-24 relative to the largest; the
# longest here have 48 to 96 terms (6e-7), and a gradient passes through some twenty of them.
ROUNDING = 1e-5


def trained(trainer, batches, program=None):
    """Losses and weights of three steps, and the weights before them."""
    state, losses = trainer.initialise(jax.random.key(0)), []
    first = jax.device_get(state.params)
    for step in range(3):
        state, metrics = (program or trainer.step)(state, trainer.place(batches(step)))
        losses.append([float(value) for value in metrics])
    return np.array(losses), jax.device_get(state), first


def assert_close(one, other):
    """Two runs that differ by the order of sums."""
    np.testing.assert_allclose(one[0], other[0], rtol=ROUNDING)
    for a, b in zip(jax.tree.leaves(one[1].params), jax.tree.leaves(other[1].params), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=ROUNDING * np.abs(a).max() + 1e-12)


@pytest.fixture(scope="module")
def on_eight_devices():
    """A decoder's step on a mesh of 2 x 4, two micro-batches: a run, and the program's text."""
    trainer = decoder_trainer(make_mesh(2, 4), micro_batches=2)
    program = trainer.step.lower(trainer.shapes, token_windows(0)).compile()
    return trained(trainer, token_windows, program), program.as_text()


def test_eight_devices_compute_what_one_does(on_eight_devices):
    """Three steps of AdamW with the clip: losses, gradient norms, updates and weights agree to rounding.

    Adam divides by the gradient's size, so a rounded gradient near zero could turn a step around: the norms
    agree to 1e-5, and so do weights relative to the largest of their array. Both start from the same bits.
    """
    one, eight = trained(decoder_trainer(make_mesh()), token_windows), on_eight_devices[0]
    for a, b in zip(jax.tree.leaves(one[2]), jax.tree.leaves(eight[2]), strict=True):
        np.testing.assert_array_equal(a, b)  # each device draws its part of the same numbers
    assert_close(eight, one)
    assert np.diff(one[0][:, 0]).max() != 0


@pytest.mark.slow
def test_eight_devices_compute_what_one_does_where_heads_do_not_divide():
    """Multi-query attention, a gated MLP, scanned and recomputed blocks, a tied table: right too."""
    changes = {"kv_heads": 1, "activation": "swiglu", "depth": 2, "scan": True, "remat": True, "tied": True}
    eight = trained(decoder_trainer(make_mesh(2, 4), micro_batches=2, **changes), token_windows)
    assert_close(eight, trained(decoder_trainer(make_mesh(), **changes), token_windows))


def test_each_branch_is_summed_once_and_gradients_at_the_end(on_eight_devices):
    """Two sums over "model" a block forward and two backward, one over "data" a step; no weight travels."""
    found = collectives(on_eight_devices[1])
    assert {one.kind for one in found} == {"all-reduce"}
    part = 2 * 6 * 32  # entries of the stream of a device's part of a micro-batch
    stream = [one for one in found if one.devices == 4 and part in map(math.prod, one.shapes)]
    forward = [one for one in stream if "transpose" not in one.source]
    backward = [one for one in stream if "transpose" in one.source]
    assert len(forward) == 2 and len(backward) == 3  # attention and MLP; and the readout, backward
    assert all("while" in one.source for one in stream)
    (gradient,) = [one for one in found if one.devices == 2]
    assert "while" not in gradient.source and (32, 24) in gradient.shapes and (24, 32) in gradient.shapes
    others = [one for one in found if one not in stream and one is not gradient]
    sizes = [math.prod(shape) for one in others for shape in one.shapes]
    assert max(sizes) <= 12  # a number per token: the sums over the vocabulary


def test_every_product_is_of_one_devices_part(on_eight_devices):
    """12 tokens a device and micro-batch, a quarter of the hidden layer, heads and vocabulary."""
    shapes = {tuple(sorted(shape)) for shape in products(on_eight_devices[1])}
    assert {(12, 24), (8, 12), (10, 12)} <= shapes  # up, query, readout
    assert {(24, 32), (8, 32), (10, 32)} <= shapes  # their gradients
    assert not [shape for shape in shapes if {96, 40} & set(shape) or shape == (32, 32)]


def test_parts_of_a_batch_add_up_to_the_batch():
    """The gradient of a mean is the mean of the parts' gradients: the same steps to rounding."""
    split = trained(mlp_trainer(micro_batches=4), samples)
    assert_close(split, trained(shared_mlp_trainer(), samples))


def test_a_step_whose_loss_is_not_finite_is_not_taken():
    """The state stays, in this step and in all after, and says where."""
    trainer = shared_mlp_trainer()
    state, _ = trainer.step(trainer.initialise(jax.random.key(0)), trainer.place(samples(0)))
    before = jax.device_get(state)
    for x in (np.inf, 1.0):
        batch = {**samples(1), "x": np.full((8, 5), x, np.float32)}
        state, _ = trainer.step(state, trainer.place(batch))
    after = jax.device_get(state)
    assert int(after.diverged_at) == int(after.step) == 1
    for a, b in zip(jax.tree.leaves(before[:2]), jax.tree.leaves(after[:2]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_step_whose_update_is_not_finite_is_not_taken():
    """An optimizer may break where loss and gradient are fine: its second update is NaN."""

    def update(gradient, count, params=None):
        scale = jnp.where(count == 1, jnp.nan, -0.1)
        return jax.tree.map(lambda g: scale * g, gradient), count + 1

    whole = shared_mlp_trainer()
    breaks = optax.GradientTransformation(lambda params: jnp.int32(0), update)
    trainer = Trainer(whole.loss, breaks, whole.rules, whole.mesh)
    state, _ = trainer.step(trainer.initialise(jax.random.key(0)), trainer.place(samples(0)))
    before = jax.device_get(state)
    state, metrics = trainer.step(state, trainer.place(samples(1)))
    after = jax.device_get(state)
    assert np.isfinite(metrics.loss) and np.isfinite(metrics.gradient) and np.isnan(metrics.update)
    assert int(after.diverged_at) == int(after.step) == 1
    for a, b in zip(jax.tree.leaves(before[:2]), jax.tree.leaves(after[:2]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_loss_in_bfloat16_is_refused():
    """Eight bits cannot tell one step's loss from the next."""
    whole = shared_mlp_trainer()
    rough = Trainer(
        lambda params, batch: whole.loss(params, batch).astype(jnp.bfloat16),
        whole.optimizer,
        whole.rules,
        whole.mesh,
    )
    with pytest.raises(TypeError, match="got shape .*, dtype bfloat16: convert the logits to float32"):
        rough.step.lower(rough.shapes, samples(0))


def test_token_cross_entropy_is_optax_own():
    """Value and gradient, for logits whose exponentials overflow too; a token that is not there gives NaN."""
    draw = np.random.default_rng(0)
    logits, labels = draw.normal(0, 100, (3, 5, 7)).astype(np.float32), draw.integers(0, 7, (3, 5))
    shifted = jnp.asarray(labels + 7 * (np.arange(15).reshape(3, 5) == 0), jnp.int32)
    labels = jnp.asarray(labels, jnp.int32)

    def reference(z):
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(z, labels))

    @jax.jit
    def all_three(z):
        ours = jax.value_and_grad(lambda z: token_cross_entropy(z, labels))(z)
        wrong = token_cross_entropy(z, shifted)
        return ours, jax.value_and_grad(reference)(z), wrong

    ours, theirs, wrong = all_three(logits)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert np.isnan(wrong)
