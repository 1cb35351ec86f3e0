"""Zoos without images, results or roots: everything goes on that can, and the rest says what it lacks."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from rich.console import Console

import wsl.generate
import wsl.predict
import wsl.probe
import wsl.property_prediction
import wsl.report
import wsl.train
from tests.commands import call, refused
from tests.wsl.conftest import SMALL, train_small
from tests.zoos import adopted_zoo, known
from wsl.data.logits import lack_to_run
from wsl.data.pairs import pairs_of, rootless
from wsl.probes.targets import own_targets, targets_of
from wsl.reporting.sections import generation_section
from wsl.run import Run
from wsl.training.adaptation import adapted
from wsl.training.objectives.total import Total
from wsl.training.run_training import check, train
from wsl.training.settings import TrainConfig
from zoo_gen import InputError, Zoo
from zoo_gen.config import compose, instantiate

FEW = ("n_bootstrap=20", "n_permutations=5")


@pytest.fixture(scope="module")
def strays(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Twenty models of unknown roots."""
    return adopted_zoo(tmp_path_factory.mktemp("strays"), roots=0, unknown=20)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Fifteen models of three roots, and four of unknown ones."""
    return adopted_zoo(tmp_path_factory.mktemp("mixed"), unknown=4)


@pytest.fixture(scope="module")
def rooted(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return adopted_zoo(tmp_path_factory.mktemp("rooted"))


@pytest.fixture(scope="module")
def undescribed(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Ten models of which only tensors are known."""
    return adopted_zoo(tmp_path_factory.mktemp("undescribed"), roots=0, unknown=10, epochs=1, described=False)


