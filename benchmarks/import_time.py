"""What `import widelimit` adds to importing JAX, Flax and Optax: at most 20%.

    python -m benchmarks.import_time        (about a minute; exits 1 above the limit)

Each run is a fresh interpreter that imports the three and then widelimit, so both times come from one process
and their ratio hardly feels how busy the machine is. A second row adds every room, as an experiment loads
them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

from benchmarks.common import median, report

LIMIT = 0.20
SCRIPT = """
import json, sys, time
start = time.perf_counter()
import jax, flax, optax
peers = time.perf_counter()
import widelimit
ours = time.perf_counter()
for room in widelimit.__all__:
    getattr(widelimit, room)
every = time.perf_counter()
print(json.dumps({"peers": peers - start, "widelimit": ours - peers, "every room": every - peers}))
"""


def measure() -> dict[str, float]:
    """Returns the seconds of one fresh interpreter."""
    run = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)
    return {name: float(seconds) for name, seconds in json.loads(run.stdout).items()}


def main() -> int:
    """Measures, prints, and returns 1 if importing widelimit costs more than the limit."""
    parser = argparse.ArgumentParser(description="What importing widelimit adds to JAX, Flax and Optax.")
    parser.add_argument("--repeats", type=int, default=25, help="fresh interpreters to time (default 25)")
    repeats = parser.parse_args().repeats
    measure()  # the first one compiles bytecode and fills the file cache
    runs = [measure() for _ in range(repeats)]
    rows = []
    for name in ("widelimit", "every room"):
        added, low, high = median([run[name] / run["peers"] for run in runs])
        rows.append(
            {
                "imported": name,
                "jax, flax, optax (s)": median([run["peers"] for run in runs])[0],
                "added (s)": median([run[name] for run in runs])[0],
                "added": f"{added:.1%}",
                "95% interval": f"{low:.1%} to {high:.1%}",
                "limit": f"{LIMIT:.0%}" if name == "widelimit" else "none",
            }
        )
    report("import_time", rows)
    return int(median([run["widelimit"] / run["peers"] for run in runs])[0] > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
