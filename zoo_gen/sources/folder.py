"""Image folders: one folder per class, as ImageNet is laid out (`train/n01440764/*.JPEG`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo_gen.errors import InputError
from zoo_gen.images import Images
from zoo_gen.sources.pictures import Labelled, Selection, missing

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff"}
HIDDEN = (".", "__MACOSX")
"""How names begin that are no images of anybody: `.ipynb_checkpoints`, `._1.jpg`."""


def folder(*, path: str, train: str, test: str, **card: Any) -> Images:
    """Loads an image set of files; classes are numbered in the order of their folders' names.

    Args:
        path: of the data set.
        train, test: folders of the training and test classes inside `path`; train and val are drawn from the first.
        card: values of `zoo_gen.sources.pictures.Selection`.

    Raises `InputError` for folders that are missing, empty or fewer than the classes, and images that cannot be read.
    """
    selection = Selection(**card)
    names = _classes(Path(path) / train)
    if strange := sorted({*_classes(Path(path) / test)} - {*names}):
        raise InputError(
            f"{Path(path) / test} has the class folders {', '.join(strange[:5])}, which {Path(path) / train} has not; "
            "move their images into folders of the training classes, or remove them"
        )
    if selection.num_classes > len(names):
        raise InputError(
            f"{Path(path) / train} has {len(names)} class folders, and the card says num_classes: {selection.num_classes}; set "
            f"num_classes={len(names)}, or add the folders that are missing"
        )
    training = _list(Path(path) / train, names)
    if empty := [name for label, name in enumerate(names) if label not in set(training[1])]:
        raise InputError(f"{Path(path) / train} has class folders without images: {', '.join(empty[:5])}; remove them")
    return selection.draw(training, _list(Path(path) / test, names))


def _classes(place: Path) -> list[str]:
    """The names of the class folders; hidden ones, as other programs leave them, are none."""
    return sorted(entry.name for entry in place.glob("*") if entry.is_dir() and not entry.name.startswith(HIDDEN))


def _list(place: Path, names: Sequence[str]) -> Labelled:
    """Lists the image files of all classes, but for those that are hidden or lie in hidden folders."""
    files, labels = [], []
    for label, name in enumerate(names):
        listed = (file for file in (place / name).rglob("*") if file.suffix.lower() in SUFFIXES)
        found = sorted(file for file in listed if not any(part.startswith(HIDDEN) for part in file.relative_to(place).parts))
        files += found
        labels += [label] * len(found)
    if not files:
        raise missing(f"image folder {place.resolve()} with one folder per class", None)
    return files, labels
