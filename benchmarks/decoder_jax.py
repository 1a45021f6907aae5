"""Our side of the decoder benchmark: training steps, sweeps and compile times.

    python -m benchmarks.decoder_jax sizes.json

``decoder.py`` starts this as a subprocess. Each line on standard input names a method and its arguments, each
line on standard output is the answer.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from widelimit import optim
from widelimit.models import Decoder, DecoderConfig, initialise, rules
from widelimit.scaling import Rules, mup
from widelimit.training import Mode, Problem, sweep
from widelimit.training.program import IN_PLACE
from widelimit.training.scale import Trainer, make_mesh, next_token_loss

RATE, BETAS, DECAY = 1e-3, (0.9, 0.95), 0.1


class Decoders:
    """Decoders of several widths and depths on the same windows of tokens."""

    def __init__(self, sizes: dict[str, int]):
        self.sizes = sizes
        shape = (64, sizes["batch"], sizes["context"] + 1)
        self.windows = np.random.RandomState(0).randint(sizes["vocabulary"], size=shape).astype(np.int32)

    def config(self, width: int, depth: int, scan: bool = False) -> DecoderConfig:
        """The network of the peer: layer norms with gains and biases, learned positions, a tied table."""
        return DecoderConfig(
            vocabulary=self.sizes["vocabulary"],
            context=self.sizes["context"],
            width=width,
            base_width=64,
            heads=self.sizes["heads"],
            depth=depth,
            base_depth=depth,
            parametrization=mup(table=8),
            norm="layer",
            gains=True,
            positions="learned",
            tied=True,
            bias=True,
            init_std=0.02,
            scan=scan,
        )

    @staticmethod
    def optimizer(rate: Any, numbers: Rules) -> optax.GradientTransformation:
        """AdamW with the peer's settings."""
        return optim.adamw(rate, numbers, *BETAS, weight_decay=DECAY)

    @staticmethod
    def loss(network: Decoder, params: Any, windows: jax.Array, numbers: Rules) -> jax.Array:
        """The mean cross-entropy of the next token."""

        def apply(params: Any, tokens: jax.Array) -> Any:
            return network.apply({"params": params, "multipliers": numbers.multiplier}, tokens)

        return next_token_loss(apply)(params, windows)

    @functools.cache  # noqa: B019  (one object lives as long as the process)
    def trainer(self, width: int) -> list[Any]:
        """The trainer of ``training.scale`` and its state: one call of a compiled program is a step."""
        config = self.config(width, self.sizes["depth"])
        numbers, network = rules(config), Decoder(config)
        made = Trainer(
            lambda params, batch: self.loss(network, params, batch, numbers),
            self.optimizer(RATE, numbers),
            numbers,
            make_mesh(),
        )
        return [made, made.initialise(jax.random.key(0))]

    @functools.cache  # noqa: B019
    def chunk(self, width: int, depth: int, scan: bool, steps: int) -> list[Any]:
        """A compiled program of several steps, as a sweep runs them, its state, and how long it compiled."""
        config = self.config(width, depth, scan)
        numbers, network = rules(config), Decoder(config)
        transform = self.optimizer(RATE, numbers)

        def step(carry: Any, windows: jax.Array) -> Any:
            params, state = carry
            loss, gradient = jax.value_and_grad(functools.partial(self.loss, network))(
                params, windows, numbers
            )
            updates, state = transform.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), loss

        params = initialise(jax.random.key(0), numbers)
        state = params, transform.init(params)
        platform = jax.default_backend()
        program = jax.jit(
            lambda state, windows: jax.lax.scan(step, state, windows),
            donate_argnums=0,
            compiler_options=IN_PLACE if platform == "cpu" else None,
        )
        began = time.perf_counter(), time.process_time()
        compiled = program.lower(state, self.windows[:steps]).compile()
        return [compiled, state, time.perf_counter() - began[0], time.process_time() - began[1]]

    def steps(self, width: int, steps: int, inside: bool) -> dict[str, float]:
        """Times steps, inside one program or each a call."""
        if not inside:
            kept = self.trainer(width)
            batches = [kept[0].place(windows) for windows in self.windows[:steps]]

            def run() -> jax.Array:
                for batch in batches:
                    kept[1], metrics = kept[0].step(kept[1], batch)
                return metrics.loss
        else:
            kept = self.chunk(width, self.sizes["depth"], False, steps)
            windows = jnp.asarray(self.windows[:steps])

            def run() -> jax.Array:
                kept[1], losses = kept[0](kept[1], windows)
                return losses[-1]

        return self.timed(run, steps)

    def compiling(self, width: int, depth: int, scan: bool) -> dict[str, float]:
        """How long a program takes to trace and compile."""
        _, _, seconds, cpu = self.chunk(width, depth, scan, 1)
        self.chunk.cache_clear()
        return {"seconds": seconds, "cpu": cpu}

    @functools.cache  # noqa: B019
    def problem(self, width: int) -> Problem:
        """What a cell of the sweep trains."""
        network = Decoder(self.config(width, self.sizes["depth"]))
        return Problem(
            initialise=initialise,
            loss=lambda params, batch, numbers: self.loss(network, params, batch["windows"], numbers),
            optimizer=self.optimizer,
        )

    def runs(self, width: int, runs: int, steps: int, group: int, in_flight: int) -> dict[str, float]:
        """Times a sweep over learning rates."""
        rows = np.arange(steps * self.sizes["batch"], dtype=np.int32).reshape(1, steps, -1)
        windows = self.windows[:steps].reshape(-1, self.windows.shape[-1])

        def run() -> float:
            result = sweep(
                self.problem(width),
                learning_rates=RATE * 2.0 ** (-np.arange(runs) / 2),
                seeds=[0],
                data={"windows": windows},
                batches=rows,
                mode=Mode(group, in_flight),
                extras=rules(self.config(width, self.sizes["depth"])),
            )
            return float(np.mean(result.losses[..., -1]))

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
    decoders = Decoders(json.loads(Path(sys.argv[1]).read_text()))
    print(json.dumps({"jax": jax.__version__, "device": jax.devices()[0].device_kind}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(getattr(decoders, request.pop("do"))(**request)), flush=True)


if __name__ == "__main__":
    main()
