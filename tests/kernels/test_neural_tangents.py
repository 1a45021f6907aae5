"""The door to neural-tangents: what it leaves behind, what works, and what it says about the rest."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.kernels.analytic.support import arc_cosine, arcsine, samples
from tests.kernels.peer import analytic_kernels, assert_covariances, peer_style
from widelimit.kernels import empirical, neural_tangents

ROOT = Path(__file__).resolve().parents[2]
RELAXED = "ignore::UserWarning"


def in_a_process(code):
    """Runs code in a fresh interpreter; returns what it prints, or raises with its errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


IMPORTS = "import sys, jax, jax.core, jax.interpreters.ad as ad; "
OPEN = "from widelimit.kernels.neural_tangents import neural_tangents; "


def test_it_leaves_jax_as_it_was():
    """After the import, JAX's namespaces hold no name they did not hold, and sys.modules no stand-in."""
    code = (
        IMPORTS
        + "import jax.extend.core, jax.example_libraries.stax, jax.experimental.ode, jax.flatten_util; "
        + "spaces = [jax, jax.core, ad, jax.extend.core]; before = [set(vars(m)) for m in spaces]; "
        + OPEN
        + "nt = neural_tangents(); "
        + "print([set(vars(m)) - b for m, b in zip(spaces, before)], "
        + "[m for m in ('jax.util', 'neural_tangents.experimental', 'tensorflow') if m in sys.modules], "
        + "nt is neural_tangents(), nt.__version__)"
    )
    assert in_a_process(code) == "[set(), set(), set(), set()] [] True 0.6.5"


def test_it_touches_nothing_when_the_import_works():
    """A package that imports by itself is returned as it is, whatever JAX it is on."""
    code = (
        "import sys, types; fake = types.ModuleType('neural_tangents'); "
        + "sys.modules['neural_tangents'] = fake; "
        + OPEN
        + "print(neural_tangents() is fake)"
    )
    assert in_a_process(code) == "True"


MISSING = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from widelimit.kernels.neural_tangents import neural_tangents
for _ in range(2):
    try:
        neural_tangents()
    except ModuleNotFoundError as error:
        print(error)
print([name for name in sys.modules if name.startswith("neural_tangents")])
"""


@pytest.mark.parametrize("absent", ["neural_tangents", "frozendict"])
def test_it_says_what_to_install(absent):
    """One sentence with the command, each time, and no half-imported module stays behind."""
    *sentences, left = in_a_process(MISSING.format(absent=absent)).splitlines()
    assert len(sentences) == 2 and left == "[]"
    for sentence in sentences:
        assert sentence.startswith(f"this needs {absent}, which is not installed: ")
        assert "pip install --no-deps neural-tangents==0.6.5" in sentence


def test_it_names_what_an_unknown_jax_lacks():
    """If JAX loses one more name, the error has its name and its module, and nothing stays behind."""
    code = (
        IMPORTS
        + OPEN
        + "del jax.core.ShapedArray\ntry: neural_tangents()\nexcept ImportError as error: print(error)\n"
        + "print([n for n in sys.modules if n.startswith('neural_tangents')], hasattr(jax.core, 'Jaxpr'))"
    )
    sentence, left = in_a_process(code).splitlines()
    assert "'jax.core' has no attribute 'ShapedArray'" in sentence and f"JAX {jax.__version__}" in sentence
    assert left == "[] False"


def test_threads_share_one_import():
    """Eight threads that open the door at once get one module."""
    code = (
        "from concurrent.futures import ThreadPoolExecutor; "
        + OPEN
        + "print(len(set(map(id, ThreadPoolExecutor(8).map(lambda _: neural_tangents(), range(8))))))"
    )
    assert in_a_process(code) == "1"


def network():
    """A finite network of the peer's with two outputs, its parameters, and inputs."""
    stax = neural_tangents().stax
    init, apply, kernel_fn = stax.serial(stax.Dense(16), stax.Erf(), stax.Dense(2))
    x = jnp.asarray(samples(4, 3), jnp.float32)
    with peer_style(x64=False):
        return apply, init(jax.random.key(0), x.shape)[1], kernel_fn, x


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("implementation", [1, 2])
def test_its_empirical_kernels_are_ours(implementation):
    """Jacobian contraction and NTK-vector products both equal empirical.ntk, all four axes of it."""
    apply, params, _, x = network()
    with peer_style(x64=False):
        peer_fn = neural_tangents().empirical_ntk_fn(apply, trace_axes=(), implementation=implementation)
        peers = np.asarray(peer_fn(x, None, params))
        ours = np.asarray(empirical.ntk(apply, params, x))
    np.testing.assert_allclose(ours, peers, rtol=1e-5, atol=1e-6)


