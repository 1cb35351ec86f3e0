"""One word has one meaning in the whole house: code, cards, commands, docs.

The right column is the field's word. `ALLOWED` holds the contexts in which a word on the left means something else.
"""

import re
from pathlib import Path

import pytest

from tests.docs.pages import RECORDS, ROOT, name_of

FOLDERS = ("wsl", "zoo_gen", "configs", "docs", "runs", "benchmarks", "tests")
SUFFIXES = (".py", ".yaml", ".md", ".sh", ".html")

WORDS = {
    r"\b[Ff]elt\b|\bfeels?\b": "the Fisher eigenbasis (fisher_basis), Fisher-weighted",
    r"frames? of (the|its|their) roots?|root's frame": "Fisher eigenbasis",
    r"raw[_ ]tokens": "encoder_inputs",
    r"model[_ ]encoder": "invariant encoder (model=invariant_encoder)",
    r"\b[Ss]trangers?\b": "unseen zoo, out of distribution",
    r"\breadings\b": "pre-training targets, heads",
    r"\bpaces?\b": "update norms",
    r"\bheadings\b": "update directions",
    r"\bremeasured\b": "bootstrap re-evaluation",
    r"\bshuffles\b": "n_permutations, permuted targets",
    r"\banswers of (the )?models?\b|\bmodels?'s? answers?\b": "logits, predictions",
    r"\bsurvey": "scan, cross-validation",
    r"\basked\b": "evaluated",
    r"(?<![Nn]oise[ _-])\bceilings?\b(?! under)": "noise ceiling",
    r"[Mm]emoriz(ed|es|ation)": "copied (a flag of generators)",
    r"\b(spectra|statistics|weight_pca)_difference\b": "..._task_vector",
    r"\balign_by_(felt|activations)\b": "align, align_by_loss",
    r"\b(probe|property_prediction|few_labels|transfer)\b.* inputs=": "features=",
    r"\bmodel\.start=|\bstart=(linear|random)\b": "initialization=",
    r"\b(accumulate|clip)=\d": "accumulate_grad_batches=, gradient_clip_val=",
    r"preset=hyperrep_|view=(random|as_stored)|compile=default": "(deleted)",
    r"\bMaskedTokens\b|\bContrastive\b|objectives\.spread": "(deleted)",
    r"\bHeld\b|\bStored\b": "in-memory source, file source",
}
"""What the house does not say, and what it says."""

ALLOWED = (
    r"executor\.compile=\S+",  # zoo_gen compiles stacks
    r"is named `raw_tokens`",  # in files of results
)
"""Contexts in which a word of the left column is right."""

SELF = ("tests/docs/",)


def texts() -> list[Path]:
    """The files of the house whose words count."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    kept = [*found, *ROOT.glob("*.md"), ROOT / "Makefile"]
    return sorted(path for path in kept if path.is_file() and not name_of(path).startswith((*RECORDS, *SELF)))


def found_in(text: str, pattern: str) -> list[str]:
    """Lines with a word, outside of its allowed contexts."""
    lines = enumerate(re.sub("|".join(ALLOWED), "", text).splitlines(), 1)
    return [f"{n}: {line.strip()[:100]}" for n, line in lines if re.search(pattern, line)]


README = "README.md"  # is rewritten when everything else is in its place


def uses_of(pattern: str, *suffixes: str) -> list[str]:
    """Where files with these suffixes use a word."""
    found = [path for path in texts() if path.suffix in suffixes]
    return [f"{name_of(path)}:{line}" for path in found for line in found_in(path.read_text(encoding="utf-8"), pattern)]


@pytest.mark.parametrize(("pattern", "word"), WORDS.items(), ids=WORDS.values())
def test_pages_use_the_words_of_the_field(pattern: str, word: str) -> None:
    assert [use for use in uses_of(pattern, ".md") if not use.startswith(README)] == [], f"say: {word}"


@pytest.mark.parametrize(("pattern", "word"), WORDS.items(), ids=WORDS.values())
def test_code_cards_and_readme_use_the_words_of_the_field(pattern: str, word: str) -> None:
    found = uses_of(pattern, ".py", ".yaml", ".sh", ".html", "")
    assert found + [use for use in uses_of(pattern, ".md") if use.startswith(README)] == [], f"say: {word}"


def test_a_wrong_word_is_found() -> None:
    assert found_in("as outputs feel them", r"\b[Ff]elt\b|\bfeels?\b") != []
    assert found_in("python -m zoo_gen executor.compile=default", "compile=default") == []
