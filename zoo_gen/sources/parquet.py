"""Image sets in the Parquet form of the Hugging Face hub: a column of `{bytes, path}` and a column of integer labels.

Read by pyarrow, which the zoo's index needs anyway, rather than by `datasets`, which leaves a second copy in Arrow files.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from zoo_gen.errors import InputError
from zoo_gen.images import Images
from zoo_gen.sources.pictures import Cell, Labelled, Selection, missing


def parquet(*, source: str, train: str, test: str, image: str, label: str, foreign: bool = False, **card: Any) -> Images:
    """Loads an image set from Parquet files.

    Args:
        source: a folder, or the name of a data set of the hub (`owner/name`), which is downloaded once.
        train, test: patterns of the training and test files in the source.
        image, label: columns of the images and labels.
        foreign: whether somebody else wrote the card: nothing is downloaded then.
        card: values of `zoo_gen.sources.pictures.Selection`.

    Raises `InputError` for files, columns or images that are missing or damaged.
    """
    selection = Selection(**card)
    folder = Path(source) if Path(source).is_dir() else _download(source, [train, test], fetch=not foreign)
    return selection.draw(*(_read(folder, pattern, image, label) for pattern in (train, test)))


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
