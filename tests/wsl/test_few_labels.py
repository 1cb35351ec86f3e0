"""Few labels and transfer: nested selections, honest intervals, no leak between zoos."""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import wsl.few_labels
import wsl.property_prediction
import wsl.transfer  # noqa: F401 all three register the schemas of their commands
from tests.wsl.populations import accuracy_probe, five_folds, population
from wsl.data.leakage import refuse_shared
from wsl.features.embedding import Embedding, EncoderInputs, Rescaled
from wsl.features.features import Features
from wsl.probes.benchmark import benchmark
from wsl.probes.comparison import compare
from wsl.probes.cross_validation import CrossValidation, Finding
from wsl.probes.fold_runs import ByModel
from wsl.probes.label_efficiency import average, curves, numeric, runs_by_model, select
from wsl.probes.probe import probed_checkpoints
from wsl.probes.settings import BenchmarkConfig, LabelEfficiencyConfig, TransferConfig
from wsl.probes.transfer import carry, transferred, without_labels
from wsl.reporting.label_curves import tables, write_curves
from wsl.reporting.static_figures import curve_figure
from wsl.run import Run
from wsl.run_files import read_config, write_config
from zoo_gen import InputError, Zoo
from zoo_gen.config import cards, compose

FAST = (
    "runs=[]",
    "n_bootstrap=20",
    "n_permutations=3",
    "noise_ceiling_checkpoints=20",
    "selections=2",
    "targets=[test_accuracy,epoch]",
)
QUIET = Console(quiet=True)


def ten_permutations(frame: pd.DataFrame) -> CrossValidation:
    return five_folds(frame, n_permutations=10)


def labelled_models(some: CrossValidation) -> list[set[str]]:
    return [set(some.frame["model"][split.train | split.val]) for split in some.splits]


def score(frame: pd.DataFrame, features: np.ndarray, labelled: int, selections: int = 4) -> Finding:
    everything = ten_permutations(frame)
    found = []
    for selection in range(selections):
        some = select(everything, labelled, selection=selection)
        found.append(some.evaluate(numeric({"a": accuracy_probe()}), [features] * 5, subset=np.full(len(frame), True)))
    real, control = average(found, seed=0)
    assert control.row["control"] == "permuted targets"
    return real


def planted(frame: pd.DataFrame) -> np.ndarray:
    """The accuracy with noise, among columns of noise."""
    rng = np.random.default_rng(1)
    accuracy = frame["test_accuracy"].to_numpy()
    return np.column_stack([accuracy + rng.normal(scale=0.05, size=len(frame)), rng.normal(size=(len(frame), 10))])


def test_more_labels_are_the_same_models_and_others():
    everything = ten_permutations(population())
    few, more = (select(everything, n, selection=0) for n in (8, 32))
    assert all(len(a) == 8 and len(b) == 32 and a < b for a, b in zip(*map(labelled_models, (few, more)), strict=True))
    for small, large, whole in zip(few.splits, more.splits, everything.splits, strict=True):
        assert not (small.train & small.val).any()
        assert (small.train <= large.train).all()
        assert (small.val <= large.val).all()
        assert (small.test == whole.test).all()
        assert len(set(few.frame["model"][small.val])) == 2
    assert labelled_models(few) == labelled_models(select(everything, 8, selection=0))
    assert labelled_models(few) != labelled_models(select(everything, 8, selection=1))


def test_scales_are_of_all_models_but_those_of_the_test():
    everything = ten_permutations(population())
    few = select(everything, 8, selection=0)
    assert few.unlabelled is not None
    for rows, split in zip(few.unlabelled, everything.splits, strict=True):
        assert (rows == ~split.test).all()


def test_too_many_and_too_few_labels_are_refused():
    everything = ten_permutations(population())
    with pytest.raises(InputError, match="fold 0 has 48 models to label, not 49"):
        select(everything, 49, selection=0)
    with pytest.raises(InputError, match="too few"):
        select(everything, 7, selection=0)


def test_more_labels_score_higher_and_permuted_ones_nothing():
    frame = population()
    few, more = (score(frame, planted(frame), n) for n in (8, 32))
    assert 0.5 < few.row["value"] < more.row["value"]
    assert more.row["above_permuted"]
    models = frame["model"].unique()
    other = dict(zip(models, np.random.default_rng(2).permutation(models), strict=True))
    by_model = frame.set_index(["model", "epoch"])["test_accuracy"]
    permuted = frame.assign(
        test_accuracy=[by_model[other[model], 7 - epoch] for model, epoch in zip(frame["model"], frame["epoch"], strict=True)]
    )
    for labelled in (8, 32):
        nothing = score(permuted, planted(frame), labelled)
        assert nothing.row["value"] < 0.1
        assert not nothing.row["above_permuted"]


