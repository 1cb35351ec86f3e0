"""Models that people have become a zoo by one command; what cannot be read is a row of its report."""

import json
from pathlib import Path

import pytest
import timm
import torch

from tests.commands import call, refused
from tests.forms import write_forms, write_lora, write_transformers
from tests.zoos import SMALL, tuned
from zoo_gen import Zoo
from zoo_gen.adopt import main
from zoo_gen.architecture import initialize
from zoo_gen.files import write_weights
from zoo_gen.verify import problems


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("mine")
    write_forms(place / "models")
    return place


@pytest.fixture(scope="module")
def zoo(folder: Path) -> Zoo:
    arguments = (f"folder={folder / 'models'}", f"metrics={folder / 'models' / 'metrics.csv'}", f"architecture={card(folder)}")
    call(main, *arguments, f"path={folder / 'zoo'}")
    return Zoo.open(folder / "zoo")


def card(folder: Path) -> Path:
    place = folder / "small.yaml"
    sizes = {
        "_target_": "zoo_gen.architecture.architecture",
        "timm_name": "vit_tiny_patch16_224",
        "model_args": SMALL["model_args"],
    }
    place.write_text(json.dumps({**sizes, "in_chans": 1, "img_size": 8, "mean": [0.5], "std": [0.5]}))
    return place


def left_out(zoo: Zoo) -> dict[str, str]:
    return {row["file"]: row["reason"] for row in json.loads((zoo.path / "left_out.json").read_text())}


def test_sixty_files_of_eight_forms_are_one_zoo(zoo: Zoo):
    assert zoo.frame["model"].nunique() == 51
    assert not list(problems(zoo.path))
    assert zoo.complete
    assert all(one.build()(torch.zeros(1, 1, 8, 8)).isfinite().all() for one in zoo)


def test_three_broken_files_and_two_of_another_family_are_rows_of_the_report(zoo: Zoo):
    reasons = left_out(zoo)
    cell = "metrics.csv, row 1 ('plain/a0.safetensors')"
    broken = ["plain/broken1.safetensors", "plain/broken2.pt", "plain/broken3.bin"]
    assert sorted(reasons) == sorted([*broken, "cnn0.pt", "cnn1.pt", cell, "metrics.csv, row 35"])
    assert "begin with a header" in reasons[broken[0]]
    assert "cut off" in reasons[broken[1]]
    assert "git-lfs pointer" in reasons[broken[2]]
    assert "are not those of architecture=" in reasons["cnn0.pt"]
    assert "accuracies are shares, no percentages" in reasons[cell]
    assert "is no file or model of the folder" in reasons["metrics.csv, row 35"]


@pytest.mark.parametrize(
    ("model", "number"),
    [("plain--a3", 3), ("plain--b9", 9), ("timm--c17", 17), ("hf--d25", 25), ("me--g43", 43), ("sharded--h47", 47)],
)
def test_weights_of_each_form_are_those_of_its_maker_to_the_bit(model: str, number: int, zoo: Zoo):
    (one,) = zoo.select(model=model)
    there, found = tuned(initialize(SMALL, number % 3), number), one.state_dict()
    assert found.keys() == there.keys()
    assert all(found[name].equal(there[name]) for name in there)


def test_epochs_of_lightning_are_read_from_names_and_count_from_one(zoo: Zoo):
    run = zoo.select(model="runs--e33")
    assert [(one.epoch, one.final) for one in run] == [(1, False), (5, True)]
    first, last = (one.state_dict() for one in run)
    assert not first["norm.weight"].equal(last["norm.weight"])


def test_adapters_are_merged_into_the_base_that_they_name(zoo: Zoo):
    (one,) = zoo.select(model="lora--f37")
    assert (one.root, one.parent, one.stage) == ("roots--r1", "roots--r1", "finetune")
    root = zoo.root(one)
    assert root is not None
    changed = {name for name, tensor in one.state_dict().items() if not tensor.equal(root.state_dict()[name])}
    assert changed == {"blocks.0.attn.qkv.weight", "head.weight"}


