"""Strictness for every test: nothing is promoted silently, warnings are errors, there are 8 devices."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from pathlib import Path

# Most of the suite's time is spent in the compiler, on programs that run once or twice: it optimises them
# little (at level 0 those that run long take twice as long), and does not split them among threads.
FLAGS = {
    "--xla_force_host_platform_device_count": 8,
    "--xla_backend_optimization_level": 1,
    "--xla_llvm_disable_expensive_passes": "true",
    "--xla_cpu_parallel_codegen_split_count": 1,
}
for flag, value in FLAGS.items():
    if flag not in os.environ.get("XLA_FLAGS", ""):  # read once, when the backend starts: before any JAX call
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}={value}".strip()
os.environ.setdefault("MPLBACKEND", "Agg")  # figures are drawn to files; a machine may have no screen

import jax  # noqa: E402  (the environment above must be set first)
import jaxtyping  # noqa: E402

import tests.shapes  # noqa: E402, F401  (the hook below finds it by name)

# While tests run, functions of the package check the shapes they declare. Before the package is imported, and
# only where there are any: the hook makes every call of a module slower.
SOURCE = Path(__file__).parent / "src"
SHAPED = [path for path in SOURCE.rglob("*.py") if "jaxtyping" in path.read_text()]
jaxtyping.install_import_hook(
    [".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in SHAPED], "tests.shapes.check_shapes"
)

# Set here and not through the environment: a subprocess that a test starts must see what a user sees.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Tests build the same programs anew; a worker compiles each once. JAX writes entries without a lock, so that
# workers do not share them.
PROGRAMS = tempfile.mkdtemp(prefix="widelimit-programs-")
jax.config.update("jax_compilation_cache_dir", PROGRAMS)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)  # below, writing it costs more


def pytest_collection_finish() -> None:
    """Leaves what was imported out of garbage collections, and makes them rarer: 10 s of 270."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_unconfigure() -> None:
    """Deletes the programs."""
    shutil.rmtree(PROGRAMS, ignore_errors=True)


# Scripts and helpers beside the tests hold no doctests and may need packages of an environment of their own.
collect_ignore = [
    str(path)
    for path in (Path(__file__).parent / "tests").rglob("*.py")
    if not path.name.startswith(("test_", "conftest"))
]
