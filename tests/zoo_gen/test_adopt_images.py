"""Adopted models are measured on images that the user names."""

import json
from pathlib import Path

import pytest
import timm
import torch

from tests.commands import call, refused
from tests.zoo_gen.test_adopt import adopted, card, left_out, small
from tests.zoo_gen.test_own_images import NAMES, write, write_table
from zoo_gen import Zoo
from zoo_gen.adopt import main


def test_measured_models_have_the_results_of_a_zoo_that_was_made_here(tiny_zoo: Path, tmp_path: Path):
    whole = Zoo.open(tiny_zoo)
    models = [one.model for one in whole.select(stage="finetune", final=True, status="ok")][:4]
    for model in models:
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / model).symlink_to(tiny_zoo / "models" / model)
    card = tmp_path / "images.yaml"
    card.write_text(json.dumps(whole.image_card("finetune")))
    zoo = adopted(tmp_path / "mine", f"images={card}")
    there = {(one.model, one.epoch): one.results for one in whole.select(model=models)}
    assert {(one.model, one.epoch) for one in zoo} == there.keys()
    for one in zoo:
        for name in ("val_loss", "test_loss", "val_accuracy", "test_accuracy"):
            assert one.results[name] == pytest.approx(there[one.model, one.epoch][name], abs=1e-5)
    assert zoo.images("finetune").num_classes == 5


def test_models_that_do_not_take_the_images_are_said_and_stay(tmp_path: Path):
    zoo = adopted(small(tmp_path / "mine", 1), f"architecture={card(tmp_path)}", "images=digits_0_to_4")
    assert "it has 3 classes, the images have 5" in left_out(zoo)["m1"]
    assert zoo.frame["test_accuracy"].isna().all()


@pytest.mark.parametrize("kind", ["folder", "Parquet file"])
def test_a_folder_or_parquet_file_is_what_models_are_measured_on_as_they_take_it(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    is_folder = kind == "folder"
    images = write(tmp_path / "pets", 20, side=9) if is_folder else write_table(tmp_path / "pets.parquet", 20, names=NAMES)
    place, architecture = small(tmp_path / "mine", 1, 2), f"architecture={card(tmp_path)}"
    call(main, f"folder={place}", f"path={tmp_path / 'usual'}", architecture, f"images={images}")
    assert "8 x 8 pixels; labels 0 cat, 1 dog, 2 fox" in capsys.readouterr().out
    call(main, f"folder={place}", f"path={tmp_path / 'other'}", architecture, f"images={images}", "classes=[fox,cat,dog]")
    assert "labels 0 fox, 1 cat, 2 dog" in capsys.readouterr().out
    usual, other = (Zoo.open(tmp_path / name) for name in ("usual", "other"))
    assert not left_out(usual)
    told = usual.image_card("finetune")
    assert (told["size"], told["mean"], told["std"], told["images"]) == (8, [0.5], [0.5], [42, 6, 12])
    test = usual.images("finetune").test
    for one in usual:
        outputs = one.build()(torch.cat(list(test.batches([torch.arange(len(test))])))).detach()
        assert one.results["test_accuracy"] == pytest.approx(float((outputs.argmax(1) == test.labels).float().mean()))
        assert one.results["test_loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(outputs, test.labels)), rel=1e-4)
    assert other.frame["test_loss"].to_numpy() != pytest.approx(usual.frame["test_loss"].to_numpy(), rel=1e-4)


def test_models_whose_config_tells_no_mean_are_measured_by_that_of_the_images(tmp_path: Path):
    place = tmp_path / "mine"
    place.mkdir()
    torch.save(timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=3).state_dict(), place / "a.pt")
    images = write(tmp_path / "pets", 10, side=40)
    zoo = adopted(place, "architecture=vit_tiny_patch16_224", f"images={images}")
    told = zoo.image_card("finetune")
    assert told["size"] == 32
    assert len(told["mean"]) == 3
    assert 0 < told["mean"][0] < 1
    assert zoo[0].results["test_loss"] is not None


def test_images_that_are_not_there_and_classes_without_images_are_one_error(tmp_path: Path):
    arguments = (f"folder={small(tmp_path / 'mine', 1)}", f"path={tmp_path / 'zoo'}")
    assert "there are no images at nowhere; name a folder, a Parquet file" in refused(main, *arguments, "images=nowhere")
    assert "classes= goes with images=" in refused(main, *arguments, "classes=[a,b]")
    assert "write it into a.yaml" in refused(main, *arguments, "images=a.yaml", "classes=[a,b]")
