"""Links of README, CONTRIBUTING and docs/ lead somewhere, on the site and where the repository is read."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, name_of, pages, without_code

GENERATED = ("docs/reference/commands.md", "docs/reference/cards.md")
"""Pages that `make docs` makes; it checks the anchors of these."""


def links(text: str) -> list[str]:
    """Targets of the links and images of a page, without those of the internet."""
    found = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", without_code(text)))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors(text: str) -> set[str]:
    """The anchors of the headings of a page."""
    headings = re.findall(r"(?m)^#+ (.*)$", without_code(text))
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


def broken(page: Path, text: str) -> list[str]:
    """The links of a page that lead nowhere."""
    found = []
    for link in links(text):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if target.is_relative_to(ROOT) and name_of(target) in GENERATED:
            continue
        body = text if target == page else target.read_text(encoding="utf-8") if target.suffix == ".md" and target.is_file() else ""
        if not target.exists() or (anchor and anchor not in anchors(body)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", [pytest.param(page, id=name_of(page)) for page in (*pages(), ROOT / "docs" / "log.md")])
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page, page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", [pytest.param(page, id=name_of(page)) for page in pages() if page.is_relative_to(ROOT / "docs")])
def test_links_of_the_site_stay_on_the_site(page: Path) -> None:
    targets = {link: (page.parent / link).resolve() for link in links(page.read_text(encoding="utf-8"))}
    outside = [link for link, target in targets.items() if not target.is_relative_to(ROOT / "docs")]
    assert outside == []


def test_a_broken_link_and_a_broken_anchor_are_found() -> None:
    page = ROOT / "docs" / "index.md"
    assert broken(page, "# A b\n[x](nowhere.md) [y](#a-c) [z](#a-b) [w](protocol.md)") == ["nowhere.md", "#a-c"]
