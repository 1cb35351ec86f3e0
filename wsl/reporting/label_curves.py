"""Tables (Markdown) and a figure (SVG) of scores by the number of labelled models."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from wsl.reporting.benchmark_tables import COLOURS, COUNTED, controls, name_of, summary, table
from zoo_gen.files import write_atomically, write_json

Rows = Sequence[Mapping[str, Any]]


def write_curves(rows: Rows, out: Path, *, title: str, command: str) -> None:
    """Writes the rows, and beside them the tables and the figure."""
    write_json(out, list(rows))
    text, drawn = tables(rows, title=title, command=command), figure(rows)
    write_atomically(out.with_suffix(".md"), lambda beside: _write_text(beside, text))
    write_atomically(out.with_suffix(".svg"), lambda beside: _write_text(beside, drawn))


def tables(rows: Rows, *, title: str, command: str) -> str:
    """Returns the embedding beside the best baseline in short, then tables of all features for each number of labelled models."""
    rows = _means(rows)
    parts = [f"# {title}\n", f"Made by `python -m {command}`; docs/protocol.md explains it.\n", short(rows)]
    for labelled in dict.fromkeys(row["labelled"] for row in rows):
        chosen = [row for row in rows if row["labelled"] == labelled]
        selections = chosen[0]["selections"]
        parts.append(
            f"## {heading(labelled)}{f', mean of {selections} selections' if selections > 1 else ''}: R²\n\n{summary(chosen)}"
        )
        tau = [row for row in chosen if row["metric"] == "kendall_tau" and not row["control"] and row["value"] is not None]
        for subset in dict.fromkeys(row["subset"] for row in tau):
            alike = [row for row in tau if row["subset"] == subset]
            parts.append(f"### {heading(labelled)}, {subset} checkpoints: Kendall's τ\n\n{table(alike)}")
        parts.append(controls([row for row in chosen if row["control"]]))
    return "\n".join(parts)


def short(rows: Rows) -> str:
    """Returns the R2 of embeddings and the paired difference to the best baseline, by labelled models and target."""
    shown = [r for r in rows if r["kind"] == "embedding" and r["metric"] == "r2" and not r["control"] and r["value"] is not None]
    names = _questions(shown)
    cells = {(row["labelled"], name_of(row), row["target"], row["subset"]): _difference(row) for row in shown}
    lines = ["| labelled | features |" + "".join(f" {target.replace('_', ' ')} {subset} |" for target, subset in names)]
    lines.append("| --- " * (len(names) + 2) + "|")
    for labelled, features in dict.fromkeys((row["labelled"], name_of(row)) for row in shown):
        found = (cells.get((labelled, features, *name), "-") for name in names)
        lines.append(f"| {'all' if labelled is None else labelled} | {features} |" + "".join(f" {cell} |" for cell in found))
    return "\n".join(
        [*lines, "", "R², and difference to the best baseline with its 95 % interval over test models and selections.", ""]
    )


def _questions(rows: Rows) -> list[tuple[str, str]]:
    """Returns targets and subsets: all checkpoints first, targets that are counted before others."""
    asked = dict.fromkeys((row["target"], row["subset"]) for row in rows)
    order = [*COUNTED, *(target for target, _ in asked)]
    return sorted(asked, key=lambda question: (question[1], order.index(question[0])))


def _difference(row: Mapping[str, Any]) -> str:
    if "difference" not in row:
        return f"{row['value']:.3f}"
    return f"{row['value']:.3f}, {row['difference']:+.3f} [{row['difference_low']:+.3f}, {row['difference_high']:+.3f}]"


def _means(rows: Rows) -> list[Mapping[str, Any]]:
    """Leaves out single seeds of what has a mean over seeds."""
    several = {row["features"] for row in rows if row["seed"] == "mean"}
    return [row for row in rows if row["features"] not in several or row["seed"] in ("mean", None) or row["control"]]


def heading(labelled: int | None) -> str:
    """Returns how many models have labels, in words."""
    return "All models labelled" if labelled is None else f"{labelled} labelled models" if labelled else "No labels"


def figure(rows: Rows) -> str:
    """Returns an SVG: a panel per (target, subset), R2 over labelled models, a line per kind of features.

    Embeddings have their intervals, and the mean over seeds alone where there are several; baselines are thin lines.
    """
    shown = [r for r in rows if r["metric"] == "r2" and not r["control"] and r["value"] is not None and not r["given"]]
    shown = _means(shown)
    panels = _questions(shown)
    ticks = sorted({row["labelled"] for row in shown}, key=lambda n: float("inf") if n is None else n)
    names = sorted({name_of(row): row["kind"] for row in shown}.items(), key=lambda pair: list(COLOURS).index(pair[1]))
    width, height, left, gap, columns = 190, 130, 40, 44, min(len(panels), 4)
    bands, below = -(-len(panels) // max(columns, 1)), 24 + 15 * len(names)
    size = f'width="{left + columns * (width + gap)}" height="{bands * (height + 64) + below}"'
    font = 'font-family="system-ui, sans-serif" font-size="11"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}><rect width="100%" height="100%" fill="white"/>']
    for number, (target, subset) in enumerate(panels):
        x0, y0 = left + (number % columns) * (width + gap), (number // columns) * (height + 64) + 34

        def place(labelled: int | None, value: float, x0: int = x0, y0: int = y0) -> tuple[float, float]:
            step = width / max(len(ticks) - 1, 1)
            return x0 + step * ticks.index(labelled), y0 + height * (1 - (min(max(value, -0.2), 1) + 0.2) / 1.2)

        parts.append(f'<text x="{x0}" y="{y0 - 12}" font-weight="600">{escape(target.replace("_", " "))}, {subset}</text>')
        for value in (0, 0.5, 1):
            (x, y), (end, _) = place(ticks[0], value), place(ticks[-1], value)
            parts.append(_line([(x, y), (end, y)], "#ddd", 1))
            parts.append(f'<text x="{x0 - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#666">{value:g}</text>')
        for tick in ticks:
            x, y = place(tick, -0.2)
            parts.append(
                f'<text x="{x:.1f}" y="{y + 14:.1f}" text-anchor="middle" fill="#666">{"all" if tick is None else tick}</text>'
            )
        for i, (name, kind) in enumerate(names):
            found = {r["labelled"]: r for r in shown if (r["target"], r["subset"], name_of(r)) == (target, subset, name)}
            at = [place(tick, found[tick]["value"]) for tick in ticks if tick in found]
            colour, compared = _colour(i, kind), kind in ("embedding", "joined")
            if compared:
                bars = [[place(tick, found[tick][end]) for end in ("low", "high")] for tick in ticks if tick in found]
                parts += [_line(bar, colour, 1) for bar in bars]
            parts.append(_line(at, colour, 2.5 if compared else 1, dash=_dash(name)))
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{2.5 if compared else 1.8}" fill="{colour}"/>' for x, y in at]
    for i, (name, kind) in enumerate(names):
        y = bands * (height + 64) + 15 * i + 12
        width = 2.5 if kind in ("embedding", "joined") else 1
        parts.append(_line([(left, y), (left + 24, y)], _colour(i, kind), width, dash=_dash(name)))
        parts.append(f'<text x="{left + 32}" y="{y + 4}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _colour(number: int, kind: str) -> str:
    """Returns a colour of the kind for embeddings, a shade from blue to green for the baseline of a number."""
    return COLOURS[kind] if kind != "baseline" else f"hsl({260 - 23 * (number % 9)}, 45%, {32 + 9 * (number % 3)}%)"


def _dash(name: str) -> str:
    """Returns the dashes of what is a variant of other features."""
    return "4 3" if "rescaled" in name else "1 3" if "pretrained" in name else "none"


def _line(points: Sequence[tuple[float, float]], colour: str, width: float, *, dash: str = "none") -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-dasharray="{dash}"/>'


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
