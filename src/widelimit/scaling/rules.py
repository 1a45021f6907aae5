"""Rules: a parametrization applied to the parameters of one network, as a pytree of plain numbers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import jax

from widelimit.scaling.parametrization import SHIFT_POWER, STANDARD_INIT, Parametrization, Rate
from widelimit.scaling.roles import Leaf, Role

PyTree = Any
Decay = Literal["coupled", "undone", "independent", "sqrt_width"]
DECAYS: tuple[Decay, ...] = ("coupled", "undone", "independent", "sqrt_width")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rules:
    """Per-parameter scaling rules: each of the first six fields is a pytree shaped like the parameters.

    Args:
        init_std: standard deviation of the raw weight at initialisation (0: it starts from a constant).
        multiplier: factor on the raw weight in the forward pass. For a tied embedding it belongs to the use
            as readout; the use as embedding has none.
        learning_rate: factor on the global learning rate.
        epsilon: factor on Adam's epsilon; dividing the gradient by it has the same effect.
        weight_decay: factor on the weight-decay coefficient, to be applied as ``decay`` says.
        gradient_norm: factor that makes the Frobenius norm of the gradient independent of width and of the
            equivalent form.
        leaves: what is known of each parameter, in tree order.
        parametrization: where the numbers come from.
        optimizer: the optimizer family they are for.
        alignment: the alignment assumption of the learning rates.
        decay: the weight-decay convention.

    Example:
        >>> from widelimit.scaling import leaf_from_axes, make_rules, mup
        >>> from fractions import Fraction
        >>> leaf = leaf_from_axes("w", (256, 10), (64, 10), contracted=(0,), width=Fraction(4), base_width=64)
        >>> make_rules({"w": leaf}, mup(), "adam").learning_rate
        {'w': 0.25}

    Reference:
        Yang et al., arXiv 2203.03466, Tables 3, 8 and 9.
    """

    init_std: PyTree
    multiplier: PyTree
    learning_rate: PyTree
    epsilon: PyTree
    weight_decay: PyTree
    gradient_norm: PyTree
    leaves: tuple[Leaf, ...] = dataclasses.field(metadata={"static": True})
    parametrization: Parametrization = dataclasses.field(metadata={"static": True})
    optimizer: str = dataclasses.field(metadata={"static": True})
    alignment: str = dataclasses.field(metadata={"static": True})
    decay: Decay = dataclasses.field(metadata={"static": True})


NUMBERS = ("init_std", "multiplier", "learning_rate", "epsilon", "weight_decay", "gradient_norm")


def make_rules(
    leaves: PyTree,
    parametrization: Parametrization,
    optimizer: str = "adam",
    alignment: str | None = None,
    weight_decay: Decay = "coupled",
) -> Rules:
    r"""Turns a parametrization into numbers for every parameter of a network.

    With n the width (absolute form) or m = n/n0 (relative form) and the exponents and constants of the
    parameter's role, ``multiplier = A n^-a``, ``init_std = B n^-b``, ``learning_rate = C n^-c``, ``epsilon =
    E n^-d``. Inside residual branches, the powers of m_L in the parametrization's ``branch`` (on the
    multiplier of a branch's last layer) and in its rate's ``depth`` come on top. Per step the decay removes
    ``D w``; with ``lr`` the scheduled global rate, ``r`` the rule's learning rate and ``wd`` the coefficient:

    * ``"coupled"``: ``D = lr r wd``, optax's and torch's AdamW on the scaled rate; differs between
      equivalent forms;
    * ``"undone"``: ``D = lr wd`` for every parameter, as microsoft/mup does it; what depth does to the rate
      stays, as in CompleteP's table;
    * ``"independent"``: ``D = wd``, the learning rate is not involved;
    * ``"sqrt_width"``: ``D = lr r wd m^(1/2 - k a)``, k = 2, 1, 0 for SGD, Adam and Muon, Adafactor, for
      weights whose fan-in grows (sqrt(m) in Table 3, the same decay in every equivalent form); 0 for vectors.

    Args:
        leaves: a pytree of ``Leaf``, shaped like the parameters (declared by our models, or from ``probe``).
        parametrization: e.g. ``mup()``.
        optimizer: ``"sgd"``, ``"adam"``, ``"adafactor"`` or ``"muon"``.
        alignment: ``"full"``, ``"none"``, ``"global"``, ``"kernel"``; None is the parametrization's default.
        weight_decay: the convention.

    Raises:
        ValueError: if the tree holds no ``Leaf``, the optimizer or convention is unknown, or a tied
            embedding meets a parametrization in which embedding and readout cannot share a weight.
        TypeError: if a tree leaf is not a ``Leaf``.

    Example:
        >>> from widelimit.scaling import leaf_from_axes, mup
        >>> from fractions import Fraction
        >>> shapes = {"shape": (256, 256), "base_shape": (64, 64)}
        >>> leaf = leaf_from_axes("w", **shapes, contracted=(0,), width=Fraction(4), base_width=64)
        >>> make_rules([leaf], mup(), "adam").epsilon
        [0.25]

    Reference:
        Yang & Littwin, arXiv 2308.01814 (abcd); Yang et al., arXiv 2203.03466, Appendix B (decay); arXiv
        2510.15262 (sqrt width); Dey et al., arXiv 2505.01618, Table 1 (depth).
    """
    if weight_decay not in DECAYS:
        raise ValueError(
            f"weight_decay must name a convention, one of {', '.join(DECAYS)}; got {weight_decay!r}."
        )
    rate = parametrization.rate(optimizer, alignment)
    flat, treedef = jax.tree.flatten(leaves, is_leaf=lambda node: isinstance(node, Leaf))
    if not flat:
        raise ValueError("leaves must be a pytree of Leaf shaped like the parameters; got an empty tree.")
    for leaf in flat:
        if not isinstance(leaf, Leaf):
            raise TypeError(
                f"leaves must be a pytree of Leaf; got {type(leaf).__name__}. "
                "Make it with probe(...) or with leaves(config)."
            )
    numbers = [_leaf_rule(leaf, parametrization, rate, weight_decay) for leaf in flat]
    trees = {name: jax.tree.unflatten(treedef, [number[name] for number in numbers]) for name in NUMBERS}
    return Rules(
        **trees,
        leaves=tuple(flat),
        parametrization=parametrization,
        optimizer=rate.family,
        alignment=rate.alignment,
        decay=weight_decay,
    )


def _leaf_rule(leaf: Leaf, parametrization: Parametrization, rate: Rate, decay: Decay) -> dict[str, float]:
    """Returns the six numbers of one parameter."""
    role, m = leaf.role, float(leaf.width)
    n = m if parametrization.form == "relative" else m * leaf.base_width
    a, b = float(parametrization.multiplier[role]), float(parametrization.init[role])
    readout = tied_multiplier_exponent(leaf, parametrization, rate)
    gamma0 = parametrization.gamma0
    multiplier = parametrization.multiplier_constant[role] * n**-a
    if leaf.tied:
        multiplier = parametrization.multiplier_constant.output * n**-readout
    if role is Role.OUTPUT or leaf.tied:
        multiplier /= gamma0
    width = m * leaf.base_width
    finite = math.sqrt(width ** (2 * float(STANDARD_INIT[role])) / leaf.fan_in)
    if parametrization.unit_variance:
        std, multiplier = n**-b, multiplier * finite
    elif parametrization.form == "relative":
        # Written around 1/sqrt(fan_in) so that the standard parametrization is exact, padded widths included.
        std = n ** float(STANDARD_INIT[role] - parametrization.init[role]) / math.sqrt(leaf.fan_in)
    else:
        std = n**-b * finite
    learning_rate = rate.learning_rate_constant[role] * n ** -float(rate.learning_rate[role])
    epsilon = rate.epsilon_constant[role] * n ** -float(rate.epsilon[role])
    deep = 1.0 if leaf.depth is None else float(leaf.depth)
    if leaf.ends_branch:
        multiplier *= deep ** -float(parametrization.branch)
    if role is not Role.SCALAR:
        learning_rate *= gamma0**2 if rate.family == "sgd" else gamma0
        epsilon /= gamma0
    return {
        "init_std": leaf.init_scale * parametrization.init_constant[role] * std,
        "multiplier": multiplier,
        "learning_rate": learning_rate * deep ** -float(rate.depth.learning_rate),
        "epsilon": epsilon * deep ** -float(rate.depth.epsilon),
        "weight_decay": _decay_factor(leaf, a, learning_rate, SHIFT_POWER[rate.family], decay)
        * (1.0 if decay == "independent" else deep ** -float(rate.depth.weight_decay)),
        "gradient_norm": _gradient_norm(leaf, parametrization, 1.0 if leaf.tied else multiplier),
    }


def _decay_factor(leaf: Leaf, a: float, learning_rate: float, power: int, decay: Decay) -> float:
    """Returns the factor on the weight-decay coefficient under a convention."""
    if decay == "undone":
        return 1.0 / learning_rate
    if decay == "sqrt_width":
        return float(leaf.width) ** (0.5 - power * a) if leaf.role in (Role.HIDDEN, Role.OUTPUT) else 0.0
    return 1.0


def _gradient_norm(leaf: Leaf, parametrization: Parametrization, multiplier: float) -> float:
    """Returns the factor that makes a gradient norm width-neutral, and plain at the base width.

    The gradient of the effective weight, ``g / multiplier``, is the same in every equivalent form; its
    entries scale as ``n^-(a_out + b_out)`` below the readout and ``n^0`` in it, and the norm adds the root
    of the number of entries. Under a depth rule each of the ``L`` branches has gradients of ``L^-alpha``.
    """
    entries = 0.0
    if leaf.role in (Role.INPUT, Role.HIDDEN):
        entries = float(parametrization.multiplier.output + parametrization.init.output)
    grown = math.prod(leaf.shape) / math.prod(leaf.base_shape)
    deep = 1.0
    if leaf.depth is not None and parametrization.branch != 0:
        # The multiplier of a branch's last layer holds m_L^-alpha already.
        alpha = 0.0 if leaf.ends_branch else float(parametrization.branch)
        deep = float(leaf.depth) ** (alpha - 0.5)
    return float(leaf.width) ** entries / math.sqrt(grown) / multiplier * deep


def tied_multiplier_exponent(leaf: Leaf, parametrization: Parametrization, rate: Rate) -> float:
    r"""Returns the exponent of the readout multiplier of a tied embedding (0 for any other parameter).

    Sharing one raw weight needs the readout, shifted by ``theta`` to the embedding's initial size, to want
    the embedding's learning rate too: ``c_out - theta = c_in`` (Adam). muP satisfies this with Table 8's
    multiplier 1/m; plain SP ("global") shares the weight as it stands.

    Raises:
        ValueError: if no multiplier makes one weight serve as both.
    """
    if not leaf.tied:
        return 0.0
    a, b = parametrization.multiplier, parametrization.init
    theta = b.output - b.input
    shared = rate.alignment == "global"
    # What a readout's multiplier makes up for, rows that are looked up do not pass through.
    if parametrization.unit_variance or (parametrization.form == "absolute" and theta != 0 and not shared):
        raise ValueError(
            f"{leaf.path} is embedding and readout at once, which {parametrization.name} in absolute form "
            "cannot serve with one weight; use a relative parametrization, or untie the readout."
        )
    if shared:
        return 0.0
    step = SHIFT_POWER[rate.family] * theta
    if a.input != 0 or rate.learning_rate.output - step != rate.learning_rate.input:
        raise ValueError(
            f"{leaf.path} is embedding and readout at once, which {parametrization.name} "
            f"with {rate.family}/{rate.alignment} cannot serve with one weight; "
            "use mup(table=8), or untie the readout."
        )
    return float(a.output + theta)
