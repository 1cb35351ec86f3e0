"""Writing an adopted zoo: a whole folder at once, references in place of weights unless copies are wanted."""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo_gen.blueprint import FOLDS
from zoo_gen.content import ADOPTED, FORMAT_VERSION, sealed
from zoo_gen.errors import InputError
from zoo_gen.files import json_sha256, locked, sha256_of, weights_sha256, write_json, write_weights
from zoo_gen.formats.checkpoint import REFERENCE
from zoo_gen.index import CONFIG, OWN, RESULTS
from zoo_gen.reference import Reference
from zoo_gen.streams import stream
from zoo_gen.writer import PACKAGES, write_index
from zoo_gen.zoo import Zoo

UNKNOWN: dict[str, Any] = {"architecture": None, "num_heads": None}
"""The config.json of a model of which only tensors are known."""


@dataclass(frozen=True)
class AdoptedCheckpoint:
    """One checkpoint of a model.

    Attributes:
        epoch: counted from 1.
        weights: where they lie.
        weights_sha256: of the tensors as they are read.
        results: losses in nats, accuracies in [0, 1]; those that are missing are not known.
        columns: of one's own, numbers and texts.
    """

    epoch: int
    weights: Reference
    weights_sha256: str
    results: Mapping[str, float | None] = field(default_factory=dict)
    columns: Mapping[str, float | str | None] = field(default_factory=dict)

    @classmethod
    def of(cls, epoch: int, weights: Reference) -> "AdoptedCheckpoint":
        """Reads weights and makes their hashes. Raises `InputError` if they cannot be read."""
        weights = weights.sealed()
        return cls(epoch, weights, weights_sha256(weights.tensors()))


@dataclass(frozen=True)
class AdoptedModel:
    """One model with all its checkpoints.

    Attributes:
        model: its id, which is the name of a folder.
        root: id of the model it descends from, its own id for roots, None where nobody knows.
        parent: id of the model it was fine-tuned from, None for roots and where nobody knows.
        architecture: the config.json of timm, or as `UNKNOWN`.
        checkpoints: in the order of their epochs.
        factors: generating factors that the format knows.
        columns: of one's own, numbers and texts.
        diverged_epoch: the epoch since which weights are not finite, None for sound models.
    """

    model: str
    root: str | None
    parent: str | None
    architecture: Mapping[str, Any]
    checkpoints: Sequence[AdoptedCheckpoint]
    factors: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, float | str | None] = field(default_factory=dict)
    diverged_epoch: int | None = None

    @property
    def is_root(self) -> bool:
        """Whether the model was adopted as a root."""
        return self.root == self.model