def test_what_cannot_work_says_so():
    """Structured derivatives, several devices, the largest rate, a layer, TensorFlow: a sentence each."""
    nt = neural_tangents()
    for implementation in (0, 3, nt.NtkImplementation.STRUCTURED_DERIVATIVES):
        for function in (nt.empirical_ntk_fn, nt.empirical_kernel_fn):
            with pytest.raises(NotImplementedError, match=r"use widelimit\.kernels\.empirical\.ntk"):
                function(jnp.tanh, implementation=implementation)
    for wrong in ({}, {"device_count": 2}, {"device_count": -1, "batch_size": 2}):  # 8 devices here
        with pytest.raises(NotImplementedError, match="pass device_count=0 for one device"):
            nt.batch(jnp.tanh, **wrong)
    with pytest.raises(NotImplementedError, match="pass device_count=0"):
        nt.monte_carlo_kernel_fn(jnp.tanh, jnp.tanh, jax.random.key(0), 1)
    with pytest.raises(NotImplementedError, match=r"use widelimit\.kernels\.dynamics\.largest_rate"):
        nt.predict.max_learning_rate(jnp.eye(2))
    with pytest.raises(NotImplementedError, match="cannot take a kernel under jit, vmap or grad"):
        jax.vmap(lambda k: nt.predict.gradient_descent_mse(k, jnp.ones((2, 1)))(1.0))(jnp.eye(2)[None])
    with pytest.raises(NotImplementedError, match=r"divides 0 by 0 .* use stax\.Relu"):
        nt.stax.RectifiedMonomial(2)
    with pytest.raises(NotImplementedError, match="needs TensorFlow"):
        _ = nt.experimental.empirical_tf
    assert not hasattr(nt.experimental, "__path__")
    with pytest.raises(TypeError):
        nt.batch()


def test_what_is_refused_is_all_that_is_changed():
    """Every other name of the namespace is the package's own object."""
    nt, package = neural_tangents(), sys.modules["neural_tangents"]
    changed = {name for name in vars(package) if getattr(nt, name) is not getattr(package, name)}
    refused = {"batch", "empirical_kernel_fn", "empirical_ntk_fn", "monte_carlo_kernel_fn", "predict", "stax"}
    assert changed - {"__doc__"} == refused
    inside = {"predict": {"gradient_descent_mse", "max_learning_rate"}, "stax": {"RectifiedMonomial"}}
    for room, names in inside.items():
        own, theirs = vars(getattr(nt, room)), vars(getattr(package, room))
        assert {name for name in theirs if own[name] is not theirs[name]} - {"__doc__"} == names


def test_the_layer_that_is_refused_is_wrong():
    """Should a release mend its diagonal, E[relu(u)^4] = 3/2 at variance 1, this fails: let it in then."""
    neural_tangents()
    stax, x = sys.modules["neural_tangents"].stax, samples(8, 3)
    x /= np.linalg.norm(x, axis=1, keepdims=True) / 3**0.5
    nngp, _ = analytic_kernels(stax.Dense(1), stax.RectifiedMonomial(2), x=x)
    assert not np.allclose(np.diag(nngp), 1.5)


