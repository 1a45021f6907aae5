"""The search for a best rate that the experiments on transfer share: how it widens, and how it goes on."""

from __future__ import annotations

import pytest

from experiments.transfer_search import WIDENINGS, search
from widelimit.training import open_results

CASE, WINDOW = {"width": 8}, [-2.0, -1.0, 0.0, 1.0, 2.0]


def opened(directory, place, *, groups=None):
    """Searches on a planted parabola; returns the optimum, the groups trained, and all rates stored.

    A process is killed, as it were, when it wants to train more than ``groups`` groups of rates.
    """
    trained = []

    def train(rates, store):
        if len(trained) == groups:
            raise KeyboardInterrupt
        trained.append(rates)
        return [
            {**CASE, "log2_lr": rate, "seed": seed, "train_loss": 2.0 ** (0.01 * (rate - place) ** 2 + seed)}
            for rate in rates
            for seed in (0, 1)
        ]

    with open_results(directory, "search", {"place": place}) as results:
        best = None
        try:
            best = search(results, CASE, WINDOW, train, 30.0)
        except KeyboardInterrupt:
            pass
        return best, trained, sorted({row["log2_lr"] for row in results.rows})


@pytest.mark.parametrize(("place", "widened"), [(100.0, WIDENINGS), (-100.0, WIDENINGS), (0.0, 0), (6.5, 2)])
def test_a_finished_search_trains_nothing(place, widened, tmp_path):
    """Opened three times, a curve whose minimum stays at an edge keeps its rates and its optimum."""
    best, trained, rates = opened(tmp_path / "run", place)
    assert len(trained) == 1 + widened and len(rates) == len(WINDOW) + 3 * widened
    for _ in range(2):
        assert opened(tmp_path / "run", place) == (best, [], rates)


@pytest.mark.parametrize("groups", [0, 1, 2, WIDENINGS])
def test_a_killed_search_ends_alike(groups, tmp_path):
    """Killed after some groups of rates and started again, it trains the others and finds the same."""
    best, trained, rates = opened(tmp_path / "whole", 100.0)
    assert opened(tmp_path / "run", 100.0, groups=groups)[:2] == (None, trained[:groups])
    assert opened(tmp_path / "run", 100.0) == (best, trained[groups:], rates)
