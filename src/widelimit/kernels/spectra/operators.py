"""The tangent kernel as an operator: products with vectors, for data sets whose kernel would not fit."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpy.typing import ArrayLike

from widelimit.kernels import checks
from widelimit.kernels.checks import Apply, PyTree
from widelimit.kernels.matrices import symmetric


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KernelOperator:
    """A symmetric matrix of which only products with vectors are computed; a pytree, so jit takes it.

    ``operator`` makes one of a network's tangent kernel, ``from_matrix`` one of a dense matrix. Any other
    symmetric product will do as well: give it as ``function``.

    Args:
        function: ``function(arguments, v)`` is the product; compiled once for equal functions.
        arguments: the arrays that the product reads, a pytree.
        vector_shape: shape of v and of the product: (N, O) for a tangent kernel.
        dtype: of v and of the product.

    Example:
        >>> shift = KernelOperator(lambda _, v: jnp.roll(v, 1) + jnp.roll(v, -1), (), (4,), "float32")
        >>> shift.shape, shift.matvec(jnp.array([1.0, 0.0, 0.0, 0.0]))
        ((4, 4), Array([0., 1., 0., 1.], dtype=float32))
    """

    function: Callable[[PyTree, jax.Array], jax.Array] = dataclasses.field(metadata={"static": True})
    arguments: PyTree
    vector_shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    dtype: Any = dataclasses.field(metadata={"static": True})

    @property
    def size(self) -> int:
        """Number of rows, N O for a tangent kernel."""
        return math.prod(self.vector_shape)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the matrix that is never formed, (N O, N O)."""
        return self.size, self.size

    def matvec(self, v: Any) -> jax.Array:
        """Returns the product with a vector.

        Args:
            v: shape ``vector_shape``, of the operator's dtype.

        Raises:
            ValueError: if v has another shape.
            TypeError: if v has another dtype.
        """
        with precision(self.dtype):
            v = jnp.asarray(v)
            if v.shape != self.vector_shape:
                raise ValueError(f"a vector must have shape {self.vector_shape}; got {v.shape}.")
            if v.dtype != self.dtype:
                raise TypeError(f"a vector must have the operator's dtype {self.dtype}; got {v.dtype}.")
            return _multiply(self, v)

    def dense(self) -> jax.Array:
        """Returns the whole matrix, shape [size, size]: for tests on small data."""
        with precision(self.dtype):
            return products(self, jnp.eye(self.size, dtype=self.dtype)).T


def operator(
    apply: Apply, params: PyTree, x: Any, *, rates: PyTree = None, batch_size: int | None = None
) -> KernelOperator:
    r"""The empirical NTK as an operator, ``v -> J R J^T v`` with ``J = d f / d params`` and rates R.

    A product costs one backward and one forward derivative of the network over all N samples, some five
    forward passes; memory is that of the parameters, of v, and of the activations of ``batch_size`` samples.
    For N samples, O outputs and P parameters that is O(N P) in time where the kernel itself has (N O)^2
    entries.

    Data sharded over devices need nothing else: under jit ``J^T v`` becomes one sum over the devices, and the
    rest is local. A batch takes every (N / batch_size)-th sample, so that it too spreads over the devices.

    Args:
        apply: ``apply(params, x) -> outputs [N, ...]``, sample by sample; what follows N is flattened.
        params: the parameters to differentiate by, all float32 or all float64, as the outputs.
        x: inputs, a pytree of arrays with leading axis N.
        rates: learning rate of each parameter, a pytree like params or ``scaling.Rules``; None is 1.
        batch_size: samples at a time; None is all.

    Raises:
        ValueError: if x holds no samples or differing numbers of them, the outputs do not come one row per
            sample, the rates do not match the parameters, ``batch_size`` is not positive, or x is sharded
            over explicit mesh axes.
        TypeError: if parameters and outputs are not all float32 or all float64.

    Example:
        >>> linear = lambda params, x: x @ params
        >>> x = jnp.array([[1.0, 0.0], [1.0, 1.0]])
        >>> theta = operator(linear, jnp.ones((2, 1)), x)  # the kernel of a linear model is x x^T
        >>> theta.matvec(jnp.array([[1.0], [1.0]]))
        Array([[2.],
               [3.]], dtype=float32)

    Reference:
        Novak et al., arXiv 2206.08720, Section 3.2 (NTK-vector products).
    """
    samples = checks.samples(x, "x")
    checks.parameters(params)
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(f"batch_size must be a positive integer or None; got {batch_size!r}.")
    dtype = _dtype(params)
    with precision(dtype):
        params, x = jax.tree.map(jnp.asarray, (params, x))
        if any(any(jax.typeof(leaf).sharding.spec) for leaf in jax.tree.leaves(x)):
            raise ValueError(
                "inputs must be sharded over mesh axes of type Auto; got Explicit ones, over which jax does "
                "not sum by itself; make the mesh with axis_types=(jax.sharding.AxisType.Auto, ...)."
            )
        outputs = jax.eval_shape(apply, params, x)
        if not isinstance(outputs, jax.ShapeDtypeStruct) or outputs.shape[:1] != (samples,):
            got = getattr(outputs, "shape", type(outputs).__name__)
            raise ValueError(
                f"apply(params, x) must return an array [{samples}, ...], a row a sample; got {got}."
            )
        if outputs.dtype != dtype:
            raise TypeError(
                f"outputs must have the parameters' dtype {dtype}; got {outputs.dtype}. Cast either."
            )
        checks.uncoupled(apply, params, x)
        product = _TangentProduct(apply, None if batch_size is None or batch_size >= samples else batch_size)
        arguments = _Tangent(params, x, match_rates(rates, params))
    return KernelOperator(product, arguments, (samples, math.prod(outputs.shape[1:])), dtype)


