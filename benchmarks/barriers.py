"""Loss barriers between independently trained roots of a zoo, after each kind of alignment.

The barrier of a pair is the largest excess of the loss on the straight line between two models over the line between their
losses (Frankle et al., 1912.05671); the barrier in accuracy is the largest shortfall. The benchmark aligns the first model of each
pair of roots to the second and evaluates the line on the test images of their own task. Intervals are 95 % bootstraps over roots,
paired between alignments.
"""

import argparse
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy

from wsl.layout import layout_of
from wsl.layout.slots import Layout
from wsl.symmetry.alignment import align, align_by_loss
from wsl.symmetry.group import MAPPED, MOVES, PERMUTED
from wsl.symmetry.stacks import stack, unstack
from zoo_gen import Checkpoint, Zoo
from zoo_gen.evaluate import score
from zoo_gen.images import ImageSplit

Stack = dict[str, Tensor]
ORTHOGONAL = (*PERMUTED, *MAPPED)
POINTS = 11
N_BOOTSTRAP = 2000
QUARTILES, INTERVAL = (0.25, 0.5, 0.75), (0.025, 0.975)

IMAGES = 128
"""Number of labelled train images in the loss that `align_by_loss` lowers."""

STEPS, RATE = 60, 0.02
"""Steps and learning rate of `align_by_loss`."""


@dataclass(frozen=True)
class Pairs:
    """Two stacks of K roots, the model that runs them, and train images of their task."""

    a: Stack
    b: Stack
    layout: Layout
    model: nn.Module
    train: ImageSplit


@dataclass(frozen=True)
class Row:
    """A row of the table: an alignment, which returns the first stack aligned to the second, and the rows to compare it with."""

    previous: str
    align: Callable[[Pairs], Stack]
    beside: tuple[str, ...] = ()


def by_weights(*moves: str) -> Callable[[Pairs], Stack]:
    """Returns an alignment by weight matching."""
    return lambda pairs: align(pairs.a, pairs.layout, to=pairs.b, moves=moves).weights


def by_loss(*moves: str) -> Callable[[Pairs], Stack]:
    """Returns an alignment by weight matching, then by the cross-entropy of labelled train images half way between the models."""

    def run(pairs: Pairs) -> Stack:
        for module in pairs.model.modules():
            if hasattr(module, "fused_attn"):
                cast(Any, module).fused_attn = False  # has no rule for stacks
        inputs, labels = pairs.train.pixels[:IMAGES], pairs.train.labels[:IMAGES]
        logits = vmap(lambda weights: functional_call(pairs.model, weights, (inputs,)))

        def loss(weights: Mapping[str, Tensor]) -> Float[Tensor, "K"]:
            outputs = logits({name: tensor.float() for name, tensor in weights.items()})
            return cross_entropy(outputs.mT, labels.expand(len(outputs), -1), reduction="none").mean(1)

        return align_by_loss(pairs.a, pairs.layout, to=pairs.b, moves=moves, loss=loss, steps=STEPS, rate=RATE).weights

    return run


ROWS = {
    "naive": Row("naive", lambda pairs: pairs.a),
    "permutation": Row("naive", by_weights(*PERMUTED)),
    "permutation + orthogonal": Row("permutation", by_weights(*ORTHOGONAL)),
    "full": Row("permutation + orthogonal", by_weights(*MOVES)),
    "loss: permutation + orthogonal": Row("permutation", by_loss(*ORTHOGONAL)),
    "loss: full": Row("loss: permutation + orthogonal", by_loss(*MOVES), ("full",)),
}
"""The rows of the table. Descent moves no permutations, which are discrete: its first row is one step from matched permutations."""


