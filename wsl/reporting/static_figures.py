"""Static figures (SVG) of the benchmarks by matplotlib: the same rows give the same bytes, and no display is needed.

Dots and lines carry 95 % intervals. Scores below the axis are drawn at its edge, as triangles.
"""

import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from wsl.reporting.benchmark_rows import KINDS, Row, Rows, is_given, means, name_of, names, questions, scores, values, words
from wsl.reporting.style import FAINT, GRID, INK, MUTED, PALETTE

COLOURS: dict[str, str] = dict(zip(KINDS, (PALETTE[0], FAINT, PALETTE[1], PALETTE[3]), strict=True))
"""Colours of kinds of features."""

EMBEDDINGS = (PALETTE[1], PALETTE[2], PALETTE[3], PALETTE[4])
"""Colours of embeddings where lines have to be told apart."""

FLOOR = -0.2
"""Lowest score of an axis."""

LIMITS = (FLOOR - 0.03, 1.03)
WIDTH, LEGEND = 13, 0.55
"""Inches of a figure, and of the legend below it."""

DOT: dict[str, Any] = {"linewidth": 1.6, "markersize": 4}
CEILING: dict[str, Any] = {"color": MUTED, "linewidth": 1, "linestyle": (0, (4, 2))}

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "wsl",
    "svg.fonttype": "none",  # text stays text
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


def score_figure(rows: Rows) -> str:
    """Returns an SVG of R² by features: a panel per target and subset, and the noise ceiling of each as a line.

    Features with several seeds are there by their mean. Features that contain the target are left out.
    """
    shown = _shown(rows)
    features = names(shown)
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in shown)]
    with _figure(shown, height=0.16 * len(features) + 0.9) as (figure, panels):
        for panel, alike in panels:
            _ceiling(panel.axvline, alike)
            for kind in kinds:
                own = [row for row in alike if row["kind"] == kind]
                heights = [features.index(name_of(row)) for row in own]
                panel.hlines(heights, _inside(own, "low"), _inside(own, "high"), color=COLOURS[kind], linewidth=1.4)
                _dots(panel, _inside(own, "value"), heights, own, below="<", color=COLOURS[kind])
            panel.set(xlim=LIMITS, xticks=[0, 0.5, 1], xlabel="R²", ylim=(len(features) - 0.4, -0.6))
            first = panel.get_subplotspec().is_first_col()  # pyright: ignore[reportOptionalMemberAccess]
            panel.set_yticks(range(len(features)), features if first else [""] * len(features))
        keys = [Line2D([], [], color=COLOURS[kind], label=kind, marker="o", **DOT) for kind in kinds]
        return _svg(figure, keys)


def curve_figure(rows: Rows) -> str:
    """Returns an SVG of R² by the number of labelled models: a panel per target and subset.

    Embeddings and the best baseline of each point have intervals; every baseline is a thin line. Features with several seeds are
    there by their mean. Features that contain the target are left out.
    """
    shown = _shown(rows)
    ticks = sorted(values(shown, "labelled"), key=lambda labelled: float("inf") if labelled is None else labelled)
    embeddings = names([row for row in shown if row["kind"] in ("embedding", "joined")])
    colours = dict(zip(embeddings, itertools.cycle(EMBEDDINGS), strict=False))
    with _figure(shown, height=2.2) as (figure, panels):
        for panel, alike in panels:
            baselines = [row for row in alike if row["kind"] == "baseline"]
            _ceiling(panel.axhline, alike)
            for name in names(baselines):
                own = [row for row in baselines if name_of(row) == name]
                panel.plot(*_points(own, ticks), color=FAINT, linewidth=0.7)
            by_tick = [[row for row in baselines if row["labelled"] == tick] for tick in ticks]
            best = [max(some, key=lambda row: row["value"]) for some in by_tick if some]
            _curve(panel, best, ticks, colour=COLOURS["baseline"], shift=-0.08)
            for i, (name, colour) in enumerate(colours.items()):
                _curve(panel, [row for row in alike if name_of(row) == name], ticks, colour=colour, shift=0.08 * i)
            panel.set(xlim=(-0.3, len(ticks) - 0.6), ylim=LIMITS, yticks=[0, 0.5, 1], xlabel="labelled models", ylabel="R²")
            panel.set_xticks(range(len(ticks)), ["all" if tick is None else str(tick) for tick in ticks])
        compared = {**colours, "best baseline of each point": COLOURS["baseline"]}
        keys = [Line2D([], [], color=colour, label=name, marker="o", **DOT) for name, colour in compared.items()]
        return _svg(figure, [*keys, Line2D([], [], color=FAINT, linewidth=0.7, label="each baseline")])


