"""Time to equal error of the hyper-representation and of an autoencoder on padded rows; the last line is JSON.

    python -m benchmarks.hyperrep_throughput checkpoints/zoos/digits

Ours are the default hyper-representation, and the same that keeps numbers at random (`ours_random`), not by train checkpoints.
Nothing is rehearsed, reconstruction is the objective, and the seconds of bases of roots, side information and initialization count.
Rivals (`benchmarks.padded_rows`) are `rows`, the peers' way, and `rows_root`, the same on task vectors, as ours. All sides have

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
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import wsl.train  # noqa: F401 (its settings, for `compose`)
from benchmarks.measure import seconds
from benchmarks.padded_rows import EQUAL, LayerStandardizer, masked_error, moments_of, of_size, per_token, size_of
from benchmarks.race import ROW_PARTS, Contestant, Holdout, InMemory, best_of, best_settings, finite_pairs, gain, race, row_widths
from wsl.data.pairs import roots_of
from wsl.data.side_information import SideInformation, SourceSides
from wsl.data.sources import FileSource, Source, scan
from wsl.data.standardizer import Standardizer
from wsl.data.token_inputs import TokenInputs, rehearsal_of
from wsl.data.token_statistics import TokenStatistics
from wsl.data.windows import Windows
from wsl.layout.slots import ROLES
from wsl.tokenizers.plan import Plan
from wsl.tokenizers.rows import Rows
from wsl.tokenizers.tokens import Tokenizer
from wsl.training.trainer import Loss
from zoo_gen import InputError, Zoo
from zoo_gen.config import compose, instantiate

OURS = {"ours": True, "ours_random": False}
"""Ours, and whether train checkpoints initialize it."""

RIVALS = {"rows": ("none", "weights"), "rows_root": ("root", "changes")}
"""The rivals, the reference of their tokens, and the error that each trains on."""

SETTINGS = ("objective=reconstruction", "rehearsal.steps=0", "window=448")
"""Settings of `wsl.train` that all sides have."""

CACHE = 2 * 10**9
"""Bytes of standardised windows that each side keeps in memory."""


class Prepared(NamedTuple):
    """Tokens of ours: in files, which initialize, and in memory, which train; their side information; seconds of preparing."""

    tokenizer: Tokenizer
    standardizer: Standardizer
    files: list[FileSource]
    sources: list[InMemory]
    sides: SourceSides
    seconds: float


class Field:
    """Some train and validation checkpoints of a zoo (split `by_model`, fold 0), and who may train on them."""

    def __init__(self, zoo: Zoo, settings: Sequence[str], *, train: int, val: int):
        split, self.config = zoo.split("by_model", fold=0), compose("train", [*SETTINGS, *settings])
        self.chosen, self.train = finite_pairs(split.train, train)
        _, self.val = finite_pairs(split.val, val)
        if not self.train or not self.val:
            raise InputError(f"the train or the val models of {zoo.path} have no finite weights; choose another zoo")
        self.holdout = Holdout(self.train, self.val)
        self.roots = roots_of(zoo)
        self.sources = functools.lru_cache(len(ROW_PARTS))(self._sources)
        self.width = self.config["tokenizer"]["width"]
        self.card = {**self.config["model"], "token_width": self.width + 1, "roles": len(ROLES)}  # no weights for others
        with torch.device("meta"):
            self.size = size_of(instantiate(self.card))

    def plans(self, tokenizer: Tokenizer) -> list[Plan]:
        """Plans of all checkpoints."""
        return [tokenizer.plan(weights, root=root) for weights, root in (*self.train, *self.val)]

    @functools.cached_property
    def prepared(self) -> Prepared:
        """The tokens of ours with what belongs to them, and the seconds that took beyond tokens."""
        tokenizer, rehearsal = instantiate(self.config["tokenizer"]), rehearsal_of(self.config["rehearsal"])
        start = time.process_time()
        tokenizer.prepare(self.roots)
        seconds = time.process_time() - start
        files = scan(self.chosen, tokenizer)
        sources = [InMemory.of(tokenizer.encode(weights, root=root)) for weights, root in self.train]
        standardizer = Standardizer.fit((source.plan, source.sums) for source in sources)
        start = time.process_time()
        sides = SourceSides(files, [SideInformation(tokenizer, standardizer, rehearsal, zoo=None)] * len(files))
        for some in sides.stacks():
            sides.find(some)
        return Prepared(tokenizer, standardizer, files, sources, sides, seconds + time.process_time() - start)

    def ours(self, name: str, *, rate: float) -> Contestant:
        """The default hyper-representation, `ours`; `ours_random` keeps numbers at random."""
        made, plans = self.prepared, self.plans(self.prepared.tokenizer)
        torch.manual_seed(self.config["seed"])
        model, start = instantiate(self.card), time.process_time()
        if OURS[name]:
            of_files = self._windows(plans, made.files, made.standardizer, made.sides)
            model.initialize(TokenStatistics(made.files, of_files))
        else:
            places = model.allocation.measured((plan, torch.ones(plan.n_tokens, plan.width)) for plan in plans) > 0
            model.allocation.allocate(torch.rand(places.shape) * places, plans)
        seconds = made.seconds + time.process_time() - start
        windows = self._windows(plans, made.sources, made.standardizer, made.sides)
        objective = instantiate(self.config["objective"])
        return self._contestant(name, made.tokenizer, windows, made.standardizer, model, objective, rate, seconds=seconds)

    def rival(self, name: str, *, width: int, rate: float) -> Contestant:
        """An autoencoder on padded rows, `rows` or `rows_root`, of the size and the compression of ours."""
        tokenizer, sources = self.sources(width, RIVALS[name][0])
        plans = self.plans(tokenizer)
        latent = math.ceil((1 - EQUAL) * per_token(plans) / self.card["compression_ratio"])
        sizes = {"heads": self.card["heads"], "depth": self.card["depth"], "seed": self.config["seed"]}
        model = of_size(self.size, plans, latent=latent, **sizes)
        standardizer: Any = LayerStandardizer(moments_of(sources))
        windows = self._windows(plans, sources, standardizer, None)
        return self._contestant(name, tokenizer, windows, standardizer, model, masked_error, rate)

    def _sources(self, width: int, reference: Literal["none", "root"]) -> tuple[Tokenizer, list[InMemory]]:
        """The tokenizer of a rival, and the train tokens in memory."""
        tokenizer = Rows(width=width, reference=reference)
        return tokenizer, [InMemory.of(tokenizer.encode(weights, root=root)) for weights, root in self.train]

    def _shape(self, plans: Sequence[Plan]) -> tuple[int, int]:
        """Tokens of a window and windows of a step, which hold as many weights as the default's do."""
        window, dense = self.config["window"], per_token(plans)
        length = min(window, round(self.width * window / dense), *(plan.n_tokens for plan in plans))
        return length, max(1, round(self.config["batch_size"] * self.width * window / (length * dense)))

    def _windows(
        self, plans: Sequence[Plan], sources: Sequence[Source], standardizer: Standardizer, sides: SourceSides | None
    ) -> Windows:
        length, _ = self._shape(plans)
        return Windows(sources, standardizer, length=length, seed=self.config["seed"], cache=CACHE, sides=sides)

    def _contestant(
        self,
        name: str,
        tokenizer: Tokenizer,
        windows: Windows,
        standardizer: Standardizer,
        model: Any,
        objective: Loss,
        rate: float,
        *,
        seconds: float = 0.0,
    ) -> Contestant:
        """A contestant whose steps hold as many weights as the default's do."""
        plans = self.plans(tokenizer)
        length, batch_size = self._shape(plans)
        return Contestant(
            name=name,
            about={
                "token_width": plans[0].width,
                "rate": rate,
                "weights": size_of(model),
                "weights_per_number": sum(plan.n_weights for plan in plans) / sum(model.numbers(plan.positions) for plan in plans),
                "weights_per_step": batch_size * length * per_token(plans),
            },
            model=model,
            objective=objective,
            inputs=TokenInputs(tokenizer, standardizer, length, rehearsal_of(self.config["rehearsal"])),
            batches=windows.batches(range(sys.maxsize), batch_size, rank=0, world_size=1, workers=0),
            holdout=self.holdout,
            config=self.config,
            rate=rate,
            seconds=seconds,
        )


