import warnings

import numpy as np
import pytest
from scipy.stats import kendalltau
from sklearn.metrics import balanced_accuracy_score, r2_score

from wsl.probes.metrics import balanced_accuracy, bootstrap_counts, interval, kendall_tau, r2

MODELS, EPOCHS = 12, 5
GROUPS = np.repeat(np.arange(MODELS), EPOCHS)
ONCE = np.ones((1, MODELS), dtype=np.int64)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def numbers(rng):
    truth = rng.normal(size=len(GROUPS)).round(1)  # with ties
    return truth, (truth + rng.normal(size=len(GROUPS))).round(1)


def labels(rng):
    return rng.choice(["a", "b", "c"], size=len(GROUPS)), rng.choice(["a", "b", "c"], size=len(GROUPS))


CASES = [
    (r2, numbers, r2_score),
    (kendall_tau, numbers, lambda truth, prediction: kendalltau(truth, prediction)[0]),
    (balanced_accuracy, labels, balanced_accuracy_score),
]


@pytest.mark.parametrize(("metric", "sample", "reference"), CASES)
def test_metrics_agree_with_scipy_and_scikit_learn(metric, sample, reference, rng):
    truth, prediction = sample(rng)
    assert metric(truth, prediction, GROUPS, ONCE)[0] == pytest.approx(reference(truth, prediction))


@pytest.mark.parametrize(("metric", "sample", "reference"), CASES)
def test_a_model_sampled_twice_counts_as_if_its_checkpoints_were_there_twice(metric, sample, reference, rng):
    truth, prediction = sample(rng)
    counts = bootstrap_counts(np.zeros(MODELS, dtype=int), n_bootstrap=5, rng=rng)
    for drawn, found in zip(counts, metric(truth, prediction, GROUPS, counts), strict=True):
        rows = np.repeat(np.arange(len(GROUPS)), drawn[GROUPS])
        assert found == pytest.approx(reference(truth[rows], prediction[rows]))


def test_tau_does_not_depend_on_how_many_pairs_are_compared_at_once(rng, monkeypatch):
    truth, prediction = numbers(rng)
    whole = kendall_tau(truth, prediction, GROUPS, ONCE)
    monkeypatch.setattr("wsl.probes.metrics.PAIRS_AT_ONCE", 7 * len(GROUPS))
    assert kendall_tau(truth, prediction, GROUPS, ONCE).tolist() == whole.tolist()


def test_equal_predictions_order_nothing_and_equal_truths_cannot_be_scored(rng):
    truth, constant = rng.normal(size=len(GROUPS)), np.full(len(GROUPS), 0.3)
    assert kendall_tau(truth, constant, GROUPS, ONCE)[0] == 0
    assert np.isnan(kendall_tau(constant, truth, GROUPS, ONCE)[0])
    alone = np.zeros(2, dtype=int), np.ones((1, 1), dtype=int)
    assert kendall_tau(np.array([0.0, 1.0]), np.array([3.0, 2.0]), *alone)[0] == -1
    assert np.isnan(r2(constant, truth, GROUPS, ONCE)[0])


def test_a_resample_draws_as_many_models_as_there_are():
    counts = bootstrap_counts(np.zeros(MODELS, dtype=int), n_bootstrap=50, rng=np.random.default_rng(0))
    assert (counts.sum(axis=1) == MODELS).all()
    assert (counts == 0).any()


def test_a_resample_of_families_keeps_or_loses_them_whole():
    families = np.array([0, 1, 0, 1, 1, 2])
    counts = bootstrap_counts(families, n_bootstrap=200, rng=np.random.default_rng(0))
    sizes = np.stack([counts[:, families == family].sum(axis=1) for family in range(3)], axis=1)
    assert (sizes % np.array([2, 3, 1]) == 0).all()
    assert ((sizes / np.array([2, 3, 1])).sum(axis=1) == 3).all()


def coverage(groups: np.ndarray, rng: np.random.Generator) -> float:
    """Fraction of 95 % intervals that hold the true R2, where the errors of a model's checkpoints are one and the same."""
    inside = 0
    for _ in range(200):
        truth = rng.normal(size=40).repeat(EPOCHS)
        prediction = truth + rng.normal(size=40).repeat(EPOCHS)
        counts = bootstrap_counts(np.zeros(groups.max() + 1, dtype=int), n_bootstrap=200, rng=rng)
        low, high = interval(r2(truth, prediction, groups, counts))
        inside += low <= 0.0 <= high  # 1 - var(error) / var(truth) = 0
    return inside / 200


def test_intervals_over_models_cover_the_truth_and_those_over_checkpoints_do_not(rng):
    assert coverage(np.arange(40).repeat(EPOCHS), rng) > 0.85
    assert coverage(np.arange(40 * EPOCHS), rng) < 0.75


def test_a_score_that_no_resample_has_is_without_an_interval():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        groups = np.zeros(3, dtype=int)
        found = r2(np.full(3, 0.7), np.full(3, 0.7), groups, np.ones((10, 1), dtype=int))
    assert np.isnan([*found, *interval(found)]).all()
