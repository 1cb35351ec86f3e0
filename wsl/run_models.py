"""The models that a run was trained, validated and is tested on, by the hashes of their weights: `models.json` in its folder.

A zoo's index may change after a training. Which models a run has seen does not: it is read from here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo_gen import InputError, Zoo
from zoo_gen.files import write_json
from zoo_gen.reader import read_json, shortened
from zoo_gen.splits import Split

FILE = "models.json"

Hashes = Mapping[str, str]
"""Model -> hash of its final weights."""


def write_models(folder: Path, zoos: Sequence[Zoo], scheme: str, *, fold: int) -> None:
    """Writes the parts of each zoo's split, by the zoo's content hash.

    Raises `InputError` if the folder holds a run that was begun on other parts.
    """
    found = {zoo.content_hash: _hashes(zoo.split(scheme, fold=fold)) for zoo in zoos}
    if (folder / "config.yaml").is_file() and read_json(folder / FILE, advice=_again(folder)) != found:
        raise InputError(
            f"{folder} holds a run that was begun on another split of these zoos, which were changed since; restore them, or "
            "choose run=<another name>"
        )
    write_json(folder / FILE, found)


def read_models(folder: Path, content_hash: str) -> Split[Hashes]:
    """Reads the parts of one zoo's split. Raises `InputError` if the file is missing, damaged, or does not know the zoo."""
    parts = read_json(folder / FILE, advice=_again(folder)).get(content_hash)
    if not isinstance(parts, dict) or set(parts) != set(Split._fields) or not all(map(_are_hashes, parts.values())):
        raise InputError(f"{folder / FILE} does not say which models of its zoo the run was trained on; {_again(folder)}")
    return Split(**parts)


def recorded_split(folder: Path, zoo: Zoo, scheme: str, *, fold: int) -> Split[Zoo]:
    """Returns the parts of a zoo's split as they were in training.

    Raises `InputError` if the zoo's split has changed since, or weights of its models have.
    """
    recorded = read_models(folder, zoo.content_hash)
    now = zoo.split(scheme, fold=fold)
    today = _hashes(now)
    for part, then in recorded._asdict().items():
        if changed := sorted({model for model, _ in then.items() ^ today[part].items()}):
            names = ", ".join(map(shortened, changed[:3])) + (" ..." if len(changed) > 3 else "")
            raise InputError(
                f"the {part} models of split {scheme}, fold {fold}, of {zoo.path} are not those of run {folder} ({len(changed)} "
                f"changed: {names}): the zoo was changed since; restore it, or train a new run on it"
            )
    return now


def _hashes(split: Split[Zoo]) -> dict[str, dict[str, str]]:
    finals = {name: part.frame[part.frame["final"]] for name, part in split._asdict().items()}
    return {name: dict(zip(frame["model"], frame["weights_sha256"], strict=True)) for name, frame in finals.items()}


def _are_hashes(part: Any) -> bool:
    return isinstance(part, dict) and all(isinstance(sha, str) for sha in part.values())


def _again(folder: Path) -> str:
    return f"an older version trained the run, or it is damaged: delete {folder} and train the run again"