def main() -> None:
    """Measures the zoos of the command line; writes a JSON file and prints a line for each alignment: ratios to naive barriers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zoos", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for path in args.zoos:
        results[path.name] = measure(Zoo.open(path))
        args.out.write_text(json.dumps(results, indent=1) + "\n")


def measure(zoo: Zoo) -> dict[str, Any]:
    """Measures the barriers of all pairs of supervised roots of a zoo."""
    roots = [one for one in zoo.select(stage="pretrain", final=True, status="ok") if one.factors["objective"] == "supervised"]
    images = zoo.images("pretrain")
    index = list(itertools.combinations(range(len(roots)), 2))
    weights = stack([{name: tensor.double() for name, tensor in root.state_dict().items()} for root in roots])
    a, b = ({name: tensor[torch.tensor([pair[side] for pair in index])] for name, tensor in weights.items()} for side in (0, 1))
    pairs = Pairs(a, b, layout_of(roots[0].build()), roots[0].build(), images.train)
    resamples = bootstrap_weights(len(roots), index)
    barriers: dict[str, np.ndarray] = {}
    rows: dict[str, Any] = {}
    for name, row in ROWS.items():
        barriers[name], accuracy, distance = _barriers(roots[0], row.align(pairs), pairs.b, images.test)
        naive = barriers["naive"]
        rows[name] = {
            "loss": _quantiles(barriers[name], *QUARTILES),
            "accuracy": _quantiles(accuracy, *QUARTILES),
            "distance": _quantiles(distance, *QUARTILES),
            "ratio_to_naive": round(float(barriers[name].mean() / naive.mean()), 3),
            "ratio_interval": _quantiles((resamples @ barriers[name]) / (resamples @ naive), *INTERVAL),
        }
        for step, other in {"previous": row.previous, "naive": "naive", **{one: one for one in row.beside}}.items():
            change = barriers[name] - barriers[other]
            rows[name][f"change_from_{step}"] = {
                "from": other,
                "mean": round(float(change.mean()), 4),
                "interval": _quantiles(resamples @ change, *INTERVAL),
                "ratio": round(float(change.mean() / naive.mean()), 4),
                "ratio_interval": _quantiles((resamples @ change) / (resamples @ naive), *INTERVAL),
            }
        ratio, step = f"{rows[name]['ratio_to_naive']:.3f} {rows[name]['ratio_interval']}", rows[name]["change_from_previous"]
        print(
            f"{zoo.path.name:16} {name:36} {ratio:24} {step['ratio']:+.3f} {step['ratio_interval']} from {step['from']}", flush=True
        )
    accuracy = score(roots[0].architecture, unstack({n: t.float() for n, t in weights.items()}), images.test).accuracy
    return {
        "zoo": zoo.name,
        "seed": zoo.config["seed"],
        "roots": len(roots),
        "pairs": len(index),
        "test_accuracy_of_roots": _quantiles(accuracy.numpy(), *QUARTILES),
        "alignments": rows,
    }


def bootstrap_weights(roots: int, index: Sequence[tuple[int, int]]) -> Float[np.ndarray, "samples pairs"]:
    """Resamples the roots; returns the weight of each pair of distinct roots in the mean of each bootstrap sample."""
    counts = np.random.default_rng(0).multinomial(roots, np.full(roots, 1 / roots), size=N_BOOTSTRAP)
    weights = np.stack([counts[:, i] * counts[:, j] for i, j in index], axis=1).astype(float)
    weights = weights[weights.sum(1) > 0]
    return weights / weights.sum(1, keepdims=True)


def _quantiles(values: np.ndarray, *at: float) -> list[float]:
    return [round(float(q), 4) for q in np.quantile(values, at)]


def _barriers(root: Checkpoint, a: Mapping[str, Tensor], b: Mapping[str, Tensor], images: ImageSplit) -> tuple[np.ndarray, ...]:
    """Returns the loss barriers, the accuracy barriers and the Euclidean distances of K pairs."""
    losses, accuracies = [], []
    for t in torch.linspace(0, 1, POINTS).tolist():
        between = unstack({name: torch.lerp(a[name], b[name], t).float() for name in a})
        scores = score(root.architecture, between, images)
        losses.append(scores.loss)
        accuracies.append(scores.accuracy)
    distance = sum((a[name] - b[name]).flatten(1).square().sum(1) for name in a) ** 0.5
    return excess(losses), excess([-accuracy for accuracy in accuracies]), np.asarray(distance)


def excess(values: Sequence[Tensor]) -> Float[np.ndarray, "K"]:
    """Returns how far values (K,) at equal steps along a line rise above the straight line between the first and the last."""
    along = torch.stack(list(values)).double()
    t = torch.linspace(0, 1, len(along), dtype=torch.float64).unsqueeze(1)
    return (along - (1 - t) * along[0] - t * along[-1]).amax(0).numpy()


if __name__ == "__main__":
    main()