def test_intervals_cover_selections_and_differences_are_paired():
    rng = np.random.default_rng(0)
    row = {"target": "t", "metric": "r2", "control": None, "given": False, "low": 0.0, "high": 1.0, "above_permuted": None}
    values = rng.normal(size=20)

    def findings(offset: float) -> list[list[Finding]]:
        return [[Finding({**row, "value": value + offset}, np.full(500, value + offset))] for value in values]

    (better,), (worse,) = (average(findings(offset), seed=0) for offset in (0.2, 0.0))
    assert better.row["high"] - better.row["low"] == pytest.approx(4 * values.std() / np.sqrt(20), rel=0.3)
    assert better.row["spread"] == pytest.approx(values.std())
    found = {("e", 0, "all"): [better], ("b", None, "all"): [worse]}
    compared = next(r for r in compare(found, {"e": "embedding", "b": "baseline"}) if r["features"] == "e")
    assert [compared[key] for key in ("difference", "difference_low", "difference_high")] == pytest.approx([0.2] * 3)
    (alone,) = average(findings(0.0)[:1], seed=0)
    assert alone.row["low"] == alone.row["high"] == values[0]


def test_a_target_that_some_selection_cannot_predict_has_no_score():
    row = {"target": "t", "metric": "r2", "control": None, "low": 0.0, "high": 1.0, "above_permuted": True}
    known, control = (
        Finding({**row, "value": 0.5}, np.full(5, 0.5)),
        Finding({**row, "value": 0.0, "control": "permuted targets"}, None),
    )
    (unknown,) = average([[known, control], [Finding({**row, "value": None}, None)]], seed=0)
    assert unknown.row["value"] is None
    assert unknown.resampled is None


def test_labels_have_no_curve():
    with pytest.raises(InputError, match="optimizer: labels have no R2"):
        numeric(cards("probe", ["optimizer", "epoch"]))


def one_fold(*runs: Run) -> ByModel:
    return {run.model_name: {0: {0: run}} for run in runs}


@pytest.fixture(scope="module")
def few_rows(tiny_zoo: Path, tiny_run: Run, tiny_encoder: Run) -> list[dict]:
    config = LabelEfficiencyConfig(**compose("few_labels", [*FAST, "labelled=[8,24]"]))
    extractors = cards("features", ["embedding", "statistics", "epoch"])
    return curves(probed_checkpoints(Zoo.open(tiny_zoo)), one_fold(tiny_run, tiny_encoder), extractors, config, QUIET)


def real(rows: list[dict], **conditions) -> list[dict]:
    return [row for row in rows if row["control"] is None and all(row[key] == value for key, value in conditions.items())]


def test_with_all_labels_it_is_the_benchmark(few_rows: list[dict], tiny_zoo: Path, tiny_run: Run, tiny_encoder: Run):
    options = [*(one for one in FAST if "selections" not in one), "features=[embedding,statistics]"]
    config = BenchmarkConfig(**compose("property_prediction", options))
    rows = benchmark(Zoo.open(tiny_zoo), {"by_model": one_fold(tiny_run, tiny_encoder)}, config, QUIET)
    for row in real(rows, metric="r2"):
        about = {key: row[key] for key in ("features", "seed", "subset", "target")}
        (same,) = real(few_rows, labelled=None, **about)
        assert [same[key] for key in ("value", "low", "high")] == [row[key] for key in ("value", "low", "high")]


def test_each_number_of_labels_has_rows_of_all_features(few_rows: list[dict], tmp_path: Path):
    for labelled, selections in ((8, 2), (24, 2), (None, 1)):
        rows = real(few_rows, labelled=labelled, target="test_accuracy", subset="all")
        assert {row["features"] for row in rows} == {"hyperrep", "invariant_encoder", "statistics", "epoch"}
        assert {row["selections"] for row in rows} == {selections}
        assert all("difference_low" in row for row in rows if row["features"] == "hyperrep")
    assert all(row["given"] for row in real(few_rows, features="epoch", target="epoch"))
    write_curves(few_rows, tmp_path / "found.json", title="Few labels on tiny", command="wsl.few_labels")
    assert {path.name for path in tmp_path.iterdir()} == {"found.json", "found.md", "found.svg"}
    assert len(json.loads((tmp_path / "found.json").read_text())) == len(few_rows)
    assert "## 8 labelled models, mean of 2 selections: R²" in (tmp_path / "found.md").read_text()
    ElementTree.parse(tmp_path / "found.svg")


def transfer_config(*overrides: str) -> TransferConfig:
    options = ["zoo=other", "run_zoo=first", "labelled=[]", "carried=[embedding,encoder_inputs,statistics]", *overrides]
    return TransferConfig(**compose("transfer", [*FAST, *options]))


OF_A_BLOCK = ("q", "k", "v", "o", "fc1", "fc2", "vectors")
MODELS = ("hyperrep", "invariant_encoder")
INPUTS = ("encoder_inputs", "encoder_inputs_invariant_encoder")


