"""Image folders: one folder per class, as ImageNet is laid out (`train/n01440764/*.JPEG`)."""

from collections.abc import Sequence
from pathlib import Path

from zoo_gen.images import Images
from zoo_gen.sources.pictures import Look, assemble, missing

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff"}


def folder(
    *,
    path: str,
    train: str,
    test: str,
    images: Sequence[int],
    num_classes: int,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
    memory_gb: float,
    workers: int,
) -> Images:
    """Loads an image set of files; classes are numbered in the order of their folders' names.

    Args:
        path: of the data set.
        train: folder of the training classes inside `path`; train and val are drawn from it.
        test: folder of the test classes inside `path`.
        images: sizes of train, val and test.
        num_classes: number of class folders.
        size: height and width in pixels.
        mean: per channel, of the pixels in [0, 1].
        std: per channel, of the pixels in [0, 1].
        seed: of the split.
        memory_gb: decoded images that need more are decoded whenever they are needed.
        workers: threads that decode.

    Raises `InputError` for folders that are missing or empty and images that cannot be read.
    """
    names: list[str] = sorted(entry.name for entry in (Path(path) / train).glob("*") if entry.is_dir())
    parts = [_list(Path(path) / part, names) for part in (train, test)]
    look = Look(size, mean, std)
    return assemble(*parts, images=images, num_classes=num_classes, look=look, seed=seed, memory_gb=memory_gb, workers=workers)


def _list(place: Path, names: Sequence[str]) -> tuple[list[Path], list[int]]:
    """Lists the image files of all classes."""
    files, labels = [], []
    for label, name in enumerate(names):
        found = sorted(file for file in (place / name).rglob("*") if file.suffix.lower() in SUFFIXES)
        files += found
        labels += [label] * len(found)
    if not files:
        raise missing(f"image folder {place.resolve()} with one folder per class", None)
    return files, labels
