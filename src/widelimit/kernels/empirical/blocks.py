"""Kernels of more samples than fit into memory at once: tile by tile, into an array or a file."""

from __future__ import annotations

import contextlib
import errno
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from widelimit.kernels import checks
from widelimit.kernels.checks import Apply, PyTree
from widelimit.kernels.empirical.budget import for_arrays, show_bytes
from widelimit.kernels.empirical.checks import pair
from widelimit.kernels.empirical.costs import Form
from widelimit.kernels.empirical.identity import identity
from widelimit.kernels.empirical.programs import Network, converted
from widelimit.kernels.empirical.results import InMemory, OnDisk
from widelimit.kernels.empirical.samples import block
from widelimit.kernels.empirical.tiling import Job


def ntk_in_blocks(
    apply: Apply,
    params: PyTree,
    x1: PyTree,
    x2: PyTree = None,
    *,
    form: Form = "full",
    rates: PyTree = None,
    memory: str | int = "2GiB",
    file: str | Path | None = None,
    dtype: Any = None,
    progress: Any = False,
    mesh: Mesh | None = None,
) -> np.ndarray:
    r"""Computes the empirical NTK tile by tile within a given memory, to a file where it does not fit.

    Features (activations and cotangents) are computed once per block of samples and kept as far as they fit;
    each tile is a contraction of two blocks. If x2 is None only the tiles on and above the diagonal are
    computed and the others mirrored, so the result is symmetric to the last bit. Blocks are of one size (the
    last is filled up and cut), so one compiled program serves all. While a tile is stored the next one is
    computed.

    With ``file``, the kernel is written to ``<file>.part``, and ``<file>.json`` notes what is finished. A run
    that was killed goes on when it is called again with the same arguments, also with another ``memory`` or
    ``mesh``; another kernel is refused. The finished file is an ordinary ``.npy``.

    Args:
        apply: ``apply(params, x) -> outputs [N, ...]``, sample by sample.
        params: the parameters to differentiate by.
        x1: inputs, a pytree of arrays with leading axis N1.
        x2: inputs with leading axis N2; None is x1.
        form: of the result, as for ``ntk``.
        rates: learning rate of each parameter, as for ``ntk``.
        memory: by how much this call may let the process grow, in bytes or as text: a result in memory, kept
            features, tiles under way, and 96 MiB for compiling and what malloc holds (half of the memory
            where that is less). With ``mesh``, of each device.
        file: path of a .npy file for the result; its pages are the disk's, not counted as memory.
        dtype: "float32" or "float64", to which parameters and inputs are converted first, as for ``ntk``.
        progress: True for a bar with the remaining time, a class like tqdm, or a function that is called with
            (pairs of samples done, pairs in all) after each tile.
        mesh: devices that share each tile, as for ``ntk_sharded``.

    Returns:
        The kernel as a NumPy array, or as a read-only memory map of ``file``.

    Raises:
        ValueError: if the result takes more than ``memory`` and there is no ``file``, not even a tile of one
            sample fits, the file belongs to another kernel, or inputs do not fit together.
        FloatingPointError: if the kernel is not finite; says for which samples.
        FileExistsError: if the file exists and nothing says what it holds.
        OSError: if the disk is full; what is finished is kept.

    Example:
        >>> x = np.eye(4, 3, dtype=np.float32)
        >>> ntk_in_blocks(lambda w, x: x @ w, np.ones((3, 2), np.float32), x, form="trace").tolist()[0]
        [2.0, 0.0, 0.0, 0.0]
    """
    n1, n2 = pair(x1, x2, form)
    checks.parameters(params)
    if dtype is not None and np.dtype(dtype).name not in ("float32", "float64"):
        raise ValueError(f"dtype must be 'float32', 'float64' or None; got {dtype!r}.")
    available, rates = for_arrays(memory), checks.scales(rates, params)
    x1 = jax.tree.map(np.asarray, x1)
    x2 = x1 if x2 is None else jax.tree.map(np.asarray, x2)
    with _wide(params, dtype):
        params = converted(params, dtype)
        example = converted(block(x1, 0, 2), dtype)
        checks.uncoupled(apply, params, example)
        network = Network(apply, params, example, form=form, rates=rates, dtype=dtype, mesh=mesh)
        _, entry, numbers = network.sample()
        shape = (n1, 1, *entry[1:]) if form == "self" else (n1, n2, *entry[2:])
        final = (n1, *entry[1:]) if form == "self" else shape
        result: InMemory | OnDisk
        if file is None:
            size = math.prod(shape) * np.dtype(numbers).itemsize
            if size >= available:
                raise ValueError(
                    f"A kernel of shape {final} takes {show_bytes(size)}, which leaves nothing of the "
                    f"{show_bytes(available)} that memory={memory!r} has for arrays; pass file='kernel.npy' "
                    "to have it on disk, or more memory."
                )
            result, available = InMemory(shape, final, numbers), available - size
        else:
            what = identity(apply, params, example, x1, None if x2 is x1 else x2, form, rates, numbers)
            result = OnDisk(Path(file), shape, final, numbers, what)
        if not result.complete:
            with _kept_if_stopped(result):
                Job(network, x1, x2, n1, n2, form, mesh).run(result, available, progress)
        return result.close()


def _wide(params: PyTree, dtype: Any) -> contextlib.AbstractContextManager[Any]:
    """Float64 for what asks for it, whatever JAX is set to: the caller, or the parameters."""
    given = {np.dtype(leaf.dtype).name for leaf in jax.tree.leaves(params)}
    wide = np.dtype(dtype).name == "float64" if dtype is not None else "float64" in given
    return jax.enable_x64(True) if wide else contextlib.nullcontext()


@contextlib.contextmanager
def _kept_if_stopped(result: InMemory | OnDisk) -> Iterator[None]:
    """Whatever stops the work, what is finished is kept; a full disk gets a sentence."""
    try:
        yield
    except OSError as error:
        result.abandon()
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(
            error.errno, "The disk is full; free some space and call again: what is finished is kept."
        ) from error
    except BaseException:
        result.abandon()
        raise
