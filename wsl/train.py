"""`python -m wsl.train model=hyperrep`: trains a hyper-representation on a zoo, into a run folder that explains itself.

`zoo=a,b` trains on two zoos at once, of any shapes: the run belongs to the first, and `Run.open(..., zoo=b)` sees the second.
The same command resumes an interrupted run and leaves a finished one alone. Statistics are fitted, and the model
trained, on the train models of the split alone; checkpoints with non-finite weights (models that diverged) are left
out.
"""

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console

from wsl.data.leakage import refuse_shared
from wsl.data.sources import FileSource, pairs_of, roots_of, scan
from wsl.data.standardizer import Standardizer
from wsl.data.windows import Windows
from wsl.run import Run, run_folder
from wsl.run_files import MODEL_ENCODER, read_config, write_config, write_model_encoder
from wsl.tokenizers.fisher_basis import prepare
from wsl.training.data_dependent import DataDependent
from wsl.training.metrics_log import Journal
from wsl.training.objectives.objective import NeedsModels, Objective
from wsl.training.pretraining import Pretraining
from wsl.training.resume_state import STATE
from wsl.training.strategies import Hardware
from wsl.training.trainer import Trainer
from wsl.training.validation import Validation
from zoo_gen import InputError, Zoo
from zoo_gen.config import command, instantiate
from zoo_gen.files import locked, remove_leftovers
from zoo_gen.zoo import zoo_folder

AT_LEAST_ONE = (
    *(
        "steps",
        "batch_size",
        "accumulate_grad_batches",
        "window",
        "log_every",
        "validate_every",
        "validation_batches",
        "save_every",
    ),
    *("devices", "threads"),
)
AT_LEAST_ZERO = ("fold", "seed", "warmup", "weight_decay", "cache_mb", "workers")
FREE = ("accelerator", "devices", "strategy", "accumulate_grad_batches", "logger", "workers", "cache_mb", "save_every")
"""Settings that may change between an interrupted run and its resumption; the first four change round-off."""


