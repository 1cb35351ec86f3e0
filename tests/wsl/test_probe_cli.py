"""The probe command: the rows of probe.json, its table, and clear refusals."""

import dataclasses
import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from tests.commands import call, refused
from wsl.probe import ProbeConfig, main
from wsl.probes.benchmark import evaluate_runs
from wsl.reporting.probe_table import probe_table
from wsl.run import Run
from zoo_gen import InputError
from zoo_gen.config import CONFIGS, cards, compose
from zoo_gen.splits import Split

FIELDS = {"split", "fold", "subset", "target", "features", "control", "metric", "value", "low", "high", "chance", "noise_ceiling"}


def config(*overrides: str) -> ProbeConfig:
    return ProbeConfig(**compose("probe", ["n_bootstrap=50", "n_permutations=20", *overrides]))


def probe(settings: ProbeConfig, *runs: Run) -> list[dict]:
    extractors = cards("features", settings.features)
    return evaluate_runs(runs, cards("probe", settings.targets), extractors, settings, Console(quiet=True))


@pytest.fixture(scope="module")
def rows(tiny_run: Run) -> list[dict]:
    return probe(config(), tiny_run)


def test_every_target_is_evaluated_on_all_features_of_all_and_of_final_checkpoints(rows: list[dict]):
    found = {(row["subset"], row["target"], row["features"]) for row in rows if row["control"] is None}
    targets, names = (
        [path.stem for path in (CONFIGS / "probe").glob("*.yaml")],
        ("hyperrep", "statistics", "statistics_task_vector"),
    )
    assert found == {(subset, target, features) for subset in ("all", "final") for target in targets for features in names}
    assert all(row.keys() >= FIELDS for row in rows)
    assert len({(*(row[key] for key in ("subset", "target", "features", "metric")),) for row in rows}) == len(rows)


def test_features_that_contain_a_target_are_marked_as_given(tiny_run: Run):
    rows = probe(config("features=[epoch,statistics]", "targets=[epoch,test_accuracy]"), tiny_run)
    given = {(row["features"], row["target"]) for row in rows if row["given"] and row["control"] is None}
    assert given == {("epoch", "epoch")}


def test_rows_are_plain_json_with_the_chance_of_each_target(rows: list[dict]):
    json.dumps(rows, allow_nan=False)
    for row in rows:
        chance = {"r2": 0, "kendall_tau": 0, "balanced_accuracy": {"root": 1 / 3}.get(row["target"], 1 / 2)}[row["metric"]]
        assert row["chance"] == (None if row["value"] is None else pytest.approx(chance))


def test_the_head_is_read_from_the_weights_and_marked_as_trivial(rows: list[dict]):
    head = [row for row in rows if row["target"] == "head" and row["features"] == "statistics"]
    assert all(row["value"] == 1 for row in head)
    assert all(row["trivial"] == (row["target"] == "head") for row in rows)


def test_the_epoch_of_final_checkpoints_is_nothing_to_predict(rows: list[dict]):
    final = [row for row in rows if row["target"] == "epoch" and row["subset"] == "final"]
    assert final
    assert all(row["value"] is None for row in final)


def test_the_table_says_that_it_is_a_smoke_test_and_fits_eighty_columns(rows: list[dict]):
    printed = io.StringIO()
    Console(width=80, file=printed).print(probe_table(rows))
    text = printed.getvalue()
    assert "smoke test" in text
    assert "split by_model, fold 0, 10 test models" in text
    assert max(map(len, text.splitlines())) <= 80
    of_accuracy = [line.split()[1] for line in text.splitlines() if line.startswith("test_accuracy")]
    tables = text.count("All checkpoints") + text.count("Final checkpoints")
    assert of_accuracy == ["R²", "τ"] * tables


def test_the_same_command_gives_the_same_rows(tiny_run: Run):
    some = config("targets=[test_accuracy,root]", "features=[stat*]")
    assert probe(some, tiny_run) == probe(some, tiny_run)


def names_of(rows: list[dict]) -> list[str]:
    return list(dict.fromkeys(row["features"] for row in rows if row["control"] is None))


