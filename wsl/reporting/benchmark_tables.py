"""Tables (Markdown) and figures (SVG) of the benchmark of property prediction, from its rows alone."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from wsl.reporting.probe_table import LOW_CEILING
from zoo_gen.files import write_atomically

Rows = Sequence[Mapping[str, Any]]

_NAMES = {"r2": "R²", "kendall_tau": "Kendall's τ", "balanced_accuracy": "balanced accuracy"}
COUNTED = ("test_accuracy", "test_loss", "accuracy_gap", "loss_gap", "epoch")
COLOURS = {"baseline": "#30638e", "reference": "#8d99ae", "embedding": "#d1495b", "joined": "#edae49"}


def tables(rows: Rows, *, zoo: str) -> str:
    """Returns one table per split, subset and metric: features down, targets across, the best baseline of each target bold."""
    parts = [f"# Property prediction on {zoo}\n", "Made by `python -m wsl.property_prediction`; docs/protocol.md explains it.\n"]
    for split in _values(rows, "split"):
        parts.append(f"## {split}, in short: R²\n\n{summary([row for row in rows if row['split'] == split])}\n")
    for split in _values(rows, "split"):
        for subset in _values(rows, "subset"):
            for metric in _NAMES:
                chosen = [r for r in rows if (r["split"], r["subset"], r["metric"]) == (split, subset, metric) and not r["control"]]
                chosen = [r for r in chosen if r["value"] is not None]
                if chosen:
                    parts.append(f"## {split}, {subset} checkpoints: {_NAMES[metric]}\n")
                    parts.append(table(chosen))
        parts.append(controls([row for row in rows if row["split"] == split and row["control"]]))
    return "\n".join(parts) + "\n"


def summary(rows: Rows) -> str:
    """Returns the table of one split that acceptance is judged by: R² of what is counted, on all and on final checkpoints."""
    asked = [r for r in rows if r["metric"] == "r2" and not r["control"] and r["value"] is not None and not r["trivial"]]
    asked = [r for r in asked if r["target"] in COUNTED]
    narrow = [{**row, "target": f"{row['target']} {row['subset']}"} for row in asked]
    order = {f"{target} {subset}": None for target in COUNTED for subset in ("all", "final")}
    return table(sorted(narrow, key=lambda row: list(order).index(row["target"])))


def table(rows: Rows) -> str:
    """Returns features down, targets across, the best baseline of each target bold; rows of one metric."""
    targets, cells = _values(rows, "target"), {(name_of(row), row["target"]): row for row in rows}
    first = {row["target"]: row for row in rows}
    best = {row["target"]: row["best_baseline"].replace("_", " ") for row in rows if row.get("best_baseline")}
    limits = [f"{_number(first[t]['chance'])}…{_number(first[t]['noise_ceiling'])}" for t in targets]
    lines = [_line(["features", *(_heading(first[t]) for t in targets)]), _line(["---"] * (len(targets) + 1))]
    lines.append(_line(["*chance…ceiling*", *limits]))
    for label in sorted(dict.fromkeys(map(name_of, rows)), key=_order(rows)):
        found = [cells.get((label, target)) for target in targets]
        lines.append(_line([label, *(_cell(row, bold=row is not None and best.get(row["target"]) == label) for row in found)]))
        if any(row is not None and "difference" in row for row in found):
            lines.append(_line([f"*{label} − best baseline*", *map(_difference, found)]))
    note = "Intervals are 95 % over test models. (given): these features read the answer. *name*: a ceiling under "
    return "\n".join([*lines, "", f"{note}{LOW_CEILING}, or readable from the shapes; shown, not counted.", ""])


def controls(rows: Rows) -> str:
    """Returns what the controls say, in one paragraph."""
    found = []
    for metric, name in (("r2", "R²"), ("kendall_tau", "|τ|")):
        medians = [row["value"] for row in rows if row["metric"] == metric and row["control"] == "permuted targets"]
        if medians:
            found.append(f"median {name} of permuted targets at most {max(medians):.3f} in {len(medians)} controls")
    planted = [row["value"] for row in rows if row["control"] == "planted feature" and row["value"] is not None]
    if planted:
        found.append(f"planted features score at least {min(planted):.4f} in {len(planted)} controls")
    return f"Controls: {'; '.join(found)}.\n"


def write_figures(rows: Rows, out: Path) -> None:
    """Writes one figure per split beside `out`: R² and its interval of all features, a panel per target and subset."""
    for split in _values(rows, "split"):
        chosen = [r for r in rows if r["split"] == split and r["metric"] == "r2" and not r["control"] and r["value"] is not None]
        if chosen:
            text = figure(chosen)
            write_atomically(out.with_name(f"{out.stem}_{split}.svg"), lambda beside, text=text: _write_text(beside, text))


def figure(rows: Rows) -> str:
    """Returns an SVG: a panel per (target, subset), a dot and its interval per kind of features, the ceiling as a line."""
    panels = list(dict.fromkeys((row["target"], row["subset"]) for row in rows))
    labels = sorted(dict.fromkeys(map(name_of, rows)), key=_order(rows))
    left, width, line, top = 190, 170, 17, 46
    height = top + line * len(labels) + 30
    columns = min(len(panels), 6)
    bands = -(-len(panels) // columns)
    size = f'width="{left + columns * (width + 14)}" height="{bands * height}"'
    font = 'font-family="system-ui, sans-serif" font-size="11"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}><rect width="100%" height="100%" fill="white"/>']
    for number, (target, subset) in enumerate(panels):
        x0, y0 = left + (number % columns) * (width + 14), (number // columns) * height

        def x(value: float, x0: int = x0) -> float:
            return x0 + width * (min(max(value, -0.2), 1) + 0.2) / 1.2

        bottom = y0 + top + line * len(labels)
        parts.append(f'<text x="{x0}" y="{y0 + 24}" font-weight="600">{escape(target.replace("_", " "))}, {subset}</text>')
        for tick in (0, 0.5, 1):
            parts.append(_stroke(x(tick), x(tick), y0 + top - 8, bottom, "#ddd"))
            parts.append(f'<text x="{x(tick):.1f}" y="{bottom + 14}" text-anchor="middle" fill="#666">{tick:g}</text>')
        found = {name_of(row): row for row in rows if (row["target"], row["subset"]) == (target, subset)}
        ceiling = next(iter(found.values()))["noise_ceiling"]
        if ceiling is not None:
            parts.append(_stroke(x(ceiling), x(ceiling), y0 + top - 8, bottom, "#555"))
        for i, label in enumerate(labels):
            y = y0 + top + line * i
            if number % columns == 0:
                parts.append(f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{escape(label)}</text>')
            if (row := found.get(label)) and not row["given"]:
                colour = COLOURS[row["kind"]]
                parts.append(_stroke(x(row["low"]), x(row["high"]), y, y, colour))
                parts.append(f'<circle cx="{x(row["value"]):.1f}" cy="{y}" r="3.5" fill="{colour}"/>')
    return "\n".join([*parts, "</svg>\n"])


def _stroke(x1: float, x2: float, y1: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1}" y2="{y2}" stroke="{colour}" stroke-width="1.5"/>'


def _order(rows: Rows) -> Callable[[str], int]:
    """Returns the order of features in a table: baselines, references, the embedding, what is joined to it."""
    place = {name_of(row): list(COLOURS).index(row["kind"]) for row in rows}
    return place.__getitem__


def name_of(row: Mapping[str, Any]) -> str:
    """Returns the name of features, with the seed where there is one."""
    seed = row["seed"]
    name = row["features"].replace("_", " ")
    return name if seed is None else f"{name}, mean of seeds" if seed == "mean" else f"{name}, seed {seed}"


def _heading(row: Mapping[str, Any]) -> str:
    name = row["target"].replace("_", " ")
    return f"*{name}*" if row["trivial"] or (row["noise_ceiling"] is not None and row["noise_ceiling"] < LOW_CEILING) else name


def _cell(row: Mapping[str, Any] | None, *, bold: bool) -> str:
    if row is None:
        return "-"
    if row["given"]:
        return "(given)"
    star = "†" if row["above_permuted"] is False else ""
    text = f"{star}{_number(row['value'])} [{_number(row['low'])}, {_number(row['high'])}]"
    return f"**{text}**" if bold else text


def _difference(row: Mapping[str, Any] | None) -> str:
    if row is None or "difference" not in row:
        return ""
    return f"{row['difference']:+.3f} [{row['difference_low']:+.3f}, {row['difference_high']:+.3f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}".replace("0.", ".", 1)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _values(rows: Rows, key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
