"""Sections of the report: each function turns what a run's folder holds into a part of the page, with its caveats."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from wsl.generators.novelty import THRESHOLD
from wsl.reporting import figures
from wsl.reporting.page import Section, figure_row, headline, interval, number, paragraph, table, text
from wsl.reporting.probe_table import LOW_CEILING
from wsl.reporting.style import heading
from wsl.run import Run

Rows = Sequence[Mapping[str, Any]]
"""Objects of a JSON file."""

METRICS = {"r2": "R²", "kendall_tau": "Kendall τ", "balanced_accuracy": "balanced accuracy"}


def introduction(run: Run, metrics: Rows) -> str:
    """What the run is, and its figures in large print."""
    zoo, config = run.zoo, run.config
    roots, children = zoo.select(stage="pretrain", final=True), zoo.select(stage="finetune", final=True)
    accuracy = pd.Series([checkpoint.results["test_accuracy"] for checkpoint in children], dtype=float).dropna()
    low, median, high = (float(accuracy.quantile(q)) for q in (0.05, 0.5, 0.95))
    last = [event for event in metrics if event["event"] == "validation"][-1]
    about = (
        f"A hyper-representation of the zoo <strong>{text(zoo.name)}</strong> (seed {zoo.seed}, content hash "
        f"<code>{zoo.content_hash[:12]}</code>), trained with seed {config['seed']} on the split "
        f"<code>{text(config['split'])}</code>, fold {config['fold']}."
    )
    before = f"{number(last['accuracy_original'])} before, val models"
    numbers = [
        ("models", f"{len(roots) + len(children):,}", f"{len(roots)} roots, {len(children):,} fine-tuned"),
        ("checkpoints", f"{len(zoo):,}", "every epoch of each"),
        ("median test accuracy", number(median), f"90 % lie in {number(low)} to {number(high)}"),
        ("best test accuracy", number(accuracy.max()), "of a fine-tuned model"),
        ("accuracy after decoding", number(last["accuracy_decoded"]), before),
    ]
    return paragraph(about) + headline(numbers)


def zoo_section(frame: pd.DataFrame, factors: Sequence[str], *, chance: float) -> Section:
    """The population; `frame` has one row per fine-tuned checkpoint."""
    final = frame.query("final")
    diverged = len(final.query("status == 'diverged'"))
    lead = f"{len(final):,} fine-tuned models; each dot and each line is one of them. {diverged or 'None'} diverged."
    boxes, bars = figures.accuracy_by_factor(final, factors), figures.accuracy_histogram(final, chance)
    curves = figures.learning_curves(frame, factors)
    return Section("zoo", "Zoo", [paragraph(lead), figure_row(boxes, bars, width="half"), figure_row(curves)])


def training_section(metrics: Rows) -> Section:
    """How the hyper-representation was trained; `metrics` are the events of metrics.jsonl."""

    def line(event: str, key: str) -> list[tuple[int, float]]:
        return [(row["step"], row[key]) for row in metrics if row["event"] == event and row.get(key) is not None]

    losses = {"train": line("train", "loss"), "validation": line("validation", "loss")}
    accuracy = {"decoded": line("validation", "accuracy_decoded"), "original": line("validation", "accuracy_original")}
    keys = dict.fromkeys(key for row in metrics for key in row if key.startswith("error/"))
    errors = {key.removeprefix("error/"): points for key in keys if (points := line("validation", key))}
    error = "normalised squared error"
    lead = (
        "An autoencoder learns to reconstruct the weights of train models. Validation models are never fitted; "
        "an error of 1 is that of the mean weight."
    )
    above = figure_row(
        figures.curves("losses", "Loss", losses, y=error, scale="log"),
        figures.curves("decoded-accuracy", "Accuracy of decoded models", accuracy, y="accuracy on val images", scale="linear"),
        width="half",
    )
    below = figure_row(figures.curves("role-errors", "Validation error by role", errors, y=error, scale="log"))
    return Section("training", "Training", [paragraph(lead), above, below])


def embedding_section(points: pd.DataFrame, colourings: Sequence[str], *, explained: Sequence[float], total: int) -> Section:
    """The embedding in two dimensions; `points` has a row per checkpoint, `total` is how many there are."""
    lead = "One dot per checkpoint, placed by its weights alone. The axes are fitted on train models."
    if len(points) < total:
        lead += f" {len(points):,} of {total:,} checkpoints are shown: all final ones, other epochs thinned."
    figure = figures.embedding_map(points, colourings, explained)
    return Section("embedding", "Embedding", [paragraph(lead), figure_row(figure)])


def probe_section(rows: Rows) -> Section:
    """What linear probes read from the embedding and from the baselines; `rows` are those of probe.json."""
    asked = sorted((row for row in rows if not row["control"]), key=_not_counted)
    features = list(dict.fromkeys(row["features"] for row in asked))
    tables = []
    for subset in dict.fromkeys(row["subset"] for row in asked):
        cells = {(row["target"], row["metric"], row["features"]): row for row in asked if row["subset"] == subset}
        body, aside = [], []
        for target, metric in dict.fromkeys(key[:2] for key in cells):
            scores = [cells[target, metric, name] for name in features]
            if all(row["value"] is None for row in scores):
                continue
            limits = [number(scores[0][key]) for key in ("chance", "noise_ceiling")]
            values = [interval(row["value"], row["low"], row["high"]) for row in scores]
            body.append([f"{heading(target)} <small>{METRICS.get(metric, heading(metric))}</small>", *limits, *values])
            aside.append(_not_counted(scores[0]))
        head = ["target", "chance", "noise_ceiling", *map(heading, features)]
        tables.append(table(f"{subset.capitalize()} checkpoints", head, body, aside))
    lead = (
        "Linear probes on the embedding and on hand-made features of the weights: the bar is the best of the latter. "
        "Intervals are 95 %, bootstrapped over test models. Not counted, and grey: what the shapes of the weights give "
        f"away (the head), and targets with a ceiling under {number(LOW_CEILING)}, too noisy to be predicted."
    )
    caution = (
        f"<strong>A smoke test.</strong> One representation, tested on the {asked[0]['n_models']} models of one fold. "
        "A quotable table pools all folds and takes three seeds."
    )
    caveats = [paragraph(caution, "caution")] if asked[0]["smoke_test"] else []
    figure = figures.probe_scores([row for row in asked if row["metric"] != "kendall_tau"])
    return Section("probes", "Probes", [paragraph(lead), *caveats, figure_row(figure), *tables])


def _not_counted(row: Mapping[str, Any]) -> bool:
    return row["trivial"] or (row["noise_ceiling"] is not None and row["noise_ceiling"] < LOW_CEILING)


def generation_section(rows: Rows, *, chance: float) -> Section:
    """New models beside the baselines that they must beat; `rows` are those of generate.json."""
    body = []
    for row in rows:
        name = f"{heading(row['generator'])} <small>{figures.settings(row)}</small>"
        accuracy = interval(*(row["accuracy"][key] for key in ("median", "q25", "q75")))
        spaces = [number(row["novelty_by_space"][space]) for space in ("weights", "behaviour")]
        rest = [number(row["diversity"]), number(row["effective_rank_ratio"]), text(", ".join(row["flags"]))]
        body.append([name, str(row["n"]), accuracy, number(row["novelty"]), *spaces, *rest])
    novelty = ["novelty", "of weights", "of behaviour"]
    head = ["sampler", "models", "test accuracy", *novelty, "diversity", "rank ratio", "flag"]
    lead = (
        "Models as sampled, without training: the median over all of them, bars from the lower to the upper quartile. "
        "A sampler is better only where it lies above every baseline of equal novelty."
    )
    caution = (
        "<strong>Not aligned.</strong> Distances count directions that change nothing (permutations, key biases), so novelty "
        "is too high and not to be quoted: run wsl.generate again."
    )
    aligned = all(row["aligned"] for row in rows)
    caveats = [paragraph("Distances of weights are taken modulo symmetry.")] if aligned else [paragraph(caution, "caution")]
    figure = figures.frontier(rows, threshold=THRESHOLD, chance=chance)
    parts = [
        paragraph(lead),
        *caveats,
        figure_row(figure),
        table("All samplers", head, body, [bool(row["flags"]) for row in rows]),
    ]
    return Section("generation", "Generation", parts)


def missing_section(title: str, command: str) -> Section:
    """A part that the run does not have yet, with the command that makes it."""
    line = f"Not there yet. Make it with <code>{text(command)}</code>, then make this report again."
    return Section(title.lower(), title, [paragraph(line)])
