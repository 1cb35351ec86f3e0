"""Interactive figures of the report: each function turns rows or a frame into one figure of plotly."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from wsl.generators.novelty import COLLAPSED, COPIED
from wsl.reporting.benchmark_rows import Row, Rows
from wsl.reporting.numbers import number
from wsl.reporting.style import FAINT, GRID, INK, MUTED, PALETTE, Figure, axes, heading, is_quantity, kinds, label, levels, score_of

SYMBOLS = ("circle", "diamond", "square")
"""Of samplers; each has another one once the colours are used up."""


def score_by_factor(final: pd.DataFrame, factors: Sequence[str], *, score: str) -> Figure:
    """Box plots of a final score (one row of `final` per model) for each level of a chosen factor."""
    shown = heading(score)

    def box(name: str, colour: str, rows: pd.DataFrame) -> go.Box:
        return go.Box(
            y=rows[score],
            name=name,
            text=[label(model) for model in rows["model"]],
            boxpoints="all",
            pointpos=0,
            jitter=0.5,
            marker={"color": colour, "size": 5, "opacity": 0.55},
            line={"color": colour, "width": 1.5},
            fillcolor="rgba(0,0,0,0.03)",
            hoveron="points",
            showlegend=False,
            hovertemplate=f"%{{text}}<br>{shown} %{{y:.2f}}<extra></extra>",
        )

    views = {heading(factor): [box(*level) for level in levels(final, factor)] for factor in factors}
    layout = axes("level of the factor", f"final {shown}", xaxis_type="category", margin_t=16)
    return Figure("accuracy-by-factor", f"{shown.capitalize()} by generating factor", views, layout, menu="factor")


def score_histogram(final: pd.DataFrame, *, score: str, chance: float | None) -> Figure:
    """Histogram of a final score, with the median marked, and of accuracies the level of guessing, where it is known."""
    shown, is_accuracy = heading(score), score.endswith("_accuracy")
    bars = go.Histogram(
        x=final[score].dropna(),
        xbins={"start": 0, "end": 1.0001, "size": 0.05} if is_accuracy else None,
        marker={"color": PALETTE[0], "line": {"color": "white", "width": 1}},
        hovertemplate=f"%{{y}} models with {shown} %{{x}}<extra></extra>",
    )
    layout = axes(f"final {shown}", "models", **({"xaxis_range": [0, 1]} if is_accuracy else {}))
    note = {"y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False, "font": {"color": MUTED}}
    marks = {"median": (float(np.nanmedian(final[score])), "left")}
    if is_accuracy and chance is not None:
        marks = {"chance": (chance, "right"), **marks}
    layout["shapes"] = [
        {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": {"width": 1, "dash": "dot"}}
        for x, _ in marks.values()
    ]
    layout["annotations"] = [{**note, "x": x, "xanchor": at, "text": f"{name} {x:.2f}"} for name, (x, at) in marks.items()]
    return Figure("accuracy-histogram", f"Final {shown} of the population", {"": [bars]}, layout)


def learning_curves(frame: pd.DataFrame, factors: Sequence[str], *, score: str) -> Figure:
    """A score over epochs, one line per model, coloured by a chosen factor; `frame` has a row per checkpoint."""
    shown, gap = heading(score), pd.DataFrame({"epoch": [np.nan], score: [np.nan], "model": [""]})

    def lines(name: str, colour: str, rows: pd.DataFrame) -> go.Scatter:
        curves = [curve.loc[:, list(gap)].sort_values(by="epoch") for _, curve in rows.groupby("model")]
        joined = pd.concat([piece for curve in curves for piece in (curve, gap)])
        return go.Scatter(
            x=joined["epoch"],
            y=joined[score],
            name=name,
            text=[label(model) for model in joined["model"]],
            mode="lines",
            line={"color": colour, "width": 1.3},
            opacity=0.6,
            hovertemplate=f"%{{text}}<br>epoch %{{x}}: {shown} %{{y:.2f}}<extra></extra>",
        )

    views = {heading(factor): [lines(*level) for level in levels(frame, factor)] for factor in factors}
    layout = axes("epoch of fine-tuning", shown, hovermode="closest", showlegend=True)
    return Figure("learning-curves", "Learning curves", views, layout, menu="colour")


def curves(name: str, title: str, lines: Mapping[str, Sequence[tuple[int, float]]], *, y: str, scale: str) -> Figure:
    """Lines over training steps: (step, value) pairs by name, on a `linear` or `log` scale."""
    traces = [
        go.Scatter(
            x=[step for step, _ in points],
            y=[value for _, value in points],
            name=label(key),
            mode="lines+markers" if len(points) <= 40 else "lines",
            marker={"size": 5},
            line={"color": PALETTE[i % len(PALETTE)], "dash": "dot" if i >= len(PALETTE) else "solid", "width": 2},
            hovertemplate="%{y:.3g}",
        )
        for i, (key, points) in enumerate(lines.items())
    ]
    layout = axes("training step", y, hovermode="x unified", showlegend=True, yaxis_type=scale, yaxis_rangemode="tozero")
    return Figure(name, title, {"": traces}, layout)


def embedding_map(points: pd.DataFrame, colourings: Sequence[str], explained: Sequence[float]) -> Figure:
    """Checkpoints at their first two principal components, coloured by a chosen factor or result.

    `points` has a row per checkpoint: `x`, `y`, `model`, `epoch`, results and the columns of `colourings`. The first is
    drawn first. `explained` is the explained variance ratio of each component.
    """
    score = score_of(points)
    told = [""] * len(points) if score is None else [f"<br>{heading(score)} {value:.2f}" for value in points[score]]
    texts = pd.Series(
        [f"{label(m)}, epoch {e}{end}" for m, e, end in zip(points["model"], points["epoch"], told, strict=True)], points.index
    )

    def dots(column: str, name: str, marker: dict[str, Any], rows: pd.DataFrame) -> go.Scatter:
        return go.Scatter(
            x=rows["x"].round(3),
            y=rows["y"].round(3),
            name=name,
            mode="markers",
            marker={"size": 6, "opacity": 0.7, **marker},
            showlegend=bool(name),
            text=texts[rows.index].tolist(),
            hovertemplate=f"%{{text}}<br>{heading(column)}: {name or '%{marker.color:.3g}'}<extra></extra>",
        )

    def quantity(column: str) -> dict[str, Any]:
        low, high = points[column].quantile([0.02, 0.98])
        title = {"text": heading(column), "side": "right", "font": {"size": 13, "color": MUTED}}
        bar = {"title": title, "thickness": 10, "outlinewidth": 0, "len": 0.9}
        return {"colorscale": "Viridis", "cmin": low, "cmax": high, "colorbar": bar}

    views = {}
    for column in colourings:
        if is_quantity(points, column):
            rows = points.dropna(subset=column)
            views[heading(column)] = [dots(column, "", {"color": rows[column], **quantity(column)}, rows)]
        else:
            views[heading(column)] = [dots(column, name, {"color": colour}, rows) for name, colour, rows in levels(points, column)]
    x, y = (f"principal component {i} ({share:.0%} of the variance)" for i, share in enumerate(explained, 1))
    return Figure("embedding-map", "The population in two dimensions", views, axes(x, y, height=560), menu="colour")


def probe_scores(rows: Rows) -> Figure:
    """Scores with 95 % intervals, one line per target, one colour per kind of features; a menu chooses the checkpoints.

    `rows` are those of probe.json, one metric per target. Scores below the axis are drawn at its edge.
    """
    floor = -0.25
    features, targets = (list(dict.fromkeys(row[key] for row in rows)) for key in ("features", "target"))
    height = {target: -i for i, target in enumerate(targets)}
    shift = dict(zip(features, np.linspace(0.3, -0.3, len(features)) if features[1:] else [0.0], strict=True))

    def scores(name: str, colour: str, part: Rows) -> go.Scatter:
        shown = [max(row["value"], floor) for row in part]
        return go.Scatter(
            x=shown,
            y=[height[row["target"]] + shift[name] for row in part],
            error_x=_bars(shown, [max(row["low"], floor) for row in part], [row["high"] for row in part], thickness=1.5),
            name=heading(name),
            mode="markers",
            marker={"color": colour, "size": 8, "symbol": ["circle" if x > floor else "triangle-left" for x in shown]},
            text=[f"{number(row['value'])} ({number(row['low'])} to {number(row['high'])})" for row in part],
            hovertemplate="%{text}",
        )

    def ticks(key: str, colour: str, part: Rows) -> go.Scatter:
        marks = {row["target"]: row[key] for row in part if row[key] is not None}
        return go.Scatter(
            x=list(marks.values()),
            y=[height[target] for target in marks],
            name=heading(key),
            mode="markers",
            marker={"symbol": "line-ns-open", "size": 28, "color": colour, "line": {"width": 1.5}},
            hovertemplate="%{x:.2f}",
        )

    views = {}
    for subset in dict.fromkeys(row["subset"] for row in rows):
        part = [row for row in rows if row["subset"] == subset and row["value"] is not None]
        by_name = [[row for row in part if row["features"] == name] for name in features]
        dots = [scores(*each) for each in zip(features, kinds(len(features)), by_name, strict=True)]
        views[f"{heading(subset)} checkpoints"] = [ticks("chance", FAINT, part), ticks("noise_ceiling", INK, part), *dots]
    layout = axes("R² of numbers, balanced accuracy of kinds", "", xaxis_range=[floor - 0.03, 1.03], showlegend=True)
    layout |= {"yaxis_tickvals": list(height.values()), "yaxis_ticktext": [heading(target) for target in targets]}
    layout |= {"yaxis_showgrid": False, "yaxis_range": [0.6 - len(targets), 0.6], "height": 110 + 46 * len(targets)}
    return Figure("probe-scores", "What a linear probe reads from the weights", views, layout, menu="subset")


def frontier(rows: Rows, *, threshold: float, chance: float | None) -> Figure:
    """Median accuracy of generated models (bars: quartiles) against their novelty, flagged ones ringed.

    `rows` are those of generate.json; several settings of one generator are joined. A novelty under `threshold` is that of a copy.
    """
    drawn = [row for row in rows if row["novelty"] is not None]
    names = list(dict.fromkeys(row["generator"] for row in drawn))
    widest = max([threshold, *(row["novelty"] for row in drawn)])

    def points(number: int, name: str) -> go.Scatter:
        colour, symbol = PALETTE[number % len(PALETTE)], SYMBOLS[number // len(PALETTE) % len(SYMBOLS)]
        part = [row for row in drawn if row["generator"] == name]
        median, low, high = ([row["accuracy"][key] for row in part] for key in ("median", "q25", "q75"))
        return go.Scatter(
            x=[row["novelty"] for row in part],
            y=median,
            error_y=_bars(median, low, high, thickness=1.2),
            name=heading(name),
            text=[settings(row) for row in part],
            mode="lines+markers",
            line={"color": colour, "width": 1, "dash": "dot"},
            marker={"size": 10, "symbol": symbol},
            cliponaxis=False,
            hovertemplate="%{text}<br>accuracy %{y:.2f}, novelty %{x:.2f}",
        )

    layout = axes("novelty (distance to the nearest train model; 1 = as a fresh model that is as good)", "test accuracy, untrained")
    layout |= {"height": 480, "showlegend": True, "yaxis_rangemode": "tozero"}
    layout |= {"xaxis_range": [-0.03 * widest, 1.05 * widest]}
    band = {"type": "rect", "x0": 0, "x1": threshold, "y0": 0, "y1": 1, "yref": "paper", "line": {"width": 0}}
    note = {"showarrow": False, "font": {"color": MUTED}}
    layout["shapes"] = [{**band, "fillcolor": GRID, "layer": "below"}]
    layout["annotations"] = [{**note, "text": COPIED, "x": threshold / 2, "y": 1, "yref": "paper", "yanchor": "top"}]
    if chance is not None:
        guess = {"type": "line", "x0": 0, "x1": 1, "xref": "paper", "y0": chance, "y1": chance}
        layout["shapes"].append({**guess, "line": {"width": 1, "dash": "dot", "color": FAINT}})
        at = {"x": 1, "xref": "paper", "xanchor": "right", "y": chance, "yanchor": "bottom"}
        layout["annotations"].append({**note, "text": "chance", **at})
    flagged = [row for row in drawn if row["flags"]]
    rings = go.Scatter(
        x=[row["novelty"] for row in flagged],
        y=[row["accuracy"]["median"] for row in flagged],
        name=f"flagged: {COPIED} or {COLLAPSED}",
        mode="markers",
        marker={"symbol": "circle-open", "size": 17, "color": INK, "line": {"width": 1.2}},
        cliponaxis=False,
        hoverinfo="skip",
    )
    views = {"": [*(points(*each) for each in enumerate(names)), rings]}
    return Figure("frontier", "Accuracy against novelty", views, layout)


def _bars(x: Sequence[float], low: Sequence[float], high: Sequence[float], *, thickness: float) -> dict[str, Any]:
    """Returns error bars from low to high."""
    above, below = np.subtract(high, x).tolist(), np.subtract(x, low).tolist()
    return {"array": above, "arrayminus": below, "thickness": thickness, "width": 0}


def settings(row: Row) -> str:
    """Returns the settings of a row of generate.json, for readers."""
    return ", ".join(f"{heading(key)} {'all' if value is None else label(value)}" for key, value in row["settings"].items())
