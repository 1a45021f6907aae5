"""Guards that all solvers share: training that diverges is said, never returned as NaN."""

from __future__ import annotations

import numpy as np

_LOSS, _FIELD = 1e6, 1e4
"""Growth, over the start, that counts as divergence: of the loss, and of the root mean square of a field.

A field may also grow by gamma0 squared: a bounded activation drives z by gamma0, and z drives h by gamma0
again, while the loss falls.
"""


class Diverged(ArithmeticError):
    """Training blew up, as the finite network would at this learning rate.

    Args:
        step: after which step it was seen.
        what: that grew, e.g. ``"the loss"``.

    Attributes:
        step: as given.

    Example:
        >>> raise Diverged(3, "the loss")
        Traceback (most recent call last):
        widelimit.dmft.checks.Diverged: the loss blew up after step 3: take a smaller learning_rate.
    """

    def __init__(self, step: int, what: str) -> None:
        """Says what blew up, when, and what to do."""
        super().__init__(f"{what} blew up after step {step}: take a smaller learning_rate.")
        self.step = step
        self.what = what

    def __reduce__(self) -> tuple[type[Diverged], tuple[int, str]]:
        """Pickles by what it was made from, so that it crosses processes."""
        return type(self), (self.step, self.what)


def check_loss(step: int, loss: float, start: float) -> None:
    """Raises if the training loss is not finite, or beyond 1e6 times the loss at the start.

    Args:
        step: after which step the loss was taken.
        loss: mean training loss now.
        start: before the first step.

    Raises:
        Diverged: if it blew up.

    Example:
        >>> check_loss(3, 0.5, 1.0)
    """
    if not np.isfinite(loss) or abs(loss) > _LOSS * max(abs(start), 1e-6):
        raise Diverged(step, "the loss")


def check_field(
    step: int, rms: float, start: float, gamma0: float, what: str = "the pre-activations"
) -> None:
    """Raises if a field is not finite, or its root mean square beyond 1e4 max(1, gamma0^2) times the start's.

    Args:
        step: after which step the field was taken.
        rms: root mean square now.
        start: before the first step.
        gamma0: of the problem.
        what: the field is called in the message.

    Raises:
        Diverged: if it blew up.

    Example:
        >>> check_field(3, 2.0, 1.0, gamma0=1.0)
    """
    if not np.isfinite(rms) or rms > _FIELD * max(1.0, gamma0**2) * max(start, 1e-6):
        raise Diverged(step, what)
