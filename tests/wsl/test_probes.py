import numpy as np
import pandas as pd
import pytest

from wsl.data.leakage import refuse_leaks
from wsl.probe import cards
from wsl.probes.classification import Classification, logistic
from wsl.probes.cross_validation import CrossValidation
from wsl.probes.inputs import Inputs, Standardizer
from wsl.probes.metrics import balanced_accuracy, kendall_tau, r2
from wsl.probes.probe import Measured, Probe, Targets
from wsl.probes.regression import Regression, permute_models
from zoo_gen import InputError, Zoo
from zoo_gen.splits import Split

PENALTIES = [1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0]
MODELS, EPOCHS = 60, 6


def population(seed: int = 0) -> pd.DataFrame:
    """A frame as a zoo has it: accuracy grows with the epoch, at a pace of the model's own."""
    rng = np.random.default_rng(seed)
    model = np.arange(MODELS).repeat(EPOCHS)
    epoch = np.tile(np.arange(1, EPOCHS + 1), MODELS)
    accuracy = 1 / (1 + np.exp(1 - rng.normal(size=MODELS)[model] * epoch / EPOCHS))
    return pd.DataFrame(
        {
            "model": [f"m{i:02d}" for i in model],
            "root": [f"r{i % 3}" for i in model],
            "stage": "finetune",
            "epoch": epoch,
            "final": epoch == EPOCHS,
            "test_accuracy": accuracy,
            "optimizer": np.where(model % 2 == 0, "adamw", "sgd"),
            "weight_decay": np.where(model % 4 < 2, 0.1, 0.0),
        }
    )


def fold(number: np.ndarray, test: int) -> Split[np.ndarray]:
    val = (test + 1) % 5
    return Split(~np.isin(number % 5, [test, val]), number % 5 == val, number % 5 == test)


def measured(frame: pd.DataFrame, images: int) -> Measured:
    """Results on images of which each checkpoint gets its share right."""
    right = np.arange(images) < images * frame["test_accuracy"].fillna(0).to_numpy()[:, None]
    return Measured(loss=1.0 - right, accuracy=right.astype(float))


def numbers(frame: pd.DataFrame) -> np.ndarray:
    return frame["model"].str[1:].astype(int).to_numpy()


def scan(frame: pd.DataFrame, **changes) -> CrossValidation:
    number = numbers(frame)
    settings = {
        "splits": [fold(number, 0)],
        "families": np.full(len(frame), "all"),
        "measured": measured(frame, 360),
        "penalties": PENALTIES,
        "draws": 200,
        "n_permutations": 100,
        "seed": 0,
    }
    return CrossValidation(frame=frame, **(settings | changes))


def ask(probe, features, frame=None, **changes) -> dict[tuple, dict]:
    frame = population() if frame is None else frame
    circumstances = scan(frame, **changes)
    tables = [features] * len(circumstances.splits)
    found = circumstances.ask({"probe": probe}, tables, subset=np.full(len(frame), True))
    return {(finding.row["control"], finding.row["metric"]): finding.row for finding in found}


def accuracy_probe(**changes) -> Regression:
    card = {"column": "test_accuracy", "scale": "linear", "measured": "accuracy", "sign": 1, "trivial": False, "bounds": (0, 1)}
    return Regression(**(card | changes))


def clustered_noise(n: int = 20, seed: int = 1) -> np.ndarray:
    """Features that tell which model it is and how old, as weights do, but nothing of its accuracy."""
    rng = np.random.default_rng(seed)
    own, age = rng.normal(size=(MODELS, n)), rng.normal(size=n)
    return (own[:, None] + age * np.linspace(0, 1, EPOCHS)[:, None] + 0.1 * rng.normal(size=(MODELS, EPOCHS, n))).reshape(-1, n)


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
    assert ask(probe, planted)[None, metric]["value"] > 0.999


def test_a_planted_feature_is_found_among_many_others():
    features = np.column_stack([clustered_noise(), population()["test_accuracy"]])
    row = ask(accuracy_probe(), features)[None, "r2"]
    assert row["value"] > 0.99
    assert row["above_permuted"]


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize("column", ["test_accuracy", "epoch"])
def test_shuffled_targets_score_zero(column, scale):
    features = np.column_stack([clustered_noise(), population()[["test_accuracy", "epoch"]]])
    rows = ask(accuracy_probe(column=column, scale=scale), features)
    assert rows["permuted targets", "r2"]["value"] < 0.05
    assert rows["permuted targets", "kendall_tau"]["value"] < 0.05
    assert rows[None, "r2"]["value"] > rows["permuted targets", "r2"]["high"]


