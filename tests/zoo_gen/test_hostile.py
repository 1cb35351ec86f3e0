"""A zoo that somebody else made is believed in nothing that it says of itself."""

import contextlib
import json
import pickle
import string
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest

from tests.foreign import ARCHITECTURE, vit, write_zoo
from zoo_gen import InputError, Zoo
from zoo_gen.architecture import build
from zoo_gen.blueprint import planned
from zoo_gen.config import instantiate
from zoo_gen.files import locked, write_json
from zoo_gen.foreign import flag_taken
from zoo_gen.index import read_index
from zoo_gen.parquet_footer import codecs_of
from zoo_gen.reader import Places, inside
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


def test_an_index_of_many_equal_rows_is_read(zoo: Zoo) -> None:
    frame = pd.read_parquet(zoo.path / "index.parquet").iloc[[0] * 10**5]
    frame.to_parquet(zoo.path / "index.parquet", index=False)
    assert len(Zoo.open(zoo.path)) == 10**5


@pytest.mark.parametrize("rows", [10**6, 3000])
def test_an_index_that_grows_is_refused(zoo: Zoo, rows: int) -> None:
    frame = pd.read_parquet(zoo.path / "index.parquet").iloc[[0] * rows]
    long = frame if rows > 10**5 else frame.assign(model="a" * 10**5)
    long.to_parquet(zoo.path / "index.parquet", index=False)
    with pytest.raises(InputError, match=r"rows of|far longer"):
        Zoo.open(zoo.path)


def test_a_card_may_not_write_files_though_its_target_is_ours(zoo: Zoo, tmp_path: Path) -> None:
    place = {"_target_": "wsl.run_files.run_folder", "path": str(tmp_path / "owned" / "x")}
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


@pytest.mark.parametrize(
    "name",
    [
        *("a/b/f", "a/g", "a/h", "l/out", "m/b/f", "../out", "/etc/passwd", "/a/b/f", "a//b/f", "a/./b/f", "a/../a/b/f"),
        *("", "a", "a/", "/", ".", "..", "a\0b", "x" * 300, "x/" * 400, "é/f", 3, None, "q/w/e"),
    ],
)
def test_many_places_are_those_of_one_by_one(tmp_path: Path, name: Any) -> None:
    folder = tmp_path / "zoo"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "f").touch()
    links = {"l": tmp_path, "a/g": tmp_path / "out", "a/h": folder / "a" / "b" / "f", "m": folder / "a"}
    for link, target in links.items():
        (folder / link).symlink_to(target)

    def outcome(find: Any) -> Any:
        try:
            return find(name)
        except InputError as error:
            return str(error)

    assert outcome(Places(folder)) == outcome(lambda name: inside(folder, name))


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


CARD: dict[str, Any] = {
    "images": [1, 1, 1],
    "num_classes": 2,
    "size": 8,
    "mean": [0.5],
    "std": [0.5],
    "seed": 0,
    "memory_gb": 1,
    "workers": 1,
}
FROM_TORCHVISION = {
    "_target_": "zoo_gen.sources.torchvision.torchvision",
    "train": {"train": True},
    "test": {"train": False},
    **CARD,
}