def test_roots_come_from_the_table_and_from_model_cards(zoo: Zoo):
    finals = zoo.select(final=True).frame.set_index("model")
    assert finals["root"]["timm--c17"] == "roots--r2"  # the card says so
    assert finals["root"]["plain--a3"] == "roots--r0"  # the table says so
    assert finals["root"].isna()["plain--a4"]  # nobody does
    assert finals["stage"]["roots--r1"] == "pretrain"
    assert set(finals["stage"].drop([f"roots--r{number}" for number in range(3)])) == {"finetune"}


def test_known_columns_go_to_their_place_and_others_are_own(zoo: Zoo):
    (one,) = zoo.select(model="plain--b9")
    assert one.factors["learning_rate"] == pytest.approx(0.002)
    assert one.results["test_accuracy"] == pytest.approx(0.49)
    assert one.columns == {"größe (MB)": pytest.approx(0.9), "Team / lead": "green", "note": None}
    assert zoo.select(model="plain--a0")[0].results["test_accuracy"] is None
    run = zoo.select(model="runs--e33")
    assert [one.results["test_accuracy"] for one in run] == [None, pytest.approx(0.73)]  # of the last epoch


def test_nothing_is_written_beside_the_zoo(zoo: Zoo, folder: Path):
    assert sorted(entry.name for entry in folder.iterdir()) == ["models", "small.yaml", "zoo"]
    assert not list(zoo.path.rglob("*.safetensors"))


def test_a_zoo_is_made_once(zoo: Zoo, folder: Path):
    before = zoo.content_hash
    message = refused(main, f"folder={folder / 'models'}", f"path={zoo.path}")
    assert "is not empty; choose another path=..." in message
    assert "is a zoo already" in refused(main, f"folder={zoo.path}", f"path={folder / 'other'}")
    assert Zoo.open(zoo.path).content_hash == before


def small(place: Path, *numbers: int, suffix: str = ".safetensors") -> Path:
    """A folder of plain files `m<number>`."""
    for number in numbers:
        weights = tuned(initialize(SMALL, 0), number)
        file = place / f"m{number}{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_weights(file, weights) if suffix == ".safetensors" else torch.save(weights, file)
    return place


def adopted(place: Path, *arguments: str) -> Zoo:
    call(main, f"folder={place}", f"path={place.parent / 'zoo'}", *arguments)
    return Zoo.open(place.parent / "zoo")


def test_without_an_architecture_only_tensors_are_known(tmp_path: Path):
    zoo = adopted(small(tmp_path / "mine", 1, 2, suffix=".pt"))
    assert zoo[0].architecture == {"architecture": None, "num_heads": None}
    assert zoo[0].state_dict()["norm.weight"].shape == (16,)


def test_models_of_another_family_are_left_out_where_no_architecture_is_named(tmp_path: Path):
    place = small(tmp_path / "mine", 1, 2)
    torch.save(torch.nn.Linear(3, 3).state_dict(), place / "linear.pt")
    assert "of another family: it has 'bias', most have" in left_out(adopted(place))["linear.pt"]


def test_a_named_timm_model_takes_the_sizes_of_the_weights_and_keeps_its_heads(tmp_path: Path):
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=1, num_classes=4).eval()
    (tmp_path / "mine").mkdir()
    torch.save(model.state_dict(), tmp_path / "mine" / "a.pt")
    images = torch.randn(2, 3, 32, 32)
    zoo = adopted(tmp_path / "mine", "architecture=vit_tiny_patch16_224")
    assert zoo[0].build()(images).equal(model(images))


