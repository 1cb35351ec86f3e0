"""Charts of analyses, drawn from their data: interactive ones of the report by plotly, SVG and PNG by matplotlib."""

import io
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import matplotlib as mpl
import numpy as np
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas

from wsl.reporting.static_figures import STYLE
from wsl.reporting.style import INK, PALETTE, Figure, axes, label

Data = Mapping[str, Any]


def interactive(chart: Data, *, of: str) -> Figure:
    """Returns a chart of `analysis.json` as a figure of the report; `of` is the name of the analysis."""
    data, layout = chart["data"], axes(label(chart["x"]), label(chart["y"]))
    if chart["kind"] == "heatmap":
        edges = _edges(data["groups"])
        line = {"type": "line", "line": {"width": 1, "color": "white"}}
        n = len(data["groups"])
        shapes = [{**line, "x0": at, "x1": at, "y0": -0.5, "y1": n - 0.5} for at in edges]
        shapes += [{**line, "y0": at, "y1": at, "x0": -0.5, "x1": n - 0.5} for at in edges]
        traces: list[Any] = [go.Heatmap(z=data["values"], colorscale="Viridis")]
        layout |= {"shapes": shapes, "yaxis_autorange": "reversed", "height": 520}
    elif chart["kind"] == "lines":
        traces = [
            go.Scatter(
                x=[point[0] for point in points],
                y=[point[1] for point in points],
                name=label(name),
                mode="lines+markers",
                line={"color": PALETTE[i % len(PALETTE)], "dash": "dot" if i >= len(PALETTE) else "solid"},
                error_y=_bars(points, 1),
            )
            for i, (name, points) in enumerate(data["series"].items())
        ]
        layout["showlegend"] = True
    else:
        rows = data["rows"]
        points = [[0, *row[1:]] for row in rows]
        traces = [
            go.Scatter(
                x=[row[1] for row in rows],
                y=[label(row[0]) for row in rows],
                mode="markers",
                marker={"color": PALETTE[0]},
                error_x=_bars(points, 1),
            )
        ]
        layout |= {"yaxis_autorange": "reversed", "height": 140 + 22 * len(rows)}
    return Figure(slug(f"{of}-{chart['name']}"), str(chart["title"]), {"": traces}, layout)


def slug(name: object) -> str:
    """A name for files and for places in a page.

    >>> slug("L2 & more")
    'L2---more'
    """
    return re.sub(r"[^\w-]", "-", str(name))


def static(chart: Data) -> tuple[str, bytes]:
    """Returns a chart of `analysis.json` as SVG and as PNG; equal data give equal bytes."""
    with mpl.rc_context(STYLE):
        height = (
            0.24 * len(chart["data"]["rows"]) + 1 if chart["kind"] == "intervals" else 5.2 if chart["kind"] == "heatmap" else 3.6
        )
        canvas = Canvas(figsize=(7, height), layout="constrained")
        panel = canvas.add_subplot()
        panel.set(title=_text(chart["title"]), xlabel=_text(chart["x"]), ylabel=_text(chart["y"]))
        {"heatmap": _heatmap, "lines": _lines, "intervals": _intervals}[chart["kind"]](canvas, panel, chart["data"])
        svg, png = io.StringIO(), io.BytesIO()
        FigureCanvasSVG(canvas).print_svg(svg, metadata={"Date": None, "Creator": None})
        FigureCanvasAgg(canvas).print_png(png, metadata={"Software": None})
    return svg.getvalue(), png.getvalue()


def _heatmap(canvas: Canvas, panel: Axes, data: Data) -> None:
    values = np.array(data["values"], dtype=float)
    image = panel.imshow(values, cmap="viridis", interpolation="nearest")
    panel.grid(visible=False)
    for edge in _edges(data["groups"]):
        panel.axhline(edge, color="white", linewidth=0.5)
        panel.axvline(edge, color="white", linewidth=0.5)
    names, places, start = [], [], 0
    for name, group in groupby(data["groups"]):
        size = len(list(group))
        names.append(_text(name))
        places.append(start + (size - 1) / 2)
        start += size
    panel.set_yticks(places, names)
    panel.set_xticks([])
    canvas.colorbar(image, ax=panel, shrink=0.8)


def _lines(canvas: Canvas, panel: Axes, data: Data) -> None:
    for i, (name, points) in enumerate(data["series"].items()):
        shown = [point for point in points if point[1] is not None]
        x, y = [point[0] for point in shown], [point[1] for point in shown]
        style = "--" if i >= len(PALETTE) else "-"
        panel.plot(x, y, style, color=PALETTE[i % len(PALETTE)], label=_text(name), marker="o", markersize=3)
        if shown and all(len(point) == 4 and None not in point for point in shown):
            panel.fill_between(x, [p[2] for p in shown], [p[3] for p in shown], color=PALETTE[i % len(PALETTE)], alpha=0.12)
    canvas.legend(loc="outside lower center", ncols=3)


def _intervals(canvas: Canvas, panel: Axes, data: Data) -> None:
    rows = [row for row in data["rows"] if row[1] is not None]
    heights = range(len(rows))
    panel.axvline(0, color=INK, linewidth=0.6)
    for height, row in zip(heights, rows, strict=True):
        if row[2] is not None and row[3] is not None:
            panel.hlines(height, row[2], row[3], color=PALETTE[0], linewidth=1.4)
    panel.plot([row[1] for row in rows], heights, "o", color=PALETTE[0], markersize=4)
    panel.set_yticks(list(heights), [_text(row[0]) for row in rows])
    panel.set_ylim(len(rows) - 0.5, -0.5)


def _edges(groups: Sequence[str]) -> list[float]:
    """Returns where one group ends and the next begins."""
    return [place - 0.5 for place in range(1, len(groups)) if groups[place] != groups[place - 1]]


def _bars(points: Sequence[Sequence[float | None]], at: int) -> dict[str, Any] | None:
    """Returns the error bars of points with [.., value, low, high]."""
    if not points or len(points[0]) < at + 3:
        return None
    whole = [[0.0 if one is None else one for one in point[at : at + 3]] for point in points]
    upper, lower = [high - value for value, _, high in whole], [value - low for value, low, _ in whole]
    return {"type": "data", "symmetric": False, "array": upper, "arrayminus": lower, "thickness": 1, "width": 0}


def _text(name: object) -> str:
    """A name as it is: matplotlib reads what is between dollars as mathematics."""
    written = str(name)
    return (written if len(written) <= 48 else f"{written[:47]}…").replace("$", r"\$")
