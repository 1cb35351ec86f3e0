"""Training of a model of tokens: windows of train checkpoints, an objective, validation, and the loop."""

import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.progress import track

from wsl.data.pairs import pairs_of, roots_of
from wsl.data.side_information import SideInformation, SourceSides
from wsl.data.sources import FileSource, scan
from wsl.data.standardizer import Standardizer
from wsl.data.token_inputs import TokenInputs, rehearsal_of
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
    cpu_start = time.process_time()
    console = Console(quiet=quiet or not fabric.is_global_zero)
    tokenizer = instantiate(config.tokenizer)
    zoos = [Zoo.open(place) for place in places]
    splits = [one.split(config.split, fold=config.fold) for one in zoos]
    with console.status("reading checkpoints"):
        for one in zoos:
            tokenizer.prepare(roots_of(one))
        train_models = scan(chain.from_iterable(pairs_of(split.train) for split in splits), tokenizer)
        val_models = [scan(pairs_of(split.val), tokenizer) for split in splits]
    standardizer = Standardizer.fit((model.plan, model.sums) for model in train_models)
    assert config.window is not None  # adapted settings have one
    inputs = TokenInputs(tokenizer, standardizer, config.window, rehearsal_of(config.rehearsal))
    run = Run(folder, resolved, build_model(resolved, inputs), inputs, zoo=places[0])
    drawn = {"length": config.window, "seed": config.seed}
    finders = [SideInformation(tokenizer, standardizer, inputs.rehearsal, zoo=one) for one in zoos]
    learned = learned_from(train_models, config.rehearsed) if any(one.images for one in finders) else train_models
    sides = SourceSides(learned, [finders[_zoo_of(source, zoos)] for source in learned])
    if learned is not train_models:
        _rehearse(sides, console)
    train_windows = Windows(learned, standardizer, cache=config.cache_mb * 10**6, sides=sides, **drawn)
    if not (folder / STATE).is_file():  # a state to resume from has all weights
        with console.status("initializing from the train checkpoints"):
            run.model.initialize(TokenStatistics(train_models, train_windows))
    if fabric.is_global_zero:
        inputs.save(folder)
        write_config(folder, resolved)
    fabric.barrier()
    sizes = {"batches": config.validation_batches, "batch_size": config.batch_size}
    validations = []
    for one, models, finder in zip(zoos, val_models, finders, strict=True):
        if finder.images is not None:
            models = learned_from(models, config.validation_batches * config.batch_size)
        seen, known = run.on(one.path), SourceSides(models, [finder] * len(models))
        if finder.images is not None:
            _rehearse(known, console)
        windows = Windows(models, standardizer, cache=0, sides=known, **drawn)
        validations.append(Validation(seen, _objective(config, seen, models), windows, **sizes))

    def validation() -> dict[str, float]:
        scalars = validations[0]()
        for one, validate in zip(zoos[1:], validations[1:], strict=True):
            scalars |= {f"{name}/{one.path.name}": value for name, value in validate().items()}
        return scalars

    journal = Journal(folder / "metrics.jsonl", instantiate(config.logger), cpu_start=cpu_start)
    objective = _objective(config, run, learned)
    fit(config, fabric, folder, run.model, objective, train_windows, validation, console, journal)


def _objective(config: TrainConfig, run: Run, models: Sequence[FileSource]) -> Objective:
    """Returns the objective, told of the checkpoints whose windows it will see."""
    objective: Objective = instantiate(config.objective)
    objective.prepare(run, models)
    return objective


def _rehearse(sides: SourceSides, console: Console) -> None:
    """Finds the side information of all checkpoints, with a progress bar."""
    for some in track(sides.stacks(), "rehearsing", console=console, transient=True, disable=not console.is_terminal):
        sides.find(some)


def _zoo_of(source: FileSource, zoos: Sequence[Zoo]) -> int:
    """Returns which of the zoos a checkpoint lies in."""
    return next(number for number, zoo in enumerate(zoos) if source.checkpoint.path.is_relative_to(zoo.path.resolve()))


def learned_from(sources: Sequence[FileSource], count: int) -> list[FileSource]:
    """Returns some checkpoints: the final ones, evenly where they are too many, then every seventh of the others, and so on."""
    final, others = ([one for one in sources if one.checkpoint.final is last] for last in (True, False))
    if len(final) > count:
        return [final[n * len(final) // count] for n in range(count)]
    return [*final, *(one for start in range(7) for one in others[start::7])][:count]