def _shown(rows: Rows) -> list[Row]:
    """Returns the rows of a figure; the mean over seeds goes by the name of its features alone."""
    return [{**row, "seed": None if row["seed"] == "mean" else row["seed"]} for row in means(scores(rows)) if not is_given(row)]


def _curve(panel: Axes, rows: Rows, ticks: Sequence[int | None], *, colour: str, shift: float) -> None:
    """Draws a line with intervals over labelled models, moved to the side by a fraction of the space between them."""
    places, heights = _points(rows, ticks)
    moved = [place + shift for place in places]
    panel.plot(moved, heights, color=colour, linewidth=1.6)
    panel.vlines(moved, _inside(rows, "low"), _inside(rows, "high"), color=colour, linewidth=1)
    _dots(panel, moved, heights, rows, below="v", color=colour)


def _dots(panel: Axes, x: Sequence[float], y: Sequence[float], rows: Rows, *, below: str, color: str) -> None:
    """Draws a dot for each score, and the marker `below` where the score lies below the axis."""
    inside = [row["value"] > FLOOR for row in rows]
    for marker, chosen in (("o", inside), (below, [not one for one in inside])):
        if any(chosen):
            places = list(itertools.compress(x, chosen)), list(itertools.compress(y, chosen))
            panel.plot(*places, marker, color=color, markersize=4, clip_on=False)


def _points(rows: Rows, ticks: Sequence[int | None]) -> tuple[list[int], list[float]]:
    return [ticks.index(row["labelled"]) for row in rows], _inside(rows, "value")


def _inside(rows: Rows, key: str) -> list[float]:
    """Returns scores, or the edge of the axis where they lie beyond."""
    return np.clip([row[key] for row in rows], FLOOR, 1).tolist()


def _ceiling(line: Callable[..., object], rows: Rows) -> None:
    """Draws the noise ceiling of a panel by `axvline` or `axhline`."""
    if rows[0]["noise_ceiling"] is not None:
        line(rows[0]["noise_ceiling"], **CEILING)


@contextmanager
def _figure(rows: Rows, *, height: float) -> Iterator[tuple[Figure, list[tuple[Axes, list[Row]]]]]:
    """Yields a figure with a panel per target (across) and subset (down) of the rows, and each panel with its rows."""
    found = questions(rows)
    targets, subsets = ([*dict.fromkeys(question[i] for question in found)] for i in (0, 1))
    with mpl.rc_context(STYLE):
        size = (WIDTH, max(len(subsets), 1) * height + LEGEND)
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(rect=(0, LEGEND / size[1], 1, 1 - LEGEND / size[1])))
        panels = []
        for number, (subset, target) in enumerate(itertools.product(subsets, targets), 1):
            if alike := [row for row in rows if (row["target"], row["subset"]) == (target, subset)]:
                panel = figure.add_subplot(len(subsets), len(targets), number)
                panel.set_title(f"{words(target)}\n{subset} checkpoints")
                panels.append((panel, alike))
        yield figure, panels


def _svg(figure: Figure, keys: Sequence[Line2D]) -> str:
    """Returns a figure with its legend as SVG."""
    title = "Points: R², the mean over seeds where there are several. Bars: 95 % intervals."
    handles = [*keys, Line2D([], [], label="noise ceiling", **CEILING)]
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), title=title)
    out = io.StringIO()
    FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None})
    return out.getvalue()
