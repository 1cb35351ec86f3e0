"""A plan counts what will be made, needs no data, and trains nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.zoos import InThisProcess, compose, make_zoo
from zoo_gen.blueprint import blueprint_of
from zoo_gen.hardware import CPU
from zoo_gen.plan import duration, estimate, print_plan
from zoo_gen.population import PopulationTrainer


def card(zoo: str, *overrides: str) -> dict[str, Any]:
    return compose("zoo_gen", [f"zoo={zoo}", *overrides])["zoo"]


def test_the_plan_of_a_zoo_is_what_is_made(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo", "zoo.stack_size=3", axes={"learning_rate": [1e-3]})
    plans = estimate(blueprint_of(zoo.config["config"], load=[]), seed=0, executor=InThisProcess())
    for stage, plan in plans.items():
        rows = zoo.select(stage=stage).frame
        assert (plan.models, plan.checkpoints) == (rows["model"].nunique(), len(rows))
        stored = sum((zoo.path / path).stat().st_size for path in rows["path"])
        assert 0.8 * stored < plan.bytes < stored  # the rest are the headers
        assert plan.core_seconds > 0


def test_the_reference_is_planned_without_its_images(capsys: pytest.CaptureFixture[str]) -> None:
    specs = blueprint_of(card("vit_s_cifar100"), load=[]).plan(0)
    assert [sum(spec.stage == stage for spec in specs) for stage in ("pretrain", "finetune")] == [10, 240]
    assert [sum(spec.recipe.objective == kind for spec in specs) for kind in ("supervised", "simclr")] == [247, 3]
    plans = estimate(blueprint_of(card("digits_mini", "zoo.stack_size=3"), load=[]), seed=0, executor=InThisProcess())
    print_plan(plans, gpu="h200")
    printed = capsys.readouterr().out
    assert "75" in printed
    assert " min" in printed
    assert [duration(seconds) for seconds in (1, 90, 3599, 3600, 9000)] == ["< 0.1 min", "1.5 min", "60.0 min", "1.0 h", "2.5 h"]


def test_a_plan_tells_the_steps_of_one_model_and_warns_of_few(capsys: pytest.CaptureFixture[str]) -> None:
    said = {}
    for epochs in (2, 1):
        short = [
            f"zoo.{stage}.recipe.{name}" for stage in ("pretrain", "finetune") for name in (f"epochs={epochs}", "warmup_epochs=1")
        ]
        config = card(
            "digits_mini", *short, "zoo.stack_size=3", "zoo.finetune.recipe.batch_size=64", "zoo.pretrain.recipe.batch_size=128"
        )
        plans = estimate(blueprint_of(config, load=[]), seed=0, executor=InThisProcess())
        assert all(plan.fewest <= plan.steps / plan.models <= plan.most for plan in plans.values())
        print_plan(plans, gpu="h200")
        said[epochs] = plans, capsys.readouterr().out
    for plans, printed in said.values():
        cells = [[cell.strip() for cell in line.split("│")] for line in printed.splitlines() if line.count("│") > 3]
        rows = {row[1]: row[2:-1] for row in cells}
        pretrain, finetune = (plans[stage] for stage in ("pretrain", "finetune"))
        assert rows["optimizer steps of one model"] == [f"{pretrain.fewest} to {pretrain.most}", f"{finetune.fewest}", ""]
        assert rows["optimizer steps of all models"][-1] == f"{pretrain.steps + finetune.steps:,}"
        assert rows["size on disk"][0].endswith(" MB")
        for stage, plan in plans.items():
            warned = f"warning: a model of stage {stage} trains for {plan.fewest} optimizer steps in all" in printed
            assert warned == (plan.fewest < 10)
    fewest = {epochs: plans["finetune"].fewest for epochs, (plans, _) in said.items()}
    assert fewest[1] < 10 <= fewest[2]


def test_the_digits_zoo_is_the_blueprint_of_the_reference() -> None:
    specs = blueprint_of(card("digits"), load=["pretrain", "finetune"]).plan(0)
    roots = [spec for spec in specs if spec.parent is None]
    assert len(specs) == 250
    assert [spec.pretraining for spec in roots] == ["supervised"] * 7 + ["simclr"] * 3
    assert {spec.recipe.epochs for spec in roots} == {30}
    assert {spec.recipe.epochs for spec in specs if spec.parent} == {25}
    assert len({tuple(spec.factors.items()) for spec in roots}) == 10


def test_vit_s_takes_a_step_of_both_stages_from_an_image_folder(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for label in range(2):
            place = tmp_path / part / f"class_{label}"
            place.mkdir(parents=True)
            for number in range(4):
                Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(place / f"{number}.png")
    images = compose("zoo_gen", ["zoo=vit_s_cifar100"])["zoo"]["pretrain_images"]
    images |= {"path": str(tmp_path), "images": [2, 2, 2], "num_classes": 2, "memory_gb": 1e-9}
    small = {"epochs": 1, "batch_size": 2, "warmup_epochs": 0}
    config = card("vit_s_cifar100") | {"pretrain_images": images, "finetune_images": images}
    for stage in ("pretrain", "finetune"):
        config[stage] = config[stage] | {"recipe": config[stage]["recipe"] | small}
    blueprint = blueprint_of(config, load=["pretrain", "finetune"])
    root, child = (next(s for s in blueprint.plan(0) if s.stage == stage) for stage in ("pretrain", "finetune"))
    parent = None
    for spec, loaded in ((root, blueprint.pretrain_images), (child, blueprint.finetune_images)):
        trainer = PopulationTrainer([spec], loaded, [parent], seed=0, hardware=CPU)
        before = trainer.stack.flat.clone()
        trainer.train_epoch()
        assert trainer.optimizer.steps == 1
        assert bool(trainer.stack.flat.isfinite().all())
        assert not torch.equal(before, trainer.stack.flat)
        parent = trainer.weights(0)
    assert sum(value.numel() for value in parent.values()) > 21_000_000
