"""What solvers return: places by name, and files that are whole, complete and say what they lack."""

from __future__ import annotations

import dataclasses
import pickle

import jax.numpy as jnp
import numpy as np
import pytest

from widelimit import dmft

RNG = np.random.default_rng(0)


def solution(**settings):
    """A small solution with everything in it, standard errors and fields too."""
    base = {"targets": [1.0, -1.0], "inputs": RNG.standard_normal((2, 3)), "steps": 4, "learning_rate": 0.1}
    base |= {"test_inputs": RNG.standard_normal((1, 3)), "depth": 2, "activation": "identity"}
    found = dmft.linear(dmft.Problem(**{**base, **settings}))
    p = found.predictions
    fields = {"h": dmft.Labelled(RNG.standard_normal((2, 7)), ("layer", "draw"), first_layer=1)}
    return dataclasses.replace(found, predictions=p._replace(stderr=0.01 * np.abs(p.values)), fields=fields)


def same(one, two):
    """Two solutions with the same numbers, names and settings."""
    assert one.solver == two.solver and one.diagnostics == two.diagnostics
    for name in (
        "predictions",
        "loss",
        "features",
        "gradients",
        "feature_response",
        "gradient_response",
        "ntk",
    ):
        same_labelled(getattr(one, name), getattr(two, name))
    assert set(one.fields) == set(two.fields)
    for name in one.fields:
        same_labelled(one.fields[name], two.fields[name])
    assert type(one.problem) is type(two.problem)
    for field in dataclasses.fields(one.problem):
        a, b = getattr(one.problem, field.name), getattr(two.problem, field.name)
        np.testing.assert_array_equal(a, b) if isinstance(a, np.ndarray) else None
        assert isinstance(a, np.ndarray) or a == b or callable(a), field.name


def same_labelled(one, two):
    """Values, axes, first layer and errors."""
    np.testing.assert_array_equal(one.values, two.values)
    assert (one.axes, one.first_layer, one.stderr is None) == (two.axes, two.first_layer, two.stderr is None)
    if one.stderr is not None:
        np.testing.assert_array_equal(one.stderr, two.stderr)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"targets": np.eye(2), "loss": "cross_entropy", "momentum": 0.3, "weight_decay": 0.1},
        {"learning_rate": np.linspace(0.1, 0.2, 4), "batches": np.array([[0], [1], [0], [1]])},
        {
            "inputs": None,
            "test_inputs": None,
            "kernel": np.array([[1.0, 0.2, 0.1], [0.2, 1.0, 0], [0.1, 0, 1.0]]),
        },
    ],
)
def test_what_is_saved_is_what_is_loaded(settings, tmp_path):
    """Numbers to the last bit, names, errors, fields, diagnostics and the problem; and it is solved alike."""
    saved = solution(**settings)
    saved.save(tmp_path / "one.npz")
    loaded = dmft.Solution.load(tmp_path / "one.npz")
    same(saved, loaded)
    again = dmft.linear(loaded.problem)
    np.testing.assert_array_equal(again.predictions.values, saved.predictions.values)


def test_numbers_of_numpy_survive_a_file(tmp_path):
    """Steps, depth and gamma0 given as NumPy's numbers are whole and solvable after loading."""
    found = solution(steps=np.int64(3), depth=np.int32(2), gamma0=np.float32(0.5))
    found.save(tmp_path / "one.npz")
    loaded = dmft.Solution.load(tmp_path / "one.npz").problem
    assert [repr(x) for x in (loaded.steps, loaded.depth, loaded.gamma0)] == ["3", "2", "0.5"]
    np.testing.assert_array_equal(dmft.linear(loaded).loss.values, found.loss.values)


def test_residual_problems_come_back_as_such(tmp_path):
    """The kind of problem, its branches and the number of the first layer survive."""
    found = dmft.linear(
        dmft.ResidualProblem(
            targets=[1.0],
            kernel=[[1.0]],
            steps=2,
            learning_rate=0.1,
            activation="identity",
            branch_exponent=0.8,
        )
    )
    found.save(tmp_path / "r.npz")
    loaded = dmft.Solution.load(tmp_path / "r.npz")
    assert isinstance(loaded.problem, dmft.ResidualProblem) and loaded.problem.branch_exponent == 0.8
    assert loaded.features.first_layer == 0 and loaded.fields is None


