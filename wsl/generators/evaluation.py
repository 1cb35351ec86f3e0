"""Bench: measures generated models by their accuracy without training, their novelty and their diversity.

Weights are compared modulo symmetry (`wsl.symmetry.alignment`): all models of a family are aligned to its first train model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wsl.generators.family import Family, Sample, flatten
from wsl.generators.novelty import Distance, Distances, disagreement, euclidean, judge, null_if_undefined, pool
from wsl.generators.rows import NEAREST, TRAIN
from wsl.layout import layout_of
from wsl.layout.slots import Layout
from wsl.symmetry.alignment import aligned_vectors
from wsl.symmetry.stacks import stack
from zoo_gen.architecture import outline
from zoo_gen.evaluate import logits, score_logits
from zoo_gen.images import Images
from zoo_gen.streams import stream
from zoo_gen.threads import in_threads

State = Mapping[str, Tensor]

MODELS_AT_ONCE = 64


@dataclass(frozen=True)
class Scored:
    """S models of one family: weights modulo symmetry, accuracies on the test images, predicted classes of the val images.

    Distances of weights are the Euclidean distances of `vectors`. Without images, accuracies are NaN, and there are no predictions.
    """

    vectors: Float[np.ndarray, "S F"]
    accuracy: Float[np.ndarray, " S"]
    predictions: Int[np.ndarray, "S images"]


def score_models(
    states: Sequence[State], *, family: Family, images: Images | None, advance: Callable[[int], None] = lambda done: None
) -> Scored:
    """Scores models of one family without training and aligns them, a stack of them at a time; equal models are run once.

    Test images give the accuracies, val images the predicted classes; no images give neither. `advance` is called with the number
    of models of each stack.
    """
    first, which = distinct([flatten(state) for state in states])
    pixels = None if images is None else torch.cat([images.test.pixels, images.val.pixels])
    layout, reference = layout_of_family(family), stack([family.states[0]])
    copies = np.bincount(which)
    vectors, accuracy, predictions = [], [], []
    for start in range(0, len(first), MODELS_AT_ONCE):
        chosen = [states[i] for i in first[start : start + MODELS_AT_ONCE]]
        if layout is None:
            vectors.append(np.stack([flatten(state) for state in chosen]).astype(np.float64))
        else:
            vectors.append(aligned_vectors(stack(chosen), layout, to=reference))
        if images is None or pixels is None:
            accuracy.append(np.full(len(chosen), np.nan))
            predictions.append(np.empty((len(chosen), 0), dtype=np.int64))
        else:
            test, val = logits(family.architecture, chosen, pixels).split([len(images.test), len(images.val)], dim=1)
            accuracy.append(score_logits(test, images.test.labels).accuracy)
            predictions.append(val.argmax(-1))
        advance(int(copies[start : start + MODELS_AT_ONCE].sum()))
    return Scored(*(np.concatenate(found)[which] for found in (vectors, accuracy, predictions)))


def layout_of_family(family: Family) -> Layout | None:
    """Returns the layout that the models of a family are aligned by; None where neither its classes nor its heads are known."""
    if family.architecture.get("architecture") is not None:
        return layout_of(outline(family.architecture))
    heads = family.architecture.get("num_heads")
    return None if heads is None else layout_of(family.states[0], heads=heads)


def distinct(rows: Sequence[np.ndarray]) -> tuple[list[int], np.ndarray]:
    """Returns the place of the first of each of several equal rows, and for each row which of these it equals."""
    seen: dict[bytes, int] = {}
    which = np.array([seen.setdefault(row.tobytes(), len(seen)) for row in rows])
    return np.unique(which, return_index=True)[1].tolist(), which


class Bench:
    """Families of train models, scored once, against which any number of generators are measured.

    The seed is that of the random subsets that diversity is computed on. Images (None where models cannot be run) and `advance` are
    as in `score_models`.
    """

    def __init__(
        self, families: Sequence[Family], images: Images | None, *, seed: int, advance: Callable[[int], None] = lambda done: None
    ):
        self.families, self.images, self.seed, self.advance = families, images, seed, advance
        self.train = self._score([(family, family.states) for family in families])
        self.aligned = [layout_of_family(family) is not None for family in families]

    def score(self, samples: Sequence[Sample]) -> dict[int, Scored]:
        """Scores samples; the keys are the places of their families."""
        of_family = {i: [state for owner, state in samples if owner.name == family.name] for i, family in enumerate(self.families)}
        there = {i: states for i, states in of_family.items() if states}
        return dict(zip(there, self._score([(self.families[i], states) for i, states in there.items()]), strict=True))

    def _score(self, work: Sequence[tuple[Family, Sequence[State]]]) -> list[Scored]:
        def one(item: tuple[Family, Sequence[State]]) -> Scored:
            return score_models(item[1], family=item[0], images=self.images, advance=self.advance)

        return list(in_threads(one, work))

    def measure_train(self) -> dict[str, Any]:
        """Judges each train model against the others: the row that shows what real models score."""
        return self.measure(TRAIN, {}, dict(enumerate(self.train)))

    def measure_nearest(self, name: str, scored: Mapping[int, Scored]) -> dict[str, Any]:
        """Measures the train model nearest to each sample of the generator `name`, which retrieves if it is no better."""
        retrieved: dict[int, Scored] = {}
        for i, models in scored.items():
            train, nearest = self.train[i], euclidean(models.vectors, self.train[i].vectors).argmin(axis=1)
            retrieved[i] = Scored(train.vectors[nearest], train.accuracy[nearest], train.predictions[nearest])
        return self.measure(NEAREST, {"of": name}, retrieved)

    def measure(self, name: str, settings: Mapping[str, Any], scored: Mapping[int, Scored]) -> dict[str, Any]:
        """Judges scored samples: a row of generate.json."""
        judgements = {
            self.families[i].name: judge(_distances(models, self.train[i]), stream(self.seed, "judge", i))
            for i, models in scored.items()
        }
        verdict = pool(judgements)
        novelties = verdict.pop("novelties")
        accuracies = np.concatenate([models.accuracy for models in scored.values()])
        q25, median, q75 = np.quantile(accuracies, [0.25, 0.5, 0.75])
        return null_if_undefined(
            {
                "generator": name,
                "settings": dict(settings),
                "n": len(accuracies),
                "accuracy": {"median": median, "q25": q25, "q75": q75},
                **verdict,
                "aligned": all(self.aligned[i] for i in scored),
                "samples": {
                    "family": [self.families[i].name for i, models in scored.items() for _ in models.accuracy],
                    "accuracy": accuracies,
                    "novelty": novelties,
                },
            }
        )


def _distances(models: Scored, train: Scored) -> dict[str, Distances]:
    """Distances in both spaces, or of weights alone where there are no predictions.

    Train models themselves are measured each against the others.
    """
    pairs: dict[str, tuple[np.ndarray, np.ndarray, Distance]] = {"weights": (models.vectors, train.vectors, euclidean)}
    if train.predictions.shape[1]:
        pairs["behaviour"] = (models.predictions, train.predictions, disagreement)
    if models is train:
        return {space: Distances.among(b, distance=distance) for space, (_, b, distance) in pairs.items()}
    return {space: Distances.between(a, b, distance=distance) for space, (a, b, distance) in pairs.items()}
