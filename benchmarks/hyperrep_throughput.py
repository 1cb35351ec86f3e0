"""Time to equal error of the hyper-representation and of an autoencoder on padded rows; the last line is JSON.

    python -m benchmarks.hyperrep_throughput checkpoints/zoos/digits

Ours are the default hyper-representation and the same with model.initialization=random (`ours_random`); the second that a linear
initialization takes counts. Rivals (`benchmarks.padded_rows`) are `rows`, the peers' way, and `rows_root`, the same on task
vectors, which the tokens of ours hold too. All sides have

- as many weights per number of the latents, to 2 %; where whole numbers do not allow that, the rivals have more numbers;
- as many weights of the network, to some percent, by the width of the rival's transformer; one block on either side;
- as many weights of checkpoints in a step, padding not counted, in windows no longer than ours, neither in tokens nor in weights;
- AdamW, clipping, warm-up and then a constant rate; averaged weights are judged; the same checkpoints, tokens in memory.

A scan chooses the rate of each side, and the width of the rivals' rows, by the error that the rival trains on (`benchmarks.race`).
Then all train in turns, in one process and one thread. `ratio` of a rival is its time to the least error that both reach over the
time of ours, in CPU seconds; validation does not count, drawing windows does. `over_products` is the time of a training step of
ours over that of plain matrix products of the shapes of its blocks, with as many operations.
"""

import argparse
import functools
import json
import math
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import wsl.train  # noqa: F401 (its settings, for `compose`)
from benchmarks.measure import seconds
from benchmarks.padded_rows import LayerStandardizer, RowsAutoencoder, masked_error, moments_of
from benchmarks.race import Contestant, Holdout, InMemory, Pair, gain, race
from wsl.data.standardizer import Standardizer
from wsl.data.token_inputs import TokenInputs
from wsl.data.token_statistics import TokenStatistics
from wsl.data.windows import Windows
from wsl.layout.slots import ROLES
from wsl.tokenizers.plan import Plan
from wsl.tokenizers.residual import Residual
from wsl.tokenizers.rows import Rows
from wsl.tokenizers.tokens import Tokenizer
from wsl.training.trainer import Loss
from zoo_gen import InputError, Zoo
from zoo_gen.config import compose, instantiate

OURS = {"ours": "linear", "ours_random": "random"}
"""Ours, and its initialization."""

RIVALS = {"rows": ("none", "weights"), "rows_root": ("root", "changes")}
"""The rivals, the reference of their tokens, and the error that each trains on."""

WIDTH = 64
"""Weights per token of ours."""

EQUAL = 0.02
"""Difference between two compressions that are called equal."""

ROW_PARTS = (1, 2, 4, 8)
"""Widths of rows that are tried: the widest row over each."""

CACHE = 2 * 10**9
"""Bytes of standardised windows that each side keeps in memory."""


