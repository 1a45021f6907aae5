"""Windows of a sequence of tokens, and which of them each training step sees."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int32

from widelimit.training.data.batches import batch_indices
from widelimit.training.data.corpus.tokens import Tokens, check_tokens
from widelimit.training.data.streams import as_count


def windows(tokens: Tokens | np.ndarray, context: int) -> Int32[np.ndarray, "num window"]:
    """Returns all windows of ``context + 1`` tokens, one a row: inputs ``row[:-1]``, targets ``row[1:]``.

    With C = context, ``row(i) = tokens[i C : i C + C + 1]``: neighbours share one token, the last target of
    one being the first input of the next, so that every token but the first is a target once. The
    ``(N - 1) mod C`` tokens at the end are left out. Rows are ready for ``sweep`` with a ``batch_table``.

    Args:
        tokens: a `Tokens`, of which the training part is taken, or one of its parts, shape [N].
        context: C, tokens that the network sees at once.

    Returns:
        int32 of shape [(N - 1) // C, C + 1], in memory.

    Raises:
        ValueError: if the sequence has no window of that length.
        TypeError: if ``context`` is not a whole number, or the tokens are of another dtype.

    Example:
        >>> windows(np.uint16([7, 8, 9, 1, 2, 3]), context=2).tolist()
        [[7, 8, 9], [9, 1, 2]]
    """
    part = _part(tokens)
    return _rows(part, np.arange(count_windows(part, context)), context)


def token_batch(
    tokens: Tokens | np.ndarray, *, seed: int, step: int, batch: int, context: int
) -> Int32[np.ndarray, "batch window"]:
    """Returns the windows of one training step, a pure function of (seed, step): there is no state to save.

    ``token_batch(...) = windows(tokens, context)[batch_indices(seed, step, batch, number of windows)]``: in
    an epoch every window is seen at most once, in an order fixed by (seed, epoch). Only the windows of the
    batch are read, so a file much larger than memory will do.

    Args:
        tokens: a `Tokens`, of which the training part is taken, or one of its parts, shape [N].
        seed: fixes the order of every epoch.
        step: the step, from 0.
        batch: windows per step.
        context: C, tokens that the network sees at once.

    Returns:
        int32 of shape [batch, C + 1]: inputs ``[:, :-1]``, targets ``[:, 1:]``.

    Raises:
        ValueError: if a number is out of range, or there are fewer windows than the batch takes.
        TypeError: if a number is not whole, or the tokens are of another dtype.

    Example:
        >>> token_batch(np.arange(100, dtype=np.uint16), seed=0, step=5, batch=4, context=8).shape
        (4, 9)
    """
    part, step = _part(tokens), as_count("step", step, 0)
    count = count_windows(part, context)
    if as_count("batch", batch, 1) > count:
        raise ValueError(
            f"batch must be at most the {count} windows of {context} + 1 tokens in the data; got {batch}: "
            "lower batch or context, or take more text."
        )
    return _rows(part, batch_indices(seed, step, batch, count), context)


def count_windows(part: np.ndarray, context: int) -> int:
    """Returns the number of windows, which is one at least."""
    count = (len(part) - 1) // as_count("context", context, 1)
    if count < 1:
        raise ValueError(
            f"context must be below the {len(part)} tokens of the sequence; got {context}: lower context, "
            "or take more text."
        )
    return count


def _part(tokens: Tokens | np.ndarray) -> np.ndarray:
    """Returns the sequence meant."""
    if isinstance(tokens, Tokens):
        return tokens.train
    check_tokens("tokens", tokens)
    return tokens


def _rows(part: np.ndarray, index: np.ndarray, context: int) -> np.ndarray:
    """Returns the windows of these numbers."""
    view = np.lib.stride_tricks.sliding_window_view(part, context + 1)[::context]
    return view[index].astype(np.int32)
