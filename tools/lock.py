"""Rewrites constraints.txt: one exact version for every package, direct or not, that `make install` brings.

For each supported Python (python3.11 and python3.12 on the PATH, or given as arguments) it installs the
project without pins into a throw-away environment and reads back what pip chose. Where the two differ,
each line carries an environment marker.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Written by `make lock`: what pip resolved for pyproject.toml on Python 3.11 and 3.12.\n"
# What tools/install.sh installs beside the extras.
TOOLS = ["pip", "setuptools"]
# What it installs without dependencies: neural-tangents declares TensorFlow.
APART = ["neural-tangents==0.6.5"]


def resolve(python: str) -> tuple[str, dict[str, str]]:
    """Returns the interpreter's version ("3.11") and the packages that pip chooses for it."""
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run([python, "-m", "venv", directory], check=True)
        own = f"{directory}/bin/python"
        requirements = [f"{ROOT}[experiments,kernels,dev]"]
        subprocess.run([own, "-m", "pip", "install", "--quiet", "--upgrade", *TOOLS], check=True)
        subprocess.run([own, "-m", "pip", "install", "--quiet", *requirements], check=True)
        subprocess.run([own, "-m", "pip", "install", "--quiet", "--no-deps", *APART], check=True)
        freeze = [own, "-m", "pip", "freeze", "--all", "--exclude", "widelimit"]
        lines = subprocess.run(freeze, check=True, capture_output=True, text=True).stdout.splitlines()
        which = [own, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        version = subprocess.run(which, check=True, capture_output=True, text=True).stdout.strip()
    pairs = (line.split("==") for line in lines)
    return version, {name.lower().replace("_", "-"): pin for name, pin in pairs}


def merge(resolutions: dict[str, dict[str, str]]) -> str:
    """Returns the text of the constraints: one line per package, or one per Python where they differ.

    Example:
        >>> print(merge({"3.11": {"jax": "1"}, "3.12": {"jax": "2"}}).split("\\n", 1)[1])
        jax==1 ; python_version == '3.11'
        jax==2 ; python_version == '3.12'
    """
    lines = []
    for name in sorted({name for pins in resolutions.values() for name in pins}):
        pins = {version: found[name] for version, found in resolutions.items() if name in found}
        if len(pins) == len(resolutions) and len(set(pins.values())) == 1:
            lines.append(f"{name}=={next(iter(pins.values()))}")
        else:
            lines += [f"{name}=={pin} ; python_version == '{version}'" for version, pin in pins.items()]
    return HEADER + "\n".join(lines) + "\n"


if __name__ == "__main__":
    pythons = sys.argv[1:] or ["python3.11", "python3.12"]
    (ROOT / "constraints.txt").write_text(merge(dict(map(resolve, pythons))))
