"""Pictures: encoded images anywhere, decoded once into memory where they fit, and whenever they are needed where they do not.

Every source of images ends here: it hands over training and test pictures, each with a label, and the settings of its card.
Pixels of 16 bits keep their upper 8 (`v >> 8`). Pixels of 32 bits and floats have no agreed white, and are refused.
"""

import io
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from zoo_gen.errors import InputError
from zoo_gen.images import Images, ImageSplit
from zoo_gen.wording import counted

FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is opened, whatever a file is called. Pillow knows more, and hands some to other programs."""
LARGEST = 2**28
"""Pixels that a picture may have, resized: a strip of one pixel's height becomes endless."""

logging.getLogger("PIL").addHandler(logging.NullHandler())  # what is wrong with a picture is raised; the log would say it twice


@dataclass(frozen=True, slots=True)
class Cell:
    """An encoded picture in a row of a file."""

    content: bytes
    file: Path
    row: int

    def __str__(self) -> str:
        """Where it is; rows count from 0."""
        return f"in row {self.row} of {self.file}"


Picture = Cell | Path | np.ndarray
"""An encoded file, the path of one, or pixels (H, W) or (H, W, 3)."""

Labelled = tuple[Sequence[Picture], Sequence[int]]
"""Pictures, and the label of each."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a card says of the images, whatever their source.

    Attributes:
        images: sizes of train, val and test; train and val are drawn from the training pictures.
        num_classes: the labels of the data set are 0 to `num_classes - 1`.
        size: height and width in pixels; the shorter side is resized (bicubic), the centre kept.
        mean, std: per channel, of the pixels in [0, 1]; one number makes grey images, three make RGB.
        seed: of the draw.
        memory_gb: decoded images that need more than this are decoded whenever they are needed.
        workers: threads that decode.
        classes: labels to keep; label i is then `classes[i]`. None keeps all.
        label_names: of the labels that are kept, in their order; None where nobody has said them.
    """

    images: Sequence[int]
    num_classes: int
    size: int
    mean: Sequence[float]
    std: Sequence[float]
    seed: int
    memory_gb: float
    workers: int
    classes: Sequence[int] | None = None
    label_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        kept = self.classes
        if kept is not None and (len(set(kept)) < max(2, len(kept)) or not set(kept) <= set(range(self.num_classes))):
            raise InputError(f"classes must be two or more different labels of 0 to {self.num_classes - 1}, not {list(kept)}")
        if len(self.images) != 3 or min(self.images) < 1:
            raise InputError(f"images must be three positive numbers (train, val, test), not {list(self.images)}")
        if self.label_names is not None and len(self.label_names) != self.kept:
            raise InputError(f"label_names has {counted(len(self.label_names), 'name')} for {counted(self.kept, 'class')}")

    @property
    def kept(self) -> int:
        """How many classes are kept."""
        return self.num_classes if self.classes is None else len(self.classes)

    def draw(self, train: Labelled, test: Labelled | None, val: Labelled | None = None) -> Images:
        """Draws the three splits in the stated sizes, and decodes them.

        Val is drawn from the training pictures where there are none of its own. So is test, and then every class has its share of
        all three.

        Raises `InputError` for too few images, for labels out of range or without training images, and for images that cannot be
        read.
        """
        rng = np.random.default_rng(self.seed)
        splits = []
        for what, (every, given), counts in _parts(train, val, test, self.images):
            odd = sorted({label for label in given if not 0 <= label < self.num_classes})
            if odd:
                raise InputError(
                    f"the data set has the {what} labels {odd[:5]}, not 0 to {self.num_classes - 1}; "
                    "check num_classes and the label column"
                )
            wanted = range(self.num_classes) if self.classes is None else self.classes
            if what == "training" and (never := sorted(set(wanted) - set(given))):
                raise InputError(
                    f"the data set has {counted(len(set(given)), 'class')} with training images, and the card asks for labels 0 to "
                    f"{self.num_classes - 1}: there is no image of {never[:5]}; check num_classes and the label column"
                )
            pictures, labels = self._kept(every, given)
            if len(labels) < sum(counts):
                of = "" if self.classes is None else f" of the classes {list(self.classes)}"
                raise InputError(
                    f"the data set has {counted(len(labels), f'{what} image')}{of}, the card asks for {sum(counts)}; "
                    "set images=[...] to what is there"
                )
            order = rng.permutation(len(labels))
            order = order if test is not None else _spread(order, np.asarray(labels))
            for start, count in zip(np.cumsum([0, *counts]).tolist(), counts, strict=False):
                chosen = sorted(order[start : start + count].tolist())
                pixels = self._pixels([pictures[number] for number in chosen])
                splits.append(ImageSplit(pixels, torch.tensor([labels[number] for number in chosen])))
        return Images(splits[0], splits[1], splits[2], self.kept, self.label_names)

    def _kept(self, pictures: Sequence[Picture], labels: Sequence[int]) -> Labelled:
        """The pictures of the classes to keep, with their new labels."""
        if self.classes is None:
            return pictures, labels
        order = {label: number for number, label in enumerate(self.classes)}
        kept = [number for number, label in enumerate(labels) if label in order]
        return [pictures[number] for number in kept], [order[labels[number]] for number in kept]

    def _pixels(self, pictures: Sequence[Picture]) -> Tensor:
        """Decoded pixels where they fit in memory, streamed ones where not; the first picture is decoded at once in either case."""
        streamed = StreamedPixels(pictures, self, device="cpu")
        if 4 * np.prod(streamed.shape) > self.memory_gb * len(pictures) / sum(self.images) * 1e9:
            self.decode(pictures[0])
            return cast(Tensor, streamed)
        pixels = torch.empty(streamed.shape)
        for start in range(0, len(pictures), 4096):
            pixels[start : start + 4096] = streamed[start : start + 4096]
        return pixels

    def decode(self, picture: Picture) -> Tensor:
        """Decodes one picture to (C, size, size) of 8 bits. Raises `InputError`, naming the file, if it is none."""
        with _readable(picture):
            image = self._framed(_opened(picture).convert("L" if len(self.mean) == 1 else "RGB"))
        pixels = torch.from_numpy(np.array(image))
        return pixels.unsqueeze(0) if pixels.ndim == 2 else rearrange(pixels, "h w c -> c h w")

    def _framed(self, image: Image.Image) -> Image.Image:
        """The centre of an image, resized by its shorter side."""
        scale = self.size / min(image.size)
        if image.size == (self.size, self.size):
            return image
        sides = [max(self.size, round(side * scale)) for side in image.size]
        if sides[0] * sides[1] > LARGEST:
            raise ValueError(f"a strip of {image.size[0]} x {image.size[1]} pixels")
        left, top = (sides[0] - self.size) // 2, (sides[1] - self.size) // 2
        image = image.resize((sides[0], sides[1]), Image.Resampling.BICUBIC)
        return image.crop((left, top, left + self.size, top + self.size))


