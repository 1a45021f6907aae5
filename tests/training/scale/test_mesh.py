"""Where arrays lie on a mesh: by role and axes, never by name."""

from __future__ import annotations

import dataclasses

import jax
import pytest
from jax.sharding import PartitionSpec as P

from tests.training.scale.support import DECODER, decoder_trainer, mlp_config, mlp_trainer
from widelimit.models import DecoderConfig, leaves, rules
from widelimit.optim import muon
from widelimit.scaling import Leaf
from widelimit.training.scale import Trainer, check_batch, check_heads, make_mesh, shardings
from widelimit.training.scale.mesh import LARGE

IN, OUT, WHOLE = P("model", None), P(None, "model"), P()


def specs(config, data=2, model=4):
    """The placement of a network's parameters."""
    return jax.tree.map(lambda placed: placed.spec, shardings(leaves(config), make_mesh(data, model)))


def test_branches_are_split_so_that_each_needs_one_sum():
    """Produced axes of all but a branch's last layer, the contracted axis of its last; norms stay whole."""
    config = DecoderConfig(**DECODER, gains=True, bias=True, activation="swiglu")
    found = specs(config)
    attention, mlp = found["block_0"]["attention"], found["block_0"]["mlp"]
    assert {name: attention[name]["kernel"] for name in ("query", "key", "value", "output")} == {
        "query": OUT,
        "key": OUT,
        "value": OUT,
        "output": IN,
    }
    assert {name: mlp[name]["kernel"] for name in ("gate", "up", "down")} == {
        "gate": OUT,
        "up": OUT,
        "down": IN,
    }
    vectors = [
        spec
        for spec, leaf in zip(jax.tree.leaves(found), jax.tree.leaves(leaves(config)), strict=True)
        if not leaf.contracted
    ]
    assert vectors and set(vectors) == {WHOLE}
    assert found["readout"]["kernel"] == OUT and found["embedding"]["table"] == WHOLE


def test_scanned_blocks_are_split_behind_the_stack():
    """The axis of the stack is nobody's to split."""
    found = specs(DecoderConfig(**DECODER, scan=True))["blocks"]
    assert found["mlp"]["up"]["kernel"] == P(None, None, "model")
    assert found["mlp"]["down"]["kernel"] == P(None, "model", None)


def test_names_do_not_matter():
    """A tree with other names is placed alike: what decides is in the leaves."""
    renamed = {
        f"layer {i}": dataclasses.replace(leaf, path=f"layer {i}")
        for i, leaf in enumerate(jax.tree.leaves(leaves(DecoderConfig(**DECODER))))
    }
    mesh = make_mesh(2, 4)
    ours = jax.tree.leaves(shardings(leaves(DecoderConfig(**DECODER)), mesh))
    assert list(shardings(renamed, mesh).values()) == ours


def test_vocabularies():
    """A tied or a large table is split by its rows; a small readout that does not divide stays whole."""
    assert specs(DecoderConfig(**DECODER, tied=True))["embedding"]["table"] == IN
    odd = {**DECODER, "vocabulary": 257}
    assert specs(DecoderConfig(**odd))["readout"]["kernel"] == WHOLE
    large = {**DECODER, "vocabulary": LARGE // 32}
    assert specs(DecoderConfig(**large))["embedding"]["table"] == IN
    with pytest.raises(ValueError, match=r"got embedding/table of shape .* cannot be split over 4 .* pad"):
        specs(DecoderConfig(**{**large, "vocabulary": LARGE // 32 + 1}))


def test_moments_lie_where_their_parameters_do():
    """Both moments of Adam, and counts everywhere; nothing of a large matrix is whole on a device."""
    trainer = mlp_trainer(make_mesh(2, 4))
    shapes, placed = jax.tree.leaves(trainer.shapes.optimizer), jax.tree.leaves(trainer.shardings.optimizer)
    split = [where.spec for leaf, where in zip(shapes, placed, strict=True) if leaf.shape == (8, 8)]
    assert sorted(map(str, split)) == sorted([str(OUT), str(IN)] * 2)
    assert all(where.spec == WHOLE for leaf, where in zip(shapes, placed, strict=True) if leaf.ndim == 0)


def test_momenta_of_muon_lie_where_their_parameters_do():
    """Also where an optimizer keeps the state of hidden matrices and of the rest in trees with holes."""
    numbers = rules(DecoderConfig(**DECODER), "muon")
    trainer = Trainer(lambda params, batch: 0.0, muon(0.1, numbers), numbers, make_mesh(2, 4))
    shapes, placed = jax.tree.leaves(trainer.shapes.optimizer), jax.tree.leaves(trainer.shardings.optimizer)
    found = [where.spec for leaf, where in zip(shapes, placed, strict=True) if leaf.shape == (32, 96)]
    assert found and set(found) == {OUT}
    assert {w.spec for leaf, w in zip(shapes, placed, strict=True) if leaf.shape == (96, 32)} == {IN}
    assert {w.spec for leaf, w in zip(shapes, placed, strict=True) if leaf.shape == (32, 40)} == {OUT}


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: make_mesh(4, 4), "needs 16 devices, and there are 8; lower data or model"),
        (lambda: make_mesh(0, 1), "data must be a whole number of at least 1"),
        (lambda: check_batch(make_mesh(8), 12), "got a batch of 12 rows in 1 part.* a multiple of 8"),
        (lambda: check_batch(make_mesh(2), 6, 4), "micro_batches must divide the batch; got a batch of 6"),
        (lambda: check_batch(make_mesh(4), 8, 4), "a multiple of 16"),
        (lambda: check_heads(make_mesh(1, 8), 4), "got 4 heads for 8 devices along 'model'"),
        (lambda: specs(mlp_config(width=9)), r"Dense_1/kernel of shape \(9, 9\).* change the width"),
    ],
)
def test_what_cannot_be_split_is_said_in_a_sentence(call, match):
    """Before anything is compiled."""
    with pytest.raises(ValueError, match=match) as caught:
        call()
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_a_batch_of_another_size_is_refused_where_it_enters():
    """The trainer checks every batch it places."""
    with pytest.raises(ValueError, match="the mesh must divide each micro-batch; got a batch of 6 rows"):
        decoder_trainer(make_mesh(4)).place([jax.numpy.ones((6, 2))])


def test_rules_know_their_leaves():
    """Rules and leaves give the same placement."""
    config, mesh = mlp_config(), make_mesh(2, 4)
    assert shardings(rules(config), mesh) == shardings(leaves(config), mesh)
    assert isinstance(rules(config).leaves[0], Leaf)
