"""The rules as a table that a person can act on."""

from __future__ import annotations

import jax

from widelimit.scaling.roles import Leaf
from widelimit.scaling.rules import Rules


def describe(
    rules: Rules,
    *,
    learning_rate: float | None = None,
    epsilon: float | None = None,
    weight_decay: float | None = None,
) -> str:
    """Returns a table of every parameter: path, role, fans, initial std, and actual hyperparameters.

    Given the values tuned at the base width, the columns ``lr``, ``eps`` and ``decay`` hold the values to
    use at this width (``decay`` is the coefficient under the convention named below the table); without
    them, the factors. In a residual network a role is marked ``+`` inside a branch and ``>`` in the last
    layer of one, whose multiplier holds the branch's.

    Args:
        rules: the rules of a network.
        learning_rate: the tuned global learning rate.
        epsilon: the tuned epsilon of Adam.
        weight_decay: the tuned weight-decay coefficient.

    Raises:
        ValueError: if a hyperparameter is negative.

    Example:
        >>> from widelimit.scaling import leaf_from_axes, make_rules, mup
        >>> from fractions import Fraction
        >>> shapes = {"shape": (256, 256), "base_shape": (64, 64)}
        >>> leaf = leaf_from_axes("w", **shapes, contracted=(0,), width=Fraction(4), base_width=64)
        >>> print(describe(make_rules({"w": leaf}, mup(), "adam"), learning_rate=1e-2).splitlines()[1])
        w          hidden     256      256   0.0625           1    0.0025       x0.25           x1

    Reference:
        Yang et al., arXiv 2203.03466, Figure 2: tune small, read off the large run.
    """
    given = {"learning_rate": learning_rate, "epsilon": epsilon, "weight_decay": weight_decay}
    for name, value in given.items():
        if value is not None and not value >= 0:
            raise ValueError(f"{name} must be at least 0; got {value}.")
    columns = [jax.tree.leaves(getattr(rules, name)) for name in ("init_std", "multiplier", *given)]
    path_width = max(len("parameter"), *(len(leaf.path) for leaf in rules.leaves)) + 2
    lines = [
        f"{'parameter':<{path_width}}{'role':<8}{'fan-in':>6}{'fan-out':>9}{'init std':>9}"
        f"{'multiplier':>12}{'lr':>10}{'eps':>12}{'decay':>13}"
    ]
    for leaf, std, multiplier, *factors in zip(rules.leaves, *columns, strict=True):
        actual = [
            f"x{float(factor):.4g}" if value is None else f"{float(factor) * value:.4g}"
            for factor, value in zip(factors, given.values(), strict=True)
        ]
        role = leaf.role.value + _mark(leaf)
        lines.append(
            f"{leaf.path:<{path_width}}{role:<8}{leaf.fan_in:>6}{leaf.fan_out:>9}{float(std):>9.4g}"
            f"{float(multiplier):>12.4g}{actual[0]:>10}{actual[1]:>12}{actual[2]:>13}"
        )
    first = rules.leaves[0]
    lines.append(
        f"{rules.parametrization.name}, {rules.optimizer}, alignment {rules.alignment}, decay {rules.decay}; "
        f"width {float(first.width) * first.base_width:g} = {float(first.width):g} x base {first.base_width}"
    )
    depths = sorted({leaf.depth for leaf in rules.leaves if leaf.depth is not None})
    if depths:
        alpha = rules.parametrization.branch
        ratios = ", ".join(f"{float(depth):g}" for depth in depths)
        power = f"multiplied by depth^-{alpha}" if alpha else "no rule of depth"
        lines.append(f"depth {ratios} x base; + in a residual branch, > in its last layer: {power}")
    if any(leaf.tied for leaf in rules.leaves):
        lines.append("* tied: also the readout; the multiplier belongs to that use")
    return "\n".join(lines)


def _mark(leaf: Leaf) -> str:
    """Returns what the table puts behind a role."""
    inside = "" if leaf.depth is None else ">" if leaf.ends_branch else "+"
    return inside + ("*" if leaf.tied else "")
