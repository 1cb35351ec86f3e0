"""Image sets in the Parquet form of the Hugging Face hub: a column of `{bytes, path}` and a column of integer labels.

Read by pyarrow, which the zoo's index needs anyway, rather than by `datasets`: hub sets are Parquet files, one reader serves local
ones too, and no second copy in Arrow files is left on the disk.
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from zoo_gen.errors import InputError
from zoo_gen.images import Images
from zoo_gen.sources.pictures import Look, assemble, missing


def parquet(
    *,
    source: str,
    train: str,
    test: str,
    image: str,
    label: str,
    images: Sequence[int],
    num_classes: int,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
    memory_gb: float,
    workers: int,
) -> Images:
    """Loads an image set from Parquet files.

    Args:
        source: a folder, or the name of a data set of the hub (`owner/name`), which is downloaded once.
        train: pattern of the training files in the source.
        test: pattern of the test files.
        image: column of the images.
        label: column of the labels.
        images: sizes of train, val and test; train and val are drawn from the training files.
        num_classes: of the labels.
        size: height and width in pixels.
        mean: per channel, of the pixels in [0, 1].
        std: per channel, of the pixels in [0, 1].
        seed: of the split.
        memory_gb: decoded images that need more are decoded whenever they are needed.
        workers: threads that decode.

    Raises `InputError` for files, columns or images that are missing or damaged.
    """
    folder = Path(source) if Path(source).is_dir() else _download(source, [train, test])
    parts = [_read(folder, pattern, image, label) for pattern in (train, test)]
    look = Look(size, mean, std)
    return assemble(*parts, images=images, num_classes=num_classes, look=look, seed=seed, memory_gb=memory_gb, workers=workers)


def _download(source: str, patterns: Sequence[str]) -> Path:
    """Downloads the files of a hub data set, or finds them in the hub's cache."""
    import huggingface_hub
    import huggingface_hub.errors

    try:
        return Path(huggingface_hub.snapshot_download(source, repo_type="dataset", allow_patterns=list(patterns)))
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        summary = str(error).strip().partition("\n")[0]
        raise missing(f"folder or hub data set '{source}'", ValueError(summary)) from error


def _read(folder: Path, pattern: str, image: str, label: str) -> tuple[list[bytes], list[int]]:
    """Reads the encoded images and labels of all files that fit a pattern, in the order of their names."""
    files = sorted(folder.glob(pattern))
    if not files:
        raise missing(f"files {pattern} in {folder.resolve()}", None)
    pictures: list[bytes] = []
    labels: list[int] = []
    for file in files:
        try:
            columns = pyarrow.parquet.read_schema(file).names
            if image not in columns or label not in columns:
                raise InputError(f"{file} has the columns {columns}, not '{image}' and '{label}'; set image=... and label=...")
            table = pyarrow.parquet.read_table(file, columns=[image, label])
        except (OSError, pa.ArrowException) as error:
            raise missing(str(file), error) from error
        cells = table[image].to_pylist()
        pictures += [cell["bytes"] if isinstance(cell, dict) else cell for cell in cells]
        labels += table[label].to_pylist()
    if any(not isinstance(picture, bytes) for picture in pictures) or any(not isinstance(number, int) for number in labels):
        raise InputError(
            f"{folder / pattern} does not hold encoded images in '{image}' and integers in '{label}'; set image=... and label=..."
        )
    return pictures, labels
