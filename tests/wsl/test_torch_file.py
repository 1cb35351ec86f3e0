"""Files of torch are followed on paper: their weights are those that torch reads, and nothing else in them is made."""

import argparse
import zipfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.foreign import CANARY, WEIGHTS, Bait, same
from zoo_gen import InputError
from zoo_gen.formats.checkpoint import read_checkpoint


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


@pytest.mark.parametrize("other", [torch.float32, torch.float16])
def test_a_storage_of_two_types_is_refused(tmp_path: Path, other: torch.dtype) -> None:
    torch.save({"a": torch.ones(2), "b": torch.ones(2, dtype=other)}, tmp_path / "plain.pt")
    named_twice = tmp_path / "twice.pt"
    with zipfile.ZipFile(tmp_path / "plain.pt") as source, zipfile.ZipFile(named_twice, "w") as target:
        for entry in source.namelist():
            content = source.read(entry)
            is_pickle = entry.endswith("data.pkl")
            target.writestr(entry, content.replace(b"X\x01\x00\x00\x001", b"X\x01\x00\x00\x000") if is_pickle else content)
    assert "b" in read_checkpoint(tmp_path / "plain.pt")
    if other == torch.float32:  # the negative control: torch shares storages of one type
        assert read_checkpoint(named_twice)["b"].equal(torch.ones(2))
    else:
        with pytest.raises(InputError, match="storage '0' has numbers of two types"):
            read_checkpoint(named_twice)
