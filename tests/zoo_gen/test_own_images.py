"""A folder or Parquet file of images is all that a zoo of them needs: the rest is found, and what disagrees is said first."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import timm
import torch
from PIL import Image

from tests.commands import call, refused
from tests.forks import forked
from tests.zoo_gen.test_sources import encoded
from tests.zoos import compose
from zoo_gen import InputError, Zoo
from zoo_gen.__main__ import main
from zoo_gen.blueprint import blueprint_of
from zoo_gen.config import instantiate
from zoo_gen.own_images import with_images
from zoo_gen.verify import main as verify

NAMES = ("cat", "dog", "fox")
TINY = (
    "zoo.pretrain.members=[{seed: 0}]",
    "zoo.pretrain.recipe.epochs=2",
    "zoo.finetune.recipe.epochs=2",
    "zoo.finetune.axes={head: [linear, mlp]}",
    "executor.processes=1",
)


def picture(label: int, number: int, *, side: int = 8, colour: bool = True) -> np.ndarray:
    """An image whose left half tells its label, and whose right half is noise."""
    rng = np.random.default_rng([label, number])
    pixels = rng.integers(0, 256, (side, side, 3 if colour else 1), dtype=np.uint8)
    pixels[:, : side // 2] = label * 60
    return pixels if colour else pixels[..., 0]


def write(folder: Path, count: int, names: Sequence[str] = NAMES, **look: Any) -> Path:
    """Writes `count` images of each class, one folder a class."""
    for name in names:
        label = [*NAMES, name].index(name)
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(picture(label, number, **look)).save(folder / name / f"{number}.png")
    return folder


def write_table(path: Path, count: int, *, labels: Sequence[int] = (0, 1, 2), names: Sequence[str] = (), **more: Any) -> Path:
    """Writes `count` images of each label into a Parquet file, as the hub does where the labels have names."""
    rows = [(label, number) for number in range(count) for label in labels]
    cells = [{"bytes": encoded(picture(label % 3, number)), "path": None} for label, number in rows]
    table = pa.table({"picture": cells, "kind": [label for label, _ in rows], **{name: list(more[name]) for name in more}})
    if names:
        features = {"kind": {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path)
    return path


def found(images: Path | str, zoo: str = "digits_mini", seed: int = 0, **given: Any) -> tuple[dict[str, Any], list[str]]:
    card = compose("zoo_gen", [f"zoo={zoo}", f"seed={seed}"])["zoo"]
    return with_images(card, images=str(images), **{"pretrain_images": None, "classes": [], "size": None, **given})


def card_of(images: Path | str, **given: Any) -> Mapping[str, Any]:
    return found(images, **given)[0]["finetune_images"]


def test_one_line_makes_a_zoo_whose_models_say_what_they_were_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "pets", 20, side=9)
    with forked():
        call(main, f"images={tmp_path / 'pets'}", "zoo=digits_mini", f"path={tmp_path / 'my_zoo'}", *TINY)
    printed = capsys.readouterr().out
    assert "3 classes (cat, dog, fox), train 42, val 6, test 12 (val and test drawn by seed 0); 8 x 8 pixels, 3 channels" in printed
    assert "resized from 9 pixels (4 x 4 patches of 2; size= changes that)" in printed
    zoo = Zoo.open(tmp_path / "my_zoo")
    assert zoo.name == "my_zoo"
    split = zoo.images("finetune")
    for checkpoint in zoo:
        config = checkpoint.architecture
        assert config["label_names"] == list(NAMES)
        assert (config["num_classes"], config["pretrained_cfg"]["input_size"]) == (3, [3, 8, 8])
        assert config["pretrained_cfg"]["mean"] == zoo.image_card("finetune")["mean"]
        assert checkpoint.build()(split.test.pixels[:2]).shape == (2, 3)
    opened: Any = timm.create_model(f"local-dir:{zoo[0].folder}", pretrained=True)
    assert opened.pretrained_cfg["label_names"] == list(NAMES)
    call(verify, str(tmp_path / "my_zoo"))
    assert "every hash, the records and the index agree" in capsys.readouterr().out


def test_mean_and_std_are_those_of_the_train_images_alone(tmp_path: Path) -> None:
    write(tmp_path / "train", 10)
    write(tmp_path / "val", 4)
    before = card_of(tmp_path)
    images = instantiate({**before, "mean": [0.0] * 3, "std": [1.0] * 3})
    mean, std = images.train.pixels.double().mean((0, 2, 3)), images.train.pixels.double().std((0, 2, 3), correction=0)
    assert torch.allclose(mean, torch.tensor(before["mean"], dtype=torch.float64), atol=1e-4)
    assert torch.allclose(std, torch.tensor(before["std"], dtype=torch.float64), atol=1e-4)
    for file in (tmp_path / "val").rglob("*.png"):
        Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(file)
    assert card_of(tmp_path) == before
    for file in (tmp_path / "train").rglob("*.png"):  # the negative control
        Image.fromarray(picture(0, 1) // 2).save(file)
    assert card_of(tmp_path)["mean"] != before["mean"]


def test_a_train_and_a_val_folder_are_train_and_test_and_val_is_drawn(tmp_path: Path) -> None:
    write(tmp_path / "train", 10)
    write(tmp_path / "valid", 4)
    assert card_of(tmp_path)["images"] == [27, 3, 12]


def test_three_folders_are_three_splits(tmp_path: Path) -> None:
    for split, count in (("Train", 10), ("val", 2), ("test", 4)):
        write(tmp_path / split, count)
    card = card_of(tmp_path)
    assert card["images"] == [30, 6, 12]
    images = instantiate(card)
    assert images.val.labels.bincount().tolist() == [2, 2, 2]


def test_classes_have_their_shares_of_splits_that_are_drawn(tmp_path: Path) -> None:
    write(tmp_path, 10)
    write(tmp_path, 40, names=("rare_not",))
    images = instantiate(card_of(tmp_path))
    for split, each in ((images.train, [7, 7, 7, 28]), (images.val, [1, 1, 1, 4]), (images.test, [2, 2, 2, 8])):
        assert np.abs(split.labels.bincount().numpy() - each).max() <= 1
    pixels = torch.cat([images.train.pixels, images.val.pixels, images.test.pixels]).flatten(1)
    assert len(pixels.unique(dim=0)) == len(pixels)  # no image twice
    other = instantiate(card_of(tmp_path, seed=1))
    assert not torch.equal(other.train.pixels, images.train.pixels)


def test_images_without_colour_have_one_channel_however_they_are_stored(tmp_path: Path) -> None:
    write(tmp_path, 10, colour=False)
    for file in tmp_path.rglob("*.png"):
        Image.open(file).convert("RGB").save(file)
    zoo, (line,) = found(tmp_path)
    assert "1 channel," in line
    assert zoo["architecture"]["in_chans"] == 1
    Image.fromarray(picture(1, 1)).save(tmp_path / "cat" / "0.png")  # the negative control: one is in colour
    Image.fromarray(picture(1, 1)).save(tmp_path / "cat" / "1.png")
    Image.fromarray(picture(1, 1)).save(tmp_path / "cat" / "2.png")
    Image.fromarray(picture(1, 1)).save(tmp_path / "cat" / "3.png")
    assert found(tmp_path)[0]["architecture"]["in_chans"] == 3


def test_classes_are_kept_by_name_or_number_in_the_order_given(tmp_path: Path) -> None:
    write(tmp_path, 10)
    card = card_of(tmp_path, classes=["fox", "0"])
    assert (card["classes"], card["label_names"], card["num_classes"]) == ([2, 0], ["fox", "cat"], 3)
    assert instantiate(card).num_classes == 2


def test_a_parquet_file_is_split_and_its_columns_are_found(tmp_path: Path) -> None:
    card = card_of(write_table(tmp_path / "train[1].parquet", 10, names=["a", "b", "c"]))
    assert (card["image"], card["label"], card["label_names"], card["images"]) == ("picture", "kind", ["a", "b", "c"], [21, 3, 6])
    assert len(instantiate(card).train) == 21


def test_parquet_files_are_split_by_their_names_and_labels_may_begin_at_one(tmp_path: Path) -> None:
    for name, count in (("data/train-0", 6), ("data/train-1", 4), ("data/test-0", 2)):
        write_table(tmp_path / f"{name}.parquet", count, labels=(1, 2, 4))
    card = card_of(tmp_path)
    assert (card["train"], card["val"], card["images"]) == ("data/train-*.parquet", None, [27, 3, 6])
    assert (card["classes"], card["label_names"]) == ([1, 2, 4], ["1", "2", "4"])
    assert sorted(set(instantiate(card).train.labels.tolist())) == [0, 1, 2]


@pytest.mark.parametrize("kind", ["folder", "Parquet file"])
def test_a_zoo_opens_its_images_from_any_folder_however_they_were_named(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write(tmp_path / "pets", 10) if kind == "folder" else write_table(tmp_path / "pets.parquet", 10)
    monkeypatch.chdir(tmp_path)
    card = card_of(place.name)
    monkeypatch.chdir("/")
    assert len(instantiate(card).train) == 21


def test_a_hub_data_set_is_looked_at_where_it_was_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(tmp_path / "data" / "train.parquet", 10)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: str(tmp_path))
    card = card_of("owner/name")
    assert (card["source"], card["train"]) == ("owner/name", "data/train.parquet")
    assert len(instantiate(card).train) == 21


def test_roots_may_have_images_of_their_own_and_both_have_one_shape(tmp_path: Path) -> None:
    write(tmp_path / "own", 10, colour=False)
    write(tmp_path / "roots", 10, names=("x", "y"), side=20)
    zoo, lines = found(tmp_path / "own", pretrain_images=str(tmp_path / "roots"))
    assert len(lines) == 2
    blueprint = blueprint_of(zoo, load=["pretrain", "finetune"])
    assert [blueprint.images(stage).num_classes for stage in ("pretrain", "finetune")] == [2, 3]
    assert {blueprint.images(stage).train.pixels.shape[1:] for stage in ("pretrain", "finetune")} == {(3, 8, 8)}


def test_a_card_of_images_may_be_named(tmp_path: Path) -> None:
    zoo, _ = found(write(tmp_path / "own", 10, colour=False), pretrain_images="digits_0_to_4")
    blueprint = blueprint_of(zoo, load=["pretrain", "finetune"])
    assert blueprint.pretrain_images.num_classes == 5
    named, (line,) = found("cifar100", zoo="cifar100")
    assert named["finetune_images"]["source"] == "uoft-cs/cifar100"
    assert "32 x 32 pixels, 3 channels" in line


def test_large_images_are_made_small_unless_a_size_is_given(tmp_path: Path) -> None:
    write(tmp_path, 10, side=70)
    assert card_of(tmp_path)["size"] == 32
    assert card_of(tmp_path, size=64)["size"] == 64


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": 9}, r"size=9 is no multiple of the architecture's patch size 2; choose size=8 or size=10"),
        ({"size": 1}, r"choose size=2, or"),
        ({"classes": ["cow", "cat"]}, r"has no images of the class 'cow'; its classes are cat, dog, fox"),
        ({"classes": ["cat"]}, r"two or more different classes, not cat"),
        ({"classes": ["cat", "0"]}, r"two or more different classes"),
        ({"pretrain_images": "nowhere"}, r"there are no images at nowhere; name a folder"),
    ],
)
def test_what_disagrees_with_the_images_is_one_line(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    write(tmp_path, 10)
    with pytest.raises(InputError, match=message):
        found(tmp_path, **given)


def test_data_that_are_no_classes_of_images_are_one_line(tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(picture(0, number)).save(tmp_path / f"{number}.png")
    with pytest.raises(InputError, match="no class folders; put the images of each class into a folder"):
        found(tmp_path)
    write(tmp_path / "few", 2)
    with pytest.raises(InputError, match="each class needs two train images"):
        found(tmp_path / "few")
    write(tmp_path / "dark", 5)
    for file in (tmp_path / "dark").rglob("*.png"):
        Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(file)
    with pytest.raises(InputError, match="nothing to learn"):
        found(tmp_path / "dark")
    file = next(write(tmp_path / "broken", 10).rglob("*.png"))
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(InputError, match=f"image {file} cannot be read"):
        blueprint_of(found(tmp_path / "broken")[0], load=["finetune"])


def test_ambiguous_columns_and_files_are_listed(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", 4, height=range(12))
    with pytest.raises(InputError, match=r"has 1 and 2: picture \(struct<.*, kind \(int64\), height \(int64\); leave one of each"):
        found(tmp_path / "a.parquet")
    write_table(tmp_path / "b.parquet", 4, names=["a", "b", "c"], height=range(12))
    assert card_of(tmp_path / "b.parquet")["label"] == "kind"
    write_table(tmp_path / "c.parquet", 40, labels=[5 * 2**20, 1])
    with pytest.raises(InputError, match="not 0, 1, 2"):
        found(tmp_path / "c.parquet")
    write_table(tmp_path / "many" / "x" / "train.parquet", 4)
    write_table(tmp_path / "many" / "y" / "train.parquet", 4)
    write_table(tmp_path / "many" / "other.parquet", 4)
    with pytest.raises(InputError, match="Parquet files of several kinds"):
        found(tmp_path / "many")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["size=16"], "go with images="),
        (["classes=[cat]"], "go with images="),
        (["images=pets", "zoo.architecture.img_size=16"], "images= finds what zoo.architecture.img_size=16 sets"),
        (["images=pets", "images@zoo.finetune_images=cifar100"], "images= finds what"),
        (["images=pets", "size=9", "plan=true"], "size=9 is no multiple"),
        (["images=pets"], "there are no images at pets"),
    ],
)
def test_a_command_that_cannot_be_met_writes_nothing(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "size=9" in arguments:
        write(tmp_path / "pets", 10)
    assert message in refused(main, "zoo=digits_mini", *arguments)
    assert not (tmp_path / "checkpoints").exists()


def test_a_plan_looks_at_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "pets", 10)
    call(main, "images=pets", "plan=true", *TINY)
    printed = capsys.readouterr().out
    assert "images pets: 3 classes" in printed
    assert "Plan: nothing was trained" in printed
    assert not (tmp_path / "checkpoints").exists()
