"""Records: what a zoo knows of one model, as JSON in the model's folder. The index is made of them."""

from pathlib import Path
from typing import Any

from zoo_gen.errors import InputError
from zoo_gen.reader import ZOO_ADVICE, inside, read_json, shortened

RESULTS = (
    *(f"{split}_{what}" for what in ("loss", "accuracy") for split in ("train", "val", "test")),
    "loss_gap",
    "accuracy_gap",
)
"""What is measured of a checkpoint."""

_MODEL = {
    "model": (str,),
    "root": (str,),
    "parent": (str, type(None)),
    "stage": (str,),
    "fold": (int, type(None)),
    "diverged_epoch": (int, type(None)),
    "factors": (dict,),
    "checkpoints": (list,),
}
_CHECKPOINT = {"epoch": (int,), "final": (bool,), "path": (str,), "sha256": (str,), "weights_sha256": (str,), "results": (dict,)}
_RESULT = dict.fromkeys(RESULTS, (int, float, type(None)))
_WHOLE = 2**53
"""Larger numbers are none that a zoo holds, and columns of the index could not take them."""


def record_path(zoo: Path, model: object) -> Path:
    """Returns the place of a model's record. Raises `InputError` for a name that leads out of the zoo."""
    return inside(zoo, f"models/{model}/record.json" if isinstance(model, str) else model)


def read_record(zoo: Path, model: object) -> dict[str, Any]:
    """Reads a model's record. Raises `InputError` if it is missing or damaged, or a value in it is of the wrong type."""
    path = record_path(zoo, model)
    record = read_json(path)
    expect(record, _MODEL, path)
    expect(record["factors"], dict.fromkeys(record["factors"], (str, int, float, bool, type(None))), path)
    for checkpoint in record["checkpoints"]:
        expect(checkpoint, _CHECKPOINT, path)
        expect(checkpoint["results"], _RESULT, path)
    return record


def expect(values: object, kinds: dict[str, tuple[type, ...]], where: Path) -> None:
    """Raises `InputError` unless `values` is a JSON object that has every key of `kinds`, with a value of one of its types."""
    if not isinstance(values, dict):
        raise InputError(f"{where} is damaged ({shortened(values)} where an object should be); {ZOO_ADVICE}")
    for key, allowed in kinds.items():
        if key not in values:
            raise InputError(f"{where} is damaged ({shortened(key)} is missing); {ZOO_ADVICE}")
        value = values[key]
        fits = isinstance(value, allowed) and (bool in allowed or not isinstance(value, bool))
        if not fits or (isinstance(value, int) and abs(value) > _WHOLE):
            raise InputError(
                f"{where} is damaged ({shortened(key)} is {shortened(value) if isinstance(value, str) else type(value).__name__}, "
                f"not {' or '.join(kind.__name__ for kind in allowed)}); {ZOO_ADVICE}"
            )
