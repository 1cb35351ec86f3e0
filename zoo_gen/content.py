"""The content of a zoo: what its zoo.json must say, and one hash of all that a label, a split or a lineage depends on."""

import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from zoo_gen.errors import InputError, printable
from zoo_gen.files import json_sha256
from zoo_gen.index import ALL_FACTORS, CONFIG, IDENTITY, RESULTS, expect, own_columns, plain
from zoo_gen.reader import ZOO_ADVICE, inside, read_json

FORMAT_VERSION = 2
"""Since 2, the content hash covers lineage, folds and architectures, and zoo.json has a hash of itself."""

SEAL = "sha256"
"""The key of zoo.json that holds the hash of all others."""

ADOPTED = "adopted"
"""The key of zoo.json that is true for zoos of models that were trained elsewhere (`python -m zoo_gen.adopt`)."""

_DESCRIPTION = {"name": (str,), "seed": (int,), "models": (int,), "config": (dict,), "stacks": (dict,)}
_STACK = {"models": (list,), "epochs": (int,)}
_PLACES = ("path", "root", "source", "memory_gb", "workers")
"""Settings of images that say where they lie and how they are read, not which they are."""


def sealed(description: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a description of a zoo with the hash of all its keys."""
    told = {key: value for key, value in description.items() if key != SEAL}
    return {**told, SEAL: json_sha256(told)}


def is_guarded(description: Mapping[str, Any]) -> bool:
    """Tells whether the content hash of a zoo covers its labels and splits, as it does since format 2."""
    return int(description["format_version"]) >= 2


def is_adopted(description: Mapping[str, Any]) -> bool:
    """Tells whether the models of a zoo were trained elsewhere, so that nothing here can make them again."""
    return description.get(ADOPTED) is True


def read_description(folder: Path) -> dict[str, Any]:
    """Reads the zoo.json of a zoo. Raises `InputError` if it is damaged, of no zoo, or of a newer format."""
    path = inside(folder, "zoo.json")
    description = read_json(path)
    version = description.get("format_version")
    if description.get("format") != "zoo_gen" or not isinstance(version, int):
        raise InputError(f"{path} does not describe a zoo; choose a folder made by python -m zoo_gen")
    if version > FORMAT_VERSION:
        raise InputError(
            f"zoo {folder} has format version {version}, this package reads up to {FORMAT_VERSION}; upgrade the package: "
            "pip install -U vit-weight-space"
        )
    expect(description, _DESCRIPTION, path)
    if is_adopted(description):
        expect(description["config"], {"models": (list,)}, path)
        if not all(isinstance(model, str) for model in description["config"]["models"]):
            raise InputError(f"{path} is damaged (a model that is no text in 'models' of 'config'); {ZOO_ADVICE}")
    for stack in description["stacks"].values():
        expect(stack, _STACK, path)
        if not all(isinstance(model, str) for model in stack["models"]):
            raise InputError(f"{path} is damaged (a model that is no text in 'stacks'); {ZOO_ADVICE}")
    return description


def models_of(description: Mapping[str, Any]) -> list[str]:
    """Returns the ids of all models that a zoo is to have, in the order of its stacks, or in that in which they were adopted."""
    if is_adopted(description):
        return list(description["config"]["models"])
    return [model for stack in description["stacks"].values() for model in stack["models"]]


@functools.cache
def say_unguarded(folder: Path) -> None:
    """Says once, in one line, that a zoo of format 1 is read as it is."""
    advice = (
        f"python -m zoo_gen.verify {folder} --repair checks them and writes the new hash (runs on the zoo are then trained again)"
    )
    note = f"zoo {folder} is of format 1: its content hash does not guard labels and splits; {advice}"
    print(printable(note), file=sys.stderr)  # no logger: Hydra silences those that it does not know


def content_hash(frame: pd.DataFrame, description: Mapping[str, Any]) -> str:
    """Returns the sha256 of the rows of an index, sorted by model and epoch: no times, places or versions.

    Rows have the lineage, fold, status, factors and results of a checkpoint, and the hashes of its weights and its config.json.
    With them count the columns of an adopted zoo's own, the seed and the cards of images, without where these lie. Factors that
    are younger than the zoo do not count: the hash of a zoo never changes.
    """
    factors = [name for name in ALL_FACTORS if frame[name].notna().any()]
    guarded = is_guarded(description)
    identity = [*IDENTITY, CONFIG] if guarded else ["model", "epoch"]
    columns = [*identity, "weights_sha256", *factors, *RESULTS, *own_columns(frame)]
    told = plain(frame[columns].sort_values(["model", "epoch"], kind="stable"))
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*told.values(), strict=True)]
    if not guarded:
        return json_sha256(rows)
    cards = {stage: description["config"].get(f"{stage}_images") for stage in ("pretrain", "finetune")}
    images = {
        stage: {key: value for key, value in card.items() if key not in _PLACES} if isinstance(card, dict) else card
        for stage, card in cards.items()
    }
    return json_sha256({"rows": rows, "seed": description["seed"], "images": images})
