"""The training of a run: its settings, their check, and what lies in its folder when it is done."""

import dataclasses
import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console

from wsl.data.leakage import refuse_shared
from wsl.data.pairs import weights_with_roots
from wsl.data.token_inputs import rehearsal_of
from wsl.run import fresh_model, inputs_of
from wsl.run_files import FORMAT, read_config, refuse_other, write_config
from wsl.run_models import write_models
from wsl.training.adaptation import adapted
from wsl.training.metrics_log import Journal
from wsl.training.pretraining import pretrain
from wsl.training.resume_state import STATE
from wsl.training.settings import TrainConfig
from wsl.training.token_training import train_on_tokens
from zoo_gen import InputError, Zoo
from zoo_gen.config import instantiate
from zoo_gen.files import write_weights
from zoo_gen.wording import counted

OF_TOKENS = ("tokenizer", "window", "accumulate_grad_batches", "warmup", "gradient_clip_val", "ema", "validate_every")
OF_TOKENS += ("validation_batches", "save_every", "cache_mb", "workers", "strategy", "devices", "precision")
OF_TOKENS += ("rehearsed", "rehearsal")
"""Settings that mean something to models of tokens alone."""


def _reads_tokens(config: TrainConfig) -> bool:
    return inputs_of(config.model).reads == "tokens"


def check(config: TrainConfig, zoos: Sequence[Zoo]) -> None:
    """Raises `InputError` for cards and choices that cannot be trained with, before anything is written."""
    _check_objective(config)
    config, _ = adapted(config, zoos)
    instantiate(config.objective).check(config.model)
    instantiate(config.logger)
    if _reads_tokens(config):
        instantiate(config.tokenizer)
        rehearsal_of(config.rehearsal)
        with torch.device("meta"):  # takes no memory, whatever sizes the card asks for
            instantiate({**config.model, "token_width": 1})
    else:
        given = {setting.partition("=")[0].partition(".")[0] for setting in config.given}
        if unused := sorted(given & set(OF_TOKENS)):
            raise InputError(f"{', '.join(unused)} means nothing to model={config.model_name}, which reads no tokens; leave it out")
        with torch.device("meta"):
            instantiate({**config.model, "columns": {"everything": [0], "updates": [0], "directions": [0]}})
    instantiate(config.strategy).fabric(config.hardware)
    first, *others = zoos
    names = [one.path.name for one in zoos]
    if len(set(names)) != len(names):
        raise InputError(f"two of the zoos {config.zoo} have one name; rename a folder: a run tells its zoos apart by name")
    for one in zoos:
        if not len(one.split(config.split, fold=config.fold).train):
            count = one.select(stage="finetune").frame["model"].nunique()
            raise InputError(
                f"fold {config.fold} of zoo {one.path} has no train models, as it has {counted(count, 'fine-tuned model')} in all"
            )
    for one in others:
        refuse_shared(one, first, advice="models that are kept for testing would be learned from: train on one of the two")


def _check_objective(config: TrainConfig) -> None:
    reads, objective = inputs_of(config.model).reads, instantiate(config.objective)
    if objective.reads != reads:
        name = config.objective["_target_"]
        raise InputError(
            f"objective {name} is of {objective.reads}, and model={config.model_name} reads {reads}; leave objective out"
        )


def run_name(config: TrainConfig, zoo: Zoo) -> str:
    """Returns the name or path of the run; in a sweep, with what varies."""
    name = Path(config.run or f"{zoo.path.name}_{config.model_name}")
    return str(name.with_name(f"{name.name}_{named(config.swept)}") if config.swept else name)


def named(swept: str) -> str:
    """Returns what a sweep varies as part of a run's name, which needs no quotes on a command line.

    >>> named("seed=0,model.latent=8")
    'seed-0_model.latent-8'
    """
    return re.sub(r"[^A-Za-z0-9_.]", "-", swept.replace(",", "_"))


def train(config: TrainConfig, zoos: Sequence[Zoo], folder: Path, console: Console) -> None:
    """Trains the run in `folder`, or what is left of it, on the first of some zoos and on others with it.

    Settings that the zoos have no roots or images for give way (`wsl.training.adaptation`).
    """
    config, notes = adapted(config, zoos)
    resolved = _resolve(config, zoos, folder)
    if any((folder / name).is_file() for name in ("model.safetensors", STATE)):
        refuse_other(folder, resolved)
    elif (folder / "config.yaml").is_file():  # of a training that came to nothing: another may take its place
        read_config(folder)
    if (folder / "model.safetensors").is_file():
        (folder / STATE).unlink(missing_ok=True)  # by a training that was killed after its last word
        console.print(
            f"run {folder} is finished: nothing to do (delete the folder, or choose run=<another>, to train again)", soft_wrap=True
        )
        return
    for note in notes:
        console.print(note, soft_wrap=True, markup=False)
    write_models(folder, zoos, config.split, fold=config.fold)
    work = train_on_tokens if _reads_tokens(config) else _train_on_invariants
    places = [zoo.path for zoo in zoos]
    settings = {"config": config, "places": places, "folder": folder, "resolved": resolved, "quiet": console.quiet}
    instantiate(config.strategy).run(config.hardware, partial(work, **settings))
    console.print(f"run {folder} is finished", soft_wrap=True)


def _train_on_invariants(
    fabric: Fabric, *, config: TrainConfig, places: Sequence[Path], folder: Path, resolved: dict[str, Any], quiet: bool
) -> None:
    """Trains an encoder of invariants."""
    write_config(folder, resolved)
    journal = Journal(folder / "metrics.jsonl", instantiate(config.logger))
    journal.resume(0)
    zoos = [Zoo.open(place) for place in places]
    splits = [zoo.split(config.split, fold=config.fold) for zoo in zoos]
    encoder, inputs = pretrain(
        config,
        instantiate(config.objective),
        list(zip(zoos, splits, strict=True)),
        partial(fresh_model, resolved),
        log=journal.write,
        console=Console(quiet=quiet),
        device=fabric.device,
    )
    journal.close()
    inputs.save(folder)
    write_weights(folder / "model.safetensors", encoder.state_dict())


def _resolve(config: TrainConfig, zoos: Sequence[Zoo], folder: Path) -> dict[str, Any]:
    """Returns what config.yaml says: the command's values, the model card completed, and the zoos by place and content."""

    def entry(one: Zoo) -> dict[str, str]:
        path = one.path.resolve()
        return {"path": str(path), "relative": os.path.relpath(path, folder.resolve()), "content_hash": one.content_hash}

    zoo, *others = zoos
    left_out = {"run", "swept", "given", *(() if _reads_tokens(config) else OF_TOKENS)}
    values = {key: value for key, value in dataclasses.asdict(config).items() if key not in left_out}
    if _reads_tokens(config):
        pair = next(iter(weights_with_roots(zoo.split(config.split, fold=config.fold).train)), None)
        if pair is None:
            raise InputError(f"fold {config.fold} of split {config.split} of {zoo.path} has no train model; choose another fold")
        tokenizer = instantiate(config.tokenizer)
        token_width = tokenizer.plan(pair[0], root=pair[1]).width + 1  # and the log-scale
        values["model"] = {**config.model, "token_width": token_width}
    return {"format": FORMAT, **values, "zoo": entry(zoo), **({"other_zoos": [entry(one) for one in others]} if others else {})}
