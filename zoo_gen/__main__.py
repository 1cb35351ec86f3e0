"""Makes a model zoo: `python -m zoo_gen zoo=digits_mini`. With `plan=true` it says what that would take, and trains nothing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING
from rich.console import Console

from zoo_gen.blueprint import blueprint_of
from zoo_gen.config import command, instantiate
from zoo_gen.errors import InputError
from zoo_gen.generate import generate
from zoo_gen.plan import GPUS, estimate, print_plan


@dataclass
class ZooGenConfig:
    """Everything the command takes."""

    zoo: dict[str, Any] = MISSING
    executor: dict[str, Any] = MISSING
    plan: bool = MISSING
    gpu: str = MISSING
    seed: int = MISSING
    path: str | None = MISSING

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed must be at least 0, not {self.seed}")
        if self.gpu not in GPUS:
            raise InputError(f"unknown gpu '{self.gpu}'; choose one of {', '.join(GPUS)}")


@command("zoo_gen", ZooGenConfig)
def main(config: ZooGenConfig) -> None:
    """Makes the zoo of a card, or finishes one that was interrupted."""
    name = config.zoo["name"] if config.seed == 0 else f"{config.zoo['name']}-seed{config.seed}"
    path = Path(config.path or f"checkpoints/zoos/{name}")
    executor = instantiate(config.executor)
    if config.plan:
        print_plan(estimate(blueprint_of(config.zoo, load=[]), seed=config.seed, executor=executor), gpu=config.gpu)
        return
    zoo = generate(path, config.zoo, name=name, seed=config.seed, executor=executor)

    final = zoo.select(stage="finetune", final=True).frame
    low, median, high = final["test_accuracy"].quantile([0.05, 0.5, 0.95])
    by_family = final.groupby("pretraining")["test_accuracy"].median().to_dict()
    families = ", ".join(f"{family} {accuracy:.2f}" for family, accuracy in by_family.items())
    models = zoo.frame["model"].nunique()
    diverged = zoo.select(status="diverged").frame["model"].nunique()
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{zoo.name}[/bold]: {models} models, {len(zoo)} checkpoints, {diverged} diverged, in {zoo.path}")
    console.print(f"final test accuracy: 5 % {low:.2f}, median {median:.2f}, 95 % {high:.2f} (medians by pre-training: {families})")
    console.print(f"content hash {zoo.content_hash}")


if __name__ == "__main__":
    main()
