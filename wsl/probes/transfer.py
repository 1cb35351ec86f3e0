"""Transfer between zoos: a representation that was trained on one zoo is probed on another, of other widths, depths or images.

The folds are those of the other zoo; the run of fold n serves its fold n.

- Some or all models of the other zoo have labels: as in `wsl.probes.label_efficiency`. Rows `<model>` embed the other zoo as its
  own. Rows `<model> rescaled` embed inputs that are standardised by the other zoo's train models, which needs no label.
- No model of the other zoo has labels (`labelled: 0`): the probes, too, are fitted on the first zoo. Features are carried over by
  the names of their columns; columns of one zoo alone are not read. Rescaled ones have the scales of the other's train models.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from rich.console import Console

from wsl.features.embedding import Rescaled
from wsl.features.features import Features
from wsl.probes.comparison import compare, marked
from wsl.probes.cross_validation import CrossValidation
from wsl.probes.evaluate import cross_validation_of, evaluate_subsets, rows_of
from wsl.probes.fold_runs import SCHEME, ByModel, all_folds, variants
from wsl.probes.inputs import Standardizer
from wsl.probes.probe import Measured
from wsl.probes.settings import TransferConfig
from wsl.run import Run
from zoo_gen import Zoo
from zoo_gen.blueprint import FOLDS
from zoo_gen.config import cards
from zoo_gen.splits import Split


def transferred(by_model: ByModel, other: Zoo) -> ByModel:
    """Returns runs as they see another zoo. Raises `InputError` if the zoos share a model."""
    return {
        model: {seed: {fold: run.transferred(other) for fold, run in runs.items()} for seed, runs in seeds.items()}
        for model, seeds in by_model.items()
    }


def without_labels(
    first: Zoo, other: Zoo, here: ByModel, there: ByModel, config: TransferConfig, console: Console
) -> list[dict[str, Any]]:
    """Evaluates probes of the first zoo on the other: no model of the other has labels.

    Both zoos are fine-tuned checkpoints, and the runs were trained on the first: `here` they are on it, `there` on the other. Train
    and val models of a run's fold fit its probes, and test models of the other zoo in that fold are predicted.
    """
    probes = cards("probe", config.targets)
    validation = joint_validation(first, other, all_folds(here), config)
    extractors = cards("features", config.carried)
    moved = {run.path: run for seeds in there.values() for by_fold in seeds.values() for run in by_fold.values()}
    found, kinds = {}, {}
    for name, extractor, seed, by_fold in variants(extractors, here, {}):
        with console.status(f"without labels: {name}" + ("" if seed is None else f", seed {seed}")):
            carried = [carry(extractor, run, moved[run.path], first, other) for run in by_fold.values()]
            for label, tables in zip((name, f"{name} rescaled"), zip(*carried, strict=True), strict=True):
                kinds[label] = extractor.kind
                for subset, findings in evaluate_subsets(validation, probes, tables).items():
                    found[label, seed, subset] = marked(findings, extractor.reads, probes)
    folds = len(validation.splits)
    about = {"split": SCHEME, "fold": None, "folds": folds, "smoke_test": folds < FOLDS, "labelled": 0, "selections": 1}
    return [about | row for row in compare(found, kinds)]


def joint_validation(first: Zoo, other: Zoo, folds: list[int], config: TransferConfig) -> CrossValidation:
    """Returns the validation of both zoos' checkpoints, one below the other: fitted on the first and tested on the other.

    Models of the two may have the same names, so those of the other get new ones.
    """
    theirs = cross_validation_of(other, {fold: other.split(SCHEME, fold=fold) for fold in folds}, SCHEME, config)
    frame = pd.concat([first.frame, theirs.frame.assign(model="other " + theirs.frame["model"])], ignore_index=True)
    splits = []
    for fold, split in zip(folds, theirs.splits, strict=True):
        ours = rows_of(first.frame, first.split(SCHEME, fold=fold))
        train, val = (np.concatenate([part, np.zeros_like(split.test)]) for part in (ours.train, ours.val))
        splits.append(Split(train, val, np.concatenate([np.zeros_like(ours.test), split.test])))
    unknown = np.full((len(first), theirs.measured.loss.shape[1]), np.nan)
    measured = Measured(*(np.concatenate([unknown, part]) for part in (theirs.measured.loss, theirs.measured.accuracy)))
    return replace(theirs, frame=frame, splits=splits, families=np.full(len(frame), "all"), measured=measured)


def carry(extractor: Features, here: Run, there: Run, first: Zoo, other: Zoo) -> tuple[Float[np.ndarray, "N F"], ...]:
    """Returns features of both zoos' checkpoints, one below the other, in the columns of the first: as they are, and rescaled."""
    ours = extractor.extract(here, first)
    known, columns = ours.to_numpy(dtype=np.float64), ours.columns
    as_they_are = extractor.extract(there, other).reindex(columns=columns).to_numpy(dtype=np.float64)
    rescaled = Rescaled() if extractor.kind == "embedding" else extractor
    table = rescaled.extract(there, other).reindex(columns=columns).to_numpy(dtype=np.float64)
    own = Standardizer.fit(known[rows_of(first.frame, here.split).train])
    their = Standardizer.fit(table[rows_of(other.frame, there.split).train])
    carried = own.mean + their(table) * np.where(np.isfinite(own.scale), own.scale, 0)
    return np.concatenate([known, as_they_are]), np.concatenate([known, carried])
