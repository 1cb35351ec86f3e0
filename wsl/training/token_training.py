"""Training of a model of tokens: windows of train checkpoints, an objective, validation, and the loop."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console

from wsl.data.pairs import pairs_of, roots_of
from wsl.data.sources import FileSource, scan
from wsl.data.standardizer import Standardizer
from wsl.data.token_inputs import TokenInputs
from wsl.data.token_statistics import TokenStatistics
from wsl.data.windows import Windows
from wsl.run import Run, build_model
from wsl.run_files import write_config
from wsl.training.metrics_log import Journal
from wsl.training.objectives.objective import Objective
from wsl.training.resume_state import STATE
from wsl.training.settings import TrainConfig
from wsl.training.trainer import fit
from wsl.training.validation import Validation
from zoo_gen import Zoo
from zoo_gen.config import instantiate


def train_on_tokens(
    fabric: Fabric, *, config: TrainConfig, places: Sequence[Path], folder: Path, resolved: dict[str, Any], quiet: bool
) -> None:
    """Trains a model of tokens as one of the processes of a strategy; the process of rank 0 writes."""
    torch.set_num_threads(config.threads)
    console = Console(quiet=quiet or not fabric.is_global_zero)
    tokenizer = instantiate(config.tokenizer)
    zoos = [Zoo.open(place) for place in places]
    splits = [one.split(config.split, fold=config.fold) for one in zoos]
    with console.status("reading checkpoints"):
        for one in zoos:
            tokenizer.prepare(roots_of(one))
        train_models = scan(chain.from_iterable(pairs_of(split.train) for split in splits), tokenizer)
        val_models = [scan(pairs_of(split.val), tokenizer) for split in splits]
    inputs = TokenInputs(tokenizer, Standardizer.fit((model.plan, model.sums) for model in train_models), config.window)
    run = Run(folder, resolved, build_model(resolved, inputs), inputs, zoo=places[0])
    drawn = {"length": config.window, "seed": config.seed}
    train_windows = Windows(train_models, inputs.standardizer, cache=config.cache_mb * 10**6, **drawn)
    if not (folder / STATE).is_file():  # a state to resume from has all weights
        with console.status("initializing from the train checkpoints"):
            run.model.initialize(TokenStatistics(train_models, train_windows))
    if fabric.is_global_zero:
        inputs.save(folder)
        write_config(folder, resolved)
    fabric.barrier()
    sizes = {"batches": config.validation_batches, "batch_size": config.batch_size}
    validations = []
    for one, models in zip(zoos, val_models, strict=True):
        seen, windows = run.on(one.path), Windows(models, inputs.standardizer, cache=0, **drawn)
        validations.append(Validation(seen, _objective(config, seen, models), windows, **sizes))

    def validation() -> dict[str, float]:
        scalars = validations[0]()
        for one, validate in zip(zoos[1:], validations[1:], strict=True):
            scalars |= {f"{name}/{one.path.name}": value for name, value in validate().items()}
        return scalars

    journal = Journal(folder / "metrics.jsonl", instantiate(config.logger))
    objective = _objective(config, run, train_models)
    fit(config, fabric, folder, run.model, objective, train_windows, validation, console, journal)


def _objective(config: TrainConfig, run: Run, models: Sequence[FileSource]) -> Objective:
    """Returns the objective, told of the checkpoints whose windows it will see."""
    objective: Objective = instantiate(config.objective)
    objective.prepare(run, models)
    return objective
