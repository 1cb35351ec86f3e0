"""Family: the fine-tuned train models of one root, head type and shape, which a generator is fitted on.

Models of a family share a shape and their root, so their weights (N W) and latents (N T Z) are points of one space. Models whose
roots are not known are one family for each shape. A sample inherits root and head type. A generator samples weights or latents;
the family turns either into a state dict.

A generator gets no more than its class may use: `weights`, `unlabelled images` (train images as well) or `labels` (and their
labels). No family leads to the run, the zoo, held-out models or test images.
"""

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import torch
from einops import pack
from jaxtyping import Float, Int
from torch import Tensor

from wsl.generators.names import CLASSES
from zoo_gen.errors import InputError
from zoo_gen.files import write_json, write_weights
from zoo_gen.images import ImageSplit
from zoo_gen.threads import in_threads
from zoo_gen.wording import counted

IMAGES = 10_000
"""Train images that a generator gets, at most."""


@dataclass(frozen=True, eq=False)
class Family:
    """The train models of one root, head type and shape; None for a root or head that is not known.

    `variant` tells families apart that differ in shape alone. `pixels` and `labels` are of the train images; None where they are
    not known, or not for the class of the generator.
    """

    root: str | None
    head: str | None
    architecture: Mapping[str, Any]
    root_state: Mapping[str, Tensor] | None
    states: Sequence[Mapping[str, Tensor]]
    val_accuracy: Float[np.ndarray, " N"]
    latents: Float[np.ndarray, "N T Z"]
    decode: Callable[[Float[np.ndarray, "N T Z"]], list[dict[str, Tensor]]]
    variant: str = ""
    pixels: Float[Tensor, "I C H W"] | None = None
    labels: Int[Tensor, " I"] | None = None

    def __len__(self) -> int:
        return len(self.states)

    @property
    def name(self) -> str:
        """Root, head type and variant, as far as they are known, for people."""
        return "/".join(filter(None, (self.root or "unknown root", self.head, self.variant)))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor of its models."""
        return {name: tuple(tensor.shape) for name, tensor in self.states[0].items()}

    @cached_property
    def weights(self) -> Float[np.ndarray, "N W"]:
        """All weights of each train model, in the order of its state dict."""
        return np.stack([flatten(state) for state in self.states])

    def private(self) -> "Family":
        """The same family in tensors of its own, which a generator may change: baselines and measurements see nothing of it."""
        states, root = _Clones(self.states), None if self.root_state is None else _clone(self.root_state)
        again = getattr(self.decode, "again", None)  # of a decoder that counts what it is used for
        decode = self.decode if again is None else again()
        arrays = {"val_accuracy": self.val_accuracy.copy(), "latents": self.latents.copy()}
        return replace(self, states=states, root_state=root, decode=decode, **arrays)

    def unflatten(self, weights: Float[np.ndarray, " W"]) -> dict[str, Tensor]:
        """The state dict with these weights: the inverse of `flatten`."""
        parts = torch.from_numpy(np.array(weights, dtype=np.float32)).split([math.prod(shape) for shape in self.shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def anchors(self, count: int | None) -> np.ndarray:
        """Indices of `count` train models; None means all.

        They have the best val accuracy, and those without one come last. Where none is known, they are spread evenly over the
        family, first and last included.
        """
        if count is not None and not self.knows_accuracy:
            return np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int))
        return np.argsort(-self.val_accuracy, kind="stable")[:count]

    @property
    def knows_accuracy(self) -> bool:
        """Whether the val accuracy of any train model is known, and so which are the best."""
        return bool(np.isfinite(self.val_accuracy).any())


class _Clones(Sequence[Mapping[str, Tensor]]):
    """State dicts that are cloned whenever they are read: a population takes the memory of those in use."""

    def __init__(self, states: Sequence[Mapping[str, Tensor]]):
        self._states = states

    def __len__(self) -> int:
        return len(self._states)

    def __getitem__(self, index: Any) -> Any:
        return [*map(_clone, self._states[index])] if isinstance(index, slice) else _clone(self._states[index])


def _clone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


def flatten(state: Mapping[str, Tensor]) -> Float[np.ndarray, " W"]:
    """Returns all weights of a state dict, one after the other, as float32."""
    return pack([tensor.float() for tensor in state.values()], "*")[0].numpy()


def with_noise(state: Mapping[str, Tensor], noise: float, rng: np.random.Generator) -> dict[str, Tensor]:
    """Returns weights plus white noise, whose deviation is given in units of the root-mean-square of each tensor."""
    noisy = {}
    for name, tensor in state.items():
        white = torch.from_numpy(rng.standard_normal(tuple(tensor.shape), dtype=np.float32))
        noisy[name] = tensor + noise * tensor.float().square().mean().sqrt() * white
    return noisy


Sample = tuple[Family, dict[str, Tensor]]
"""A new model: the family it belongs to, and its weights."""


@runtime_checkable
class Generator(Protocol):
    """A sampler of models, shaped like a scikit-learn estimator.

    An attribute `uses` of its class says what it uses beside weights, of `CLASSES`; without one it uses weights alone.
    `gradient_evaluations`, where it has that, counts those of the samples so far: one is the gradient of one model on one batch.
    """

    def fit(self, families: Sequence[Family]) -> Self:
        """Learns from the train models of each family."""
        ...

    def sample(self, n: int, rng: np.random.Generator) -> list[Sample]:
        """Draws n models; equal states of `rng` give equal models. A generator that knows fewer than n gives those."""
        ...


class FamilySampler:
    """A generator that learns nothing beforehand: it keeps the families and samples from their train models."""

    uses: ClassVar[str] = "weights"
    families: Sequence[Family] = ()

    def fit(self, families: Sequence[Family]) -> Self:
        """Keeps the families."""
        self.families = families
        return self


def draw_families(families: Sequence[Family], n: int, rng: np.random.Generator) -> list[Family]:
    """Draws n families with replacement, each as likely as it has train models."""
    if n < 1:
        raise InputError(f"n={n} models cannot be sampled; ask for at least 1, and for 200 if the figures are to be quoted")
    sizes = np.array([len(family) for family in families])
    return [families[i] for i in rng.choice(len(families), size=n, p=sizes / sizes.sum())]


def others_of(family: Family, families: Sequence[Family]) -> list[Family]:
    """Returns the families of other roots whose models have the shapes of this one's."""
    return [other for other in families if other.root != family.root and other.shapes == family.shapes]


