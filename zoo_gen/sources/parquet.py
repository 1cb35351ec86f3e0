"""Image sets in the Parquet form of the Hugging Face hub: a column of `{bytes, path}` and a column of integer labels.

Read by pyarrow, which the zoo's index needs anyway, rather than by `datasets`, which leaves a second copy in Arrow files.
"""

import glob
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from zoo_gen.errors import InputError
from zoo_gen.images import Images
from zoo_gen.sources.found import TEST, TRAIN, VAL, Found
from zoo_gen.sources.pictures import Cell, Labelled, Selection, missing

LARGEST_LABEL = 2**20
"""No data set has more classes; a larger number is an identifier."""


def parquet(
    *,
    source: str,
    train: str,
    test: str | None,
    image: str,
    label: str,
    val: str | None = None,
    foreign: bool = False,
    **card: Any,
) -> Images:
    """Loads an image set from Parquet files.

    Args:
        source: a folder, or the name of a data set of the hub (`owner/name`), which is downloaded once.
        train, test, val: patterns of the files of each split in the source. Images of splits without a pattern are drawn from the
            training images.
        image, label: columns of the images and labels.
        foreign: whether somebody else wrote the card: nothing is downloaded then.
        card: values of `zoo_gen.sources.pictures.Selection`.

    Raises `InputError` for files, columns or images that are missing or damaged.
    """
    selection = Selection(**card)
    patterns = [pattern for pattern in (train, val, test) if pattern is not None]
    folder = Path(source) if Path(source).is_dir() else _download(source, patterns, fetch=not foreign)
    training = _read(folder, train, image, label)
    testing, validation = (None if pattern is None else _read(folder, pattern, image, label) for pattern in (test, val))
    return selection.draw(training, testing, validation)


def find_in_parquet(source: str) -> Found:
    """Finds the images of a Parquet file, a folder of them, or a data set of the hub, which is downloaded once.

    Files are training, validation and test files by the words in their names; where no file says so, all are training files. The
    images are the one column of encoded images, the labels the one column of integers, or of integers that the hub names
    (`ClassLabel`).

    Raises `InputError` where columns or files are ambiguous.
    """
    given = Path(source)
    place = given if given.is_dir() else given.parent if given.is_file() else _download(source, ["*.parquet"], fetch=True)
    files = [given] if given.is_file() else sorted(place.rglob("*.parquet"))
    files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(place).parts)]
    if not files:
        raise missing(f"Parquet files in {source}", None)
    parts = [[file for file in files if set(known) & _words(file.relative_to(place))] for known in (TRAIN, VAL, TEST)]
    train, val, test = parts if parts[0] and not given.is_file() else (files, [], [])
    if val and not test:
        val, test = [], val
    image, label, names = _columns(train[0])
    labels = [[number for file in part for number in _integers(file, label)] for part in (train, val, test)]
    everything = {number for part in labels for number in part}
    if not 0 <= min(everything, default=0) <= max(everything, default=0) < LARGEST_LABEL:
        raise InputError(
            f"column '{label}' of {source} has the labels {sorted(everything)[:3]} ... {max(everything)}, not 0, 1, 2 ..."
        )
    known = names if len(names) > max(everything, default=0) else [str(number) for number in range(max(everything, default=0) + 1)]
    patterns = [_pattern(place, part) if part else None for part in (train, val, test)]
    card = {
        "_target_": "zoo_gen.sources.parquet.parquet",
        "source": os.path.abspath(place) if given.exists() else source,
        **dict(zip(("train", "val", "test"), patterns, strict=True)),
        "image": image,
        "label": label,
    }
    return Found(card, known, labels[0], labels[1] or None, labels[2] or None)


def _words(path: Path) -> set[str]:
    """The words in the name of a file and of its folders."""
    return set(re.findall(r"[a-z]+", str(path.with_suffix("")).lower()))


def _pattern(place: Path, files: Sequence[Path]) -> str:
    """A pattern that these files fit and no others. Raises `InputError` if there is none: they are not one data set."""
    inside = [str(file.relative_to(place)) for file in files]
    start = os.path.commonprefix(inside)  # noqa: RUF071 (of characters, as globs are)
    pattern = glob.escape(inside[0]) if len(files) == 1 else f"{glob.escape(start)}*.parquet"
    if sorted(place.glob(pattern)) != sorted(files):
        shown = ", ".join(inside[:4])
        raise InputError(f"{place} has Parquet files of several kinds ({shown} ...); name one file, or the folder of one data set")
    return pattern


