"""Copies in every disguise are found among many checkpoints; unrelated models, siblings and epochs are no copies."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from rich.console import Console
from safetensors.torch import load_file

from tests.commands import call, refused
from tests.disguises import CONFIG, DISGUISES, Plant, in_type, moved, plant, root, trained
from tests.foreign import vit
from wsl.analyses.copies import relation
from wsl.analyses.duplicates import Duplicates, duplicates
from wsl.analyses.models import Reading
from wsl.analyses.rounding import within_precision
from wsl.duplicates import main
from wsl.layout import layout_of
from wsl.symmetry.group import MOVES
from zoo_gen.files import write_weights
from zoo_gen.formats.folder import checkpoints_below


def found_in(places: list[Path], *, near: float = 0.0, reading: Reading | None = None) -> Duplicates:
    return duplicates(places, reading or Reading(), near=near, console=Console(quiet=True))


def pairs_of(found: Duplicates) -> dict[frozenset[Path], str]:
    """What the copies of each group are equal to, and up to what."""
    return {frozenset((group[0][0], place)): kind for group in found.groups for place, kind in group[1:]}


def planted(plants: list[Plant]) -> dict[frozenset[Path], str]:
    return {frozenset((one.model, one.copy)): one.kind for one in plants}


def test_copies_in_every_disguise_are_found_and_no_other(tmp_path: Path) -> None:
    plants, base = plant(tmp_path / "models", models=36, copies=len(DISGUISES))
    places = checkpoints_below(tmp_path / "models")
    assert len(places) == 36 + len(DISGUISES) + 1  # the adapter's merged model
    found = found_in(places, reading=Reading(base=str(base)))
    assert pairs_of(found) == planted(plants)
    assert {one.disguise for one in plants} == set(DISGUISES)
    assert (found.unread, found.opaque, found.headless, found.broken) == ({}, [], [], [])


@pytest.mark.slow
def test_forty_copies_are_found_among_three_hundred_files(tmp_path: Path) -> None:
    plants, base = plant(tmp_path / "models", models=258, copies=40)
    places = checkpoints_below(tmp_path / "models")
    assert len(places) == 300
    assert pairs_of(found_in(places, reading=Reading(base=str(base)), near=0.05)) == planted(plants)


def test_a_change_that_no_symmetry_makes_is_no_copy() -> None:
    weights, layout = root(0)
    copy = moved("mlp", "resid", "norm")(weights, layout, 1)
    assert relation(copy, weights, layout).kind == "symmetry"
    other = copy | {"blocks.1.mlp.fc1.weight": copy["blocks.1.mlp.fc1.weight"] * 1.001}
    assert relation(other, weights, layout).kind is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_makes_copies_and_a_step_of_the_last_place_does_not(dtype: torch.dtype) -> None:
    weights, layout = root(0)
    rounded = in_type(dtype)(weights, layout, 0)
    assert relation(rounded, weights, layout).kind == "precision"
    step = rounded["pos_embed"] * (1 + torch.finfo(dtype).eps)
    assert relation(rounded | {"pos_embed": step.to(dtype)}, rounded, layout).kind is None
    assert not within_precision(rounded | {"pos_embed": step.to(dtype)}, weights)


def test_the_last_epochs_of_a_training_in_half_precision_are_no_copies() -> None:
    weights, layout = root(0)
    first, second = (in_type(torch.bfloat16)(trained(weights, seed, 3e-4), layout, 0) for seed in (1, 2))
    assert relation(first, second, layout).kind is None


@pytest.mark.parametrize("far", [0, 0.003, 0.01, 0.03])
@pytest.mark.parametrize("moves", [("norm",), ("norm", "mlp", "head", "resid"), MOVES], ids=["norms", "permuted", "everything"])
def test_in_a_gauge_of_half_precision_a_copy_is_found_and_a_sibling_is_none(moves: tuple[str, ...], far: float) -> None:
    weights, layout = root(0)
    other = trained(weights, 7, far) if far else weights
    found = relation(in_type(torch.float16, moved(*moves))(other, layout, 3), weights, layout)
    assert found.kind == (None if far else "symmetry")


@pytest.mark.parametrize("far", [0, 0.03])
def test_in_bfloat16_a_sibling_further_than_rounding_is_no_copy(far: float) -> None:
    weights, layout = root(1)
    other = trained(weights, 7, far) if far else weights
    found = relation(in_type(torch.bfloat16, moved(*MOVES))(other, layout, 3), weights, layout)
    assert found.kind == (None if far else "symmetry")


def test_a_copy_in_half_precision_with_another_head_is_none() -> None:
    weights, layout = root(0)
    other = weights | {"head.weight": weights["head.weight"] * 1.03}
    found = relation(in_type(torch.float16, moved("norm"))(other, layout, 3), weights, layout)
    assert found.kind is None


def test_of_two_models_nearer_than_rounding_the_right_one_is_named(tmp_path: Path) -> None:
    weights, layout = root(0)
    places = [tmp_path / f"{name}.safetensors" for name in ("epoch_8", "epoch_9", "a_copy")]
    for place, number in zip(places[:2], (1, 2), strict=True):
        write_weights(place, trained(weights, number, 5e-4))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    copy = in_type(torch.float16, moved("mlp", "head", "norm"))(load_file(places[1]), layout, 3)
    write_weights(places[2], copy)
    assert pairs_of(found_in(places)) == {frozenset(places[1:]): "symmetry"}


def test_a_copy_that_was_rounded_twice_is_in_one_group_with_the_copy_and_its_model(tmp_path: Path) -> None:
    weights, layout = root(0)
    half = in_type(torch.float16, moved("mlp"))(weights, layout, 1)
    twice = in_type(torch.float16, moved("norm", "bias", "mean"))(half, layout, 2)
    sibling = in_type(torch.float16)(trained(weights, 3, 5e-2), layout, 0)
    places = {"b": weights, "c": half, "a": twice, "d": sibling}
    for name, each in places.items():
        write_weights(tmp_path / f"{name}.safetensors", each)
    found = found_in(checkpoints_below(tmp_path), reading=Reading(heads=4))
    assert [[place.stem for place, _ in group] for group in found.groups] == [["b", "a", "c"]]


def test_near_models_are_listed_apart(tmp_path: Path) -> None:
    weights, layout = root(0)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    write_weights(tmp_path / "a.safetensors", weights)
    write_weights(tmp_path / "b.safetensors", moved("mlp", "resid")(trained(weights, 1, 0.01), layout, 1))
    write_weights(tmp_path / "c.safetensors", root(1)[0])
    found = found_in(checkpoints_below(tmp_path), near=0.05)
    assert found.groups == []
    ((a, b, far),) = found.near
    assert {a.name, b.name} == {"a.safetensors", "b.safetensors"}
    assert 0.002 < far < 0.02
    assert found_in(checkpoints_below(tmp_path)).near == []


def test_models_without_a_table_are_compared_as_they_are(tmp_path: Path) -> None:
    weights = {"conv.weight": torch.randn(4, 3, 3, 3), "conv.bias": torch.randn(4), "scale": torch.tensor(2.0)}
    write_weights(tmp_path / "a.safetensors", weights)
    torch.save(weights, tmp_path / "b.pt")
    write_weights(tmp_path / "c.safetensors", {name: tensor.half() for name, tensor in weights.items()})
    write_weights(tmp_path / "d.safetensors", {name: tensor.flip(0) if tensor.ndim else tensor for name, tensor in weights.items()})
    found = found_in(checkpoints_below(tmp_path))
    assert [[(place.name, kind) for place, kind in group] for group in found.groups] == [
        [("a.safetensors", ""), ("b.pt", "bits"), ("c.safetensors", "precision")]
    ]
    assert {place.name for place in found.opaque} == {"a.safetensors", "c.safetensors", "d.safetensors"}


def test_without_the_number_of_heads_only_symmetries_of_heads_are_missed_and_it_is_said(tmp_path: Path) -> None:
    weights, layout = root(0)
    write_weights(tmp_path / "a.safetensors", weights)
    write_weights(tmp_path / "b.safetensors", moved("mlp", "resid", "norm")(weights, layout, 1))
    write_weights(tmp_path / "c.safetensors", moved("head")(weights, layout, 1))
    places = checkpoints_below(tmp_path)
    assert pairs_of(found_in(places)) == {frozenset(places[:2]): "symmetry"}
    assert found_in(places).headless == places
    assert len(pairs_of(found_in(places, reading=Reading(heads=4)))) == 2


def test_files_of_the_same_shapes_say_how_many_heads_there_are(tmp_path: Path) -> None:
    weights, layout = root(0)
    (tmp_path / "known").mkdir()
    (tmp_path / "known" / "config.json").write_text(json.dumps(CONFIG))
    write_weights(tmp_path / "known" / "model.safetensors", weights)
    write_weights(tmp_path / "loose.safetensors", moved("head", "qk")(weights, layout, 1))
    found = found_in(checkpoints_below(tmp_path))
    assert list(pairs_of(found).values()) == ["symmetry"]
    assert found.headless == []


def test_what_a_config_beside_weights_tells_of_a_model_finds_copies_that_tensors_do_not_tell(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    layout = layout_of(model)
    layout = replace(layout, slots=tuple(slot for slot in layout.slots if slot.name in weights))
    write_weights(tmp_path / "known" / "model.safetensors", weights)
    write_weights(tmp_path / "loose.safetensors", moved("batch")(weights, layout, 1))
    places = checkpoints_below(tmp_path)
    assert pairs_of(found_in(places)) == {}  # no tensor tells the epsilon of a batch norm
    (tmp_path / "known" / "config.json").write_text(json.dumps({"architecture": "test_resnet", "num_classes": 3}))
    assert pairs_of(found_in(places)) == {frozenset(places): "symmetry"}
    other = moved("batch")(trained(weights, 1, 0.01), layout, 2)
    write_weights(tmp_path / "loose.safetensors", other)
    assert pairs_of(found_in(places)) == {}


def test_weights_that_are_not_finite_are_compared_to_the_bit(tmp_path: Path) -> None:
    weights = vit()
    weights["cls_token"][0, 0, 0] = float("nan")
    write_weights(tmp_path / "a.safetensors", weights)
    torch.save(weights, tmp_path / "b.pt")
    write_weights(tmp_path / "c.safetensors", vit())
    found = found_in(checkpoints_below(tmp_path))
    assert list(pairs_of(found).values()) == ["bits"]
    assert [place.name for place in found.broken] == ["a.safetensors", "b.pt"]


def test_the_command_prints_groups_and_names_what_it_cannot_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_weights(tmp_path / "a.safetensors", vit())
    torch.save(vit(), tmp_path / "b.pt")
    call(main, str(tmp_path), "--heads", "2")
    assert "2 checkpoints, 1 different model, 1 copy in 1 group" in capsys.readouterr().out
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 100)
    out = tmp_path / "found.json"
    with pytest.raises(SystemExit) as exit:
        call(main, str(tmp_path), "heads=2", f"out={out}", "--json")
    printed = capsys.readouterr()
    assert exit.value.code == 1
    assert "1 of 3 checkpoints could not be read" in printed.err
    assert json.loads(printed.out) == json.loads(out.read_text())
    assert [one["equal_up_to"] for one in json.loads(printed.out)["groups"][0]] == [None, "bits"]


def test_a_folder_without_checkpoints_is_one_clear_error(tmp_path: Path) -> None:
    assert "holds no checkpoint" in refused(main, str(tmp_path))
    assert "is no folder" in refused(main, str(tmp_path / "absent"))
    (tmp_path / "optimizer.pt").write_bytes(b"")
    assert "holds no checkpoint" in refused(main, str(tmp_path))
    (tmp_path / "a.pt").write_bytes(b"nothing")
    assert "none of 1 checkpoint can be read" in refused(main, str(tmp_path))
    assert "near is" in refused(main, str(tmp_path), "near=-1")
