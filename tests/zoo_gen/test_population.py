"""Whole trainings of a stack are those of timm models one after the other, whoever their neighbours are."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.zoos import compose
from zoo_gen import ImageSplit
from zoo_gen.architecture import build
from zoo_gen.augment import DRAWS, Strengths, mix, mixing_draws, view
from zoo_gen.blueprint import Blueprint, ModelSpec
from zoo_gen.config import instantiate
from zoo_gen.hardware import Hardware
from zoo_gen.images import Images
from zoo_gen.objectives import smooth_targets
from zoo_gen.optimizers import StackOptimizer
from zoo_gen.population import PopulationTrainer, start_weights
from zoo_gen.stack import ModelStack
from zoo_gen.streams import stream

FLOAT64 = Hardware(device="cpu", precision="float64", compile=None)
AUGMENTED = {
    "crop": 0.7,
    "rotate": 20.0,
    "flip": 0.5,
    "jitter": 0.3,
    "random_erasing": 0.5,
    "mixup": 0.8,
    "cutmix": 1.0,
    "label_smoothing": 0.1,
}
PLAIN = dict.fromkeys(("rotate", "flip", "jitter", "random_erasing", "mixup", "cutmix", "label_smoothing"), 0.0) | {"crop": 1.0}


@functools.cache
def blueprint() -> Blueprint:
    return instantiate(compose("zoo_gen", ["zoo=digits_mini"])["zoo"])


@functools.cache
def images() -> Images:
    """Images of which an epoch is five steps."""
    whole = blueprint().finetune_images
    parts = [ImageSplit(split.pixels[:160].double(), split.labels[:160]) for split in (whole.train, whole.val, whole.test)]
    return Images(parts[0], parts[1], parts[2], whole.num_classes)


def spec(name: str, **changes: Any) -> ModelSpec:
    child = next(s for s in blueprint().plan(0) if s.stage == "finetune" and s.recipe.head == "linear")
    return dataclasses.replace(child, model=name, recipe=dataclasses.replace(child.recipe, epochs=2, **changes))


def trained(members: Sequence[ModelSpec]) -> list[dict[str, Tensor]]:
    """Two epochs of five steps as a stack."""
    trainer = PopulationTrainer(members, images(), [None] * len(members), seed=0, hardware=FLOAT64)
    trainer.train_epoch()
    trainer.train_epoch()
    return [trainer.weights(index) for index in range(len(members))]


def trained_alone(member: ModelSpec) -> dict[str, Tensor]:
    """The same by timm's model and torch.optim, written as a plain loop over the model's own streams."""
    train, recipe = images().train, member.recipe
    model = build(member.architecture).double()
    model.load_state_dict(start_weights(member, None, seed=0))
    matrices = [p for p in model.parameters() if p.ndim in (2, 4)]
    others = [p for p in model.parameters() if p.ndim not in (2, 4)]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0) if recipe.optimizer == "adamw" else torch.optim.SGD(groups, lr=1.0, momentum=0.9)
    strengths = Strengths([recipe], "cpu")
    steps = len(train) // recipe.batch_size
    rates = StackOptimizer(ModelStack(build(member.architecture), 1, dtype=torch.float64), [recipe], steps_per_epoch=steps)
    for epoch in (1, 2):
        order = stream(0, member.model, "order", epoch).permutation(len(train))
        draws = stream(0, member.model, "augmentation", epoch).random((steps, 1, recipe.batch_size, DRAWS), dtype=np.float32)
        mixing = mixing_draws([stream(0, member.model, "mixing", epoch)], steps, strengths)
        for step in range(steps):
            chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            pixels = view(train.pixels[chosen][None], torch.from_numpy(draws[step]), strengths)
            targets = smooth_targets(train.labels[chosen][None], 5, torch.tensor([recipe.label_smoothing]))
            if strengths.mixes:
                pixels, targets = mix(pixels, targets, torch.from_numpy(mixing[:, step]))
            for group in optimizer.param_groups:
                group["lr"] = float(rates.learning_rates())
            rates.steps += 1
            optimizer.zero_grad()
            functional.cross_entropy(model(pixels[0]), targets[0]).backward()
            optimizer.step()
    return model.state_dict()


def worst_difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest norm of a tensor's difference over the norm of the tensor; the key bias is left out (round-off by theory)."""
    worst = 0.0
    for name, value in found.items():
        pair = (value, expected[name])
        if name.endswith("qkv.bias"):
            pair = tuple(x.view(3, -1)[[0, 2]] for x in pair)
        worst = max(worst, float((pair[0] - pair[1]).norm() / pair[1].norm()))
    return worst


@pytest.mark.parametrize("strengths", [PLAIN, AUGMENTED], ids=["plain", "augmented"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_stacked_training_is_the_sequential_one_of_timm(optimizer: str, strengths: dict[str, float]) -> None:
    factors = {"optimizer": optimizer, "learning_rate": 3e-3, "weight_decay": 0.1, **strengths}
    members = [spec("a", **factors), spec("b", **{**factors, "learning_rate": 1e-3})]
    for member, found in zip(members, trained(members), strict=True):
        assert worst_difference(found, trained_alone(member)) < 1e-9
        other = dataclasses.replace(member, model="c")
        assert worst_difference(found, trained_alone(other)) > 1e-3  # negative control: another model's streams


def test_a_model_does_not_depend_on_its_neighbours() -> None:
    factors = {"optimizer": "adamw", "learning_rate": 3e-3, **AUGMENTED}
    first = spec("a", **factors)
    alone = trained([first])[0]
    among = trained([first, spec("b", **{**factors, "learning_rate": 1e-2}), spec("c", optimizer="sgd", **PLAIN)])[0]
    second = trained([spec("d", **factors), first])[1]
    assert worst_difference(among, alone) < 1e-9
    assert worst_difference(second, alone) < 1e-9


def test_swapped_streams_are_detected() -> None:
    members = [spec(name, optimizer="adamw", learning_rate=3e-3, **AUGMENTED) for name in ("a", "b")]
    found = trained(members)
    swapped = trained(members[::-1])
    assert worst_difference(found[0], swapped[1]) < 1e-9
    assert worst_difference(found[0], swapped[0]) > 1e-3