def test_a_probe_of_unrelated_features_answers_the_mean():
    rows = ask(accuracy_probe(), np.random.default_rng(0).normal(size=(MODELS * EPOCHS, 20)))
    assert rows[None, "kendall_tau"]["value"] == 0
    assert rows[None, "r2"]["value"] <= 0  # the mean of train is not quite that of test


def test_shuffling_keeps_targets_clustered_and_forgets_their_order():
    models = np.arange(50).repeat(EPOCHS)
    targets = models + np.tile(np.arange(EPOCHS), 50) / 100
    first, shuffled = permute_models(targets, models, n_permutations=2, rng=np.random.default_rng(0))
    assert (first != shuffled).any()
    np.testing.assert_array_equal(np.sort(shuffled), targets)
    blocks = shuffled.reshape(50, EPOCHS)
    assert (blocks.astype(int) == blocks[:, :1].astype(int)).all()
    assert (np.argsort(blocks % 1, axis=1) != np.arange(EPOCHS)).any()


def test_ridge_predictions_are_those_of_scikit_learn():
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    features, weights = rng.normal(size=(90, 7)), rng.normal(size=7)
    targets, models = features @ weights + 0.1 * rng.normal(size=90), np.arange(90)
    train, val, test = np.split(np.arange(90), 3)
    inputs = Inputs.of(features[train], features[val], features[test])
    answers = (Targets(targets[rows], models[rows]) for rows in (train, val))
    found = accuracy_probe().predict(inputs, *answers, penalties=[0.1])
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
    circumstances = scan(frame)
    probe, subset = {"accuracy": accuracy_probe()}, ~test
    one, other = ([f.row for f in circumstances.ask(probe, [table], subset=subset)] for table in (features, outlier))
    assert one == other


