"""How the kernel of a network will be computed: which parameter takes which path, and at what cost."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from widelimit.kernels.checks import Apply, PyTree, parameters
from widelimit.kernels.empirical import describe
from widelimit.kernels.empirical.checks import outputs, pair
from widelimit.kernels.empirical.costs import Form, Size, choose
from widelimit.kernels.empirical.groups import Group, Term
from widelimit.kernels.empirical.program import Program
from widelimit.kernels.empirical.trace import trace
from widelimit.kernels.empirical.uses import Use


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """The forward pass of one sample, and where its parameters are used; made by ``plan``.

    Args:
        program: the forward pass.
        groups: uses of parameters that add up.
        direct: parameters without structure, by number, and why.
        paths: name of each parameter.
        shapes: shape of each parameter.
        treedef: of the parameters.
        outputs: of one sample.
        dtype: of the outputs.
        rows: samples of the rows.
        columns: samples of the columns.
        same: whether these are the same samples.
        form: of the kernel.
        terms: of all groups.
        indices: of each group's terms, numbers in ``terms`` and ``stacks``.
        stacks: uses whose cotangents are stacked, terms that share them counted once.
        clusters: groups that share one cotangent, by number.
        sites: slots whose cotangents are needed.
        wanted: slots whose values are needed.
        pools: slots whose cotangents are needed for those before them, see ``pooled``.
    """

    program: Program
    groups: tuple[Group, ...]
    direct: dict[int, str]
    paths: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    treedef: Any
    outputs: int
    dtype: Any
    rows: int
    columns: int
    same: bool
    form: Form
    terms: tuple[Term, ...]
    indices: tuple[tuple[tuple[int, int], ...], ...]
    stacks: tuple[tuple[Use, ...], ...]
    clusters: tuple[tuple[int, ...], ...]
    sites: tuple[int, ...]
    wanted: tuple[int, ...]
    pools: tuple[int, ...]

    @property
    def size(self) -> Size:
        """The size of the kernel that was planned for."""
        item = max(4, self.dtype.itemsize)  # half precision is accumulated in float32
        if self.form == "sum":
            return Size(self.rows, self.columns, 1, "trace", self.same, item)
        return Size(self.rows, self.columns, self.outputs, self.form, self.same, item)

    @property
    def ways(self) -> list[str]:
        """How each group is contracted at that size."""
        return choose(self.groups, self.clusters, self.size)

    def leaves(self) -> list[describe.Path]:
        """Returns the path of each parameter, in tree order."""
        return describe.paths(self)

    def describe(self) -> str:
        """Returns a table: the path of each parameter, its contraction and what that costs."""
        return describe.table(self)


def plan(apply: Apply, params: PyTree, x1: Any, x2: Any = None, *, form: Form = "full") -> Plan:
    r"""Returns how ``ntk`` computes a kernel: which parameter takes which path, and at what cost.

    The forward pass of one sample is traced, with nothing known of the model but ``apply``, and every
    parameter followed through reshapes, transpositions, slices, casts and factors to where it meets data.
    There ``dW = sum_s a(s) (x) b(s)`` over positions s, with activations a and cotangents b, for dense
    layers, convolutions (a is a patch) and embeddings (a is one-hot). What meets data otherwise is
    differentiated by.

    Args:
        apply: ``apply(params, x) -> outputs [N, ...]``, sample by sample.
        params: the parameters to differentiate by, a pytree of floating-point arrays or their shapes.
        x1: inputs, a pytree of arrays with leading axis N1, or their shapes.
        x2: inputs with leading axis N2; None is x1.
        form: of the kernel, as in ``ntk``.

    Raises:
        ValueError: if the inputs do not fit together or have no leading axis, or no parameter matters.
        TypeError: if a parameter or the output is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> apply = lambda p, x: jnp.tanh(x @ p["inner"] + p["bias"]) @ p["outer"]
        >>> params = {"inner": jnp.ones((3, 8)), "bias": jnp.ones((1, 8)), "outer": jnp.ones((8, 2))}
        >>> print(plan(apply, params, jnp.ones((4, 3))).describe())
        parameter  shape  path       contraction       Mflop      MiB
        bias       1x8    bias       gram                  0        0
        inner      3x8    dense      gram            0.00112 0.000244
        outer      8x2    dense      gram           0.000512 0.000244
        full kernel of 4 x 4 samples with 2 outputs: 0.001632 Mflop, where Jacobians take 0.006784

    Reference:
        Novak et al., Fast Finite Width Neural Tangent Kernel (arXiv 2206.08720).
    """
    rows, columns = pair(x1, x2, form)
    paths = parameters(params)
    leaves, treedef = jax.tree.flatten(params)
    sample, inputs = jax.tree.flatten(x1)
    canonical = jax.dtypes.canonicalize_dtype  # what arrays become in JAX: with 64 bits switched off, 32
    shapes = [jax.ShapeDtypeStruct((1, *array.shape[1:]), canonical(array.dtype)) for array in sample]
    given = [jax.ShapeDtypeStruct(leaf.shape, canonical(leaf.dtype)) for leaf in leaves]

    def forward(params: Any, x: Any) -> Any:
        made = apply(jax.tree.unflatten(treedef, params), jax.tree.unflatten(inputs, x))
        outputs(made)
        return made.reshape(-1)

    traced = trace(forward, given, shapes, summed=form == "trace")
    out = traced.program.shapes[traced.program.output]
    if not traced.groups and not traced.direct:
        raise ValueError("the outputs of apply depend on no parameter; their kernel is zero.")
    return Plan(
        program=traced.program,
        groups=traced.groups,
        direct=dict(traced.direct),
        paths=tuple(paths),
        shapes=tuple(a.shape for a in given),
        treedef=treedef,
        outputs=out.shape[0],
        dtype=out.dtype,
        rows=rows,
        columns=columns,
        same=x2 is None,
        form=form,
        **_numbered(traced.groups),
    )


def _numbered(groups: tuple[Group, ...]) -> dict[str, Any]:
    """What features are made of, each once, and which group needs which."""
    terms: list[Term] = []
    stacks: dict[Any, tuple[int, tuple[Use, ...]]] = {}
    indices: list[tuple[tuple[int, int], ...]] = []
    clusters: dict[int, list[int]] = {}
    for number, group in enumerate(groups):
        pairs = []
        for term in group.terms:
            key = tuple((use.site, use.product, use.axes) for use in term.uses)
            at, _ = stacks.setdefault(key, (len(stacks), term.uses))
            pairs.append((len(terms), at))
            terms.append(term)
        indices.append(tuple(pairs))
        clusters.setdefault(pairs[0][1] if len(pairs) == 1 else -1 - number, []).append(number)
    uses = [use for term in terms for use in term.uses]
    scales = [scale[0] for use in uses for scale in use.scales if not isinstance(scale, int)]
    operands = [use.operand for use in uses if use.operand is not None]
    pools = [use.pool for use in uses if use.pool is not None]
    return {
        "pools": tuple(dict.fromkeys(pools)),
        "terms": tuple(terms),
        "indices": tuple(indices),
        "stacks": tuple(uses for _, uses in stacks.values()),
        "clusters": tuple(map(tuple, clusters.values())),
        "sites": tuple(dict.fromkeys(use.site for use in uses)),
        "wanted": tuple(dict.fromkeys([*operands, *scales])),
    }
