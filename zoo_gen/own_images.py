"""A user's own images in place of those of a card: what they are is found in the data, and the architecture follows.

Splits are the folders or files that there are. Missing ones are drawn by the seed: 20 % of the images for test, 10 % for val. Mean
and standard deviation are those of all pixels of the train images, resized: of `LOOKED`, evenly spaced, where there are more.
"""

import math
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from zoo_gen.architecture import timm_sizes
from zoo_gen.config import CONFIGS, instantiate, stored
from zoo_gen.errors import InputError
from zoo_gen.images import Images
from zoo_gen.sources.folder import find_in_folder
from zoo_gen.sources.found import Found
from zoo_gen.sources.parquet import find_in_parquet
from zoo_gen.sources.pictures import Picture, StreamedPixels, shorter_side
from zoo_gen.wording import counted

LOOKED = 20_000
"""Train images that are opened to find size, channels, mean and standard deviation."""
PATCHES = 16
"""Patches along a side, at most, unless a size is given: attention is quadratic in their number."""
TEST, VAL = 0.2, 0.1
"""Shares of splits that have no images of their own."""
_HOW = {"memory_gb": 8, "workers": 4}
_SET = (
    "images@",
    "zoo.pretrain_images",
    "zoo.finetune_images",
    *(f"zoo.architecture.{key}" for key in ("in_chans", "img_size", "mean", "std")),
)


def refuse_set_twice(overrides: Sequence[str]) -> None:
    """Raises `InputError` if a command line also sets what `images=` finds."""
    if twice := [text for text in overrides if text.lstrip("+~").startswith(_SET) and not text.partition("=")[0].endswith(".seed")]:
        raise InputError(
            f"images= finds what {twice[0]} sets; leave that out (size= and classes= may be set), or write a card of images"
        )


def with_images(
    zoo: Mapping[str, Any],
    *,
    images: str,
    pretrain_images: str | None,
    classes: Sequence[str],
    size: int | None,
) -> tuple[dict[str, Any], list[str]]:
    """Returns the resolved card of a zoo with other images, and what was found, a line for each data set.

    Args:
        zoo: the card; its images say the seeds of the splits.
        images: a folder, a Parquet file, a data set of the hub (`owner/name`) or the name of a card of images.
        pretrain_images: those of the roots; None for the same.
        classes: of `images`, by name or by number; label i is `classes[i]`. All, where none are named.
        size: height and width in pixels; None for what the images have.

    Raises:
        InputError: images are missing, damaged or ambiguous, or do not fit the architecture.
    """
    patch = timm_sizes(instantiate(zoo["architecture"]))["patch_size"]
    seeds = {stage: zoo[f"{stage}_images"].get("seed", 0) for stage in ("pretrain", "finetune")}
    own = look_at(images, classes, seeds["finetune"])
    others = [] if pretrain_images is None else [look_at(pretrain_images, [], seeds["pretrain"])]
    side, note = _side(own.sides, patch if isinstance(patch, int) else patch[0], size)
    mean, std = own.moments(side)
    channels = max([len(mean), *(len(other.moments(side)[0]) for other in others)])
    shape = {"mean": _repeated(mean, channels), "std": _repeated(std, channels)}
    cards = [{**look.card, **shape, **({"size": side} if "size" in look.card else {})} for look in (own, *others)]
    colours = "1 channel" if channels == 1 else f"{channels} channels"
    lines = [f"{look.about}; {side} x {side} pixels, {colours}" for look in (own, *others)]
    lines[0] += f", mean {' '.join(f'{value:.3f}' for value in mean)}, std {' '.join(f'{value:.3f}' for value in std)}{note}"
    architecture = {**zoo["architecture"], **shape, "in_chans": channels, "img_size": side}
    return {**zoo, "architecture": architecture, "finetune_images": cards[0], "pretrain_images": cards[-1]}, lines


