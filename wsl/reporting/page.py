"""The report's page: figures, tables and notes as one HTML file that needs no network.

The page forbids itself every request (Content-Security-Policy), so a link to the outside is an error in the browser's
console rather than a silent dependency. `text` is the only way for a foreign name into the page.
"""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from plotly.offline import get_plotlyjs

from wsl.reporting.numbers import number
from wsl.reporting.style import Figure

_TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Section:
    """Part of the page with a name in the navigation, a title, and its pieces of HTML in order."""

    name: str
    title: str
    body: Sequence[str]


def text(value: object) -> str:
    """Escapes a value for HTML.

    >>> text("<b>")
    '&lt;b&gt;'
    """
    return html.escape(str(value))


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """Returns a value with its interval in small print, as HTML."""
    return f"{number(value)}<small>{number(low)} to {number(high)}</small>" if value is not None else number(value)


def paragraph(content: str, kind: str = "lead") -> str:
    """Paragraph of HTML; `kind` is `lead` or `caution`."""
    return f'<p class="{kind}">{content}</p>'


def headline(figures: Sequence[tuple[str, str, str]]) -> str:
    """Row of large numbers: (name, number, remark), plain text."""
    cells = [f"<div><dt>{text(n)}</dt><dd><strong>{text(v)}</strong><small>{text(r)}</small></dd></div>" for n, v, r in figures]
    return f'<dl class="headline">{"".join(cells)}</dl>'


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], aside: Sequence[bool]) -> str:
    """Table of HTML cells; the first column holds names, the others numbers. Rows that stand `aside` are greyed."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    kinds = [' class="aside"' if grey else "" for grey in aside]
    cells = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    body = "".join(f"<tr{kind}>{inner}</tr>" for kind, inner in zip(kinds, cells, strict=True))
    whole = f"<caption>{text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table>{whole}</table></div>'


def figure_row(*drawn: Figure, width: str = "full") -> str:
    """Figures side by side; `width` is `full` or `half` of the page."""
    return f'<div class="figures">{"".join(_figure(figure, width) for figure in drawn)}</div>'


def _figure(figure: Figure, width: str) -> str:
    options = "".join(f"<option>{view}</option>" for view in figure.views)
    menu = f'<label>{figure.menu}<select data-figure="{figure.name}">{options}</select></label>' if figure.menu else ""
    views = json.dumps([[view == owner for owner, _ in figure.traces] for view in figure.views])
    return (
        f'<figure class="{width}"><figcaption><div><h3>{text(figure.title)}</h3>{menu}</div></figcaption>'
        f'<div class="plot" id="{figure.name}" role="img" aria-label="{text(figure.title)}"></div>'
        f'<script>draw("{figure.name}", {figure.plot().to_json()}, {views});</script></figure>'
    )


def page(title: str, *, over: str, lead: str, sections: Sequence[Section], footer: str) -> str:
    """Whole page. `title` and `over` are plain text; `lead` and `footer` are HTML."""
    links = "".join(f'<a href="#{section.name}">{text(section.title)}</a>' for section in sections)
    bodies = [f'<section id="{s.name}"><h2>{text(s.title)}</h2>{"".join(s.body)}</section>' for s in sections]
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=text(title),
        over=text(over),
        lead=lead,
        links=links,
        sections="\n".join(bodies),
        footer=footer,
        plotly=get_plotlyjs(),
    )
