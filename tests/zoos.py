"""Small zoos for the tests, made by the real generator."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import zoo_gen.__main__  # registers the schema of the command
from zoo_gen import Zoo
from zoo_gen.blueprint import ModelSpec
from zoo_gen.config import compose
from zoo_gen.generate import generate, train_stack

TINY = (
    "zoo.pretrain.recipe.epochs=2",
    "zoo.finetune.recipe.epochs=2",
    "zoo.pretrain.members.2.epochs=2",
    "zoo.stack_size=36",
)
TWO_RATES = {"learning_rate": [1e-3, 1e-2]}


class InThisProcess:
    """An executor that trains one stack after the other, and can be told to die."""

    ranks = 1

    def __init__(self, die_after: int | None = None):
        self.left = die_after

    def models_at_once(self, spec: ModelSpec) -> int:
        return 2

    def run(self, zoo: Path, stacks: Sequence[str]) -> Iterator[str]:
        for name in stacks:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left = None if self.left is None else self.left - 1
            train_stack(zoo, name)
            yield name


def make_zoo(path: Path, *overrides: str, axes: dict[str, list[Any]] | None = None, executor: InThisProcess | None = None) -> Zoo:
    config = compose("zoo_gen", ["zoo=digits_mini", *TINY, *overrides])
    if axes is not None:
        config["zoo"]["finetune"]["axes"] = axes
    return generate(path, config["zoo"], name=path.name, seed=config["seed"], executor=executor or InThisProcess())


__all__ = ["TINY", "TWO_RATES", "InThisProcess", "compose", "make_zoo", "zoo_gen"]
