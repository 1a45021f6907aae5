"""Kernels in files: killed and continued, refused where they are others, and small in memory."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widelimit.kernels import empirical
from widelimit.kernels.empirical import results, tiling
from widelimit.kernels.empirical.results import OnDisk, Rectangle


def apply(params, x):
    """A two-layer network with 3 outputs."""
    return jnp.tanh(x @ params["inner"]) @ params["outer"]


def network(seed, n=24):
    """Returns parameters and n inputs, NumPy arrays."""
    random = np.random.default_rng(seed)
    params = {"inner": random.normal(size=(5, 16)) / 5**0.5, "outer": random.normal(size=(16, 3)) / 4}
    return jax.tree.map(lambda a: a.astype(np.float32), (params, random.normal(size=(n, 5))))


@pytest.fixture
def small(monkeypatch):
    """Tiles of at most 5 samples."""
    monkeypatch.setattr(tiling, "SMALLEST", 5)
    monkeypatch.setattr(tiling, "BLOCKS", 10**6)


class Stopped(Exception):
    """The interruption of a run."""


def stop_after(tiles):
    """Returns a progress function that ends the run after some tiles."""
    seen = []

    def progress(done, total):
        seen.append(done)
        if len(seen) == tiles:
            raise Stopped

    return progress


@pytest.mark.parametrize("form", ["full", "trace", "self"])
def test_a_file_holds_the_kernel(small, tmp_path, form):
    """A memory map, and a .npy file that NumPy reads: the same numbers as in memory, to the last bit."""
    params, x = network(0, 17)
    theta = empirical.ntk_in_blocks(apply, params, x, form=form, file=tmp_path / "new" / "K.npy")
    assert isinstance(theta, np.memmap) and not theta.flags.writeable
    np.testing.assert_array_equal(np.load(tmp_path / "new" / "K.npy"), theta)
    np.testing.assert_array_equal(theta, empirical.ntk_in_blocks(apply, params, x, form=form))
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["K.npy", "K.npy.json"]


def test_a_stopped_run_goes_on(small, tmp_path):
    """Nothing that is finished is computed again, and the end is the same; a finished file is only opened."""
    params, x = network(1, 17)
    file, whole = tmp_path / "K.npy", empirical.ntk_in_blocks(apply, params, x)
    with pytest.raises(Stopped):
        empirical.ntk_in_blocks(apply, params, x, file=file, progress=stop_after(4))
    assert not file.exists()
    later = []
    theta = empirical.ntk_in_blocks(apply, params, x, file=file, progress=lambda *done: later.append(done))
    np.testing.assert_array_equal(theta, whole)
    # 4 x 4 blocks of 5, 5, 5, 2: the first row of tiles was finished, and 6 of 10 tiles are left.
    assert len(later) == 6 and later[0][0] == 5 * 17 + 25 and later[-1][0] == later[-1][1]
    again = empirical.ntk_in_blocks(apply, params, x, file=file, progress=stop_after(1))
    np.testing.assert_array_equal(again, whole)


@pytest.mark.parametrize("sizes", [(5, 3), (2, 17)])
def test_a_run_goes_on_with_other_tiles(monkeypatch, tmp_path, sizes):
    """Another memory means other tiles: what is covered counts as finished, and the end is the same."""
    params, x = network(2, 17)
    monkeypatch.setattr(tiling, "BLOCKS", 10**6)
    for size, stop in zip((*sizes, 4), (3, 2, 10**6), strict=True):
        monkeypatch.setattr(tiling, "SMALLEST", size)
        try:
            empirical.ntk_in_blocks(apply, params, x, file=tmp_path / "K.npy", progress=stop_after(stop))
        except Stopped:
            continue
    kernel = np.asarray(empirical.ntk(apply, params, x))
    np.testing.assert_allclose(np.load(tmp_path / "K.npy"), kernel, rtol=1e-5, atol=1e-6)


def test_parts_count_as_finished_where_they_are_covered(tmp_path):
    """A tile is finished if and only if finished parts, which may overlap, cover each of its entries."""
    random = np.random.default_rng(3)
    for trial in range(20):
        kernel = OnDisk(tmp_path / f"{trial}.npy", (12, 12), (12, 12), np.float32, {})
        covered = np.zeros((12, 12), bool)
        for _ in range(8):
            top, left = random.integers(0, 9, 2)
            bottom, right = random.integers(1, 8, 2) + (top, left)
            part = Rectangle(int(top), int(min(bottom, 12)), int(left), int(min(right, 12)))
            kernel.finished(part)
            covered[part.top : part.bottom, part.left : part.right] = True
        for top in range(0, 12, 3):
            for left in range(0, 12, 3):
                asked = Rectangle(top, top + 3, left, left + 3)
                assert kernel.holds(asked) == covered[top : top + 3, left : left + 3].all()
        kernel.abandon()


SCRIPT = """
    import os, signal, sys
    sys.path.insert(0, {tests!r})
    import test_blocks_on_disk as t
    from widelimit.kernels import empirical
    from widelimit.kernels.empirical import results, tiling

    tiling.SMALLEST, tiling.BLOCKS, results.SAVE_EVERY = 5, 10**6, 0.0
    seen = []

    def progress(done, total):
        seen.append(done)
        if len(seen) == {stop}:
            os.kill(os.getpid(), signal.SIGKILL)

    params, x = t.network(4, 17)
    empirical.ntk_in_blocks(t.apply, params, x, file={file!r}, progress=progress)
    print(len(seen))
