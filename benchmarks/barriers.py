"""Interpolation barriers between independently trained roots of a zoo, after each kind of alignment.

The barrier of a pair is the largest excess of the loss along the straight line between two models over the line between their
losses (Frankle et al., 1912.05671); in accuracy, the largest shortfall. Measured on the test images of the roots' own task, for all
pairs, each aligned one way; intervals are 95 % bootstraps over roots, paired between alignments.
"""

import argparse
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy

from wsl.align import align, align_by_activations, align_by_loss
from wsl.fold import stack, unstack
from wsl.layout import Layout, layout_of
from wsl.symmetry import MOVES, PERMUTED
from zoo_gen import Checkpoint, Zoo
from zoo_gen.evaluate import score
from zoo_gen.images import ImageSplit

POINTS = 11
DRAWS = 2000
ORTHOGONAL = (*PERMUTED, "qk", "vo")
ALIGNMENTS = (
    "naive",
    "permutation",
    "permutation + orthogonal",
    "full",
    "activations: permutation",
    "activations: full",
    "loss: permutation + orthogonal",
    "loss: full",
)
IMAGES = 128
"""Train images that activations and losses are taken on."""

STEPS, RATE = 60, 0.02
"""Of the descent on the loss."""


def main() -> None:
    """Measures the zoos of the command line; writes a JSON file and prints a line for each alignment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zoos", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = {path.name: measure(Zoo.open(path)) for path in args.zoos}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    for name, result in results.items():
        for alignment, row in result["alignments"].items():
            print(f"{name:24} {alignment:26} loss {row['loss']} accuracy {row['accuracy']} ratio {row['ratio_to_naive']}")


def measure(zoo: Zoo) -> dict[str, Any]:
    """Barriers of all pairs of supervised roots of a zoo."""
    roots = [one for one in zoo.select(stage="pretrain", final=True, status="ok") if one.factors["objective"] == "supervised"]
    images = zoo.images("pretrain")
    pairs = list(itertools.combinations(range(len(roots)), 2))
    weights = stack([{name: tensor.double() for name, tensor in root.state_dict().items()} for root in roots])
    layout = layout_of(roots[0].build())
    a, b = ({name: tensor[torch.tensor([pair[side] for pair in pairs])] for name, tensor in weights.items()} for side in (0, 1))
    barriers = {
        name: _barriers(roots[0], _aligned(name, a, b, layout, roots[0], images.train), b, images.test) for name in ALIGNMENTS
    }
    rng = np.random.default_rng(0)
    counts = rng.multinomial(len(roots), np.full(len(roots), 1 / len(roots)), size=DRAWS)
    shares = np.stack([counts[:, i] * counts[:, j] for i, j in pairs], axis=1).astype(float)  # pairs of distinct roots
    shares = shares[shares.sum(1) > 0]
    shares /= shares.sum(1, keepdims=True)
    rows: dict[str, Any] = {}
    for name, (loss, accuracy, distance) in barriers.items():
        before = {
            "permutation": "naive",
            "permutation + orthogonal": "permutation",
            "full": "permutation + orthogonal",
            "loss: full": "full",
        }
        steps = {"previous": before.get(name, "naive"), "naive": "naive"}
        rows[name] = {
            "loss": _quartiles(loss),
            "accuracy": _quartiles(accuracy),
            "distance": _quartiles(distance),
            "ratio_to_naive": round(float(np.mean(loss) / np.mean(barriers["naive"][0])), 3),
        }
        for step, other in steps.items():
            change = loss - barriers[other][0]
            rows[name][f"change_from_{step}"] = {
                "from": other,
                "mean": round(float(change.mean()), 4),
                "interval": [round(float(q), 4) for q in np.quantile(shares @ change, [0.025, 0.975])],
            }
    accuracy = score(roots[0].architecture, unstack({n: t.float() for n, t in weights.items()}), images.test).accuracy
    return {
        "zoo": zoo.name,
        "roots": len(roots),
        "pairs": len(pairs),
        "test_accuracy_of_roots": _quartiles(accuracy.numpy()),
        "alignments": rows,
    }


def _aligned(
    name: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor], layout: Layout, root: Checkpoint, images: ImageSplit
) -> Mapping[str, Tensor]:
    if name == "naive":
        return a
    moves = PERMUTED if "permutation" in name and "orthogonal" not in name else ORTHOGONAL if "orthogonal" in name else MOVES
    if name.startswith("activations"):
        return align_by_activations(a, layout, to=b, moves=moves, model=root.build(), inputs=images.pixels[:IMAGES]).weights
    if name.startswith("loss"):
        return align_by_loss(a, layout, to=b, moves=moves, loss=_loss(root, images), steps=STEPS, rate=RATE).weights
    return align(a, layout, to=b, moves=moves).weights


def _loss(root: Checkpoint, images: ImageSplit) -> Callable[[dict[str, Tensor]], Tensor]:
    """Mean cross-entropy of a stack on some train images, differentiable."""
    model, pixels = root.build(), images.pixels[:IMAGES]
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            cast(Any, module).fused_attn = False  # has no rule for stacks
    run = vmap(lambda weights: functional_call(model, weights, (pixels,)))

    def loss(weights: dict[str, Tensor]) -> Tensor:
        outputs = run({name: tensor.float() for name, tensor in weights.items()})
        labels = images.labels[:IMAGES].expand(len(outputs), -1)
        return cross_entropy(outputs.mT, labels, reduction="none").mean(1)

    return loss


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
