"""Population trainer against a sequential timm loop: python benchmarks/zoo_throughput.py [--rounds 3] [--models 24] [--width 32].

The same models, data, augmentation, steps and evaluation, whole epochs, interleaved. The loop is timm's model with fused AdamW (or
SGD), one model after the other. Three arrangements: the loop in one process of two threads, the loop in two processes of one
thread, and the stacks in two processes of one thread. Operations are those of timm's whole model; the stacks leave out what
the class token of the last block does not need. Last line of stdout: JSON.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import zoo_gen.__main__
from zoo_gen.architecture import build
from zoo_gen.augment import DRAWS, Strengths, mix, mixing_draws, view
from zoo_gen.blueprint import Blueprint, ModelSpec
from zoo_gen.config import compose, instantiate
from zoo_gen.hardware import CPU
from zoo_gen.population import PopulationTrainer

Epoch = Callable[[], None]


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
            for step in range(steps):
                chosen = order[step * size : (step + 1) * size]
                pixels = view(images.train.pixels[chosen][None], draws[:, step], strengths)
                targets = functional.one_hot(images.train.labels[chosen], images.num_classes).float()
                targets = targets * (1 - recipe.label_smoothing) + recipe.label_smoothing / images.num_classes
                pixels, targets = mix(pixels, targets[None], mixing[:, step])
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


STACK_SIZE = 12
"""Models per stack, as on the card of the digits zoo."""


def stack_epoch(blueprint: Blueprint, specs: list[ModelSpec]) -> Epoch:
    """Stacks of the size on the card."""
    trainers = []
    pieces = -(-len(specs) // STACK_SIZE)
    for piece in range(pieces):
        part = sorted(specs[piece::pieces], key=lambda spec: spec.recipe.optimizer)
        trainers.append(PopulationTrainer(part, blueprint.finetune_images, [None] * len(part), seed=0, hardware=CPU))

    def epoch() -> None:
        for trainer in trainers:
            trainer.train_epoch()
            trainer.evaluate()

    return epoch


def worker(kind: str, models: int, width: int, share: int, shares: int, threads: int, pipe: Any) -> None:
    """Trains its share of the models by one epoch whenever told to; answers with wall and CPU seconds."""
    torch.set_num_threads(threads)
    blueprint, specs = members(models, width)
    epoch = {"loop": loop_epoch, "stack": stack_epoch}[kind](blueprint, specs[share::shares])
    epoch()
    pipe.send(None)
    while pipe.recv():
        wall, cpu = time.perf_counter(), time.process_time()
        epoch()
        pipe.send((time.perf_counter() - wall, time.process_time() - cpu))


class Arrangement:
    """Processes that train the population together."""

    def __init__(self, kind: str, *, models: int, width: int, processes: int, threads: int):
        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes, self.wall, self.cpu = [], [], [], []
        for share in range(processes):
            here, there = context.Pipe()
            arguments = (kind, models, width, share, processes, threads, there)
            self.processes.append(context.Process(target=worker, args=arguments, daemon=True))
            self.processes[-1].start()
            self.pipes.append(here)
        for pipe in self.pipes:
            pipe.recv()

    def epoch(self) -> None:
        """One epoch of all models."""
        start = time.perf_counter()
        for pipe in self.pipes:
            pipe.send(True)
        answers = [pipe.recv() for pipe in self.pipes]
        self.wall.append(time.perf_counter() - start)
        self.cpu.append(sum(cpu for _, cpu in answers))

    def stop(self) -> None:
        """Ends the processes."""
        for pipe in self.pipes:
            pipe.send(False)
        for process in self.processes:
            process.join()


def matrix_peak() -> float:
    """Operations per CPU second of one large matrix product on one thread."""
    torch.set_num_threads(1)
    a = torch.randn(1536, 1536)
    times = []
    for _ in range(4):
        start = time.process_time()
        torch.mm(a, a)
        times.append(time.process_time() - start)
    return 2 * 1536**3 / min(times)


def scaling(width: int) -> dict[int, float]:
    """CPU milliseconds per epoch of a model (training and scoring), for stacks of K models on one thread."""
    torch.set_num_threads(1)
    blueprint, specs = members(24, width)
    trainers = {}
    for size in SIZES:
        part = sorted(specs[:size], key=lambda spec: spec.recipe.optimizer)
        trainers[size] = PopulationTrainer(part, blueprint.finetune_images, [None] * size, seed=0, hardware=CPU)
    times: dict[int, list[float]] = {size: [] for size in SIZES}
    for _ in range(4):
        for size, trainer in trainers.items():
            start = time.process_time()
            trainer.train_epoch()
            trainer.evaluate()
            times[size].append(1e3 * (time.process_time() - start) / size)
    return {size: round(statistics.median(spent[1:]), 1) for size, spent in times.items()}


SIZES = (1, 2, 4, 8, 12, 24)
"""Stacks whose scaling is measured."""


def main() -> None:
    """Measures all arrangements and prints what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=int, default=24)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    size = {"models": options.models, "width": options.width}
    rivals = {
        "loop, 1 process x 2 threads": Arrangement("loop", **size, processes=1, threads=2),
        "loop, 2 processes x 1 thread": Arrangement("loop", **size, processes=2, threads=1),
        "stacks, 2 processes x 1 thread": Arrangement("stack", **size, processes=2, threads=1),
    }
    for _ in range(options.rounds):
        for rival in rivals.values():
            rival.epoch()
    for rival in rivals.values():
        rival.stop()
    one, two, ours = rivals.values()
    wall = {name: statistics.median(rival.wall) for name, rival in rivals.items()}
    cpu = {name: statistics.median(rival.cpu) for name, rival in rivals.items()}
    for name in rivals:
        print(f"{name:32} {wall[name]:7.2f} s wall, {cpu[name]:7.2f} s CPU per epoch of {options.models} models")
    blueprint, specs = members(**size)
    images = blueprint.finetune_images
    with torch.device("meta"):
        model, image = build(specs[0].architecture), torch.empty(1, 1, 8, 8)
    with FlopCounterMode(display=False) as counter:
        model(image)
    batch = specs[0].recipe.batch_size
    seen = 3 * (len(images.train) // batch) * batch + len(images.train) + len(images.val) + len(images.test)
    work = counter.get_total_flops() * seen * options.models
    mine = "stacks, 2 processes x 1 thread"
    epochs = specs[0].recipe.epochs
    result = {
        "ratio": statistics.median(one.wall) / statistics.median(ours.wall),
        "ratio_best": min(statistics.median(one.wall), statistics.median(two.wall)) / statistics.median(ours.wall),
        "ratio_cpu": cpu["loop, 2 processes x 1 thread"] / cpu[mine],
        "models_per_minute": 60 * options.models / (wall[mine] * epochs),
        "share_of_matrix_product": work / cpu[mine] / matrix_peak(),
        "compared": {"models": options.models, "width": options.width, "batch": batch, "stack_size": STACK_SIZE},
        "cpu_ms_per_model_epoch_by_stack_size": scaling(options.width),
        "wall_seconds": wall,
        "cpu_seconds": cpu,
    }
    print(json.dumps(result))


__all__ = ["main", "zoo_gen"]

if __name__ == "__main__":
    main()
