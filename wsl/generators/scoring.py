"""Scores of models without training: accuracies, predictions, and weights modulo symmetry, a stack of models at a time."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from torch import Tensor

from wsl.generators.family import Family, flatten
from wsl.layout import layout_of
from wsl.layout.slots import Layout
from wsl.symmetry.forms import Forms
from wsl.symmetry.stacks import stack
from zoo_gen.architecture import outline
from zoo_gen.evaluate import logits, score_logits
from zoo_gen.images import Images, ImageSplit
from zoo_gen.streams import stream

State = Mapping[str, Tensor]

MODELS_AT_ONCE = 64

SKETCH = 4096
"""Numbers that weights are sketched by, where there are more: distances are true to 1 %."""

PROBES, VAL_PROBES = 384, 192
"""Images that behaviour is measured on, at most, and val images among them. The others are train images and mixes of two."""


@dataclass(frozen=True)
class Probes:
    """Images without test images, on which behaviour is measured; the first `len(labels)` are val images."""

    pixels: Float[Tensor, "I C H W"]
    labels: Int[Tensor, " V"]

    @classmethod
    def of(cls, images: Images, *, seed: int) -> "Probes":
        """Draws val images, train images, and means of two train images."""
        rng = stream(seed, "behaviour")
        val = np.sort(rng.permutation(len(images.val))[:VAL_PROBES])
        each = min((PROBES - len(val)) // 2, len(images.train))
        chosen = np.sort(rng.permutation(len(images.train))[:each])
        pairs = rng.integers(len(images.train), size=(2, each))
        mixes = (_pixels(images.train, pairs[0]) + _pixels(images.train, pairs[1])) / 2
        pixels = torch.cat([_pixels(images.val, val), _pixels(images.train, chosen), mixes])
        return cls(pixels, images.val.labels[torch.from_numpy(val)])


@dataclass(frozen=True)
class Scored:
    """S models of one family, all NaN or empty where they cannot be run.

    Attributes:
        vectors: weights modulo symmetry, aligned to the family's first train model; a sketch of them where they are many.
        spectra: see `wsl.symmetry.forms`; zeros where the symmetries are not known.
        accuracy, val_accuracy: on test images, and on the val images among the probes.
        predictions: the predicted classes of the probes.
        directly: distance of weights to the checkpoint of the own root with the nearest spectra, aligned to that one itself, in
            units of the family; infinite where the model is no copy of it.
        elsewhere: distance of weights to the nearest train model of another root, in units of that one's family; infinite where
            none may be as near as the nearest one of the own root.
        unseen: the same, to the nearest held-out model of another root.
    """

    vectors: Float[np.ndarray, "S F"]
    spectra: Float[np.ndarray, "S U"]
    accuracy: Float[np.ndarray, " S"]
    val_accuracy: Float[np.ndarray, " S"]
    predictions: Int[np.ndarray, "S I"]
    directly: Float[np.ndarray, " S"]
    elsewhere: Float[np.ndarray, " S"]
    unseen: Float[np.ndarray, " S"]

    def __len__(self) -> int:
        return len(self.accuracy)

    def __getitem__(self, chosen: np.ndarray) -> "Scored":
        return Scored(**{name: values[chosen] for name, values in vars(self).items()})

    @staticmethod
    def joined(parts: Sequence["Scored"]) -> "Scored":
        """Returns the models of all parts."""
        return Scored(**{name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])})


def score_models(
    states: Sequence[State],
    *,
    family: Family,
    probes: Probes | None,
    test: ImageSplit | None,
    advance: Callable[[int], None] = lambda done: None,
) -> Scored:
    """Scores models of one family, a stack of them at a time; equal models are run once.

    Without probes or test images what they would give is missing. `advance` is called with the number of models of each stack.
    """
    first, which = distinct(flatten(state) for state in states)
    layout = layout_of_family(family)
    reference = None if layout is None else Forms.of(stack([family.states[0]]), layout)
    copies = np.bincount(which)
    parts = []
    for start in range(0, len(first), MODELS_AT_ONCE):
        chosen = [states[i] for i in first[start : start + MODELS_AT_ONCE]]
        nothing = np.full(len(chosen), np.nan)
        accuracy = val_accuracy = nothing
        predictions = np.empty((len(chosen), 0), dtype=np.int64)
        if probes is not None:
            tested = 0 if test is None else len(test)
            pixels = probes.pixels if test is None else torch.cat([_pixels(test, np.arange(tested)), probes.pixels])
            on_test, on_probes = logits(family.architecture, chosen, pixels).split([tested, len(probes.pixels)], dim=1)
            predictions = on_probes.argmax(-1).numpy()
            labels = probes.labels.numpy()
            val_accuracy = (predictions[:, : len(labels)] == labels).mean(axis=1)
            accuracy = nothing if test is None else score_logits(on_test, test.labels).accuracy.numpy().astype(np.float64)
        there = stack(chosen)
        if layout is None or reference is None:
            invariant, vectors = np.zeros((len(chosen), 1)), as_they_are(there)
        else:
            forms = Forms.of(there, layout)
            invariant, vectors = forms.spectra, forms.vectors(reference)
        far = np.full(len(chosen), np.inf)
        parts.append(Scored(sketched(vectors), invariant, accuracy, val_accuracy, predictions, far, far, far))
        advance(int(copies[start : start + MODELS_AT_ONCE].sum()))
    return Scored.joined(parts)[which]


def as_they_are(weights: State) -> Float[np.ndarray, "S F"]:
    """Returns all weights of each model of a stack as rows, not aligned."""
    return torch.cat([tensor.reshape(len(tensor), -1).double() for tensor in weights.values()], dim=1).numpy()


def sketched(vectors: Float[np.ndarray, "S F"]) -> Float[np.ndarray, "S K"]:
    """Returns rows of at most `SKETCH` numbers at the same distances, to 1 %; few numbers are left as they are.

    Each number is added to one of the sketch, with a random sign (Charikar et al. 2002); the same ones for all rows.
    """
    size = vectors.shape[1]
    if size <= SKETCH:
        return vectors
    rng = stream(0, "sketch", size)
    places, signs = rng.integers(SKETCH, size=size), rng.choice([-1.0, 1.0], size=size)
    finite = np.isfinite(vectors).all(axis=1)
    found = np.full((len(vectors), SKETCH), np.nan)
    found[finite] = (csr_array((signs, (places, np.arange(size))), shape=(SKETCH, size)) @ vectors[finite].T).T
    return found


def layout_of_family(family: Family) -> Layout | None:
    """Returns the layout that the models of a family are aligned by; None where neither its classes nor its heads are known."""
    if family.architecture.get("architecture") is not None:
        return layout_of(outline(family.architecture))
    heads = family.architecture.get("num_heads")
    return None if heads is None else layout_of(family.states[0], heads=heads)


def content_of(states: Sequence[State]) -> str:
    """Returns a hash of the names, shapes and weights of models, in order."""
    digest = hashlib.sha256()
    for state in states:
        digest.update(repr([(name, tuple(tensor.shape)) for name, tensor in state.items()]).encode())
        digest.update(flatten(state).tobytes())
    return digest.hexdigest()


def distinct(rows: Iterable[np.ndarray]) -> tuple[list[int], np.ndarray]:
    """Returns the place of the first of each of several equal rows, and for each row which of these it equals."""
    seen: dict[bytes, int] = {}
    which = np.array([seen.setdefault(hashlib.sha256(row.tobytes()).digest(), len(seen)) for row in rows])
    return np.unique(which, return_index=True)[1].tolist(), which


def _pixels(images: ImageSplit, chosen: np.ndarray) -> Tensor:
    return torch.as_tensor(images.pixels[torch.from_numpy(chosen)])
