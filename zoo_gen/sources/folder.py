"""Image folders: one folder per class, as ImageNet is laid out (`train/n01440764/*.JPEG`)."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo_gen.errors import InputError
from zoo_gen.images import Images
from zoo_gen.sources.found import TEST, TRAIN, VAL, Found
from zoo_gen.sources.pictures import Labelled, Selection, missing

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff"}
HIDDEN = (".", "__MACOSX")
"""How names begin that are no images of anybody: `.ipynb_checkpoints`, `._1.jpg`."""


def folder(*, path: str, train: str, test: str | None, val: str | None = None, **card: Any) -> Images:
    """Loads an image set of files; classes are numbered in the order of their folders' names.

    Args:
        path: of the data set.
        train, test, val: folders of the classes of each split inside `path`; `.` is the folder itself. Images of splits without
            one are drawn from the training images.
        card: values of `zoo_gen.sources.pictures.Selection`.

    Raises `InputError` for folders that are missing, empty or fewer than the classes, and images that cannot be read.
    """
    selection = Selection(**card)
    names, training, validation, testing = _splits(Path(path), train, val, test)
    if selection.num_classes > len(names):
        raise InputError(
            f"{Path(path) / train} has {len(names)} class folders, and the card says num_classes: {selection.num_classes}; set "
            f"num_classes={len(names)}, or add the folders that are missing"
        )
    assert training is not None
    return selection.draw(training, testing, validation)


def find_in_folder(path: str) -> Found:
    """Finds the images of a folder: `train/`, `val/`, `test/` with class folders inside, or the class folders alone.

    Where there is `val/` and no `test/`, as ImageNet has it, its images are the test images.

    Raises `InputError` for a folder without class folders, and as `folder` does.
    """
    inside = {entry.name.lower(): entry.name for entry in sorted(Path(path).iterdir()) if entry.is_dir()}
    train, val, test = (next((inside[name] for name in known if name in inside), None) for known in (TRAIN, VAL, TEST))
    if train is None:
        train, val, test = ".", None, None
    elif test is None:
        val, test = None, val
    if not _classes(Path(path) / train):
        raise InputError(
            f"{Path(path) / train} has no class folders; put the images of each class into a folder: "
            f"{Path(path) / train / 'cat' / '1.png'}"
        )
    names, training, *others = _splits(Path(path), train, val, test)
    assert training is not None
    card = {"_target_": "zoo_gen.sources.folder.folder", "path": os.path.abspath(path), "train": train, "val": val, "test": test}
    return Found(card, names, training[1], *(None if part is None else part[1] for part in others))


def _splits(path: Path, train: str, val: str | None, test: str | None) -> tuple[Sequence[str], *tuple[Labelled | None, ...]]:
    """Lists the names of the classes, and the pictures of train, val and test; None for a split that has no folder."""
    names = _classes(path / train)
    for split in (val, test):
        if split is not None and (strange := sorted({*_classes(path / split)} - {*names})):
            raise InputError(
                f"{path / split} has the class folders {', '.join(strange[:5])}, which {path / train} has not; "
                "move their images into folders of the training classes, or remove them"
            )
    training = _list(path / train, names)
    if empty := [name for label, name in enumerate(names) if label not in set(training[1])]:
        raise InputError(f"{path / train} has class folders without images: {', '.join(empty[:5])}; remove them")
    return names, training, *(None if split is None else _list(path / split, names) for split in (val, test))


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