def write_adopted(
    path: Path,
    name: str,
    models: Sequence[AdoptedModel],
    *,
    copy: bool,
    images: Mapping[str, Any] | None = None,
    left_out: Any = None,
    track: Callable[[Sequence[Any], str], Iterable[Any]] = lambda items, what: items,
) -> Zoo:
    """Writes the zoo of adopted models; the folder appears whole.

    Args:
        path: of the zoo, which must be empty or not there yet.
        name: of the zoo.
        models: in any order; roots come first in the zoo.
        copy: whether weights are copied into the zoo, as safetensors.
        images: the card of the images that the models were measured on; None without images.
        left_out: what `left_out.json` says, None for no such file.
        track: yields a sequence, and shows how far it is.

    Raises:
        InputError: the folder is not empty; a model has no checkpoint; weights have changed since they were read.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} is not empty; choose another path=...")
    ordered = sorted(models, key=lambda one: (not one.is_root, one.model))
    folds = _folds(ordered)
    beside = path.absolute().with_name(f".{path.name}.adopting")
    with locked(beside / ".lock", f"zoo {path}"), _removed_unless_moved(beside):
        for one in track(ordered, "writing"):
            _write_model(beside, path.absolute(), one, folds.get(one.model), copy=copy)
        config = {"name": name, "models": [one.model for one in ordered]}
        config |= {} if images is None else {"finetune_images": images}
        software = {package: importlib.metadata.version(package) for package in PACKAGES} | {"python": platform.python_version()}
        description = {
            "format": "zoo_gen",
            "format_version": FORMAT_VERSION,
            ADOPTED: True,
            "name": name,
            "seed": 0,
            "models": len(ordered),
            "config": config,
            "stacks": {},
            "software": software,
        }
        write_index(beside, config["models"])
        if left_out is not None:
            write_json(beside / "left_out.json", left_out)
        write_json(beside / "zoo.json", sealed(description))
        path.parent.mkdir(parents=True, exist_ok=True)
        (beside / ".lock").unlink()
        os.replace(beside, path)
    return Zoo.open(path)


@contextmanager
def _removed_unless_moved(folder: Path) -> Iterator[None]:
    """Removes what is written into a folder of ours if it does not come to its place, and what a killed process left in it."""
    try:
        _clear(folder)
        yield
    except BaseException:
        _clear(folder)
        (folder / ".lock").unlink(missing_ok=True)
        folder.rmdir()
        raise


def _clear(folder: Path) -> None:
    for name in ("models", "zoo.json", "index.parquet", "left_out.json"):
        place = folder / name
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)


def _folds(models: Sequence[AdoptedModel]) -> dict[str, int]:
    """Deals the models that are no roots to the folds, those of one root (or of unknown root) evenly."""
    strata: dict[str | None, list[str]] = {}
    for one in models:
        if not one.is_root:
            strata.setdefault(one.root, []).append(one.model)
    dealt = [
        strata[root][place]
        for root in sorted(strata, key=lambda root: root or "")
        for place in stream(0, root or "", "split").permutation(len(strata[root])).tolist()
    ]
    return {model: place % FOLDS for place, model in enumerate(dealt)}


def _write_model(beside: Path, home: Path, one: AdoptedModel, fold: int | None, *, copy: bool) -> None:
    """Writes the folder of one model into a zoo that is going to be at `home`."""
    folder = f"models/{one.model}"
    write_json(beside / folder / "config.json", one.architecture)
    rows = []
    for number, checkpoint in enumerate(one.checkpoints, start=1):
        final = number == len(one.checkpoints)
        stem = f"{folder}/model" if final else f"{folder}/epochs/{checkpoint.epoch:04d}"
        place, file_hash = f"{stem}{'.safetensors' if copy else REFERENCE}", checkpoint.weights.sha256
        if copy:
            write_weights(beside / place, checkpoint.weights.read())
            file_hash = sha256_of(beside / place)
        else:
            checkpoint.weights.write(beside / place, home=(home / place).parent, zoo=home)
        results = {name: checkpoint.results.get(name) for name in RESULTS}
        row = {"epoch": checkpoint.epoch, "final": final, "path": place, "sha256": file_hash}
        rows.append({**row, "weights_sha256": checkpoint.weights_sha256, "results": results, OWN: dict(checkpoint.columns)})
    if not rows:
        raise InputError(f"the model {one.model} has no checkpoint")
    lineage = {"model": one.model, "root": one.root, "parent": one.parent, "stage": "pretrain" if one.is_root else "finetune"}
    record = {
        **lineage,
        "fold": fold,
        "diverged_epoch": one.diverged_epoch,
        "factors": dict(one.factors),
        CONFIG: json_sha256(one.architecture),
        OWN: dict(one.columns),
        "checkpoints": rows,
    }
    write_json(beside / folder / "record.json", record)


def with_gaps(results: Mapping[str, float | None]) -> dict[str, float | None]:
    """Returns results with the gaps that follow from them, where they are not given (docs/zoo_format.md).

    >>> with_gaps({"train_loss": 0.5, "test_loss": 0.75})["loss_gap"]
    0.25
    """
    found = dict(results)
    for gap, more, less in (("loss_gap", "test_loss", "train_loss"), ("accuracy_gap", "train_accuracy", "test_accuracy")):
        high, low = found.get(more), found.get(less)
        if found.get(gap) is None and high is not None and low is not None:
            found[gap] = high - low
    return found