class Touch:
    """A pickle that leaves a file behind."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.place,)


def images(zoo: Zoo, *command_line: str, **card: Any) -> Any:
    """The images of a zoo of this card, as a command would load them."""
    zoo.config["config"]["finetune_images"] = card
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["command", *command_line])
        with flag_taken():
            assert sys.argv == ["command"]
            return zoo.images("finetune")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torchvision leaves the pickle open
@pytest.mark.parametrize(
    ("flags", "words", "runs"),
    [((), "could run code that lies there.*--trust-images", False), (("--trust-images",), "does not work", True)],
)
def test_a_data_set_that_unpickles_what_lies_there_is_not_opened(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], words: str, runs: bool
) -> None:
    class Environment:
        def begin(self, **_: Any) -> Any:
            return nullcontext(self)

        def stat(self) -> dict[str, int]:
            return {"entries": 1}

    monkeypatch.setitem(sys.modules, "lmdb", SimpleNamespace(open=lambda *_, **__: Environment()))
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "lsun"
    root.mkdir()
    cache = "_cache_" + "".join(letter for letter in str(root) if letter in string.ascii_letters)
    Path(cache).write_bytes(pickle.dumps(Touch(tmp_path / "owned")))
    card = {**FROM_TORCHVISION, "dataset": "LSUNClass", "root": str(root), "train": {}, "test": {}}
    with pytest.raises(InputError, match=words):
        images(zoo, *flags, **card)
    assert (tmp_path / "owned").exists() == runs


@pytest.mark.parametrize("name", ["MNIST", "CIFAR100"])
def test_the_images_of_a_zoo_are_not_downloaded_unless_the_user_says_so(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import torchvision

    fetched: list[str] = []
    monkeypatch.setattr(getattr(torchvision.datasets, name), "download", lambda data_set: fetched.append(data_set.root))
    part = {"train": True, "download": True}
    card = {**FROM_TORCHVISION, "dataset": name, "root": str(tmp_path / "root"), "train": part, "test": part}
    with pytest.raises(InputError, match="not found"):
        images(zoo, **card)
    assert fetched == []
    assert not (tmp_path / "root").exists()
    with pytest.raises(InputError, match="not found"):
        images(zoo, "--trust-images", **card)
    assert fetched


def test_pickles_of_old_versions_of_mnist_and_odd_arguments_are_refused(zoo: Zoo, tmp_path: Path) -> None:
    (tmp_path / "MNIST" / "processed").mkdir(parents=True)
    card = {**FROM_TORCHVISION, "dataset": "MNIST", "root": str(tmp_path)}
    with pytest.raises(InputError, match="could run code"):
        images(zoo, **card)
    with pytest.raises(InputError, match="take loader"):
        images(zoo, **{**card, "dataset": "CIFAR10", "train": {"loader": "x"}})


def test_a_data_set_of_the_hub_is_taken_from_the_cache_alone(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    offline: list[bool] = []

    def snapshot_download(source: str, *, local_files_only: bool, **_: Any) -> str:
        offline.append(local_files_only)
        raise OSError("nothing here")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    card = {
        "_target_": "zoo_gen.sources.parquet.parquet",
        "source": "a/b",
        "train": "*",
        "test": "*",
        "image": "i",
        "label": "l",
        **CARD,
    }
    with pytest.raises(InputError, match="not downloaded unless --trust-images"):
        images(zoo, **card, foreign=False)
    with pytest.raises(InputError, match="nothing here"):
        images(zoo, "--trust-images", **card)
    assert offline == [True, False]


@pytest.mark.parametrize("wrap", [lambda card: card, lambda card: [card], lambda card: {"a": card}])
def test_cards_within_the_card_of_images_are_refused(zoo: Zoo, tmp_path: Path, wrap: Any) -> None:
    inner = {**FROM_TORCHVISION, "dataset": "LSUNClass", "root": str(tmp_path)}
    with pytest.raises(InputError, match="another card in it"):
        images(zoo, _target_="zoo_gen.sources.folder.folder", path=wrap(inner), train="a", test="b", **CARD)


@pytest.mark.parametrize("samples", [10**12, "x", -1])
def test_a_blueprint_that_plans_too_much_or_nothing_is_not_planned(zoo: Zoo, samples: Any) -> None:
    config = json.loads((zoo.path / "zoo.json").read_text())["config"]
    assert len(planned(config, seed=0, most=2)) == 2
    config["finetune"]["samples"] = samples
    assert planned(config, seed=0, most=2) == []


def test_planning_a_foreign_zoo_opens_no_images(zoo: Zoo, tmp_path: Path) -> None:
    config = json.loads((zoo.path / "zoo.json").read_text())["config"]
    config["finetune_images"] = {"_target_": "pathlib.Path.touch", "self": str(tmp_path / "owned"), "num_classes": 3}
    assert len(planned(config, seed=0, most=2)) == 2
    for key in ("pretrain", "finetune", "architecture"):
        assert planned({**config, key: {"_target_": "zoo_gen.executors.local.LocalExecutor"}}, seed=0, most=2) == []
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(("codec", "number"), [("none", 0), ("snappy", 1), ("gzip", 2), ("zstd", 6)])
def test_the_codecs_of_a_parquet_file_are_read_from_its_footer(codec: str, number: int, tmp_path: Path) -> None:
    path = tmp_path / "one.parquet"
    columns = {"a": list(range(100)), "b": [["x"], []] * 50, "c": [{"d": 0.5, "e": True}] * 100}
    pyarrow.parquet.write_table(pyarrow.table(columns), path, compression=codec, row_group_size=30)
    assert codecs_of(path) == {number}
    for length in (0, 7, path.stat().st_size // 2):
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(ValueError, match="footer"):
            codecs_of(path)


def test_an_index_of_a_codec_that_pyarrow_would_end_the_process_at_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "index.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), path)
    content, found = path.read_bytes(), 0
    for place in range(len(content) - 8 - int.from_bytes(content[-8:-4], "little"), len(content) - 8):
        path.write_bytes(content[:place] + bytes([2 * 33]) + content[place + 1 :])
        with contextlib.suppress(ValueError):
            if codecs_of(path) == {33}:
                found += 1
                with pytest.raises(InputError, match="compressed by codec 33, not by snappy"):
                    read_index(path, tmp_path, adopted=False)
    assert found == 1