def chosen(field: Field, rates: Sequence[float], *, seconds: float) -> list[Contestant]:
    """Ours and the rivals by the rates and row widths that serve each best."""
    found = []
    for name in OURS:
        build = functools.partial(field.ours, name)
        found.append(build(**best_of(build, [{"rate": rate} for rate in rates], measure="changes", seconds=seconds)))
    widest = max(plan.width for plan in field.plans(Rows(reference="root")))
    for name, (_, measure) in RIVALS.items():
        build = functools.partial(field.rival, name)
        choices = {"width": row_widths(widest), "rate": rates}
        found.append(build(**best_settings(build, choices, measure=measure, seconds=seconds)))
    return found


def over_products(ours: Contestant, card: dict[str, Any]) -> float:
    """The time of a step of ours over plain products of the shapes of its blocks, of as many operations, forwards and backwards."""
    batch, width, hidden = next(ours.batches), card["width"], int(card["width"] * card["mlp_ratio"])
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):  # whose products are counted
        ours.objective(ours.model, batch)["loss"].backward()
    tokens, shapes = batch.positions[..., 0].numel(), ((width, 3 * width), (width, width), (width, hidden), (hidden, width))
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
    parser.add_argument("--seconds", type=float, default=30, help="of training of each side, and of the longest preparation more")
    parser.add_argument("--scan", type=float, default=4, help="seconds of training of each setting")
    parser.add_argument("--turns", type=int, default=12, help="after each of which all sides are validated")
    parser.add_argument("--train", type=int, default=400, help="train checkpoints, at most")
    parser.add_argument("--val", type=int, default=12, help="validation checkpoints, at most")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2], help="learning rates that are tried")
    parser.add_argument("settings", nargs="*", help="of wsl.train, as model.width=64")
    options = parser.parse_intermixed_args(arguments)
    torch.set_num_threads(1)
    zoo = Zoo.open(options.zoo)
    field = Field(zoo, options.settings, train=options.train, val=options.val)
    contestants = chosen(field, options.rates, seconds=options.scan)
    race(contestants, seconds=options.seconds + max(one.seconds for one in contestants), turns=options.turns)
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
