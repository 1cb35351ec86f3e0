"""Plans: what a zoo takes, before anything is spent.

Arithmetic is counted on models without content (PyTorch's flop counter on the meta device): a training image costs three forward
passes, a scored one a single pass. Hours here come from a few steps of the zoo's stacks on made-up images, one process per core;
hours on a GPU from its peak and the share of it that `UTILIZATION` assumes.
"""

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from zoo_gen.architecture import build
from zoo_gen.blueprint import Blueprint, ModelSpec
from zoo_gen.errors import InputError
from zoo_gen.executors.executor import Executor
from zoo_gen.hardware import CPU
from zoo_gen.images import Images, ImageSplit
from zoo_gen.population import PopulationTrainer

GPUS = {"a100": 312e12, "h100": 989e12, "h200": 989e12, "b200": 2250e12, "rtx4090": 165e12}
"""Dense bfloat16 operations per second, from the vendor's data sheets."""
MEASURED = 12
"""Models in the stack that is measured where memory decides."""
UTILIZATION = 0.4
"""Assumed share of that peak; a measured one belongs here once there is a measurement."""


@dataclass(frozen=True)
class StagePlan:
    """What one stage takes: counts, arithmetic, bytes and seconds of one core of this machine."""

    models: int
    weights: int
    stacks: int
    steps: int
    checkpoints: int
    operations: float
    bytes: int
    core_seconds: float


def estimate(blueprint: Blueprint, *, seed: int, executor: Executor) -> Mapping[str, StagePlan]:
    """Returns the plan of both stages; takes seconds for small models, a few steps of one model for large ones."""
    specs = blueprint.plan(seed)
    by_id = {spec.model: spec for spec in specs}
    plans = {}
    for stage in ("pretrain", "finetune"):
        images = blueprint.images(stage)
        stacks = [plan for name, plan in blueprint.partition(specs, executor.models_at_once).items() if name.startswith(stage)]
        members = [by_id[model] for plan in stacks for model in plan["models"]]
        steps = checkpoints = size = weights = 0
        operations = core_seconds = 0.0
        rates: dict[str, float] = {}
        for spec in members:
            recipe = spec.recipe
            seen = math.ceil(recipe.fraction * len(images.train))
            count, forward = costs(spec)
            batch = min(recipe.batch_size, seen)
            scored = recipe.views * (len(images.train) + len(images.val) + len(images.test))
            work = recipe.epochs * forward * (3 * recipe.views * (seen // batch) * batch + scored)
            kind = f"{recipe.objective} {sorted(spec.architecture['model_args'].items())} {batch}"
            if kind not in rates:
                rates[kind] = _seconds_per_operation(spec, images, forward, stack_size=blueprint.stack_size or MEASURED)
            kept = recipe.epochs // blueprint.keep_every + bool(recipe.epochs % blueprint.keep_every)
            steps += recipe.epochs * (seen // batch)
            checkpoints += kept
            size += kept * count * torch.empty(0, dtype=getattr(torch, blueprint.dtype)).element_size()
            operations += work
            core_seconds += work * rates[kind]
            weights = max(weights, count)
        plans[stage] = StagePlan(len(members), weights, len(stacks), steps, checkpoints, operations, size, core_seconds)
    return plans


_COSTS: dict[str, tuple[int, float]] = {}


def costs(spec: ModelSpec) -> tuple[int, float]:
    """The number of weights of a model, and the operations of one image's forward pass."""
    key = str(spec.architecture)
    if key not in _COSTS:
        with torch.device("meta"):
            model = build(spec.architecture)
            image = torch.empty(1, *spec.architecture["pretrained_cfg"]["input_size"])
        with FlopCounterMode(display=False) as counter:
            model(image)
        _COSTS[key] = sum(parameter.numel() for parameter in model.parameters()), float(counter.get_total_flops())
    return _COSTS[key]


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
    """Prints the plan as a table. Raises `InputError` for a GPU that `GPUS` does not have."""
    if gpu not in GPUS:
        raise InputError(f"unknown gpu '{gpu}'; choose one of {', '.join(GPUS)}")
    cores = len(os.sched_getaffinity(0))
    table = Table("", *plans, "all", title="Plan: nothing was trained")

    def row(name: str, values: list[float], write: Any) -> None:
        table.add_row(name, *(write(value) for value in (*values, sum(values))))

    def amount(value: float) -> str:
        return f"{value:,.0f}" if value < 1e9 else f"{value:.3g}"

    stages = list(plans.values())
    row("models", [plan.models for plan in stages], amount)
    table.add_row("weights of the largest", *(f"{plan.weights:,}" for plan in stages), "")
    row("stacks", [plan.stacks for plan in stages], amount)
    row("steps of a model, summed", [plan.steps for plan in stages], amount)
    row("checkpoints", [plan.checkpoints for plan in stages], amount)
    row("FLOPs", [plan.operations for plan in stages], lambda value: f"{value:.2e}")
    row("bytes on disk", [plan.bytes for plan in stages], lambda value: f"{value / 1e9:,.2f} GB")
    row(f"time here ({cores} cores)", [plan.core_seconds / cores for plan in stages], duration)
    label = f"time on one {gpu} ({UTILIZATION:.0%} of {GPUS[gpu] / 1e12:.0f} TFLOP/s)"
    row(label, [plan.operations / (UTILIZATION * GPUS[gpu]) for plan in stages], duration)
    Console(highlight=False, width=120).print(table)


def duration(seconds: float) -> str:
    """Returns a time in hours, below one in minutes.

    >>> duration(90), duration(9000), duration(1)
    ('1.5 min', '2.5 h', '< 0.1 min')
    """
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 6 else "< 0.1 min"
