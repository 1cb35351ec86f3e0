"""Each single edit of a zoo is found and named, and none changes a label or a split in silence."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from zoo_gen import InputError, Zoo
from zoo_gen.content import SEAL, content_hash, sealed
from zoo_gen.files import write_json
from zoo_gen.index import COLUMNS, CONFIG, FILES, RESULTS
from zoo_gen.verify import problems, repair


@pytest.fixture(scope="module")
def place(wide_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(wide_zoo, tmp_path_factory.mktemp("guard") / "zoo"))


@pytest.fixture
def zoo(place: Path) -> Iterator[Path]:
    """A zoo of 3 roots and 6 children that is as it was again after each test."""
    before = {file: file.read_bytes() for file in place.rglob("*") if file.is_file()}
    yield place
    for file in place.rglob("*"):
        if file.is_symlink() or (file.is_file() and file not in before):
            file.unlink()
    for file, content in before.items():
        if not file.is_file() or file.read_bytes() != content:
            file.write_bytes(content)


def found(zoo: Path) -> str:
    """All that verify says of a zoo."""
    try:
        return "\n".join(problems(zoo))
    except InputError as error:
        return str(error)


def child(zoo: Path) -> str:
    return str(Zoo.open(zoo).select(stage="finetune").frame["model"][0])


def other(value: Any) -> Any:
    """Another value of the same kind, such as somebody would plant."""
    if value is None or value is pd.NA or value != value:
        return 1
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return f"{value}x"
    if isinstance(value, list):
        return value[:-1]
    return {**value, "planted": 1}


def edit(path: Path, *keys: str | int, to: Callable[[Any], Any] = other) -> None:
    """Changes one value of a JSON file."""
    content = json.loads(path.read_text())
    node = content
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = to(node[keys[-1]])
    path.write_text(json.dumps(content))


def test_the_zoo_of_these_tests_has_no_problems(zoo: Path) -> None:
    assert found(zoo) == ""


@pytest.mark.parametrize("column", COLUMNS)
def test_one_changed_cell_of_the_index_is_found_and_named(zoo: Path, column: str) -> None:
    frame, before = pd.read_parquet(zoo / "index.parquet"), Zoo.open(zoo).content_hash
    row = int(frame.index[frame["stage"] == "finetune"][0])
    values = frame[column].astype(object).tolist()
    values[row] = other(values[row])
    frame.assign(**{column: values}).to_parquet(zoo / "index.parquet", index=False)
    assert f"{column} of" in found(zoo) if column != "path" else "which no record names" in found(zoo)
    if column not in ("path", "sha256"):
        assert Zoo.open(zoo).content_hash != before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda frame: pd.concat([frame, frame.iloc[[3]]]), "2 times"),
        (lambda frame: frame.drop(index=5), "the index lacks"),
        (lambda frame: frame.iloc[[1, 0, *range(2, len(frame))]], "another order"),
        (lambda frame: frame.drop(columns=CONFIG), CONFIG),
        (lambda frame: frame.assign(fold=frame["fold"].map({0: 1, 1: 2, 2: 3, 3: 4, 4: 0})), "fold of"),
    ],
)
def test_rows_and_columns_that_come_go_or_move_are_found(zoo: Path, change: Callable, words: str) -> None:
    change(pd.read_parquet(zoo / "index.parquet")).to_parquet(zoo / "index.parquet", index=False)
    assert words in found(zoo)


RECORD = ["model", "root", "parent", "stage", "fold", "diverged_epoch", CONFIG, "checkpoints"]
OF_CHECKPOINT = ["epoch", "final", *FILES]


@pytest.mark.parametrize(
    "keys",
    [
        *([key] for key in RECORD),
        *(["factors", factor] for factor in ("pretraining", "learning_rate", "optimizer", "seed", "head", "width")),
        *(["checkpoints", 0, key] for key in OF_CHECKPOINT),
        *(["checkpoints", 1, "results", key] for key in RESULTS),
    ],
    ids=str,
)
def test_one_changed_value_of_a_record_is_found_and_named(zoo: Path, keys: list) -> None:
    record = zoo / "models" / child(zoo) / "record.json"
    edit(record, *keys)
    assert record.parent.name in found(zoo)
    assert keys[-1] in {"checkpoints", "path", "epoch"} or keys[-1] in found(zoo)


def test_a_label_that_was_changed_in_a_record_is_found_after_the_index_was_made_again(zoo: Path) -> None:
    before = Zoo.open(zoo).content_hash
    edit(zoo / "models" / child(zoo) / "record.json", "factors", "learning_rate")
    repair(zoo)
    assert "another learning_rate than zoo.json plans" in found(zoo)
    assert Zoo.open(zoo).content_hash != before


@pytest.mark.parametrize("key", ["architecture", "num_classes", "model_args", "pretrained_cfg"])
def test_one_changed_value_of_an_architecture_is_found_and_named(zoo: Path, key: str) -> None:
    config = zoo / "models" / child(zoo) / "config.json"
    edit(config, key)
    assert f"{config} is not the one" in found(zoo)


@pytest.mark.parametrize(
    "keys",
    [
        *([key] for key in ("format", "format_version", "name", "seed", "models", "config", "stacks", "software", SEAL)),
        *(["config", key] for key in ("architecture", "pretrain_images", "finetune_images", "pretrain", "finetune", "keep_every")),
        ["config", "finetune_images", "seed"],
        ["stacks", "finetune_002", "models"],
    ],
    ids=str,
)
def test_one_changed_value_of_the_description_is_found(zoo: Path, keys: list) -> None:
    name = keys[-2] if "stacks" in keys[:-1] else ""
    stacks = json.loads((zoo / "zoo.json").read_text())["stacks"]
    keys = ["stacks", next(key for key in stacks if key.startswith("finetune")), "models"] if name else keys
    edit(zoo / "zoo.json", *keys, to=(lambda _: 1) if keys == ["format_version"] else other)
    assert "zoo.json" in found(zoo)


def test_files_that_are_swapped_doubled_linked_or_surplus_are_found(zoo: Path) -> None:
    one, two = list(Zoo.open(zoo).select(stage="finetune", final=True))[:2]
    contents = [checkpoint.path.read_bytes() for checkpoint in (one, two)]
    one.path.write_bytes(contents[1])
    two.path.write_bytes(contents[0])
    assert f"{one.path} is not the file" in found(zoo)
    assert f"{two.path} is not the file" in found(zoo)
    one.path.write_bytes(contents[0])
    two.path.unlink()
    two.path.symlink_to(one.path)
    assert "symbolic link" in found(zoo)
    two.path.unlink()
    two.path.write_bytes(contents[1])
    shutil.copytree(one.folder, one.folder.with_name("copy"))
    assert "copy is of no model of zoo.json" in found(zoo)
    shutil.rmtree(one.folder.with_name("copy"))
    shutil.copy(one.folder / "config.json", two.folder / "config.json")
    assert found(zoo) == ""
    swapped = [(checkpoint.folder / "record.json").read_bytes() for checkpoint in (two, one)]
    for checkpoint, content in zip((one, two), swapped, strict=True):
        (checkpoint.folder / "record.json").write_bytes(content)
    assert "it is of another model" in found(zoo)


def planted_copy(zoo: Path, stage: str) -> tuple[str, str]:
    """Puts the weights of one model in place of another's, with records and index that agree on it."""
    of_stage = Zoo.open(zoo).select(stage=stage, final=True)
    one, *others = of_stage
    two = next(checkpoint for checkpoint in others if checkpoint.architecture == one.architecture and checkpoint.fold != one.fold)
    shutil.copy(one.path, two.path)
    hashes = of_stage.frame.set_index("model").loc[one.model]
    for key in ("sha256", "weights_sha256"):
        edit(two.folder / "record.json", "checkpoints", -1, key, to=lambda _, key=key: hashes[key])
    repair(zoo)
    return one.model, two.model


