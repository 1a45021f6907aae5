"""Losses of a batch, normalisation stated: a factor in the loss is a factor in the learning rate."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


def mse(outputs: Array, targets: Array) -> Float[Array, ""]:
    r"""Half the squared distance to the target: summed over outputs, averaged over the batch.

    ``L = 1/(2B) sum_b |f(x_b) - y_b|^2``, the loss of kernel and DMFT theory: its gradient with respect to
    ``f(x_b)`` is ``(f(x_b) - y_b) / B``, with no factor that depends on the number of outputs. It is
    ``outputs / 2`` times ``torch.nn.MSELoss()``, which averages over outputs too.

    Args:
        outputs: f(x), of shape [batch, outputs].
        targets: y, same shape.

    Raises:
        ValueError: if the shapes differ: a broadcast would train on the wrong thing.

    Example:
        >>> float(mse(jnp.array([[1.0, 2.0], [0.0, 0.0]]), jnp.array([[0.0, 0.0], [0.0, 1.0]])))
        1.5

    Reference:
        Bordelon & Pehlevan, arXiv 2205.09653, Section 2.
    """
    if outputs.shape != targets.shape:
        raise ValueError(
            f"mse compares outputs with targets of the same shape; got {outputs.shape} and {targets.shape}: "
            "give labels to cross_entropy, or targets one column per output."
        )
    return 0.5 * jnp.mean(jnp.sum(jnp.square(outputs - targets), axis=-1))


def cross_entropy(logits: Array, labels: Array) -> Float[Array, ""]:
    r"""Cross-entropy with integer labels, in nats, averaged over the batch.

    ``L = 1/B sum_b (log sum_k exp z_bk - z_b,label(b))``, as ``torch.nn.CrossEntropyLoss()``.
    Labels must lie in ``0..classes-1``, which compiled code cannot check; ``Dataset`` refuses others.

    Args:
        logits: z, of shape [batch, classes].
        labels: integers of shape [batch].

    Raises:
        ValueError: if the shapes do not go together.
        TypeError: if the labels are not integers.

    Example:
        >>> float(cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3]))) == float(jnp.log(4.0))
        True

    Reference:
        Bishop, Pattern Recognition and Machine Learning, Eq. 4.108.
    """
    _check(logits, labels)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def accuracy(logits: Array, labels: Array) -> Float[Array, ""]:
    """The share of samples whose largest logit is that of their label, between 0 and 1.

    Args:
        logits: of shape [batch, classes].
        labels: integers of shape [batch].

    Raises:
        ValueError: if the shapes do not go together.
        TypeError: if the labels are not integers.

    Example:
        >>> float(accuracy(jnp.array([[2.0, 1.0], [2.0, 1.0]]), jnp.array([0, 1])))
        0.5
    """
    _check(logits, labels)
    found = jnp.argmax(logits, axis=-1).astype(labels.dtype)
    return jnp.mean((found == labels).astype(logits.dtype))


def _check(logits: jax.Array, labels: jax.Array) -> None:
    """One label a row: anything else would broadcast into nonsense."""
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, one per sample; got dtype {labels.dtype}.")
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"logits must have shape [batch, classes] and labels [batch]; got {logits.shape} and "
            f"{labels.shape}."
        )
