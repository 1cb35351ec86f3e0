"""The zoo on disk: a folder of checkpoints with an index (docs/zoo_format.md). This file reads; `writer.py` writes."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from zoo_gen.architecture import build
from zoo_gen.config import instantiate
from zoo_gen.errors import InputError
from zoo_gen.images import Images
from zoo_gen.recipe import FACTORS
from zoo_gen.splits import Split, split_models

FORMAT_VERSION = 1
IDENTITY = ("model", "root", "parent", "stage", "epoch", "final", "status", "diverged_epoch", "fold")
ALL_FACTORS = ("pretraining", *FACTORS)
RESULTS = (
    *(f"{split}_{what}" for what in ("loss", "accuracy") for split in ("train", "val", "test")),
    "loss_gap",
    "accuracy_gap",
)
FILES = ("path", "sha256", "weights_sha256")
COLUMNS = (*IDENTITY, *ALL_FACTORS, *RESULTS, *FILES)


@dataclass(frozen=True)
class Checkpoint:
    """One row of a zoo: a model at one epoch.

    Attributes:
        model: id of the model, unique in the zoo.
        root: id of the pre-trained model it descends from (its own id for roots).
        parent: id of the model it was fine-tuned from, None for roots.
        stage: `pretrain` or `finetune`.
        epoch: counted from 1.
        final: whether it is the model's last epoch.
        status: `ok` or `diverged` (of the model, not of the epoch).
        fold: 0 to 4, None for roots.
        factors: generating factors, chosen before training.
        results: losses in nats, accuracies in [0, 1], gaps; None where there is none.
        path: of the safetensors file.
    """

    model: str
    root: str
    parent: str | None
    stage: str
    epoch: int
    final: bool
    status: str
    fold: int | None
    factors: Mapping[str, Any]
    results: Mapping[str, float | None]
    path: Path

    @property
    def folder(self) -> Path:
        """The model's folder, which timm opens by `local-dir:`."""
        return self.path.parent if self.path.name == "model.safetensors" else self.path.parent.parent

    @property
    def architecture(self) -> dict[str, Any]:
        """The model's `config.json` in timm's format."""
        return read_json(self.folder / "config.json")

    def state_dict(self) -> dict[str, Tensor]:
        """Reads the weights. Raises `InputError` for a missing or damaged file."""
        return read_weights(self.path)

    def build(self) -> nn.Module:
        """Builds the timm model with these weights, in eval mode and float32."""
        with torch.device("meta"):
            model = build(self.architecture)
        model.load_state_dict(self.state_dict(), assign=True)
        return model.float().eval()


