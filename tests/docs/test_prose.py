"""People read a page once: its sentences are short."""

from pathlib import Path

import pytest

from tests.docs.pages import ROOT, name_of, pages, sentences

LONGEST = 40
"""Words of a sentence; what people write should have 25 at most."""


def too_long(text: str) -> list[str]:
    """Sentences with too many words, the longest first, each with its count."""
    long = sorted((-len(sentence.split()), sentence) for sentence in sentences(text) if len(sentence.split()) > LONGEST)
    return [f"{-count} words: {' '.join(sentence.split()[:12])} ..." for count, sentence in long]


@pytest.mark.parametrize("page", [pytest.param(page, id=name_of(page)) for page in pages()])
def test_no_sentence_has_more_than_forty_words(page: Path) -> None:
    assert too_long(page.read_text(encoding="utf-8"))[:10] == []


def test_a_long_sentence_is_found_and_code_tables_and_lists_are_not() -> None:
    words = " ".join(["word"] * 41)
    assert len(too_long(f"Short. {words}.")) == 1
    assert too_long(f"```python\n{words}\n```\n| {words} |\n# {words}\n\n- {words[:100]}\n- {words[:100]}") == []


def test_the_pages_are_found() -> None:
    assert ROOT / "README.md" in pages()
    assert ROOT / "docs" / "protocol.md" in pages()
    assert ROOT / "docs" / "log.md" not in pages()