def _columns(file: Path) -> tuple[str, str, list[str]]:
    """The column of images, that of labels, and the names of the labels where the hub's metadata has them."""
    try:
        schema = pyarrow.parquet.read_schema(file)
    except (OSError, pa.ArrowException) as error:
        raise missing(str(file), error) from error
    images = [field.name for field in schema if _holds_images(field.type)]
    labels = [field.name for field in schema if pa.types.is_integer(field.type) and not field.name.startswith("__")]
    named = _class_labels(schema)
    chosen = [name for name in labels if name in named] or labels
    if len(images) != 1 or len(chosen) != 1:
        columns = ", ".join(f"{field.name} ({str(field.type)[:40]})" for field in schema)
        raise InputError(
            f"{file} must have one column of encoded images and one of integer labels, and has {len(images)} and {len(chosen)}: "
            f"{columns}; leave one of each, or write a card that names them (docs/how_to/own_images.md)"
        )
    return images[0], chosen[0], named.get(chosen[0], [])


def _holds_images(kind: pa.DataType) -> bool:
    """Tells whether a column has encoded images: bytes, or `{bytes, path}`."""
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_images(field.type) for field in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _class_labels(schema: pa.Schema) -> dict[str, list[str]]:
    """The names of the labels of each column that the hub calls `ClassLabel`; anybody may have written them."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {name: [str(text) for text in entry["names"]] for name, entry in features.items() if "names" in entry}
    except (ValueError, LookupError, TypeError, AttributeError):
        return {}


def _integers(file: Path, label: str) -> list[int]:
    """The labels of a file. Raises `InputError` for a file without that column, and for rows without a label."""
    try:
        column = pyarrow.parquet.read_table(file, columns=[label])[label]
        if not pa.types.is_integer(column.type) or column.null_count:
            raise InputError(f"{file} has rows without an integer in '{label}'; remove them")
        return column.to_pylist()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise missing(f"column '{label}' of {file}", error) from error


def _download(source: str, patterns: Sequence[str], *, fetch: bool) -> Path:
    """Downloads the files of a hub data set if it may, or finds them in the hub's cache."""
    import huggingface_hub
    import huggingface_hub.errors

    try:
        here = {"repo_type": "dataset", "allow_patterns": list(patterns), "local_files_only": not fetch}
        return Path(huggingface_hub.snapshot_download(source, **here))
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        summary = str(error).strip().partition("\n")[0]
        if not fetch:
            summary = "a zoo's images are not downloaded unless --trust-images is added to the command"
        raise missing(f"folder or hub data set '{source}'", ValueError(summary)) from error


def _read(folder: Path, pattern: str, image: str, label: str) -> Labelled:
    """Reads the encoded images and labels of all files that fit a pattern, in the order of their names."""
    found = sorted(folder.glob(pattern))
    files = [file for file in found if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    if not files:
        raise missing(f"files {pattern} in {folder.resolve()}", None)
    pictures: list[Cell] = []
    labels: list[int] = []
    for file in files:
        try:
            columns = pyarrow.parquet.read_schema(file).names
            if image not in columns or label not in columns:
                raise InputError(f"{file} has the columns {columns}, not '{image}' and '{label}'; set image=... and label=...")
            table = pyarrow.parquet.read_table(file, columns=[image, label])
            cells, numbers = table[image].to_pylist(), table[label].to_pylist()
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            raise missing(str(file), error) from error
        for row, (cell, number) in enumerate(zip(cells, numbers, strict=True)):
            content = cell.get("bytes") if isinstance(cell, dict) else cell
            if not isinstance(content, bytes) or not isinstance(number, int):
                raise InputError(
                    f"row {row} of {file} does not hold an encoded image in '{image}' and an integer in '{label}'; "
                    "set image=... and label=..., or remove the row"
                )
            pictures.append(Cell(content, file, row))
            labels.append(number)
    return pictures, labels
