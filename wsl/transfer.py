"""Transfer between zoos: `python -m wsl.transfer run_zoo=digits runs=<folder> zoo=<another zoo>`.

A representation that was trained on one zoo is probed on another, of other widths, depths or images. The folds are those of the
other zoo; the run of fold n answers for its fold n.

- Some or all models of the other zoo have labels: as in `wsl.few_labels`. `hyperrep` reads the other zoo as it reads its own, and
  `hyperrep rescaled` after its inputs have been put on the scales of the other zoo's train models, which needs no label.
- No model of the other zoo has labels (`labelled: 0`): the probes, too, are fitted on the first zoo. Features are carried over by
  the names of their columns (what only one zoo has is not read); `rescaled` ones on the scales of the other zoo's train models.
"""

import copy
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from rich.console import Console

from wsl.data.invariants import invariants_of
from wsl.features.embedding import Embedding
from wsl.features.features import Features, Kind, train_models
from wsl.few_labels import SCHEME, FewLabelsConfig, curves, runs_by_model
from wsl.probe import ask, cards, cross_validation_of, probed, rows_of
from wsl.probes.comparison import compare, marked
from wsl.probes.cross_validation import CrossValidation, Finding
from wsl.probes.inputs import Standardizer
from wsl.probes.probe import Measured
from wsl.property_prediction import find_pretrained, variants
from wsl.reporting.label_curves import write_curves
from wsl.run import Run
from zoo_gen import Zoo
from zoo_gen.blueprint import FOLDS
from zoo_gen.config import command
from zoo_gen.errors import InputError
from zoo_gen.splits import Split
from zoo_gen.zoo import zoo_folder

Runs = Mapping[int, Mapping[int, Run]]
"""Seed -> fold -> run."""


@dataclass
class TransferConfig(FewLabelsConfig):
    """The values of configs/transfer.yaml."""

    run_zoo: str
    carried: list[str]


@command("transfer", TransferConfig)
def main(config: TransferConfig) -> None:
    """Writes the rows, the table and the figure."""
    console = Console()
    first, other = (Zoo.open(zoo_folder(path)) for path in (config.run_zoo, config.zoo))
    rows = transfer(first, other, runs_by_model(Path(config.runs), first), config, console)
    names = [f"{zoo.path.name} seed={zoo.seed}" for zoo in (first, other)]
    write_curves(rows, Path(config.out), title=f"Transfer from {names[0]} to {names[1]}", command="wsl.transfer")
    console.print(f"wrote {config.out}", soft_wrap=True)


def transfer(first: Zoo, other: Zoo, by_seed: Runs, config: TransferConfig, console: Console) -> list[dict[str, Any]]:
    """Asks without labels of the other zoo, then by a few labels and by all.

    Raises:
        InputError: the zoos share a model, or a run has no model encoder.
    """
    for runs in by_seed.values():
        for run in runs.values():
            if run.model_encoder is None:
                raise InputError(f"run {run.path} has no model encoder, which reads models of other shapes; train one that has")
    there = {seed: {fold: run.transferred(other) for fold, run in runs.items()} for seed, runs in by_seed.items()}
    extractors = cards("features", config.features)
    for name in [name for name, extractor in extractors.items() if isinstance(extractor, Embedding)]:
        extractors[f"{name} rescaled"] = Rescaled()
    pretrained = {} if config.pretrained is None else find_pretrained(Path(config.pretrained), other)
    labelled = curves(probed(other), there, extractors, config, console, pretrained=pretrained)
    return without_labels(probed(first), probed(other), by_seed, there, config, console) + labelled