"""


def test_a_killed_process_goes_on(small, tmp_path):
    """Killed by a signal that nobody can catch; the next process goes on where that one was."""
    file = tmp_path / "K.npy"

    def run(stop):
        code = SCRIPT.format(tests=str(Path(__file__).parent), stop=stop, file=str(file))
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300
        )

    assert run(stop=4).returncode == -signal.SIGKILL
    assert not file.exists()
    last = run(stop=100)
    assert last.returncode == 0, last.stderr
    assert int(last.stdout) == 6  # what was stored before the kill was noted: of 10 tiles, 6 were left
    kernel = np.asarray(empirical.ntk(apply, *network(4, 17)))
    np.testing.assert_allclose(np.load(file), kernel, rtol=1e-5, atol=1e-6)


def test_another_kernel_is_refused(small, tmp_path):
    """Other parameters, inputs, form, rates or function: what differs is named, in a half or whole file."""
    params, x = network(5, 17)
    other = {**params, "inner": 2 * params["inner"]}
    rates = {"inner": 0.5, "outer": 2.0}
    file = tmp_path / "K.npy"

    def refused(name, f=apply, p=params, x1=x, x2=None, **options):
        with pytest.raises(ValueError, match=f"another kernel, with other (.*, )?{name};"):
            empirical.ntk_in_blocks(f, p, x1, x2, file=file, **options)

    def all_are_refused():
        refused("params", p=other)
        refused("x1", x1=x[:16])
        refused("x2", x2=x[::-1])
        refused("form", form="trace")
        refused("rates", rates=rates)
        refused("dtype", dtype="float64")
        refused("function", f=lambda p, x: apply(p, x) * 1.5)
        refused("function", f=jax.jit(lambda p, x: apply(p, x) + x[0, :3][None]))

    with pytest.raises(Stopped):
        empirical.ntk_in_blocks(apply, params, x, file=file, progress=stop_after(2))
    all_are_refused()
    theta = empirical.ntk_in_blocks(apply, params, x, file=file)
    all_are_refused()
    np.testing.assert_array_equal(theta, empirical.ntk_in_blocks(apply, params, x))


def test_arrays_that_a_function_closes_over_count(small, tmp_path):
    """Running averages of a batch norm, say: also when the function is compiled."""
    params, x = network(6, 6)
    for wrap in (lambda f: f, jax.jit):
        file = tmp_path / f"{wrap is jax.jit}.npy"
        shifts = jnp.zeros((1, 5)), jnp.ones((1, 5))
        one, two = (wrap(lambda p, x, shift=shift: apply(p, x + shift)) for shift in shifts)
        empirical.ntk_in_blocks(one, params, x, file=file)
        empirical.ntk_in_blocks(one, params, x, file=file)
        with pytest.raises(ValueError, match="other function"):
            empirical.ntk_in_blocks(two, params, x, file=file)


def test_a_file_of_unknown_origin_is_left_alone(small, tmp_path):
    """An array that somebody saved, or one whose note was lost or damaged, is never overwritten."""
    params, x = network(7, 6)
    file = tmp_path / "K.npy"
    np.save(file, np.arange(3))
    for note in (None, "half of a no", json.dumps({"finished": 3})):
        if note:
            (tmp_path / "K.npy.json").write_text(note)
        with pytest.raises(FileExistsError, match=r"no K\.npy\.json beside it"):
            empirical.ntk_in_blocks(apply, params, x, file=file)
    np.testing.assert_array_equal(np.load(file), np.arange(3))


def test_a_damaged_note_costs_only_work(small, tmp_path):
    """Without a readable note an unfinished file is started again."""
    params, x = network(8, 17)
    file = tmp_path / "K.npy"
    with pytest.raises(Stopped):
        empirical.ntk_in_blocks(apply, params, x, file=file, progress=stop_after(4))
    (tmp_path / "K.npy.json").write_text("[")
    theta = empirical.ntk_in_blocks(apply, params, x, file=file)
    np.testing.assert_array_equal(theta, empirical.ntk_in_blocks(apply, params, x))


def test_two_processes_do_not_write_one_file(tmp_path):
    """The second one is told so; the lock goes when the first one does."""
    first = OnDisk(tmp_path / "K.npy", (3, 3), (3, 3), np.float32, {"form": "trace"})
    with pytest.raises(BlockingIOError, match="another process"):
        OnDisk(tmp_path / "K.npy", (3, 3), (3, 3), np.float32, {"form": "trace"})
    first.abandon()
    OnDisk(tmp_path / "K.npy", (3, 3), (3, 3), np.float32, {"form": "trace"}).abandon()


def test_a_full_disk_keeps_what_is_finished(small, tmp_path, monkeypatch):
    """No space left after some rows: a sentence, and a later run goes on."""
    params, x = network(9, 17)
    rows, write = [], os.pwrite

    def full(*arguments):
        rows.append(0)
        if len(rows) > 30:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(results.os, "pwrite", full)
        with pytest.raises(OSError, match="disk is full; free some space and call again"):
            empirical.ntk_in_blocks(apply, params, x, file=tmp_path / "K.npy")
    done = json.loads((tmp_path / "K.npy.json").read_text())["finished"]
    assert len(done) == 3  # 5 rows; then twice 5 rows and 5 mirrored ones
    theta = empirical.ntk_in_blocks(apply, params, x, file=tmp_path / "K.npy")
    np.testing.assert_array_equal(theta, empirical.ntk_in_blocks(apply, params, x))


MEMORY = """
    import sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    import jax, jax.numpy as jnp, numpy as np
    from widelimit.kernels import empirical

    def peak():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))

    def apply(params, x):
        return jax.nn.relu(jax.nn.relu(x @ params[0]) @ params[1]) @ params[2]

    sizes = [64, {width}, {width}, 10]
    random = np.random.default_rng(0)
    params = [random.normal(size=s).astype(np.float32) / s[0] ** 0.5 for s in zip(sizes, sizes[1:])]
    x = random.normal(size=({n}, 64)).astype(np.float32)
    jnp.ones((64, 64)).dot(jnp.ones((64, 64))).block_until_ready()  # the backend and its threads are there
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = peak()
    empirical.ntk_in_blocks(apply, params, x, form={form!r}, memory="200MiB", file={file!r})
    print(peak() - before)
    one = lambda params, x: empirical.ntk(apply, params, x, form={form!r})
    whole = jax.jit(one).lower(params, x).compile().memory_analysis()
    print((whole.temp_size_in_bytes + whole.output_size_in_bytes) / 2**20)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak memory from Linux")
@pytest.mark.parametrize(
    "form, n, width, on_disk",
    [("full", 700, 128, True), pytest.param("trace", 4000, 512, False, marks=pytest.mark.slow)],
)
def test_memory_stays_within_the_budget(tmp_path, form, n, width, on_disk):
    """A process grows by less than 200 MiB, where the kernel at once takes far more."""
    code = MEMORY.format(
        tests=str(Path(__file__).parent),
        form=form,
        n=n,
        width=width,
        file=str(tmp_path / "K.npy") if on_disk else None,
    )
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    grown, at_once = map(float, done.stdout.split())
    print(grown, at_once)
    assert grown < 200 and at_once > 400
