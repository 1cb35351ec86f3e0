"""`python -m wsl.train model=hyperrep`: trains a hyper-representation on a zoo, into a run folder that explains itself.

`zoo=a,b` trains on two zoos at once, of any shapes: the run belongs to the first, and `Run.open(..., zoo=b)` sees the second.
The same command resumes an interrupted run and leaves a finished one alone. Statistics are fitted, and the model
trained, on the train models of the split alone; checkpoints with non-finite weights (models that diverged) are left
out.
"""

import dataclasses
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException
from rich.console import Console

from wsl.data import Windows
from wsl.model_latents import ModelLatents
from wsl.normalize import Standardizer
from wsl.objectives.objective import NeedsModels, Objective
from wsl.run import MODEL_ENCODER, Run, read_config, run_folder, write_config, write_model_encoder
from wsl.sources import Source, pairs_of, survey
from wsl.trainer import STATE, Trainer
from wsl.validation import Validation
from zoo_gen import InputError, Zoo
from zoo_gen.config import command, instantiate
from zoo_gen.files import locked, remove_leftovers
from zoo_gen.zoo import zoo_folder

AT_LEAST_ONE = ("steps", "batch_size", "window", "log_every", "validate_every", "validation_batches", "save_every", "threads")
AT_LEAST_ZERO = ("fold", "seed", "warmup", "weight_decay", "cache_mb", "workers")
FREE = ("accelerator", "devices", "workers", "cache_mb", "save_every")
"""Settings that may change between an interrupted run and its resumption."""


