"""Time to equal error of the hyper-representation and of an autoencoder on padded rows; the last line is JSON.

    python -m benchmarks.hyperrep_throughput checkpoints/zoos/digits
    python -m benchmarks.hyperrep_throughput checkpoints/zoos/cifar100_few --train 20 --val 2 --turns 8 --seconds 24

`runs/hyperrep_throughput.sh` makes the second zoo (ViTs of width 192) and runs both. Ours are the default hyper-representation and
the same with model.initialization=random (`ours_random`); the second that a linear start takes counts. Rivals
(`benchmarks.padded_rows`): `rows`, the peers' way, and `rows_root`, the same on differences to the root, which the tokens of ours
hold too. All sides have

- as many weights per number of the latents as ours, to 2 %; where whole numbers do not allow that, the rivals have more numbers;
- as many weights of the network as ours, to some percent, by the width of the rival's transformer; one block on either side;
- as many weights of checkpoints in a step, padding not counted, in windows no longer than ours, neither in tokens nor in weights;
- AdamW, clipping, warm-up and then a constant rate; averaged weights are judged; the same train and validation checkpoints,
  tokens in memory.

A scan chooses the rate of each side, and the width of the rivals' rows, by the error after `--scan` seconds: of changes for ours
and `rows_root`, of weights for `rows`, which are the errors that the two rivals train on (`benchmarks.race` defines them). Then all
train in turns, for `--seconds` each, in one process and one thread. `ratio` of a rival is its time to the least error that
both reach over the time of ours. On a CPU, seconds are CPU seconds; validation does not count, drawing windows does.

`over_products` is the time of a training step of ours over that of plain matrix products of the shapes of its blocks, forwards and
backwards, with as many floating-point operations as the step has.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import wsl.train  # noqa: F401 (its settings, for `compose`)
from benchmarks.contestants import Field
from benchmarks.race import Contestant, gain, now, race
from wsl.data.windows import Batch
from wsl.tokenizers.rows import Rows
from zoo_gen import Zoo
from zoo_gen.config import compose

OURS = ("ours", "ours_random")
"""The default, and the same from random weights."""

RIVALS = {"rows": "weights", "rows_root": "changes"}
"""The rivals, and the error that each trains on."""

MEASURES = ("changes", "weights", "models")

PRODUCTS = 9
"""Timings of plain products, the median of which counts."""


def scan(build: Callable[..., Contestant], options: Sequence[dict[str, Any]], *, measure: str, seconds: float) -> dict[str, Any]:
    """Trains each for so many seconds, in turns, and returns the options of the best."""
    contestants = [build(**each) for each in options]
    race(contestants, seconds=seconds, turns=2)
    errors = [contestant.course[-1].errors[measure] for contestant in contestants]
    for each, contestant, error in zip(options, contestants, errors, strict=True):
        print(f"  {contestant.name} {json.dumps(each)}: error of {measure} {error:.4f}, {contestant.steps} steps", flush=True)
    return options[int(np.nanargmin(errors))]


def chosen(field: Field, rates: Sequence[float], *, seconds: float) -> list[Contestant]:
    """Ours and the rivals by the rates and row widths that serve each best."""
    middle = rates[len(rates) // 2]
    others = [rate for rate in rates if rate != middle]
    print(f"scan, {seconds:g} s each")
    found = []
    for name in OURS:
        build = partial(field.ours, name)
        options = scan(build, [{"rate": rate} for rate in rates], measure="changes", seconds=seconds)
        found.append(build(**options))
    widest = field.held(Rows(reference="root"))[0][0].plan.width
    widths = sorted({math.ceil(widest / parts) for parts in (1, 2, 4, 8)})
    for name, measure in RIVALS.items():
        build = partial(field.rival, name)
        best = scan(build, [{"width": width, "rate": middle} for width in widths], measure=measure, seconds=seconds)
        options = [best, *({**best, "rate": rate} for rate in others)]
        found.append(build(**scan(build, options, measure=measure, seconds=seconds)))
        field.forget()
    return found


def operations(contestant: Contestant, batch: Batch) -> int:
    """Floating-point operations of the products of a training step."""
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):  # whose products are counted on every device
        contestant.objective(contestant.model, batch)["loss"].backward()
    return counter.get_total_flops()


def products(tokens: int, width: int, hidden: int, device: torch.device) -> float:
    """Seconds per floating-point operation of plain products of the shapes of a block, forwards and backwards."""
    shapes = ((width, 3 * width), (width, width), (width, hidden), (hidden, width))
    operands = [[torch.randn(size, device=device) for size in ((tokens, k), (k, m), (tokens, m))] for k, m in shapes]
    times = []
    for _ in range(1 + PRODUCTS):
        start = now(device)
        for _ in range(8):
            for x, weight, gradient in operands:
                _ = x @ weight, gradient @ weight.T, x.T @ gradient
        times.append((now(device) - start) / 8)
    return float(np.median(times[1:])) / sum(6 * tokens * k * m for k, m in shapes)


def measure_products(ours: Contestant, card: dict[str, Any]) -> dict[str, float]:
    """The time of a step of ours over plain products of as many operations."""
    batch = Batch(*ours.fabric.to_device(tuple(next(ours.batches))))
    count, step = operations(ours, batch), ours.training / ours.steps
    tokens = batch.positions.shape[0] * batch.positions.shape[1]
    plain = products(tokens, card["width"], int(card["width"] * card["mlp_ratio"]), ours.fabric.device)
    return {
        "step_ms": step * 1e3,
        "step_gflop": count / 1e9,
        "products_ms": plain * count * 1e3,
        "over_products": step / plain / count,
    }


def bench(zoo: Zoo, options: argparse.Namespace, config: dict[str, Any]) -> dict[str, Any]:
    """The figures of one zoo."""
    fabric = Fabric(accelerator=options.accelerator, devices=1)
    field = Field(zoo, fabric, config, width=options.width, train=options.train, val=options.val)
    contestants = chosen(field, options.rates, seconds=options.scan)
    ours, rivals = contestants[: len(OURS)], contestants[len(OURS) :]
    race(contestants, seconds=options.seconds, turns=options.turns)
    figures: dict[str, Any] = {"zoo": zoo.path.name, "device": fabric.device.type, "threads": torch.get_num_threads()}
    for contestant in contestants:
        speed = contestant.weights / contestant.training
        errors = {measure: contestant.best(measure) for measure in MEASURES}
        about = {**contestant.about, "weights_per_second": speed, "steps": contestant.steps, "errors": errors}
        figures[contestant.name] = about
        print(contestant.name, json.dumps(_rounded(about)))
        for measure in MEASURES:
            print(f"  seconds:error of {measure}", *(f"{m.seconds:.1f}:{m.errors[measure]:.3g}" for m in contestant.course))
    for own, rival in product(ours, rivals):
        gains = {measure: gain(own, rival, measure) for measure in MEASURES}
        figures[f"{own.name}_over_{rival.name}"] = gains
        for measure, found in gains.items():
            print(
                f"error of {measure} {found['error']:.4f}: {rival.name} {found['rival_seconds']:.1f} s, "
                f"{own.name} {found['seconds']:.1f} s: {found['ratio']:.2f}"
            )
    figures |= measure_products(ours[0], field.card)
    figures["ratio"] = {
        own: {name: figures[f"{own}_over_{name}"][measure]["ratio"] for name, measure in RIVALS.items()} for own in OURS
    }
    print(f"a step of ours takes {figures['over_products']:.2f} times as long as plain products of its operations")
    return _rounded(figures)


def _rounded(value: Any) -> Any:
    """Numbers to four digits."""
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--width", type=int, default=64, help="weights per token of ours")
    parser.add_argument("--seconds", type=float, default=30, help="of training of each side")
    parser.add_argument("--scan", type=float, default=4, help="seconds of training of each setting")
    parser.add_argument("--turns", type=int, default=12, help="after each of which all sides are validated")
    parser.add_argument("--train", type=int, default=400, help="train checkpoints, at most")
    parser.add_argument("--val", type=int, default=12, help="validation checkpoints, at most")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2], help="learning rates that are tried")
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("settings", nargs="*", help="of wsl.train, as model.width=64")
    options = parser.parse_intermixed_args(arguments)
    torch.set_num_threads(1)
    print(json.dumps(bench(Zoo.open(options.zoo), options, compose("train", options.settings))))


if __name__ == "__main__":
    main(sys.argv[1:])