def hessian(loss: Callable[[PyTree], jax.Array], params: PyTree) -> KernelOperator:
    r"""The Hessian of a loss as an operator, for the sharpness: its largest eigenvalue.

    Gradient descent with rate eta is stable below ``2 / eta``. For the mean square ``|f - y|^2 / (2 N)`` the
    Hessian is ``J^T J / N`` plus residuals times second derivatives of f: where f = y, and in the lazy limit,
    its non-zero eigenvalues are those of the tangent kernel over N. One product costs some three gradients.

    Args:
        loss: ``loss(params) -> scalar``, the data closed over.
        params: where, a pytree of arrays, all float32 or all float64. Vectors are flat, in the order of
            ``jax.flatten_util.ravel_pytree``.

    Raises:
        TypeError: if the parameters are not all float32 or all float64, or the loss is not one
            number of that dtype.

    Example:
        >>> point = {"x": jnp.ones(()), "y": jnp.ones(())}
        >>> hessian(lambda p: 3 * p["x"] ** 2 + p["x"] * p["y"], point).matvec(jnp.array([1.0, 0.0]))
        Array([6., 1.], dtype=float32)

    Reference:
        Cohen et al., arXiv 2103.00065 (sharpness and stability).
    """
    dtype = _dtype(params)
    with precision(dtype):
        params = jax.tree.map(jnp.asarray, params)
        value = jax.eval_shape(loss, params)
        if getattr(value, "shape", None) != () or value.dtype != dtype:
            raise TypeError(f"loss must return one number of dtype {dtype}; got {value}.")
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    return KernelOperator(_HessianProduct(loss), params, (size,), dtype)


def from_matrix(matrix: ArrayLike) -> KernelOperator:
    """A dense symmetric matrix as an operator, for which the functions of this module then work too.

    Args:
        matrix: shape [N, N]; flatten [N, N, O, O] with ``as_matrix``. float32 and float64 are
            kept, anything else becomes float64.

    Raises:
        ValueError: if it is not a finite symmetric matrix.

    Example:
        >>> from_matrix(np.diag([1.0, 2.0])).matvec(np.ones(2))
        Array([1., 2.], dtype=float64)
    """
    dtype = np.asarray(matrix).dtype
    dtype = dtype if dtype in (np.float32, np.float64) else np.dtype(float)
    exact = symmetric(matrix, "the matrix")
    with precision(dtype):
        return KernelOperator(jnp.matmul, jnp.asarray(exact, dtype), (len(exact),), dtype)


def precision(dtype: Any) -> contextlib.AbstractContextManager[Any]:
    """Allows float64 where the dtype needs it, and changes nothing elsewhere."""
    if np.dtype(dtype) == np.float64 and not jax.config.read("jax_enable_x64"):
        return jax.enable_x64(True)
    return contextlib.nullcontext()


