"""Population trainer against a sequential timm loop: python -m benchmarks.zoo_throughput [--rounds 3] [--models 24] [--width 32].

The same models, data, augmentation, steps and evaluation, whole epochs, interleaved. Three arrangements: timm's models one by one
with fused AdamW or SGD, in one process of two threads and in two of one thread; the stacks in two processes of one thread.
Operations are those of timm's whole model. Last line of stdout: JSON.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import torch
from torch.nn import functional

import zoo_gen.__main__  # noqa: F401 (its settings, for `compose`)
from benchmarks.measure import process, seconds
from zoo_gen.architecture import build
from zoo_gen.augment import DRAWS, Strengths, mix, mixing_draws, view
from zoo_gen.blueprint import Blueprint, ModelSpec
from zoo_gen.config import compose, instantiate
from zoo_gen.hardware import CPU
from zoo_gen.objectives import smooth_targets
from zoo_gen.plan import costs
from zoo_gen.population import PopulationTrainer

Epoch = Callable[[], None]

STACK_SIZE = 12
"""Models per stack, as on the card of the digits zoo."""

SIZES = (1, 2, 4, 8, 12, 24)
"""Stacks whose CPU time per model and epoch (training and scoring) is measured on one thread."""


def members(models: int, width: int) -> tuple[Blueprint, list[ModelSpec]]:
    """The first fine-tunings of the digits blueprint, AdamW and SGD in equal parts."""
    blueprint = instantiate(compose("zoo_gen", ["zoo=digits", f"zoo.architecture.model_args.embed_dim={width}"])["zoo"])
    children = [spec for spec in blueprint.plan(0) if spec.stage == "finetune" and spec.recipe.head == "linear"]
    return blueprint, children[:models]


def loop_epoch(blueprint: Blueprint, specs: list[ModelSpec]) -> Epoch:
    """The honest rival: one timm model after the other."""
    images = blueprint.finetune_images
    kinds = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    jobs = []
    for spec in specs:
        model, recipe = build(spec.architecture), spec.recipe
        extra: dict[str, Any] = {"fused": True} if recipe.optimizer == "adamw" else {"momentum": 0.9, "fused": True}
        optimizer = kinds[recipe.optimizer](model.parameters(), lr=1e-3, weight_decay=recipe.weight_decay, **extra)
        jobs.append((model, optimizer, recipe, Strengths([recipe], "cpu"), np.random.default_rng(0)))

    def epoch() -> None:
        for model, optimizer, recipe, strengths, rng in jobs:
            model.train()
            size = recipe.batch_size
            steps = len(images.train) // size
            order = torch.from_numpy(rng.permutation(len(images.train)))
            draws = torch.from_numpy(rng.random((1, steps, size, DRAWS), dtype=np.float32))
            mixing = torch.from_numpy(mixing_draws([rng], steps, strengths))
            smoothing = torch.tensor([recipe.label_smoothing])
            for step in range(steps):
                chosen = order[step * size : (step + 1) * size]
                pixels = view(images.train.pixels[chosen][None], draws[:, step], strengths)
                targets = smooth_targets(images.train.labels[chosen][None], images.num_classes, smoothing)
                pixels, targets = mix(pixels, targets, mixing[:, step])
                loss = functional.cross_entropy(model(pixels[0]), targets[0])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                for split in (images.train, images.val, images.test):
                    outputs = model(split.pixels)
                    float(functional.cross_entropy(outputs, split.labels))
                    float((outputs.argmax(-1) == split.labels).float().mean())

    return epoch


def stack_epoch(blueprint: Blueprint, specs: list[ModelSpec], stack_size: int = STACK_SIZE) -> Epoch:
    """Stacks of at most so many models."""
    trainers = []
    pieces = -(-len(specs) // stack_size)
    for piece in range(pieces):
        part = sorted(specs[piece::pieces], key=lambda spec: spec.recipe.optimizer)
        trainers.append(PopulationTrainer(part, blueprint.finetune_images, [None] * len(part), seed=0, hardware=CPU))

    def epoch() -> None:
        for trainer in trainers:
            trainer.train_epoch()
            trainer.evaluate()

    return epoch


EPOCHS: list[Epoch] = []
"""What a process of the benchmark trains."""


def prepare(kind: Callable[[Blueprint, list[ModelSpec]], Epoch], models: int, width: int, share: slice) -> None:
    """Builds a share of the population in this process."""
    blueprint, specs = members(models, width)
    EPOCHS.append(kind(blueprint, specs[share]))


def cpu_seconds() -> float:
    """CPU time of an epoch of this process."""
    start = time.process_time()
    EPOCHS[0]()
    return time.process_time() - start


def train_epoch(processes: list[ProcessPoolExecutor]) -> tuple[float, float]:
    """Trains all models of some processes by an epoch; returns wall and CPU seconds."""
    start = time.perf_counter()
    spent = [process.submit(cpu_seconds) for process in processes]
    cpu = sum(future.result() for future in spent)
    return time.perf_counter() - start, cpu


def main() -> None:
    """Measures all arrangements and prints what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=int, default=24)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = (options.models, options.width)
    halves = (slice(0, None, 2), slice(1, None, 2))
    rivals = ((loop_epoch, 2, (slice(None),)), (loop_epoch, 1, halves), (stack_epoch, 1, halves))
    pools = [[process(threads) for _ in shares] for _, threads, shares in rivals]
    for (kind, _, shares), processes in zip(rivals, pools, strict=True):
        for share, pool in zip(shares, processes, strict=True):
            pool.submit(prepare, kind, *size, share).result()
    times = np.array([[train_epoch(processes) for processes in pools] for _ in range(1 + options.rounds)])
    for pool in itertools.chain(*pools):
        pool.shutdown()
    (one, two, ours), (_, _, cpu) = np.median(times[1:], axis=0).T.tolist()
    blueprint, specs = members(*size)
    images, recipe = blueprint.finetune_images, specs[0].recipe
    seen = 3 * (len(images.train) // recipe.batch_size) * recipe.batch_size
    seen += len(images.train) + len(images.val) + len(images.test)
    matrix = torch.randn(1536, 1536)
    matrix_peak = 2 * 1536**3 / seconds(lambda: matrix @ matrix, repeats=4)[0]  # operations per CPU second of one thread
    work = costs(specs[0])[1] * seen * options.models
    blueprint, specs = members(max(SIZES), options.width)
    cpu_times = seconds(*(stack_epoch(blueprint, specs[:size], size) for size in SIZES), repeats=3)
    result = {
        "ratio": one / ours,
        "ratio_best": min(one, two) / ours,
        "models_per_minute": 60 * options.models / (ours * recipe.epochs),
        "share_of_matrix_product": work / cpu / matrix_peak,
        "cpu_ms_per_model_epoch_by_stack_size": {k: round(1e3 * t / k, 1) for k, t in zip(SIZES, cpu_times, strict=True)},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
