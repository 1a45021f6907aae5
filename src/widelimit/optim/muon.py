"""Muon: optax's orthogonalised update in the spectral condition's size for hidden matrices, else Adam."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, MuonState

from widelimit.optim.decay import descend
from widelimit.optim.matching import (
    PyTree,
    check,
    is_number,
    map_with_rule,
    product,
    require_family,
    times,
)
from widelimit.optim.moments import scale_by_adam
from widelimit.optim.transforms import scale_gradients
from widelimit.scaling import Leaf, Role, Rules

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz step; singular values end near 1, between about 0.7 and 1.2."""


def scale_by_muon(
    rules: Rules,
    beta: jax.typing.ArrayLike = 0.95,
    ns_steps: int = 5,
    ns_coeffs: Sequence[Any] = COEFFICIENTS,
    eps: jax.typing.ArrayLike = 1e-8,
    mu_dtype: jax.typing.DTypeLike | None = None,
    *,
    nesterov: bool = True,
    preconditioning: str = "frobenius",
) -> optax.GradientTransformation:
    r"""Orthogonalises hidden matrices' momentum and gives it the spectral norm ``sqrt(fan_out/fan_in)``.

    ``u = sqrt(fan_out / fan_in) NS(M)``, M the (Nesterov) momentum; a layer whose input has entries of order
    one then changes by order one, at every width and in every shape. The momentum and the Newton-Schulz
    iteration are ``optax.contrib.scale_by_muon``'s; the factor is ours alone: optax's own
    (``sqrt(max(1, fan_out/fan_in))``, or ``0.2 sqrt(max(fan_in, fan_out))``) belongs to its ``muon`` and is
    not part of that transform, so that nothing is scaled twice.

    The matrix runs from all contracted axes to all free ones, each flattened: of a convolution from window
    and channels in to channels out, of attention's kernels from the stream to all heads. Layers stacked
    in one array are orthogonalised one by one. ``eps`` is added to the norm of the gradient as it is at the
    base width and depth, in every equivalent form.

    Args:
        rules: of the parameters that will be updated; those that are no hidden matrices must be masked.
        beta: decay of the momentum.
        ns_steps: number of Newton-Schulz steps.
        ns_coeffs: their three coefficients, or one triple a step.
        eps: added to the Frobenius norm before the first step.
        mu_dtype: dtype of the momentum; None takes the parameters'.
        nesterov: use Nesterov's momentum.
        preconditioning: what the matrix is divided by first: ``"frobenius"``, ``"spectral"``, ``"aol"`` or
            ``"schatten"`` (optax's names).

    Raises:
        ValueError: in ``init``, if the structures or shapes differ, or a parameter is no hidden matrix.

    Example:
        >>> from fractions import Fraction
        >>> import jax.numpy as jnp
        >>> from widelimit.scaling import leaf_from_axes, make_rules, mup
        >>> leaf = leaf_from_axes("w", (8, 32), (2, 8), contracted=(0,), width=Fraction(4), base_width=2)
        >>> rules = make_rules([leaf], mup(), "muon")
        >>> transform = scale_by_muon(rules, ns_steps=20, ns_coeffs=(2, -1.5, 0.5))
        >>> gradient = [jnp.eye(8, 32)]
        >>> update = transform.update(gradient, transform.init(gradient))[0][0]
        >>> round(float(jnp.linalg.norm(update, ord=2)), 4)
        2.0

    Reference:
        Jordan et al., Muon (github.com/KellerJordan/Muon); Yang et al., arXiv 2310.17813, Condition 1.
    """
    facts = jax.tree.unflatten(jax.tree.structure(rules.multiplier), rules.leaves)
    inner = optax.contrib.scale_by_muon(
        tuple(ns_coeffs), ns_steps, beta, eps, mu_dtype, nesterov=nesterov, preconditioning=preconditioning,
        weight_dimension_numbers=lambda updates: map_with_rule(_dimensions, facts, updates),
    )  # fmt: skip

    def init_fn(params: optax.Params) -> MuonState:
        check(rules, params)
        map_with_rule(_dimensions, facts, params)
        return inner.init(params)

    def step(updates: optax.Updates, state: MuonState) -> Any:
        # The Frobenius norm of so many entries as the base shape has: what eps is compared with.
        units = jax.tree.map(
            lambda leaf, e: product(math.sqrt(math.prod(leaf.base_shape) / math.prod(leaf.shape)), 1.0 / e),
            facts, rules.epsilon,
        )  # fmt: skip
        with jax.numpy_dtype_promotion("standard"):  # optax's moments need it
            directions, state = inner.update(map_with_rule(times, units, updates), state)

        def sized(leaf: Leaf, direction: jax.Array, gradient: jax.Array) -> jax.Array:
            return times(math.sqrt(leaf.fan_out / leaf.fan_in), direction).astype(gradient.dtype)

        return map_with_rule(sized, facts, directions, updates), state

    def update_fn(updates: optax.Updates, state: MuonState, params: optax.Params | None = None) -> Any:
        del params
        places = _explicit_places((updates, state))
        if places is None:
            return step(updates, state)
        # A matrix times its transpose has no explicit sharding: here the compiler finds one.
        return jax.sharding.auto_axes(step, out_sharding=places)(updates, state)

    return optax.GradientTransformation(init_fn, update_fn)