def test_equal_weights_under_two_names_are_found_and_not_split(zoo: Path) -> None:
    one, two = planted_copy(zoo, "finetune")
    assert f"models {one} and {two} have equal weights (1 checkpoint)" in found(zoo)
    fold = int(Zoo.open(zoo).select(model=one).frame["fold"][0])
    with pytest.raises(InputError, match=f"{one}.*and {two}.*equal weights|{two}.*and {one}.*equal weights"):
        Zoo.open(zoo).split("by_model", fold=fold)


@pytest.mark.parametrize(("scheme", "column"), [("by_model", "fold"), ("leave_root_out", "root")])
def test_a_model_with_its_epochs_in_two_parts_is_not_split(zoo: Path, scheme: str, column: str) -> None:
    frame = pd.read_parquet(zoo / "index.parquet")
    children = frame[frame["stage"] == "finetune"]
    row = int(children.index[0])
    values = sorted(children[column].unique())
    place = values.index(frame.loc[row, column])
    frame.loc[row, column] = values[place - 1]
    frame.to_parquet(zoo / "index.parquet", index=False)
    fold = int(values[place]) if column == "fold" else place
    with pytest.raises(InputError, match=f"model {re.escape(frame['model'][row])} is in"):
        Zoo.open(zoo).split(scheme, fold=fold)


