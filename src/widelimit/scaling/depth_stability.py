"""Depth exponents derived: what every layer of a residual network does as blocks are added."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

from widelimit.scaling.depth import branch_exponent
from widelimit.scaling.parametrization import FAMILIES, SHIFT_POWER, DepthExponents, Parametrization

_HALF, _ONE, _ZERO = Fraction(1, 2), Fraction(1), Fraction(0)


@dataclasses.dataclass(frozen=True)
class DepthSlopes:
    r"""Predicted slopes ``d log(size) / d log(L)`` in the number L of blocks; positive means growth.

    All sizes are root mean squares over entries, at fixed width. A *branch* counts with its multiplier: it is
    what is added to the stream.

    Args:
        stream: the stream after the last block, at initialisation.
        branches: the sum of all branches, at initialisation.
        gradient: gradient entries of the raw weights inside branches.
        weight_change: change of the raw weights inside branches, relative to their size, in one step.
        own_change: change of one branch in one step if only its own weights are trained.
        branch_change: change of one branch in one step if everything is trained.
        stream_change: change of the stream after the last block in one step, everything trained.
        laziness: of one branch, its own weights trained: the part of its change that is not linear in the
            change of the weights, over the part that is; None for one layer, which is linear exactly.

    Reference:
        Dey et al., arXiv 2505.01618, Desiderata 1-3.
    """

    stream: Fraction
    branches: Fraction
    gradient: Fraction
    weight_change: Fraction
    own_change: Fraction
    branch_change: Fraction
    stream_change: Fraction
    laziness: Fraction | None


def depth_slopes(
    parametrization: Parametrization,
    optimizer: str = "adam",
    alignment: str | None = None,
    *,
    branch_depth: int = 2,
    final_norm: bool = False,
) -> DepthSlopes:
    r"""Predicts how a residual network ``h <- h + m_L^-alpha F(h)`` behaves as blocks are added.

    With c the depth exponent of the learning rate and g that of the gradient, ``g = alpha``:

    * at initialisation L independent branches add up to ``L^(1/2 - alpha)``;
    * a step moves the weights of a branch by ``L^-u``, u = c for scale-free updates and c + g for SGD, and so
      the branch by ``L^-(alpha + u)``; these L changes are aligned, and the stream moves by ``L^(1 - alpha -
      u)``, or by order one where the input layer's change is larger;
    * a branch also follows the change of its input: ``L^-alpha`` times that of the stream relative to it;
    * in a branch of two layers the term with both changes is ``L^-u`` of the linear one.

    For alpha >= 1/2 this holds for any activation. Below, the stream grows; the exponents are then those of
    branches that begin with a norm (without one it grows exponentially, or for a bounded activation the
    gradient does), and the changes those of a small step. Without a rule of depth SGD's are lower bounds:
    block l has gradients larger by ``(L/l)^p``, ``p = E[phi'^2] / (2 E[phi^2])`` for branches of two layers,
    about 1/2.

    Args:
        parametrization: gives alpha, and c through its rate.
        optimizer: the optimizer family.
        alignment: which of its rates; None is the default.
        branch_depth: layers in a branch, 1 or 2.
        final_norm: whether a norm stands between the stream and the readout: a growing stream then has
            smaller gradients.

    Raises:
        ValueError: if the parametrization has no such rate, or ``branch_depth`` is neither 1 nor 2.

    Example:
        >>> from widelimit.scaling import completep, depth_mup, mup
        >>> [str(depth_slopes(table).laziness) for table in (depth_mup(), completep())]
        ['-1/2', '0']
        >>> str(depth_slopes(mup()).stream_change), str(depth_slopes(completep()).stream_change)
        ('1', '0')

    Reference:
        Dey et al., arXiv 2505.01618, Desiderata 1-3; Yang et al., arXiv 2310.02244.
    """
    if branch_depth not in (1, 2):
        raise ValueError(f"branch_depth must be 1 or 2; got {branch_depth!r}.")
    alpha = parametrization.branch
    rate = parametrization.rate(optimizer, alignment)
    stream = max(_ZERO, _HALF - alpha)
    gradient = -alpha - (stream if final_norm else 0)
    weights = -rate.depth.learning_rate + (gradient if SHIFT_POWER[rate.family] == 2 else 0)
    own = weights - alpha
    stream_change = max(_ZERO, _ONE + own)
    return DepthSlopes(
        stream=stream,
        branches=_HALF - alpha,
        gradient=gradient,
        weight_change=weights,
        own_change=own,
        branch_change=max(own, stream_change - stream - alpha),
        stream_change=stream_change,
        laziness=None if branch_depth == 1 else weights,
    )


def derive_depth(alpha: Fraction | int | str, optimizer: str) -> DepthExponents:
    r"""Derives the exponents of depth from what is wanted: every branch moves the stream by ``1/L`` per step.

    With learning rate ``m_L^-c`` a step moves a branch by ``L^-(alpha + u(c))``, u of slope one in c, which
    solves ``alpha + u(c) = 1`` for c. Epsilon is to follow the gradient, ``m_L^-alpha``. Decay that the rate
    multiplies is to remove as small a share of the weights as the update changes, ``L^(alpha - 1)``: the
    rate of scale-free updates does that by itself, SGD's is larger by ``L^alpha``.

    Args:
        alpha: exponent of the branches' multiplier, exact.
        optimizer: ``"sgd"``, ``"adam"``, ``"adafactor"`` or ``"muon"``.

    Raises:
        ValueError: for an unknown optimizer, or an alpha that is negative or no number.

    Example:
        >>> str(derive_depth("1/2", "adam").learning_rate), str(derive_depth(1, "sgd").learning_rate)
        ('1/2', '-1')

    Reference:
        Dey et al., arXiv 2505.01618, Desideratum 2.
    """
    if optimizer not in FAMILIES:
        raise ValueError(f"optimizer must be one of {', '.join(FAMILIES)}; got {optimizer!r}.")
    exponent = branch_exponent(alpha)
    # The gradient of a weight in a branch passes the branch's multiplier once, and so does its effect.
    gradient = exponent
    feels = gradient if SHIFT_POWER[optimizer] == 2 else _ZERO  # SGD's update is its gradient
    at_rate_one = exponent + feels
    return DepthExponents(_ONE - at_rate_one, epsilon=gradient, weight_decay=feels)