def cubic(f, y):
    """A loss of one's own."""
    return jnp.sum(jnp.abs(f - y) ** 3)


def test_functions_are_asked_for(tmp_path):
    """A file holds no code: loading names the function that is missing, and takes it."""
    found = dmft.lazy(
        dmft.Problem(
            targets=[1.0],
            kernel=[[1.0]],
            steps=2,
            learning_rate=0.1,
            activation=jnp.tanh,
            loss=cubic,
            depth=1,
        )
    )
    path = tmp_path / "own.npz"
    found.save(path)
    with pytest.raises(ValueError, match=r"activation was a function, tanh; give it: load\(..., activation="):
        dmft.Solution.load(path, loss=cubic)
    with pytest.raises(ValueError, match=r"loss was a function, cubic"):
        dmft.Solution.load(path, activation=jnp.tanh)
    loaded = dmft.Solution.load(path, activation=jnp.tanh, loss=cubic)
    np.testing.assert_array_equal(dmft.lazy(loaded.problem).loss.values, found.loss.values)


def test_files_are_whole_or_not_there(tmp_path, monkeypatch):
    """A write that fails half-way leaves the old file and nothing beside it."""
    found = solution()
    path = tmp_path / "one.npz"
    found.save(path)
    before = path.read_bytes()

    def broken(file, **arrays):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", broken)
    with pytest.raises(OSError, match="no space left"):
        found.save(path)
    assert path.read_bytes() == before and [one.name for one in tmp_path.iterdir()] == ["one.npz"]


def test_other_files_are_refused(tmp_path):
    """Something else, or a file cut short, is no solution, and is said so; a missing file is missing."""
    path = tmp_path / "other.npz"
    solution().save(path)
    whole = path.read_bytes()
    np.savez(path, a=np.ones(2))
    for content in (path.read_bytes(), b"text", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="holds no solution: it was not written by Solution.save"):
            dmft.Solution.load(path)
    with pytest.raises(FileNotFoundError):
        dmft.Solution.load(tmp_path / "none.npz")


def test_train_and_test_part_the_predictions():
    """Training points first, with their errors; without test points there are none."""
    found = solution()
    np.testing.assert_array_equal(found.train.values, found.predictions.values[:, :2])
    np.testing.assert_array_equal(found.test.stderr, found.predictions.stderr[:, 2:])
    assert solution(test_inputs=None).test.values.shape == (5, 0)


def test_places_by_name():
    """Layers count from the first, times and samples from 0; the second argument takes an underscore."""
    values = np.arange(2.0 * 3 * 4 * 3 * 4).reshape(2, 3, 4, 3, 4)
    kernel = dmft.Labelled(
        values, ("layer", "time", "sample", "time'", "sample'"), values / 10, first_layer=1
    )
    part = kernel.at(layer=2, time=1, time_=-1, sample_=0)
    np.testing.assert_array_equal(part.values, values[1, 1, :, 2, 0])
    np.testing.assert_array_equal(part.stderr, values[1, 1, :, 2, 0] / 10)
    assert part.axes == ("sample",)
    np.testing.assert_array_equal(kernel.at(layer=-1).values, values[1])
    with pytest.raises(IndexError, match="layers start at 1; got 0"):
        kernel.at(layer=0)
    with pytest.raises(IndexError):
        kernel.at(layer=3)
    with pytest.raises(ValueError, match="axes are layer, time, sample, time', sample'; got width"):
        kernel.at(width=1)


def test_divergence_is_told_from_growth():
    """Losses and fields may grow a lot; beyond bounds, or NaN, they have diverged, whatever their scale."""
    from widelimit.dmft import checks

    checks.check_loss(1, 1e5, 1.0)
    checks.check_field(1, 9e3, 1.0, gamma0=1.0)
    checks.check_field(1, 9e5, 1.0, gamma0=10.0)  # 1e4 gamma0^2
    for value in (1e7, np.nan, np.inf):
        with pytest.raises(dmft.Diverged, match="the loss blew up after step 4") as error:
            checks.check_loss(4, value, 1.0)
        assert error.value.step == 4 and isinstance(error.value, ArithmeticError)
        again = pickle.loads(pickle.dumps(error.value))  # as it must to cross processes
        assert (str(again), again.step) == (str(error.value), 4)
        with pytest.raises(dmft.Diverged, match="the kernel blew up after step 2"):
            checks.check_field(2, value, 1.0, 1.0, "the kernel")
