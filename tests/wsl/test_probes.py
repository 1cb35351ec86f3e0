"""Probes: planted features score one, permuted targets zero, and what is unknown is no score."""

import numpy as np
import pytest

from tests.wsl.populations import (
    EPOCHS,
    MODELS,
    accuracy_probe,
    clustered_noise,
    cross_validation,
    evaluate,
    measured,
    population,
)
from wsl.probes.classification import Classification, logistic
from wsl.probes.inputs import Inputs, Standardizer
from wsl.probes.metrics import balanced_accuracy, kendall_tau, r2
from wsl.probes.probe import Measured, Probe, Targets
from wsl.probes.regression import permute_models
from zoo_gen.config import cards


@pytest.mark.parametrize(
    ("probe", "metric"),
    [
        (accuracy_probe(), "r2"),
        (accuracy_probe(), "kendall_tau"),
        (accuracy_probe(column="epoch", scale="log"), "r2"),
        (Classification(column="optimizer", trivial=False), "balanced_accuracy"),
        (Classification(column="root", trivial=False), "balanced_accuracy"),
        (Classification(column="weight_decay", trivial=False), "balanced_accuracy"),
    ],
)
def test_a_planted_feature_scores_one(probe, metric):
    targets, _ = probe.targets(population())
    planted = targets[:, None] if targets.dtype == float else (targets[:, None] == np.unique(targets)).astype(float)
    assert evaluate(probe, planted)[None, metric]["value"] > 0.999


def test_a_planted_feature_is_found_among_many_others():
    features = np.column_stack([clustered_noise(), population()["test_accuracy"]])
    row = evaluate(accuracy_probe(), features)[None, "r2"]
    assert row["value"] > 0.99
    assert row["above_permuted"]


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize("column", ["test_accuracy", "epoch"])
def test_permuted_targets_score_zero(column, scale):
    features = np.column_stack([clustered_noise(), population()[["test_accuracy", "epoch"]]])
    rows = evaluate(accuracy_probe(column=column, scale=scale), features)
    assert rows["permuted targets", "r2"]["value"] < 0.05
    assert rows["permuted targets", "kendall_tau"]["value"] < 0.05
    assert rows[None, "r2"]["value"] > rows["permuted targets", "r2"]["high"]


def test_a_probe_of_unrelated_features_predicts_the_mean():
    rows = evaluate(accuracy_probe(), np.random.default_rng(0).normal(size=(MODELS * EPOCHS, 20)))
    assert rows[None, "kendall_tau"]["value"] == 0
    assert rows[None, "r2"]["value"] <= 0  # the mean of train is not quite that of test


def test_permuted_targets_stay_clustered_and_lose_their_order():
    models = np.arange(50).repeat(EPOCHS)
    targets = models + np.tile(np.arange(EPOCHS), 50) / 100
    first, permuted = permute_models(targets, models, n_permutations=2, rng=np.random.default_rng(0))
    assert (first != permuted).any()
    np.testing.assert_array_equal(np.sort(permuted), targets)
    blocks = permuted.reshape(50, EPOCHS)
    assert (blocks.astype(int) == blocks[:, :1].astype(int)).all()
    assert (np.argsort(blocks % 1, axis=1) != np.arange(EPOCHS)).any()


def test_ridge_predictions_are_those_of_scikit_learn():
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    features, weights = rng.normal(size=(90, 7)), rng.normal(size=7)
    targets, models = features @ weights + 0.1 * rng.normal(size=90), np.arange(90)
    train, val, test = np.split(np.arange(90), 3)
    inputs = Inputs.of(features[train], features[val], features[test])
    known = (Targets(targets[rows], models[rows]) for rows in (train, val))
    found = accuracy_probe().fit(inputs, *known, penalties=[0.1]).predict(inputs.test)
    standardize = Standardizer.fit(features[train])
    reference = Ridge(alpha=0.1 * len(train)).fit(standardize(features[train]), targets[train])
    np.testing.assert_allclose(found, reference.predict(standardize(features[test])))


def test_absent_and_constant_features_are_zero_after_standardisation():
    features = np.array([[1.0, 5.0, np.nan, 1e3 + 1e-5], [3.0, 5.0, 2.0, 1e3], [5.0, 5.0, 4.0, 1e3]])
    standardized = Standardizer.fit(features)(features)
    np.testing.assert_allclose(standardized[:, 0].std(), 1)
    np.testing.assert_allclose(standardized[:, 2], [0, -1, 1])
    assert (standardized[:, [1, 3]] == 0).all()


