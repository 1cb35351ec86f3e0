"""Pictures: encoded images anywhere, decoded once into memory where they fit, and whenever they are needed where they do not.

Every source of images ends here: it hands over training and test pictures, each with a label, and the settings of its card.
"""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from einops import rearrange
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from zoo_gen.errors import InputError
from zoo_gen.images import Images, ImageSplit

Picture = bytes | Path | np.ndarray
"""An encoded file, the path of one, or pixels (H, W) or (H, W, 3) of 8 bits."""

Labelled = tuple[Sequence[Picture], Sequence[int]]
"""Pictures, and the label of each."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a card says of the images, whatever their source.

    Attributes:
        images: sizes of train, val and test; train and val are drawn from the training pictures.
        num_classes: labels are 0 to `num_classes - 1`.
        size: height and width in pixels; the shorter side is resized (bicubic), the centre kept.
        mean, std: per channel, of the pixels in [0, 1]; one number makes grey images, three make RGB.
        seed: of the draw.
        memory_gb: decoded images that need more than this are decoded whenever they are needed.
        workers: threads that decode.
    """

    images: Sequence[int]
    num_classes: int
    size: int
    mean: Sequence[float]
    std: Sequence[float]
    seed: int
    memory_gb: float
    workers: int

    def __post_init__(self) -> None:
        if len(self.images) != 3 or min(self.images) < 1:
            raise InputError(f"images must be three positive numbers (train, val, test), not {list(self.images)}")

    def draw(self, train: Labelled, test: Labelled) -> Images:
        """Draws train and val from the training pictures, test from the others, in the stated sizes, and decodes them.

        Raises `InputError` for too few images, for labels out of range and for images that cannot be read.
        """
        rng = np.random.default_rng(self.seed)
        splits = []
        for what, (pictures, labels), counts in (("training", train, self.images[:2]), ("test", test, self.images[2:])):
            if len(labels) < sum(counts):
                raise InputError(
                    f"the data set has {len(labels)} {what} images, the card asks for {sum(counts)}; "
                    "set images=[...] to what is there"
                )
            odd = sorted({label for label in labels if not 0 <= label < self.num_classes})
            if odd:
                raise InputError(
                    f"the data set has the {what} labels {odd[:5]}, not 0 to {self.num_classes - 1}; "
                    "check num_classes and the label column"
                )
            order = rng.permutation(len(labels))
            for start, count in zip((0, counts[0]), counts, strict=False):
                chosen = sorted(order[start : start + count].tolist())
                pixels = self._pixels([pictures[number] for number in chosen])
                splits.append(ImageSplit(pixels, torch.tensor([labels[number] for number in chosen])))
        return Images(splits[0], splits[1], splits[2], self.num_classes)

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
        try:
            if isinstance(picture, np.ndarray):
                opened = Image.fromarray(picture)
            else:
                opened = Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture)
            image = opened.convert("L" if len(self.mean) == 1 else "RGB")
        except (UnidentifiedImageError, OSError, ValueError, TypeError) as error:
            where = f"image {picture}" if isinstance(picture, Path) else "an image of the data set"
            raise InputError(f"{where} cannot be read ({error}); restore the file, or remove it from the data set") from error
        scale = self.size / min(image.size)
        if image.size != (self.size, self.size):
            sides = [max(self.size, round(side * scale)) for side in image.size]
            left, top = (sides[0] - self.size) // 2, (sides[1] - self.size) // 2
            image = image.resize((sides[0], sides[1]), Image.Resampling.BICUBIC)
            image = image.crop((left, top, left + self.size, top + self.size))
        pixels = torch.from_numpy(np.array(image))
        return pixels.unsqueeze(0) if pixels.ndim == 2 else rearrange(pixels, "h w c -> c h w")


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
