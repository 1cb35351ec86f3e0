"""What the figures of the report have in common: fonts, colours, axes, and the menu of views.

Colours are the Okabe-Ito palette for kinds and viridis for quantities, both readable with colour-blind eyes. Names in
the tables are foreign data and plotly renders markup in text, so every name passes `label` on its way into a plot.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.basedatatypes import BaseTraceType
from plotly.colors import sample_colorscale

from zoo_gen.index import RESULTS, own_columns

INK, MUTED, FAINT, GRID = "#1f2933", "#66727f", "#a3adb8", "#eef1f4"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7B61A8", "#8C6D31", INK, FAINT)
FONT = "Inter, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"

_AXIS = {
    "gridcolor": GRID,
    "zeroline": False,
    "automargin": True,
    "ticklabelstandoff": 4,
    "title": {"font": {"color": MUTED, "size": 13}, "standoff": 8},
}
STYLE = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": 13, "color": INK},
        "colorway": PALETTE,
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 56, "r": 16, "t": 40, "b": 48},
        "height": 360,
        "hoverlabel": {"bgcolor": "white", "bordercolor": "#c3ccd5", "font": {"color": INK}},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
)


@dataclass(frozen=True)
class Figure:
    """Plot with its id in the page: the traces of each view (a menu chooses among several) and one layout for all."""

    name: str
    title: str
    views: Mapping[str, Sequence[BaseTraceType]]
    layout: Mapping[str, Any]
    menu: str = ""

    @property
    def traces(self) -> list[tuple[str, BaseTraceType]]:
        """Every trace with the name of its view, in the order of the plot."""
        return [(view, trace) for view, traces in self.views.items() for trace in traces]

    def plot(self) -> go.Figure:
        """The plotly figure, its first view shown."""
        first = next(iter(self.views))
        for view, trace in self.traces:
            trace.update(visible=view == first)
        return go.Figure([trace for _, trace in self.traces], {"template": STYLE, **self.layout})


def label(name: object) -> str:
    """Text of a name for a plot: numbers rounded, long names cut, markup escaped.

    >>> label(0.0010000001), label("a<b"), label("w" * 50)
    ('0.001', 'a&lt;b', 'wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww…')
    """
    written = f"{name:.4g}" if isinstance(name, float) else str(name)
    return html.escape(written if len(written) <= 40 else f"{written[:39]}…")


def heading(name: str) -> str:
    """Label of a column or a card as a reader sees it.

    >>> heading("learning_rate")
    'learning rate'
    """
    return label(name.replace("_", " "))


def is_quantity(frame: pd.DataFrame, column: str) -> bool:
    """Whether a column takes too many numeric values to be read as a few kinds."""
    return _is_number(frame, column) and len(frame.groupby(column)) > len(PALETTE)


def score_of(frame: pd.DataFrame) -> str | None:
    """The result by which figures show models: test accuracy, another result, or a column of the zoo's own; None without any."""
    numbers = [name for name in own_columns(frame) if _is_number(frame, name)]
    order = ["test_accuracy", "val_accuracy", "train_accuracy", *RESULTS, *numbers]
    return next((name for name in order if name in frame and frame[name].notna().any()), None)


def levels(frame: pd.DataFrame, column: str) -> list[tuple[str, str, pd.DataFrame]]:
    """Distinct values of a column in order: name, colour, rows. Kinds take the palette, numbers go light to dark."""
    groups = list(frame.groupby(column, sort=True))
    colours = _ramp(len(groups)) if _is_number(frame, column) else kinds(len(groups))
    return [(label(value), colour, rows) for (value, rows), colour in zip(groups, colours, strict=True)]


def kinds(count: int) -> Sequence[str]:
    """So many distinct colours; beyond the palette, a ramp."""
    return PALETTE[:count] if count <= len(PALETTE) else _ramp(count)


def _ramp(count: int) -> list[str]:
    return [str(colour) for colour in sample_colorscale("Viridis", np.linspace(0.8, 0.05, count).tolist())]


def _is_number(frame: pd.DataFrame, column: str) -> bool:
    return pd.api.types.is_numeric_dtype(frame.dtypes[column]) and not pd.api.types.is_bool_dtype(frame.dtypes[column])


def axes(x: str, y: str, **layout: Any) -> dict[str, Any]:
    """Layout with titles on both axes; `layout` refines it (`xaxis_range=...`)."""
    return {"xaxis_title_text": x, "yaxis_title_text": y, **layout}
