"""Tables (Markdown) and a figure of scores by the number of labelled models."""

from pathlib import Path

from wsl.reporting.benchmark_rows import (
    ONE_EACH,
    Rows,
    has_one_each,
    is_given,
    mark,
    means,
    name_of,
    questions,
    scores,
    values,
    words,
)
from wsl.reporting.benchmark_tables import CAPTION, controls, difference, markdown, summary, table
from wsl.reporting.numbers import number
from wsl.reporting.static_figures import curve_figure
from zoo_gen.files import write_json, write_text


def write_curves(rows: Rows, out: Path, *, title: str, command: str) -> None:
    """Writes the rows, and beside them the tables and the figure."""
    write_json(out, list(rows))
    write_text(out.with_suffix(".md"), tables(rows, title=title, command=command))
    write_text(out.with_suffix(".svg"), curve_figure(rows))


def tables(rows: Rows, *, title: str, command: str) -> str:
    """Returns the embedding beside the best baseline in short, then tables of all features for each number of labelled models."""
    rows = means(rows)
    parts = [f"# {title}\n", f"Made by `python -m {command}`; docs/protocol.md explains it.\n", f"{CAPTION}\n"]
    parts += [f"{ONE_EACH}\n"] if has_one_each(rows) else []
    parts.append(short(rows))
    for labelled in values(rows, "labelled"):
        chosen = [row for row in rows if row["labelled"] == labelled]
        selections = chosen[0]["selections"]
        mean = f", mean of {selections} selections" if selections > 1 else ""
        parts.append(f"## {heading(labelled)}{mean}: R²\n\n{summary(chosen)}")
        tau = scores(chosen, "kendall_tau")
        for subset in values(tau, "subset"):
            alike = [row for row in tau if row["subset"] == subset]
            parts.append(f"### {heading(labelled)}, {subset} checkpoints: Kendall's τ\n\n{table(alike)}")
        parts.append(controls(chosen))
    return "\n".join(parts)


def short(rows: Rows) -> str:
    """Returns the R² of embeddings and the paired difference to the best baseline, by labelled models and target."""
    shown = [row for row in scores(rows) if row["kind"] == "embedding"]
    columns = questions(shown)
    cells = {}
    for row in shown:
        score = "(given)" if is_given(row) else f"{mark(row)}{number(row['value'], 3)}"
        written = ", ".join(filter(None, [score, difference(row)]))
        cells[row["labelled"], name_of(row), row["target"], row["subset"]] = written
    lines = []
    for labelled, name in dict.fromkeys((row["labelled"], name_of(row)) for row in shown):
        found = (cells.get((labelled, name, *question), "–") for question in columns)
        lines.append(["all" if labelled is None else str(labelled), name, *found])
    heads = ["labelled", "features", *(f"{words(target)} {subset}" for target, subset in columns)]
    note = "R², and its difference to the best baseline with the 95 % interval over test models and selections."
    return f"{markdown(heads, lines)}\n{note}\n"


def heading(labelled: int | None) -> str:
    """Returns how many models have labels, in words."""
    return "All models labelled" if labelled is None else f"{labelled} labelled models" if labelled else "No labels"
