"""Inputs of an invariant encoder: the columns of `wsl.data.invariants` that it was trained on."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn, Self

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from wsl.data.invariants import CHANGE, columns_by_kind, invariants, invariants_of
from wsl.data.pairs import Pairs
from zoo_gen import InputError, Zoo
from zoo_gen.files import write_json
from zoo_gen.reader import read_json


@dataclass(frozen=True)
class InvariantInputs:
    """Invariants of whole checkpoints.

    Attributes:
        reads, fitted, file: what they are, whether they are fitted to train models, and their file in the folder of a run.
        columns: names, in the order in which the encoder reads them.
    """

    reads: ClassVar[Literal["invariants"]] = "invariants"
    fitted: ClassVar[bool] = False
    file: ClassVar[str] = "inputs.json"

    columns: Sequence[str]

    @classmethod
    def read(cls, folder: Path, config: Mapping[str, Any], *, advice: str) -> Self:
        """Reads what `save` wrote into a run's folder. Raises `InputError` for a file that is missing or damaged."""
        columns = read_json(folder / cls.file, advice=advice).get("columns")
        if not isinstance(columns, list) or not all(isinstance(column, str) for column in columns):
            raise InputError(f"{folder / cls.file} does not say which columns the model reads; {advice}")
        return cls(columns)

    def save(self, folder: Path) -> None:
        """Writes the columns into a run's folder."""
        write_json(folder / self.file, {"columns": list(self.columns)})

    @property
    def model_values(self) -> dict[str, Any]:
        """The keyword values of a model that follow from its inputs."""
        return {"columns": columns_by_kind(self.columns)}

    @property
    def needs_root(self) -> bool:
        """Whether changes since a root are among the columns."""
        return any(column.startswith(CHANGE) for column in self.columns)

    def prepare(self, zoo: Zoo) -> None:
        """Does nothing: invariants need no preparation."""

    def table(self, model: nn.Module, checkpoints: Zoo, *, within: Zoo) -> pd.DataFrame:
        """Returns the inputs of checkpoints as features (N C): their invariants."""
        return invariants_of(checkpoints)

    def embed(self, model: nn.Module, checkpoints: Zoo, *, within: Zoo) -> pd.DataFrame:
        """Returns the latents of checkpoints of a zoo (N Z)."""
        return self._latents(model, invariants_of(checkpoints))

    def embed_weights(self, model: nn.Module, pairs: Pairs, *, within: Zoo) -> pd.DataFrame:
        """Returns the latents (N Z) of weights, each with those of its root."""
        return self._latents(model, invariants(pairs))

    def rescaled(self, model: Any, train: Zoo) -> tuple[Any, "InvariantInputs"]:
        """Returns the model with the scales of its inputs taken from other checkpoints, and its inputs."""
        model = copy.deepcopy(model)
        model.fit_scales(self.values(invariants_of(train)))
        return model, self

    @property
    def tokens(self) -> NoReturn:
        """Raises `InputError`: there are no tokens, and nothing that could be decoded."""
        raise InputError("a model that reads invariants has no tokens and decodes nothing; use a run of model=hyperrep")

    @torch.no_grad()
    def _latents(self, model: nn.Module, table: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame(model(self.values(table)).numpy()).rename(columns="latent/{}".format)

    def values(self, table: pd.DataFrame) -> Float[Tensor, "N C"]:
        """Returns the columns that the encoder reads; NaN for those that a checkpoint lacks."""
        return torch.from_numpy(table.reindex(columns=list(self.columns)).to_numpy(dtype=np.float64, copy=True))