class Field:
    """Some train and validation checkpoints of a zoo (split `by_model`, fold 0), and who may train on them."""

    def __init__(self, zoo: Zoo, config: dict[str, Any], *, train: int, val: int):
        split, self.config = zoo.split("by_model", fold=0), config
        self.train, self.val = _finite(split.train, train), _finite(split.val, val)
        if not self.train or not self.val:
            raise InputError(f"the train or the val models of {zoo.path} have no finite weights; choose another zoo")
        self.holdout = Holdout(self.train, self.val)
        self.sources = functools.lru_cache(len(ROW_PARTS))(self._sources)
        self.card = {**config["model"], "token_width": WIDTH + 1, "roles": len(ROLES)}  # no weights for roles that are not there
        self.compression = _per_token(self.plans(Residual(width=WIDTH, reference="root"))) / self.card["latent"]
        with torch.device("meta"):
            self.size = _size(instantiate(self.card))

    def plans(self, tokenizer: Tokenizer) -> list[Plan]:
        """Plans of all checkpoints."""
        return [tokenizer.plan(weights, root=root) for weights, root in (*self.train, *self.val)]

    def ours(self, name: str, *, rate: float) -> Contestant:
        """The default hyper-representation, `ours`; `ours_random` by model.initialization=random."""
        tokenizer, sources = self.sources(Residual, WIDTH, "root")
        standardizer = Standardizer.fit((source.plan, source.sums) for source in sources)
        build = functools.partial(instantiate, {**self.card, "initialization": OURS[name]})
        return self._contestant(name, tokenizer, sources, standardizer, build, instantiate(self.config["objective"]), rate)

    def rival(self, name: str, *, width: int, rate: float) -> Contestant:
        """An autoencoder on padded rows, `rows` or `rows_root`, of the size and the compression of ours."""
        tokenizer, sources = self.sources(Rows, width, RIVALS[name][0])
        plans = self.plans(tokenizer)
        blocks, _, places = (torch.stack([plan.positions.amax(0) for plan in plans]).amax(0) + 1).tolist()
        build = functools.partial(
            RowsAutoencoder,
            token_width=width,
            latent=math.ceil((1 - EQUAL) * _per_token(plans) / self.compression),
            layers=blocks * len(ROLES),
            places=places,
            heads=self.card["heads"],
            depth=self.card["encoder_depth"],
        )
        with torch.device("meta"):
            widths = range(2 * self.card["heads"], 4096, 2 * self.card["heads"])
            above = bisect_left(widths, self.size, key=lambda width: _size(build(width=width)))
            best = min(widths[max(0, above - 1) : above + 1], key=lambda width: abs(_size(build(width=width)) - self.size))
        standardizer: Any = LayerStandardizer(moments_of(sources))
        build = functools.partial(build, width=best)
        return self._contestant(name, tokenizer, sources, standardizer, build, masked_error, rate)

    def _sources(self, kind: type[Residual] | type[Rows], width: int, reference: str) -> tuple[Tokenizer, list[InMemory]]:
        """A tokenizer, and the train tokens in memory."""
        tokenizer = kind(width=width, reference=reference)
        return tokenizer, [InMemory.of(tokenizer.encode(weights, root=root)) for weights, root in self.train]

    def _contestant(
        self,
        name: str,
        tokenizer: Tokenizer,
        sources: list[InMemory],
        standardizer: Standardizer,
        build: Callable[[], Any],
        objective: Loss,
        rate: float,
    ) -> Contestant:
        """A contestant whose steps hold as many weights as the default's do."""
        plans, window = self.plans(tokenizer), self.config["window"]
        per_token = _per_token(plans)
        length = min(window, round(WIDTH * window / per_token), *(plan.n_tokens for plan in plans))
        batch_size = max(1, round(self.config["batch_size"] * WIDTH * window / (length * per_token)))
        windows = Windows(sources, standardizer, length=length, seed=self.config["seed"], cache=CACHE)
        torch.manual_seed(self.config["seed"])
        model, start = build(), time.process_time()
        if name in OURS:
            model.initialize(TokenStatistics((), windows))
        return Contestant(
            name=name,
            about={
                "token_width": plans[0].width,
                "rate": rate,
                "weights": _size(model),
                "weights_per_number": per_token / model.latent,
                "weights_per_step": batch_size * length * per_token,
            },
            model=model,
            objective=objective,
            inputs=TokenInputs(tokenizer, standardizer, length),
            batches=windows.batches(range(sys.maxsize), batch_size, rank=0, world_size=1, workers=0),
            holdout=self.holdout,
            config=self.config,
            rate=rate,
            seconds=time.process_time() - start,
        )


def _finite(checkpoints: Zoo, count: int) -> list[Pair]:
    """Weights of some of the checkpoints, evenly over all of them, with those of their roots; without those that diverged."""
    chosen = [checkpoints[int(i)] for i in np.linspace(0, len(checkpoints) - 1, min(count, len(checkpoints))).round()]
    roots = {name: checkpoints.final(name).state_dict() for name in {str(checkpoint.root) for checkpoint in chosen}}
    pairs = [(checkpoint.state_dict(), roots[str(checkpoint.root)]) for checkpoint in chosen]
    return [(weights, root) for weights, root in pairs if all(tensor.isfinite().all() for tensor in weights.values())]


def _per_token(plans: Sequence[Plan]) -> float:
    """Mean weights per token."""
    return float(np.mean([plan.n_weights / plan.n_tokens for plan in plans]))


def _size(model: nn.Module) -> int:
    """Weights of a network."""
    return sum(parameter.numel() for parameter in model.parameters())


