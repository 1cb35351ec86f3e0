"""Checkpoints of a made-up zoo as rows of a frame, features of them, and a cross-validation over them."""

import numpy as np
import pandas as pd

from wsl.probes.cross_validation import CrossValidation
from wsl.probes.probe import Measured
from wsl.probes.regression import Regression
from wsl.probes.settings import Settings
from zoo_gen.splits import Split

PENALTIES = [1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0]
MODELS, EPOCHS = 60, 6


def population(seed: int = 0) -> pd.DataFrame:
    """A frame as a zoo has it: accuracy grows with the epoch, at a speed of the model's own."""
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
    """Results on images of which each checkpoint classifies its test accuracy correctly."""
    right = np.arange(images) < images * frame["test_accuracy"].fillna(0).to_numpy()[:, None]
    return Measured(loss=1.0 - right, accuracy=right.astype(float))


def numbers(frame: pd.DataFrame) -> np.ndarray:
    return frame["model"].str[1:].astype(int).to_numpy()


def cross_validation(frame: pd.DataFrame, **changes) -> CrossValidation:
    number = numbers(frame)
    counts = {"n_bootstrap": 200, "n_permutations": 100, "noise_ceiling_checkpoints": 0, "seed": 0}
    counts |= {name: changes.pop(name) for name in counts.keys() & changes.keys()}
    parts = {
        "splits": [fold(number, 0)],
        "families": np.full(len(frame), "all"),
        "measured": measured(frame, 360),
        "settings": Settings(targets=[], features=[], penalties=PENALTIES, **counts),
    }
    return CrossValidation(frame=frame, **(parts | changes))


def evaluate(probe, features, frame=None, **changes) -> dict[tuple, dict]:
    frame = population() if frame is None else frame
    validation = cross_validation(frame, **changes)
    tables = [features] * len(validation.splits)
    found = validation.evaluate({"probe": probe}, tables, subset=np.full(len(frame), True))
    return {(finding.row["control"], finding.row["metric"]): finding.row for finding in found}


def accuracy_probe(**changes) -> Regression:
    card = {"column": "test_accuracy", "scale": "linear", "measured": "accuracy", "sign": 1, "trivial": False, "bounds": (0, 1)}
    return Regression(**(card | changes))


def clustered_noise(n: int = 20, seed: int = 1) -> np.ndarray:
    """Features that tell which model it is and how old, as weights do, but nothing of its accuracy."""
    rng = np.random.default_rng(seed)
    own, age = rng.normal(size=(MODELS, n)), rng.normal(size=n)
    return (own[:, None] + age * np.linspace(0, 1, EPOCHS)[:, None] + 0.1 * rng.normal(size=(MODELS, EPOCHS, n))).reshape(-1, n)


def five_folds(frame: pd.DataFrame, **changes) -> CrossValidation:
    return cross_validation(frame, splits=[fold(numbers(frame), test) for test in range(5)], **changes)