@dataclass(frozen=True)
class Look:
    """A data set as it was found.

    Attributes:
        card: of its images.
        about: a line on classes and counts.
        sides: the shorter sides of its train images.
        pixels: of the train images, not yet decoded; None where the card says mean and standard deviation.
    """

    card: Mapping[str, Any]
    about: str
    sides: Sequence[int]
    pixels: StreamedPixels | None

    def moments(self, side: int) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel; one channel if all images are grey."""
        if self.pixels is None:
            return list(self.card["mean"]), list(self.card["std"])
        selection = replace(self.pixels.selection, size=side)
        counts, grey = torch.zeros(3, 256, dtype=torch.int64), True
        with ThreadPoolExecutor(selection.workers) as pool:
            for pictures in _shown(_some(self.pixels.pictures), "mean and std of images"):
                batch = torch.stack(list(pool.map(selection.decode, pictures)))
                grey = grey and all(torch.equal(batch[:, 0], batch[:, channel]) for channel in (1, 2))
                counts += torch.stack([batch[:, channel].flatten().bincount(minlength=256) for channel in range(3)])
        shares, values = counts.double() / counts.sum(1, keepdim=True), torch.arange(256, dtype=torch.float64) / 255
        mean = shares @ values
        std = (shares @ values**2 - mean**2).clamp(min=0).sqrt()
        if float(std.min()) < 1e-3:
            raise InputError(f"{self.about}: all pixels of its train images are the same; there is nothing to learn")
        rounded = [[round(value, 4) for value in moment.tolist()] for moment in (mean, std)]
        return (rounded[0][:1], rounded[1][:1]) if grey else (rounded[0], rounded[1])


def look_at(place: str, classes: Sequence[str], seed: int) -> Look:
    """Finds the images of a place.

    Args:
        place: a folder, a Parquet file, a data set of the hub (`owner/name`) or the name of a card of images.
        classes: by name or by number; label i is `classes[i]`. All, where none are named.
        seed: draws the splits that are missing.

    Raises:
        InputError: there is no such place, or its images cannot be used.
    """
    card = CONFIGS / "images" / f"{place}.yaml"
    if Path(place).is_dir() and not any(Path(place).rglob("*.parquet")):
        found = find_in_folder(place)
    elif Path(place).exists() or (re.fullmatch(r"[\w.-]+/[\w.-]+", place) and not place.startswith(".")):
        found = find_in_parquet(place)
    elif card.is_file() and Path(place).name == place:
        return _look_at_card(card, classes, seed)
    else:
        known = ", ".join(sorted(path.stem for path in card.parent.glob("*.yaml")))
        raise InputError(
            f"there are no images at {place}; name a folder, a Parquet file, a hub data set (owner/name) or one of {known}"
        )
    kept = _kept(found, classes, place)
    counts, drawn = _counts(found, kept, place)
    names = [found.names[label] for label in kept]
    everything = kept == list(range(len(found.names)))
    described = {
        **found.card,
        "images": counts,
        "num_classes": len(found.names),
        "classes": None if everything else kept,
        "label_names": names,
        "size": PATCHES,
        "mean": [0.0] * 3,
        "std": [1.0] * 3,
        **_HOW,
        "seed": seed,
    }
    images: Images = instantiate({**described, "memory_gb": 0})  # listed, and decoded when they are needed
    assert isinstance(images.train.pixels, StreamedPixels)
    shown = ", ".join(names if len(names) <= 6 else [*names[:3], "...", names[-1]])
    splits = ", ".join(f"{split} {count:,}" for split, count in zip(("train", "val", "test"), counts, strict=True))
    about = f"images {place}: {counted(len(names), 'class')} ({shown}), {splits}{drawn and f' ({drawn} drawn by seed {seed})'}"
    sides = [shorter_side(picture) for batch in _shown(_some(images.train.pixels.pictures), "sizes of images") for picture in batch]
    return Look(described, about, sides, images.train.pixels)


def _look_at_card(path: Path, classes: Sequence[str], seed: int) -> Look:
    """Takes images from a card as it is, with some classes of it."""
    card = stored(f"images/{path.name}", seed=seed)
    if not all(text.isdecimal() for text in classes):
        raise InputError(f"classes of the card {path.stem} are numbers, not {', '.join(classes)}")
    card |= {"classes": [int(text) for text in classes]} if classes else {}
    side = card["size"] if "size" in card else instantiate(card).train.pixels.shape[-1]
    return Look(card, f"images of the card {path.stem}", [side], None)


def _kept(found: Found, classes: Sequence[str], place: str) -> list[int]:
    """The labels to keep, in their new order: those that are named, or all that there are images of."""
    present = sorted(set(found.train))
    wanted = list(classes) or [found.names[label] for label in present]
    known = {**{str(label): label for label in present}, **{found.names[label]: label for label in present}}
    if odd := [text for text in wanted if text not in known]:
        shown = ", ".join(found.names[label] for label in present[:10]) + (" ..." if len(present) > 10 else "")
        raise InputError(f"{place} has no images of the class '{odd[0]}'; its classes are {shown}")
    kept = [known[text] for text in wanted]
    if len(set(kept)) < max(2, len(kept)):
        raise InputError(f"{place} must have two or more different classes, not {', '.join(wanted)}")
    strange = sorted({*(found.val or ()), *(found.test or ())} - {*present})
    if strange and not classes:
        names = ", ".join(found.names[label] for label in strange[:5])
        raise InputError(f"{place} has test images of classes without train images ({names}); remove them, or name classes=[...]")
    return kept


def _counts(found: Found, kept: Sequence[int], place: str) -> tuple[list[int], str]:
    """How many images train, val and test have, and which splits are drawn."""
    there = [
        None if labels is None else sum(label in set(kept) for label in labels) for labels in (found.train, found.val, found.test)
    ]
    train, val, test = there
    assert train is not None
    drawn = [name for name, count in (("val", val), ("test", test)) if count is None]
    test = max(1, round(TEST * train)) if found.test is None else test
    val = max(1, round(VAL * train)) if found.val is None else val
    assert val is not None
    assert test is not None
    train -= sum(count for name, count in (("val", val), ("test", test)) if name in drawn)
    if train < 2 * len(kept) or min(val, test) < 1:
        there = f"{max(train, 0)} train, {val} val and {counted(test, 'test image')} for {counted(len(kept), 'class')}"
        raise InputError(
            f"{place} has {there}; each class needs two train images or more. If labels are identifiers, choose data with "
            "labels; classes=[...] keeps some"
        )
    return [train, val, test], " and ".join(drawn)


def _side(sides: Sequence[int], patch: int, given: int | None) -> tuple[int, str]:
    """The size in pixels, and a note if it is not that of all images. Raises `InputError` for one that patches do not divide."""
    if given is not None:
        if given < patch or given % patch:
            near = sorted({max(patch, given // patch * patch), (given // patch + 1) * patch})
            raise InputError(
                f"size={given} is no multiple of the architecture's patch size {patch}; choose size="
                f"{' or size='.join(map(str, near))}, or another zoo.architecture.model_args.patch_size"
            )
        side = given
    else:
        side = max(patch, min(int(np.median(sides)), PATCHES * patch) // patch * patch)
    low, high = min(sides), max(sides)
    if low == high == side:
        return side, ""
    range_ = f"{low}" if low == high else f"{low} to {high}"
    why = "" if given is not None else f" ({side // patch} x {side // patch} patches of {patch}; size= changes that)"
    return side, f"; resized from {range_} pixels{why}"


def _repeated(values: Sequence[float], channels: int) -> list[float]:
    """Grey values for each of three channels."""
    return list(values) if len(values) == channels else [values[0]] * channels


def _some(pictures: Sequence[Picture]) -> Sequence[Picture]:
    """At most `LOOKED` of the pictures, evenly spaced."""
    return pictures[:: math.ceil(len(pictures) / LOOKED)]


def _shown(pictures: Sequence[Picture], what: str) -> Any:
    """Yields pictures in batches, with a progress bar that vanishes."""
    batches = [pictures[start : start + 128] for start in range(0, len(pictures), 128)]
    console = Console(stderr=True)
    return track(batches, what, transient=True, console=console, disable=not console.is_terminal)
