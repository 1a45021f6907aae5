"""The kernel over several devices is the kernel of one, and nothing travels between them."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from widelimit.kernels import empirical

MESHES = [(8, 1), (4, 2), (2, 4)]
FORMS = ["full", "trace", "diagonal", "self", "sum"]


def apply(params, x):
    """A two-layer network with 3 outputs."""
    return jnp.tanh(x @ params["inner"]) @ params["outer"]


def network(key, n=24):
    """Returns parameters and n inputs."""
    keys = jax.random.split(key, 3)
    params = {
        "inner": jax.random.normal(keys[0], (5, 16)) / 5**0.5,
        "outer": jax.random.normal(keys[1], (16, 3)) / 4,
    }
    return params, jax.random.normal(keys[2], (n, 5))


def mesh_of(shape, kind=AxisType.Auto):
    """Returns a mesh over the 8 simulated devices."""
    return jax.make_mesh(shape, ("rows", "columns")[: len(shape)], axis_types=(kind,) * len(shape))


def relative(got, want):
    """Returns the largest error over the largest entry."""
    return np.abs(np.asarray(got) - np.asarray(want)).max() / np.abs(np.asarray(want)).max()


@pytest.mark.parametrize(
    "shape, kind",
    [
        *((shape, AxisType.Auto) for shape in MESHES),
        *((shape, AxisType.Explicit) for shape in ((4, 2), (8,))),
    ],
)
def test_each_device_computes_its_tile(shape, kind):
    """On every mesh: the kernel of one device to 1e-6, each tile where it was computed."""
    params, x = network(jax.random.key(0))
    mesh = mesh_of(shape, kind)
    theta = empirical.ntk_sharded(apply, params, x[:16], x[16:], mesh=mesh)
    assert relative(theta, empirical.ntk(apply, params, x[:16], x[16:])) < 1e-6
    rows, columns = (*shape, 1)[:2]
    assert {shard.data.shape for shard in theta.addressable_shards} == {(16 // rows, 8 // columns, 3, 3)}


@pytest.mark.parametrize(
    "shape, form", [*(((4, 2), form) for form in FORMS), ((8, 1), "full"), ((2, 4), "full")]
)
def test_what_the_mesh_does_not_divide_is_padded(shape, form):
    """13 samples on 8 devices, every form, weighted by rates, x2 left out."""
    params, x = network(jax.random.key(1), 13)
    rates = {"inner": 0.5, "outer": 2.0}
    theta = empirical.ntk_sharded(apply, params, x, mesh=mesh_of(shape), form=form, rates=rates)
    assert relative(theta, empirical.ntk(apply, params, x, form=form, rates=rates)) < 1e-6


def test_fewer_samples_than_devices():
    """One sample against two, on 4 x 2 devices, Explicit axes."""
    params, x = network(jax.random.key(2), 3)
    theta = empirical.ntk_sharded(apply, params, x[:1], x[1:], mesh=mesh_of((4, 2), AxisType.Explicit))
    assert relative(theta, empirical.ntk(apply, params, x[:1], x[1:])) < 1e-6


@pytest.mark.parametrize("shape", MESHES)
def test_summing_over_devices_in_silence_is_the_trap(shape):
    """Inside shard_map, a plain Jacobian in what the devices share is summed over them: far off, no error."""
    params, x = network(jax.random.key(3))
    mesh = mesh_of(shape)
    specs = {"in_specs": (P(), P("rows"), P("columns")), "out_specs": P("rows", "columns")}
    kernel = empirical.ntk(apply, params, x[:16], x[16:])

    def tile(p, a, b):
        def jacobian(x):
            rows = jax.jacrev(lambda p: apply(p, x))(p)
            return jnp.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in jax.tree.leaves(rows)], -1)

        return jnp.einsum("iok,jpk->ijop", jacobian(a), jacobian(b))

    naive = jax.jit(jax.shard_map(tile, mesh=mesh, **specs))
    unchecked = jax.jit(jax.shard_map(tile, mesh=mesh, **specs, check_vma=False))
    varying = jax.jit(
        jax.shard_map(
            lambda p, a, b: tile(jax.lax.pcast(p, ("rows", "columns"), to="varying"), a, b),
            mesh=mesh,
            **specs,
        )
    )
    assert relative(naive(params, x[:16], x[16:]), kernel) > 1.0
    assert "all-reduce" in naive.lower(params, x[:16], x[16:]).compile().as_text()
    for right in (unchecked, varying):  # ours, on these meshes: above
        assert relative(right(params, x[:16], x[16:]), kernel) < 1e-6


@pytest.mark.parametrize("form", ["full", "trace", "self"])
def test_nothing_is_communicated(form):
    """The compiled program holds no collective operation."""
    params, x = network(jax.random.key(4), 16)
    mesh = mesh_of((4, 2))
    args = jax.device_put((params, x, x), (NamedSharding(mesh, P()), *[NamedSharding(mesh, P())] * 2))
    kernel = jax.jit(lambda p, a, b: empirical.ntk_sharded(apply, p, a, b, mesh=mesh, form=form))
    if form == "self":
        kernel = jax.jit(lambda p, a, b: empirical.ntk_sharded(apply, p, a, mesh=mesh, form=form))
    program = kernel.lower(*args).compile().as_text()
    assert not re.findall(r"all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute", program)
    assert "f32[5,16]" in program  # the text is that of the program, and does name operations


def test_parameters_may_be_anywhere():
    """Parameters that are committed to one device, or already on all; inside jit, too."""
    params, x = network(jax.random.key(5), 16)
    mesh, kernel = mesh_of((2, 4)), empirical.ntk(apply, params, x)
    for place in (jax.devices()[3], NamedSharding(mesh, P())):
        placed = jax.device_put(params, place)
        assert relative(empirical.ntk_sharded(apply, placed, x, mesh=mesh), kernel) < 1e-6
    inside = jax.jit(lambda p, x: empirical.ntk_sharded(apply, p, x, mesh=mesh))
    assert relative(inside(params, x), kernel) < 1e-6


def test_inputs_may_be_a_tree():
    """Several arrays per sample, of several types."""
    table = jax.random.normal(jax.random.key(6), (7, 4))
    x = {"token": jnp.arange(10) % 7, "scale": jnp.linspace(0.5, 2.0, 10)}

    def embed(table, x):
        return jnp.tanh(table[x["token"]] * x["scale"][:, None]) @ jnp.ones((4, 2))

    theta = empirical.ntk_sharded(embed, table, x, mesh=mesh_of((4, 2)))
    assert relative(theta, empirical.ntk(embed, table, x)) < 1e-6


def test_bad_meshes_meet_a_sentence():
    """No mesh, three axes, or other samples than those that are to be paired."""
    params, x = network(jax.random.key(7), 4)
    with pytest.raises(TypeError, match="make_mesh, got tuple"):
        empirical.ntk_sharded(apply, params, x, mesh=(4, 2))
    with pytest.raises(ValueError, match="got the axes"):
        empirical.ntk_sharded(apply, params, x, mesh=jax.make_mesh((2, 2, 2), ("a", "b", "c")))
    with pytest.raises(ValueError, match="as many of both"):
        empirical.ntk_sharded(apply, params, x, x[:3], mesh=mesh_of((4, 2)), form="self")
    with pytest.raises(ValueError, match="one leading axis"):
        empirical.ntk_sharded(apply, params, {"a": x, "b": x[:2]}, mesh=mesh_of((4, 2)))
