r"""The benchmark of compression: what is left of models that only their latents are kept of.

    python -m wsl.compression checkpoints/runs/compression/* --out docs/results/compression.json

Judged are the final checkpoints of the test models of each run, encoded and decoded, once as they are encoded and once with latents
that are refined on training images (`wsl.training.latent_optimization`):

.. math::
    \mathrm{factor} = \frac{\mathrm{weights}}{\mathrm{numbers\ that\ the\ decoder\ gets}} \qquad
    \mathrm{kept} = \frac{\mathrm{accuracy\ decoded} - \mathrm{chance}}{\mathrm{accuracy} - \mathrm{chance}}

on test images, by model. Models hardly better than chance have nothing to keep and are counted, not judged. Diversity is the median
distance between two decoded models of one root and shape over that of the originals: of weights (Euclidean; differences to the root
and weights have the same distances) and of behaviour (share of test images with another first class).
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.console import Console
from torch import Tensor

from wsl.generators.family import flatten
from wsl.generators.novelty import disagreement, euclidean
from wsl.run import Run
from wsl.training.latent_optimization import Refinement
from zoo_gen import Checkpoint
from zoo_gen.config import one_clear_error
from zoo_gen.errors import InputError
from zoo_gen.evaluate import logits
from zoo_gen.files import sha256_of, write_json
from zoo_gen.images import ImageSplit

RESULT = "compression.json"
"""What a run folder keeps of its rows, with the hash of the model that they are of."""

ABOVE_CHANCE = 0.05
"""Accuracy above chance below which a model has nothing to keep."""

REFINEMENT = Refinement(steps=40, rate=0.02, images=64, at_once=16)
"""Of the rows with refined latents: chosen on fold 0 of digits, seed 0, at 16 weights per number."""

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Pairs:
    """Models of one root and shape before and after decoding: weights (N W) and predicted classes (N images)."""

    weights: tuple[Float[np.ndarray, "N W"], Float[np.ndarray, "N W"]]
    classes: tuple[Int[np.ndarray, "N images"], Int[np.ndarray, "N images"]]
    labels: Int[np.ndarray, " images"]
    chance: float

    @classmethod
    def of(
        cls, architecture: Mapping[str, Any], before: Sequence[Weights], after: Sequence[Weights], images: ImageSplit
    ) -> "Pairs":
        """Runs models of one architecture before and after."""
        weights = np.stack([flatten(state) for state in before]), np.stack([flatten(state) for state in after])
        found = [logits(architecture, states, images.pixels).argmax(-1).numpy() for states in (before, after)]
        return cls(weights, (found[0], found[1]), images.labels.numpy(), 1 / architecture["num_classes"])

    @property
    def accuracies(self) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
        """Accuracy before and after."""
        before, after = ((classes == self.labels).mean(axis=1) for classes in self.classes)
        return before, after


def measure(families: Sequence[Pairs]) -> dict[str, Any]:
    """What decoding has kept of all families together.

    Returns:
        `kept` (median by model), `accuracy_retained_q25`, `accuracy_retained_q75`, `accuracy` and `accuracy_decoded` (means over
        all models), `models`, `judged` (those above chance), `diversity_weights` and `diversity_behaviour` (None where no two
        models can be compared).
    """
    before, after = (np.concatenate(each) for each in zip(*(family.accuracies for family in families), strict=True))
    chance = np.concatenate([np.full(len(family.classes[0]), family.chance) for family in families])
    judged = before - chance > ABOVE_CHANCE
    kept = ((after - chance) / np.where(judged, before - chance, 1))[judged]
    quantiles = np.quantile(kept, [0.25, 0.5, 0.75]) if len(kept) else [None] * 3
    return {
        "accuracy_retained": quantiles[1],
        "accuracy_retained_q25": quantiles[0],
        "accuracy_retained_q75": quantiles[2],
        "accuracy": before.mean(),
        "accuracy_decoded": after.mean(),
        "models": len(before),
        "judged": int(judged.sum()),
        "diversity_weights": _spread_ratio([family.weights for family in families], euclidean),
        "diversity_behaviour": _spread_ratio([family.classes for family in families], disagreement),
    }


def _spread_ratio(families: Sequence[tuple[np.ndarray, np.ndarray]], distance: Any) -> float | None:
    """Median distance of two models of a family after decoding over that before."""
    spreads: list[list[float]] = [[], []]
    for both in families:
        for points, found in zip(both, spreads, strict=True):
            among = distance(points, points)
            found += [float(among[i, j]) for i, j in combinations(range(len(points)), 2)]
    original = float(np.median(spreads[0])) if spreads[0] else 0.0
    return float(np.median(spreads[1])) / original if original > 0 else None


def compress(run: Run, *, refinement: Refinement | None = None) -> dict[str, Any]:
    """The row of a run: what it is, its factor (the lowest of any judged model), and what `measure` says.

    With a refinement, latents are refined before they are decoded.
    """
    finals = list(run.split.test.select(final=True, status="ok"))
    tokens, latents = zip(*run.latents(finals), strict=True)
    if refinement is not None:
        latents = refinement(run, finals, latents)
    families: dict[tuple[str, str], list[tuple[Checkpoint, Weights]]] = defaultdict(list)
    factors = []
    for checkpoint, own, latent in zip(finals, tokens, latents, strict=True):
        decoded = run.decode(own, latent, root=run.zoo.root(checkpoint).state_dict())
        families[checkpoint.root, json.dumps(checkpoint.architecture, sort_keys=True)].append((checkpoint, decoded))
        factors.append(sum(tensor.numel() for tensor in decoded.values()) / run.model.numbers(own.positions))
    images = run.zoo.images("finetune").test
    pairs = []
    for members in families.values():
        checkpoints, decoded = zip(*members, strict=True)
        pairs.append(Pairs.of(checkpoints[0].architecture, [c.state_dict() for c in checkpoints], decoded, images))
    training = {key: run.config[key] for key in ("split", "fold", "seed", "steps")}
    objective = run.config["objective"]
    return {
        "run": run.path.name,
        "zoo": run.config["zoo"]["path"].rpartition("/")[2],
        **training,
        "behaviour": "behaviour" in objective.get("terms", {}) and objective["weights"]["behaviour"] > 0,
        "refined": refinement is not None,
        "factor": min(factors),
        **measure(pairs),
    }


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of the run in a folder, measured once for each state of its model."""
    path, state = folder / RESULT, sha256_of(folder / "model.safetensors")
    if path.is_file():
        kept = json.loads(path.read_text())
        if kept.get("model") == state and "rows" in kept:
            return kept["rows"]
    run = Run.open(folder)
    rows = [compress(run), compress(run, refinement=REFINEMENT)]
    write_json(path, {"model": state, "rows": rows})
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown, by factor."""
    heads = (
        "run",
        "behaviour",
        "refined",
        "factor",
        "accuracy_retained (quartiles)",
        "accuracy decoded, before",
        "diversity of weights, of behaviour",
    )
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in sorted(rows, key=lambda row: (row["factor"], row["behaviour"], row["refined"])):
        cells = (
            row["run"],
            *("yes" if row[key] else "no" for key in ("behaviour", "refined")),
            f"{row['factor']:.2f}",
            f"{_number(row['accuracy_retained'])} ({_number(row['accuracy_retained_q25'])}, {_number(row['accuracy_retained_q75'])})",
            f"{row['accuracy_decoded']:.3f}, {row['accuracy']:.3f}",
            f"{_number(row['diversity_weights'])}, {_number(row['diversity_behaviour'])}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def main(arguments: list[str] | None = None) -> None:
    """Measures the runs that are named and writes their rows."""
    parser = argparse.ArgumentParser(prog="python -m wsl.compression", description="Measure what decoded models keep.")
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs; others are left out")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the rows; a table (.md) comes beside it")
    options = parser.parse_args(arguments)
    with one_clear_error():
        torch.set_num_threads(1)
        finished = [folder for folder in options.runs if (folder / "model.safetensors").is_file()]
        if not finished:
            raise InputError("no finished run among the folders; train some with runs/compression.sh")
        rows = [row for folder in finished for row in rows_of(folder)]
        write_json(options.out, rows)
        options.out.with_suffix(".md").write_text(table(rows))
        Console().print(table(rows), soft_wrap=True, markup=False)


if __name__ == "__main__":
    main()
