"""Regenerates nanogpt_losses.json: what EleutherAI/nanoGPT-mup computes on the runs of nanogpt_problem.py.

Runs in an environment of its own (nothing else here needs PyTorch), from the root of the repository, with a
clone of the peer, bare or not, from which its model is imported at two fixed commits:

    python -m venv torchenv
    torchenv/bin/pip install torch==2.13.0 numpy==2.4.6     # the CPU build of torch will do
    torchenv/bin/python -m tests.reference.nanogpt_reference --clone PATH

It takes seconds. Recorded, in float64: the loss of each of 20 steps for every case, and the standard
deviation of every kind of matrix as the peer's initialisation draws it. Both sides start from the same
weights, so the peer supplies what it does during training: its forward pass, its optimizer groups, and what
its training script does to them (each group's rate times its ``lr_scale``, and clipping).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.reference import nanogpt_problem as problem

COMMITS = {
    "master": "b2a5e60948d2e11885dc76c1355af98705f54a70",
    "completep": "6f8bc3bdc744556141255f810a22387b2255b6c1",
}


def peer(clone: Path, branch: str) -> types.ModuleType:
    """The peer's model file at the commit of a branch, as a module."""
    name = f"{COMMITS[branch]}:model.py"
    source = subprocess.run(
        ["git", "-C", str(clone), "show", name], check=True, capture_output=True, text=True
    ).stdout
    module = types.ModuleType(f"nanogpt_{branch}")
    sys.modules[module.__name__] = module  # its dataclass looks the module up
    exec(compile(source, name, "exec"), module.__dict__)
    return module


def build(module: types.ModuleType, case: dict[str, Any], **sizes: Any) -> torch.nn.Module:
    """The peer's network of a case, with its own initialisation."""
    flags = (
        {}
        if case["scheme"] != "depth"
        else {
            "depth_alpha_enabled": True,
            "depth_multiplier": sizes["n_layer"] / problem.BASE_DEPTH,
            "depth_alpha_exp": case["alpha"],
        }
    )
    config = module.GPTConfig(
        block_size=problem.CONTEXT,
        vocab_size=problem.VOCABULARY,
        bias=case["bias"],
        mup_enabled=case["scheme"] != "standard",
        mup_input_alpha=case["input_alpha"],
        mup_output_alpha=case["output_alpha"],
        **flags,
        **sizes,
    )
    with contextlib.redirect_stdout(io.StringIO()):
        return module.GPT(config)


def load(model: Any, weights: dict[str, Any], bias: bool) -> None:
    """Copies the weights of the problem into the peer's network."""

    def put(parameter: Any, array: np.ndarray) -> None:
        assert tuple(parameter.shape) == array.shape
        parameter.copy_(torch.from_numpy(np.ascontiguousarray(array)))

    def put_affine(module: Any, *layers: dict[str, np.ndarray]) -> None:
        put(module.weight, np.concatenate([layer["kernel"] for layer in layers], axis=1).T)
        if bias:
            put(module.bias, np.concatenate([layer["bias"] for layer in layers]))

    def put_norm(module: Any, layer: dict[str, np.ndarray]) -> None:
        put(module.weight, layer["gain"])
        if bias:
            put(module.bias, layer["bias"])

    with torch.no_grad():
        put(model.transformer.wte.weight, weights["embedding"])  # the readout's too
        put(model.transformer.wpe.weight, weights["positions"])
        for module, block in zip(model.transformer.h, weights["blocks"], strict=True):
            attention, mlp = block["attention"], block["mlp"]
            put_norm(module.ln_1, attention["norm"])
            put_affine(module.attn.c_attn, *(attention[name] for name in ("query", "key", "value")))
            put_affine(module.attn.c_proj, attention["output"])
            put_norm(module.ln_2, mlp["norm"])
            put_affine(module.mlp.c_fc, mlp["up"])
            put_affine(module.mlp.c_proj, mlp["down"])
        put_norm(model.transformer.ln_f, weights["norm"])


def optimizer(model: Any, case: dict[str, Any]) -> torch.optim.Optimizer:
    """The peer's optimizer; the rate of every group as its training script sets it before each step."""
    with contextlib.redirect_stdout(io.StringIO()):
        settings = [case["weight_decay"], case["learning_rate"], problem.BETAS]
        if case["branch"] == "completep":
            made = model.configure_optimizers(*settings, case["eps"], "cpu")
        else:  # the main line keeps torch's epsilon: a user changes it, for all groups alike, by hand
            made = model.configure_optimizers(*settings, "cpu")
            for group in made.param_groups:
                group["eps"] = case["eps"]
    for group in made.param_groups:
        group["lr"] = case["learning_rate"] * group.get("lr_scale", 1.0)
    return made


def losses(module: types.ModuleType, case: dict[str, Any]) -> list[float]:
    """The training losses (mean cross-entropy in nats per token) before each step."""
    multiple = problem.WIDTH / problem.BASE_WIDTH
    sizes = {"n_layer": problem.DEPTH, "n_head": problem.HEADS, "n_embd": problem.WIDTH}
    model = build(module, case, mup_width_multiplier=multiple, **sizes)
    load(model, problem.weights(case["bias"]), case["bias"])
    step, tokens = optimizer(model, case), torch.from_numpy(problem.batches())
    history = []
    for index in range(problem.STEPS):
        batch = tokens[index % problem.BATCHES]
        step.zero_grad(set_to_none=True)
        _, loss = model(batch[:, :-1].contiguous(), batch[:, 1:].contiguous())
        loss.backward()
        if case["clip"]:
            torch.nn.utils.clip_grad_norm_(model.parameters(), case["clip"])
        step.step()
        history.append(loss.item())
    return history


def initial_stds(module: types.ModuleType, case: dict[str, Any], multiple: int) -> dict[str, float]:
    """The std of every kind of matrix, over all blocks."""
    torch.manual_seed(problem.SEED)
    width = problem.INIT_BASE * multiple
    sizes = {"n_layer": problem.INIT_DEPTH, "n_head": problem.HEADS, "n_embd": width}
    model: Any = build(module, case, mup_width_multiplier=multiple, **sizes)
    blocks = model.transformer.h
    kinds = {
        "embedding": [model.transformer.wte.weight],
        "query": [block.attn.c_attn.weight for block in blocks],
        "output": [block.attn.c_proj.weight for block in blocks],
        "up": [block.mlp.c_fc.weight for block in blocks],
        "down": [block.mlp.c_proj.weight for block in blocks],
    }
    return {
        name: torch.cat([array.flatten() for array in several]).std().item()
        for name, several in kinds.items()
    }


def main() -> None:
    """Writes the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clone", type=Path, required=True, help="of EleutherAI/nanoGPT-mup, bare or not")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("nanogpt_losses.json"))
    flags = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    modules = {branch: peer(flags.clone, branch) for branch in COMMITS}
    record = {
        "peer": "EleutherAI/nanoGPT-mup",
        "commits": COMMITS,
        "versions": {
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "seed": problem.SEED,
        "fingerprint": problem.fingerprint(),
        "cases": problem.CASES,
        "losses": {name: losses(modules[case["branch"]], case) for name, case in problem.CASES.items()},
        "init": {
            name: {
                str(multiple): initial_stds(
                    modules[problem.CASES[name]["branch"]], problem.CASES[name], multiple
                )
                for multiple in problem.INIT_MULTIPLES
            }
            for name in ("standard", "mup", "completep")
        },
    }
    flags.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
