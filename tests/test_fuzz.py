"""Thousands of mutated files are read or refused, in a process of bounded memory (tests/fuzz.py)."""

import json

import pytest

from tests import forks

FORMATS = ("safetensors", "torch", "torch_older", "shards", "adapter", "index", "zoo.json", "record.json", "run", "probes")
FORMATS += ("models.json", "inputs.json", "results", "pictures", "pictures_parquet")
GROWTH = 512
"""Megabytes by which the peak memory of reading small hostile files may grow; the limit on address space is twice that."""


def fuzzed(count: int, *formats: str) -> list[dict[str, int]]:
    done = forks.command("tests.fuzz", "--count", str(count), "--seed", "0", "--formats", *formats, cwd=forks.ROOT)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def sound(row: dict[str, int], count: int) -> bool:
    """Whether all files were read or refused, some of them each (the corpus is valid), in bounded memory."""
    return row["read"] + row["refused"] == count and row["read"] > 0 and row["refused"] > 0 and row["peak_growth_mb"] < GROWTH


def test_a_hundred_mutated_files_of_each_format_are_read_or_refused() -> None:
    rows = fuzzed(100, *FORMATS)
    assert [row["format"] for row in rows] == list(FORMATS)
    assert [row for row in rows if not sound(row, 100)] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_ten_thousand_mutated_files_are_read_or_refused(name: str) -> None:
    (row,) = fuzzed(10_000, name)
    print(row)  # seed and counts
    assert sound(row, 10_000)
