"""The key of cached features knows every module that makes them."""

import json
import shutil
from pathlib import Path

import pytest

from tests import forks
from wsl.data import cache

EXTRACTORS = sorted(path.stem for path in Path("wsl/features").glob("[a-z]*.py"))
MAKERS = [
    *(f"wsl.features.{name}" for name in EXTRACTORS),
    "wsl.data.invariants",
    "wsl.data.update_norms",
    "wsl.data.logits",
    "wsl.probes.noise_ceiling",
]
"""Modules that put tables into the cache."""


@pytest.fixture(scope="module")
def imported() -> dict[str, list[str]]:
    """What Python imports, not what the cache reads in the code."""
    done = forks.command("tests.imports", *MAKERS)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for package in cache.PACKAGES:
        shutil.copytree(cache.SOURCE / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "configs"))
    monkeypatch.setattr(cache, "SOURCE", tmp_path)
    return tmp_path


@pytest.mark.parametrize("maker", MAKERS)
def test_a_changed_byte_in_any_module_that_is_imported_changes_the_key(maker: str, imported: dict[str, list[str]], source: Path):
    before = cache.code_hash([maker])
    assert maker in imported[maker]
    for name in imported[maker]:
        place = source.joinpath(*name.split("."))
        file = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
        content = file.read_bytes()
        file.write_bytes(content + b"#")
        assert cache.code_hash([maker]) != before, name
        file.write_bytes(content)
    assert cache.code_hash([maker]) == before


def test_modules_that_are_found_when_the_code_runs_are_in_the_key(source: Path):
    before = cache.code_hash(["wsl.data.stacks"])
    (source / "wsl" / "layout" / "architectures" / "another.py").write_text("TABLES = ()\n")
    assert cache.code_hash(["wsl.data.stacks"]) != before


def test_a_module_that_is_not_imported_changes_nothing_and_all_code_is_all_code(source: Path):
    some, everything = cache.code_hash(["wsl.data.stacks"]), cache.code_hash(cache.EVERYTHING)
    with (source / "wsl" / "report.py").open("a") as file:
        file.write("#")
    assert cache.code_hash(["wsl.data.stacks"]) == some
    assert cache.code_hash(cache.EVERYTHING) != everything


def test_a_module_that_has_moved_is_missed_and_not_ignored():
    with pytest.raises(ValueError, match=r"there is no module wsl\.gone"):
        cache.code_hash(["wsl.gone"])
