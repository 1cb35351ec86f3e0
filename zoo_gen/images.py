"""Image data sets: normalised train / val / test tensors, split once by a seed."""

import functools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo_gen.errors import InputError
from zoo_gen.wording import counted

AHEAD = 2
"""Batches of streamed images that are decoded while one trains."""


@dataclass(frozen=True, repr=False)
class ImageSplit:
    """Normalised images and their labels, numbered from 0."""

    pixels: Float[Tensor, "N C H W"]
    labels: Int[Tensor, "N"]

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        channels, height, width = self.pixels.shape[1:]
        return f"ImageSplit({counted(len(self), 'image')} of {channels} x {height} x {width})"

    def batches(self, chosen: Sequence[Int[Tensor, "..."]]) -> Iterator[Float[Tensor, "... C H W"]]:
        """Yields the pixels of one choice after the other; those that must be decoded are so ahead of time, by a thread."""
        if isinstance(self.pixels, Tensor):
            yield from (self.pixels[numbers] for numbers in chosen)
            return
        with ThreadPoolExecutor(1) as decoder:
            waiting = deque(decoder.submit(self.pixels.__getitem__, numbers) for numbers in chosen[:AHEAD])
            for number in range(len(chosen)):
                ready = waiting.popleft().result()
                waiting.extend(decoder.submit(self.pixels.__getitem__, numbers) for numbers in chosen[number + AHEAD :][:1])
                yield ready

    def to(self, device: torch.device | str) -> "ImageSplit":
        """The same images on a device."""
        return ImageSplit(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True, repr=False)
class Images:
    """Three disjoint splits of one image data set; test images are touched only when results are recorded.

    `label_names` are of the classes, in the order of their labels; None where nobody has said them.
    """

    train: ImageSplit
    val: ImageSplit
    test: ImageSplit
    num_classes: int
    label_names: Sequence[str] | None = None

    def to(self, device: torch.device | str) -> "Images":
        """The same images on a device."""
        return replace(self, train=self.train.to(device), val=self.val.to(device), test=self.test.to(device))

    def __repr__(self) -> str:
        channels, height, width = self.train.pixels.shape[1:]
        counts = ", ".join(f"{name} {len(getattr(self, name)):,}" for name in ("train", "val", "test"))
        return f"Images({counts}; {counted(self.num_classes, 'class')}, {channels} x {height} x {width})"


def images_stand_in(card: Mapping[str, Any]) -> Images:
    """Returns images without content, of the counts and classes that a card states: enough to plan with."""
    shape = (len(card["mean"]), card["size"], card["size"])
    train, val, test = (
        ImageSplit(torch.empty(count, *shape, device="meta"), torch.empty(count, dtype=torch.int64, device="meta"))
        for count in card["images"]
    )
    classes = len(card["classes"]) if card.get("classes") else card["num_classes"]
    return Images(train, val, test, classes, card.get("label_names"))


def digits(*, classes: Sequence[int], fractions: Sequence[float], mean: Sequence[float], std: Sequence[float], seed: int) -> Images:
    """Loads the 8x8 grey digits that ship with scikit-learn (no download), keeping some of the ten classes.

    Args:
        classes: digits to keep; label i is `classes[i]`.
        fractions: shares of train, val and test, stratified by class.
        mean, std: of the pixels in [0, 1], one number each.
        seed: of the split.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998 (test part: 1,797 images).
    """
    if not set(classes) <= set(range(10)) or len(set(classes)) != len(classes) or len(classes) < 2:
        raise InputError(f"classes must be two or more different ones of the digits' 0 to 9, not {list(classes)}")
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise InputError(f"fractions must be three positive numbers that sum to 1 (train, val, test), not {list(fractions)}")
    scans, targets = _scans()
    kept = np.isin(targets, classes)
    pixels = torch.from_numpy(scans[kept]).float().unsqueeze(1) / 16
    order = {digit: label for label, digit in enumerate(classes)}
    labels = torch.tensor([order[digit] for digit in targets[kept].tolist()])
    normalized = (pixels - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    rng = np.random.default_rng(seed)
    parts: tuple[list[int], ...] = ([], [], [])
    for label in range(len(classes)):
        members = rng.permutation(np.flatnonzero(labels.numpy() == label))
        first, second = (round(len(members) * share) for share in (fractions[0], fractions[0] + fractions[1]))
        for part, chosen in zip(parts, (members[:first], members[first:second], members[second:]), strict=True):
            part.extend(chosen.tolist())
    train, val, test = (ImageSplit(normalized[sorted(part)], labels[sorted(part)]) for part in parts)
    return Images(train, val, test, len(classes))


@functools.cache
def _scans() -> tuple[np.ndarray, np.ndarray]:
    """Returns the scans of all ten digits, and which each shows; read from text once a process."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    return bunch.images, bunch.target
