"""One way of computing one empirical NTK, in a process of its own; benchmarks/empirical_ntk.py asks.

    python -m benchmarks.ntk_worker SIDE '{"network": "mlp", ...}'

Writes a line of JSON when it has compiled, and one for every line of JSON that it reads.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.ntk_cases import Case, Network
from benchmarks.ntk_flops import count

Kernel = Callable[[Any, Any], jax.Array]
OURS = "widelimit"
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MATMUL = 2048


def ours(network: Network, form: str) -> Kernel:
    """The structured kernel of the package."""
    from widelimit.kernels import empirical

    return lambda params, x: empirical.ntk(network[0], params, x, form=form)  # type: ignore[arg-type]


def peer(network: Network, form: str, implementation: int) -> Kernel:
    """neural-tangents: 1 contracts Jacobians, 2 multiplies by them; the others do not run on current JAX."""
    from widelimit.kernels.neural_tangents import neural_tangents

    options = {"vmap_axes": 0, "implementation": implementation}
    axes = () if form == "full" else (-1,)
    kernel = neural_tangents().empirical_ntk_fn(network[0], trace_axes=axes, **options)
    scale = 1 if form == "full" else network[0](network[1], network[2][:1]).size  # theirs is a mean
    return lambda params, x: scale * kernel(x, None, params)


def plain(network: Network, form: str) -> Kernel:
    """What one writes by hand: a Jacobian for every sample, and an einsum for every parameter."""

    def kernel(params: Any, x: Any) -> jax.Array:
        jacobian = jax.vmap(jax.jacrev(lambda p, one: network[0](p, one[None])[0]), (None, 0))(params, x)
        pattern = "iok,jpk->ijop" if form == "full" else "iok,jok->ij"
        flat = (leaf.reshape(*leaf.shape[:2], -1) for leaf in jax.tree.leaves(jacobian))
        return functools.reduce(jnp.add, [jnp.einsum(pattern, leaf, leaf) for leaf in flat])

    return kernel


def matmul(network: Network, form: str) -> Kernel:
    """No kernel: one product of two square matrices, for what the machine can do."""
    del network, form
    return lambda params, x: jnp.matmul(x, params, precision="highest")


SIDES: dict[str, Callable[[Network, str], Kernel]] = {
    OURS: ours,
    "neural-tangents 1": lambda network, form: peer(network, form, 1),
    "neural-tangents 2": lambda network, form: peer(network, form, 2),
    "vmap(jacrev)": plain,
    "matmul": matmul,
}


def memory(reset: bool = False) -> tuple[float, float]:
    """Returns the memory in use and its peak (since the last reset, where the system has one) in bytes."""
    stats = jax.devices()[0].memory_stats()
    if stats:  # of a GPU
        return stats["bytes_in_use"], stats["peak_bytes_in_use"]
    if not STATUS.exists():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak, peak
    if reset and os.access(RESET, os.W_OK):
        RESET.write_text("5")
    values = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return tuple(1024.0 * int(values[name].split()[0]) for name in ("VmRSS", "VmHWM"))  # type: ignore[return-value]


def compile_kernel(side: str, case: Case) -> tuple[Callable[[], jax.Array], dict[str, Any]]:
    """Returns the compiled kernel, ready to run, and what the compiler says about it."""
    network = case.build()
    function = SIDES[side](network, case.form)
    arguments = (jnp.ones((MATMUL, MATMUL)),) * 2 if side == "matmul" else network[1:]
    flops = count(function, *arguments)
    begin = time.perf_counter()
    lowered = jax.jit(function).lower(*arguments)
    traced = time.perf_counter()
    compiled = lowered.compile()
    done = time.perf_counter()
    costs, sizes = compiled.cost_analysis() or {}, compiled.memory_analysis()
    facts = {
        "trace": traced - begin,
        "compile": done - traced,
        "flops": flops,
        "xla_flops": float(costs.get("flops", float("nan"))),
        "planned": float(sizes.temp_size_in_bytes + sizes.output_size_in_bytes) if sizes else float("nan"),
        "instructions": (compiled.as_text() or "").count(" = "),
        "device": jax.devices()[0].device_kind,
    }
    return lambda: compiled(*arguments), facts


def run(kernel: Callable[[], jax.Array], calls: int, save: str | None) -> dict[str, Any]:
    """Times some calls and measures the memory they take beyond what is in use before."""
    before, _ = memory(reset=True)
    seconds = []
    for _ in range(calls):
        begin = time.perf_counter()
        value = kernel()
        jax.block_until_ready(value)
        seconds.append(time.perf_counter() - begin)
        if save:
            np.save(save, np.asarray(value))
        del value
    return {"seconds": seconds, "grown": memory()[1] - before}


def main() -> None:
    """Compiles, then answers until nobody asks."""
    side, case = sys.argv[1], Case(**json.loads(sys.argv[2]))
    kernel, facts = compile_kernel(side, case)
    print(json.dumps({"case": dataclasses.asdict(case)} | facts), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(run(kernel, request["calls"], request.get("save"))), flush=True)


if __name__ == "__main__":
    main()
