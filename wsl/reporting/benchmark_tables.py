"""Tables (Markdown) of the benchmarks of property prediction and of compression, and figures, from their rows alone."""

from collections.abc import Sequence
from pathlib import Path

from wsl.reporting.benchmark_rows import (
    LOW_CEILING,
    ONE_EACH,
    Row,
    Rows,
    has_one_each,
    is_counted,
    is_given,
    is_judged,
    mark,
    name_of,
    names,
    rank,
    scores,
    values,
    words,
)
from wsl.reporting.numbers import number, signed
from wsl.reporting.static_figures import score_figure
from zoo_gen.files import write_text

METRICS = {"r2": "R²", "kendall_tau": "Kendall's τ", "balanced_accuracy": "balanced accuracy"}
CAPTION = (
    "Intervals are 95 % over test models. **Bold**: the best baseline of a target. †: not above permuted targets. !: above the "
    "noise ceiling: these features know the measured result. (given): these features contain the target. The noise ceiling is the "
    "score of a perfect probe, given the noise of the measured target. "
    "*Targets in italics* are not counted: the shapes of the weights give them away, or their noise ceiling is under "
    f"{number(LOW_CEILING)}."
)


def tables(rows: Rows, *, zoo: str) -> str:
    """Returns one table per split, subset and metric: features down, targets across, the best baseline of each target bold."""
    parts = [f"# Property prediction on {zoo}\n", "Made by `python -m wsl.property_prediction`; docs/protocol.md explains it.\n"]
    parts.append(f"{CAPTION}\n")
    parts += [f"{ONE_EACH}\n"] if has_one_each(rows) else []
    for split in values(rows, "split"):
        parts.append(f"## {split}, in short: R²\n\n{summary([row for row in rows if row['split'] == split])}")
    for split in values(rows, "split"):
        alike = [row for row in rows if row["split"] == split]
        for subset in values(alike, "subset"):
            for metric, name in METRICS.items():
                if chosen := [row for row in scores(alike, metric) if row["subset"] == subset]:
                    parts.append(f"## {split}, {subset} checkpoints: {name}\n\n{table(chosen)}")
        parts.append(controls(alike))
    return "\n".join(parts)


def summary(rows: Rows) -> str:
    """Returns the table of one split that embeddings are judged by: R² of counted targets, on all and on final checkpoints."""
    counted = [row for row in scores(rows) if is_judged(row)]
    names = values(counted, "target")
    order = sorted(counted, key=lambda row: (rank(row), names.index(row["target"]), row["subset"]))
    return table([{**row, "target": f"{row['target']} {row['subset']}"} for row in order])


def table(rows: Rows) -> str:
    """Returns features down, targets across, the best baseline of each target bold; rows of one metric."""
    targets, cells = values(rows, "target"), {(name_of(row), row["target"]): row for row in rows}
    first = {row["target"]: row for row in reversed(rows)}
    best = {row["target"]: words(row["best_baseline"]) for row in rows if row.get("best_baseline")}
    limits = [f"{number(first[target]['chance'], 3)}…{number(first[target]['noise_ceiling'], 3)}" for target in targets]
    lines = [["*chance…noise ceiling*", *limits]]
    for name in names(rows):
        found = [cells.get((name, target)) for target in targets]
        lines.append([name, *(_cell(row, bold=row is not None and best.get(row["target"]) == name) for row in found)])
        if any(row is not None and "difference" in row for row in found):
            lines.append([f"*{name} − best baseline*", *map(difference, found)])
    return markdown(["features", *(_heading(first[target]) for target in targets)], lines)


def controls(rows: Rows) -> str:
    """Returns the scores of the controls among some rows, in one paragraph."""
    found = []
    for metric, name in (("r2", "R²"), ("kendall_tau", "|τ|")):
        medians = [row["value"] for row in rows if row["metric"] == metric and row["control"] == "permuted targets"]
        if medians:
            found.append(f"median {name} of permuted targets at most {number(max(medians), 3)} in {len(medians)} controls")
    planted = [row["value"] for row in rows if row["control"] == "planted feature" and row["value"] is not None]
    if planted:
        found.append(f"planted features score at least {number(min(planted), 4)} in {len(planted)} controls")
    return f"Controls: {'; '.join(found)}.\n"


def write_figures(rows: Rows, out: Path) -> None:
    """Writes one figure per split beside `out`: R² and its interval of all features, a panel per target and subset."""
    for split in values(rows, "split"):
        if chosen := [row for row in scores(rows) if row["split"] == split]:
            write_text(out.with_name(f"{out.stem}_{split}.svg"), score_figure(chosen))


def _heading(row: Row) -> str:
    return words(row["target"]) if is_counted(row) else f"*{words(row['target'])}*"


def _cell(row: Row | None, *, bold: bool) -> str:
    if row is None:
        return "–"
    if is_given(row):
        return "(given)"
    text = f"{mark(row)}{number(row['value'], 3)} [{number(row['low'], 3)}, {number(row['high'], 3)}]"
    return f"**{text}**" if bold else text


def difference(row: Row | None) -> str:
    """Returns the paired difference to the best baseline and its interval; nothing where there is none."""
    if row is None or "difference" not in row:
        return ""
    return f"{signed(row['difference'], 3)} [{signed(row['difference_low'], 3)}, {signed(row['difference_high'], 3)}]"


def compression_table(rows: Rows) -> str:
    """Returns rows of `wsl.analyses.compression` as a table, by compression ratio."""
    heads = ("run", "model", "behaviour", "refined", "compression ratio", "accuracy retained", "quartiles", "− `linear_code`")
    heads += ("accuracy decoded", "accuracy before", "diversity, weights", "diversity, predictions")
    quartiles = ("accuracy_retained_q25", "accuracy_retained_q75")
    figures = ("accuracy_decoded", "accuracy", "diversity_weights", "diversity_behaviour")
    lines = []
    for row in sorted(
        rows, key=lambda row: (round(row["compression_ratio"]), row["run"], row["model"] != "linear_code", row["refined"])
    ):
        about = [row["run"], f"`{row['model']}`", *("yes" if row[key] else "no" for key in ("behaviour", "refined"))]
        retained = [number(row["accuracy_retained"], 3), ", ".join(number(row[key], 3) for key in quartiles)]
        mean, low, high = row.get("minus_linear_code") or (None, None, None)
        difference = "" if mean is None else f"{signed(mean)} [{signed(low)}, {signed(high)}]"
        about += [number(row["compression_ratio"])]
        lines.append([*about, *retained, difference, *(number(row[key], 3) for key in figures)])
    return markdown(heads, lines)


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Returns a table of cells."""
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heads, ["---"] * len(heads), *lines))