def scores_of(rows: list[dict]) -> dict[str, list[tuple]]:
    found: dict[str, list[tuple]] = {}
    for row in rows:
        found.setdefault(row["features"], []).append((row["metric"], row["subset"], row["value"]))
    return found


def test_models_are_probed_beside_each_other_and_name_their_rows(tiny_run: Run, tiny_encoder: Run):
    settings = config("targets=[learning_rate]", "features=[embedding,encoder_inputs,untrained,epoch]")
    both = probe(settings, tiny_encoder, tiny_run)
    assert names_of(both) == [
        *("invariant_encoder", "hyperrep", "encoder_inputs", "encoder_inputs_hyperrep"),
        *("epoch", "untrained", "untrained_hyperrep"),
    ]
    scores = scores_of(both)
    assert scores["invariant_encoder"] != scores["hyperrep"]
    assert scores["encoder_inputs"] != scores["encoder_inputs_hyperrep"]
    alone = probe(settings, tiny_run)
    assert names_of(alone) == ["hyperrep", "encoder_inputs", "epoch", "untrained"]
    assert scores_of(alone)["hyperrep"] == scores["hyperrep"]
    assert scores_of(alone)["encoder_inputs"] == scores["encoder_inputs_hyperrep"]


def test_two_runs_of_one_model_or_of_different_splits_are_refused(tiny_run: Run, tiny_encoder: Run):
    with pytest.raises(InputError, match="two of the runs are of model=hyperrep"):
        probe(config(), tiny_run, Run.open(tiny_run.path))
    other = Run.open(tiny_encoder.path)
    other.config = {**tiny_encoder.config, "fold": 1}
    with pytest.raises(InputError, match="are of different zoos, splits or folds"):
        probe(config(), tiny_run, other)


def test_a_card_that_does_not_exist_is_named_beside_those_that_do():
    with pytest.raises(InputError, match=r"no card 'embeding' .* there is embedding, .*epoch, .*statistics"):
        cards("features", ["embeding"])
    with pytest.raises(InputError, match=r"no card of .* was named"):
        cards("probe", [])


def test_a_run_whose_split_leaks_is_refused(tiny_run: Run):
    leaking = Run.open(tiny_run.path)
    train, val, test = tiny_run.split
    leaking.split = Split(train, val, tiny_run.zoo.select(model=[test[0].model, train[0].model]))
    with pytest.raises(InputError, match=f"model {train[0].model} is in train and in test"):
        probe(config(), leaking)


def test_a_split_by_root_is_probed_too(tiny_run: Run):
    by_root = Run.open(tiny_run.path)
    by_root.config = {**tiny_run.config, "split": "leave_root_out"}
    by_root.split = tiny_run.zoo.split("leave_root_out", fold=0)
    rows = probe(config("targets=[root,test_loss]", "features=[statistics]"), by_root)
    assert all(row["value"] is None for row in rows if row["target"] == "root")
    assert all(row["value"] is not None and row["n_models"] == 16 for row in rows if row["target"] == "test_loss")


def test_the_command_writes_probe_json_and_prints_the_table(
    tiny_run: Run, tiny_encoder: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = shutil.copytree(tiny_run.path, tmp_path / "run")
    options = ["n_bootstrap=20", "n_permutations=5", "targets=[epoch]", f"run={folder}"]
    call(main, *options, f"beside=[{tiny_encoder.path}]")
    printed = capsys.readouterr()
    rows = json.loads((folder / "probe.json").read_text())
    assert {row["target"] for row in rows} == {"epoch"}
    assert names_of(rows) == ["hyperrep", "invariant_encoder", "statistics", "statistics_task_vector"]
    assert "smoke test" in printed.out
    assert not printed.err


@pytest.mark.parametrize(
    ("option", "complaint"), [("run=nowhere", "run 'nowhere' not found"), ("n_bootstrap=abc", "n_bootstrap=abc")]
)
def test_bad_input_ends_in_one_message(option: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert complaint in refused(main, option)


def test_the_options_of_the_command_are_those_of_its_card():
    assert compose("probe", []).keys() == {field.name for field in dataclasses.fields(ProbeConfig)}
