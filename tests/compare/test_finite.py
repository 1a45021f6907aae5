"""Finite networks under a problem: every number against a NumPy network stepped by hand."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from widelimit.compare import finite_ensemble, finite_networks
from widelimit.dmft import Problem, ResidualProblem
from widelimit.dmft.checks import Diverged
from widelimit.models import initialise, rules

WIDTH, SEED = 6, 3
RNG = np.random.default_rng(0)
X, TEST = RNG.standard_normal((4, 5)), RNG.standard_normal((2, 5))
Y, Y2 = RNG.standard_normal(4), RNG.standard_normal((4, 2))
COMMON = {"inputs": X, "test_inputs": TEST, "steps": 7, "learning_rate": 0.3, "gamma0": 1.7}
PHI = {
    "tanh": (np.tanh, lambda h: 1 - np.tanh(h) ** 2),
    "erf": (erf, lambda h: 2 / math.sqrt(math.pi) * np.exp(-(h**2))),
}


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Compiles as little as possible: these networks are tiny."""
    kept = dict(finite_networks._COMPILER)
    finite_networks._COMPILER.update(xla_backend_optimization_level=0)
    yield
    finite_networks._COMPILER.update(kept)


def weights(problem, index, seed=SEED):
    """The numbers that network `index` starts from, float64: a list of kernels from input to readout."""
    with jax.enable_x64(True):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), WIDTH), index)
        params = initialise(key, rules(problem.network(WIDTH), "sgd"), "float64")
    return [np.asarray(layer["kernel"]) for layer in params.values()]


def look(problem, w):
    """(f, h of every layer, z and g of every layer and output), from the sheet's formulas, unit by unit."""
    phi, slope = PHI[problem.activation]
    x, n = problem.all_inputs, w[1].shape[0]
    residual = isinstance(problem, ResidualProblem)
    b = problem.branch_scale * problem.depth**-problem.branch_exponent if residual else None
    h = [x @ w[0] / math.sqrt(x.shape[1])]
    for kernel in w[1:-1]:
        step = phi(h[-1]) @ kernel / math.sqrt(n)
        h.append(h[-1] + b * step if residual else step)
    last = phi(h[-1]) if not residual or problem.final_activation else h[-1]
    f = last @ w[-1] / (problem.gamma0 * n)
    z = np.broadcast_to(w[-1].T, (len(x), *w[-1].T.shape))  # [point, output, unit]
    g = [slope(h[-1])[:, None] * z if not residual or problem.final_activation else z]
    for layer in reversed(range(len(h) - 1)):
        back = slope(h[layer])[:, None] * (g[0] @ w[layer + 1].T) / math.sqrt(n)
        g.insert(0, g[0] + b * back if residual else back)
    return f, h, g, last, b


def by_hand(problem, index, centred=True):
    """Everything over time for one network, with SGD's own recursion and hand-written gradients."""
    phi, _ = PHI[problem.activation]
    w = weights(problem, index)
    n, x, p = WIDTH, problem.all_inputs, problem.samples
    y = problem.targets.reshape(p, -1)
    origin = look(problem, w)[0]
    buffers = [np.zeros_like(kernel) for kernel in w]
    found = {name: [] for name in ("predictions", "loss", "features", "gradients", "ntk", "h", "g")}
    for t in range(problem.steps + 1):
        f, h, g, last, b = look(problem, w)
        f = f - origin if centred else f
        units = [phi(layer) for layer in h[:-1]] + [last]
        inside = [layer / math.sqrt(n) * (b or 1.0) for layer in units[:-1]]
        ntk = np.einsum("pcn,qdn->pcqd", g[0], g[0]) / n * (x @ x.T / x.shape[1])[:, None, :, None]
        for k, layer in enumerate(units[:-1]):
            share = np.einsum("pcn,qdn->pcqd", g[k + 1], g[k + 1]) / n
            ntk += (
                (b**2 * problem.branch_rate if b else 1.0) * share * (layer @ layer.T / n)[:, None, :, None]
            )
        ntk += np.eye(y.shape[1])[None, :, None] * (last @ last.T / n)[:, None, :, None]
        found["predictions"].append(f)
        found["loss"].append(np.mean(np.sum((f[:p] - y) ** 2, axis=1) / 2))
        found["features"].append(np.stack([u @ u.T / n for u in units]))
        found["gradients"].append(np.stack([np.einsum("pcn,qdn->pcqd", v, v) / n for v in g]))
        found["ntk"].append(ntk)
        found["h"].append(np.stack(h))
        found["g"].append(np.stack(g))
        if t == problem.steps:
            break
        delta = np.zeros((len(x), y.shape[1]))
        rows = range(p) if problem.batches is None else problem.batches[t]
        for row in rows:
            delta[row] += (y[row] - f[row]) / len(rows)
        pulled = [np.einsum("pc,pcn->pn", delta, v) / (problem.gamma0 * n) for v in g]
        gradients = [-x.T @ pulled[0] / math.sqrt(x.shape[1])]
        gradients += [-layer.T @ pulled[k + 1] for k, layer in enumerate(inside)]
        gradients += [-last.T @ delta / (problem.gamma0 * n)]
        eta = np.broadcast_to(problem.learning_rate, (problem.steps,))[t]
        for k, gradient in enumerate(gradients):
            buffers[k] = problem.momentum * buffers[k] + gradient
            branch = problem.branch_rate if b and 0 < k < len(w) - 1 else 1.0
            rate = eta * problem.gamma0**2 * n * branch
            w[k] = (1 - eta * problem.weight_decay) * w[k] - rate * buffers[k]
    return {name: np.stack(values) for name, values in found.items()}


