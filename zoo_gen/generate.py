"""Generating a zoo: plan, partition, train every stack that is not finished, index.

The same command goes on where the last one ended: what a stack needs to resume lies in `state/` until it is finished.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo_gen.blueprint import blueprint_of
from zoo_gen.executors.executor import Executor
from zoo_gen.files import locked, remove_leftovers, write_weights
from zoo_gen.hardware import CPU, Hardware
from zoo_gen.population import PopulationTrainer
from zoo_gen.reader import read_json, read_weights
from zoo_gen.team import ALONE, Team
from zoo_gen.writer import ModelWriter, create_zoo, epochs_done, write_index
from zoo_gen.zoo import Zoo


def generate(path: Path, config: Mapping[str, Any], *, name: str, seed: int, executor: Executor) -> Zoo:
    """Makes the zoo of a `Blueprint`'s resolved card, or finishes one that was interrupted.

    Raises `InputError` if the folder holds another zoo, or another process is writing it.
    """
    blueprint = blueprint_of(config, load=["pretrain", "finetune"])
    specs = blueprint.plan(seed)
    models = [spec.model for spec in specs]
    with locked(path / ".lock", f"zoo {path}"):
        remove_leftovers(path)
        remove_unbegun(path)
        if blueprint.stack_size is None and (path / "zoo.json").exists():  # memory decided, and was another then
            stacks = read_json(path / "zoo.json").get("stacks", {})
        else:
            stacks = blueprint.partition(specs, executor.models_at_once)
        for stack in stacks.values():  # round-off depends on how a batch is shared
            stack.pop("ranks", None)
            stack |= {"ranks": executor.ranks} if executor.ranks > 1 else {}
        create_zoo(path, name=name, seed=seed, config=config, specs=specs, stacks=stacks)
        for stage in ("pretrain", "finetune"):
            left = [name for name, plan in stacks.items() if name.startswith(stage) and epochs_done(path, plan) < plan["epochs"]]
            left.sort(key=lambda name: -len(stacks[name]["models"]) * stacks[name]["epochs"])  # the longest first ends soonest
            for _ in executor.run(path, left):  # each time a stack is finished
                write_index(path, models)
        write_index(path, models)
        for state in (path / "state").glob("*"):
            state.unlink()  # left by a kill after the last checkpoint
    return Zoo.open(path)


def remove_unbegun(path: Path) -> None:
    """Removes the description of a zoo that came to nothing, of which no epoch was trained; another may take its place."""
    kept = (*path.glob("models/*/record.json"), *path.glob("models/**/*.safetensors"), *path.glob("state/*"), *path.glob("index.*"))
    if kept or not (path / "zoo.json").is_file() or read_json(path / "zoo.json").get("format") != "zoo_gen":
        return
    for file in (*path.glob("models/*/config.json"), path / "zoo.json"):
        file.unlink()
    for folder in (*path.glob("models/*"), path / "models", path / "state"):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def train_stack(path: Path, name: str, *, hardware: Hardware = CPU, team: Team = ALONE) -> None:
    """Trains one stack of a zoo to its end, from its saved state if there is one; all of a team's processes call it together.

    Everything comes from `zoo.json`, so this is all that a worker on any machine has to be told.
    """
    description = read_json(path / "zoo.json")
    stage = name.partition("_")[0]
    blueprint = blueprint_of(description["config"], load=[stage])
    specs = {spec.model: spec for spec in blueprint.plan(description["seed"])}
    members = [specs[model] for model in description["stacks"][name]["models"]]
    models = path / "models"
    parents = [read_weights(models / spec.parent / "model.safetensors") if spec.parent else None for spec in members]
    trainer = PopulationTrainer(members, blueprint.images(stage), parents, seed=description["seed"], hardware=hardware, team=team)
    writers = [ModelWriter(path, spec, dtype=blueprint.dtype, keep_every=blueprint.keep_every) for spec in members]
    state = path / "state" / f"{name}.safetensors"
    if state.exists():
        trainer.load_state(read_weights(state))
        for writer in writers:
            writer.resume(trainer.epoch)
    while trainer.epoch < trainer.recipe.epochs:
        trainer.train_epoch()
        scores = trainer.evaluate()
        if team.rank:
            continue
        for index, (writer, results) in enumerate(zip(writers, scores, strict=True)):
            writer.save(trainer.epoch, trainer.weights(index), results)
        write_weights(state, trainer.state())
    if not team.rank:
        state.unlink(missing_ok=True)
