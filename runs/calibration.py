"""Coverage of the intervals of wsl.predict, by distance from the train models of runs.

    python runs/calibration.py RUN [RUN ...] --zoo ZOO [ZOO ...]

Each run predicts its own test models (of known roots, or of a root that it has never seen), the children of other zoos, freshly
initialised networks and children whose weights are shuffled within each tensor. For each range of distances the table has the
number of checkpoints, the share that is given a number, the coverage of those, the median half-width of their intervals, and for
comparison the coverage of all checkpoints by intervals that are calibrated on val models alone, and on roots left out.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch

from wsl import Run
from wsl.data.stacks import in_float32
from wsl.probes.predictor import Group, Predictor
from wsl.probes.probe import probed_checkpoints
from zoo_gen import Zoo
from zoo_gen.architecture import build
from zoo_gen.config import cards

TARGETS = ("test_accuracy", "test_loss", "epoch")
PENALTIES = [1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1, 3, 10, 30, 100]
BINS = [0, 0.4, 0.6, 0.8, 1, np.inf]
EVERY = 5
"""Epochs between the checkpoints of other zoos."""

RANDOM = 30
"""Random networks of each kind."""


def random_networks(run: Run) -> Iterator[tuple[str, list[tuple[dict, dict]]]]:
    """Yields networks with the shapes of train models, freshly initialised and shuffled, each with the root of such a model."""
    models = run.split.train.select(final=True)
    rng, fresh, shuffled = torch.Generator().manual_seed(0), [], []
    for number in range(RANDOM):
        one = models[number * 7 % len(models)]
        root = in_float32(run.zoo.final(one.root).state_dict())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            fresh.append((in_float32(build(one.architecture).state_dict()), root))
        weights = in_float32(one.state_dict())
        moved = {name: w.flatten()[torch.randperm(w.numel(), generator=rng)].view(w.shape) for name, w in weights.items()}
        shuffled.append((moved, root))
    yield "random: fresh", fresh
    yield "random: shuffled", shuffled


def children(zoo: Zoo) -> Zoo:
    """Returns every fifth epoch and the last one of the fine-tuned models."""
    found = probed_checkpoints(zoo)
    frame = found.frame
    return found.select(path=frame["path"][(frame["epoch"] % EVERY == 0) | frame["final"]].tolist())


def populations(run: Run, zoos: list[Zoo], predictor: Predictor) -> Iterator[tuple[str, Group, pd.DataFrame | None, np.ndarray]]:
    """Yields what is predicted: its name, what its intervals are calibrated on, its truths if there are any, and its embeddings."""
    test = probed_checkpoints(run.split.test)
    is_known = set(test.frame["root"]) <= set(predictor.about["roots"])
    yield "known roots" if is_known else "new root", "models" if is_known else "roots", test.frame, run.embed(test)
    for zoo in zoos:
        some = children(zoo)
        roots = {name: in_float32(zoo.final(name).state_dict()) for name in some.frame["root"].unique()}
        embedded = run.embed_weights([(in_float32(one.state_dict()), roots[one.root]) for one in some])
        group: Group = "nothing" if predictor.has_unseen_shapes(in_float32(some[0].state_dict())) else "roots"
        yield f"{zoo.path.name} ({'other shape' if group == 'nothing' else 'new roots'})", group, some.frame, embedded
    for name, pairs in random_networks(run):
        yield name, "models", None, run.embed_weights(pairs)


def predicted(run: Run, zoos: list[Zoo], coverage: float) -> Iterator[pd.DataFrame]:
    """Yields one row per target and checkpoint of each population."""
    predictor = Predictor.of(run, penalties=PENALTIES)
    probes = cards("probe", TARGETS)
    for name, group, frame, embedded in populations(run, zoos, predictor):
        kinds: dict[str, Group] = {"used": group, "models": "models", "roots": "roots"}
        tables = {
            kind: predictor(np.asarray(embedded, dtype=np.float64), coverage=coverage, groups=[one for _ in embedded])
            for kind, one in kinds.items()
        }
        promised = group == "models" or (group == "roots" and coverage <= predictor.promised + 1e-9)
        for target in TARGETS:
            used = tables["used"]
            rows = pd.DataFrame({"scheme": run.config["split"], "population": name, "target": target, "distance": used["distance"]})
            rows["given"] = promised & (used["distance"] <= 1)
            rows["half_width"] = (used[f"{target}_high"] - used[f"{target}_low"]) / 2
            truth = None if frame is None else frame[probes[target].column].to_numpy(dtype=float)
            for kind, table in tables.items():
                low, high = (table[f"{target}_{end}"].to_numpy(dtype=float) for end in ("low", "high"))
                rows[kind] = np.nan if truth is None else (low <= truth) & (truth <= high)
            yield rows


def coverage_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns the table: one row per target, scheme, population and range of distances."""
    ranges = pd.cut(rows["distance"], BINS).astype(str).rename("distance")
    rows = rows.assign(covered=rows["used"].astype(float).where(rows["given"]), half=rows["half_width"].where(rows["given"]))
    rows = rows.astype({"models": float, "roots": float})
    groups = rows.groupby([rows["target"], rows["scheme"], rows["population"], ranges], sort=False)
    table = groups.agg(
        checkpoints=("given", "size"),
        given=("given", "mean"),
        coverage=("covered", "mean"),
        half_width=("half", "median"),
        on_val_models=("models", "mean"),
        on_roots=("roots", "mean"),
    )
    return cast(pd.DataFrame, table.sort_index().round(3))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--zoo", nargs="*", type=Path, default=[], help="other zoos")
    parser.add_argument("--coverage", type=float, default=0.9)
    args = parser.parse_args()
    zoos = [Zoo.open(path) for path in args.zoo]
    rows = [rows for path in args.runs for rows in predicted(Run.open(path), zoos, args.coverage)]
    print(coverage_table(pd.concat(rows)).to_string())


if __name__ == "__main__":
    main()