def decoded(drawn: Sequence[tuple[Family, Float[np.ndarray, "T Z"]]]) -> list[Sample]:
    """Decodes latents of models, family by family, on all cores; equal ones once."""
    places: dict[int, list[int]] = {}
    for number, (family, _) in enumerate(drawn):
        places.setdefault(id(family), []).append(number)

    def work(numbers: list[int]) -> list[dict[str, Tensor]]:
        family, latents = drawn[numbers[0]][0], np.stack([drawn[number][1] for number in numbers])
        points, which = np.unique(latents.reshape(len(latents), -1), axis=0, return_inverse=True)
        found = family.decode(points.reshape(-1, *latents.shape[1:]))
        return [_clone(found[place]) for place in which.flatten()]

    by_family = in_threads(work, places.values())
    states = {
        number: state
        for some, found in zip(places.values(), by_family, strict=True)
        for number, state in zip(some, found, strict=True)
    }
    return [(family, states[number]) for number, (family, _) in enumerate(drawn)]


def anchor_rule(families: Sequence[Family], count: int) -> str:
    """Returns by what rule `Family.anchors` chooses, in words."""
    unknown = sum(not family.knows_accuracy for family in families)
    best = f"the {counted(count, 'train model')} of each family with the best val accuracy"
    spread = f"{counted(count, 'train model')} spread evenly over each family"
    if not unknown:
        return best
    if unknown == len(families):
        return f"{spread}, as no val accuracy is known"
    return f"{best}; spread evenly over {unknown} of {counted(len(families), 'family')}, where none is known"


def given(families: Sequence[Family], uses: str, train: ImageSplit | None) -> list[Family]:
    """Returns families as a generator of a class gets them: tensors of their own, and train images as far as it may use them.

    Raises `InputError` for a class that is none of `CLASSES`.
    """
    if uses not in CLASSES:
        raise InputError(f"a generator uses one of {', '.join(CLASSES)}, not {uses!r}; set the attribute uses of its class")
    pixels = labels = None
    if train is not None and uses != "weights":
        chosen = torch.arange(min(len(train), IMAGES))
        pixels = torch.as_tensor(train.pixels[chosen]).clone()
        labels = train.labels[chosen].clone() if uses == "labels" else None
    return [replace(family.private(), pixels=pixels, labels=labels) for family in families]


def write_samples(folder: Path, samples: Sequence[Sample]) -> None:
    """Writes each model as a timm folder `0000`, `0001`, ..., in place of older ones in `folder`.

    Raises `InputError` where the folder, or the one that it is in, is a link: nothing is deleted or written elsewhere.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    for place in (folder.parent, folder, partial):
        if place.is_symlink():
            raise InputError(f"{place} is a symbolic link, and samples are written in place of what lies there; delete the link")
    shutil.rmtree(partial, ignore_errors=True)
    for i, (family, state) in enumerate(samples):
        write_json(partial / f"{i:04d}" / "config.json", family.architecture)
        write_weights(partial / f"{i:04d}" / "model.safetensors", state)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
