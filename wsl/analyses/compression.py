r"""Compression: accuracy and diversity of models that only their latents are kept of.

The final checkpoints of a run's test models are encoded and decoded, once with latents as the encoder makes them and once with
latents refined on training images (`wsl.training.latent_optimization`):

.. math::
    \mathrm{compression\ ratio} = \frac{\mathrm{weights}}{\mathrm{numbers\ that\ the\ decoder\ gets}} \qquad
    \mathrm{accuracy\ retained} = \frac{\mathrm{accuracy\ decoded} - \mathrm{chance}}{\mathrm{accuracy} - \mathrm{chance}}

on test images, by model. Models hardly better than chance have no accuracy to retain: they are counted, not judged. Diversity is
the median distance of two decoded models of one root and shape over that of the originals: Euclidean between weights, and the
fraction of test images with another predicted class.

Beside each run stands `linear_code`: as many numbers of the same tokens, chosen by their energy over the train models alone, and
zeros for the others. Differences to it are paired, with 95 % intervals over roots.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from wsl.data.logits import lack_to_run
from wsl.data.pairs import pairs_of, roots_by_checkpoint
from wsl.data.sources import scan
from wsl.data.token_statistics import TokenStatistics
from wsl.data.windows import Windows
from wsl.generators.family import flatten
from wsl.generators.novelty import disagreement, euclidean
from wsl.run import Run, build_model
from zoo_gen import Checkpoint, InputError
from zoo_gen.evaluate import logits
from zoo_gen.files import sha256_of, write_json
from zoo_gen.reader import read_json

RESULT = "compression.json"
"""The file of a run's rows in its folder, with the hash of the model that they are of."""

ABOVE_CHANCE = 0.05
"""Accuracy above chance below which a model has nothing to retain."""

BOOTSTRAPS = 2000
"""Resamples of roots that intervals are taken from."""

Refine = Callable[[Run, Sequence[Checkpoint], Sequence[Float[Tensor, "T Z"]]], Sequence[Float[Tensor, "T Z"]]]
"""Makes better latents of checkpoints (`wsl.training.latent_optimization`)."""


@dataclass(frozen=True)
class DecodedFamily:
    """Models of one root and shape before and after decoding: weights (N W), predicted classes (N images)."""

    root: str | None
    weights: tuple[Float[np.ndarray, "N W"], Float[np.ndarray, "N W"]]
    classes: tuple[Int[np.ndarray, "N images"], Int[np.ndarray, "N images"]]
    labels: Int[np.ndarray, " images"]
    chance: float


def measure(families: Sequence[DecodedFamily]) -> dict[str, Any]:
    """Compares the models of all families after decoding with those before.

    Returns:
        `accuracy_retained` (median over models), `accuracy_retained_q25`, `accuracy_retained_q75`, `accuracy` and
        `accuracy_decoded` (means over all models), `models`, `judged` (those above chance), `retained` and `roots` of these,
        `diversity_weights` and `diversity_behaviour` (None where no two models can be compared).
    """
    before, after = (np.concatenate([(family.classes[i] == family.labels).mean(axis=1) for family in families]) for i in (0, 1))
    chance = np.concatenate([np.full(len(family.classes[0]), family.chance) for family in families])
    judged = before - chance > ABOVE_CHANCE
    retained = (after - chance)[judged] / (before - chance)[judged]
    roots = np.concatenate([np.full(len(family.classes[0]), family.root or "", dtype=object) for family in families])
    quantiles = np.quantile(retained, [0.25, 0.5, 0.75]) if len(retained) else [None] * 3
    return {
        "accuracy_retained": quantiles[1],
        "accuracy_retained_q25": quantiles[0],
        "accuracy_retained_q75": quantiles[2],
        "accuracy": before.mean(),
        "accuracy_decoded": after.mean(),
        "models": len(before),
        "judged": int(judged.sum()),
        "retained": [round(float(share), 6) for share in retained],
        "roots": roots[judged].tolist(),
        "diversity_weights": _diversity([family.weights for family in families], euclidean),
        "diversity_behaviour": _diversity([family.classes for family in families], disagreement),
    }


def _diversity(families: Sequence[tuple[np.ndarray, np.ndarray]], distance: Callable[..., np.ndarray]) -> float | None:
    """Returns the median distance of two models of a family after decoding over that before."""
    before, after = (
        np.concatenate([distance(points, points)[np.triu_indices(len(points), 1)] for points in each])
        for each in zip(*families, strict=True)
    )
    original = float(np.median(before)) if len(before) else 0.0
    return float(np.median(after)) / original if original > 0 else None


