"""The benchmark: every model once, paired differences, tables, refusals."""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from tests.commands import call
from tests.wsl.conftest import train_small
from tests.zoos import ONE_EPOCH, TWO_RATES, make_zoo
from wsl.data.leakage import refuse_seen_images
from wsl.probes.benchmark import benchmark
from wsl.probes.comparison import compare
from wsl.probes.cross_validation import Finding
from wsl.probes.fold_runs import find_pretrained, find_runs
from wsl.probes.settings import BenchmarkConfig
from wsl.property_prediction import main
from wsl.reporting.benchmark_tables import table, tables
from wsl.reporting.label_curves import short
from wsl.reporting.static_figures import score_figure
from wsl.run_files import read_config, write_config
from zoo_gen import InputError, Zoo
from zoo_gen.config import compose

FEATURES = "features=[embedding,encoder_inputs,untrained,statistics,epoch,factors,noise_outputs]"


def config(*overrides: str) -> BenchmarkConfig:
    few = ["n_bootstrap=50", "n_permutations=10", "noise_ceiling_checkpoints=30", "penalties=[0.1,1,10]"]
    options = ["runs=[]", *few, FEATURES, *overrides]
    return BenchmarkConfig(**compose("property_prediction", options))


@pytest.fixture(scope="module")
def runs(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hyper-representations: one seed of every root, and two seeds of two folds by model."""
    folder = tmp_path_factory.mktemp("hyperrep")
    for fold in range(3):
        train_small(tiny_zoo, folder / f"root-{fold}", "split=leave_root_out", f"fold={fold}", "steps=1")
    for seed in (0, 1):
        for fold in range(2):
            train_small(tiny_zoo, folder / f"model-{fold}-{seed}", f"fold={fold}", f"seed={seed}", "steps=1")
    return folder


@pytest.fixture(scope="module")
def encoders(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Invariant encoders: one seed of two folds by model."""
    folder = tmp_path_factory.mktemp("invariant_encoder")
    for fold in range(2):
        train_small(tiny_zoo, folder / f"model-{fold}", "model=invariant_encoder", f"fold={fold}", "steps=1")
    return folder


@pytest.fixture(scope="module")
def rows(runs: Path, encoders: Path, tiny_zoo: Path) -> list[dict]:
    zoo = Zoo.open(tiny_zoo)
    return benchmark(zoo, find_runs([runs, encoders], zoo), config(), Console(quiet=True))


def real(rows: list[dict], **conditions) -> list[dict]:
    return [row for row in rows if row["control"] is None and all(row[key] == value for key, value in conditions.items())]


def test_every_model_is_tested_once_where_all_folds_are_there(rows: list[dict]):
    by_root = real(rows, split="leave_root_out", target="test_loss")
    assert {row["n_models"] for row in by_root} == {48}
    assert not any(row["smoke_test"] for row in by_root)
    assert all(row["smoke_test"] and row["folds"] == 2 for row in real(rows, split="by_model"))


def test_every_seed_and_their_mean_are_rows_of_the_embedding_and_baselines_have_none(rows: list[dict]):
    assert {row["seed"] for row in real(rows, split="by_model", features="hyperrep")} == {0, 1, "mean"}
    assert {row["seed"] for row in real(rows, split="leave_root_out", features="hyperrep")} == {0}
    assert {row["seed"] for row in real(rows, features="statistics")} == {None}


def test_models_beside_each_other_name_their_rows_and_the_first_one_gives_its_names_to_other_features(rows: list[dict]):
    def names(split: str) -> set[str]:
        return {row["features"] for row in real(rows, split=split)}

    of_none = {"statistics", "epoch", "factors", "noise_outputs"}
    of_hyperrep = {"hyperrep", "encoder_inputs", "untrained"}
    assert names("leave_root_out") == of_none | of_hyperrep
    of_encoder = {"invariant_encoder", "encoder_inputs_invariant_encoder", "untrained_invariant_encoder"}
    assert names("by_model") == of_none | of_hyperrep | of_encoder


def test_differences_between_embeddings_are_paired_and_of_the_same_seed(rows: list[dict]):
    about = {"split": "by_model", "subset": "all", "target": "learning_rate", "metric": "kendall_tau", "seed": 0}
    (one,), (other,) = (real(rows, features=model, **about) for model in ("hyperrep", "invariant_encoder"))
    assert one["value"] != other["value"]
    (to_encoder,), (to_hyperrep,) = one["difference_to"].items(), other["difference_to"].items()
    assert (to_encoder[0], to_hyperrep[0]) == ("invariant_encoder", "hyperrep")
    assert to_encoder[1]["difference"] == pytest.approx(one["value"] - other["value"])
    assert to_encoder[1]["low"] < to_encoder[1]["high"]
    assert [to_hyperrep[1][key] for key in ("difference", "low", "high")] == pytest.approx(
        [-to_encoder[1][key] for key in ("difference", "high", "low")]
    )
    (alone,) = real(rows, features="hyperrep", **{**about, "seed": 1})
    assert alone["difference_to"] == {}


def test_the_bar_is_the_best_baseline_that_does_not_read_the_target(rows: list[dict]):
    for row in real(rows, features="hyperrep", subset="all"):
        if row["value"] is None:
            continue
        alike = real(rows, split=row["split"], subset="all", target=row["target"], metric=row["metric"], kind="baseline")
        allowed = {other["features"]: other["value"] for other in alike if not other["given"]}
        assert row["best_baseline"] in allowed
        assert allowed[row["best_baseline"]] == max(allowed.values())
        assert row["difference"] == pytest.approx(row["value"] - max(allowed.values()))
        assert row["difference_low"] <= row["difference_high"]
        if row["target"] == "epoch":
            assert row["best_baseline"] != "epoch"
    assert all(row["given"] for row in real(rows, features="factors", target="optimizer"))


def test_the_root_is_predicted_by_model_only(rows: list[dict]):
    assert all(row["value"] is None for row in real(rows, split="leave_root_out", target="root"))
    assert all(row["value"] is not None for row in real(rows, split="by_model", target="root"))


def noise_ceiling(rows: list[dict], target: str) -> float:
    """The noise ceiling of R2, which all features share."""
    (found,) = {row["noise_ceiling"] for row in real(rows, split="leave_root_out", subset="all", target=target, metric="r2")}
    return found


@pytest.mark.parametrize("target", ["test_accuracy", "test_loss"])
def test_results_on_test_images_have_a_noise_ceiling_and_factors_have_none(target: str, rows: list[dict]):
    assert 0 < noise_ceiling(rows, target) < 1
    assert noise_ceiling(rows, "learning_rate") == 1


@pytest.mark.parametrize(("gap", "result"), [("accuracy_gap", "test_accuracy"), ("loss_gap", "test_loss")])
def test_a_gap_has_a_lower_noise_ceiling_than_the_result_that_it_contains(gap: str, result: str, rows: list[dict]):
    """Both have the same noise, and gaps vary less."""
    assert noise_ceiling(rows, gap) < noise_ceiling(rows, result)


def test_rows_are_plain_json_and_make_tables_and_figures(rows: list[dict]):
    json.dumps(rows, allow_nan=False)
    text = tables(rows, zoo="tiny")
    assert "hyperrep, mean of seeds − best baseline" in text
    assert "planted features score at least" in text
    ElementTree.fromstring(score_figure(rows))


def test_a_score_above_its_noise_ceiling_is_marked_in_markdown(rows: list[dict]):
    (row,) = real(rows, split="by_model", features="statistics", target="test_accuracy", subset="all", metric="r2")
    leak = {**row, "low": row["noise_ceiling"] + 0.001, "value": 0.997, "high": 1.0, "above_permuted": True, "best_baseline": None}
    assert "| !0.997 [" in table([leak])
    assert "| 0.997 [" in table([{**leak, "low": row["noise_ceiling"]}])
    assert "| (given) |" in table([{**leak, "given": True}])
    few = {**leak, "labelled": 8, "kind": "embedding"}
    assert "!0.997" in short([few])
    assert "!0.997" not in short([{**few, "low": row["noise_ceiling"]}])


def test_differences_are_paired_resample_by_resample():
    noise = np.random.default_rng(0).normal(size=1000)
    row = {"target": "t", "metric": "r2", "control": None, "given": False, "above_permuted": True}
    found = {
        ("e", 0, "all"): [Finding({**row, "value": 0.6}, 0.6 + noise)],
        ("e", 1, "all"): [Finding({**row, "value": 0.4}, 0.4 + noise)],
        ("b", None, "all"): [Finding({**row, "value": 0.3}, 0.3 + noise)],
        ("worse", None, "all"): [Finding({**row, "value": 0.2}, -noise)],
    }
    compared = {(r["features"], r["seed"]): r for r in compare(found, {"e": "embedding", "b": "baseline", "worse": "baseline"})}
    mean = compared["e", "mean"]
    assert mean["value"] == pytest.approx(0.5)
    assert [mean[key] for key in ("difference", "difference_low", "difference_high")] == pytest.approx([0.2] * 3)
    assert "difference" not in compared["b", None]


def test_a_representation_trained_on_test_models_is_refused(runs: Path, tiny_zoo: Path, tmp_path: Path):
    zoo = Zoo.open(tiny_zoo)
    found = find_runs([runs], zoo)
    by_fold = dict(found["by_model"]["hyperrep"][0])
    by_fold[0], by_fold[1] = by_fold[1], by_fold[0]
    with pytest.raises(InputError, match="fitted on test models"):
        benchmark(zoo, {"by_model": {"hyperrep": {0: by_fold}}}, config("features=[embedding]"), Console(quiet=True))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs on another zoo: a hyper-representation for each of two seeds, and an invariant encoder."""
    axes = {"head": ["linear", "mlp"], **TWO_RATES}  # heads of all kinds that the tiny zoo has
    same_images = ("zoo.pretrain_images.seed=0", "zoo.finetune_images.seed=0")
    zoo = make_zoo(tmp_path_factory.mktemp("zoos") / "elsewhere", "seed=1", *same_images, *ONE_EPOCH, axes=axes).path
    folder = tmp_path_factory.mktemp("elsewhere")
    for seed in (0, 1):
        train_small(zoo, folder / str(seed), f"seed={seed}", "steps=1")
    train_small(zoo, folder / "encoder", "model=invariant_encoder", "steps=1")
    return folder


def test_runs_on_other_zoos_serve_all_folds(runs: Path, elsewhere: Path, tiny_zoo: Path):
    zoo = Zoo.open(tiny_zoo)
    settings = config("features=[embedding,statistics]", "targets=[test_loss]")
    pretrained = find_pretrained(elsewhere, zoo)
    rows = benchmark(zoo, find_runs([runs], zoo), settings, Console(quiet=True), pretrained=pretrained)
    for split, models in (("by_model", 20), ("leave_root_out", 48)):
        found = real(rows, features="hyperrep_pretrained", split=split, subset="all", metric="r2")
        assert {row["seed"]: row["n_models"] for row in found} == dict.fromkeys((0, 1, "mean"), models)
        assert all(row["kind"] == "embedding" and "difference" in row for row in found)
        (encoder,) = real(rows, features="invariant_encoder_pretrained", split=split, subset="all", metric="r2")
        assert (encoder["seed"], encoder["n_models"]) == (0, models)


def test_pretrained_runs_that_have_seen_the_zoo_are_refused(runs: Path, elsewhere: Path, tiny_zoo: Path, tmp_path: Path):
    zoo = Zoo.open(tiny_zoo)
    with pytest.raises(InputError, match=r"shares 51 models .* by the folds of runs on it"):
        find_pretrained(runs, zoo)
    shutil.copytree(elsewhere / "0", tmp_path / "one")
    shutil.copytree(elsewhere / "0", tmp_path / "other")
    with pytest.raises(InputError, match="two runs of model=hyperrep, seed 0"):
        find_pretrained(tmp_path, zoo)


def test_runs_that_learned_from_other_zoos_as_well_are_no_runs_of_the_folds(runs: Path, tiny_zoo: Path, tmp_path: Path):
    folder = Path(shutil.copytree(runs / "root-0", tmp_path / "run"))
    stored = read_config(folder)
    write_config(folder, {**stored, "other_zoos": [stored["zoo"]]})
    with pytest.raises(InputError, match=r"learned from other zoos .* pretrained="):
        find_runs([tmp_path], Zoo.open(tiny_zoo))


def test_pretrained_runs_on_test_images_of_the_zoo_are_refused(tiny_zoo: Path, tmp_path: Path):
    other = Path(shutil.copytree(tiny_zoo, tmp_path / "other"))
    described = json.loads((other / "zoo.json").read_text())
    described["config"]["finetune_images"]["seed"] += 1
    (other / "zoo.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match=r"fine-tuned on \d+ of the \d+ test images .* zoo.finetune_images.seed=0"):
        refuse_seen_images(Zoo.open(other), Zoo.open(tiny_zoo))
    refuse_seen_images(Zoo.open(tiny_zoo), Zoo.open(tiny_zoo))


def test_two_runs_of_one_fold_and_no_runs_are_refused(runs: Path, tiny_zoo: Path, tmp_path: Path):
    zoo = Zoo.open(tiny_zoo)
    with pytest.raises(InputError, match="no finished run"):
        find_runs([tmp_path], zoo)
    for name in ("one", "other"):
        shutil.copytree(runs / "root-0", tmp_path / name)
    with pytest.raises(InputError, match="are of one model, split, fold and seed"):
        find_runs([tmp_path], zoo)


def test_the_command_writes_rows_tables_and_figures(runs: Path, encoders: Path, tiny_zoo: Path, tmp_path: Path):
    out = tmp_path / "found.json"
    options = [
        "n_bootstrap=20",
        "n_permutations=5",
        "targets=[test_accuracy]",
        "features=[embedding,statistics]",
        "noise_ceiling_checkpoints=20",
    ]
    call(main, f"zoo={tiny_zoo}", f"runs=[{runs},{encoders}]", f"out={out}", *options)
    assert {path.name for path in tmp_path.iterdir()} == {
        "found.json", "found.md", "found_by_model.svg", "found_leave_root_out.svg",
    }  # fmt: skip
