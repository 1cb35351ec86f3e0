"""The files of a run's folder that are not simply tensors: its configuration, and its model encoder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from wsl.models.invariant_encoder import InvariantEncoder
from zoo_gen import InputError
from zoo_gen.files import write_atomically
from zoo_gen.reader import read_text, read_weights, shortened

MODEL_ENCODER = "model_encoder.safetensors"

CONFIG_LIMIT, CONFIG_DEPTH = 2**18, 32
"""Bytes of a run's configuration, and how deep it may be nested."""


def read_config(folder: Path) -> dict[str, Any]:
    """Reads a run's config.yaml as plain data. Raises `InputError` if it is damaged, or has what no run writes: aliases, for one,
    by which a few lines can stand for any amount of memory.
    """
    path = folder / "config.yaml"
    again = f"delete {folder} and train the run again"
    text = read_text(path, advice=again, limit=CONFIG_LIMIT)
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > CONFIG_DEPTH:
                raise ValueError("it has aliases, or is nested deeper than any configuration")
        config = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise InputError(f"{path} is damaged ({error}); {again}") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} is damaged (not a mapping); {again}")
    return {str(key): value for key, value in config.items()}


def check_config(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Raises `InputError` for a configuration that is no trained run's, or whose model cannot be that of the weights."""
    wrong = f"{folder / 'config.yaml'} is not the configuration of this run"
    again = f"delete {folder} and train the run again"
    kinds = {"window": int, "split": str, "seed": int, "fold": int, "zoo": dict, "tokenizer": dict, "model": dict}
    for key, kind in kinds.items():
        value = config.get(key)
        is_card = kind is not dict or key == "zoo" or (isinstance(value, dict) and "_target_" in value)
        if not isinstance(value, kind) or not is_card or (isinstance(value, int) and not 0 <= value < 2**31):
            raise InputError(f"{wrong} ({key} is missing or wrong); {again}")
    largest = sum(weight.numel() for weight in weights.values())
    for key, value in (*config["model"].items(), *config["tokenizer"].items()):
        limit = len(weights) if "depth" in str(key) else largest
        if isinstance(value, int | float) and not abs(value) <= limit:
            raise InputError(f"{wrong} (its weights are fewer than {shortened(str(key))} says); {again}")


def write_model_encoder(folder: Path, encoder: InvariantEncoder, measured: Mapping[str, float]) -> None:
    """Writes the weights of a model encoder, with the columns that it reads and what was measured of it."""
    about = {"columns": json.dumps(encoder.columns), "measured": json.dumps(dict(measured))}
    data = save({name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}, about)
    write_atomically(folder / MODEL_ENCODER, lambda beside: _write(beside, data))


def read_model_encoder(folder: Path, config: Mapping[str, Any], *, advice: str) -> InvariantEncoder | None:
    """Reads what `write_model_encoder` wrote; None for a run without a model encoder."""
    card = config.get("model_encoder")
    if card is None:
        return None
    tensors = read_weights(folder / MODEL_ENCODER, advice=advice)
    with safe_open(folder / MODEL_ENCODER, framework="pt") as file:
        columns = json.loads((file.metadata() or {}).get("columns", "null"))
    if not isinstance(columns, list) or not all(isinstance(column, str) for column in columns):
        raise ValueError(f"{folder / MODEL_ENCODER} does not say which columns it reads")
    try:
        with torch.device("meta"):
            shapes = {name: tensor.shape for name, tensor in InvariantEncoder(columns, **card["encoder"]).state_dict().items()}
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / 'config.yaml'} has no model encoder of this version ({error}); {advice}") from error
    if shapes != {name: tensor.shape for name, tensor in tensors.items()}:
        raise ValueError(f"{folder / MODEL_ENCODER} is of another model encoder than the configuration says")
    encoder = InvariantEncoder(columns, **card["encoder"])
    encoder.load_state_dict(tensors)
    return encoder.eval()


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Writes a run's config.yaml in one piece."""
    data = OmegaConf.to_yaml(OmegaConf.create(dict(config))).encode()
    write_atomically(folder / "config.yaml", lambda beside: _write(beside, data))


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