def layer(name):
    """Closed forms known from elsewhere: a layer, and E[phi phi] and E[phi' phi'] from covariances."""
    stax = neural_tangents().stax

    def sine(c):
        q = np.diag(c)
        half = (q[:, None] + q) / 2
        return np.exp(-half) * np.sinh(c), np.exp(-half) * np.cosh(c)

    def cosine(c):
        value, slope = sine(c)
        return slope, value

    def exponential(c):
        q = np.diag(c)
        value = np.exp((q[:, None] + q) / 2 + c)
        return value, value

    def sign(c):
        norm = np.sqrt(np.outer(np.diag(c), np.diag(c)))
        return 2 / np.pi * np.arcsin(np.clip(c / norm, -1, 1)), 0 * c

    def rbf(c):
        q = np.diag(c)
        value = np.exp(-(q[:, None] + q - 2 * c))
        return value, 2 * value

    def absolute(c):
        value, slope = arc_cosine(c)
        return 4 * value - c, 4 * slope - 1

    def leaky(c):
        value, slope = arc_cosine(c)
        return 0.81 * value + 0.1 * c, 0.81 * slope + 0.1

    def normalized(c):
        rho = c / np.sqrt(np.outer(np.diag(c), np.diag(c)))
        return c / rho * np.exp(0.7 * (rho - 1)), 0.7 * np.exp(0.7 * (rho - 1))

    def product(c, q1, q2):
        return jnp.exp((q1 + q2) / 2 + c)

    return {
        "Elementwise": (stax.Elementwise(jnp.exp, product), exponential),
        "ExpNormalized": (stax.ExpNormalized(gamma=0.7), normalized),
        "Relu": (stax.Relu(), arc_cosine),
        "LeakyRelu": (stax.LeakyRelu(0.1), leaky),
        "Abs": (stax.Abs(), absolute),
        "Erf": (stax.Erf(), arcsine),
        "Sin": (stax.Sin(), sine),
        "Cos": (stax.Cos(), cosine),
        "Exp": (stax.Exp(), exponential),
        "Sign": (stax.Sign(), sign),
        "Rbf": (stax.Rbf(1.0), rbf),
        "Monomial": (stax.Monomial(1), lambda c: (c, np.ones_like(c))),
        "Polynomial": (stax.Polynomial([0.0, 1.0]), lambda c: (c, np.ones_like(c))),
        "Identity": (stax.Identity(), lambda c: (c, np.ones_like(c))),
    }[name]


