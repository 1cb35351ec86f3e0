"""A blueprint is data: ids, folds and stacks follow from it."""

import dataclasses
from functools import cache
from typing import Any

import pytest

from tests.zoos import compose
from zoo_gen import InputError
from zoo_gen.blueprint import Blueprint, Stage
from zoo_gen.config import instantiate


@cache
def blueprint(*overrides: str) -> Blueprint:
    return instantiate(compose("zoo_gen", ["zoo=digits_mini", *overrides])["zoo"])


def test_the_demo_blueprint_has_three_roots_and_24_children_each() -> None:
    specs = blueprint().plan(0)
    roots = [spec for spec in specs if spec.parent is None]
    assert [root.pretraining for root in roots] == ["supervised", "supervised", "simclr"]
    assert len(specs) == 75
    for root in roots:
        children = [spec for spec in specs if spec.parent == root.model]
        factors = {(c.recipe.head, c.recipe.optimizer, c.recipe.learning_rate, c.recipe.weight_decay) for c in children}
        assert len(children) == len(factors) == 24


def test_a_model_id_does_not_depend_on_the_rest_of_the_grid() -> None:
    whole = {spec.model: spec.recipe for spec in blueprint().plan(0)}
    part = {spec.model: spec.recipe for spec in blueprint("zoo.finetune.axes.head=[mlp]").plan(0)}
    assert part.items() <= whole.items()


def test_folds_are_stratified_by_root_and_balanced() -> None:
    children = [spec for spec in blueprint().plan(0) if spec.parent]
    sizes = {fold: sum(child.fold == fold for child in children) for fold in range(5)}
    assert max(sizes.values()) - min(sizes.values()) <= 1
    for root in {child.root for child in children}:
        per_root = [sum(c.fold == fold for c in children if c.root == root) for fold in range(5)]
        assert max(per_root) - min(per_root) <= 1
    assert [c.fold for c in children] != [c.fold for c in blueprint().plan(1) if c.parent]


def test_every_model_is_in_one_stack_of_its_kind() -> None:
    plan = blueprint()
    specs = {spec.model: spec for spec in plan.plan(0)}
    stacks = plan.partition(list(specs.values()), lambda spec: 1)
    assert sorted(model for stack in stacks.values() for model in stack["models"]) == sorted(specs)
    for stack in stacks.values():
        assert len(stack["models"]) <= 18
        kinds = {(specs[m].stage, specs[m].recipe.head, specs[m].recipe.objective, specs[m].recipe.epochs) for m in stack["models"]}
        assert len(kinds) == 1
        optimizers = [specs[model].recipe.optimizer for model in stack["models"]]
        assert optimizers == sorted(optimizers)


@pytest.mark.parametrize(
    ("recipe", "axes", "message"),
    [
        ({"learnin_rate": 1}, {}, "learnin_rate"),
        ({"optimizer": "adam"}, {}, "adamw, sgd"),
        ({"epochs": 0}, {}, "at least 1"),
        (
            {"epochs": 3, "warmup_epochs": 3.5},
            {},
            "warmup_epochs=3.5 is longer than the whole training, epochs=3, .* set warmup_epochs",
        ),
        ({}, {"head": ["none"]}, "head=linear"),
        ({}, {"optimizer,learning_rate": [["sgd"]]}, "needs 2 values"),
        ({}, {"seed": [0, 0]}, "same factors"),
    ],
)
def test_a_blueprint_that_cannot_be_trained_is_refused(recipe: dict[str, Any], axes: dict[str, Any], message: str) -> None:
    plan = blueprint()
    stage = Stage(recipe={**plan.finetune.recipe, **recipe}, axes=axes, members=[], draws={}, samples=1)
    with pytest.raises(InputError, match=message):
        dataclasses.replace(plan, finetune=stage).plan(0)
