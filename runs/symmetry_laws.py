"""The laws of symmetries on a trained zoo: python runs/symmetry_laws.py ZOO; the last line is JSON.

Canonical form of 20 checkpoints under 100 random group elements each; copies of train models in every disguise on the bench of
`wsl.generate`, beside their raw distances and the real models; checkpoints aligned back to themselves, also under 1 % of noise.
Diverged models are left out.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from wsl.generators.evaluation import Bench
from wsl.generators.family import Family, flatten
from wsl.generators.novelty import THRESHOLD, Distances, euclidean, judge
from wsl.layout.lookup import layout_of
from wsl.layout.slots import Layout
from wsl.symmetry.alignment import align
from wsl.symmetry.canonical import canonicalize
from wsl.symmetry.group import MAPPED, MOVES, PERMUTED, apply, random_view, sample
from wsl.symmetry.null_directions import NULLS
from wsl.symmetry.stacks import stack, unstack
from wsl.symmetry.weight_matching import match
from zoo_gen import Checkpoint, Zoo

ELEMENTS = 100
CHECKPOINTS = 10
"""Of each head type."""

STRENGTH = 0.3
COMPACT = (*PERMUTED, *MAPPED)
DISGUISES = {move: (move,) for move in (*NULLS, *PERMUTED, *MAPPED, "rotation")} | {"all": MOVES}

Weights = dict[str, Tensor]


def norm(weights: Mapping[str, Tensor]) -> Tensor:
    """Euclidean norm of each checkpoint of a stack."""
    return torch.stack([tensor.flatten(1).square().sum(1) for tensor in weights.values()]).sum(0).sqrt()


def gap(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Largest relative distance of two stacks, checkpoint by checkpoint."""
    return (norm({name: a[name] - b[name] for name in b}) / norm(b)).max().item()


def doubles(checkpoints: Sequence[Checkpoint]) -> Weights:
    """The stack of some checkpoints in float64."""
    return {name: tensor.double() for name, tensor in stack([one.state_dict() for one in checkpoints]).items()}


def outputs(model: nn.Module, weights: Weights, pixels: Tensor) -> Tensor:
    """What the checkpoints of a stack put out, in float64."""
    with torch.no_grad():
        return torch.stack([functional_call(model.double(), one, (pixels.double(),)) for one in unstack(weights)])


