"""Tables of an adopted folder say epochs, lineage and results; what contradicts itself is refused."""

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.commands import refused
from tests.zoo_gen.test_adopt import adopted, left_out, small
from tests.zoos import SMALL, tuned
from zoo_gen.adopt import main
from zoo_gen.architecture import initialize
from zoo_gen.files import write_weights


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl"])
def test_tables_of_every_kind_say_the_same(suffix: str, tmp_path: Path):
    rows = [
        {"name": "m1", "score": 1.5, "team": "a", "lucky": True, "when": "2026-01-01"},
        {"name": "m2.safetensors", "score": None},
    ]
    frame, table = pd.DataFrame(rows), tmp_path / f"table{suffix}"
    match suffix:
        case ".parquet":
            frame.to_parquet(table)
        case ".jsonl":
            table.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case _:
            frame.to_csv(table, index=False, sep="\t" if suffix == ".tsv" else ",")
    zoo = adopted(small(tmp_path / "mine", 1, 2), f"metrics={table}")
    first, second = zoo.select(model="m1")[0].columns, zoo.select(model="m2")[0].columns
    assert first == {"score": 1.5, "team": "a", "lucky": "True", "when": "2026-01-01"}
    assert set(second.values()) == {None}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"name": ["m1"], "sha256": ["x"]}, "has a column 'sha256', which is one of the format's own; rename it"),
        ({"name": ["m1"], "path": ["x"]}, "has a column 'path', which is one of the format's own; rename it"),
        ({"who": ["m1"]}, "has none of the columns file, path, model, name"),
        ({"name": ["m9"]}, "no name of"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_error(columns: dict[str, list[str]], message: str, tmp_path: Path):
    pd.DataFrame(columns).to_csv(tmp_path / "table.csv", index=False)
    place = small(tmp_path / "mine", 1)
    assert message in refused(main, f"folder={place}", f"path={tmp_path / 'zoo'}", f"metrics={tmp_path / 'table.csv'}")
    assert not (tmp_path / "zoo").exists()


def test_a_table_gives_epochs_models_and_rows_of_single_checkpoints(tmp_path: Path):
    rows = [
        {"file": f"m{number}", "model": "mine", "epoch": number, "test_loss": 1 / number, "score": number} for number in (1, 2, 3)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    zoo = adopted(small(tmp_path / "mine", 1, 2, 3), f"metrics={tmp_path / 'table.csv'}")
    assert list(zoo.frame["model"].unique()) == ["mine"]
    assert [(one.epoch, one.columns["score"]) for one in zoo] == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert list(zoo.frame["test_loss"]) == pytest.approx([1, 1 / 2, 1 / 3])


@pytest.mark.parametrize(
    ("rows", "column"),
    [
        ([{"name": "m1", "score": 1.5}, {"name": "m1.safetensors", "score": 2.5}], "score of m1 is 1.5 in row 1 and 2.5 in row 2"),
        ([{"name": "m1", "test_accuracy": 0.5}, {"name": "m1", "test_accuracy": 0.75}], "test_accuracy of m1 is 0.5"),
        ([{"name": "m1", "learning_rate": 0.1}, {"name": "m1", "learning_rate": 0.2}], "learning_rate of m1 is 0.1"),
        ([{"name": "m1", "root": "m2"}, {"name": "m1", "root": "m3"}], "root of m1 is 'm2' in row 1 and 'm3' in row 2"),
        ([{"name": "m1", "epoch": 1}, {"name": "m1", "epoch": 2}], "keep the row of the epoch that the file is of"),
        ([{"name": "m1", "model": "a"}, {"name": "m1", "model": "b"}], "model of m1"),
        ([{"name": "run", "test_loss": 1}, {"name": "run", "epoch": 2, "test_loss": 2}], "test_loss of run (epoch 2) is 1.0"),
        ([{"name": "run", "epoch": 1, "team": "a"}, {"name": "run", "epoch": 1, "team": "b"}], "team of run (epoch 1) is 'a'"),
    ],
)
def test_rows_that_contradict_each_other_are_refused(rows: list[dict[str, object]], column: str, tmp_path: Path):
    place = small(tmp_path / "mine", 1, 2, 3)
    for epoch in (1, 2):
        (place / "run").mkdir(exist_ok=True)
        write_weights(place / "run" / f"epoch_{epoch}.safetensors", tuned(initialize(SMALL, 0), 3 + epoch))
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    message = refused(main, f"folder={place}", f"path={tmp_path / 'zoo'}", f"metrics={tmp_path / 'table.csv'}")
    assert "two rows of the table contradict each other" in message
    assert column in message
    assert not (tmp_path / "zoo").exists()
    pd.DataFrame([rows[0], rows[0]]).to_csv(tmp_path / "table.csv", index=False)
    assert adopted(place, f"metrics={tmp_path / 'table.csv'}")  # equal rows may stand there twice


def test_of_a_log_of_all_epochs_the_row_of_the_file_counts(tmp_path: Path):
    place = tmp_path / "mine" / "run"
    place.mkdir(parents=True)
    write_weights(place / "epoch_2.safetensors", tuned(initialize(SMALL, 0), 1))
    rows = [{"name": "run", "epoch": epoch, "test_loss": 1 / epoch} for epoch in (1, 2, 3)]
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    zoo = adopted(tmp_path / "mine", f"metrics={tmp_path / 'table.csv'}")
    assert zoo[0].results["test_loss"] == pytest.approx(0.5)
    assert sorted(left_out(zoo)) == ["table, row 1", "table, row 3"]


def test_parents_of_a_table_lead_to_roots_and_circles_to_none(tmp_path: Path):
    parents = {"m1": None, "m2": "m1", "m3": "m2", "m4": "m5", "m5": "m4"}
    pd.DataFrame({"name": parents.keys(), "parent": parents.values()}).to_csv(tmp_path / "table.csv", index=False)
    zoo = adopted(small(tmp_path / "mine", 1, 2, 3, 4, 5), f"metrics={tmp_path / 'table.csv'}")
    found = {one.model: (one.root, one.parent, one.stage) for one in zoo}
    assert found["m1"] == ("m1", None, "pretrain")
    assert found["m3"] == ("m1", "m2", "finetune")
    assert found["m4"] == (None, None, "finetune")
    assert "in a circle" in left_out(zoo)["m4"]


def test_a_root_that_is_not_in_the_folder_is_not_known_and_said(tmp_path: Path):
    pd.DataFrame({"name": ["m1", "m2"], "root": "timm/vit_base_patch16_224"}).to_csv(tmp_path / "table.csv", index=False)
    zoo = adopted(small(tmp_path / "mine", 1, 2), f"metrics={tmp_path / 'table.csv'}")
    assert zoo.frame["root"].isna().all()
    assert "the root of 2 models, is not in the folder" in left_out(zoo)["m1.safetensors"]