@dataclass
class TrainConfig:
    """Values of configs/train.yaml."""

    zoo: str
    run: str | None
    model_name: str
    split: str
    fold: int
    seed: int
    tokenizer: dict[str, Any]
    model: dict[str, Any]
    objective: dict[str, Any]
    view: dict[str, Any]
    window: int
    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup: int
    clip: float
    log_every: int
    validate_every: int
    validation_batches: int
    save_every: int
    cache_mb: int
    accelerator: str
    devices: int
    precision: str
    workers: int
    threads: int
    model_encoder: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Raises `InputError` for numbers that nothing can be trained with."""
        for names, least in ((AT_LEAST_ONE, 1), (AT_LEAST_ZERO, 0)):
            for name in names:
                if not getattr(self, name) >= least:
                    raise InputError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name in ("learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be more than 0 and finite, not {getattr(self, name)}")
        if self.devices != 1:
            raise InputError(f"devices must be 1, not {self.devices}: training on several is not supported yet")
        if self.seed >= 2**31:
            raise InputError(f"seed must be less than 2**31, not {self.seed}")


@command("train", TrainConfig)
def main(config: TrainConfig) -> None:
    """Reads, fits, trains, and writes the run."""
    console = Console()
    torch.set_num_threads(config.threads)
    zoo, *others = (Zoo.open(zoo_folder(name)) for name in config.zoo.split(","))
    for one in (zoo, *others):
        if not one.complete:
            raise InputError(f"zoo {one.path} is not finished; finish it with: python -m zoo_gen zoo={one.path.name}")
    _check(config, (zoo, *others))
    folder = run_folder(config.run or f"{zoo.path.name}_{config.model_name}")
    with locked(folder / "lock", f"run {folder}"):
        remove_leftovers(folder)
        train(config, zoo, folder, console, others=others)


def _check(config: TrainConfig, zoos: Sequence[Zoo]) -> None:
    """Raises `InputError` for cards and choices that cannot be trained with, before anything is written."""
    for card in (config.tokenizer, config.view, config.objective, config.model_encoder):
        instantiate(card)
    with torch.device("meta"):  # takes no memory, whatever sizes the card asks for
        instantiate({**config.model, "token_width": 1})
    for one in zoos:
        one.split(config.split, fold=config.fold)
    _fabric(config)


def _fabric(config: TrainConfig) -> Fabric:
    """Where and how to compute. Raises `InputError` for what Lightning Fabric does not know or this machine does not have."""
    precision: Any = config.precision
    try:
        return Fabric(accelerator=config.accelerator, devices=config.devices, precision=precision)
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        chosen = f"accelerator={config.accelerator} and precision={config.precision}"
        raise InputError(f"cannot train with {chosen}: {error}") from error


def train(config: TrainConfig, zoo: Zoo, folder: Path, console: Console, *, others: Sequence[Zoo] = ()) -> None:
    """Trains the run in `folder`, or what is left of it, on a zoo and on others with it."""
    tokenizer, view = (instantiate(card) for card in (config.tokenizer, config.view))
    zoos = (zoo, *others)
    splits = [one.split(config.split, fold=config.fold) for one in zoos]
    first, root = next(pairs_of(splits[0].train))
    token_width = tokenizer.plan(first.state_dict(), root=root.state_dict()).width + 1  # and the log-scale
    resolved = _resolve(config, zoo, folder, token_width, others=others)
    _agree(folder, resolved)
    if (folder / "model.safetensors").is_file():
        (folder / STATE).unlink(missing_ok=True)  # by a training that was killed after its last word
        console.print(
            f"run {folder} is finished: nothing to do (delete the folder, or choose run=<another>, to train again)", soft_wrap=True
        )
        return

    fabric = _fabric(config)
    fabric.launch()
    with console.status("reading checkpoints"):
        train_models = survey(chain.from_iterable(pairs_of(split.train) for split in splits), tokenizer)
        val_models = [survey(pairs_of(split.val), tokenizer) for split in splits]
    standardizer = Standardizer.fit_sums((model.plan, model.sums) for model in train_models)
    run = Run(folder, resolved, standardizer, zoo=zoo.path)
    viewed = [view(model) for model in train_models]
    standardizer.save(folder / "standardizer.json")
    write_config(folder, resolved)
    if config.model_encoder is not None and not (folder / MODEL_ENCODER).is_file():
        card: ModelLatents = instantiate(config.model_encoder)
        encoder, measured = card.fit(splits[0], seed=config.seed, console=console, device=fabric.device)
        write_model_encoder(folder, encoder, measured)
    drawn = {"length": config.window, "seed": config.seed}
    train_windows = Windows(viewed, standardizer, cache=config.cache_mb * 10**6, **drawn)
    val_windows = [Windows(models, standardizer, cache=0, **drawn) for models in val_models]
    sizes = {"batches": config.validation_batches, "batch_size": config.batch_size}
    validations = []
    for one, models, windows in zip(zoos, val_models, val_windows, strict=True):
        seen = run.on(one.path)
        validations.append(Validation(seen, _objective(config, seen, models), windows, **sizes))

    def validation() -> dict[str, float]:
        scalars = validations[0]()
        for one, validate in zip(others, validations[1:], strict=True):
            scalars |= {f"{name}/{one.path.name}": value for name, value in validate().items()}
        return scalars

    settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(Trainer)}
    Trainer(**settings).fit(fabric, folder, run.model, _objective(config, run, viewed), train_windows, validation, console)
    console.print(f"run {folder} is finished", soft_wrap=True)


def _objective(config: TrainConfig, run: Run, models: Sequence[Source]) -> Objective:
    """The objective of a run, told of the checkpoints whose windows it will see."""
    objective = instantiate(config.objective)
    if isinstance(objective, NeedsModels):
        objective.prepare(run, models)
    return objective


def _resolve(config: TrainConfig, zoo: Zoo, folder: Path, token_width: int, *, others: Sequence[Zoo]) -> dict[str, Any]:
    """What config.yaml says: the command's values, the model card completed, and the zoos by place and content."""

    names = [one.path.name for one in (zoo, *others)]
    if len(set(names)) != len(names):
        raise InputError(f"two of the zoos {config.zoo} have one name; rename a folder: a run tells its zoos apart by name")

    def entry(one: Zoo) -> dict[str, str]:
        path = one.path.resolve()
        return {"path": str(path), "relative": os.path.relpath(path, folder.resolve()), "content_hash": one.content_hash}

    values = {key: value for key, value in dataclasses.asdict(config).items() if key not in ("run", "model_name")}
    return {
        **values,
        "model": {**config.model, "token_width": token_width},
        "zoo": entry(zoo),
        **({"other_zoos": [entry(one) for one in others]} if others else {}),
    }


def _agree(folder: Path, resolved: dict[str, Any]) -> None:
    """Raises `InputError` if the folder holds a run of another configuration."""
    if not (folder / "config.yaml").is_file():
        return
    old, new = _flat(read_config(folder)), _flat(resolved)
    changed = sorted(key for key in old.keys() | new.keys() if key not in FREE and old.get(key) != new.get(key))
    keys = [key for key in changed if not ("zoo" in key.partition(".")[0] and key.endswith((".path", ".relative")))]
    if keys:
        changes = "; ".join(f"{key} is {old.get(key)} there and {new.get(key)} here" for key in keys)
        raise InputError(
            f"{folder} holds a run of another configuration ({changes}); choose run=<another name>, or delete the folder"
        )


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        value = {str(place): item for place, item in enumerate(value)} if isinstance(value, list) else value
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


if __name__ == "__main__":
    main()
