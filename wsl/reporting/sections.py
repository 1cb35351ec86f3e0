"""Sections of the report: each function turns rows of a run's folder into a part of the page, with its caveats."""

from collections.abc import Sequence
from itertools import groupby

import pandas as pd

from wsl.generators.names import LEVELS
from wsl.generators.novelty import COLLAPSED, COPIED, THRESHOLD
from wsl.reporting import figures
from wsl.reporting.benchmark_rows import LOW_CEILING, ONE_EACH, Row, Rows, has_one_each, is_counted, is_given, mark, words
from wsl.reporting.generator_table import class_of, scale_of
from wsl.reporting.numbers import number
from wsl.reporting.page import Section, figure_row, headline, interval, paragraph, table, text
from wsl.reporting.style import heading, score_of
from wsl.run import Run
from zoo_gen.wording import counted

METRICS = {"r2": "R²", "kendall_tau": "Kendall τ", "balanced_accuracy": "balanced accuracy"}


def introduction(run: Run, metrics: Rows) -> str:
    """Returns the origin of a run, and its main figures in large print."""
    zoo, config = run.zoo, run.config
    roots, children = zoo.select(stage="pretrain", final=True), zoo.select(stage="finetune", final=True)
    about = (
        f"The model <strong>{text(run.model_name)}</strong> of the zoo <strong>{text(zoo.name)}</strong> (seed {zoo.seed}, content "
        f"hash <code>{zoo.content_hash[:12]}</code>), trained with seed {config['seed']} on the split "
        f"<code>{text(config['split'])}</code>, fold {config['fold']}."
    )
    numbers = [
        ("models", f"{len(roots) + len(children):,}", f"{counted(len(roots), 'root')}, {len(children):,} fine-tuned"),
        ("checkpoints", f"{len(zoo):,}", "every epoch of each"),
    ]
    if score := score_of(children.frame):
        found = children.frame[score].dropna()
        low, median, high = (float(found.quantile(q)) for q in (0.05, 0.5, 0.95))
        numbers.append((f"median {words(score)}", number(median), f"90 % lie in {number(low)} to {number(high)}"))
        if score.endswith("_accuracy"):
            numbers.append((f"best {words(score)}", number(found.max()), "of a fine-tuned model"))
    if decoded := [event for event in metrics if event.get("accuracy_decoded") is not None]:
        after, before = (number(decoded[-1][f"accuracy_{key}"]) for key in ("decoded", "original"))
        numbers.append(("accuracy after decoding", after, f"{before} before, val models"))
    return paragraph(about) + headline(numbers)


def zoo_section(frame: pd.DataFrame, factors: Sequence[str], *, chance: float | None) -> Section:
    """Returns the section about the population; `frame` has one row per fine-tuned checkpoint.

    Figures are of test accuracy, or of another number where the zoo has none; without any there are none.
    """
    final = frame.query("final")
    diverged = len(final.query("status == 'diverged'"))
    lead = f"{counted(len(final), 'fine-tuned model')}; each dot and each line is one of them. {diverged or 'None'} diverged."
    score = score_of(final)
    if score is None:
        return Section("zoo", "Zoo", [paragraph(lead), paragraph("The zoo has no result that could be shown.", "caution")])
    bars = figures.score_histogram(final, score=score, chance=chance)
    if not factors:
        return Section("zoo", "Zoo", [paragraph(lead), figure_row(bars)])
    boxes = figures.score_by_factor(final, factors, score=score)
    rows = [figure_row(boxes, bars, width="half")]
    if len(frame) > len(final):
        rows.append(figure_row(figures.learning_curves(frame, factors, score=score)))
    return Section("zoo", "Zoo", [paragraph(lead), *rows])