def test_unknown_targets_are_left_out_and_counted():
    frame = population()
    frame.loc[(frame["model"] == "m00") | (frame["model"] == "m05") & (frame["epoch"] == 1), "test_accuracy"] = np.nan
    row = ask(accuracy_probe(), clustered_noise(), frame)[None, "r2"]
    assert row["n_models"] == MODELS // 5 - 1
    assert row["n_checkpoints"] == (MODELS // 5 - 1) * EPOCHS - 1


@pytest.mark.parametrize("probe", [accuracy_probe(), Classification(column="optimizer", trivial=False)])
def test_a_target_that_does_not_vary_is_null_and_no_error(probe):
    frame = population().assign(test_accuracy=0.5, optimizer="adamw")
    rows = ask(probe, clustered_noise(), frame)
    assert all(row["value"] is None and row["low"] is None for row in rows.values())


def test_the_same_seed_gives_the_same_rows_and_another_one_other_intervals():
    features = np.column_stack([clustered_noise(), population()["test_accuracy"] ** 2])
    assert ask(accuracy_probe(), features) == ask(accuracy_probe(), features)
    one, other = (ask(accuracy_probe(), features, seed=seed)[None, "r2"] for seed in (0, 1))
    assert one["value"] == other["value"]
    assert one["low"] != other["low"]


def test_the_ceiling_falls_with_the_number_of_test_images():
    frame = population()
    few, many = (
        ask(accuracy_probe(), clustered_noise(), measured=measured(frame, n))[None, "r2"]["noise_ceiling"] for n in (10, 10_000)
    )
    assert few < 0.8 < 0.99 < many < 1
    nothing = Measured(*np.full((2, len(frame), 5), np.nan))
    assert ask(accuracy_probe(), clustered_noise(), measured=nothing)[None, "r2"]["noise_ceiling"] is None
    assert ask(accuracy_probe(column="epoch", measured="none"), clustered_noise())[None, "r2"]["noise_ceiling"] == 1


def test_a_label_has_its_chance_beside_it():
    row = ask(Classification(column="root", trivial=False), clustered_noise())[None, "balanced_accuracy"]
    assert row["chance"] == pytest.approx(1 / 3)
    assert row["low"] < 1 / 3 < row["high"]


def zoo_of(frame: pd.DataFrame) -> Zoo:
    return Zoo(path=None, config={}, frame=frame, everything=frame)  # type: ignore[arg-type]


def parts(**rows) -> dict[str, Zoo]:
    """A clean split by model of three families, with rows added to its sets."""
    frame = population()
    number = frame["model"].str[1:].astype(int)
    sets = {"train": frame[number % 5 > 1], "val": frame[number % 5 == 1], "test": frame[number % 5 == 0]}
    return {name: zoo_of(pd.DataFrame(pd.concat([part, rows.get(name, part[:0])]))) for name, part in sets.items()}


def test_a_clean_split_is_accepted():
    clean = parts()
    assert not {"m01", "m02"} & set(clean["test"].frame["model"])
    assert refuse_leaks(**clean, scheme="by_model", seen={"m01", "m02"}) is None  # it would raise


@pytest.mark.parametrize("name", ["train", "val"])
def test_one_checkpoint_of_a_test_model_elsewhere_is_refused_by_name(name):
    with pytest.raises(InputError, match=rf"model m00 is in {name} and in test"):
        refuse_leaks(**parts(**{name: population()[:1]}), scheme="by_model", seen=set())


def test_siblings_across_a_split_by_root_are_refused():
    with pytest.raises(InputError, match="root r0, r1, r2 is in train and in val"):
        refuse_leaks(**parts(), scheme="leave_root_out", seen=set())


def test_roots_in_a_probe_set_are_refused():
    root = population()[:1].assign(model="r0", stage="pretrain")
    with pytest.raises(InputError, match="train set of the probe holds roots"):
        refuse_leaks(**parts(train=root), scheme="by_model", seen=set())


def test_features_fitted_on_test_models_are_refused():
    with pytest.raises(InputError, match="fitted on test models of the probe \\(m05\\)"):
        refuse_leaks(**parts(), scheme="by_model", seen={"m05", "m06"})


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


def crossfit(frame: pd.DataFrame, **changes) -> CrossValidation:
    return scan(frame, splits=[fold(numbers(frame), test) for test in range(5)], **changes)


def test_pooled_folds_test_every_model_once_and_score_once():
    frame = population()
    noise = np.random.default_rng(3).normal(size=len(frame))
    features = np.column_stack([clustered_noise(), frame["test_accuracy"] + 0.05 * noise])
    found = crossfit(frame).ask({"a": accuracy_probe()}, [features] * 5, subset=np.full(len(frame), True))
    row = found[0].row
    assert row["n_models"] == MODELS
    assert row["n_checkpoints"] == len(frame)
    predictions, truth = np.full(len(frame), np.nan), frame["test_accuracy"].to_numpy()
    for split in crossfit(frame).splits:
        train, val, test = (np.flatnonzero(part) for part in split)
        models = numbers(frame)
        answers = [Targets(truth[part], models[part]) for part in (train, val)]
        inputs = Inputs.of(features[train], features[val], features[test])
        predictions[test] = accuracy_probe().predict(inputs, *answers, penalties=PENALTIES)
    assert row["value"] == pytest.approx(1 - np.sum((predictions - truth) ** 2) / np.sum((truth - truth.mean()) ** 2))


def test_folds_that_test_a_model_twice_are_refused():
    frame = population()
    with pytest.raises(InputError, match="test some models twice"):
        scan(frame, splits=[fold(numbers(frame), 0), fold(numbers(frame), 0)])


def test_the_intercepts_of_the_folds_do_not_order_the_shuffled_control():
    """A fold of good models is predicted by a low mean: without relative answers, tau would be far below zero."""
    frame = population()
    frame["test_accuracy"] = 0.1 * frame["test_accuracy"] + 0.15 * (numbers(frame) % 5)
    found = crossfit(frame).ask({"a": accuracy_probe()}, [clustered_noise()] * 5, subset=np.full(len(frame), True))
    control = {finding.row["metric"]: finding.row for finding in found if finding.row["control"]}
    assert control["kendall_tau"]["value"] <= 0.05
    assert control["r2"]["value"] <= 0.05


def test_a_label_that_train_has_not_is_no_question():
    frame = population().assign(optimizer=population()["model"].where(population()["model"] < "m05", "other"))
    found = crossfit(frame).ask(
        {"o": Classification(column="optimizer", trivial=False)}, [clustered_noise()] * 5, subset=np.full(len(frame), True)
    )
    assert [finding.row["value"] for finding in found] == [None]


def test_planted_features_score_one_under_a_cross_fit():
    probes = {"accuracy": accuracy_probe(), "optimizer": Classification(column="optimizer", trivial=False)}
    found = crossfit(population()).planted(probes, subset=np.full(MODELS * EPOCHS, True))
    assert all(f.row["value"] > 0.999 for f in found if f.row["metric"] != "kendall_tau")
    assert {f.row["control"] for f in found} == {"planted feature"}


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