def test_weights_whose_width_tells_no_number_of_heads_do_not_fit_a_name(tmp_path: Path):
    message = refused(
        main, f"folder={small(tmp_path / 'mine', 1)}", f"path={tmp_path / 'zoo'}", "architecture=vit_tiny_patch16_224"
    )
    assert "are not those of architecture=vit_tiny_patch16_224" in message
    assert not (tmp_path / "zoo").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "vit_tiny_patch16_224",
            "width is 16, not 192; depth is 2, not 12; 120 are missing, 'blocks.10.attn.proj.bias' among them",
        ),
        ("vit_tiny_patch16_224", "a card says other sizes (embed_dim: 16, depth: 2, num_heads: ...): docs/how_to/own_models.md"),
        ("resnet18", "depth is 2, not 0"),
    ],
)
def test_what_differs_from_a_named_architecture_is_said_and_that_a_card_may_say_it(name: str, message: str, tmp_path: Path):
    arguments = (f"folder={small(tmp_path / 'mine', 1)}", f"path={tmp_path / 'zoo'}")
    assert message in refused(main, *arguments, f"architecture={name}")


def test_a_shape_or_name_that_differs_is_said(tmp_path: Path):
    place = small(tmp_path / "mine", 1)
    weights = tuned(initialize(SMALL, 0), 2)
    write_weights(place / "shape.safetensors", weights | {"norm.bias": torch.zeros(3)})
    write_weights(place / "name.safetensors", weights | {"blocks.0.extra": torch.zeros(3)})
    reasons = left_out(adopted(place, f"architecture={card(tmp_path)}"))
    assert "norm.bias is of shape (3,), not (16,)" in reasons["shape.safetensors"]
    assert "1 are not in it, 'blocks.0.extra' among them" in reasons["name.safetensors"]