def training_section(metrics: Rows, *, decodes: bool) -> Section:
    """Returns the section about the training; `metrics` are the events of metrics.jsonl.

    A model that does not decode has neither errors by role nor decoded models; those of a zoo that cannot be run have no accuracy.
    """

    def line(event: str, key: str) -> list[tuple[int, float]]:
        return [(row["step"], row[key]) for row in metrics if row["event"] == event and row.get(key) is not None]

    losses = {"train": line("train", "loss"), "validation": line("validation", "loss")}
    accuracy = {"decoded": line("validation", "accuracy_decoded"), "original": line("validation", "accuracy_original")}
    keys = dict.fromkeys(key for row in metrics for key in row if key.startswith("error/"))
    errors = {key.removeprefix("error/"): points for key in keys if (points := line("validation", key))}
    if not decodes:
        left_out = ("event", "step", "time", "cpu_time")
        scalars = [(key, value) for row in metrics[-1:] for key, value in row.items() if key not in left_out]
        measured = headline([(words(key), number(value, 3), "val models") for key, value in scalars])
        lead = "The model is fitted on train models, and measured on val models at the end. It embeds and does not decode."
        known = {name: points for name, points in losses.items() if points}
        return Section(
            "training",
            "Training",
            [paragraph(lead), measured, figure_row(figures.curves("losses", "Loss", known, y="loss", scale="log"))],
        )
    error = "normalised squared error"
    lead = (
        "An autoencoder learns to reconstruct the weights of train models. Validation models are never fitted; "
        "an error of 1 is that of the mean weight."
    )
    of_losses = figures.curves("losses", "Loss", losses, y=error, scale="log")
    below = figure_row(figures.curves("role-errors", "Validation error by role", errors, y=error, scale="log"))
    if not accuracy["decoded"]:
        caution = paragraph("Decoded models were not run, as the images or the architecture are not known.", "caution")
        return Section("training", "Training", [paragraph(lead), caution, figure_row(of_losses), below])
    of_models = figures.curves(
        "decoded-accuracy", "Accuracy of decoded models", accuracy, y="accuracy on val images", scale="linear"
    )
    return Section("training", "Training", [paragraph(lead), figure_row(of_losses, of_models, width="half"), below])


def embedding_section(points: pd.DataFrame, colourings: Sequence[str], *, explained: Sequence[float], total: int) -> Section:
    """Returns the section about the embedding; `points` has a row per checkpoint that is shown, of `total`."""
    lead = "One dot per checkpoint, placed by its weights alone. The axes are fitted on train models."
    if len(points) < total:
        lead += f" {len(points):,} of {total:,} checkpoints are shown: all final ones, other epochs thinned."
    figure = figures.embedding_map(points, colourings, explained)
    return Section("embedding", "Embedding", [paragraph(lead), figure_row(figure)])


def probe_section(rows: Rows) -> Section:
    """Returns the section about linear probes of the embedding and of the baselines; `rows` are those of probe.json."""
    counted_first = sorted((row for row in rows if not row["control"]), key=is_counted, reverse=True)
    features = list(dict.fromkeys(row["features"] for row in counted_first))
    tables = []
    for subset in dict.fromkeys(row["subset"] for row in counted_first):
        cells = {(row["target"], row["metric"], row["features"]): row for row in counted_first if row["subset"] == subset}
        body, aside = [], []
        for target, metric in dict.fromkeys(key[:2] for key in cells):
            scores = [cells[target, metric, name] for name in features]
            if all(row["value"] is None for row in scores):
                continue
            limits = [number(scores[0][key]) for key in ("chance", "noise_ceiling")]
            values = [_score(row) for row in scores]
            body.append([f"{heading(target)} <small>{METRICS.get(metric, heading(metric))}</small>", *limits, *values])
            aside.append(not is_counted(scores[0]))
        head = ["target", "chance", "noise ceiling", *map(heading, features)]
        tables.append(table(f"{subset.capitalize()} checkpoints", head, body, aside))
    lead = (
        "Linear probes on the embedding and on hand-made features of the weights; the best of the latter is the baseline. "
        "Intervals are 95 %, bootstrapped over test models. The noise ceiling is the score of a perfect probe, given the noise of "
        "the measured target. †: not above permuted targets. !: above the noise ceiling: these features know the measured result. "
        "(given): these features contain the target. Grey targets are not counted: the shapes of the weights give them away (the "
        f"head), or their noise ceiling is under {number(LOW_CEILING)}."
    )
    tested = counted(counted_first[0]["n_models"], "model")
    caution = (
        f"<strong>A smoke test.</strong> One representation, tested on {tested} of one fold. "
        "A table to be quoted pools all folds and three seeds."
    )
    lead += f" {ONE_EACH}" if has_one_each(rows) else ""
    caveats = [paragraph(caution, "caution")] if counted_first[0]["smoke_test"] else []
    figure = figures.probe_scores([row for row in counted_first if row["metric"] != "kendall_tau" and not is_given(row)])
    return Section("probes", "Probes", [paragraph(lead), *caveats, figure_row(figure), *tables])


