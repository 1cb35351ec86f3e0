"""Messages and tables give nouns by their number: 1 copy, 2 copies."""

import re
from pathlib import Path

import pytest

from zoo_gen.wording import counted, file_size, values_there

HOME = Path(__file__).parents[2]
FILES = sorted(path for package in ("wsl", "zoo_gen") for path in (HOME / package).rglob("*.py") if path.name != "wording.py")

NOUNS = (
    "checkpoints|classes|columns|copies|epochs|files|folds|groups|heads|images|layers|models|pairs|problems|processes|roots|rows"
)
NOUNS += "|runs|samples|stacks|steps|tensors|tokens|weights|zoos"
BETWEEN = "more|other|different|fine-tuned|train|val|test"
COUNTED = re.compile(rf"\{{(?!counted)[^{{}}]*(?:len\(|sum\(|count\b|nunique|n_|:,)[^{{}}]*\}}(?: (?:{BETWEEN}))* (?:{NOUNS})\b")
"""A number in an f-string, and a noun after it in the plural, whatever the number."""

SEVERAL = (
    "{len(points):,} of {total:,} checkpoints are shown",  # some of all
    "{len(described):,} tensors, more than any checkpoint",
    "{TENSORS:,} tensors",
    "{described.num_rows:,} rows of",  # more than 200,000
    "nothing of {plan.n_weights} weights",
    "of {len(models)} models {what}",  # a zoo that is planned
)
"""Lines where the number is never 1."""


def odd(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if COUNTED.search(line) and not any(known in line for known in SEVERAL)]


def test_no_message_puts_a_plural_beside_any_number() -> None:
    assert {path.name: found for path in FILES if (found := odd(path.read_text(encoding="utf-8")))} == {}


def test_a_plural_beside_any_number_is_found() -> None:
    assert odd('f"{len(found.groups)} groups"')
    assert odd('f"{count:,} different models"')
    assert not odd("""f"{counted(len(groups), 'group')}" """)


def test_numbers_have_their_noun_and_files_their_unit() -> None:
    assert [counted(n, "copy") for n in (0, 1, 2)] == ["0 copies", "1 copy", "2 copies"]
    assert counted(1, "fine-tuned model") == "1 fine-tuned model"
    assert [file_size(n) for n in (0, 1, 999, 61_234, 5e6, 7e12)] == [
        "0 bytes",
        "1 byte",
        "999 bytes",
        "61.2 kB",
        "5.0 MB",
        "7.0 TB",
    ]


@pytest.mark.parametrize(
    ("values", "wanted", "shown"),
    [
        ([0.5, 0.1], 3, "0.1, 0.5"),
        (range(100), 1000, "0 to 99 (100 values)"),
        ([f"model_{n}" for n in range(100)], "modle_77", "'model_77'"),
    ],
)
def test_many_values_are_named_by_their_range_or_by_those_most_alike(values: list[object], wanted: object, shown: str) -> None:
    assert shown in values_there(values, wanted)
