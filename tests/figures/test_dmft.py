"""The overview of a solution: what was drawn is what was solved, for every kind of solution."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest

from widelimit import dmft
from widelimit.compare import finite_ensemble, richardson
from widelimit.figures import dmft_overview

X = np.random.default_rng(0).standard_normal((4, 5))


def solved(kind=dmft.Problem, **settings):
    """Three training points and a test point of a linear network."""
    base = {"targets": [1.0, -1.0, 0.5], "inputs": X[:3], "test_inputs": X[3:], "steps": 12}
    base |= {"learning_rate": 0.1, "depth": 3, "activation": "identity", "gamma0": 1.5}
    return dmft.linear(kind(**{**base, **settings}))


def test_panels_show_the_numbers():
    """Loss, predictions, movements, eigenvalues and kernels are those of the solution, with lazy in grey."""
    solution = solved()
    lazy = dmft.lazy(solution.problem)
    figure, axes = solution.plot(lazy)
    loss, predictions, movement, tangent = axes[0]
    np.testing.assert_array_equal(loss.get_lines()[0].get_ydata(), lazy.loss.values)
    np.testing.assert_array_equal(loss.get_lines()[1].get_ydata(), solution.loss.values)
    drawn = [line.get_ydata() for line in predictions.get_lines() if line.get_linestyle() != ":"]
    np.testing.assert_array_equal(np.stack(drawn, 1), solution.predictions.values)
    styles = [line.get_linestyle() for line in predictions.get_lines()]
    assert styles.count("--") == 1 and styles.count(":") == 3
    first = solution.features.values[2].transpose(0, 2, 1, 3)[np.arange(13), np.arange(13)]
    expected = np.linalg.norm(first - first[0], axis=(1, 2)) / np.linalg.norm(first[0])
    np.testing.assert_allclose(movement.get_lines()[2].get_ydata(), expected)
    values = np.linalg.eigvalsh(solution.ntk.values[:, :3, :3])
    np.testing.assert_allclose(tangent.get_lines()[-1].get_ydata(), values[:, 0])
    np.testing.assert_array_equal(
        axes[1, 0].get_images()[0].get_array(), solution.features.values[2, 0, :, 0]
    )
    np.testing.assert_array_equal(
        axes[1, 1].get_images()[0].get_array(), solution.features.values[2, -1, :, -1]
    )
    between = np.einsum("tmsm->ts", solution.features.values[2]) / 4
    np.testing.assert_allclose(axes[1, 2].get_images()[0].get_array(), between)
    np.testing.assert_array_equal(axes[1, 3].get_images()[0].get_array(), solution.gradients.values[2])
    figure.savefig(io.BytesIO())


def test_bands_are_two_standard_errors():
    """Where a solver has errors, the band spans two of them to both sides."""
    exact = solved()
    given = dataclasses.replace(exact, loss=exact.loss._replace(stderr=np.full(13, 0.05)))
    band = dmft_overview(given)[1][0, 0].collections[0].get_paths()[0].vertices
    at_end = band[band[:, 0] == 12][:, 1]
    np.testing.assert_allclose([at_end.min(), at_end.max()], exact.loss.values[-1] + np.array([-0.1, 0.1]))


@pytest.mark.parametrize(
    "solution",
    [
        lambda: solved(targets=np.eye(3), loss="cross_entropy"),
        lambda: dmft.lazy(dmft.Problem(targets=np.eye(2), kernel=np.eye(2), steps=3, learning_rate=0.1)),
        lambda: solved(dmft.ResidualProblem),
        lambda: solved(targets=[0.0], inputs=X[:1], test_inputs=None, steps=1, depth=1),
        lambda: dataclasses.replace(solved(), features=None, gradients=None, ntk=None),
    ],
)
def test_every_kind_of_solution_can_be_drawn(solution):
    """Several outputs, static kernels, residual layers from 0, one point and one step, what was not kept."""
    found = solution()
    figure, axes = dmft_overview(found)
    figure.savefig(io.BytesIO())
    if found.features is None:
        assert [ax.texts[0].get_text() for ax in (axes[0, 2], axes[1, 0])] == ["not kept"] * 2
    elif found.features.first_layer == 0:
        assert axes[0, 2].get_legend().get_texts()[0].get_text() == "layer 0"


@pytest.mark.parametrize(
    ("two_time", "classes"), [(False, None), pytest.param(True, 2, marks=pytest.mark.slow)]
)
def test_ensembles_are_drawn_at_their_times(two_time, classes):
    """Kernels of some times stand at their steps, those of equal times are not drawn between times, and an
    extrapolation is drawn as an ensemble is."""
    problem = dmft.Problem(
        targets=[1.0, -1.0] if classes is None else np.eye(2),
        kernel=np.eye(3),
        steps=6,
        learning_rate=0.1,
        depth=2,
    )
    ensembles = finite_ensemble(problem, [8, 16], 4, times=[1, 3, 6], two_time=two_time)
    for found, solver in ((ensembles.solution(16), "finite_ensemble"), (richardson(ensembles), "richardson")):
        figure, axes = found.plot(dmft.lazy(problem))
        figure.savefig(io.BytesIO())
        assert figure.get_suptitle().endswith(f"by compare.{solver}")
        equal = found.features.values[1]
        equal = equal[np.arange(3), :, np.arange(3)] if two_time else equal
        np.testing.assert_allclose(axes[1, 1].get_images()[0].get_array(), equal[-1])
        moved = np.linalg.norm(equal - equal[0], axis=(1, 2)) / np.linalg.norm(equal[0])
        line = axes[0, 2].get_lines()[1]
        np.testing.assert_array_equal(line.get_xdata(), [1, 3, 6])
        np.testing.assert_allclose(line.get_ydata(), moved)
        np.testing.assert_array_equal(axes[0, 3].get_lines()[-1].get_xdata(), [1, 3, 6])
        assert "step 1" in axes[1, 0].get_title() and "step 1" in axes[0, 2].get_ylabel()
        for ax in axes[1, 2:]:
            if two_time:
                assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "3", "6"]
            else:
                assert ax.texts[0].get_text() == "equal times only"


def test_another_problem_is_refused():
    """The lazy limit beside must be that of the same points and steps."""
    with pytest.raises(ValueError, match="lazy must have the solution's times and points"):
        dmft_overview(solved(), solved(steps=5))
