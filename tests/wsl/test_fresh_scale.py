"""The scale of fresh models, the bars, and the frontier, on made-up distances."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from wsl.generators.fresh_scale import FreshScale, describe, expected_nearest
from wsl.generators.frontier import frontier
from wsl.generators.scoring import SKETCH, sketched
from wsl.generators.verdict import Bars


def fresh(count: int, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Accuracies of models, and distances to train models: good ones agree with each other, whatever their weights."""
    rng = np.random.default_rng(seed)
    accuracy = rng.uniform(0.3, 1, count)
    noise = rng.lognormal(0, 0.2, (2, count))
    return accuracy, {"weights": 2 * noise[0], "behaviour": (1.05 - accuracy) * noise[1]}


def novelty(scale: FreshScale, accuracy: np.ndarray, distances: dict[str, np.ndarray]) -> np.ndarray:
    return scale.smaller(scale.ratios(distances, accuracy))


def test_fresh_models_that_the_scale_was_not_fitted_on_have_the_novelty_one_whatever_their_accuracy():
    scale, (accuracy, distances) = FreshScale(*fresh(200, 0)), fresh(400, 1)
    found = novelty(scale, accuracy, distances)
    assert np.median(found) == pytest.approx(1, abs=0.1)
    assert (found > 0.25).all()
    good = accuracy > np.quantile(accuracy, 0.75)
    assert np.median(found[good]) == pytest.approx(1, abs=0.15)


def test_a_scale_that_does_not_know_the_accuracy_would_punish_it():
    scale, (accuracy, distances) = FreshScale(None, fresh(200, 0)[1]), fresh(400, 1)
    good = accuracy > np.quantile(accuracy, 0.75)
    assert np.median(novelty(scale, accuracy, distances)[good]) < 0.7


def test_a_copy_has_the_novelty_zero_and_one_space_suffices():
    scale = FreshScale(*fresh(200, 0))
    accuracy = np.full(3, 0.8)
    found = novelty(scale, accuracy, {"weights": np.array([0.0, 2.0, 2.0]), "behaviour": np.array([0.25, 0.0, 0.25])})
    assert found[:2].tolist() == [0, 0]
    assert found[2] > 0.8


def test_where_fresh_models_agree_entirely_weights_alone_count():
    accuracy, distances = fresh(100, 0)
    distances["behaviour"][:] = 0
    found = novelty(FreshScale(accuracy, distances), accuracy, distances)
    assert np.median(found) == pytest.approx(1)


def test_intervals_of_the_scale_hold_it_and_shrink_with_the_number_of_fresh_models():
    widths = []
    for count in (20, 400):
        accuracy, distances = fresh(count, 0)
        scale, rng = FreshScale(accuracy, distances), np.random.default_rng(0)
        rows = describe(scale, [scale.resampled(rng.integers(count, size=count)) for _ in range(50)], accuracy)
        assert {row["space"] for row in rows} == {"weights", "behaviour"}
        widths.append(np.mean([row["high"] - row["low"] for row in rows]))
    assert widths[1] < widths[0]


@pytest.mark.parametrize("count", [1, 3, 5, 7])
def test_the_expected_nearest_is_the_mean_over_all_choices(count: int):
    distances = np.random.default_rng(0).random((4, 7))
    each = [[min(row[list(chosen)]) for chosen in combinations(range(7), count)] for row in distances]
    assert expected_nearest(distances, count) == pytest.approx(np.mean(each, axis=1))


def test_no_other_is_infinitely_far_and_a_broken_one_counts_as_the_farthest():
    assert np.isinf(expected_nearest(np.ones((2, 3)), 0)).all()
    assert np.isinf(expected_nearest(np.ones((2, 3)), 4)).all()
    assert expected_nearest(np.array([[1.0, np.inf]]), 1) == pytest.approx([1.0])


def test_sketches_keep_distances_to_a_percent_and_copies_exactly():
    rows = np.random.default_rng(0).standard_normal((6, 10 * SKETCH))
    rows[5] = rows[0]
    small = sketched(rows)
    assert small.shape == (6, SKETCH)
    whole, kept = (np.linalg.norm(some[1:5] - some[0], axis=1) for some in (rows, small))
    assert kept == pytest.approx(whole, rel=0.05)
    assert np.array_equal(small[0], small[5])
    assert sketched(rows[:, :SKETCH]) is not None
    assert np.array_equal(sketched(rows[:, :100]), rows[:, :100])


def test_bars_are_of_the_models_that_are_best_by_val_accuracy_not_by_test_accuracy():
    val, test = np.array([0.1, 0.9, 0.2, 0.3]), np.array([0.95, 0.5, 0.4, 0.3])
    bars = Bars.of([val], [test])
    assert (bars.median, bars.top_quartile, bars.best) == (np.median(test), 0.5, 0.5)
    unknown = Bars.of([np.full(4, np.nan)], [test])
    assert np.isnan([unknown.top_quartile, unknown.best]).all()


def made(name: str, accuracy: float, far: float, families: int = 4) -> dict[str, Any]:
    """A row of samples that are all alike but for a little by family."""
    shift = np.repeat(np.arange(families), 5) / 100
    figures = {"accuracy": accuracy + shift, "novelty": far + shift, "diversity": far + shift}
    family = [f"f{i}" for i in range(families) for _ in range(5)]
    return {"generator": name, "settings": {}, "samples": {"family": family, **{k: v.tolist() for k, v in figures.items()}}}


def test_the_frontier_is_the_best_setting_that_is_new_and_diverse_enough():
    rows = [made("train models", 1.0, 2.0), made("noise", 0.9, 0.3), made("noise", 0.6, 0.8), made("copy", 0.95, 0.0)]
    found = {(row["generator"], row["at_least"]): row for row in frontier(rows, seed=0)}
    best = [found["noise", level]["accuracy"] for level in (0.25, 0.5, 0.75, 1.0)]
    assert best == [pytest.approx(0.915), pytest.approx(0.615), pytest.approx(0.615), None]
    assert all(found["copy", level]["accuracy"] is None for level in (0.25, 0.5, 0.75, 1.0))
    assert not any(name == "train models" for name, _ in found)
    assert found["noise", 0.5]["low"] < 0.615 < found["noise", 0.5]["high"]
    assert frontier(rows, seed=0) == frontier(rows, seed=0)