@dataclass
class TrainConfig:
    """Values of configs/train.yaml."""

    zoo: str
    run: str | None
    model_name: str
    swept: str
    split: str
    fold: int
    seed: int
    tokenizer: dict[str, Any]
    model: dict[str, Any]
    objective: dict[str, Any]
    strategy: dict[str, Any]
    logger: dict[str, Any]
    window: int
    steps: int
    batch_size: int
    accumulate_grad_batches: int
    learning_rate: float
    weight_decay: float
    warmup: int
    gradient_clip_val: float
    ema: float
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
        for name in ("learning_rate", "gradient_clip_val"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be more than 0 and finite, not {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise InputError(f"ema must be at least 0 and less than 1, not {self.ema}")
        if self.batch_size % (self.devices * self.accumulate_grad_batches):
            raise InputError(
                f"batch_size must be a multiple of devices x accumulate_grad_batches, {self.devices} x {self.accumulate_grad_batches}, not {self.batch_size}"
            )
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
    if config.swept:
        folder = folder.with_name(f"{folder.name}_{named(config.swept)}")
    with locked(folder / "lock", f"run {folder}"):
        remove_leftovers(folder)
        train(config, zoo, folder, console, others=others)


def _check(config: TrainConfig, zoos: Sequence[Zoo]) -> None:
    """Raises `InputError` for cards and choices that cannot be trained with, before anything is written."""
    for card in (config.tokenizer, config.objective, config.model_encoder):
        instantiate(card)
    with torch.device("meta"):  # takes no memory, whatever sizes the card asks for
        instantiate({**config.model, "token_width": 1})
    instantiate(config.logger)
    instantiate(config.strategy).fabric(_hardware(config))
    first, *others = zoos
    for one in zoos:
        one.split(config.split, fold=config.fold)
    for one in others:
        refuse_shared(one, first, advice="those that are kept for testing would be learned from: train on one of the two")


def named(swept: str) -> str:
    """What a sweep varies as part of a run's name, which needs no quotes on a command line.

    >>> named("seed=0,model.latent=8")
    'seed-0_model.latent-8'
    """
    return re.sub(r"[^A-Za-z0-9_.]", "-", swept.replace(",", "_"))


def _hardware(config: TrainConfig) -> Hardware:
    """What to compute on."""
    return Hardware(accelerator=config.accelerator, devices=config.devices, precision=config.precision)


def train(config: TrainConfig, zoo: Zoo, folder: Path, console: Console, *, others: Sequence[Zoo] = ()) -> None:
    """Trains the run in `folder`, or what is left of it, on a zoo and on others with it."""
    tokenizer = instantiate(config.tokenizer)
    first, root = next(pairs_of(zoo.split(config.split, fold=config.fold).train))
    token_width = tokenizer.plan(first.state_dict(), root=root.state_dict()).width + 1  # and the log-scale
    resolved = _resolve(config, zoo, folder, token_width, others=others)
    _agree(folder, resolved)
    if (folder / "model.safetensors").is_file():
        (folder / STATE).unlink(missing_ok=True)  # by a training that was killed after its last word
        console.print(
            f"run {folder} is finished: nothing to do (delete the folder, or choose run=<another>, to train again)", soft_wrap=True
        )
        return
    places = [one.path for one in (zoo, *others)]
    work = partial(_train, config=config, places=places, folder=folder, resolved=resolved, quiet=console.quiet)
    instantiate(config.strategy).run(_hardware(config), work)
    console.print(f"run {folder} is finished", soft_wrap=True)


def _train(
    fabric: Fabric, *, config: TrainConfig, places: Sequence[Path], folder: Path, resolved: dict[str, Any], quiet: bool
) -> None:
    """Trains as one of the processes of the strategy; the one of rank 0 writes."""
    torch.set_num_threads(config.threads)
    console = Console(quiet=quiet or not fabric.is_global_zero)
    tokenizer = instantiate(config.tokenizer)
    zoos = [Zoo.open(place) for place in places]
    splits = [one.split(config.split, fold=config.fold) for one in zoos]
    with console.status("reading checkpoints"):
        for one in zoos:
            prepare(tokenizer, roots_of(one))
        train_models = scan(chain.from_iterable(pairs_of(split.train) for split in splits), tokenizer)
        val_models = [scan(pairs_of(split.val), tokenizer) for split in splits]
    standardizer = Standardizer.fit_sums((model.plan, model.sums) for model in train_models)
    run = Run(folder, resolved, standardizer, zoo=places[0])
    drawn = {"length": config.window, "seed": config.seed}
    train_windows = Windows(train_models, standardizer, cache=config.cache_mb * 10**6, **drawn)
    fresh = run.model
    if isinstance(fresh, DataDependent) and not (folder / STATE).is_file():  # what a run resumes from has all weights
        with console.status("looking at the train checkpoints"):
            fresh.initialize(train_models, train_windows)
    if fabric.is_global_zero:
        standardizer.save(folder / "standardizer.json")
        write_config(folder, resolved)
        if config.model_encoder is not None and not (folder / MODEL_ENCODER).is_file():
            card: Pretraining = instantiate(config.model_encoder)
            encoder, measured = card.fit(
                list(zip(zoos, splits, strict=True)), seed=config.seed, console=console, device=fabric.device
            )
            write_model_encoder(folder, encoder, measured)
    fabric.barrier()
    val_windows = [Windows(models, standardizer, cache=0, **drawn) for models in val_models]
    sizes = {"batches": config.validation_batches, "batch_size": config.batch_size}
    validations = []
    for one, models, windows in zip(zoos, val_models, val_windows, strict=True):
        seen = run.on(one.path)
        validations.append(Validation(seen, _objective(config, seen, models), windows, **sizes))

    def validation() -> dict[str, float]:
        scalars = validations[0]()
        for one, validate in zip(zoos[1:], validations[1:], strict=True):
            scalars |= {f"{name}/{one.path.name}": value for name, value in validate().items()}
        return scalars

    journal = Journal(folder / "metrics.jsonl", instantiate(config.logger))
    settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(Trainer)}
    objective = _objective(config, run, train_models)
    Trainer(**settings).fit(fabric, folder, run.model, objective, train_windows, validation, console, journal)


def _objective(config: TrainConfig, run: Run, models: Sequence[FileSource]) -> Objective:
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

    values = {key: value for key, value in dataclasses.asdict(config).items() if key not in ("run", "model_name", "swept")}
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
    fixed = [key for key in old.keys() | new.keys() if key.partition(".")[0] not in FREE]
    changed = sorted(key for key in fixed if (old.get(key) or None) != (new.get(key) or None))  # not known and off are the same
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
