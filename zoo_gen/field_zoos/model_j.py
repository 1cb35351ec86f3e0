"""Model-J of ProbeX (Horwitz et al., Learning on model weights using tree experts, 2410.13569).

Models lie as in the cache of the Hugging Face hub, in folders `train`, `val` and `test`. What their maker knows of a model stands
in the header of `model.safetensors`, as texts: numbers, words, and the classes that the model was trained on, as a list of Python
(`dataset_chosen_targets`). Lists are parsed as literals. Each class is a column of its own, `yes` or `no`.
"""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo_gen.adoption.scan import Found, LeftOut, scan
from zoo_gen.adoption.table import Row
from zoo_gen.errors import InputError
from zoo_gen.field_zoos.field_zoo import FieldZoo, Report, Track, row_of
from zoo_gen.reader import metadata_of, shortened
from zoo_gen.wording import counted

NEEDS = "no model.safetensors in it has dataset_chosen_targets in its header"
LABELS = "dataset_chosen_targets"
NAMES = {"lr": "learning_rate", "train_acc": "train_accuracy", "val_acc": "val_accuracy", "test_acc": "test_accuracy"}
SPLITS = ("train", "val", "test")
TEXT, CLASSES = 2**16, 1000
"""Characters of a list in a header, and classes of a zoo, at most."""


def is_one(folder: Path) -> bool:
    """Whether the first model of the folder has labels in its header."""
    for place in folder.rglob("model.safetensors"):
        try:
            return LABELS in metadata_of(place)
        except (InputError, OSError):
            continue
    return False


def read(folder: Path, report: Report, track: Track) -> FieldZoo:
    """Reads the models of a folder. Raises `InputError` if they have more classes than a zoo has columns."""
    found: list[Found] = []
    told: dict[Path, tuple[dict[str, Any], list[str]]] = {}
    for one in track(list(scan(folder, but=folder / ".")), "headers"):
        if isinstance(one, LeftOut):
            report(one)
            continue
        found.append(one)
        try:
            header = metadata_of(one.path / "model.safetensors" if one.path.is_dir() else one.path)
        except (InputError, OSError):
            continue  # what is wrong with it is said when its weights are read
        labels = _labels(one.name, header, report)
        split = next((part for part in Path(one.name).parts if part in SPLITS), None)
        values = {name: _value(text) for name, text in header.items() if name not in (LABELS, "format")}
        told[one.path] = ({**values, **({} if split is None else {"split": split})}, labels)
    classes = sorted({label for _, labels in told.values() for label in labels})
    if len(classes) > CLASSES - 100:
        raise InputError(
            f"the models of {folder} have {counted(len(classes), 'class')} in {LABELS}, and a zoo has {CLASSES} columns at most"
        )
    rows: dict[Path, list[Row]] = {}
    for path, (values, labels) in told.items():
        answers = {label: "yes" if label in labels else "no" for label in classes} if labels else {}
        rows[path] = [
            row_of(path.name, values | {f"trained on {label}": answer for label, answer in answers.items()}, NAMES, report)
        ]
    return FieldZoo(found, rows)


def _labels(name: str, header: Mapping[str, str], report: Report) -> list[str]:
    """Returns the classes that a header names; none where it is damaged, which is reported."""
    text = header.get(LABELS)
    labels = None if text is None else _literal(text)
    if not isinstance(labels, list | tuple) or not all(isinstance(label, str) and 0 < len(label) <= 100 for label in labels):
        report(LeftOut(name, f"its header has no list of classes in {LABELS} ({shortened(text)}), so these are not known"))
        return []
    return list(labels)


def _literal(text: str) -> Any:
    """Parses a literal of Python of limited length; None for anything else."""
    try:
        return ast.literal_eval(text) if len(text) <= TEXT else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _value(text: str) -> float | str | None:
    """A number or a word; None for lists, objects and long texts."""
    literal = _literal(text)
    if isinstance(literal, bool) or literal is None:
        return text if text and len(text) <= 200 and text not in ("None", "null") else None
    return literal if isinstance(literal, int | float) and abs(literal) < 1e300 else literal if isinstance(literal, str) else None