class Zoo:
    """A population of checkpoints in a folder, or a selection of them.

    Attributes:
        path: of the folder.
        config: resolved configuration that made the zoo, from `zoo.json`.
        frame: one row per checkpoint.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], frame: pd.DataFrame, everything: pd.DataFrame):
        """Use `Zoo.open`."""
        self.path, self.config, self.frame, self._everything = path, config, frame, everything

    @classmethod
    def open(cls, path: str | Path) -> "Zoo":
        """Opens a zoo by its folder.

        Raises `InputError` for a folder that is missing, is no zoo, has a newer format, or has a damaged index.
        """
        folder = Path(path)
        if not (folder / "zoo.json").is_file():
            raise InputError(
                f"zoo '{folder.name}' not found at {folder.resolve()}; make it with: python -m zoo_gen zoo={folder.name}"
            )
        config = read_json(folder / "zoo.json")
        version = config.get("format_version")
        if config.get("format") != "zoo_gen" or not isinstance(version, int):
            raise InputError(f"{folder / 'zoo.json'} does not describe a zoo; choose a folder made by python -m zoo_gen")
        if version > FORMAT_VERSION:
            raise InputError(
                f"zoo {folder} has format version {version}, this package reads up to {FORMAT_VERSION}; upgrade the package: "
                "pip install -U vit-weight-space"
            )
        if not (folder / "index.parquet").is_file():
            raise InputError(f"zoo {folder} has no checkpoints yet; finish it by running python -m zoo_gen with the same arguments")
        try:
            frame = pd.read_parquet(folder / "index.parquet")
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"{folder / 'index.parquet'} is damaged ({error}); rebuild it with: python -m zoo_gen.verify {folder} --repair"
            ) from error
        missing = [column for column in COLUMNS if column not in frame and column not in ALL_FACTORS]
        if missing:
            raise InputError(f"{folder / 'index.parquet'} lacks the columns {missing}; it was not made by python -m zoo_gen")
        younger = [factor for factor in ALL_FACTORS if factor not in frame]
        frame = frame.assign(**dict.fromkeys(younger))  # than the zoo, which has no values of them
        return cls(folder, config, frame, frame)

    @property
    def name(self) -> str:
        """The zoo's name, as in its configuration."""
        return str(self.config["name"])

    @property
    def seed(self) -> int:
        """The seed that all streams of the zoo come from."""
        return int(self.config["seed"])

    @property
    def complete(self) -> bool:
        """Whether every planned model has been trained to its end."""
        return int(self._everything["final"].sum()) == int(self.config["models"])

    def select(self, **conditions: Any) -> "Zoo":
        """Returns the zoo of rows that meet every condition: a scalar means equality, a list membership.

        Raises `InputError` for a column that does not exist.
        """
        frame = self.frame
        for column, wanted in conditions.items():
            if column not in frame:
                raise InputError(f"a zoo has no column '{column}'; it has {', '.join(map(str, frame.columns))}")
            values = wanted if isinstance(wanted, list | tuple | set | frozenset) else [wanted]
            frame = frame[frame[column].isin(list(values))]
        return Zoo(self.path, self.config, frame.reset_index(drop=True), self._everything)

    def split(self, scheme: str, *, fold: int) -> Split["Zoo"]:
        """Splits the fine-tuned models; all epochs of a model stay together. Roots are in no part.

        Args:
            scheme: `by_model` (5 folds stratified by root) or `leave_root_out` (a root with all its descendants).
            fold: which part is the test set; the next one is the validation set.
        """
        children = self.select(stage="finetune")
        parts = split_models(children.frame, scheme, fold=fold)
        return Split(*(children.select(model=list(models)) for models in parts))

    def root(self, checkpoint: Checkpoint) -> Checkpoint:
        """Returns the final checkpoint of the root that a checkpoint descends from."""
        return self.final(checkpoint.root)

    def final(self, model: str) -> Checkpoint:
        """Returns a model's final checkpoint, also if this selection does not hold it."""
        rows = self._everything
        rows = rows[(rows["model"] == model) & rows["final"]]
        if rows.empty:
            raise InputError(f"zoo {self.path} has no finished model '{model}'; finish the zoo by running python -m zoo_gen again")
        return self._checkpoint(rows.iloc[0])

    def images(self, stage: str) -> Images:
        """Loads the images that the models of a stage (`pretrain` or `finetune`) were trained on, with the zoo's own split."""
        return instantiate(self.config["config"][f"{stage}_images"])

    @cached_property
    def content_hash(self) -> str:
        """Sha256 over the sorted (model, epoch, hash of tensors, factors, results): no times, paths or versions.

        Factors that are younger than the zoo do not count: the hash of a zoo never changes.
        """
        factors = [name for name in ALL_FACTORS if self._everything[name].notna().any()]
        columns = ["model", "epoch", "weights_sha256", *factors, *RESULTS]
        rows = self._everything[columns].sort_values(["model", "epoch"]).to_dict("records")
        plain = [{key: None if pd.isna(value) else value for key, value in row.items()} for row in rows]
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    def _checkpoint(self, row: Any) -> Checkpoint:
        """Makes a checkpoint of a row; its path must stay inside the zoo."""
        path = (self.path / row["path"]).resolve()
        if not path.is_relative_to(self.path.resolve()):
            raise InputError(f"index of zoo {self.path} points outside the zoo: {row['path']}; do not use this zoo")

        def known(column: str) -> Any:
            value = row[column]
            return None if pd.isna(value) else value.item() if hasattr(value, "item") else value

        return Checkpoint(
            model=known("model"),
            root=known("root"),
            parent=known("parent"),
            stage=known("stage"),
            epoch=known("epoch"),
            final=known("final"),
            status=known("status"),
            fold=known("fold"),
            factors={name: known(name) for name in ALL_FACTORS},
            results={name: known(name) for name in RESULTS},
            path=path,
        )

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, index: int) -> Checkpoint:
        if not isinstance(index, int):
            raise TypeError(f"a zoo is indexed by whole numbers; for several checkpoints use select(...) or list(zoo)[{index}]")
        if not -len(self) <= index < len(self):
            raise IndexError(f"checkpoint {index} of a selection of {len(self)}: {self!r}; look at zoo.frame for what there is")
        return self._checkpoint(self.frame.iloc[index])

    def __iter__(self) -> Iterator[Checkpoint]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        models = self.frame["model"].nunique()
        return f"Zoo('{self.path}': {models} models, {len(self)} checkpoints)"


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object. Raises `InputError` if the file is missing or is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; restore it, or make the zoo again with python -m zoo_gen") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}); restore it, or make the zoo again with python -m zoo_gen") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} is damaged (not a JSON object); restore it, or make the zoo again with python -m zoo_gen")
    return found


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads a safetensors file. Raises `InputError` if it is missing or damaged; nothing is ever unpickled."""
    try:
        return safetensors.torch.load_file(path)
    except FileNotFoundError as error:
        raise InputError(
            f"checkpoint {path} is gone; restore it, or make it again: python -m zoo_gen with the zoo's arguments"
        ) from error
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise InputError(
            f"checkpoint {path} is damaged or no safetensors file ({error}); delete it, then run python -m zoo_gen with the zoo's "
            "arguments: it makes the file again"
        ) from error
