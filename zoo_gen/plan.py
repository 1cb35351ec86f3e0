"""Plans: what a zoo takes, before anything is spent.

Arithmetic is counted by PyTorch's flop counter: a training image costs three forward passes, a scored one a single pass. Hours here
come from a few steps of the zoo's stacks on made-up images; hours on a GPU from its peak and the share that `UTILIZATION` assumes.
"""

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from zoo_gen.architecture import skeleton
from zoo_gen.blueprint import Blueprint, ModelSpec
from zoo_gen.executors.executor import Executor
from zoo_gen.hardware import CPU
from zoo_gen.images import Images, ImageSplit
from zoo_gen.population import PopulationTrainer
from zoo_gen.wording import counted, file_size

GPUS = {"a100": 312e12, "h100": 989e12, "h200": 989e12, "b200": 2250e12, "rtx4090": 165e12}
"""Dense bfloat16 operations per second, from the vendor's data sheets."""
MEASURED = 12
"""Models in the stack that is measured where memory decides."""
UTILIZATION = 0.4
"""Assumed share of that peak; a measured one belongs here once there is a measurement."""
FEW_STEPS = 10
"""Trainings of fewer optimizer steps are warned of: their models hardly differ from where they started."""


@dataclass
class StagePlan:
    """What one stage takes: counts, arithmetic, bytes and seconds of one core of this machine.

    `steps` of the optimizer are summed over models; `fewest` and `most` are those of one model.
    """

    models: int
    stacks: int
    weights: int = 0
    steps: int = 0
    fewest: int = 0
    most: int = 0
    checkpoints: int = 0
    operations: float = 0.0
    bytes: int = 0
    core_seconds: float = 0.0


def estimate(blueprint: Blueprint, *, seed: int, executor: Executor) -> Mapping[str, StagePlan]:
    """Returns the plan of both stages; takes seconds for small models, a few steps of one model for large ones."""
    specs = blueprint.plan(seed)
    stacks = blueprint.partition(specs, executor.models_at_once)
    plans = {}
    for stage in ("pretrain", "finetune"):
        images = blueprint.images(stage)
        members = [spec for spec in specs if spec.stage == stage]
        plan = StagePlan(models=len(members), stacks=sum(name.startswith(stage) for name in stacks))
        known: dict[str, tuple[int, float, float]] = {}
        for spec in members:
            recipe = spec.recipe
            seen = math.ceil(recipe.fraction * len(images.train))
            batch = min(recipe.batch_size, seen)
            kind = f"{recipe.objective} {spec.architecture} {batch}"
            if kind not in known:
                count, forward = costs(spec)
                rate = _seconds_per_operation(spec, images, forward, stack_size=blueprint.stack_size or MEASURED)
                known[kind] = count, forward, rate
            count, forward, rate = known[kind]
            scored = recipe.views * (len(images.train) + len(images.val) + len(images.test))
            work = recipe.epochs * forward * (3 * recipe.views * (seen // batch) * batch + scored)
            kept = math.ceil(recipe.epochs / blueprint.keep_every)
            steps = recipe.epochs * (seen // batch)
            plan.steps += steps
            plan.fewest, plan.most = min(plan.fewest or steps, steps), max(plan.most, steps)
            plan.checkpoints += kept
            plan.bytes += kept * count * getattr(torch, blueprint.dtype).itemsize
            plan.operations += work
            plan.core_seconds += work * rate
            plan.weights = max(plan.weights, count)
        plans[stage] = plan
    return plans


def costs(spec: ModelSpec) -> tuple[int, float]:
    """The number of weights of a model, and the operations of one image's forward pass."""
    model = skeleton(spec.architecture)
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, *spec.architecture["pretrained_cfg"]["input_size"], device="meta"))
    return sum(parameter.numel() for parameter in model.parameters()), float(counter.get_total_flops())


def _seconds_per_operation(spec: ModelSpec, images: Images, forward: float, *, stack_size: int) -> float:
    """Trains a stack for a few steps on made-up images, in this process; returns CPU seconds per operation."""
    operations_per_image = 3 * forward
    budget = 2e10
    batch = max(2, min(spec.recipe.batch_size, len(images.train), int(budget / operations_per_image) // 2 * 2))
    size = max(1, min(stack_size, int(budget / (operations_per_image * batch))))
    shape = images.train.pixels.shape[1:]
    split = ImageSplit(torch.zeros(2 * batch, *shape), torch.zeros(2 * batch, dtype=torch.int64))
    recipe = replace(spec.recipe, batch_size=batch, fraction=1.0)
    members = [replace(spec, model=f"{spec.model}_{index}", recipe=recipe) for index in range(size)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        trainer = PopulationTrainer(members, Images(split, split, split, images.num_classes), [None] * size, seed=0, hardware=CPU)
        trainer.train_epoch()
        start = time.process_time()
        trainer.train_epoch()
        spent = time.process_time() - start
    finally:
        torch.set_num_threads(threads)
    return spent / (2 * batch * size * recipe.views * operations_per_image)


def print_plan(plans: Mapping[str, StagePlan], *, gpu: str) -> None:
    """Prints the plan as a table, and a warning of each stage that trains for few steps."""
    cores = len(os.sched_getaffinity(0))
    table = Table("", *plans, "all", title="Plan: nothing was trained")

    def row(name: str, values: list[float], write: Callable[[float], str] = "{:,.0f}".format) -> None:
        table.add_row(name, *(write(value) for value in (*values, sum(values))))

    stages = list(plans.values())
    row("models", [plan.models for plan in stages])
    table.add_row("weights of the largest", *(f"{plan.weights:,}" for plan in stages), "")
    row("stacks", [plan.stacks for plan in stages])
    table.add_row("optimizer steps of one model", *map(_steps, stages), "")
    row("optimizer steps of all models", [plan.steps for plan in stages])
    row("checkpoints", [plan.checkpoints for plan in stages])
    row("FLOPs", [plan.operations for plan in stages], "{:.2e}".format)
    row("size on disk", [plan.bytes for plan in stages], file_size)
    row(f"time here ({cores} cores)", [plan.core_seconds / cores for plan in stages], duration)
    label = f"time on one {gpu} ({UTILIZATION:.0%} of {GPUS[gpu] / 1e12:.0f} TFLOP/s)"
    row(label, [plan.operations / (UTILIZATION * GPUS[gpu]) for plan in stages], duration)
    console = Console(highlight=False, width=120)
    console.print(table)
    for stage, plan in plans.items():
        if plan.models and plan.fewest < FEW_STEPS:
            console.print(
                f"warning: a model of stage {stage} trains for {counted(plan.fewest, 'optimizer step')} in all, so its weights "
                f"hardly leave where they start; raise zoo.{stage}.recipe.epochs or lower its batch_size",
                soft_wrap=True,
            )


def _steps(plan: StagePlan) -> str:
    """Returns how many steps of the optimizer a model of a stage is trained for."""
    return f"{plan.fewest:,}" if plan.fewest == plan.most else f"{plan.fewest:,} to {plan.most:,}"


def duration(seconds: float) -> str:
    """Returns a time in hours, below one in minutes.

    >>> duration(90), duration(9000), duration(1)
    ('1.5 min', '2.5 h', '< 0.1 min')
    """
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 6 else "< 0.1 min"
