"""A zoo that somebody else made is believed in nothing that it says of itself."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.foreign import ARCHITECTURE, vit, write_zoo
from zoo_gen import InputError, Zoo
from zoo_gen.architecture import build
from zoo_gen.config import instantiate
from zoo_gen.files import locked, write_json
from zoo_gen.verify import problems


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    return write_zoo(tmp_path / "zoo", vit())


def test_the_zoo_of_these_tests_is_a_good_one(zoo: Zoo) -> None:
    assert list(problems(zoo.path)) == []
    assert zoo[0].build()


@pytest.mark.parametrize("name", ["zoo.json", "index.parquet", "model.safetensors", "config.json"])
def test_a_link_out_of_the_zoo_is_not_followed(zoo: Zoo, tmp_path: Path, name: str) -> None:
    (place,) = {zoo.path / name, zoo[0].folder / name} & {*zoo.path.rglob("*")}
    place.rename(tmp_path / name)
    place.symlink_to(tmp_path / name)
    with pytest.raises(InputError, match="outside"):
        Zoo.open(zoo.path)[0].build()


@pytest.mark.parametrize(("key", "value"), [("name", 3), ("seed", "x"), ("models", True), ("stacks", []), ("config", None)])
def test_a_description_of_wrong_types_is_refused(zoo: Zoo, key: str, value: Any) -> None:
    described = json.loads((zoo.path / "zoo.json").read_text())
    (zoo.path / "zoo.json").write_text(json.dumps(described | {key: value}))
    with pytest.raises(InputError, match=rf"'{key}' is"):
        Zoo.open(zoo.path)


@pytest.mark.parametrize("model", ["../../elsewhere", "a\0b", "x" * 300, "x/" * 600])
def test_a_model_of_an_odd_name_leads_nowhere(zoo: Zoo, model: str) -> None:
    described = json.loads((zoo.path / "zoo.json").read_text())
    described["stacks"]["pretrain_0"]["models"] = [model]
    (zoo.path / "zoo.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match=r"outside of it|no path|too long"):
        list(problems(zoo.path))


@pytest.mark.parametrize("rows", [10**6, 3000])
def test_an_index_that_grows_is_refused(zoo: Zoo, rows: int) -> None:
    frame = pd.read_parquet(zoo.path / "index.parquet").iloc[[0] * rows]
    long = frame if rows > 10**5 else frame.assign(model="a" * 10**5)
    long.to_parquet(zoo.path / "index.parquet", index=False)
    with pytest.raises(InputError, match=r"rows of|far longer"):
        Zoo.open(zoo.path)


def test_a_card_may_not_write_files_though_its_target_is_ours(zoo: Zoo, tmp_path: Path) -> None:
    place = {"_target_": "wsl.run.run_folder", "path": str(tmp_path / "owned" / "x")}
    card = {"_target_": "zoo_gen.files.write_json", "path": place, "content": {}}
    with pytest.raises(InputError, match="nothing was executed"):
        instantiate(card)
    zoo.config["config"]["finetune_images"] = {"_target_": "zoo_gen.executors.local.LocalExecutor", "processes": 1}
    with pytest.raises(InputError, match="nothing was executed"):  # a card's target, but not one of images
        zoo.images("finetune")
    assert not (tmp_path / "owned").exists()
    write_json(tmp_path / "owned" / "x", {})  # what the card would have done
    assert (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "arguments", [{"pretrained": True}, {"checkpoint_path": "x.pth"}, {"depth": 10**6}, {"embed_dim": 10**9}, {"num_heads": 0}]
)
def test_a_description_of_a_model_may_not_fetch_or_be_absurd(arguments: dict[str, Any]) -> None:
    described: dict[str, Any] = ARCHITECTURE
    assert build(described)
    with pytest.raises(InputError, match=r"config\.json"):
        build(described | {"model_args": described["model_args"] | arguments})


def test_a_lock_that_is_a_link_does_not_empty_its_target(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="symbolic link"), locked(tmp_path / ".lock", "zoo"):
        pass
    assert (tmp_path / "precious").read_text() == "kept"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("digits", "zoo=digits$"), ("digits-seed3", "zoo=digits seed=3$"), ("mine", r"choose a card \(.*digits_mini")],
)
def test_a_missing_zoo_says_what_to_do(tmp_path: Path, name: str, hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        Zoo.open(tmp_path / name)
