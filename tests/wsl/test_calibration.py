"""Intervals hold for groups that were not in the calibration, and grow with distance as errors do."""

import numpy as np
import pandas as pd
import pytest

from wsl.probes.calibration import Part, at, quantile, roots_left_out, usual_error, weights_of
from wsl.probes.regression import Regression

ACCURACY = Regression(column="value", scale="linear", measured="none", sign=1, trivial=False, bounds=[-np.inf, np.inf])


@pytest.mark.parametrize(("groups", "promised"), [(3, 0.75), (9, 0.9), (10, 10 / 11)])
def test_groups_promise_one_less_than_all(groups: int, promised: float):
    weights = weights_of(np.repeat(np.arange(groups), 5))
    assert weights.sum() == pytest.approx(promised)
    scores = np.arange(len(weights), dtype=float)
    assert quantile(scores, weights, promised) == scores.max()
    assert quantile(scores, weights, promised + 0.01) == np.inf


def test_intervals_hold_for_new_groups_where_those_of_single_scores_do_not():
    rng, held = np.random.default_rng(0), {"groups": [], "scores": []}
    for _ in range(400):
        scale = rng.exponential(size=11)  # how wrong a probe is in a group
        errors = np.abs(rng.normal(size=(11, 30))) * scale[:, None]
        groups = np.repeat(np.arange(10), 30)
        for kind, weights in {"groups": weights_of(groups), "scores": weights_of(np.arange(300))}.items():
            held[kind].append((errors[10] <= quantile(errors[:10].ravel(), weights, 0.9)).mean())
    assert np.mean(held["groups"]) >= 0.9
    assert np.mean(held["scores"]) < 0.89


def test_the_usual_error_follows_errors_that_grow_with_distance_and_holds_in_every_range_of_distances():
    rng = np.random.default_rng(0)
    distances = rng.uniform(0.2, 1, size=4000)
    errors = np.abs(rng.normal(size=4000)) * distances
    line = usual_error(errors[:2000], distances[:2000], np.ones(2000))
    assert line[1] > 5 * line[0]
    far = distances[2000:] > 0.8
    coverage = {}
    for kind, scale in {"line": at(line, distances), "constant": np.ones(4000)}.items():
        reach = quantile((errors / scale)[:2000], weights_of(np.arange(2000)), 0.9)
        coverage[kind] = (errors <= reach * scale)[2000:][far].mean()
    assert coverage["line"] == pytest.approx(0.9, abs=0.03)
    assert coverage["constant"] < 0.85
    assert usual_error(np.zeros(3), np.ones(3), np.ones(3)).tolist() == [1, 0]


def part(roots: list[str], rng: np.random.Generator, effects: dict[str, float]) -> Part:
    features = rng.normal(size=(len(roots), 4))
    value = features[:, 0] + np.array([effects[root] for root in roots])
    frame = pd.DataFrame({"model": [f"{root}{i}" for i, root in enumerate(roots)], "root": roots, "value": value})
    return Part(features, frame, np.ones(len(roots)))


def test_the_probe_of_a_root_left_out_has_not_seen_it():
    rng, effects = np.random.default_rng(0), {"a": 0.0, "b": 0.0, "c": 5.0}
    train, val = part(["a", "b", "c"] * 40, rng, effects), part(["a", "b"] * 20, rng, effects)
    found = {
        evaluated.roots()[0]: (scores, evaluated)
        for _, scores, evaluated in roots_left_out({"value": ACCURACY}, train, val, penalties=[1e-3])
    }
    assert list(found) == ["a", "b", "c"]
    assert [len(found[root][0]) for root in "abc"] == [20, 20, 40]  # val checkpoints, of a root that has none those of train
    assert np.median(found["c"][0]) > 4  # a probe that had seen it would know two thirds of its effect
