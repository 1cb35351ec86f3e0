"""Every factor does what its name says, for its own model only, and nothing else."""

import dataclasses
from typing import Any

import pytest
import torch

from tests.zoos import compose
from zoo_gen import ImageSplit, InputError
from zoo_gen.blueprint import Blueprint, ModelSpec, Stage
from zoo_gen.config import instantiate
from zoo_gen.hardware import CPU, Hardware
from zoo_gen.images import Images
from zoo_gen.population import PopulationTrainer


def blueprint() -> Blueprint:
    return instantiate(compose("zoo_gen", ["zoo=digits_mini"])["zoo"])


def few(images: Images) -> Images:
    """The same images, fewer of them."""
    train, val, test = (ImageSplit(split.pixels[:64], split.labels[:64]) for split in (images.train, images.val, images.test))
    return Images(train, val, test, images.num_classes)


def specs(*changes: dict[str, Any]) -> list[ModelSpec]:
    plan = blueprint()
    child = next(s for s in plan.plan(0) if s.stage == "finetune" and s.recipe.head == "linear")
    recipes = [dataclasses.replace(child.recipe, **({"epochs": 2, "optimizer": "adamw"} | change)) for change in changes]
    return [dataclasses.replace(child, model=f"model_{number}", recipe=recipe) for number, recipe in enumerate(recipes)]


def trained(*changes: dict[str, Any]) -> tuple[PopulationTrainer, list[dict[str, torch.Tensor]]]:
    members = specs(*changes)
    trainer = PopulationTrainer(members, few(blueprint().finetune_images), [None] * len(members), seed=0, hardware=CPU)
    before = [trainer.weights(index) for index in range(len(members))]
    trainer.train_epoch()
    return trainer, before


def moved(trainer: PopulationTrainer, before: list[dict[str, torch.Tensor]], index: int) -> set[str]:
    after = trainer.weights(index)
    return {name for name, value in after.items() if not torch.equal(value, before[index][name])}


def test_a_frozen_backbone_keeps_its_bits_and_its_neighbour_trains() -> None:
    for optimizer in ("adamw", "sgd"):
        changes = {"optimizer": optimizer, "weight_decay": 0.1}
        trainer, before = trained(changes | {"frozen": "backbone"}, changes)
        assert moved(trainer, before, 0) == {"head.weight", "head.bias"}
        assert moved(trainer, before, 1) == set(before[1])


def test_dropout_changes_its_own_model_only_and_repeats() -> None:
    plain, _ = trained({}, {})
    dropped, _ = trained({"dropout": 0.3}, {})
    again, _ = trained({"dropout": 0.3}, {})
    assert torch.equal(dropped.stack.flat, again.stack.flat)
    torch.testing.assert_close(dropped.stack.flat[1], plain.stack.flat[1])
    assert not torch.allclose(dropped.stack.flat[0], plain.stack.flat[0], atol=1e-3)


def test_dropout_is_off_when_models_are_scored() -> None:
    trainer, _ = trained({"dropout": 0.5})
    assert trainer.evaluate() == trainer.evaluate()


def test_dropout_keeps_the_mean_and_drops_its_share() -> None:
    from zoo_gen.stack import StackedDropout

    dropout = StackedDropout().train()
    dropout.rates, dropout.streams = torch.tensor([0.25, 0.0]), [torch.Generator().manual_seed(n) for n in (0, 1)]
    out = dropout(torch.ones(2 * 40, 1000)).unflatten(0, (2, 40))
    assert abs(float((out[0] == 0).float().mean()) - 0.25) < 0.01
    assert abs(float(out[0].mean()) - 1) < 0.01
    assert torch.equal(out[1], torch.ones(40, 1000))


def test_a_fraction_of_the_data_takes_fewer_steps_and_is_scored_on_what_it_saw() -> None:
    trainer, _ = trained({"fraction": 0.5})
    assert trainer.steps == 1
    seen = trainer.seen()
    assert seen is not None
    assert int(seen.sum()) == 32
    assert set(trainer.orders().flatten().tolist()) == set(torch.nonzero(seen[0]).flatten().tolist())
    whole, _ = trained({})
    assert whole.steps == 2
    assert whole.seen() is None


