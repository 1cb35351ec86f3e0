"""The hyper-representation of a run beside the peers' autoencoders, trained for as long on the same data; the last line is JSON.

    python -m benchmarks.peers checkpoints/runs/digits_hyperrep

Own implementations of what SANE (arXiv 2406.09997) and WeightCLIP (arXiv 2607.03551) do, by their papers and public code. Both are
autoencoders of padded rows (`benchmarks.padded_rows`), and learn by two views of each checkpoint (`benchmarks.contrast`):

- `sane`: windows of at most half a model; masked squared error; one view is permuted, both have noise.
- `weightclip`: windows of whole models; squared error over the deviation of each coordinate of tokens; one view is permuted.
- `statistics`: hand-made statistics of weights, for the probes alone.

They are given what the run was: all epochs of its train models, as many CPU seconds of one thread, as many numbers per checkpoint
(`EQUAL`, or a few more), and as many weights in a step. They are not told the root. A scan of their row widths, rates and networks
(of as many weights, or fewer) by the error of val checkpoints comes on top. Test models are read when training is over.

Features of all rows are latents pooled by `wsl.models.pooling`, probed by the same code on the run's fold. `difference` is the
score of the run less that of the row, paired over resampled test models.
"""

import argparse
import functools
import itertools
import json
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from benchmarks.contrast import WAYS, Contrast
from benchmarks.padded_rows import EQUAL, LayerStandardizer, moments_of, of_size, size_of
from benchmarks.peer_tables import tables
from benchmarks.race import ROW_PARTS, Contestant, Holdout, best_settings, finite_pairs, race, row_widths
from wsl.analyses.compression import compress
from wsl.data.logits import lack_to_run
from wsl.data.pairs import pairs_of, root_weights, rootless
from wsl.data.sources import FileSource, scan
from wsl.data.stacks import shape_key
from wsl.data.token_inputs import TokenInputs
from wsl.data.windows import Windows
from wsl.probes.benchmark import beside
from wsl.probes.probe import probed_checkpoints
from wsl.probes.settings import Settings
from wsl.reporting.run_report import METRICS, read_rows
from wsl.run import Run
from wsl.tokenizers.plan import Plan
from wsl.tokenizers.rows import Rows
from wsl.tokenizers.tokens import Tokenizer
from zoo_gen import InputError
from zoo_gen.config import stored
from zoo_gen.errors import one_clear_error
from zoo_gen.files import write_json
from zoo_gen.startup import take_traceback

SECONDS = 360.0
"""CPU seconds of training where the run does not tell its own."""

TARGETS = ["test_accuracy", "test_loss", "epoch"]
"""What is probed; the epoch by its logarithm."""

STATISTICS = "statistics"
"""The card of the hand-made features."""

CACHE = 10**9
"""Bytes of standardised windows that each peer keeps in memory."""

SHARES = (1, 1 / 3, 1 / 9)
"""Weights of a peer's network over the run's that are tried: the run's are by role, so each of its tokens meets few of them."""

WIDE = 150
"""Columns of tables where stdout is no terminal."""

SCALES = 400
"""Train checkpoints that the scales of errors are taken from, at most."""


