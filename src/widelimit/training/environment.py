"""What a run depended on, so that a reader can tell why two runs differ."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = ("widelimit", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "orbax-checkpoint", "matplotlib")


def describe_environment() -> dict[str, Any]:
    """Versions, devices, precision flags and the commit of the source, as plain JSON values.

    Starts JAX's backend, since the devices are part of the answer.

    Example:
        >>> sorted(describe_environment())
        ['commit', 'cpus', 'devices', 'flags', 'platform', 'python', 'versions']
    """
    import jax

    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "versions": versions,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "devices": [f"{device.platform}:{device.device_kind}" for device in jax.devices()],
        "flags": {
            "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
            "jax_enable_x64": bool(jax.config.jax_enable_x64),  # type: ignore[attr-defined]
            "jax_default_matmul_precision": jax.config.jax_default_matmul_precision,  # type: ignore[attr-defined]
        },
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit this file is tracked under, "+changes" if the checkout differs; None if installed."""

    def git(*arguments: str) -> str | None:
        """One git command; None where git, the checkout or the file in it is missing."""
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return run.stdout.strip()

    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    head = git("rev-parse", "HEAD")
    return f"{head}+changes" if git("status", "--porcelain", "--untracked-files=no") else head