def _parts(
    train: Labelled, val: Labelled | None, test: Labelled | None, counts: Sequence[int]
) -> Sequence[tuple[str, Labelled, Sequence[int]]]:
    """Says which pictures the splits are drawn from, one draw after the other, and how many are drawn for each."""
    parts: list[tuple[str, Labelled, list[int]]] = [("training", train, [counts[0]])]
    for what, pictures, count in (("validation", val, counts[1]), ("test", test, counts[2])):
        if pictures is None:
            parts[0][2].append(count)
        else:
            parts.append((what, pictures, [count]))
    return parts


def _spread(order: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Reorders pictures (N,) such that every stretch of the order has each class by its share; within a class it stays."""
    places = np.empty(len(order))
    for label in np.unique(labels):
        members = np.flatnonzero(labels[order] == label)
        places[members] = (np.arange(len(members)) + 0.5) / len(members)
    return order[np.argsort(places, kind="stable")]


def shorter_side(picture: Picture) -> int:
    """The height or width of a picture, in pixels, the smaller one. Raises `InputError`, naming the file, if it is none."""
    with _readable(picture):
        return min(_opened(picture).size)


@contextmanager
def _readable(picture: Picture) -> Iterator[None]:
    """A context in which whatever is wrong with a picture is an `InputError` that names it."""
    try:
        yield
    except Exception as error:  # Pillow's readers raise errors of any kind
        where = "of the data set" if isinstance(picture, np.ndarray) else picture
        raise InputError(f"image {where} cannot be read ({error}); restore it, or remove it from the data set") from error


def _opened(picture: Picture) -> Image.Image:
    """Opens a picture, and brings its pixels to 8 bits."""
    if isinstance(picture, np.ndarray):
        image = Image.fromarray(picture)
    else:
        content = picture.content if isinstance(picture, Cell) else picture.read_bytes()
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):  # both are 16 bits at most
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "32-bit integers" if image.mode == "I" else "floats"
        raise ValueError(f"its pixels are {kind}, whose white nobody knows; convert it to 8 or 16 bits")
    return image


class StreamedPixels:
    """Pixels that are decoded by threads whenever they are indexed; stands where a tensor (N, C, H, W) would not fit."""

    def __init__(self, pictures: Sequence[Picture], selection: Selection, *, device: torch.device | str):
        self.pictures, self.selection, self.device = pictures, selection, torch.device(device)
        self.shape = (len(pictures), len(selection.mean), selection.size, selection.size)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """Decodes pictures: a slice or indices of any shape (...) -> (..., C, H, W)."""
        numbers = torch.arange(len(self))[index] if isinstance(index, slice) else index.cpu()
        unique, back = numbers.unique(return_inverse=True)
        with ThreadPoolExecutor(self.selection.workers) as pool:  # Pillow lets go of the interpreter while it decodes
            decoded = list(pool.map(lambda number: self.selection.decode(self.pictures[number]), unique.tolist()))
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.selection.mean, self.selection.std))
        return ((torch.stack(decoded).float() / 255 - mean) / std)[back].to(self.device)

    def to(self, device: torch.device | str) -> "StreamedPixels":
        """The same pictures, decoded onto a device."""
        return StreamedPixels(self.pictures, self.selection, device=device)


def missing(what: str, error: BaseException | None) -> InputError:
    """The error for a data set that is not there."""
    because = "" if error is None else f" ({error})"
    return InputError(f"{what} not found or not readable{because}; put it there, or name another data set on the images card")