def test_probes_of_one_zoo_are_carried_to_a_wider_and_deeper_one(tiny_zoo: Path, tiny_run: Run, tiny_encoder: Run, wide_zoo: Path):
    first, wide, here = Zoo.open(tiny_zoo), Zoo.open(wide_zoo), one_fold(tiny_run, tiny_encoder)
    there = transferred(here, wide)
    rows = without_labels(probed_checkpoints(first), probed_checkpoints(wide), here, there, transfer_config(), QUIET)
    found = real(rows, labelled=0, target="test_accuracy", subset="all", metric="r2")
    names = (*MODELS, *INPUTS, "statistics")
    assert {row["features"] for row in found} == {*names, *(f"{name} rescaled" for name in names)}
    assert {row["n_models"] for row in found} == {wide.split("by_model", fold=0).test.frame["model"].nunique()}
    assert len({row["value"] for row in real(rows, labelled=0, target="epoch", subset="all", metric="r2")}) == 2 * len(names)
    assert "## No labels: R²" in tables(rows, title="t", command="wsl.transfer")
    ElementTree.fromstring(curve_figure(rows))


def test_runs_are_probed_on_a_wider_and_deeper_zoo(tiny_run: Run, tiny_encoder: Run, wide_zoo: Path):
    wide = Zoo.open(wide_zoo)
    there = transferred(one_fold(tiny_run, tiny_encoder), wide)
    extractors = {**cards("features", ["embedding", "statistics"]), "rescaled": Rescaled()}
    rows = curves(probed_checkpoints(wide), there, extractors, transfer_config(), QUIET)
    found = real(rows, labelled=None, target="test_accuracy", subset="all")
    assert {row["features"] for row in found} == {*MODELS, *(f"{name} rescaled" for name in MODELS), "statistics"}
    assert {row["n_models"] for row in found} == {wide.split("by_model", fold=0).test.frame["model"].nunique()}


@pytest.mark.parametrize("extractor", [Embedding(), EncoderInputs()])
def test_features_of_a_hyper_representation_are_carried_by_the_blocks_that_both_zoos_have(
    extractor: Features, tiny_run: Run, tiny_zoo: Path, wide_zoo: Path
):
    first, wide = (probed_checkpoints(Zoo.open(path)).select(final=True) for path in (tiny_zoo, wide_zoo))
    there = tiny_run.transferred(Zoo.open(wide_zoo))
    ours, theirs = extractor.extract(tiny_run, first), extractor.extract(there, wide)
    assert set(ours.columns) < set(theirs.columns)
    assert {"3.q/0", "tail.head/0"} <= set(ours.columns)
    assert {name.partition("/")[0] for name in set(theirs.columns) - set(ours.columns)} == {f"4.{role}" for role in OF_A_BLOCK}
    carried, _ = carry(extractor, tiny_run, there, first, wide)
    np.testing.assert_array_equal(carried[: len(first)], ours)
    np.testing.assert_array_equal(carried[len(first) :], theirs[ours.columns])


def test_zoos_that_share_models_are_refused(tiny_zoo: Path, tiny_run: Run, wide_zoo: Path):
    zoo = Zoo.open(tiny_zoo)
    with pytest.raises(InputError, match="shares 51 models"):
        transferred(one_fold(tiny_run), zoo)
    with pytest.raises(InputError, match="shares 1 model with"):
        refuse_shared(zoo, zoo.select(stage="pretrain", model=["simclr_0"]), advice="")
    refuse_shared(zoo, Zoo.open(wide_zoo), advice="")


def test_folders_without_a_run_by_model_are_refused(tiny_run: Run, tiny_zoo: Path, tmp_path: Path):
    zoo = Zoo.open(tiny_zoo)
    folder = Path(shutil.copytree(tiny_run.path, tmp_path / "run"))
    (found,) = runs_by_model([str(tmp_path)], zoo)
    assert found == "hyperrep"
    write_config(folder, {**read_config(folder), "split": "leave_root_out"})
    with pytest.raises(InputError, match="no run of split by_model"):
        runs_by_model([str(tmp_path)], zoo)


class Shifted(Features):
    """Random numbers, on other scales for every run but one."""

    def __init__(self, here: Run):
        self.here = here

    def extract(self, run: Run, checkpoints: Zoo) -> pd.DataFrame:
        table = np.random.default_rng(0).normal(size=(len(checkpoints), 3))
        return pd.DataFrame(table if run is self.here else 3 * table + 5, columns=["a", "b", "c"])


def test_rescaling_undoes_other_scales(tiny_run: Run, tiny_zoo: Path):
    children = probed_checkpoints(Zoo.open(tiny_zoo))
    there = tiny_run.on(tiny_zoo)
    as_they_are, rescaled = carry(Shifted(tiny_run), tiny_run, there, children, children)
    assert rescaled[len(children) :] == pytest.approx(rescaled[: len(children)])
    assert np.abs(as_they_are[len(children) :] - as_they_are[: len(children)]).min() > 0.1


@pytest.mark.parametrize("name", ["tiny_run", "tiny_encoder"])
def test_scales_are_not_taken_from_test_models(name: str, request: pytest.FixtureRequest, tiny_zoo: Path):
    run: Run = request.getfixturevalue(name)
    children = probed_checkpoints(Zoo.open(tiny_zoo)).select(final=True)
    train = children.frame["model"].isin(run.split.train.frame["model"]).to_numpy()
    with_all = Rescaled().extract(run, children).to_numpy()
    assert not train.all()
    without = children.select(path=children.frame["path"][train].tolist())
    assert with_all[train] == pytest.approx(Rescaled().extract(run, without).to_numpy(), abs=1e-5)
