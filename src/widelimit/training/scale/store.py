"""The state of a training run on disk: what it belongs to, and back onto any mesh."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jax

from widelimit.scaling.rules import NUMBERS
from widelimit.training.checkpoint import Checkpoint, fingerprint
from widelimit.training.files import json_safe
from widelimit.training.scale.trainer import Trainer, TrainState


def describe(trainer: Trainer, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a checkpoint must agree with, as plain JSON: arrays, rules, and the caller's settings.

    Args:
        trainer: of the run.
        settings: what else its numbers follow from, e.g. seed, vocabulary and data; of several that differ
            the first is named.
    """
    shapes = jax.tree.leaves_with_path(trainer.shapes)
    numbers = {name: getattr(trainer.rules, name) for name in NUMBERS}
    return {
        "arrays": {_name(path): [list(leaf.shape), str(leaf.dtype)] for path, leaf in shapes},
        "settings": json_safe(dict(settings), "settings"),
        "rules": fingerprint(numbers, ()),
        "micro_batches": trainer.micro_batches,
    }


def save(checkpoint: Checkpoint, step: int, description: Mapping[str, Any], state: TrainState) -> None:
    """Writes a state, whole or not at all; each device's part once.

    Args:
        checkpoint: where.
        step: the number of the next batch.
        description: from ``describe``.
        state: after that many steps.

    Raises:
        OSError: if the directory is full or read-only.
    """
    checkpoint.save(step, json.dumps(description, sort_keys=True), _flat(state))


def load(
    checkpoint: Checkpoint, trainer: Trainer, description: Mapping[str, Any]
) -> tuple[int, TrainState] | None:
    """Returns the newest step and state, put where the trainer wants them; None if there is none.

    Args:
        checkpoint: where.
        trainer: of the run; its mesh may be another than the one that the state was saved from.
        description: from ``describe``.

    Raises:
        ValueError: if the state is damaged, or belongs to another network, data or settings, naming the
            first difference.
    """
    written = checkpoint.identity()
    if written is None:
        return None
    _compare(checkpoint, written, description)
    like = _flat(
        jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
            trainer.shapes,
            trainer.shardings,
        )
    )
    found = checkpoint.load(written, lambda number: like)
    assert found is not None  # there was an identity
    step, arrays = found
    state = jax.tree.unflatten(jax.tree.structure(trainer.shapes), [arrays[name] for name in like])
    if int(state.diverged_at) < 0 and int(state.step) != step:
        raise ValueError(
            f"the checkpoint {checkpoint.directory / str(step)} is damaged: it holds the state after "
            f"{int(state.step)} steps; delete it to go on from the one before."
        )
    # Orbax's arrays may share memory with what it read, and the first step consumes them: copy.
    return step, jax.device_put(state, trainer.shardings, may_alias=False)


def _compare(checkpoint: Checkpoint, written: str, wanted: Mapping[str, Any]) -> None:
    """Refuses the state of another run in a sentence that names the first difference."""
    where = checkpoint.directory / str(checkpoint.latest())
    advice = "choose another directory, or the settings that it was made with."
    try:
        found = json.loads(written)
        arrays, settings = found["arrays"], found["settings"]
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"the checkpoint {where} is not one of a training run; {advice}") from None
    # In the caller's order, the causes before what follows from them: JSON has sorted those written.
    for key in {**wanted["settings"], **settings}:
        one, other = settings.get(key), wanted["settings"].get(key)
        if one != other:
            raise ValueError(f"the checkpoint {where} has {key} {one}, and here it is {other}; {advice}")
    for name in {**wanted["arrays"], **arrays}:
        one, other = (
            " ".join(map(str, reversed(part[name]))) if name in part else "no such array"
            for part in (arrays, wanted["arrays"])
        )
        if one != other:
            raise ValueError(
                f"the checkpoint {where} holds {name} as {one}, and here it is {other}; {advice}"
            )
    for key, what in (("rules", "scaling rules"), ("micro_batches", "micro-batches")):
        if found.get(key) != wanted[key]:
            raise ValueError(f"the checkpoint {where} was trained with other {what}; {advice}")


def _flat(state: TrainState) -> dict[str, Any]:
    """The arrays of a state by number, in tree order."""
    return {f"{i:06d}": leaf for i, leaf in enumerate(jax.tree.leaves(state))}


def _name(path: tuple[Any, ...]) -> str:
    """A place in the state as people read it."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