class Match:
    """A run, and what its rivals are given."""

    def __init__(self, run: Run, *, val: int, latent: int | None = None):
        """Raises `InputError` for a run whose rivals could not be trained alike, or whose decoded models cannot be judged."""
        _, zoo = run.tokenizer, run.zoo  # what reads no tokens is refused
        if run.config.get("other_zoos"):
            raise InputError(f"{run.path} was trained on several zoos; name a run that was trained on one")
        if lack := lack_to_run(zoo):
            raise InputError(f"the peers are compared by the accuracy of decoded models, and {lack}; name a run on another zoo")
        if count := rootless(zoo):
            raise InputError(f"errors are measured in changes since the root, and {count} models of {zoo.path} have no known root")
        self.run, self.latent, self.size = run, latent, size_of(run.model)
        _, train = finite_pairs(run.split.train, SCALES)
        _, held_out = finite_pairs(run.split.val, val)
        if not train or not held_out:
            raise InputError(f"the train or the val models of {run.path} have no finite weights; name a run on another zoo")
        self.holdout = Holdout(train, held_out)
        every = [*zoo.select(stage="finetune", final=True), *run.split.train.select(final=True)]
        self.shapes = list({shape_key(one): one for one in every}.values())  # train models where they have the shape
        self.widest = max(plan.width for plan in self.plans(Rows(reference="none")))
        self.sources = functools.lru_cache(len(ROW_PARTS))(self._sources)

    def plans(self, tokenizer: Tokenizer) -> list[Plan]:
        """Plans of every shape of the zoo."""
        zoo = self.run.zoo
        return [tokenizer.plan(one.state_dict(), root=root_weights(zoo, one)) for one in self.shapes]

    def numbers(self, run: Run, sources: Sequence[FileSource]) -> float:
        """Mean numbers that the decoder of a run gets for a train checkpoint."""
        counts, first = Counter(id(one.plan) for one in sources), {id(one.plan): one.checkpoint for one in sources}
        total = 0
        for plan, one in first.items():
            own = run.tokenizer.plan(one.state_dict(), root=root_weights(self.run.zoo, one))
            total += counts[plan] * run.model.numbers(own.positions)
        return total / len(sources)

    def rival(self, name: str, *, width: int, share: float, rate: float, seconds: float) -> Contestant:
        """A peer of `WAYS` before its training of so many seconds, on rows of a width, with a share of the run's weights."""
        way, config, tokens = WAYS[name], self.run.config, self.run.inputs.tokens
        tokenizer, sources, standardizer = self.sources(width)
        plans, trained = self.plans(tokenizer), [source.plan for source in sources]
        length, longest = way.window(trained), max(plan.n_tokens for plan in trained)
        latent = self.latent or math.ceil((1 - EQUAL) * self.numbers(self.run, sources) / np.mean([p.n_tokens for p in trained]))
        latent += latent == width + 1  # of that width are latents that hold heads (`TokenInputs.sides`)
        sizes = {"heads": config["model"]["heads"], "depth": config["model"]["depth"], "seed": config["seed"]}
        model = of_size(round(share * self.size), plans, latent=latent, **sizes)
        about = {"rows": width, "latent": latent, "rate": rate, "weights": size_of(model)}
        objective = Contrast(way, model, sources, length=length, seed=config["seed"])
        of_ours = min(1, tokens.window / max(plan.n_tokens for plan in self.plans(self.run.tokenizer)))
        batch_size = max(2, round(config["batch_size"] * of_ours * longest / length))
        windows = Windows(sources, standardizer, length=longest, seed=config["seed"], cache=CACHE)
        window = length if way.part < 1 else max(plan.n_tokens for plan in plans)
        return Contestant(
            name=name,
            about=about,
            model=model,
            objective=objective,
            inputs=TokenInputs(tokenizer, standardizer, window, replace(tokens.rehearsal, steps=0)),
            batches=windows.batches(range(sys.maxsize), batch_size, rank=0, world_size=1, workers=0),
            holdout=self.holdout,
            config=config,
            rate=rate,
            cycle=seconds,
        )

    def _sources(self, width: int) -> tuple[Tokenizer, list[FileSource], Any]:
        """The tokenizer of rows of a width, the finite train checkpoints, and the standardizer that is fitted to them."""
        tokenizer = Rows(width=width, reference="none")
        sources = scan(pairs_of(self.run.split.train), tokenizer)
        return tokenizer, sources, LayerStandardizer(moments_of(sources))

    def run_of(self, rival: Contestant) -> Run:
        """The rival as a run on the zoo, to be judged by the code that judges runs."""
        config = {**self.run.config, "model_name": rival.name}
        return Run(self.run.path, config, rival.model, rival.inputs, zoo=self.run.zoo.path)

    def judged(self, run: Run, errors: Mapping[str, float], about: Mapping[str, Any]) -> dict[str, Any]:
        """The row of a run but for its probes."""
        sources = self.sources(self.widest)[1]
        numbers = {"numbers": self.numbers(run, sources)}
        retained = compress(run)
        kept = {key: retained[key] for key in ("accuracy_retained", "accuracy", "accuracy_decoded", "judged")}
        return {"row": run.model_name, **numbers, **about, "errors": dict(errors), **kept}


def training_of(run: Run) -> dict[str, float | None]:
    """Returns the CPU seconds of a run's training and its weights per second by metrics.jsonl, None for what that does not tell.

    A training that was killed has the seconds of each of its processes up to its last event that counts.
    """
    events = read_rows(run.path / METRICS, again=f"delete {run.path} and train the run again")
    speeds = [event["weights_per_second"] for event in events if "weights_per_second" in event]
    times = [event.get("cpu_time") for event in events]
    known = [time for time in times if time is not None]
    seconds = sum(one for one, following in itertools.pairwise([*known, 0.0]) if following < one)
    told = len(known) == len(times) > 0
    return {"seconds": seconds if told else None, "weights_per_second": float(np.median(speeds)) if speeds else None}


