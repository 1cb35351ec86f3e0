"""Checkpoints of others, files and folders of many kinds, are read as what they are."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.foreign import WEIGHTS, same, write_adapter, write_sharded
from wsl.tokenize import main
from zoo_gen import InputError
from zoo_gen.formats.checkpoint import read_checkpoint
from zoo_gen.reader import tensors_in

N = sum(tensor.numel() for tensor in WEIGHTS.values())


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_hub_folder_reads_whole_and_sharded(tmp_path: Path, suffix: str) -> None:
    whole, sharded = tmp_path / "whole", tmp_path / "sharded"
    whole.mkdir()
    sharded.mkdir()
    (whole / "config.json").write_text("{}")
    save_file(WEIGHTS, whole / "model.safetensors") if suffix == "safetensors" else torch.save(WEIGHTS, whole / "pytorch_model.bin")
    index = write_sharded(sharded, WEIGHTS, suffix=suffix)
    for place in (whole, sharded, index):
        assert same(read_checkpoint(place))


def test_the_links_of_the_hubs_cache_are_followed_and_others_are_not(tmp_path: Path) -> None:
    repository = tmp_path / "models--some--vit"
    snapshot, blobs = repository / "snapshots" / "abc", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    save_file(WEIGHTS, blobs / "0123")
    (snapshot / "model.safetensors").symlink_to("../../blobs/0123")
    assert same(read_checkpoint(snapshot))
    shutil.copy(blobs / "0123", tmp_path / "secret")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="outside of it"):
        read_checkpoint(snapshot)


def test_the_command_reports_every_kind_of_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file(WEIGHTS, tmp_path / "base.safetensors")
    torch.save({"state_dict": WEIGHTS}, tmp_path / "weights.pth")
    write_adapter(tmp_path / "adapter", WEIGHTS)
    (tmp_path / "sharded").mkdir()
    write_sharded(tmp_path / "sharded", WEIGHTS, suffix="safetensors")
    base = ["--base", str(tmp_path / "base.safetensors")]
    for arguments in (["base.safetensors"], ["weights.pth"], ["sharded"], ["adapter", *base]):
        main([str(tmp_path / arguments[0]), *arguments[1:]])
        assert f"vit, 100.00% of {N:,} weights" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32, torch.bfloat16])
def test_tensors_of_a_type_that_windows_cannot_read_are_named_as_such(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "odd.safetensors"
    save_file({"a": torch.zeros(4).to(dtype)}, path)
    assert read_checkpoint(path)["a"].dtype == dtype
    if dtype == torch.bfloat16:
        assert tensors_in(path)["a"].dtype == dtype
    else:
        with pytest.raises(InputError, match=r"unsupported type '[FU]"):
            tensors_in(path)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_one_file_of_many_is_not_taken_for_the_whole(tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    index = write_sharded(tmp_path, WEIGHTS, suffix=suffix)
    (tmp_path / "one").mkdir()
    alone = tmp_path / "one" / f"model-00001-of-00001.{suffix}"
    save_file(WEIGHTS, alone) if suffix == "safetensors" else torch.save(WEIGHTS, alone)
    stem = index.name.partition(".")[0]
    for path, warned in ((tmp_path / f"{stem}-00002-of-00002.{suffix}", True), (index, False), (tmp_path, False), (alone, False)):
        main([str(path), "--opaque", "*"] if warned else [str(path)])
        assert ("This is file 2 of 2 alone" in capsys.readouterr().out) == warned


def test_the_message_on_a_missing_file_offers_no_names_of_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_adapter(tmp_path / "adapter", WEIGHTS)
    with pytest.raises(SystemExit):
        main([str(tmp_path / "adapter"), "--base", "vit_tiny_patch16_224"])
    printed = capsys.readouterr().err
    assert "no file at" in printed
    assert "timm" not in printed


def test_what_no_layout_knows_is_covered_or_left_out_where_it_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "weights.safetensors")
    save_file(WEIGHTS | {"adapter.down": torch.zeros(2, 5), "adapter.count": torch.zeros(2, dtype=torch.int64)}, path)
    with pytest.raises(SystemExit):
        main([path])
    printed = capsys.readouterr().err
    assert all(word in printed for word in ("bert, cnn, gpt2", "--opaque", "--without", "no row for adapter"))
    main([path, "--opaque", "adapter.*", "--without", "adapter.count"])
    assert f"100.00% of {N + 10:,} weights" in capsys.readouterr().out
    for wrong in (["--opaque", "adapter.*"], ["--opaque", "nothing.*"], ["--without", "nothing.*"]):
        with pytest.raises(SystemExit):
            main([path, *wrong])
        assert capsys.readouterr().err.count("\n") == 1