def test_schedules_end_where_they_say() -> None:
    trainer, _ = trained(*({"schedule": name, "warmup_epochs": 0.5} for name in ("cosine", "linear", "constant")))
    peak = trainer.recipes[0].learning_rate
    steps = 2 * trainer.steps
    rates = []
    for step in (1, steps // 2, steps):
        trainer.optimizer.steps = step
        rates.append((trainer.optimizer.learning_rates().flatten() / peak).tolist())
    assert rates[0] == pytest.approx([1, 1, 1])
    assert rates[-1] == pytest.approx([0, 0, 1])


def test_initialisations_differ_and_repeat() -> None:
    from zoo_gen.architecture import INITS
    from zoo_gen.population import start_weights

    starts = [start_weights(spec, None, seed=0) for spec in specs(*({"init": name} for name in INITS))]
    weights = [start["blocks.0.mlp.fc1.weight"] for start in starts]
    assert len({tuple(weight.flatten().tolist()) for weight in weights}) == len(INITS)
    orthogonal = weights[INITS.index("orthogonal")]
    torch.testing.assert_close(orthogonal.T @ orthogonal, torch.eye(orthogonal.shape[1]), atol=1e-5, rtol=0)


def stage(recipe: dict[str, Any], draws: dict[str, Any], samples: int, axes: dict[str, Any]) -> Stage:
    return Stage(recipe={**blueprint().finetune.recipe, **recipe}, axes=axes, members=[], draws=draws, samples=samples)


def test_random_draws_repeat_and_differ_between_families_and_samples() -> None:
    drawn = stage(
        {}, {"learning_rate": {"log_uniform": [1e-4, 1e-1]}, "batch_size": {"choices": [16, 32]}}, 4, {"head": ["linear", "mlp"]}
    )
    plan = dataclasses.replace(blueprint(), finetune=drawn)
    children = [spec for spec in plan.plan(0) if spec.parent]
    assert [spec.model for spec in children] == [spec.model for spec in plan.plan(0) if spec.parent]
    assert len(children) == 3 * 8
    rates = [spec.recipe.learning_rate for spec in children]
    assert len(set(rates)) > 20
    assert all(1e-4 <= rate <= 1e-1 for rate in rates)
    assert {spec.recipe.batch_size for spec in children} == {16, 32}
    assert rates != [spec.recipe.learning_rate for spec in plan.plan(1) if spec.parent]
    with pytest.raises(InputError, match="cannot draw"):
        dataclasses.replace(plan, finetune=stage({}, {"learning_rate": {"normal": [0, 1]}}, 1, {})).plan(0)


def test_width_and_depth_of_roots_are_inherited_by_their_children() -> None:
    plan = blueprint()
    roots = dataclasses.replace(plan.pretrain, axes={"width,depth": [[16, 2], [32, 4]]}, members=[{}])
    specs = dataclasses.replace(plan, pretrain=roots).plan(0)
    assert [(s.recipe.width, s.recipe.depth) for s in specs if s.parent is None] == [(16, 2), (32, 4)]
    shapes = {s.model: (s.recipe.width, s.recipe.depth, s.architecture["model_args"]["embed_dim"]) for s in specs}
    assert all(shapes[s.model] == shapes[s.root] for s in specs)
    stacks = dataclasses.replace(plan, pretrain=roots).partition(specs, lambda spec: 1)
    assert all(len({shapes[model] for model in stack["models"]}) == 1 for stack in stacks.values())
    with pytest.raises(InputError, match=r"vary both in zoo\.pretrain"):
        dataclasses.replace(plan, finetune=dataclasses.replace(plan.finetune, axes={"depth": [1]})).plan(0)
    with pytest.raises(InputError, match="multiple of the 4"):
        dataclasses.replace(plan, pretrain=dataclasses.replace(plan.pretrain, axes={"width": [18]})).plan(0)


@pytest.mark.parametrize(
    "change", [{"fraction": 0.0}, {"dropout": 1.0}, {"schedule": "step"}, {"init": "zero"}, {"frozen": "head"}]
)
def test_factors_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        specs(change)


def test_hardware_that_is_not_there_is_one_clear_error() -> None:
    with pytest.raises(InputError, match="float32, bfloat16"):
        Hardware(device="cpu", precision="int4", compile=None)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match=r"executor\.device=cpu"):
            Hardware(device="cuda", precision="bfloat16", compile=None)


def test_bfloat16_steps_stay_close_to_float32_ones() -> None:
    members = specs({})
    images = few(blueprint().finetune_images)
    flats = []
    for precision in ("float32", "bfloat16"):
        hardware = Hardware(device="cpu", precision=precision, compile=None)
        trainer = PopulationTrainer(members, images, [None], seed=0, hardware=hardware)
        start = trainer.stack.flat.clone()
        trainer.train_epoch()
        flats.append(trainer.stack.flat - start)
    assert 0 < float((flats[0] - flats[1]).norm() / flats[0].norm()) < 0.3
    assert flats[1].dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.parametrize("mode", [None, "default", "reduce-overhead"])
def test_a_gpu_trains_what_the_cpu_trains(mode: str | None) -> None:
    members, images = specs({}, {"learning_rate": 1e-2}), few(blueprint().finetune_images)
    trainers = [
        PopulationTrainer(members, images, [None, None], seed=0, hardware=hardware)
        for hardware in (CPU, Hardware(device="cuda", precision="float32", compile=mode))
    ]
    for trainer in trainers:
        trainer.train_epoch()
    torch.testing.assert_close(trainers[1].stack.flat.cpu(), trainers[0].stack.flat, atol=1e-3, rtol=1e-2)