def _score(row: Row) -> str:
    """Returns a score with its mark and interval, as HTML; no score of features that contain the target."""
    if is_given(row) and row["value"] is not None:
        return "(given)"
    return ("" if row["value"] is None else mark(row)) + interval(row["value"], row["low"], row["high"])


def generation_section(rows: Rows, *, chance: float | None) -> Section:
    """Returns the section about generated models and their baselines; `rows` are those of generate.json."""
    body, good = [], []
    for row in rows:
        name = f"{heading(row['generator'])} <small>{figures.settings(row)}</small>"
        accuracy = interval(*(row["accuracy"][key] for key in ("median", "q25", "q75")))
        spaces = [number(row["novelty_by_space"].get(space)) for space in ("weights", "behaviour")]
        rest = [number(row["diversity"]), number(row["effective_rank_ratio"]), f"{row['flagged'][COPIED]:.0%}"]
        body.append([name, str(row["n"]), accuracy, number(row["novelty"]), *spaces, *rest, text(", ".join(row["flags"]))])
        shares = [interval(share["share"], share["low"], share["high"]) for share in row["good_and_new"].values()]
        cost = [row["cost"]["gradient_evaluations"], row["cost"]["cpu_seconds"]] if row.get("cost") else [None, None]
        good.append([name, class_of(row, rows) or "–", *shares, number(cost[0], 0), number(cost[1], 3)])
    novelty = ["novelty", "of weights", "of behaviour"]
    head = ["sampler", "models", "test accuracy", *novelty, "diversity", "rank ratio", "copies", "flags"]
    lead = (
        "Generated models without training: the median over all of them, bars from the lower to the upper quartile. "
        "Novelty is the distance of a model to the nearest train model of any root, diversity its distance to the nearest other "
        f"sample; 1 is {scale_of(rows)}. The smaller of weights and behaviour counts. "
        f"Samples are flagged {COPIED} for a novelty, {COLLAPSED} for a diversity below {number(THRESHOLD)}. "
        "Good and new is the share of samples at a novelty and a diversity of at least 1 and above an accuracy. "
        "A sampler is better only where it lies above every baseline of equal novelty."
    )
    if all(row["accuracy"]["median"] is None for row in rows):
        figure = paragraph("The models were not run, as the images or the architecture are not known.", "caution")
    else:
        figure = figure_row(figures.frontier(rows, threshold=THRESHOLD, chance=chance))
    gauge = "modulo symmetry" if all(row["aligned"] for row in rows) else "as they are, not modulo symmetry: heads are not known"
    samplers = table("All samplers", head, body, [bool(row["flags"]) for row in rows])
    anchors = "".join(f" {text(rule)}." for rule in dict.fromkeys(row["anchors_by"] for row in rows if row.get("anchors_by")))
    about = next((row["bars"] for row in rows if "bars" in row), {})
    named = {"median": "above the median", "top_quartile": "the top quartile", "best": "the best"}
    bars = [f"{named[bar]} {number(about.get(bar))}" for bar in rows[0]["good_and_new"]]
    new = table("Good and new", ["sampler", "uses", *bars, "gradients", "CPU s"], good, [bool(row["flags"]) for row in rows])
    found = next((row["frontier"] for row in rows if row.get("frontier")), [])
    best = [
        [heading(name), *(interval(one["accuracy"], one["low"], one["high"]) for one in alike)]
        for name, alike in groupby(found, key=lambda one: one["generator"])
    ]
    levels = [f"at least {number(level)}" for level in LEVELS]
    edge = [table("Best accuracy by novelty and diversity", ["sampler", *levels], best, [False] * len(best))] if best else []
    parts = [paragraph(lead), paragraph(f"Distances of weights are taken {gauge}.{anchors}"), new, figure, samplers, *edge]
    return Section("generation", "Generation", parts)


def missing_section(title: str, command: str) -> Section:
    """Returns the section of a part that the run does not have yet, with the command that makes it."""
    line = f"This part is missing. Make it with <code>{text(command)}</code>, then make this report again."
    return Section(title.lower(), title, [paragraph(line)])