class Rescaled(Features):
    """The embedding by an encoder whose inputs have been put on the scales of the train models of the zoo that is asked."""

    kind: Kind = "embedding"

    def seen(self, run: Run) -> frozenset[str]:
        """Returns the train models that the scales are of."""
        return train_models(run)

    def extract(self, run: Run, checkpoints: Zoo) -> pd.DataFrame:
        """Returns the embedding of each checkpoint (N F); see `Features.extract`."""
        assert run.model_encoder is not None
        encoder = copy.deepcopy(run.model_encoder)
        table = invariants_of(checkpoints).reindex(columns=encoder.columns).to_numpy(dtype=np.float64, copy=True)
        values = torch.from_numpy(table)
        encoder.fit_scales(values[torch.from_numpy(_train_rows(run, checkpoints))])
        with torch.no_grad():
            return pd.DataFrame(encoder(values).numpy()).rename(columns="latent/{}".format)


def without_labels(
    first: Zoo, other: Zoo, here: Runs, there: Runs, config: TransferConfig, console: Console
) -> list[dict[str, Any]]:
    """Asks the other zoo by probes of the first one: no model of the other has labels.

    Args:
        first: fine-tuned checkpoints of the zoo that the runs were trained on; train and val models of a run's fold fit its probes.
        other: those that are asked about, the test models of each fold by the run of that fold.
        here: the runs on the first zoo.
        there: the runs on the other.
        config: targets and probes.
        console: where progress is shown.
    """
    probes = cards("probe", config.targets)
    survey = joint_survey(first, other, list(max(here.values(), key=len)), config)
    extractors = cards("features", config.carried)
    found: dict[tuple[str, int | None, str], list[Finding]] = defaultdict(list)
    kinds = {}
    for name, extractor, seed, by_fold in variants(extractors, here):
        runs = there[seed if seed is not None else next(iter(there))]
        with console.status(f"without labels: {name}" + ("" if seed is None else f", seed {seed}")):
            carried = [carry(extractor, run, runs[fold], first, other) for fold, run in by_fold.items()]
            for label, tables in zip((name, f"{name} rescaled"), zip(*carried, strict=True), strict=True):
                kinds[label] = extractor.kind
                for subset, finding in ask(survey, probes, tables):
                    found[label, seed, subset].append(marked(finding, extractor.reads, probes))
    folds = len(survey.splits)
    about = {"split": SCHEME, "fold": None, "folds": folds, "smoke_test": folds < FOLDS, "labelled": 0, "selections": 1}
    return [about | row for row in compare(found, kinds)]


def joint_survey(first: Zoo, other: Zoo, folds: list[int], config: TransferConfig) -> CrossValidation:
    """Returns the survey of both zoos' checkpoints, one below the other: fitted on the first and tested on the other.

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
    return CrossValidation(
        frame=frame,
        splits=splits,
        families=np.full(len(frame), "all"),
        measured=measured,
        penalties=config.penalties,
        n_bootstrap=config.n_bootstrap,
        n_permutations=config.n_permutations,
        seed=config.seed,
    )


def carry(extractor: Features, here: Run, there: Run, first: Zoo, other: Zoo) -> tuple[Float[np.ndarray, "N F"], ...]:
    """Returns features of both zoos' checkpoints, one below the other, in the columns of the first: as they are, and rescaled."""
    ours = extractor.extract(here, first)
    known, columns = ours.to_numpy(dtype=np.float64), ours.columns
    as_they_are = extractor.extract(there, other).reindex(columns=columns).to_numpy(dtype=np.float64)
    reader = Rescaled() if isinstance(extractor, Embedding) else extractor
    table = reader.extract(there, other).reindex(columns=columns).to_numpy(dtype=np.float64)
    own = Standardizer.fit(known[_train_rows(here, first)])
    their = Standardizer.fit(table[_train_rows(there, other)])
    rescaled = own.mean + their(table) * np.where(np.isfinite(own.scale), own.scale, 0)
    return np.concatenate([known, as_they_are]), np.concatenate([known, rescaled])


def _train_rows(run: Run, checkpoints: Zoo) -> Bool[np.ndarray, "N"]:
    return checkpoints.frame["model"].isin(list(train_models(run))).to_numpy(copy=True)


if __name__ == "__main__":
    main()
