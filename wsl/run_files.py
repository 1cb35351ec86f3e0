"""The files of a run: its configuration and weights, and the check that two configurations are of the same run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from zoo_gen import InputError
from zoo_gen.files import write_text
from zoo_gen.reader import read_text, read_weights, shortened
from zoo_gen.remote import copy_of, is_remote

FORMAT = 3
"""Version of the files of a run. Runs of other versions are refused: they are trained again in minutes."""

WEIGHTS = "model.safetensors"
"""The file of a run's weights, written last."""

CONFIG_LIMIT, CONFIG_DEPTH = 2**18, 32
"""Bytes of a run's configuration, and how deep it may be nested."""


def read_trained(path: str | Path) -> tuple[Path, dict[str, Any], dict[str, Tensor]]:
    """Returns the folder of a finished run, its configuration and its weights, given the folder or its name.

    Raises `InputError` for a run that is missing, unfinished, damaged, or of an older version.
    """
    folder = run_folder(path)
    if not (folder / "config.yaml").is_file():
        raise InputError(
            f"run '{path}' not found at {folder.resolve()}; make it with: python -m wsl.train model=hyperrep run={path}"
        )
    config = read_config(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise InputError(f"run {folder} is not finished; the command that started it resumes it: python -m wsl.train run={path}")
    try:
        tensors = read_weights(weights, advice=f"delete {folder} and train the run again")
    except InputError as error:
        raise InputError(f"the weights {weights} are damaged: {error}") from error
    check_config(folder, config, tensors)
    return folder, config, tensors


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
    if (found := config.get("format", 1)) != FORMAT:
        known = f"this version of the package reads format {FORMAT} alone"
        raise InputError(f"{path} is of format {found if isinstance(found, int) else shortened(found)}, and {known}; {again}")
    return {str(key): value for key, value in config.items()}


def check_config(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Raises `InputError` for a configuration that is no trained run's, or whose model cannot be that of the weights."""
    wrong = f"{folder / 'config.yaml'} is not the configuration of this run"
    again = f"delete {folder} and train the run again"
    kinds: dict[str, type] = {"split": str, "seed": int, "fold": int, "model_name": str, "zoo": dict, "model": dict}
    tokens = {"window": int, "tokenizer": dict, "rehearsal": dict}
    for key, kind in {**kinds, **{key: kind for key, kind in tokens.items() if key in config}}.items():
        value = config.get(key)
        is_card = kind is not dict or key in ("zoo", "rehearsal") or (isinstance(value, dict) and "_target_" in value)
        if not isinstance(value, kind) or not is_card or (isinstance(value, int) and not 0 <= value < 2**31):
            raise InputError(f"{wrong} ({key} is missing or wrong); {again}")
    largest = sum(weight.numel() for weight in weights.values())
    for key, value in (*config["model"].items(), *config.get("tokenizer", {}).items()):
        limit = len(weights) if "depth" in str(key) else largest
        if isinstance(value, int | float) and not abs(value) <= limit:
            raise InputError(f"{wrong} (its weights are fewer than {shortened(str(key))} says); {again}")


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Writes a run's config.yaml in one piece."""
    write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(config))))


FREE = ("accelerator", "devices", "strategy", "accumulate_grad_batches", "logger", "workers", "cache_mb", "save_every")
"""Settings that may change between an interrupted run and its resumption; the first four change round-off."""


def refuse_other(folder: Path, resolved: Mapping[str, Any]) -> None:
    """Raises `InputError` if a folder holds a run of another configuration than this one."""
    if not (folder / "config.yaml").is_file():
        return
    old, new = _flat(read_config(folder)), _flat(resolved)
    fixed = [key for key in old.keys() | new.keys() if key.partition(".")[0] not in FREE]
    changed = sorted(key for key in fixed if (old.get(key) or None) != (new.get(key) or None))  # not known and off are the same
    keys = [key for key in changed if not ("zoo" in key.partition(".")[0] and key.endswith((".path", ".relative")))]
    if keys:
        changes = "; ".join(f"{key} is {old.get(key)} there and {new.get(key)} here" for key in keys)
        raise InputError(
            f"{folder} holds a run of another configuration ({changes}); choose run=<another name>, or delete the folder"
        )


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested mappings and lists as one mapping, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        value = {str(place): item for place, item in enumerate(value)} if isinstance(value, list) else value
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def run_folder(path: str | Path) -> Path:
    """Returns the folder of a run: a path that holds one or has more than one part, else a name under checkpoints/runs.

    Of a URL it is that of its copy (`zoo_gen.remote`).
    """
    if isinstance(path, str) and is_remote(path):
        return copy_of(path)
    given = Path(path)
    return given if (given / "config.yaml").is_file() or len(given.parts) > 1 else Path("checkpoints", "runs", given)