def scan(build: Callable[..., Contestant], options: Sequence[dict[str, Any]], *, measure: str, seconds: float) -> dict[str, Any]:
    """Trains each for so many seconds, in turns, and returns the options of the best."""
    contestants = [build(**each) for each in options]
    race(contestants, seconds=seconds, turns=2)
    errors = [contestant.course[-1].errors[measure] for contestant in contestants]
    for each, contestant, error in zip(options, contestants, errors, strict=True):
        print(f"{contestant.name} {each}: error of {measure} {error:.4f} after {seconds:g} s", flush=True)
    return options[int(np.nanargmin(errors))]


def chosen(field: Field, rates: Sequence[float], *, seconds: float) -> list[Contestant]:
    """Ours and the rivals by the rates and row widths that serve each best."""
    found = []
    for name in OURS:
        build = functools.partial(field.ours, name)
        found.append(build(**scan(build, [{"rate": rate} for rate in rates], measure="changes", seconds=seconds)))
    middle = rates[len(rates) // 2]
    widest = max(plan.width for plan in field.plans(Rows(reference="root")))
    for name, (_, measure) in RIVALS.items():
        build = functools.partial(field.rival, name)
        options = [{"width": math.ceil(widest / parts), "rate": middle} for parts in ROW_PARTS]
        best = scan(build, options, measure=measure, seconds=seconds)
        found.append(build(**scan(build, [{**best, "rate": rate} for rate in rates], measure=measure, seconds=seconds)))
    return found


def over_products(ours: Contestant, card: dict[str, Any]) -> float:
    """The time of a step of ours over plain products of the shapes of its blocks, of as many operations, forwards and backwards."""
    batch, width, hidden = next(ours.batches), card["width"], int(card["width"] * card["mlp_ratio"])
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):  # whose products are counted
        ours.objective(ours.model, batch)["loss"].backward()
    tokens = batch.positions[..., 0].numel()
    shapes = ((width, 3 * width), (width, width), (width, hidden), (hidden, width))
    operands = [[torch.randn(size) for size in ((tokens, k), (k, m), (tokens, m))] for k, m in shapes]

    def products() -> None:
        for x, weight, gradient in operands:
            _ = x @ weight, gradient @ weight.T, x.T @ gradient

    (plain,) = seconds(products, repeats=40)
    count = sum(6 * tokens * k * m for k, m in shapes)
    return ours.training / ours.steps / (plain * counter.get_total_flops() / count)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--seconds", type=float, default=30, help="of training of each side")
    parser.add_argument("--scan", type=float, default=4, help="seconds of training of each setting")
    parser.add_argument("--turns", type=int, default=12, help="after each of which all sides are validated")
    parser.add_argument("--train", type=int, default=400, help="train checkpoints, at most")
    parser.add_argument("--val", type=int, default=12, help="validation checkpoints, at most")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2], help="learning rates that are tried")
    parser.add_argument("settings", nargs="*", help="of wsl.train, as model.width=64")
    options = parser.parse_intermixed_args(arguments)
    torch.set_num_threads(1)

    zoo = Zoo.open(options.zoo)
    field = Field(zoo, compose("train", options.settings), train=options.train, val=options.val)
    contestants = chosen(field, options.rates, seconds=options.scan)
    race(contestants, seconds=options.seconds, turns=options.turns)
    figures: dict[str, Any] = {"zoo": zoo.path.name}
    for one in contestants:
        errors = {measure: one.best(measure) for measure in field.holdout.scales}
        figures[one.name] = {**one.about, "weights_per_second": one.weights / one.training, "steps": one.steps, "errors": errors}
        print(one.name, json.dumps(figures[one.name]))
        for measure in errors:
            print(f"  seconds:error of {measure}", *(f"{m.seconds:.1f}:{m.errors[measure]:.3g}" for m in one.course))
    ours, rivals = contestants[: len(OURS)], contestants[len(OURS) :]
    ratios = {own.name: {rival.name: gain(own, rival, RIVALS[rival.name][1]) for rival in rivals} for own in ours}
    print(json.dumps(figures | {"ratio": ratios, "over_products": over_products(ours[0], field.card)}))


if __name__ == "__main__":
    main()
