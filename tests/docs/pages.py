"""The pages that people read, and the text of them that is prose."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
RECORDS = ("docs/log.md", "docs/results/", "docs/reference/", "CHANGELOG.md")
"""Not prose: history, tables that commands write, and pages that `docs/write_reference.py` makes."""


def pages() -> list[Path]:
    """README, CONTRIBUTING and the pages of docs/."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return sorted(path for path in found if not name_of(path).startswith(RECORDS))


def name_of(path: Path) -> str:
    """The path of a page as people write it."""
    return path.relative_to(ROOT).as_posix()


def without_code(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"(?ms)^([ \t]*)```.*?^\1```$", "", text)


def sentences(text: str) -> list[str]:
    """The sentences of a page: no code, no tables, no headings, no HTML.

    >>> sentences("# Head\\n\\nOne. Two goes\\non.\\n\\n| a | b |\\n- three\\n- four")
    ['One.', 'Two goes on.', 'three', 'four']
    """
    kept = (line for line in without_code(text).splitlines() if not line.lstrip().startswith(("|", "#", "<")))
    items = re.sub(r"(?m)^\s*(?:[-*]|\d+\.)\s", "\n\n", "\n".join(kept))
    pieces = re.split(r"(?<=[.!?:])\s+|\n\s*\n", items)
    return [" ".join(piece.split()) for piece in pieces if piece.strip()]
