"""Hostile files are one clear error each, and nothing in them runs."""

import json
import os
import pickle
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.foreign import CANARY, WEIGHTS, Bait, huge_header, vit
from wsl.tokenize import main
from zoo_gen import InputError
from zoo_gen.formats.checkpoint import read_checkpoint

Hostile = dict[str, tuple[Path, str]]
"""Places of hostile files by name, and what the error must say."""


def hostile(folder: Path) -> Hostile:
    """Hostile files of all kinds."""
    good = folder / "good"
    good.mkdir()
    save_file(WEIGHTS, good / "model.safetensors")
    torch.save(WEIGHTS, good / "weights.pt")
    torch.save(WEIGHTS, good / "older.pt", _use_new_zipfile_serialization=False)
    return hostile_bytes(folder, good) | hostile_objects(folder) | hostile_programs(folder, good) | hostile_indices(folder, good)


def hostile_bytes(folder: Path, good: Path) -> Hostile:
    """Files that are cut, renamed, or of another format than they say."""
    bait = Bait(folder)
    whole, zipped, older = ((good / name).read_bytes() for name in ("model.safetensors", "weights.pt", "older.pt"))

    def tensors(*described: dict[str, Any], data: int = 16) -> bytes:
        header = json.dumps({f"t{i}": one for i, one in enumerate(described)}).encode()
        return struct.pack("<Q", len(header)) + header + b"\0" * data

    def one(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, Any]:
        return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}

    files: dict[str, tuple[bytes, str]] = {
        "cut.safetensors": (whole[:-5], "safetensors file"),
        "short.safetensors": (whole[:5], "does not begin with a header"),
        "empty.safetensors": (b"", "does not begin with a header"),
        "huge.safetensors": (huge_header(2**62), "does not begin with a header"),
        "long.safetensors": (struct.pack("<Q", 2**24) + b"{" + b" " * 2**24, "larger than any"),
        "overlap.safetensors": (tensors(one("F32", [3], 0, 12), one("F32", [2], 8, 16)), "safetensors file"),
        "hole.safetensors": (tensors(one("F32", [1], 0, 4), one("F32", [2], 8, 16)), "safetensors file"),
        "dtype.safetensors": (tensors(one("F64", [4], 0, 16)), "safetensors file"),
        "unknown.safetensors": (tensors(one("X9", [4], 0, 16)), "safetensors file"),
        "shape.safetensors": (tensors(one("F32", [2**62, 2**62, 4], 0, 16)), "safetensors file"),
        "beyond.safetensors": (tensors(one("F32", [2**40], 0, 2**42)), "safetensors file"),
        "deep.safetensors": (struct.pack("<Q", 2**16) + b'{"a":' + b"[" * (2**16 - 5), "safetensors file"),
        "renamed.safetensors": (pickle.dumps(bait), "it is a pickle; nothing in it was executed"),
        "zip.safetensors": (zipped, "it is a zip file"),
        "pickle.pt": (pickle.dumps(bait), "nothing was executed"),
        "pickle2.pt": (pickle.dumps(bait, protocol=2), "nothing was executed"),
        "pickle0.pt": (pickle.dumps(bait, protocol=0), "nothing was executed"),
        "cut.pt": (zipped[: len(zipped) // 2], "cut off"),
        "older_cut.pt": (older[:-50], "longer than the file"),
        "empty.pt": (b"", "nothing was executed"),
        "list.pth": (b"\x80\x02]q\x00.", "torch.save did not write"),
    }
    for name, (content, _) in files.items():
        (folder / name).write_bytes(content)
    return {name: (folder / name, message) for name, (_, message) in files.items()}


def hostile_objects(folder: Path) -> Hostile:
    """Files of torch.save that hold what is no weight."""
    bait, paths = Bait(folder), Hostile()

    def saved(name: str, content: object, message: str, *, zipped: bool = True) -> None:
        torch.save(content, folder / name, _use_new_zipfile_serialization=zipped)
        paths[name] = folder / name, message

    saved("bait.pt", {"state_dict": {**WEIGHTS, "x": bait}}, "nothing was executed")
    saved("baits.pt", {"state_dict": {"x": bait}, "args": bait}, "nothing was executed")
    saved("bait.bin", {**WEIGHTS, "x": bait}, "nothing was executed", zipped=False)
    saved("numpy.pt", {"a": np.ones(3)}, "numpy")
    saved("module.pt", nn.Linear(2, 2), "which is no weight")
    saved("expanded.pt", {"a": torch.ones(1).expand(2**20)}, "larger than its storage")
    saved("integer.pt", 3, "where a dict of tensors should be")
    saved("nothing.pt", {"state_dict": {}, "epoch": 3}, "no tensors")
    return paths


def hostile_programs(folder: Path, good: Path) -> Hostile:
    """Pickles that would take endless time or memory, and a compressed one."""
    paths = Hostile()
    programs = {
        "deep_key.pt": b"\x80\x02}" + b")" + b"\x85" * 10**6 + b"K\x01s.",
        "much_memory.pt": b"\x80\x02ctorch\nTensor\n\x8a\x08" + (10**11).to_bytes(8, "little") + b"\x85R.",
        "many_steps.pt": b"\x80\x02" + b"]0" * 2 * 10**6 + b".",
        "doubling.pt": b"\x80\x02}X\x01\0\0\0a" + b")" + b"2\x86" * 60 + b"s.",
        "empty_stack.pt": b"\x80\x02R.",
        "sizes.pt": b"\x80\x02}X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n(NJ\xff\xff\xff\xff))\x89NtRs.",
    }
    for name, program in programs.items():
        with zipfile.ZipFile(good / "weights.pt") as source, zipfile.ZipFile(folder / name, "w") as target:
            for entry in source.namelist():
                target.writestr(entry, program if entry.endswith("data.pkl") else source.read(entry))
        paths[name] = folder / name, "nothing was executed"
    with zipfile.ZipFile(folder / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("archive/data.pkl", b"\0" * 10**8)
    paths["bomb.pt"] = folder / "bomb.pt", "compressed"
    return paths


def hostile_indices(folder: Path, good: Path) -> Hostile:
    """Sharded checkpoints whose index is damaged or leads elsewhere."""
    paths = Hostile()

    def linked(name: str, shard: object, message: str) -> None:
        inner = folder / name
        inner.mkdir()
        shutil.copy(good / "model.safetensors", inner / "one.safetensors")
        (inner / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(WEIGHTS, shard)}))
        paths[name] = inner, message

    linked("upwards", "../good/model.safetensors", "not simply a file in it")
    linked("absolute", str(good / "model.safetensors"), "not simply a file in it")
    linked("null", "one\0.safetensors", "no path")
    linked("surrogate", "one\ud800.safetensors", "no path")
    linked("endless", "x" * 5000 + ".safetensors", "no path")
    linked("number", 3, "weight_map")
    linked("link", "there.safetensors", "outside of it")
    (folder / "link" / "there.safetensors").symlink_to(good / "model.safetensors")
    linked("loop", "there.safetensors", "no path|is gone|outside")
    (folder / "loop" / "there.safetensors").symlink_to("there.safetensors")
    linked("pipe", "there.safetensors", "is no file")
    os.mkfifo(folder / "pipe" / "there.safetensors")
    linked("itself", "model.safetensors.index.json", "as a shard")
    linked("absent", "two.safetensors", "is missing; fetch it again")
    for name, text, message in (
        ("nan", '{"weight_map": {"a": NaN}}', "NaN"),
        ("infinite", '{"weight_map": {"a": 1e999}}', "no finite number"),
        ("nested", '{"weight_map":' + "[" * 10**5, "damaged"),
        ("long_number", '{"weight_map":' + "9" * 10**4 + "}", "damaged"),
        ("many", "[" + "[]," * 10**6 + "[]]", "more than"),
        ("large", " " * 2**24, "bytes"),
        ("bytes", "\udcff", "damaged"),
        ("array", "[]", "not a JSON object"),
    ):
        linked(name, "one.safetensors", message)
        (folder / name / "model.safetensors.index.json").write_text(text, errors="surrogateescape")
    return paths


def test_hostile_files_are_one_clear_error_and_nothing_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, message in hostile(tmp_path).values():
        with pytest.raises(InputError, match=message) as caught:
            read_checkpoint(path)
        assert len(str(caught.value)) < 1000
        with pytest.raises(SystemExit):
            main([str(path)])
        printed = capsys.readouterr().err
        assert printed.startswith("error: ")
        assert printed.count("\n") == 1
        assert printed.isascii()
    assert not (tmp_path / CANARY).exists()
    pickle.loads(pickle.dumps(Bait(tmp_path)))  # the bait is one: unpickled, it makes the canary
    assert (tmp_path / CANARY).exists()


def test_names_in_a_message_cannot_command_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("\x1b]0;owned\x07", "[/bold]", "blocks." + "9" * 5000 + ".norm1.weight", "x" * 10**5):
        save_file({name: torch.zeros(2)}, tmp_path / "odd.safetensors")
        with pytest.raises(SystemExit):
            main([str(tmp_path / "odd.safetensors")])
        printed = capsys.readouterr().err
        assert "\x1b" not in printed
        assert len(printed) < 10**4


def test_a_wide_row_takes_no_memory_in_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    n = 10**6  # as rows of one width, a mask of 10^12
    weights = vit(embed_dim=2) | {"blocks.0.mlp.fc1.weight": torch.zeros(n, 2), "blocks.0.mlp.fc1.bias": torch.zeros(n)}
    save_file(weights | {"blocks.0.mlp.fc2.weight": torch.zeros(2, n)}, tmp_path / "wide.safetensors")
    main([str(tmp_path / "wide.safetensors"), "--tokenizer", "rows"])
    assert "100.00% of" in capsys.readouterr().out