def canonical(weights: Weights, layout: Layout, model: nn.Module, pixels: Tensor, rng: torch.Generator) -> dict[str, float]:
    """How much the canonical form changes with the group element, when taken twice, in function, and from float32."""
    form = canonicalize(weights, layout)
    expected = outputs(model, weights, pixels)
    views = (random_view(weights, layout, rng, moves=MOVES, maps="general", strength=STRENGTH) for _ in range(ELEMENTS))
    single = {name: tensor.float() for name, tensor in weights.items()}
    change = (outputs(model, form, pixels) - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    noisy = {name: tensor * (1 + 1e-3 * torch.randn(tensor.shape, generator=rng)) for name, tensor in weights.items()}
    return {
        "invariance": max(gap(canonicalize(view, layout), form) for view in views),
        "idempotence": gap(canonicalize(form, layout), form),
        "function": change.max().item(),
        "float32_input": gap(canonicalize(single, layout), canonicalize({n: t.double() for n, t in single.items()}, layout)),
        "control_noise_of_1e-3": gap(canonicalize(noisy, layout), form),
    }


def recovery(weights: Weights, layout: Layout, rng: torch.Generator) -> dict[str, float]:
    """How far checkpoints moved by permutations and orthogonal maps come back, and what is matched under 1 % of noise."""
    count = len(next(iter(weights.values())))
    element = sample(layout, count, rng, moves=COMPACT, maps="orthogonal", dtype=torch.float64)
    moved = apply(element, weights, layout)
    back = {"compact": COMPACT, "full": MOVES}
    noisy = {
        name: tensor + 0.01 * tensor.square().mean().sqrt() * torch.randn(tensor.shape, generator=rng, dtype=tensor.dtype)
        for name, tensor in moved.items()
    }
    found = match(noisy, weights, layout, COMPACT)
    hits: dict[str, list[Tensor]] = {}
    for name, order in element.maps.items():
        step = found[name]
        if isinstance(order, Tensor) and isinstance(step, Tensor):
            hits.setdefault(name.partition(".")[0], []).append(order.gather(1, step) == torch.arange(order.shape[1]))
    errors = {f"error_{name}": gap(align(moved, layout, to=weights, moves=moves).weights, weights) for name, moves in back.items()}
    return errors | {f"matched_{kind}": torch.cat(one, dim=1).double().mean().item() for kind, one in hits.items()}


def families(zoo: Zoo) -> list[Family]:
    """The models of the zoo by root and head type."""
    groups: dict[tuple[str, str], list[Checkpoint]] = {}
    for one in zoo.select(stage="finetune", final=True, status="ok"):
        groups.setdefault((one.root, one.factors["head"]), []).append(one)
    return [
        Family(
            root=root,
            head=head,
            architecture=members[0].architecture,
            root_state=zoo.root(members[0]).state_dict(),
            states=[one.state_dict() for one in members],
            val_accuracy=np.array([one.results["val_accuracy"] for one in members]),
            latents=np.zeros((len(members), 1, 1)),
            decode=lambda latents, first=members[0]: first.state_dict(),
        )
        for (root, head), members in groups.items()
    ]


def novelty(distances: Distances) -> np.ndarray:
    """Distance of each sample to the nearest train model, over the median distance of these to their nearest other."""
    return judge({"weights": distances, "behaviour": distances}, np.random.default_rng(0)).novelty["weights"]


def disguises(zoo: Zoo, rng: torch.Generator) -> dict[str, Any]:
    """Novelty of copies of every train model in every disguise, aligned and raw, and of the real models."""
    bench = Bench(families(zoo), zoo.images("finetune"), seed=0)
    rows: dict[str, Any] = {}
    for name, moves in DISGUISES.items():
        samples, raw = [], []
        for family in bench.families:
            layout = layout_of(family.states[0], heads=family.architecture["model_args"]["num_heads"])
            weights = {name: tensor.double() for name, tensor in stack(family.states).items()}
            view = random_view(weights, layout, rng, moves=moves, maps="general", strength=STRENGTH)
            if gap(view, weights) < 1e-12:
                continue  # the architecture has no such direction
            copies = unstack({name: view[name] for name in weights})  # in the order that raw weights are compared in
            samples += [(family, copy) for copy in copies]
            raw.append(novelty(Distances.between(np.stack([flatten(copy) for copy in copies]), family.weights, distance=euclidean)))
        if samples:
            row = bench.measure(name, {}, scored := bench.score(samples))
            aligned = [
                novelty(Distances.between(models.vectors, bench.train[i].vectors, distance=euclidean))
                for i, models in scored.items()
            ]
            rows[name] = {
                "copies": len(samples),
                "largest_novelty_of_weights": float(np.concatenate(aligned).max()),
                "flags": row["flags"],
                "raw_novelty_of_weights": [float(np.concatenate(raw).min()), float(np.median(np.concatenate(raw)))],
                "raw_unflagged_share": float((np.concatenate(raw) >= THRESHOLD).mean()),
            }
    real = bench.measure_train()
    each = np.concatenate([novelty(Distances.among(train.vectors, distance=euclidean)) for train in bench.train.values()])
    rows["real models"] = {
        "models": len(each),
        "flags": real["flags"],
        "novelty_by_space": real["novelty_by_space"],
        "smallest_novelty_of_weights": float(each.min()),
        "below_threshold_in_weights": int((each < THRESHOLD).sum()),
    }
    return rows


def main() -> None:
    """Prints the laws."""
    torch.set_num_threads(1)
    zoo = Zoo.open(Path(sys.argv[1]))
    rng = torch.Generator().manual_seed(0)
    pixels = zoo.images("finetune").test.pixels[:64]
    laws: dict[str, Any] = {"zoo": zoo.name, "content_hash": zoo.content_hash}
    for head in ("linear", "mlp"):
        trained = list(zoo.select(stage="finetune", final=True, status="ok", head=head))
        chosen = [trained[i] for i in np.linspace(0, len(trained) - 1, CHECKPOINTS).astype(int)]
        model, weights = chosen[0].build(), doubles(chosen)
        layout = layout_of(model)
        laws[f"canonical form, {head} heads"] = canonical(weights, layout, model, pixels, rng)
        laws[f"recovery, {head} heads"] = recovery(weights, layout, rng)
        print(json.dumps(laws, indent=1), flush=True)
    laws["disguises"] = disguises(zoo, rng)
    print(json.dumps(laws["disguises"], indent=1))
    print(json.dumps(laws))


if __name__ == "__main__":
    main()
