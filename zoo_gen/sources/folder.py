"""Image folders: one folder per class, as ImageNet is laid out (`train/n01440764/*.JPEG`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo_gen.images import Images
from zoo_gen.sources.pictures import Labelled, Selection, missing

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff"}


def folder(*, path: str, train: str, test: str, **card: Any) -> Images:
    """Loads an image set of files; classes are numbered in the order of their folders' names.

    Args:
        path: of the data set.
        train, test: folders of the training and test classes inside `path`; train and val are drawn from the first.
        card: values of `zoo_gen.sources.pictures.Selection`.

    Raises `InputError` for folders that are missing or empty and images that cannot be read.
    """
    selection = Selection(**card)
    names = sorted(entry.name for entry in (Path(path) / train).glob("*") if entry.is_dir())
    return selection.draw(*(_list(Path(path) / part, names) for part in (train, test)))


def _list(place: Path, names: Sequence[str]) -> Labelled:
    """Lists the image files of all classes."""
    files, labels = [], []
    for label, name in enumerate(names):
        found = sorted(file for file in (place / name).rglob("*") if file.suffix.lower() in SUFFIXES)
        files += found
        labels += [label] * len(found)
    if not files:
        raise missing(f"image folder {place.resolve()} with one folder per class", None)
    return files, labels