def test_a_card_without_a_target_says_what_it_needs(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("timm_name: vit_tiny_patch16_224\n")
    arguments = (f"folder={small(tmp_path / 'mine', 1)}", f"path={tmp_path / 'zoo'}")
    message = refused(main, *arguments, f"architecture={tmp_path / 'mine.yaml'}")
    assert "mine.yaml is no card of architecture: it has no key _target_" in message
    assert "'_target_: zoo_gen.architecture.architecture', for one (docs/how_to/own_models.md" in message
    assert "zoo_gen.sources.folder.folder" in refused(main, *arguments, f"images={tmp_path / 'mine.yaml'}")


def test_a_root_may_lie_elsewhere_and_is_that_of_all(tmp_path: Path):
    write_weights(tmp_path / "start.safetensors", initialize(SMALL, 0))
    zoo = adopted(small(tmp_path / "mine", 1, 2), f"root={tmp_path / 'start.safetensors'}")
    assert {(one.model, one.root, one.stage) for one in zoo} == {
        ("start", "start", "pretrain"),
        ("m1", "start", "finetune"),
        ("m2", "start", "finetune"),
    }


def test_a_root_is_named_as_people_call_it(tmp_path: Path):
    zoo = adopted(small(tmp_path / "mine", 1, 2, 3), "root=m2")
    assert {one.root for one in zoo} == {"m2"}
    assert "root=m9 is no file or folder" in refused(main, f"folder={tmp_path / 'mine'}", f"path={tmp_path / 'z'}", "root=m9")


def test_copies_are_left_out_and_near_copies_are_not(tmp_path: Path):
    place = small(tmp_path / "mine", 1, 2)
    weights = tuned(initialize(SMALL, 0), 1)
    torch.save({"model": {f"module.{name}": tensor for name, tensor in weights.items()}}, place / "same.pt")
    write_weights(place / "near.safetensors", {**weights, "norm.bias": weights["norm.bias"] + 1e-6})
    zoo = adopted(place)
    assert set(zoo.frame["model"]) == {"m1", "m2", "near"}
    assert "has the weights of m1.safetensors, to the bit" in left_out(zoo)["same.pt"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_files_that_are_another_one_in_half_precision_are_said_and_kept(dtype: torch.dtype, tmp_path: Path):
    place = small(tmp_path / "mine", 1, 2)
    weights = tuned(initialize(SMALL, 0), 1)
    half = {name: tensor.to(dtype) for name, tensor in weights.items()}
    torch.save(half, place / "half.pt")
    torch.save({**half, "norm.bias": weights["norm.bias"]}, place / "most.pt")
    near = half["blocks.0.attn.qkv.weight"].clone()
    near[0, 1] *= 1.5  # which is none of those that are compared first
    torch.save({**half, "blocks.0.attn.qkv.weight": near}, place / "near.pt")
    zoo = adopted(place)
    assert set(zoo.frame["model"]) == {"m1", "m2", "half", "most", "near"}
    reasons = left_out(zoo)
    assert sorted(reasons) == ["half.pt", "most.pt"]
    assert f"has the weights of m1.safetensors, rounded to {str(dtype)[6:]}" in reasons["most.pt"]


def test_the_closing_lines_say_how_copies_in_disguise_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    zoo = adopted(small(tmp_path / "mine", 1, 2))
    assert f"python -m wsl.duplicates {zoo.path}" in capsys.readouterr().out


def test_files_of_one_name_are_two_models(tmp_path: Path):
    place = small(tmp_path / "mine", 1)
    torch.save(tuned(initialize(SMALL, 0), 2), place / "m1.pt")
    assert set(adopted(place).frame["model"]) == {"m1-safetensors", "m1-pt"}


def test_a_model_that_is_not_finite_has_diverged_and_ends_there(tmp_path: Path):
    place = tmp_path / "mine" / "run"
    for epoch in (1, 2, 3):
        weights = tuned(initialize(SMALL, 0), epoch)
        weights["norm.bias"][0] = float("nan") if epoch > 1 else 0
        write_weights(place / f"epoch_{epoch}.safetensors", weights)
    zoo = adopted(tmp_path / "mine")
    assert [(one.epoch, one.status) for one in zoo] == [(1, "diverged"), (2, "diverged")]
    assert "not finite since epoch 2" in left_out(zoo)["run/epoch_3.safetensors"]


@pytest.mark.parametrize(
    ("files", "epochs"),
    [
        (["epoch_1.pt", "epoch_3.pt", "last.pt"], [1, 3, 4]),
        (["epoch_0.pt", "epoch_1.pt"], [1, 2]),
        (["checkpoint-8.pth.tar", "checkpoint-9.pth.tar", "model_best.pth.tar"], [8, 9]),
        (["checkpoints/epoch=0-step=10-val_loss=0.31.ckpt", "checkpoints/epoch=2-step=30-val_loss=0.2.ckpt"], [1, 3]),
        (["epochs/0001.pt", "epochs/0002.pt", "model.pt"], [1, 2, 3]),
        (["best.pt", "last.pt"], [1]),
    ],
)
def test_epochs_are_read_where_names_tell_them(files: list[str], epochs: list[int], tmp_path: Path):
    for number, file in enumerate(files):
        place = tmp_path / "mine" / "run" / file
        place.parent.mkdir(parents=True, exist_ok=True)
        torch.save(tuned(initialize(SMALL, 0), number), place)
    zoo = adopted(tmp_path / "mine")
    assert set(zoo.frame["model"]) == {"run"}
    assert list(zoo.frame["epoch"]) == epochs
    assert len(left_out(zoo)) == len(files) - len(epochs)


@pytest.mark.parametrize("inside", ["", "runs"])
def test_epochs_that_lie_in_the_folder_itself_are_of_one_model(inside: str, tmp_path: Path):
    for epoch in (1, 2):
        place = tmp_path / "mine" / inside / f"epoch_{epoch}.pt"
        place.parent.mkdir(parents=True, exist_ok=True)
        torch.save(tuned(initialize(SMALL, 0), epoch), place)
    assert list(adopted(tmp_path / "mine").frame["model"]) == [inside or "mine"] * 2


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place = small(tmp_path / "mine", 1)
    monkeypatch.setattr("zoo_gen.adoption.write.write_index", lambda *_: 1 / 0)
    refused(main, f"folder={place}", f"path={tmp_path / 'zoo'}")
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine"]


def test_names_that_terminals_obey_are_printed_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    place = small(tmp_path / "mine", 1)
    (place / "[bold]\x1b[2Jodd.pt").write_bytes(b"no weights")
    assert adopted(place)
    printed = capsys.readouterr().out
    assert "[bold]" in printed
    assert "\x1b" not in printed


def test_numbers_that_are_names_are_no_epochs(tmp_path: Path):
    place = tmp_path / "mine"
    place.mkdir()
    for number in (7, 8):
        torch.save(tuned(initialize(SMALL, 0), number), place / f"000{number}.pt")
    assert set(adopted(place).frame["model"]) == {"0007", "0008"}


def test_folders_of_a_trainer_are_epochs_of_one_model(tmp_path: Path):
    for number, (step, epoch) in enumerate([(500, 1.0), (1000, 2.0), (1500, 3.0)]):
        write_transformers(tmp_path / "mine" / "run" / f"checkpoint-{step}", tuned(initialize(SMALL, 0), number))
        (tmp_path / "mine" / "run" / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps({"epoch": epoch}))
        torch.save({"state": {}}, tmp_path / "mine" / "run" / f"checkpoint-{step}" / "optimizer.pt")
    zoo = adopted(tmp_path / "mine")
    assert list(zoo.frame["epoch"]) == [1, 2, 3]
    assert not left_out(zoo)
    assert zoo[2].architecture["architecture"] == "vit_norm_eps"


def test_weights_are_copied_by_copy_true(tmp_path: Path):
    place = small(tmp_path / "mine", 1, suffix=".pt")
    zoo = adopted(place, "copy=true")
    (place / "m1.pt").unlink()
    assert not zoo[0].is_reference
    assert not list(problems(zoo.path))


def test_a_folder_without_weights_and_one_of_broken_ones_are_one_error(tmp_path: Path):
    (tmp_path / "none").mkdir()
    assert "holds no file of weights" in refused(main, f"folder={tmp_path / 'none'}", f"path={tmp_path / 'zoo'}")
    (tmp_path / "none" / "a.pt").write_bytes(b"no weights")
    assert "none of the 1 file of weights" in refused(main, f"folder={tmp_path / 'none'}", f"path={tmp_path / 'zoo'}")
    assert "there is no folder" in refused(main, f"folder={tmp_path / 'gone'}", f"path={tmp_path / 'zoo'}")


def test_an_adapter_never_reads_a_base_that_only_it_names(tmp_path: Path):
    base = tmp_path / "elsewhere.safetensors"
    write_weights(base, initialize(SMALL, 0))
    write_lora(small(tmp_path / "mine", 1) / "lora", str(base), initialize(SMALL, 0), 1)
    zoo = adopted(tmp_path / "mine")
    assert "is an adapter of the model" in left_out(zoo)["lora"]
    call(main, f"folder={tmp_path / 'mine'}", f"path={tmp_path / 'second'}", f"root={base}")
    assert set(Zoo.open(tmp_path / "second").frame["model"]) == {"m1", "lora", "elsewhere"}


def test_zoos_within_the_folder_are_passed_over_and_links_are_followed_once(tmp_path: Path):
    place = small(tmp_path / "mine", 1)
    (place / "zoo").mkdir()
    (place / "zoo" / "zoo.json").write_text("{}")
    (place / "again").symlink_to(place)
    assert set(adopted(place).frame["model"]) == {"m1"}


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]):
    call(main, "--help")
    printed = capsys.readouterr().out
    assert all(f"{name}:" in printed for name in ("folder", "path", "root", "metrics", "architecture", "images", "copy"))
