"""Evaluation of features by linear probes, with the folds, controls and noise ceilings that all features share."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from threadpoolctl import threadpool_limits

from wsl.data.leakage import refuse_leaks
from wsl.features.features import Features
from wsl.probes.cross_validation import CrossValidation, Finding
from wsl.probes.noise_ceiling import measure, sample_rows
from wsl.probes.probe import Measured, Probe
from wsl.probes.settings import Settings
from wsl.run import Run
from zoo_gen import Zoo
from zoo_gen.splits import Split


def cross_validation_of(children: Zoo, splits: Mapping[int, Split[Zoo]], scheme: str, settings: Settings) -> CrossValidation:
    """Returns the cross-validation over some folds of a split.

    Raises:
        InputError: a fold leaks, or a model is tested twice.
    """
    for train, val, test in splits.values():
        refuse_leaks(train=train, val=val, test=test, scheme=scheme, seen=())
    frame = children.frame
    folds = [rows_of(frame, split) for split in splits.values()]
    tested = np.flatnonzero(np.any([fold.test for fold in folds], axis=0))
    limit = settings.noise_ceiling_checkpoints
    sampled = np.intersect1d(sample_rows(frame, limit), tested) if limit > 0 else np.empty(0, dtype=np.int64)
    return CrossValidation(
        frame=frame,
        splits=folds,
        families=frame["root"].to_numpy(dtype=str) if scheme == "leave_root_out" else np.full(len(frame), "all"),
        measured=measure(children, sampled) if len(sampled) else Measured(*np.full((2, len(frame), 1), np.nan)),
        settings=settings,
    )


def rows_of(frame: pd.DataFrame, split: Split[Zoo]) -> Split[Bool[np.ndarray, "N"]]:
    """Returns which rows belong to the models of each set."""
    return Split(*(frame["model"].isin(part.frame["model"].tolist()).to_numpy() for part in split))


def tables_of(extractor: Features, runs: Mapping[int, Run], scheme: str, children: Zoo) -> list[Float[np.ndarray, "N F"]]:
    """Returns one kind of features of all checkpoints, once per fold: by the model of that fold.

    Raises:
        InputError: the features of a fold were fitted on models that it tests.
    """
    for fold, run in runs.items():
        train, val, test = children.split(scheme, fold=fold)
        refuse_leaks(train=train, val=val, test=test, scheme=scheme, seen=extractor.seen(run))
    return [extractor.extract(run, children).to_numpy(dtype=np.float64) for run in runs.values()]


def subsets(frame: pd.DataFrame) -> dict[str, Bool[np.ndarray, "N"]]:
    """Returns the rows that are evaluated together, by name: all checkpoints, and final ones where these are not all."""
    final = frame["final"].to_numpy(dtype=bool)
    every = {"all": np.full(len(final), True)}
    return every if final.all() else every | {"final": final}


def evaluate_subsets(
    folds: CrossValidation, probes: Mapping[str, Probe], tables: Sequence[Float[np.ndarray, "N F"]]
) -> dict[str, list[Finding]]:
    """Evaluates features, given once per fold, on each of `subsets`."""
    with threadpool_limits(1):  # these matrices are small: threads would wait for one another
        return {subset: folds.evaluate(probes, tables, subset=chosen) for subset, chosen in subsets(folds.frame).items()}