@pytest.mark.filterwarnings(RELAXED)
@pytest.mark.parametrize(
    "name",
    "Relu LeakyRelu Abs Erf Sin Cos Exp Sign Rbf Monomial Polynomial Elementwise ExpNormalized".split(),
)
def test_elementwise_layers(name):
    """Dense, activation, dense: kernels from formulas of our own, in float64."""
    x = samples(4, 3)
    phi, formula = layer(name)
    dense = neural_tangents().stax.Dense(1, W_std=1.2, b_std=0.4)
    nngp, ntk = analytic_kernels(dense, phi, dense, x=x)
    below = 1.44 * x @ x.T / 3 + 0.16
    value, slope = formula(below)
    np.testing.assert_allclose(nngp, 1.44 * value + 0.16, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(ntk, 1.44 * (value + slope * below) + 0.16, rtol=1e-7, atol=1e-12)
    assert_covariances(nngp, ntk)


@pytest.mark.filterwarnings(RELAXED)
@pytest.mark.parametrize(
    ("name", "arguments", "function"),
    [
        ("Gelu", (), lambda x: jax.nn.gelu(x, approximate=False)),
        ("Gaussian", (), lambda x: jnp.exp(-(x**2))),
        ("Gabor", (), lambda x: jnp.exp(-(x**2)) * jnp.sin(x)),
        ("ABRelu", (0.2, 0.7), lambda x: jnp.where(x > 0, 0.7 * x, 0.2 * x)),
        ("Hermite", (2,), lambda x: (x**2 - 1) / 2**0.5),
        ("Sigmoid_like", (), lambda x: (jax.lax.erf(x / 2.4020563531719796) + 1) / 2),
        ("ElementwiseNumerical", (jnp.tanh, 60), jnp.tanh),
    ],
)
def test_more_elementwise_layers(name, arguments, function):
    """The rest are the Gaussian integrals that they stand for, by a product rule of Gauss-Hermite."""
    x = samples(3, 3)
    x /= np.linalg.norm(x, axis=1, keepdims=True) / 3**0.5  # unit variance, which Hermite presupposes
    stax = neural_tangents().stax
    nngp, ntk = analytic_kernels(stax.Dense(1), getattr(stax, name)(*arguments), stax.Dense(1), x=x)
    z, weight = np.polynomial.hermite_e.hermegauss(200)
    weight /= weight.sum()
    c = (x @ x.T / 3)[0, 1]
    with jax.enable_x64(True):
        u = jnp.broadcast_to(jnp.asarray(z)[:, None], (200, 200))
        v = c * u + (1 - c**2) ** 0.5 * u.T
        parts = [jax.jvp(function, (side,), (jnp.ones_like(side),)) for side in (u, v)]
    value, slope = (weight @ (np.asarray(a) * np.asarray(b)) @ weight for a, b in zip(*parts, strict=True))
    np.testing.assert_allclose(nngp[0, 1], value, rtol=2e-3 if name == "ABRelu" else 1e-8)
    np.testing.assert_allclose(ntk[0, 1], value + c * slope, rtol=2e-2 if name == "ABRelu" else 1e-7)
    assert_covariances(nngp, ntk)


def test_spatial_layers():
    """Convolution, pooling and flattening of a linear network: means over windows, pixels and channels."""
    stax, x = neural_tangents().stax, samples(2, 4, 5, 3)
    conv = stax.Conv(1, (3, 3), padding="SAME", W_std=1.0)
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    patches = np.stack([padded[:, i : i + 4, j : j + 5] for i in range(3) for j in range(3)], -1)
    covariance = np.einsum("nhwcf,mijcf->nmhwij", patches, patches) / 27
    expected = {
        "GlobalAvgPool": covariance.mean((2, 3, 4, 5)),
        "GlobalSumPool": covariance.sum((2, 3, 4, 5)),
        "Flatten": np.einsum("nmhwhw->nm", covariance) / 20,
    }
    for name, kernel in expected.items():
        nngp, ntk = analytic_kernels(conv, getattr(stax, name)(), x=x)
        np.testing.assert_allclose(nngp, kernel, rtol=1e-12)
        np.testing.assert_allclose(ntk, kernel, rtol=1e-12)
    nngp, _ = analytic_kernels(conv, stax.AvgPool((2, 5), strides=(2, 5)), stax.GlobalSumPool(), x=x)
    np.testing.assert_allclose(nngp, covariance.sum((2, 3, 4, 5)) / 100, rtol=1e-12)


def test_the_tool_that_runs_its_tests_fails_when_nothing_runs():
    """No passed test, a name that selects none, and an entry that no longer fails are errors."""
    spec = importlib.util.spec_from_file_location("peer_tests", ROOT / "tools" / "peer_tests.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    good = [("A.test_one0", "passed", ""), ("A.test_one1", "skipped", "")]
    assert tool.complaints("x.py", ("test_one",), good) == []
    assert tool.complaints("x.py", ("test_two",), good) == ["test_two selects no test of x.py"]
    for idle in ([], good[1:]):
        assert tool.complaints("x.py", None, idle) == ["x.py passed no test"]
    broken = [*good, ("A.test_two", "failed", "")]
    assert tool.complaints("x.py", None, broken) == ["x.py::A.test_two failed and is not on the list"]
    listed = [start.partition("::") for start in tool.EXPECTED]
    known = [*good, *((name, "failed", "") for file, _, name in listed if file == "predict_test.py")]
    assert tool.complaints("predict_test.py", None, known) == []
    stale = tool.complaints("predict_test.py", None, known[:-1])
    assert stale == [f"predict_test.py::{known[-1][0]} is on the list and did not fail"]


@pytest.mark.filterwarnings(RELAXED)
def test_attention_and_layer_norm():
    """Attention with 1/d is softmax of covariances applied to them; layer norm makes correlations of them."""
    stax, x = neural_tangents().stax, samples(2, 3, 4)
    attention = stax.GlobalSelfAttention(
        4, n_chan_key=4, n_chan_val=4, n_heads=2, linear_scaling=True, W_key_std=1.0, W_query_std=1.0
    )
    nngp, _ = analytic_kernels(attention, stax.GlobalAvgPool(), x=x)
    within = np.einsum("nsc,ntc->nst", x, x) / 4
    weights = np.exp(within - within.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    across = np.einsum("nsc,mtc->nmst", x, x) / 4
    np.testing.assert_allclose(
        nngp, np.einsum("nsu,nmuv,mtv->nmst", weights, across, weights).mean((2, 3)), rtol=1e-10
    )
    normed, _ = analytic_kernels(stax.Dense(1), stax.LayerNorm(), x=x[:, 0])
    c = x[:, 0] @ x[:, 0].T / 4
    np.testing.assert_allclose(normed, c / np.sqrt(np.outer(np.diag(c), np.diag(c))), rtol=1e-4)


def test_batch_and_monte_carlo():
    """Serial batches change nothing; the mean over sampled networks approaches the limit within its error."""
    nt, (_, _, kernel_fn, x) = neural_tangents(), network()
    with peer_style(x64=False):
        whole = kernel_fn(x, None, "ntk")
        batched = nt.batch(kernel_fn, batch_size=2, device_count=0)(x, None, "ntk")
        stax = nt.stax
        init, wide, limit = stax.serial(stax.Dense(256), stax.Erf(), stax.Dense(1))
        sampled = nt.monte_carlo_kernel_fn(init, wide, jax.random.key(0), 64, device_count=0)(x, None, "nngp")
        exact = np.asarray(limit(x, None, "nngp"))
    np.testing.assert_allclose(batched, whole, rtol=1e-5)
    # The mean of 64 products of Gaussian outputs has a variance of (K_ii K_jj + K_ij^2) / 64.
    spread = np.sqrt((np.outer(np.diag(exact), np.diag(exact)) + exact**2) / 64)
    assert np.abs((np.asarray(sampled) - exact) / spread).max() < 4


def test_predict():
    """Trained to the end, regression is K_* K^-1 y; at time t it is damped in the eigenbasis; so are GPs."""
    nt, x = neural_tangents(), samples(6, 3)
    y = samples(4, 1, seed=1)
    stax = nt.stax
    dense = stax.Dense(1, b_std=0.5)
    kernel_fn = stax.serial(dense, stax.Erf(), dense)[2]
    with peer_style():
        train, test, target = (jnp.asarray(part) for part in (x[:4], x[4:], y))
        k, ks, kss = (
            {name: np.asarray(getattr(kernels, name)) for name in ("nngp", "ntk")}
            for kernels in (
                kernel_fn(train, None, ("nngp", "ntk")),
                kernel_fn(test, train, ("nngp", "ntk")),
                kernel_fn(test, None, ("nngp", "ntk")),
            )
        )
        end = nt.predict.gradient_descent_mse(jnp.asarray(k["ntk"]), target)(None, 0.0, 0.0, ks["ntk"])
        ensemble = nt.predict.gradient_descent_mse_ensemble(kernel_fn, train, target)
        after = {t: ensemble(t=t, x_test=test, get="ntk", compute_cov=True) for t in (None, 3.0)}
        gp = ensemble(x_test=test, get="nngp", compute_cov=True)
        ode = nt.predict.gradient_descent(
            lambda f, y: 0.5 * jnp.mean((f - y) ** 2), jnp.asarray(k["ntk"]), target
        )(3.0, jnp.zeros((4, 1)), jnp.zeros((2, 1)), jnp.asarray(ks["ntk"]))
    solution = ks["ntk"] @ np.linalg.solve(k["ntk"], y)
    np.testing.assert_allclose(end[1], solution, rtol=1e-6)
    np.testing.assert_allclose(after[None].mean, solution, rtol=1e-6)
    values, vectors = np.linalg.eigh(k["ntk"])
    learned = vectors @ np.diag((1 - np.exp(-values * 3 / 4)) / values) @ vectors.T
    np.testing.assert_allclose(after[3.0].mean, ks["ntk"] @ learned @ y, rtol=1e-6)
    np.testing.assert_allclose(ode[1], ks["ntk"] @ learned @ y, rtol=1e-4)
    np.testing.assert_allclose(gp.mean, ks["nngp"] @ np.linalg.solve(k["nngp"], y), rtol=1e-6)
    posterior = kss["nngp"] - ks["nngp"] @ np.linalg.solve(k["nngp"], ks["nngp"].T)
    np.testing.assert_allclose(gp.covariance, posterior, rtol=1e-6, atol=1e-10)


def test_linearize_and_taylor_expand():
    """Both are Taylor polynomials in the parameters: exact for polynomials of their degree, not beyond."""
    nt = neural_tangents()

    def apply(params, x):
        return params["a"] * x + params["a"] * params["b"] ** 2

    start, moved = {"a": jnp.array(1.0), "b": jnp.array(2.0)}, {"a": jnp.array(1.5), "b": jnp.array(2.25)}
    x = jnp.array([1.0, -1.0])
    with peer_style(x64=False):
        linear = nt.linearize(apply, start)(moved, x)
        quadratic, cubic = (nt.taylor_expand(apply, start, degree)(moved, x) for degree in (2, 3))
    a, b = 0.5, 0.25
    np.testing.assert_allclose(linear, x + 4 + a * x + 4 * a + 4 * b, rtol=1e-6)
    np.testing.assert_allclose(quadratic, x + 4 + a * x + 4 * a + 4 * b + b**2 + 4 * a * b, rtol=1e-6)
    np.testing.assert_allclose(cubic, apply(moved, x), rtol=1e-6)
