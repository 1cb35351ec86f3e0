"""Checkpoints of others are read as what they are; what is hostile is one clear error, and nothing in it runs."""

import argparse
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.foreign import CANARY, Bait, huge_header, vit, write_adapter, write_sharded
from wsl.foreign import read_checkpoint
from wsl.tokenize import main
from zoo_gen import InputError
from zoo_gen.reader import tensors_in

WEIGHTS = vit()
N = sum(tensor.numel() for tensor in WEIGHTS.values())


def same(found: dict[str, Tensor], weights: dict[str, Tensor] = WEIGHTS) -> bool:
    return found.keys() == weights.keys() and all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor) for name, tensor in weights.items()
    )


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_torch_file_reads_as_torch_reads_it(tmp_path: Path, zipped: bool, protocol: int, dtype: torch.dtype) -> None:
    weights = {name: tensor.to(dtype) for name, tensor in WEIGHTS.items()} | {
        "turned": torch.randn(6, 4).T[1:],
        "one": torch.ones(()),
    }
    weights["tied"] = weights["turned"]
    weights["parameter"] = nn.Parameter(torch.randn(3))
    path = tmp_path / "weights.pt"
    torch.save(weights, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    assert same(read_checkpoint(path), torch.load(path, weights_only=protocol == 2))  # torch knows no other one by half


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_weights_are_found_beside_an_optimizer(tmp_path: Path, wrapper: str, prefix: str, zipped: bool) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    content = {
        "epoch": 3,
        "optimizer": optimizer.state_dict(),
        "device": torch.device("cpu"),
        "size": torch.Size([2]),
        wrapper: {prefix + name: tensor for name, tensor in WEIGHTS.items()},
    }
    torch.save(content, tmp_path / "last.pth", _use_new_zipfile_serialization=zipped)
    assert same(read_checkpoint(tmp_path / "last.pth"))


OTHER = {"best_acc1": torch.tensor(0.5)}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
@pytest.mark.parametrize(
    "content",
    [
        {**OTHER, "state_dict": WEIGHTS},
        {**OTHER, "state_dict": {}, "model": {"step": torch.tensor(1), "net": WEIGHTS}},
        {"teacher": WEIGHTS, "student": OTHER, "dino_loss": OTHER},
        {"student": WEIGHTS},
        {"state_dict_ema": WEIGHTS},
        {"model_ema": WEIGHTS},
        {"state_dict": {"epoch": 3}, **WEIGHTS},
    ],
)
def test_weights_under_a_wrapper_go_before_tensors_beside_it(tmp_path: Path, zipped: bool, content: dict[str, Any]) -> None:
    torch.save(content, tmp_path / "last.pth", _use_new_zipfile_serialization=zipped)
    assert same(read_checkpoint(tmp_path / "last.pth"))
    torch.save({**OTHER, "optimizer": WEIGHTS}, tmp_path / "other.pth", _use_new_zipfile_serialization=zipped)
    assert same(read_checkpoint(tmp_path / "other.pth"), OTHER)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_lies_beside_the_weights_is_passed_over_and_never_made(tmp_path: Path, zipped: bool, protocol: int) -> None:
    values = {
        "args": argparse.Namespace(lr=0.1, path=tmp_path, tensor=torch.ones(3)),
        "metric": np.float64(0.5),
        "array": np.ones(3),
        "ordered": defaultdict(list, {"a": [1]}),
        "counted": Counter("aab"),
        "bait": Bait(tmp_path),
        "layer": nn.Linear(2, 2),
    }
    settings: dict[str, Any] = {"_use_new_zipfile_serialization": zipped, "pickle_protocol": protocol}
    path = tmp_path / "last.pth"
    torch.save({**values, "state_dict": WEIGHTS, "more": [values]}, path, **settings)
    assert same(read_checkpoint(path))
    insides: list[dict[Any, Any]] = [{name: value} for name, value in values.items()]
    insides += [{"nested": [{"deep": (value,)}]} for value in values.values()] + [{Bait(tmp_path): torch.ones(2)}]
    for inside in insides:
        for content in ({"state_dict": {**WEIGHTS, **inside}}, {**WEIGHTS, **inside}):
            torch.save(content, path, **settings)
            with pytest.raises(InputError, match="which is no weight; nothing was executed"):
                read_checkpoint(path)
    assert not (tmp_path / CANARY).exists()


def test_lightnings_name_of_the_model_is_taken_off_and_others_are_kept(tmp_path: Path) -> None:
    named = {f"model.{name}": tensor for name, tensor in WEIGHTS.items()}
    lightning = {"pytorch-lightning_version": "2.5.0", "epoch": 3, "hyper_parameters": argparse.Namespace(lr=0.1)}
    for content, expected in (
        (lightning | {"state_dict": named}, WEIGHTS),
        (lightning | {"state_dict": {name.replace("model.", "model._orig_mod."): w for name, w in named.items()}}, WEIGHTS),
        (lightning | {"state_dict": named | OTHER}, named | OTHER),
        ({"state_dict": named}, named),  # a language model's own, as adapters of it have them
        (named, named),
    ):
        torch.save(content, tmp_path / "last.ckpt")
        assert same(read_checkpoint(tmp_path / "last.ckpt"), expected)


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


def test_an_adapter_is_merged_as_it_is_defined(tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter", WEIGHTS)
    save_file(WEIGHTS, tmp_path / "base.safetensors")
    merged = read_checkpoint(tmp_path / "adapter", base=tmp_path / "base.safetensors")
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    layer = "blocks.0.attn.qkv"
    down, up = (adapter[f"base_model.model.{layer}.lora_{name}.weight"] for name in "AB")
    torch.testing.assert_close(merged[f"{layer}.weight"], WEIGHTS[f"{layer}.weight"] + 1.5 * up @ down)
    assert torch.equal(merged["head.weight"], adapter["base_model.model.head.weight"])
    changed = {name for name in WEIGHTS if not torch.equal(merged[name], WEIGHTS[name])}
    assert changed == {f"{layer}.weight", "head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "not 'LORA'"),
        ({"use_dora": True}, "use_dora"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes its base"),
        ({"alpha_pattern": {"(.*)*x": 1}}, "more than names"),
        ({"alpha_pattern": {"qkv": "big"}}, "no number"),
        ({"r": 4}, "rank"),
        ({"modules_to_save": None}, "modules_to_save"),
        ({"fan_in_fan_out": True}, "do not fit"),
        ({"r": 0, "rank_pattern": [1]}, "more than names"),
    ],
)
def test_an_adapter_that_is_no_plain_lora_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_adapter(tmp_path / "adapter", WEIGHTS, **changes)
    save_file(WEIGHTS, tmp_path / "base.safetensors")
    with pytest.raises(InputError, match=message):
        read_checkpoint(tmp_path / "adapter", base=tmp_path / "base.safetensors")


def test_an_adapter_needs_its_base_and_nothing_else_takes_one(tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter", WEIGHTS)
    save_file(WEIGHTS, tmp_path / "base.safetensors")
    save_file(vit(embed_dim=16), tmp_path / "wider.safetensors")
    with pytest.raises(InputError, match="--base"):
        read_checkpoint(tmp_path / "adapter")
    with pytest.raises(InputError, match="leave base out"):
        read_checkpoint(tmp_path / "base.safetensors", base=tmp_path / "base.safetensors")
    with pytest.raises(InputError, match="do not fit the base's weight"):
        read_checkpoint(tmp_path / "adapter", base=tmp_path / "wider.safetensors")


class Layers(nn.Module):
    """One layer of each kind that LoRA adapts."""

    def __init__(self) -> None:
        super().__init__()
        from transformers.pytorch_utils import Conv1D

        self.embed, self.conv, self.point = nn.Embedding(7, 6), nn.Conv2d(6, 4, 3), nn.Conv2d(4, 4, 1)
        self.first, self.second, self.turned, self.head = nn.Linear(6, 8), nn.Linear(8, 6), Conv1D(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.turned(self.second(self.first(self.embed(x)))))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("targets", "settings"),
    [
        (["first", "second"], {}),
        (["first", "second"], {"use_rslora": True, "bias": "all"}),
        (["first", "second"], {"rank_pattern": {"first": 5}, "alpha_pattern": {"^second": 7, "first": 2}, "bias": "lora_only"}),
        (["embed", "conv", "point"], {"modules_to_save": ["head"]}),
        (["turned"], {"fan_in_fan_out": True}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_merge_as_peft_merges_them(
    tmp_path: Path, targets: list[str], settings: dict[str, Any], dtype: torch.dtype
) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = Layers().to(dtype)
    save_file(model.state_dict(), tmp_path / "base.safetensors")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=3, lora_alpha=4, target_modules=targets, **settings))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter)) if "lora" in name else parameter.mul_(1.5).add_(1)
    adapted.save_pretrained(tmp_path / "adapter")
    merged = read_checkpoint(tmp_path / "adapter", base=tmp_path / "base.safetensors")
    expected = adapted.merge_and_unload().state_dict()
    assert merged.keys() == expected.keys()
    rtol, atol = (1e-6, 1e-6) if dtype == torch.float32 else (2**-7, 2**-8)  # peft rounds changes of embeddings to bfloat16 first
    for name, tensor in expected.items():
        torch.testing.assert_close(merged[name], tensor, rtol=rtol, atol=atol)
    base = load_file(tmp_path / "base.safetensors")
    assert any(not torch.equal(merged[name], base[name]) for name in base)


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
    assert all(word in printed for word in ("bert, gpt2", "--opaque", "--without", "no row for adapter"))
    main([path, "--opaque", "adapter.*", "--without", "adapter.count"])
    assert f"100.00% of {N + 10:,} weights" in capsys.readouterr().out
    for wrong in (["--opaque", "adapter.*"], ["--opaque", "nothing.*"], ["--without", "nothing.*"]):
        with pytest.raises(SystemExit):
            main([path, *wrong])
        assert capsys.readouterr().err.count("\n") == 1


def hostile(folder: Path) -> dict[str, tuple[Path, str]]:
    """Hostile files by name, and what the error must say."""
    bait, good = Bait(folder), folder / "good"
    good.mkdir()
    save_file(WEIGHTS, good / "model.safetensors")
    torch.save(WEIGHTS, good / "weights.pt")
    torch.save(WEIGHTS, good / "older.pt", _use_new_zipfile_serialization=False)
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
        "renamed.pt": (whole, "safetensors"),
        "cut.pt": (zipped[: len(zipped) // 2], "cut off"),
        "older_cut.pt": (older[:-50], "longer than the file"),
        "empty.pt": (b"", "nothing was executed"),
        "list.pth": (b"\x80\x02]q\x00.", "torch.save did not write"),
        "unknown.weights": (whole, "of no known kind"),
    }
    for name, (content, _) in files.items():
        (folder / name).write_bytes(content)
    paths = {name: (folder / name, message) for name, (_, message) in files.items()}

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
    linked("absent", "two.safetensors", "is gone")
    for name, text, message in (
        ("nan", '{"weight_map": {"a": NaN}}', "NaN"),
        ("infinite", '{"weight_map": {"a": 1e999}}', "too large"),
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
