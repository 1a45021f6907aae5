"""The PyTorch side of the decoder benchmark: EleutherAI/nanoGPT-mup's model and optimizer, from a clone.

Runs under another interpreter, which needs torch and numpy only:

    torch-python benchmarks/decoder_torch.py sizes.json CLONE

Requests and answers are as in ``decoder_jax.py``. The model file is read from the clone, bare or not, at a
fixed commit of its main line. Steps are eager.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

COMMIT = "b2a5e60948d2e11885dc76c1355af98705f54a70"


class Peer:
    """The peer's networks of several widths on the same windows of tokens."""

    def __init__(self, sizes: dict[str, int], clone: str):
        self.sizes = sizes
        command = ["git", "-C", clone, "show", f"{COMMIT}:model.py"]
        source = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        self.module: Any = types.ModuleType("nanogpt")
        sys.modules["nanogpt"] = self.module  # its dataclass looks the module up
        exec(compile(source, "model.py", "exec"), self.module.__dict__)
        shape = (64, sizes["batch"], sizes["context"] + 1)
        drawn = np.random.RandomState(0).randint(sizes["vocabulary"], size=shape)
        self.windows = torch.from_numpy(drawn.astype(np.int64))

    def make(self, width: int, fused: bool, rate: float = 1e-3) -> Any:
        """A network and its optimizer; torch's fused AdamW on the peer's groups if that is faster."""
        torch.manual_seed(0)
        with contextlib.redirect_stdout(io.StringIO()):
            model = self.module.GPT(
                self.module.GPTConfig(
                    block_size=self.sizes["context"],
                    vocab_size=self.sizes["vocabulary"],
                    n_layer=self.sizes["depth"],
                    n_head=self.sizes["heads"],
                    n_embd=width,
                    mup_enabled=True,
                    mup_width_multiplier=width / 64,
                )
            )
            optimizer = model.configure_optimizers(0.1, rate, (0.9, 0.95), "cpu")
        if fused:
            optimizer = torch.optim.AdamW(optimizer.param_groups, lr=rate, betas=(0.9, 0.95), fused=True)
        for group in optimizer.param_groups:  # as the peer's training script does before each step
            group["lr"] = rate * group.get("lr_scale", 1.0)
        return model, optimizer

    kept = functools.cache(make)  # noqa: B019

    def train(self, model: Any, optimizer: Any, steps: int) -> torch.Tensor:
        """Takes steps; the loss is read once, at the end."""
        for windows in self.windows[:steps]:
            _, loss = model(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return loss.detach()

    def steps(self, width: int, steps: int, threads: int, fused: bool) -> dict[str, float]:
        """Times steps of one network."""
        torch.set_num_threads(threads)
        model, optimizer = self.kept(width, fused)
        return self.timed(lambda: self.train(model, optimizer, steps), steps)

    def runs(self, width: int, runs: int, steps: int, threads: int, fused: bool) -> dict[str, float]:
        """Times runs one after another, each of its own learning rate."""
        torch.set_num_threads(threads)

        def run() -> float:
            rates = [1e-3 * 2.0 ** (-number / 2) for number in range(runs)]
            made = (self.make(width, fused, rate) for rate in rates)
            losses = [self.train(model, optimizer, steps) for model, optimizer in made]
            return float(torch.stack(losses).mean())

        return self.timed(run, runs * steps)

    def timed(self, run: Any, steps: int) -> dict[str, float]:
        """Tokens per second of wall clock, and seconds of processor per step."""
        began = time.perf_counter(), time.process_time()
        loss = float(run())
        seconds, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
        tokens = self.sizes["batch"] * self.sizes["context"] * steps
        return {"speed": tokens / seconds, "cpu": cpu / steps, "loss": loss}


def main() -> None:
    """Answers requests until standard input ends."""
    peer = Peer(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2])
    print(json.dumps({"torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(getattr(peer, request.pop("do"))(**request)), flush=True)


if __name__ == "__main__":
    main()
