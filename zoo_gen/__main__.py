"""Makes a model zoo: `python -m zoo_gen zoo=digits_mini`. With `plan=true` it says what that would take, and trains nothing.

`images=<folder or Parquet file>` takes your own images instead of the card's: classes, counts, size, channels, mean and standard
deviation are found, and the input of the architecture follows.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING
from rich.console import Console

from zoo_gen.blueprint import blueprint_of
from zoo_gen.config import command, instantiate
from zoo_gen.errors import InputError, printable
from zoo_gen.generate import generate
from zoo_gen.own_images import refuse_set_twice, with_images
from zoo_gen.plan import GPUS, estimate, print_plan
from zoo_gen.remote import is_remote, upload
from zoo_gen.wording import counted


@dataclass
class ZooGenConfig:
    """Everything the command takes."""

    zoo: dict[str, Any] = MISSING
    executor: dict[str, Any] = MISSING
    plan: bool = MISSING
    gpu: str = MISSING
    seed: int = MISSING
    path: str | None = MISSING
    images: str | None = MISSING
    pretrain_images: str | None = MISSING
    classes: list[str] = MISSING
    size: int | None = MISSING

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed must be at least 0, not {self.seed}")
        if self.gpu not in GPUS:
            raise InputError(f"unknown gpu '{self.gpu}'; choose one of {', '.join(GPUS)}")
        if self.images is None and (self.pretrain_images is not None or self.classes or self.size is not None):
            raise InputError("pretrain_images=, classes= and size= go with images=<folder, Parquet file, hub data set or card>")


@command("zoo_gen", ZooGenConfig)
def main(config: ZooGenConfig) -> None:
    """Makes the zoo of a card, or finishes one that was interrupted."""
    path = place_of(config)
    executor = instantiate(config.executor)
    console = Console(highlight=False, soft_wrap=True)
    card = config.zoo
    if config.images is not None:
        refuse_set_twice(HydraConfig.get().overrides.task)
        given = {"pretrain_images": config.pretrain_images, "classes": config.classes, "size": config.size}
        card, lines = with_images(card, images=config.images, **given)
        console.print("\n".join(lines), markup=False)
    if config.plan:
        print_plan(estimate(blueprint_of(card, load=[]), seed=config.seed, executor=executor), gpu=config.gpu)
        return
    zoo = generate(path, card, name=path.resolve().name, seed=config.seed, executor=executor)
    if is_remote(config.path):
        upload(path, str(config.path))
        console.print(f"written to {printable(str(config.path))}", markup=False)

    final = zoo.select(stage="finetune", final=True).frame
    low, median, high = final["test_accuracy"].quantile([0.05, 0.5, 0.95])
    by_family = final.groupby("pretraining")["test_accuracy"].median().to_dict()
    families = ", ".join(f"{family} {accuracy:.2f}" for family, accuracy in by_family.items())
    made = f"{counted(zoo.frame['model'].nunique(), 'model')}, {counted(len(zoo), 'checkpoint')}"
    diverged = zoo.select(status="diverged").frame["model"].nunique()
    console.print(f"[bold]{zoo.name}[/bold]: {made}, {diverged} diverged, in {zoo.path}")
    console.print(f"final test accuracy: 5 % {low:.2f}, median {median:.2f}, 95 % {high:.2f} (medians by pre-training: {families})")
    console.print(f"content hash {zoo.content_hash}")


def place_of(config: ZooGenConfig) -> Path:
    """The folder of the zoo; where none is named, it is called after the card, the images and the seed."""
    if is_remote(config.path):  # made here, then uploaded
        return Path("checkpoints", "zoos", str(config.path).rstrip("/").rpartition("/")[2])
    if config.path:
        return Path(config.path)
    images = "" if config.images is None else f"-{Path(config.images).resolve().stem}"
    seed = f"-seed{config.seed}" if config.seed else ""
    return Path("checkpoints", "zoos", f"{config.zoo['name']}{images}{seed}")


if __name__ == "__main__":
    main()