@pytest.mark.parametrize("content", [{}, {"checkpoints": {}}, {"checkpoints": [{}]}, []])
def test_records_of_wrong_form_are_one_clear_error_wherever_they_are_read(zoo: Path, content: Any) -> None:
    record = zoo / "models" / child(zoo) / "record.json"
    record.write_text(json.dumps(content))
    assert f"{record} is damaged" in found(zoo)
    with pytest.raises(InputError, match=r"record\.json is damaged"):
        repair(zoo)


@pytest.mark.parametrize("content", [{}, {"format": "zoo_gen", "format_version": 2}])
def test_a_description_of_wrong_form_is_not_repaired_from(zoo: Path, content: Any) -> None:
    (zoo / "zoo.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"zoo\.json"):
        repair(zoo)


def older(zoo: Path) -> None:
    """Makes a zoo what format 1 was: no hash of itself, nor of any config.json."""
    for record in zoo.glob("models/*/record.json"):
        told = json.loads(record.read_text())
        del told[CONFIG]
        write_json(record, told)
    description = json.loads((zoo / "zoo.json").read_text())
    del description[SEAL]
    write_json(zoo / "zoo.json", {**description, "format_version": 1})
    pd.read_parquet(zoo / "index.parquet").drop(columns=CONFIG).to_parquet(zoo / "index.parquet", index=False)


def test_a_zoo_of_format_1_is_read_and_becomes_one_of_format_2_by_repair(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from zoo_gen.content import say_unguarded

    new, files = Zoo.open(zoo), {file: file.read_bytes() for file in zoo.rglob("*.safetensors")}
    older(zoo)
    say_unguarded.cache_clear()
    old = [Zoo.open(zoo), Zoo.open(zoo)][0]
    (said,) = capsys.readouterr().err.splitlines()
    assert "does not guard labels and splits" in said
    assert "--repair" in said
    assert found(zoo) == ""
    assert old.content_hash == content_hash(new.frame, {"format_version": 1}) != new.content_hash
    repair(zoo)
    assert Zoo.open(zoo).content_hash == new.content_hash
    assert found(zoo) == ""
    assert {file: file.read_bytes() for file in zoo.rglob("*.safetensors")} == files


def test_a_zoo_of_format_1_with_a_changed_label_gets_no_new_hash(zoo: Path) -> None:
    older(zoo)
    edit(zoo / "models" / child(zoo) / "record.json", "fold")
    with pytest.raises(InputError, match=r"another fold than zoo\.json plans.*nothing was written"):
        repair(zoo)
    assert json.loads((zoo / "zoo.json").read_text())["format_version"] == 1


def test_a_zoo_without_a_blueprint_is_guarded_by_its_hashes(zoo: Path) -> None:
    description = json.loads((zoo / "zoo.json").read_text())
    write_json(zoo / "zoo.json", sealed({**description, "config": {}}))
    repair(zoo)
    assert found(zoo) == ""
    edit(zoo / "models" / child(zoo) / "record.json", "factors", "learning_rate")
    assert "learning_rate of" in found(zoo)
