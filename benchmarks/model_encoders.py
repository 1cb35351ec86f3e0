"""Ideas for the model encoder, asked in minutes: python -m benchmarks.model_encoders ZOO [FURTHER ...] [--set SETTING ...].

Trains the model encoder of each fold in this process, as `python -m wsl.train` would, and puts the probes of the protocol to its
latents and to a line on the invariants that it reads. The first zoo is asked about; the train models of the further ones are
learned from as well, or alone (`--pretrained`). Settings are those of `wsl.train`, such as `model_encoder.encoder.headings=0`.
Prints a line for each question; the last line is JSON. Quick means: no controls, no other baselines, one seed. To develop with, not
to quote.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from wsl.data.invariants import invariants_of
from wsl.data.leakage import refuse_seen_images, refuse_shared
from wsl.probe import ask, cards, probed, survey_of
from wsl.probes.comparison import compare
from wsl.probes.cross_validation import Finding
from wsl.property_prediction import PropertyPredictionConfig
from wsl.train import TrainConfig
from wsl.training.pretraining import ModelLatents
from zoo_gen import Zoo
from zoo_gen.blueprint import FOLDS
from zoo_gen.config import compose, instantiate

TARGETS = ("test_accuracy", "test_loss", "epoch", "accuracy_gap", "loss_gap")


def main() -> None:
    """Trains, asks and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zoos", nargs="+", type=Path, help="the zoo that is asked about, and further ones to learn from")
    parser.add_argument("--split", choices=["by_model", "leave_root_out"], default="leave_root_out")
    parser.add_argument("--pretrained", action="store_true", help="learn from the further zoos alone, once for all folds")
    parser.add_argument("--seed", type=int, default=0, help="of the encoder")
    parser.add_argument("--set", nargs="+", default=[], metavar="SETTING", help="of wsl.train: model_encoder...=...")
    parser.add_argument("--penalties", nargs="+", type=float, help="that val chooses from; by default those of the benchmark")
    parser.add_argument("--save", type=Path, help="a .npy file for the latents (folds, checkpoints, numbers)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    card = instantiate(TrainConfig(**compose("train", args.set)).model_encoder)
    zoos = [Zoo.open(path) for path in args.zoos]
    if args.pretrained and len(zoos) < 2:
        parser.error("--pretrained learns from further zoos: name at least one")
    for further in zoos[1:]:
        refuse_shared(further, zoos[0], advice="name another one")
        refuse_seen_images(further, zoos[0])
    latents = pretrain(card, zoos, args.split, args.seed) if args.pretrained else train(card, zoos, args.split, args.seed)
    if args.save:
        np.save(args.save, np.stack(latents))
    rows = question(zoos[0], args.split, latents, args.penalties)
    for row in rows:
        print(
            f"{row['target']:14} {row['subset']:6} embedding {row['value']:6.3f}  line {row['value'] - row['difference']:6.3f}  "
            f"{row['difference']:+.3f} [{row['difference_low']:+.3f}, {row['difference_high']:+.3f}]  ceiling {row['ceiling']:.2f}"
        )
    print(json.dumps({f"{row['target']}/{row['subset']}": round(row["value"], 4) for row in rows}))


def train(card: ModelLatents, zoos: Sequence[Zoo], split: str, seed: int) -> list[np.ndarray]:
    """Latents of all checkpoints that are asked about (N F), by the encoder of each fold."""
    children = probed(zoos[0])
    table = invariants_of(children)
    folds = children.frame["root"].nunique() if split == "leave_root_out" else FOLDS
    quiet, latents = Console(quiet=True), []
    further = [(zoo, zoo.split("leave_root_out", fold=0)) for zoo in zoos[1:]]
    for fold in track(range(folds), "folds", console=Console(stderr=True), transient=True):
        encoder, _ = card.fit(
            [(zoos[0], zoos[0].split(split, fold=fold)), *further], seed=seed, console=quiet, device=torch.device("cpu")
        )
        values = table.reindex(columns=encoder.columns).to_numpy(np.float64, copy=True)
        with torch.no_grad():
            latents.append(encoder(torch.from_numpy(values)).numpy())
    return latents


def pretrain(card: ModelLatents, zoos: Sequence[Zoo], split: str, seed: int) -> list[np.ndarray]:
    """Latents of all checkpoints that are asked about (N F), by one encoder that has learned from the further zoos."""
    asked, *further = zoos
    parts = [(zoo, zoo.split("leave_root_out", fold=0)) for zoo in further]
    encoder, found = card.fit(parts, seed=seed, console=Console(stderr=True), device=torch.device("cpu"))
    print(json.dumps(found))
    children = probed(asked)
    values = invariants_of(children).reindex(columns=encoder.columns).to_numpy(np.float64, copy=True)
    with torch.no_grad():
        latents = encoder(torch.from_numpy(values)).numpy()
    return [latents] * (children.frame["root"].nunique() if split == "leave_root_out" else FOLDS)


def question(zoo: Zoo, split: str, latents: Sequence[np.ndarray], penalties: Sequence[float] | None) -> list[dict[str, Any]]:
    """The rows of the embedding, with paired differences to a line on the invariants."""
    children = probed(zoo)
    settings = PropertyPredictionConfig(**compose("property_prediction", ["runs=none", "shuffles=0"]))
    settings.penalties = list(penalties or settings.penalties)
    splits = {fold: children.split(split, fold=fold) for fold in range(len(latents))}
    survey = survey_of(children, splits, split, settings)
    line = [invariants_of(children).to_numpy(np.float64)] * len(latents)
    found: dict[tuple[str, int | None, str], list[Finding]] = {}
    for name, tables in (("embedding", latents), ("line", line)):
        for subset, finding in ask(survey, cards("probe", TARGETS), tables):
            finding.row["given"] = False
            found.setdefault((name, None, subset), []).append(finding)
    rows = compare(found, {"embedding": "embedding", "line": "baseline"})
    return [row for row in rows if row["features"] == "embedding" and row["metric"] == "r2" and "difference" in row]


if __name__ == "__main__":
    main()