def match_rates(rates: PyTree, params: PyTree) -> PyTree:
    """Returns one scalar of the parameter's dtype per parameter, or None for all 1."""
    found = checks.scales(rates, params)
    if found is None:
        return None
    return jax.tree.map(lambda rate, leaf: jnp.asarray(rate).astype(leaf.dtype), found, params)


class _Tangent(NamedTuple):
    """What a product with the tangent kernel reads."""

    params: PyTree
    x: Any
    rates: PyTree


@dataclasses.dataclass(frozen=True)
class _TangentProduct:
    """The product J R J^T v; two of the same network compare equal, so that jit compiles once."""

    apply: Apply
    batch_size: int | None

    def __call__(self, tangent: _Tangent, v: jax.Array) -> jax.Array:
        """Returns the product, shape [N, O]."""
        params, x, rates = tangent

        def pull(data: tuple[Any, jax.Array]) -> PyTree:
            return jax.vjp(lambda p: self._rows(p, data[0]), params)[1](data[1])[0]

        def push(batch: Any) -> jax.Array:
            return jax.jvp(lambda p: self._rows(p, batch), (params,), (gradient,))[1]

        if self.batch_size is None:
            gradient = _scale(pull((x, v)), rates)
            return push(x)
        batches, rest = _split((x, v), self.batch_size)

        def add(total: PyTree, data: Any) -> tuple[PyTree, None]:
            return jax.tree.map(jnp.add, total, pull(data)), None

        gradient = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), batches)[0]
        if len(rest[1]):
            gradient, _ = add(gradient, rest)
        gradient = _scale(gradient, rates)
        rows = jax.lax.map(push, batches[0]).swapaxes(0, 1).reshape(-1, v.shape[1])
        return jnp.concatenate([rows, push(rest[0])]) if len(rest[1]) else rows

    def _rows(self, params: PyTree, x: Any) -> jax.Array:
        """Returns the outputs with one row a sample."""
        outputs = self.apply(params, x)
        return outputs.reshape(outputs.shape[0], -1)


@dataclasses.dataclass(frozen=True)
class _HessianProduct:
    """The product with the Hessian of a loss; two of one loss compare equal, so that jit compiles once."""

    loss: Callable[[PyTree], jax.Array]

    def __call__(self, params: PyTree, v: jax.Array) -> jax.Array:
        """Returns the product, flat."""
        direction = ravel_pytree(params)[1](v)
        return ravel_pytree(jax.jvp(jax.grad(self.loss), (params,), (direction,))[1])[0]


def _split(data: PyTree, size: int) -> tuple[PyTree, PyTree]:
    """Cuts the leading axis into strided batches [count, size, ...] and the rest, under ``size`` rows."""
    count = len(jax.tree.leaves(data)[0]) // size

    def whole(array: jax.Array) -> jax.Array:
        return array[: count * size].reshape(size, count, *array.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(whole, data), jax.tree.map(lambda array: array[count * size :], data)


def _scale(gradient: PyTree, rates: PyTree) -> PyTree:
    """Returns R g."""
    return gradient if rates is None else jax.tree.map(jnp.multiply, rates, gradient)


def _dtype(params: PyTree) -> np.dtype[Any]:
    """Returns the one dtype of the parameters, float32 or float64."""
    # What is no jax array yet becomes one, in the precision that is set.
    leaves = [leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf) for leaf in jax.tree.leaves(params)]
    dtypes = {np.dtype(leaf.dtype) for leaf in leaves}
    if len(dtypes) != 1 or not dtypes <= {np.dtype(np.float32), np.dtype(np.float64)}:
        names = ", ".join(sorted(map(str, dtypes))) or "none"
        raise TypeError(
            f"parameters must be all float32 or all float64; got {names}. Cast them, and close "
            "over what is not trained."
        )
    return dtypes.pop()


@jax.jit
def _multiply(kernel: KernelOperator, v: jax.Array) -> jax.Array:
    """Returns the product, compiled."""
    return kernel.function(kernel.arguments, v)


@jax.jit
def products(kernel: KernelOperator, vectors: jax.Array) -> jax.Array:
    """Returns the products with vectors [count, size], one after the other, likewise flat."""

    def one(v: jax.Array) -> jax.Array:
        return kernel.function(kernel.arguments, v.reshape(kernel.vector_shape)).ravel()

    return jax.lax.map(one, vectors)