def test_test_features_do_not_change_the_standardisation():
    rng = np.random.default_rng(0)
    features = np.column_stack([clustered_noise(5), population()["test_accuracy"]])
    outlier = features.copy()
    frame = population()
    test = frame["model"].to_numpy() == "m05"
    outlier[test] = 1e6 * rng.normal(size=(test.sum(), 6))
    validation = cross_validation(frame)
    probe, subset = {"accuracy": accuracy_probe()}, ~test
    one, other = ([f.row for f in validation.evaluate(probe, [table], subset=subset)] for table in (features, outlier))
    assert one == other


def test_unknown_targets_are_left_out_and_counted():
    frame = population()
    frame.loc[(frame["model"] == "m00") | (frame["model"] == "m05") & (frame["epoch"] == 1), "test_accuracy"] = np.nan
    row = evaluate(accuracy_probe(), clustered_noise(), frame)[None, "r2"]
    assert row["n_models"] == MODELS // 5 - 1
    assert row["n_checkpoints"] == (MODELS // 5 - 1) * EPOCHS - 1


@pytest.mark.parametrize("probe", [accuracy_probe(), Classification(column="optimizer", trivial=False)])
def test_a_target_that_does_not_vary_is_null_and_no_error(probe):
    frame = population().assign(test_accuracy=0.5, optimizer="adamw")
    rows = evaluate(probe, clustered_noise(), frame)
    assert all(row["value"] is None and row["low"] is None for row in rows.values())


def test_the_same_seed_gives_the_same_rows_and_another_one_other_intervals():
    features = np.column_stack([clustered_noise(), population()["test_accuracy"] ** 2])
    assert evaluate(accuracy_probe(), features) == evaluate(accuracy_probe(), features)
    one, other = (evaluate(accuracy_probe(), features, seed=seed)[None, "r2"] for seed in (0, 1))
    assert one["value"] == other["value"]
    assert one["low"] != other["low"]


def test_the_noise_ceiling_falls_with_the_number_of_test_images():
    frame = population()

    def noise_ceiling(results: Measured, probe: Probe | None = None) -> float | None:
        found = evaluate(probe or accuracy_probe(), clustered_noise(), measured=results)
        return found[None, "r2"]["noise_ceiling"]

    few, many = (noise_ceiling(measured(frame, images)) for images in (10, 10_000))
    assert few is not None
    assert many is not None
    assert few < 0.8 < 0.99 < many < 1
    unknown = Measured(*np.full((2, len(frame), 5), np.nan))
    assert noise_ceiling(unknown) is None
    assert noise_ceiling(unknown, accuracy_probe(column="epoch", measured="none")) == 1


def test_a_label_has_its_chance_beside_it():
    row = evaluate(Classification(column="root", trivial=False), clustered_noise())[None, "balanced_accuracy"]
    assert row["chance"] == pytest.approx(1 / 3)
    assert row["low"] < 1 / 3 < row["high"]


@pytest.mark.parametrize("name", cards("probe", ["*"]))
def test_every_probe_card_keeps_the_protocol(name):
    probe = cards("probe", [name])[name]
    assert isinstance(probe, Probe)
    frame = population().assign(
        learning_rate=0.1, head="linear", pretraining="simclr", test_loss=1.0, accuracy_gap=0.1, loss_gap=np.nan
    )
    targets, known = probe.targets(frame)
    assert targets.shape == known.shape == (len(frame),)
    assert set(probe.metrics.values()) <= {r2, kendall_tau, balanced_accuracy}
    assert probe.trivial == (name == "head")
    varies = name in {"test_accuracy", "epoch", "optimizer", "weight_decay", "root"}
    assert probe.predictable(targets[known], targets[known]) == varies


@pytest.mark.parametrize("classes", [2, 4])
def test_logistic_regressions_are_those_of_scikit_learn(classes):
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(300, 6)), rng.integers(classes, size=300)
    features[:, 0] += labels
    inputs = Inputs.of(features, features[:2], features[:2])
    penalties = np.array([1.0, 0.1])
    fitted = logistic(inputs.train, inputs.strengths, labels, penalties)
    for penalty, coefficients, intercepts in zip(penalties, *fitted, strict=True):
        reference = LogisticRegression(C=1 / (penalty * 300), class_weight="balanced", tol=1e-8).fit(inputs.train, labels)
        np.testing.assert_allclose(coefficients.T, reference.coef_, atol=0.01 * np.abs(reference.coef_).max())
        np.testing.assert_allclose(intercepts - intercepts.mean() * (classes > 2), reference.intercept_, atol=0.02)
