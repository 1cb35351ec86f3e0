"""Interpolation barriers between independently trained roots of a zoo, after each kind of alignment.

The barrier of a pair is the largest excess of the loss along the straight line between two models over the line between their
losses (Frankle et al., 1912.05671); in accuracy, the largest shortfall. Measured on the test images of the roots' own task, for all
pairs, each aligned one way; intervals are 95 % bootstraps over roots, paired between alignments.
"""

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.alignments import IDEAS, ROWS, Pairs
from wsl.layout import layout_of
from wsl.symmetry.null_directions import stack, unstack
from zoo_gen import Checkpoint, Zoo
from zoo_gen.evaluate import score
from zoo_gen.images import ImageSplit

POINTS = 11
DRAWS = 2000


def main() -> None:
    """Measures the zoos of the command line; writes a JSON file and prints a line for each alignment: ratios to naive barriers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zoos", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    known = [*ROWS, *IDEAS]
    about = f"and the rows they are compared to: {', '.join(map(repr, known))}"
    parser.add_argument("--alignments", nargs="+", choices=known, metavar="NAME", default=list(ROWS), help=about)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for path in args.zoos:
        results[path.name] = measure(Zoo.open(path), args.alignments)
        args.out.write_text(json.dumps(results, indent=1) + "\n")


def measure(zoo: Zoo, alignments: Sequence[str]) -> dict[str, Any]:
    """Barriers of all pairs of supervised roots of a zoo, by some alignments and those that they are a step from."""
    ways = ROWS | IDEAS
    chosen = {"naive", *alignments}
    while more := {other for name in chosen for other in (ways[name].previous, *ways[name].beside)} - chosen:
        chosen |= more
    roots = [one for one in zoo.select(stage="pretrain", final=True, status="ok") if one.factors["objective"] == "supervised"]
    images = zoo.images("pretrain")
    index = list(itertools.combinations(range(len(roots)), 2))
    weights = stack([{name: tensor.double() for name, tensor in root.state_dict().items()} for root in roots])
    a, b = ({name: tensor[torch.tensor([pair[side] for pair in index])] for name, tensor in weights.items()} for side in (0, 1))
    pairs = Pairs(a, b, layout_of(roots[0].build()), roots[0].build(), images.train)
    shares = _shares(len(roots), index)
    barriers: dict[str, np.ndarray] = {}
    rows: dict[str, Any] = {}
    for name in (name for name in ways if name in chosen):
        barriers[name], accuracy, distance = _barriers(roots[0], *ways[name].align(pairs), images.test)
        naive = barriers["naive"]
        rows[name] = {
            "loss": _quartiles(barriers[name]),
            "accuracy": _quartiles(accuracy),
            "distance": _quartiles(distance),
            "ratio_to_naive": round(float(barriers[name].mean() / naive.mean()), 3),
            "ratio_interval": _interval((shares @ barriers[name]) / (shares @ naive)),
        }
        for step, other in {"previous": ways[name].previous, "naive": "naive", **{one: one for one in ways[name].beside}}.items():
            change = barriers[name] - barriers[other]
            rows[name][f"change_from_{step}"] = {
                "from": other,
                "mean": round(float(change.mean()), 4),
                "interval": _interval(shares @ change),
                "ratio": round(float(change.mean() / naive.mean()), 4),
                "ratio_interval": _interval((shares @ change) / (shares @ naive)),
            }
        _print(zoo.path.name, name, rows[name])
    accuracy = score(roots[0].architecture, unstack({n: t.float() for n, t in weights.items()}), images.test).accuracy
    return {
        "zoo": zoo.name,
        "seed": zoo.config["seed"],
        "roots": len(roots),
        "pairs": len(index),
        "test_accuracy_of_roots": _quartiles(accuracy.numpy()),
        "alignments": rows,
    }


def _print(zoo: str, name: str, row: Mapping[str, Any]) -> None:
    step = row["change_from_previous"]
    ratio = f"{row['ratio_to_naive']:.3f} {row['ratio_interval']}"
    print(f"{zoo:16} {name:36} {ratio:24} {step['ratio']:+.3f} {step['ratio_interval']} from {step['from']}", flush=True)


def _shares(roots: int, index: Sequence[tuple[int, int]]) -> Float[np.ndarray, "draws pairs"]:
    """Bootstraps the roots; returns the share of each pair of distinct roots in the mean of each draw."""
    counts = np.random.default_rng(0).multinomial(roots, np.full(roots, 1 / roots), size=DRAWS)
    shares = np.stack([counts[:, i] * counts[:, j] for i, j in index], axis=1).astype(float)
    shares = shares[shares.sum(1) > 0]
    return shares / shares.sum(1, keepdims=True)


def _interval(draws: np.ndarray) -> list[float]:
    return [round(float(q), 4) for q in np.quantile(draws, [0.025, 0.975])]


def _barriers(root: Checkpoint, a: Mapping[str, Tensor], b: Mapping[str, Tensor], images: ImageSplit) -> tuple[np.ndarray, ...]:
    """Loss and accuracy barriers, and the Euclidean distance, of K pairs."""
    losses, accuracies = [], []
    for t in torch.linspace(0, 1, POINTS).tolist():
        between = unstack({name: torch.lerp(a[name], b[name], t).float() for name in a})
        scores = score(root.architecture, between, images)
        losses.append(scores.loss)
        accuracies.append(scores.accuracy)
    distance = sum((a[name] - b[name]).flatten(1).square().sum(1) for name in a) ** 0.5
    return _excess(losses), _excess([-accuracy for accuracy in accuracies]), np.asarray(distance)


def _excess(values: Sequence[Tensor]) -> np.ndarray:
    along = torch.stack(list(values)).double()
    t = torch.linspace(0, 1, len(along), dtype=torch.float64).unsqueeze(1)
    return (along - (1 - t) * along[0] - t * along[-1]).amax(0).numpy()


def _quartiles(values: np.ndarray) -> list[float]:
    return [round(float(q), 4) for q in np.quantile(values, [0.25, 0.5, 0.75])]


if __name__ == "__main__":
    main()
