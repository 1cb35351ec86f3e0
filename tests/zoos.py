"""Small zoos for the tests, made by the real generator."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

import zoo_gen.__main__  # registers the schema of the command
from zoo_gen import Zoo
from zoo_gen.adoption.write import UNKNOWN, AdoptedCheckpoint, AdoptedModel, write_adopted
from zoo_gen.architecture import architecture, initialize, with_head
from zoo_gen.blueprint import ModelSpec
from zoo_gen.config import compose
from zoo_gen.files import write_weights
from zoo_gen.generate import generate, train_stack
from zoo_gen.reference import Reference

TINY = (
    "zoo.pretrain.recipe.epochs=2",
    "zoo.finetune.recipe.epochs=2",
    "zoo.pretrain.members.2.epochs=2",
    "zoo.stack_size=36",
)
ONE_EPOCH = ("zoo.pretrain.recipe.epochs=1", "zoo.finetune.recipe.epochs=1", "zoo.pretrain.members.2.epochs=1")
ONE_EPOCH += ("zoo.pretrain.recipe.warmup_epochs=1", "zoo.finetune.recipe.warmup_epochs=1")
TWO_RATES = {"learning_rate": [1e-3, 1e-2]}
SHORT = ("zoo.architecture.model_args.depth=1", "zoo.pretrain.recipe.batch_size=128", "zoo.finetune.recipe.batch_size=128")
"""What a zoo is made by whose training does not matter: one block, few steps."""

Value = TypeVar("Value")


def known(value: Value | None) -> Value:
    """What is there in the zoos of these tests, such as the root of a model."""
    assert value is not None
    return value


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


def make_short(path: Path, *overrides: str, executor: InThisProcess | None = None) -> Zoo:
    """A zoo of 3 roots x 2 of one block, two epochs of few steps each."""
    return make_zoo(path, *SHORT, *overrides, axes=TWO_RATES, executor=executor)


SMALL = with_head(
    architecture(
        timm_name="vit_tiny_patch16_224",
        model_args={"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2},
        in_chans=1,
        img_size=8,
        mean=[0.5],
        std=[0.5],
    ),
    "linear",
    3,
)
"""The architecture of models that people bring, small."""


def tuned(root: dict[str, Tensor], seed: int, *, by: float = 0.02) -> dict[str, Tensor]:
    """Weights near those of a root, the head drawn anew."""
    rng = torch.Generator().manual_seed(seed)
    noise = {name: torch.randn(weight.shape, generator=rng) for name, weight in root.items()}
    return {
        name: noise[name] / 4 if name.startswith("head") else weight + by * (1 + seed % 5) * noise[name]
        for name, weight in root.items()
    }


def adopted_zoo(
    folder: Path,
    *,
    roots: int = 3,
    children: int = 5,
    epochs: int = 2,
    unknown: int = 0,
    described: bool = True,
    copy: bool = False,
) -> Zoo:
    """An adopted zoo in `folder / "zoo"`, of random ViTs of width 16 whose files are in `folder / "files"`; nothing is trained.

    Args:
        folder: a place for both.
        roots: known ones, each with `children` models.
        children: of each root.
        epochs: of each child.
        unknown: more models, of roots that nobody knows; with `roots=0` it is a zoo without any.
        described: whether an architecture is known; otherwise only tensors are.
        copy: whether weights are copied into the zoo.

    Test losses and accuracies are null for every seventh model, the learning rate follows the weights, and there are the own
    columns `score` (a number that follows the weights, null for every fifth model), `epoch_minutes` (a number of each
    checkpoint) and `team` (a text: red, green, or null).
    """
    files, found = folder / "files", []

    def adopt(name: str, root: str | None, states: list[dict[str, Tensor]], number: int) -> None:
        checkpoints = []
        for epoch, state in enumerate(states, start=1):
            write_weights(files / f"{name}_{epoch}.safetensors", state)
            one = AdoptedCheckpoint.of(epoch, Reference(files / f"{name}_{epoch}.safetensors"))
            accuracy = None if number % 7 == 6 else 0.9 - 0.1 * (number % 5) + 0.01 * epoch
            results = {"test_accuracy": accuracy, "test_loss": None if accuracy is None else 1 - accuracy}
            minutes: dict[str, float | str | None] = {"epoch_minutes": 1.5 * epoch + number}
            checkpoints.append(dataclasses.replace(one, results=results, columns=minutes))
        shown = SMALL if described else UNKNOWN
        own: dict[str, float | str | None] = {
            "score": None if number % 5 == 4 else float(number % 5),
            "team": ("red", "green", None)[number % 3],
        }
        parent = None if root == name else root
        factors = {"learning_rate": 0.001 * (1 + number % 5)}
        found.append(AdoptedModel(name, root, parent, shown, checkpoints, factors, own))

    for number in range(roots + unknown):
        start = initialize(SMALL, number)
        if number >= roots:
            adopt(
                f"stray_{number - roots}", None, [tuned(start, number, by=0.02 * epoch) for epoch in range(1, epochs + 1)], number
            )
            continue
        adopt(f"root_{number}", f"root_{number}", [start], number)
        for child in range(children):
            seed = 100 * number + child
            states = [tuned(start, seed, by=0.02 * epoch) for epoch in range(1, epochs + 1)]
            adopt(f"child_{number}_{child}", f"root_{number}", states, seed)
    return write_adopted(folder / "zoo", "adopted", found, copy=copy)


__all__ = ["ONE_EPOCH", "SHORT", "SMALL", "TINY", "TWO_RATES", "InThisProcess"]
__all__ += ["adopted_zoo", "compose", "make_short", "make_zoo", "tuned", "zoo_gen"]
