"""Writing a zoo: checkpoints and records appear one by one and whole, the index is made of the records.

A model's `record.json` is written after the checkpoints it names, and the index after the records, so a kill loses work at most.
"""

import importlib.metadata
import math
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from zoo_gen.blueprint import ModelSpec
from zoo_gen.content import FORMAT_VERSION, SEAL, sealed
from zoo_gen.errors import InputError
from zoo_gen.files import json_sha256, sha256_of, weights_sha256, write_atomically, write_json, write_weights
from zoo_gen.finite import all_finite
from zoo_gen.index import COLUMNS, CONFIG, RESULTS, read_record, record_path, rows_of
from zoo_gen.reader import read_json

ABSENT = "none"
"""What a message says in place of a value that is not there."""
PACKAGES = ("vit-weight-space", "torch", "timm", "numpy", "safetensors")


def create_zoo(
    path: Path, *, name: str, seed: int, config: Mapping[str, Any], specs: Sequence[ModelSpec], stacks: Mapping[str, Any]
) -> None:
    """Writes `zoo.json` and the model folders' `config.json`, or checks that those on disk were made by the same command.

    Raises `InputError` if the folder holds a zoo with another configuration, naming the differences, or something else.
    """
    description = {
        "format": "zoo_gen",
        "format_version": FORMAT_VERSION,
        "name": name,
        "seed": seed,
        "models": len(specs),
        "config": config,
        "stacks": stacks,
        "software": {package: importlib.metadata.version(package) for package in PACKAGES} | {"python": platform.python_version()},
    }
    if (path / "zoo.json").exists():
        there = read_json(path / "zoo.json")
        keys = [key for key in description if key not in ("name", "software", "format_version", SEAL)]
        differences = [line for key in keys for line in _differences(key, there.get(key, ABSENT), description[key])]
        of_config = [line.split(": ", 1) for line in differences if line.startswith("config.")]
        newer = [setting for setting, values in of_config if values.startswith(f"{ABSENT} there")]
        chosen = re.compile(r"\.(axes|draws|model_args)\.")  # whose keys the user chooses
        if newer and len(newer) == len(of_config) and not any(map(chosen.search, newer)):
            raise InputError(
                f"zoo {path} was made by an older version, which knew no {', '.join(newer)}; choose another path=..., or delete "
                "that folder"
            )
        if differences:
            shown = "; ".join(differences[:3])
            raise InputError(
                f"zoo {path} was made with another configuration ({shown}); choose another path=..., or delete that folder"
            )
        return
    if path.exists() and any(entry.name != ".lock" for entry in path.iterdir()):
        raise InputError(f"{path} is not empty and holds no zoo.json; choose another path=...")
    for spec in specs:
        write_json(path / "models" / spec.model / "config.json", spec.architecture)
    write_json(path / "zoo.json", sealed(description))


def _differences(name: str, there: Any, here: Any) -> list[str]:
    """Lists where two nested configurations differ."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        keys = sorted({*there, *here})
        return [line for key in keys for line in _differences(f"{name}.{key}", there.get(key, ABSENT), here.get(key, ABSENT))]
    return [] if there == here else [f"{name}: {there} there, {here} here"]


class ModelWriter:
    """The writer of one model's folder: a checkpoint and its record for each epoch."""

    def __init__(self, zoo: Path, spec: ModelSpec, *, dtype: str, keep_every: int):
        self.spec, self.keep_every = spec, keep_every
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.zoo, self.folder = zoo, zoo / "models" / spec.model
        self.diverged_epoch: int | None = None
        self.rows: list[dict[str, Any]] = []

    def resume(self, epoch: int) -> None:
        """Reads the record back and forgets what lies after `epoch`."""
        if not (self.folder / "record.json").exists():  # killed before the first epoch that is kept
            return
        record = read_record(self.zoo, self.spec.model)
        self.rows = [row for row in record["checkpoints"] if row["epoch"] <= epoch]
        diverged = record["diverged_epoch"]
        self.diverged_epoch = diverged if diverged is not None and diverged <= epoch else None

    def save(self, epoch: int, weights: Mapping[str, Tensor], results: Mapping[str, float | None]) -> None:
        """Writes one checkpoint and the record that names it; a diverged model is kept up to the epoch it happened."""
        if self.diverged_epoch is not None:
            return
        recorded = {}
        for name in RESULTS:  # JSON has no NaN and no infinities
            value = results[name]
            recorded[name] = value if value is not None and math.isfinite(value) else None
        if recorded != results or not all_finite(weights.values()):
            self.diverged_epoch = epoch
        last = epoch == self.spec.recipe.epochs or self.diverged_epoch is not None
        if not last and epoch % self.keep_every:
            return
        weights = {name: value.to(self.dtype) for name, value in weights.items()}
        path = self.folder / ("model.safetensors" if last else f"epochs/{epoch:04d}.safetensors")
        write_weights(path, weights)
        self.rows.append(
            {
                "epoch": epoch,
                "final": last,
                "path": str(path.relative_to(self.zoo)),
                "sha256": sha256_of(path),
                "weights_sha256": weights_sha256(weights),
                "results": recorded,
            }
        )
        record = {
            **{name: getattr(self.spec, name) for name in ("model", "root", "parent", "stage", "fold")},
            "diverged_epoch": self.diverged_epoch,
            "factors": self.spec.factors,
            CONFIG: json_sha256(self.spec.architecture),
            "checkpoints": self.rows,
        }
        write_json(self.folder / "record.json", record)


def write_index(zoo: Path, models: Sequence[str]) -> pd.DataFrame:
    """Makes the index of all records there are, in the order of `models`, and returns it."""
    rows = [row for model in models if record_path(zoo, model).exists() for row in rows_of(read_record(zoo, model))]
    own = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in COLUMNS]
    frame = pd.DataFrame(rows, columns=[*COLUMNS, *own])
    numbers = [name for name in own if not any(isinstance(row.get(name), str) for row in rows)]
    frame = frame.astype({"fold": "Int64", "diverged_epoch": "Int64", **dict.fromkeys([*RESULTS, *numbers], "float64")})
    write_atomically(zoo / "index.parquet", lambda beside: frame.to_parquet(beside, index=False))
    return frame


def epochs_done(zoo: Path, stack: Mapping[str, Any]) -> int:
    """Returns how many epochs of a stack are on disk for all its models; a diverged model has all it will get.

    A stack that has lost a file has none: it is trained again, to the same bits. Raises `InputError` for a damaged record.
    """
    done = []
    for model in stack["models"]:
        rows = read_record(zoo, model)["checkpoints"] if record_path(zoo, model).exists() else []
        if not rows or not all((zoo / row["path"]).exists() for row in rows):
            return 0
        done.append(stack["epochs"] if rows[-1]["final"] else rows[-1]["epoch"])
    return min(done)