@pytest.fixture(scope="module")
def run(strays: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_small(strays.path, tmp_path_factory.mktemp("run") / "strays")


@pytest.fixture(scope="module")
def encoder(strays: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_small(strays.path, tmp_path_factory.mktemp("encoder") / "strays", "model=invariant_encoder")


def config_of(zoo: Zoo, *overrides: str) -> TrainConfig:
    return TrainConfig(**compose("train", [*overrides, "model_name=any", f"zoo={zoo.path}"]))


def events(run: Run) -> list[dict]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def test_tokens_are_of_the_weights_themselves_where_some_root_is_not_known(strays: Zoo, mixed: Zoo, rooted: Zoo):
    for zoo, reference, unknown in ((strays, "none", "20 of 20"), (mixed, "none", "4 of 19"), (rooted, "root", "")):
        config, notes = adapted(config_of(zoo), [zoo])
        assert config.tokenizer is not None
        assert instantiate(config.tokenizer).reference == reference
        of_tokens = [note for note in notes if "tokens are of the weights themselves" in note]
        assert len(of_tokens) == (reference == "none")
        assert unknown in "".join(of_tokens)


def test_terms_that_run_models_are_left_out_without_images_unless_the_command_line_names_them(rooted: Zoo, tiny_zoo: Path):
    config, notes = adapted(config_of(rooted), [rooted])
    assert (config.objective["terms"].keys(), config.objective["weights"]) == ({"reconstruction"}, {"reconstruction": 1})
    assert re.fullmatch("the images of zoo .* are not known: the objective is without predictions", "".join(notes))
    doubled, _ = adapted(config_of(rooted, "objective.weights.reconstruction=2"), [rooted])
    assert doubled.objective["weights"] == {"reconstruction": 2}
    for given in ("weights.behaviour=50", "terms.behaviour.images=8"):
        with pytest.raises(InputError, match="runs models on images"):
            adapted(config_of(rooted, f"objective.{given}"), [rooted])
    with_images, notes = adapted(config_of(Zoo.open(tiny_zoo), "objective.weights.behaviour=50"), [Zoo.open(tiny_zoo)])
    assert (with_images.objective["weights"]["behaviour"], notes) == (50, [])
    card = with_images.objective
    alone = {**card, "terms": {"behaviour": card["terms"]["behaviour"]}, "weights": {"behaviour": 1.0}}
    assert Total.imageless(alone) is None


def test_a_window_holds_the_longest_model_and_predictions_are_left_out_where_it_cannot(
    tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch
):
    zoo = Zoo.open(tiny_zoo)
    config, notes = adapted(config_of(zoo), [zoo])
    tokenizer, children = instantiate(config.tokenizer), zoo.select(stage="finetune", final=True)
    lengths = {tokenizer.plan(one.state_dict(), root=known(zoo.root(one)).state_dict()).n_tokens for one in children}
    assert len(lengths) > 1
    assert (config.window, notes) == (max(lengths), [])
    assert "behaviour" in config.objective["terms"]
    longer, notes = adapted(config_of(zoo, "window=4000"), [zoo])
    assert (longer.window, notes) == (4000, [])
    monkeypatch.setattr("wsl.training.adaptation.WHOLE", 64)
    short, notes = adapted(config_of(zoo), [zoo])
    assert (short.window, short.objective["terms"].keys()) == (64, {"reconstruction"})
    assert notes == [f"models have up to {max(lengths)} tokens, where a window holds 64: the objective is without predictions"]
    for given in ("objective=behaviour", "objective.weights.behaviour=50"):
        with pytest.raises(InputError, match=f"set window={max(lengths)}, or leave objective out"):
            adapted(config_of(zoo, given), [zoo])


def test_a_tokenizer_that_is_nothing_without_a_root_gives_way_to_another(strays: Zoo, rooted: Zoo):
    targets = {}
    for zoo in (strays, rooted):
        config, _ = adapted(config_of(zoo), [zoo])
        assert config.tokenizer is not None
        targets[zoo.path] = config.tokenizer["_target_"].rpartition(".")[2]
    assert list(targets.values()) == ["Residual", "FisherBasis"]


def test_a_model_of_tokens_trains_with_and_without_roots(mixed: Zoo, rooted: Zoo, tmp_path: Path):
    small = ["accelerator=cpu", "steps=1", "model.width=32", "model.heads=2"]
    for zoo in (mixed, rooted):
        train(config_of(zoo, *small), [zoo], tmp_path / zoo.path.parent.name, Console(quiet=True))
        run = Run.open(tmp_path / zoo.path.parent.name)
        assert run.tokenizer.reference == ("none" if zoo is mixed else "root")
        assert np.isfinite(run.embed(run.split.test)).all()
        validated = [event for event in events(run) if event["event"] == "validation"]
        assert all("accuracy_decoded" not in event for event in validated)


def test_an_encoder_without_roots_reads_no_changes_and_without_images_learns_no_predictions(encoder: Run):
    assert not any(column.startswith("change of") for column in encoder.inputs.columns)  # type: ignore[union-attr]
    assert set(encoder.model.columns) == {"everything"}
    last = events(encoder)[-1]
    assert np.isfinite(last["error"])
    assert not {"divergence", "divergence_of_mean", "forecast_error"} & last.keys()
    assert np.isfinite(encoder.embed(encoder.split.test)).all()


def test_an_encoder_reads_the_changes_of_models_whose_root_is_known(mixed: Zoo, tmp_path: Path):
    run = train_small(mixed.path, tmp_path / "run", "model=invariant_encoder")
    assert any(column.startswith("change of") for column in run.inputs.columns)  # type: ignore[union-attr]
    assert np.isfinite(run.embed(mixed.select(stage="finetune"))).all()
    assert "forecast_error" in events(run)[-1]


def test_objectives_that_run_models_are_refused_by_a_line_that_says_what_they_need(strays: Zoo, tmp_path: Path):
    place = (f"zoo={strays.path}", f"run={tmp_path / 'run'}", "accelerator=cpu", "steps=1")
    behaviour = refused(wsl.train.main, *place, "objective=behaviour", "window=512")
    assert re.search("runs models on images, and the images of zoo .* are not known; it needs a zoo with images", behaviour)
    named = refused(wsl.train.main, *place, "model=invariant_encoder", "objective.behaviour=2")
    assert "runs models on images" in named
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_lineage_of_unknown_roots_is_none(mixed: Zoo):
    unknown = [checkpoint.model for checkpoint, root in pairs_of(mixed.select(stage="finetune", final=True)) if root is None]
    assert unknown == [f"stray_{n}" for n in range(4)]
    assert rootless(mixed) == 4


def test_differences_to_roots_are_refused_where_roots_are_not_known(rooted: Zoo, strays: Zoo, tmp_path: Path):
    run = train_small(rooted.path, tmp_path / "run")
    run.inputs.prepare(rooted)
    with pytest.raises(InputError, match=r"the roots of 20 models of .* are not known"):
        run.inputs.prepare(strays)


def test_targets_are_columns_with_values_and_own_columns_need_no_card(strays: Zoo, tiny_zoo: Path):
    assert [*targets_of(strays, ["*"])] == [
        *("epoch", "learning_rate", "test_accuracy", "test_loss"),
        *("score", "team", "epoch_minutes"),
    ]
    assert {"optimizer", "head", "root"} <= targets_of(Zoo.open(tiny_zoo), ["*"]).keys()
    assert [*targets_of(strays, ["te*"])] == ["test_accuracy", "test_loss", "team"]
    assert own_targets(strays.frame) == {"score": True, "team": False, "epoch_minutes": True}
    with pytest.raises(InputError, match=r"no target 'teams'.*score, team, epoch_minutes"):
        targets_of(strays, ["teams"])
    with pytest.raises(InputError, match="has no values of optimizer"):
        targets_of(strays, ["optimizer"])


def test_a_text_that_each_model_has_for_itself_is_no_target(strays: Zoo):
    frame = strays.frame.assign(remark="about " + strays.frame["model"], laboratory=["north", "south"] * 20)
    assert "remark" not in own_targets(frame)
    assert own_targets(frame)["laboratory"] is False


def test_labels_of_a_column_with_empty_cells_are_whole(strays: Zoo):
    values, known = targets_of(strays, ["team"])["team"].targets(strays.frame)
    assert set(values[known]) == {"red", "green"}
    assert (~known).any()


@pytest.fixture(scope="module")
def probed(run: Run) -> list[dict]:
    call(wsl.probe.main, f"run={run.path}", "features=[embedding,statistics,statistics_task_vector,noise_outputs,factors]", *FEW)
    return json.loads((run.path / "probe.json").read_text())


def test_probes_read_own_columns_and_leave_out_features_that_the_zoo_has_nothing_for(probed: list[dict]):
    assert {row["features"] for row in probed if not row["control"]} == {"hyperrep", "statistics", "factors"}
    assert {"score", "team", "epoch_minutes", "test_accuracy"} <= {row["target"] for row in probed}
    assert not {"optimizer", "root", "pretraining"} & {row["target"] for row in probed}
    known = {(row["features"], row["target"]): row["value"] for row in probed if row["metric"] == "r2" and not row["control"]}
    assert known["factors", "score"] > 0.9  # which follows the learning rate
    limits = {row["target"]: row["noise_ceiling"] for row in probed if row["value"] is not None}
    assert limits["test_accuracy"] is None
    assert limits["score"] == 1


def test_features_that_a_zoo_has_nothing_for_are_named(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    place = f"run={shutil.copytree(run.path, tmp_path / 'run')}"
    message = refused(wsl.probe.main, place, f"zoo={run.zoo.path}", "features=[embedding]", "targets=[optimizer]")
    assert "has no values of optimizer" in message
    call(wsl.probe.main, place, f"zoo={run.zoo.path}", "features=[embedding,weight_pca_task_vector]", "targets=[score]", *FEW)
    assert "features left out: weight_pca_task_vector (no model of" in capsys.readouterr().out


def test_task_vectors_of_models_without_a_root_are_absent(mixed: Zoo, rooted: Zoo):
    from wsl.features.weight_statistics import WeightStatistics

    features = WeightStatistics(reference="root", quantiles=[0.5])
    assert features.lack(mixed) == features.lack(rooted) == ""
    children = mixed.select(stage="finetune", final=True)
    table = features.extract(None, children)  # type: ignore[arg-type]
    known = table["norm.weight/mean"].notna().to_numpy()
    assert known.tolist() == children.frame["root"].notna().tolist()


def test_a_zoo_is_predicted_by_a_run_on_it(run: Run, strays: Zoo, tmp_path: Path):
    call(wsl.predict.main, f"run={run.path}", f"path={strays.path}", f"out={tmp_path / 'table.csv'}")
    table = pd.read_csv(tmp_path / "table.csv")
    assert len(table) == 20
    assert table["error"].isna().all()
    assert {"score", "score_low", "score_high", "team", "team_set", "test_accuracy"} <= set(table)
    inside = table["out_of_distribution"].isna()
    assert inside.sum() > 10
    assert set(table["team"][inside]) <= {"red", "green"}
    assert table["team"][~inside].isna().all()
    assert table["taken_root"].isna().all()


def test_a_reference_of_an_adopted_zoo_is_predicted_as_its_weights_are(run: Run, strays: Zoo, tmp_path: Path):
    reference = strays[1].path
    file = strays.path.parent / "files" / f"{strays[1].model}_{strays[1].epoch}.safetensors"
    assert reference.name.endswith(".reference.json")
    tables = []
    for number, path in enumerate((reference, file, reference.parent)):
        call(wsl.predict.main, f"run={run.path}", f"path={path}", f"out={tmp_path / f'{number}.csv'}", "outside=show")
        tables.append(pd.read_csv(tmp_path / f"{number}.csv").drop(columns="checkpoint"))
    for table in tables[1:]:
        pd.testing.assert_frame_equal(tables[0], table)


@pytest.mark.parametrize("kind", ["run", "encoder"])
def test_checkpoints_modules_state_dicts_and_paths_are_embedded_and_predicted_alike(
    kind: str, strays: Zoo, request: pytest.FixtureRequest
):
    run: Run = request.getfixturevalue(kind)
    one, other = strays[0], strays[3]
    file = strays.path.parent / "files" / f"{one.model}_{one.epoch}.safetensors"
    ways = [one, one.build(), one.state_dict(), file, str(file), one.path]
    found = [run.embed(way) for way in ways]
    for row in found:
        np.testing.assert_allclose(row, run.embed(strays)[:1], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(run.embed([one, other]), run.embed(iter([one, other])))
    assert not np.allclose(run.embed(other), found[0], atol=1e-3)
    scores = [float(run.predict(way)["score"][0]) for way in ways]
    np.testing.assert_allclose(scores, scores[0], rtol=1e-4)
    assert run.predict([one, file])["checkpoint"].tolist() == [one.model, file.name]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("accuracy_gap", "accuracy_gap is not predicted: no train model of the run has a value of it; predicted are "),
        ("accuracy_gap_low", "accuracy_gap_low is not predicted: no train model of the run has a value of it"),
        ("stage", "stage is not predicted: it is finetune for all [0-9]+ train models"),
        ("model", "model is not predicted: the zoo records it, and it is no target"),
        ("tset_accuracy", "tset_accuracy is not predicted: the zoo of the run has no such column; predicted are .*test_accuracy"),
    ],
)
def test_a_column_that_is_not_predicted_says_why(run: Run, strays: Zoo, column: str, message: str):
    table = run.predict(strays[0])
    for some in (table, table.sort_values("checkpoint")):
        with pytest.raises(InputError, match=message):
            some[column]
        with pytest.raises(KeyError):
            some[["checkpoint", column]]
        assert some.get(column) is None
        assert column not in some
        assert some["score"].notna().all()


def test_a_root_is_found_given_or_missed(rooted: Zoo, tmp_path: Path):
    run = train_small(rooted.path, tmp_path / "run")
    one = rooted.select(stage="finetune")[0]
    root = rooted.root(one)
    assert root is not None
    known = run.embed(rooted.select(path=[rooted.frame["path"][rooted.frame["model"] == one.model].iloc[0]]))
    for found in (run.embed(one), run.embed(one.state_dict(), root=root), run.embed(one.state_dict())):
        np.testing.assert_allclose(found, known, rtol=1e-4, atol=1e-5)
    other = next(checkpoint for checkpoint in rooted if checkpoint.model == "root_2")
    assert not np.allclose(run.embed(one, root=other), known, atol=1e-3)
    with pytest.raises(InputError, match="float has no weights"):
        run.embed([1.5])  # type: ignore[list-item]


def test_models_are_generated_and_compared_by_their_weights_alone(run: Run, capsys: pytest.CaptureFixture[str]):
    call(wsl.generate.main, f"run={run.path}", "n=4", "baselines=[new_head,random_init,copy]", "scan={}")
    printed = capsys.readouterr().out
    assert "samples are compared by their weights alone" in printed
    assert "new_head is left out: the root of no train model is known" in printed
    rule = "anchors=4: 4 train models spread evenly over each family, as no val accuracy is known"
    assert printed.count(rule) == 1
    rows = {row["generator"]: row for row in json.loads((run.path / "generate.json").read_text())}
    assert [rows[name].get("anchors_by") for name in ("kde", "copy", "random_init")] == [rule, rule, None]
    assert rule in "".join(generation_section([*rows.values()], chance=None).body)
    assert set(rows) == {"train models", "held-out models", "kde", "nearest train model", "random_init", "copy"}
    assert "on the scale of train models, whatever their accuracy, as models cannot be run" in " ".join(printed.split())
    assert all(row["accuracy"]["median"] is None and set(row["novelty_by_space"]) == {"weights"} for row in rows.values())
    assert rows["copy"]["novelty"] < 1e-3 < rows["kde"]["novelty"]
    assert "is known" in refused(wsl.generate.main, f"run={run.path}", "generator=new_head", "n=4", "baselines=[]", "scan={}")


def test_the_report_shows_columns_of_ones_own(run: Run, probed: list[dict], capsys: pytest.CaptureFixture[str]):
    call(wsl.report.main, f"run={run.path}")
    page = (run.path / "report.html").read_text()
    assert all(word in page for word in ("epoch minutes", "team", "score", "Final test accuracy"))
    assert "R² of test accuracy" in capsys.readouterr().out


def test_without_any_result_of_the_format_reports_show_a_column_of_ones_own(strays: Zoo):
    from wsl.reporting.sections import zoo_section
    from wsl.reporting.style import score_of

    frame = strays.frame.assign(test_accuracy=np.nan, test_loss=np.nan)
    assert score_of(strays.frame) == "test_accuracy"
    assert score_of(frame) == "score"
    assert "Final score" in "".join(zoo_section(frame, ["team"], chance=None).body)
    nothing = zoo_section(frame[[name for name in frame if name not in ("score", "epoch_minutes")]], ["team"], chance=None)
    assert "no result" in "".join(nothing.body)


def test_the_benchmark_counts_columns_of_ones_own(run: Run, strays: Zoo, tmp_path: Path):
    shutil.copytree(run.path, tmp_path / "runs" / "one")
    places = (f"zoo={strays.path}", f"runs=[{tmp_path / 'runs'}]", f"out={tmp_path / 'rows.json'}")
    call(wsl.property_prediction.main, *places, "features=[embedding,statistics,spectra_task_vector]", *FEW)
    short = (tmp_path / "rows.md").read_text().partition("## by_model, all")[0]
    assert "score final" in short
    assert "learning rate" not in short  # no target that embeddings are judged by


def test_models_of_which_only_tensors_are_known_train_probe_predict_and_generate(undescribed: Zoo, tmp_path: Path):
    run = train_small(undescribed.path, tmp_path / "run")
    call(wsl.probe.main, f"run={run.path}", "features=[embedding]", "targets=[score]", *FEW)
    found = run.predict(undescribed)
    assert found["score"].notna().tolist() == (found["out_of_distribution"] == "").tolist()
    assert found["score"].notna().any()
    call(wsl.generate.main, f"run={run.path}", "n=3", "baselines=[random_init]", "scan={}")
    rows = json.loads((run.path / "generate.json").read_text())
    assert {row["generator"] for row in rows} == {"train models", "held-out models", "kde", "nearest train model"}
    assert not any(row["aligned"] for row in rows)
    call(wsl.report.main, f"run={run.path}")
    assert "not modulo symmetry" in (run.path / "report.html").read_text()
    assert "architecture" in refused(wsl.generate.main, f"run={run.path}", "generator=random_init", "baselines=[]", "scan={}")


def test_what_models_lack_to_be_run_is_said(strays: Zoo, undescribed: Zoo, tiny_zoo: Path):
    assert lack_to_run(Zoo.open(tiny_zoo)) == ""
    assert "images of zoo" in lack_to_run(strays)
    with_images = Zoo(undescribed.path, {**undescribed.config, "config": Zoo.open(tiny_zoo).config["config"]}, undescribed.frame)
    assert "architecture of model stray_0" in lack_to_run(with_images)


def test_a_zoo_that_lies_from_the_run_comes_before_the_one_that_was_trained_on(run: Run, strays: Zoo, tmp_path: Path):
    shutil.copytree(strays.path.parent, tmp_path / "data")
    shutil.copytree(run.path, tmp_path / "run")
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    config["zoo"]["relative"] = "../data/zoo"
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    assert Run.open(tmp_path / "run").zoo.path == (tmp_path / "data" / "zoo").resolve()
    config["zoo"]["relative"] = "../nowhere"
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    assert Run.open(tmp_path / "run").zoo.path == strays.path.resolve()


def test_runs_are_reproduced_by_the_settings_that_they_were_given(run: Run, strays: Zoo):
    again = TrainConfig(**compose("train", [*SMALL, f"zoo={strays.path}"]))
    train(again, [strays], run.path, Console(quiet=True))  # finished, and of the same configuration
    weights = run.model.state_dict()
    assert all(torch.equal(weights[name], found) for name, found in Run.open(run.path).model.state_dict().items())


def test_own_features_are_evaluated_on_own_columns(run: Run):
    truth = run.zoo.frame["score"].to_numpy(dtype=float)
    table = wsl.evaluate(truth[:, None], run, targets=["score", "team"], features=["statistics"], n_bootstrap=20)
    assert {"score", "team"} >= set(table["target"]) >= {"score"}
    with pytest.raises(InputError, match="no target 'scores'"):
        wsl.evaluate(truth[:, None], run, targets=["scores"], features=["statistics"])


def test_a_coverage_that_few_val_models_cannot_promise_is_said(run: Run, capsys: pytest.CaptureFixture[str]):
    place = f"path={run.zoo.path}"
    call(wsl.predict.main, f"run={run.path}", place, "coverage=0.99")
    assert "at coverage=0.99 intervals are as wide as the range" in capsys.readouterr().out
    call(wsl.predict.main, f"run={run.path}", place, "coverage=0.2")
    assert "intervals are as wide" not in capsys.readouterr().out


def test_a_zoo_with_too_few_models_for_a_fold_is_refused(run: Run, tmp_path: Path):
    few = run.zoo.select(model=run.split.test[0].model)
    with pytest.raises(InputError, match="has no train models, as it has 1 fine-tuned model in all"):
        check(TrainConfig(**compose("train", [f"zoo={run.zoo.path}"])), [few])
