"""Files appear whole or not at all."""

from pathlib import Path

import pytest

from zoo_gen.files import write_atomically, write_json, write_text


def test_text_is_written_as_utf8_into_folders_that_are_made_and_replaces_what_was_there(tmp_path: Path) -> None:
    place = tmp_path / "new" / "page.md"
    for text in ("R² …\n", "R² of 0.5\r\n"):
        write_text(place, text)
        assert place.read_bytes() == text.encode("utf-8")
    assert list(place.parent.iterdir()) == [place]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "rows.json"
    write_json(place, [1])

    def fails(beside: Path) -> None:
        beside.write_text("[2")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write_atomically(place, fails)
    assert place.read_text() == "[\n 1\n]\n"
    assert list(tmp_path.iterdir()) == [place]