PROBLEMS = {
    "plain": Problem(targets=Y, depth=2, **COMMON),
    "one layer": Problem(targets=Y, depth=1, activation="erf", **COMMON),
    "momentum, decay, schedule": Problem(
        targets=Y,
        depth=2,
        momentum=0.6,
        weight_decay=0.4,
        **{**COMMON, "learning_rate": np.linspace(0.2, 0.4, 7)},
    ),
    "batches": Problem(targets=Y, depth=2, batches=RNG.integers(0, 4, (7, 3)), momentum=0.3, **COMMON),
    "outputs": Problem(targets=Y2, depth=3, weight_decay=0.2, **COMMON),
    "kernel": Problem(
        targets=Y, depth=2, kernel=X @ X.T / 5, **{**COMMON, "inputs": None, "test_inputs": None}
    ),
    "residual": ResidualProblem(targets=Y, depth=3, branch_scale=1.3, **COMMON),
    "residual, 1/depth, outputs": ResidualProblem(
        targets=Y2,
        depth=2,
        branch_exponent=1.0,
        final_activation=True,
        momentum=0.5,
        weight_decay=0.1,
        **COMMON,
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_network_is_the_one_written_by_hand(name):
    """Predictions, kernels and fields at all times, to 1e-10: nothing of the limit's theory is used."""
    problem = PROBLEMS[name]
    hands = [by_hand(problem, index) for index in range(3)]
    scalar = problem.targets.ndim == 1
    fields = 3 if name in ("plain", "residual, 1/depth, outputs") else 0
    found = finite_ensemble(
        problem, [WIDTH], 3, seed=SEED, dtype="float64", fields=fields, field_times=range(8)
    )
    own = found.members[WIDTH]
    for index, hand in enumerate(hands):
        f = hand["predictions"][..., 0] if scalar else hand["predictions"]
        np.testing.assert_allclose(own.predictions[index], f, atol=1e-10)
        np.testing.assert_allclose(own.loss[index], hand["loss"], rtol=1e-9, atol=1e-12)
        if not fields:
            continue
        np.testing.assert_allclose(own.fields["h"].values[index].swapaxes(0, 1), hand["h"], atol=1e-10)
        g = hand["g"][..., 0, :] if scalar else hand["g"]
        np.testing.assert_allclose(own.fields["g"].values[index].swapaxes(0, 1), g, atol=1e-9)
    solution = found.solution(WIDTH)
    for measure in ("features", "gradients", "ntk"):
        values = np.stack([hand[measure] for hand in hands])
        if scalar and measure != "features":
            values = values[..., 0, :, 0]
        mean, stderr = values.mean(axis=0), values.std(axis=0, ddof=1) / math.sqrt(3)
        label = getattr(solution, measure)
        layered = label.axes[0] == "layer"
        np.testing.assert_allclose(
            label.values.swapaxes(0, 1) if layered else label.values, mean, rtol=1e-9, atol=1e-10
        )
        np.testing.assert_allclose(
            label.stderr.swapaxes(0, 1) if layered else label.stderr, stderr, rtol=1e-4, atol=1e-9
        )
        assert len(label.axes) == label.values.ndim
        assert label.first_layer == (0 if isinstance(problem, ResidualProblem) else 1)


def test_an_uncentred_network_trains_its_own_output():
    """centred=False leaves f(0) in, and the loss sees it."""
    problem = PROBLEMS["plain"]
    hand = by_hand(problem, 0, centred=False)
    own = finite_ensemble(problem, [WIDTH], 1, seed=SEED, measures=(), centred=False, dtype="float64")
    np.testing.assert_allclose(own.members[WIDTH].predictions[0], hand["predictions"][..., 0], atol=1e-10)
    assert np.abs(own.members[WIDTH].predictions[0, 0]).max() > 1e-3


def test_kernels_between_times_come_from_the_fields():
    """Two-time kernels are averages of products of the kept fields; their diagonal is the equal-time ones."""
    problem, times = PROBLEMS["outputs"], (0, 3, 7)
    settings = {"seeds": 2, "times": times, "dtype": "float64"}
    two = finite_ensemble(problem, [WIDTH], two_time=True, fields=2, field_times=times, **settings)
    one = finite_ensemble(problem, [WIDTH], **settings).solution(WIDTH)
    fields, found = two.members[WIDTH].fields, two.solution(WIDTH)
    phi, g = np.tanh(fields["h"].values), fields["g"].values
    features = np.einsum("kltpn,klsqn->kltpsq", phi, phi).mean(axis=0) / WIDTH
    gradients = np.einsum("kltpcn,klsqdn->kltpcsqd", g, g).mean(axis=0) / WIDTH
    np.testing.assert_allclose(found.features.values, features, atol=1e-11)
    np.testing.assert_allclose(found.gradients.values, gradients, atol=1e-10)
    assert found.gradients.axes[-3:] == ("time'", "sample'", "output'")
    equal = np.einsum("ltptq->ltpq", found.features.values)
    np.testing.assert_allclose(one.features.values, equal, atol=1e-12)
    np.testing.assert_allclose(one.ntk.values, found.ntk.values, atol=1e-12)


@pytest.mark.parametrize("times", [(0,), (7,), (2, 3, 6), ()])
def test_the_times_of_measurement_change_nothing(times):
    """Training is the same whenever it is looked at, and what is seen is what all times would have shown."""
    problem = PROBLEMS["momentum, decay, schedule"]
    every = finite_ensemble(problem, [WIDTH], 2, dtype="float64")
    some = finite_ensemble(problem, [WIDTH], 2, times=times, dtype="float64")
    a, b = every.members[WIDTH], some.members[WIDTH]
    np.testing.assert_allclose(a.predictions, b.predictions, atol=1e-13)
    if times:
        np.testing.assert_allclose(
            every.solution(WIDTH).ntk.values[list(times)], some.solution(WIDTH).ntk.values, atol=1e-12
        )


def test_homogeneous_networks_pair_fields_to_their_output():
    """ReLU: <g^l h^l> = gamma0 f (uncentred) in every layer, at every time (Euler's theorem)."""
    problem = dataclasses.replace(PROBLEMS["plain"], activation="relu", depth=3)
    settings = {"measures": (), "fields": 2, "field_times": range(8), "centred": False, "dtype": "float64"}
    own = finite_ensemble(problem, [WIDTH], 2, **settings).members[WIDTH]
    paired = np.mean(own.fields["h"].values * own.fields["g"].values, axis=-1)
    for layer in range(3):
        np.testing.assert_allclose(paired[:, layer], problem.gamma0 * own.predictions, atol=1e-12)


def test_networks_do_not_depend_on_their_company():
    """Network i of a width is the same with other widths, more seeds, other batches."""
    problem, settings = PROBLEMS["plain"], {"measures": (), "dtype": "float64"}
    alone = finite_ensemble(problem, [WIDTH], 3, **settings).members[WIDTH]
    among = finite_ensemble(problem, [4, WIDTH], [2, 40], batch=7, **settings).members[WIDTH]
    np.testing.assert_allclose(among.predictions[:3], alone.predictions, atol=1e-13)
    assert len(np.unique(among.predictions[:, -1, 0].round(9))) == 40
    other = finite_ensemble(problem, [WIDTH], 3, seed=1, **settings).members[WIDTH]
    assert np.abs(other.predictions - alone.predictions).max() > 1e-3


def test_a_killed_run_goes_on(tmp_path, monkeypatch):
    """Blocks that are done are read, not trained again, and the result is the same; another's are refused."""
    from widelimit.compare import finite_jobs

    problem = PROBLEMS["plain"]
    settings = {"widths": [WIDTH], "seeds": 40, "directory": tmp_path}
    calls = []
    trained = finite_jobs.Job._trained

    def counted(job, indices):
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(indices)
        return trained(job, indices)

    monkeypatch.setattr(finite_jobs.Job, "_trained", counted)
    with pytest.raises(KeyboardInterrupt):
        finite_ensemble(problem, **settings)
    kept = len(list(tmp_path.iterdir()))
    assert 1 <= kept <= 5
    monkeypatch.setattr(finite_jobs.Job, "_trained", lambda job, i: (calls.append(i), trained(job, i))[1])
    calls.clear()
    resumed = finite_ensemble(problem, **settings)
    assert len(calls) == 32 - kept
    calls.clear()
    again, whole = finite_ensemble(problem, **settings), finite_ensemble(problem, widths=[WIDTH], seeds=40)
    assert len(calls) == 32  # of the whole: the finished one is only read
    for found in (resumed, again):
        np.testing.assert_array_equal(found.solution(WIDTH).ntk.stderr, whole.solution(WIDTH).ntk.stderr)
        np.testing.assert_array_equal(found.members[WIDTH].predictions, whole.members[WIDTH].predictions)
    for changed in (
        {"gamma0": 1.0},
        {"activation": lambda h: jnp.tanh(0.9 * h)},
        {"loss": lambda f, y: (f - y) ** 4},
    ):
        with pytest.raises(ValueError, match="choose another directory"):
            finite_ensemble(dataclasses.replace(problem, **changed), **settings)


def test_a_damaged_block_is_said(tmp_path):
    """A truncated file is an error that names it."""
    settings = {"widths": [WIDTH], "seeds": 2, "measures": (), "directory": tmp_path}
    finite_ensemble(PROBLEMS["plain"], **settings)
    next(tmp_path.iterdir()).write_bytes(b"PK")
    with pytest.raises(ValueError, match="damaged"):
        finite_ensemble(PROBLEMS["plain"], **settings)


def test_one_network_has_no_error_bar():
    """A single seed gives NaN, never zero."""
    solution = finite_ensemble(PROBLEMS["plain"], [WIDTH], 1, times=[0]).solution(WIDTH)
    assert np.isnan(solution.loss.stderr).all() and np.isnan(solution.ntk.stderr).all()


def test_divergence_is_said_with_its_step():
    """A learning rate beyond stability raises, with the step and the width."""
    problem = dataclasses.replace(PROBLEMS["plain"], learning_rate=60.0, activation="relu", steps=40)
    with pytest.raises(Diverged, match="networks of width 6 blew up after step") as caught:
        finite_ensemble(problem, [WIDTH], 4, measures=())
    assert 1 <= caught.value.step <= 40


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": []}, "widths must be positive"),
        ({"widths": [8, 8]}, "widths must be positive"),
        ({"seeds": 0}, "seeds must be"),
        ({"seeds": [3, 4]}, "seeds must be"),
        ({"measures": ["phi"]}, "measures are features"),
        ({"times": [3, 2]}, "times must increase"),
        ({"times": [8]}, "times must increase"),
        ({"fields": [1, 2]}, "fields must be"),
        ({"dtype": "float16"}, "dtype is float32"),
        ({"memory": 1000}, "more memory"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    """One sentence that names the setting."""
    with pytest.raises(ValueError, match=message):
        finite_ensemble(PROBLEMS["plain"], **{"widths": [WIDTH], "seeds": 2, **settings})


def test_the_lazy_limit_has_no_finite_network():
    """gamma0 = 0 is refused with what to do."""
    with pytest.raises(ValueError, match="take a small one"):
        finite_ensemble(dataclasses.replace(PROBLEMS["plain"], gamma0=0.0), [WIDTH], 2)