def probes(match: Match, features: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Probes the run's features, the first ones, beside the others and the statistics; see `wsl.probes.benchmark.beside`."""
    defaults = {name: stored("probe.yaml")[name] for name in Settings.__dataclass_fields__}
    fewer = {"targets": TARGETS, "features": [STATISTICS], "noise_ceiling_checkpoints": 0, "n_permutations": 0}
    (name, own), *others = features.items()
    rows = beside(own, match.run, Settings(**{**defaults, **fewer}), name=name, tables=dict(others))
    return [{key: _finite(value) for key, value in row.items()} for row in rows]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def compare(
    match: Match, *, seconds: float, scan: float, rates: Sequence[float], turns: int, ours: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Trains the peers, and returns the rows of the run, the peers and the statistics."""
    rivals = []
    for name in WAYS:
        choices = {"width": row_widths(match.widest), "share": SHARES, "rate": rates}
        best = best_settings(functools.partial(match.rival, name, seconds=scan), choices, measure="weights", seconds=scan)
        rivals.append(match.rival(name, **best, seconds=seconds))
    race(rivals, seconds=seconds, turns=turns)
    run, children = match.run, probed_checkpoints(match.run.zoo)
    about = {"weights": match.size, **ours}
    rows = [match.judged(run, match.holdout.errors(run.model, run.decoding), about)]
    features = {run.model_name: run.embeddings(children).to_numpy(dtype=np.float64)}
    for rival in rivals:
        measured = {"seconds": rival.seconds, "weights_per_second": rival.weights / rival.training, "steps": rival.steps}
        with rival.average.applied():
            of_rival = match.run_of(rival)
            rows.append(match.judged(of_rival, rival.course[-1].errors, {**rival.about, **measured}))
            features[rival.name] = of_rival.embeddings(children).to_numpy(dtype=np.float64)
    rows.append({"row": STATISTICS})
    found = probes(match, features)
    for row in rows:
        row["probes"] = [{k: v for k, v in one.items() if k != "features"} for one in found if one["features"] == row["row"]]
    return rows


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="a finished run of a hyper-representation: a folder, or a name under checkpoints/runs")
    parser.add_argument("--zoo", type=Path, help="where the run's zoo is now, if it has moved")
    parser.add_argument("--seconds", type=float, help=f"CPU seconds of each peer; default: the run's, or {SECONDS:g} if unknown")
    parser.add_argument("--latent", type=int, help="numbers per token of the peers, such as 128 (theirs); default: as the run's")
    parser.add_argument("--scan", type=float, default=20, help="CPU seconds of each row width, network and rate that is tried")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2], help="learning rates that are tried")
    parser.add_argument("--turns", type=int, default=6, help="of the training, after each of which peers are validated")
    parser.add_argument("--val", type=int, default=24, help="val checkpoints that are decoded, at most")
    parser.add_argument("--out", type=Path, help="JSON file for the rows; default: peers.json in the folder of the run")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Compares the run named on the command line with its peers."""
    take_traceback()
    options = parser().parse_args(arguments)
    with one_clear_error():
        torch.set_num_threads(1)
        numbers = [options.scan, *options.rates, options.turns, options.val]
        numbers += [value for value in (options.seconds, options.latent) if value is not None]
        if not all(0 < value < math.inf for value in numbers):
            raise InputError("--seconds, --latent, --scan, --rates, --turns and --val must be more than 0 and finite")
        run = Run.open(options.run, zoo=options.zoo)
        match, ours = Match(run, val=options.val, latent=options.latent), training_of(run)
        seconds = options.seconds or ours["seconds"] or SECONDS
        print(f"each peer trains for {seconds:.0f} CPU seconds, after a scan of {options.scan:g} s for each setting", flush=True)
        settings = {"scan": options.scan, "rates": options.rates, "turns": options.turns}
        rows = compare(match, seconds=seconds, **settings, ours=ours)
        about = {"run": run.path.name, "zoo": run.zoo.path.name, **{key: run.config[key] for key in ("split", "fold", "seed")}}
        result = {**about, "latent": options.latent, "seconds": seconds, "rows": rows}
        write_json(options.out or run.path / f"peers{f'_latent{options.latent}' if options.latent else ''}.json", result)
        console = Console() if sys.stdout.isatty() else Console(width=WIDE)
        for table in tables(rows):
            console.print(table)
        print(json.dumps(result))


if __name__ == "__main__":
    main()