def linear_code(run: Run) -> Run:
    """Returns the run with the linear code of its tokens, at its compression ratio, in place of its model."""
    model = build_model(run.config, run.inputs)
    sources = scan(pairs_of(run.split.train), run.tokenizer)
    windows = Windows(sources, run.standardizer, length=run.inputs.tokens.window, seed=0, cache=0)
    model.linear(TokenStatistics(sources, windows))
    blind = replace(run.inputs.tokens, rehearsal=replace(run.inputs.tokens.rehearsal, steps=0))  # it reads no side information
    return Run(run.path, {**run.config, "model_name": "linear_code"}, model, blind, zoo=run.zoo.path)


def compress(run: Run, *, refinement: Refine | None = None) -> dict[str, Any]:
    """Returns the row of a run: its settings, its compression ratio (the lowest of any judged model), and what `measure` returns.

    With a refinement, latents are refined before they are decoded. Raises `InputError` where models cannot be run on images.
    """
    if lack := lack_to_run(run.zoo):
        raise InputError(f"compression is measured by the accuracy of decoded models, and {lack}")
    finals = list(run.split.test.select(final=True, status="ok"))
    tokens, latents = zip(*run.latents(finals), strict=True)
    if refinement is not None:
        latents = refinement(run, finals, latents)
    every = run.decode_all(tokens, latents, roots=roots_by_checkpoint(run.zoo, finals))
    families: dict[tuple[str | None, str], list[tuple[Checkpoint, dict[str, Tensor]]]] = defaultdict(list)
    ratios = []
    for checkpoint, own, decoded in zip(finals, tokens, every, strict=True):
        families[checkpoint.root, json.dumps(checkpoint.architecture, sort_keys=True)].append((checkpoint, decoded))
        ratios.append(sum(tensor.numel() for tensor in decoded.values()) / run.model.numbers(own.positions))
    images = run.zoo.images("finetune").test
    found = []
    for family in families.values():
        architecture = family[0][0].architecture
        states = [checkpoint.state_dict() for checkpoint, _ in family], [decoded for _, decoded in family]
        before, after = (np.stack([flatten(state) for state in some]) for some in states)
        classes, decoded_classes = (logits(architecture, some, images.pixels).argmax(-1).numpy() for some in states)
        labels, chance = images.labels.numpy(), 1 / architecture["num_classes"]
        found.append(DecodedFamily(family[0][0].root, (before, after), (classes, decoded_classes), labels, chance))
    objective = run.config["objective"]
    return {
        "run": run.path.name,
        "model": run.model_name,
        "zoo": run.config["zoo"]["path"].rpartition("/")[2],
        **{key: run.config[key] for key in ("split", "fold", "seed", "steps")},
        "behaviour": "behaviour" in objective.get("terms", {}) and objective["weights"]["behaviour"] > 0,
        "refined": refinement is not None,
        "compression_ratio": min(ratios),
        **measure(found),
    }


def rows_of(folder: Path, *, refinement: Refine, advance: Callable[[], object] = lambda: None) -> list[dict[str, Any]]:
    """Returns the rows of a run: the linear code, and its own without and with refined latents.

    They are measured once for each state of its model; `advance` is called after each row that is. `minus_linear_code` is the mean
    difference of the accuracy that models retain, and the ends of its interval.
    """
    path, state = folder / RESULT, sha256_of(folder / "model.safetensors")
    if path.is_file() and (stored := read_json(path, advice="delete it")).get("model") == state:
        return stored["rows"]
    run = Run.open(folder)
    rows: list[dict[str, Any]] = []
    for coder, refine in ((linear_code(run), None), (run, None), (run, refinement)):
        rows.append(compress(coder, refinement=refine))
        advance()
    for row in rows[1:]:
        row["minus_linear_code"] = paired(row["retained"], rows[0]["retained"], row["roots"])
    write_json(path, {"model": state, "rows": rows})
    return rows


def paired(one: Sequence[float], other: Sequence[float], roots: Sequence[str | None]) -> list[float] | None:
    """Returns the mean difference of two scores of the same models, and its 95 % interval by a bootstrap of roots; None of none."""
    if not len(one):
        return None
    difference, (_, family) = np.array(one) - np.array(other), np.unique([str(root) for root in roots], return_inverse=True)
    sums, sizes = (np.bincount(family, weights=values) for values in (difference, np.ones_like(difference)))
    drawn = np.random.default_rng(0).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=BOOTSTRAPS)
    means = (drawn @ sums) / np.maximum(drawn @ sizes, 1)
    return [float(difference.mean()), *(float(end) for end in np.quantile(means, [0.025, 0.975]))]
