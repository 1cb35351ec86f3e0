"""Folds that are pooled: every model is tested once, and the score is computed once."""

import numpy as np
import pandas as pd
import pytest

from tests.wsl.populations import (
    EPOCHS,
    MODELS,
    PENALTIES,
    accuracy_probe,
    clustered_noise,
    cross_validation,
    five_folds,
    fold,
    numbers,
    population,
)
from wsl.probes.classification import Classification
from wsl.probes.evaluate import subsets
from wsl.probes.inputs import Inputs
from wsl.probes.probe import Targets
from zoo_gen import InputError


def test_pooled_folds_test_every_model_once_and_score_once():
    frame = population()
    noise = np.random.default_rng(3).normal(size=len(frame))
    features = np.column_stack([clustered_noise(), frame["test_accuracy"] + 0.05 * noise])
    found = five_folds(frame).evaluate({"a": accuracy_probe()}, [features] * 5, subset=np.full(len(frame), True))
    row = found[0].row
    assert row["n_models"] == MODELS
    assert row["n_checkpoints"] == len(frame)
    predictions, truth = np.full(len(frame), np.nan), frame["test_accuracy"].to_numpy()
    for split in five_folds(frame).splits:
        train, val, test = (np.flatnonzero(part) for part in split)
        models = numbers(frame)
        known = [Targets(truth[part], models[part]) for part in (train, val)]
        inputs = Inputs.of(features[train], features[val], features[test])
        predictions[test] = accuracy_probe().fit(inputs, *known, penalties=PENALTIES).predict(inputs.test)
    assert row["value"] == pytest.approx(1 - np.sum((predictions - truth) ** 2) / np.sum((truth - truth.mean()) ** 2))


def test_folds_that_test_a_model_twice_are_refused():
    frame = population()
    with pytest.raises(InputError, match="test some models twice"):
        cross_validation(frame, splits=[fold(numbers(frame), 0), fold(numbers(frame), 0)])


def test_the_intercepts_of_the_folds_do_not_order_the_permuted_control():
    """A fold of good models is predicted by a low mean: without relative predictions, tau would be far below zero."""
    frame = population()
    frame["test_accuracy"] = 0.1 * frame["test_accuracy"] + 0.15 * (numbers(frame) % 5)
    found = five_folds(frame).evaluate({"a": accuracy_probe()}, [clustered_noise()] * 5, subset=np.full(len(frame), True))
    control = {finding.row["metric"]: finding.row for finding in found if finding.row["control"]}
    assert control["kendall_tau"]["value"] <= 0.05
    assert control["r2"]["value"] <= 0.05


def test_a_label_that_train_has_not_has_no_score():
    frame = population().assign(optimizer=population()["model"].where(population()["model"] < "m05", "other"))
    found = five_folds(frame).evaluate(
        {"o": Classification(column="optimizer", trivial=False)}, [clustered_noise()] * 5, subset=np.full(len(frame), True)
    )
    assert [finding.row["value"] for finding in found] == [None]


def test_planted_features_score_one_under_a_cross_fit():
    probes = {"accuracy": accuracy_probe(), "optimizer": Classification(column="optimizer", trivial=False)}
    found = five_folds(population()).planted(probes, subset=np.full(MODELS * EPOCHS, True))
    assert all(f.row["value"] > 0.999 for f in found if f.row["metric"] != "kendall_tau")
    assert {f.row["control"] for f in found} == {"planted feature"}


def test_final_checkpoints_are_evaluated_apart_only_where_there_are_others():
    one_each, several = (pd.DataFrame({"final": final}) for final in ([True, True], [False, True]))
    assert list(subsets(one_each)) == ["all"]
    assert {name: rows.tolist() for name, rows in subsets(several).items()} == {"all": [True, True], "final": [False, True]}