def _explicit_places(tree: PyTree) -> PyTree | None:
    """Returns the shardings of arrays on a mesh with explicit axes; None without one."""
    places = jax.tree.map(lambda x: jax.typeof(x).sharding, tree)
    meshes = [place.mesh for place in jax.tree.leaves(places)]
    explicit = [mesh for mesh in meshes if jax.sharding.AxisType.Explicit in mesh.axis_types]
    if not explicit:
        return None
    # A counter belongs to no mesh.
    everywhere = jax.sharding.NamedSharding(explicit[0], jax.sharding.PartitionSpec())
    return jax.tree.map(lambda place: everywhere if place.mesh.empty else place, places)


def _dimensions(leaf: Leaf, param: Any) -> MuonDimensionNumbers:
    """Returns which axes of a hidden matrix go in and which come out; all others stack matrices."""
    del param
    if leaf.role is not Role.HIDDEN or not leaf.contracted:
        hidden = leaf.role is Role.HIDDEN
        what = "its Leaf names no contracted axes" if hidden else f"it is {leaf.role.value}-like"
        raise ValueError(
            f"Muon orthogonalises hidden matrices, and {leaf.path} is none ({what}); use optim.muon, which "
            "leaves it to Adam, or optax.masked, and make leaves with leaf_from_axes, probe or a config."
        )
    free = tuple(
        axis for axis in range(len(leaf.shape)) if axis not in leaf.contracted and axis not in leaf.shared
    )
    return MuonDimensionNumbers(reduction_axis=leaf.contracted, output_axis=free)


def muon(
    learning_rate: optax.ScalarOrSchedule,
    rules: Rules,
    beta: jax.typing.ArrayLike = 0.95,
    ns_steps: int = 5,
    ns_coeffs: Sequence[Any] = COEFFICIENTS,
    ns_eps: jax.typing.ArrayLike = 1e-8,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    mu_dtype: jax.typing.DTypeLike | None = None,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: PyTree | None = None,
    *,
    nesterov: bool = True,
    preconditioning: str = "frobenius",
    adam_rate: jax.typing.ArrayLike = 1.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Muon for hidden matrices, in the spectral condition's size; Adam for everything else.

    Hidden (width to width): ``w_l <- w_l - lr_t r_l sqrt(fan_out/fan_in) NS(M_l) - D_l w_l``. Input-like,
    output-like and scalar-like parameters: Adam's step at the global rate ``adam_rate lr_t``, with
    Nesterov's momentum as well. Which is which is the role's to say: not the number of axes, and no name.

    Under muP ``r_l`` of a hidden matrix is 1 at every width: the factor has taken the place of ``1/fan_in``.

    Args:
        learning_rate: global rate, any optax schedule or scalar array.
        rules: made for optimizer "muon".
        beta: decay of Muon's momentum.
        ns_steps: number of Newton-Schulz steps.
        ns_coeffs: their three coefficients, or one triple a step.
        ns_eps: added to the Frobenius norm before the first step, at the base width.
        b1: decay rate of Adam's first moment.
        b2: decay rate of Adam's second moment.
        eps: Adam's epsilon at the base width, outside the root.
        eps_root: Adam's epsilon at the base width, inside the root.
        mu_dtype: dtype of both first moments; None takes the parameters'.
        weight_decay: coefficient or schedule, in the convention of ``rules.decay``.
        mask: which parameters decay.
        nesterov: use Nesterov's momentum.
        preconditioning: as in ``scale_by_muon``.
        adam_rate: global rate of Adam's part in units of Muon's.

    Raises:
        ValueError: if the rules are for another optimizer or other parameters, or a number is out of range.

    Example:
        >>> from fractions import Fraction
        >>> import jax.numpy as jnp
        >>> from widelimit.scaling import leaf_from_axes, make_rules, mup
        >>> leaf = leaf_from_axes("b", (8,), (2,), contracted=(), width=Fraction(4), base_width=2)
        >>> optimizer = muon(0.5, make_rules([leaf], mup(), "muon"), eps=0.0, nesterov=False)
        >>> params = [jnp.ones(8)]
        >>> round(float(optimizer.update(params, optimizer.init(params), params)[0][0][0]), 5)
        -0.5

    Reference:
        Jordan et al., Muon (github.com/KellerJordan/Muon); Yang et al., arXiv 2310.17813; weight decay: Liu
        et al., arXiv 2502.16982.
    """
    require_family(rules, "muon", "muon")
    if is_number(adam_rate) and not adam_rate > 0:  # type: ignore[operator]
        raise ValueError(f"adam_rate, Adam's rate in units of Muon's, must be positive; got {adam_rate}.")
    facts = jax.tree.unflatten(jax.tree.structure(rules.multiplier), rules.leaves)

    def labels(params: PyTree) -> PyTree:
        return map_with_rule(lambda leaf, _: _part(leaf), facts, params)

    direction = optax.partition(
        {
            "muon": scale_by_muon(
                rules, beta, ns_steps, ns_coeffs, ns_eps, mu_dtype,
                nesterov=nesterov, preconditioning=preconditioning,
            ),
            "adam": optax.chain(
                scale_gradients(rules), scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
            ),
        },
        labels,
    )  # fmt: skip
    rates = jax.tree.map(
        lambda leaf, r: r if _part(leaf) == "muon" else product(r, adam_rate),
        facts, rules.learning_rate,
    )  # fmt: skip
    own = dataclasses.replace(rules, learning_rate=rates)
    return optax.chain(direction, descend(learning_rate, own, weight_decay, mask))


def _part(leaf: Leaf) -> str:
    """Says which of the two optimizers trains a parameter."""
    return "muon" if leaf.role is Role.HIDDEN else "adam"
