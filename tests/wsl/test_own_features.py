"""A user's own features go through the probes and folds of a run, and are compared with its embedding and baselines."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import wsl
from tests.commands import call
from wsl.probe import main as probe
from wsl.probes.probe import probed_checkpoints
from wsl.run import Run
from zoo_gen import InputError

TARGETS = ["test_accuracy", "optimizer"]


def test_the_table_has_own_features_beside_those_of_the_run(tiny_run: Run) -> None:
    table = wsl.evaluate(tiny_run.embed(tiny_run.zoo), tiny_run, targets=TARGETS, n_bootstrap=50)
    assert set(table["features"]) == {"own", tiny_run.model_name, "statistics", "statistics_task_vector"}
    assert set(table["target"]) == set(TARGETS)
    assert set(table["checkpoints"]) == {"all", "final"}
    rows: Any = table.set_index(["target", "checkpoints", "features"])
    for target in TARGETS:
        own, run = (rows.loc[(target, "all", name), :] for name in ("own", tiny_run.model_name))
        assert own["score"] == pytest.approx(run["score"])  # they are the same features
        assert run[["difference", "difference_low", "difference_high"]].abs().max() < 1e-9
        assert np.isnan(own["difference"])
        other = rows.loc[(target, "all", "statistics"), :]
        assert other["difference"] == pytest.approx(own["score"] - other["score"])
        assert other["difference_low"] <= other["difference"] + 1e-9


def test_features_that_tell_the_target_score_one_and_noise_does_not(tiny_run: Run) -> None:
    truth = probed_checkpoints(tiny_run.zoo).frame["test_accuracy"].to_numpy()
    noise = np.random.default_rng(0).normal(size=(len(truth), 3))
    scores = {}
    for name, features in (("truth", truth[:, None]), ("noise", noise)):
        table = wsl.evaluate(features, tiny_run, targets=["test_accuracy"], features=["embedding"], n_bootstrap=50)
        scores[name] = float(table["score"][(table["features"] == "own") & (table["checkpoints"] == "all")].iloc[0])
    assert scores["truth"] > 0.99
    assert scores["noise"] < 0.5


def test_scores_are_those_of_the_command(tiny_run: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_run.path, tmp_path / "run"))
    call(probe, f"run={folder}", "targets=[test_accuracy]", "features=[statistics]", "noise_ceiling_checkpoints=1")
    rows = pd.read_json(folder / "probe.json")
    told = rows[(rows["features"] == "statistics") & (rows["metric"] == "r2") & (rows["subset"] == "all")]["value"].iloc[0]
    table = wsl.evaluate(np.ones((len(tiny_run.zoo), 1)), tiny_run, targets=["test_accuracy"], features=["statistics"])
    assert table["score"][(table["features"] == "statistics") & (table["checkpoints"] == "all")].iloc[0] == pytest.approx(told)


def test_rows_are_of_all_checkpoints_of_the_probed_ones_or_named(tiny_run: Run) -> None:
    frame, probed = tiny_run.zoo.frame, probed_checkpoints(tiny_run.zoo)
    values = np.random.default_rng(0).normal(size=(len(frame), 2))
    named = pd.DataFrame(values, columns=["a", "b"]).assign(model=frame["model"], epoch=frame["epoch"])
    kept = frame["path"].isin(probed.frame["path"]).to_numpy()
    settings = {"targets": ["test_accuracy"], "features": ["statistics"], "n_bootstrap": 20}
    given = (values, values[kept], pd.DataFrame(values), named.sample(frac=1, random_state=0))
    first, *others = (wsl.evaluate(one, tiny_run, **settings) for one in given)
    for other in others:
        pd.testing.assert_frame_equal(first, other)


def test_rows_that_do_not_match_are_refused_with_the_right_order(tiny_run: Run) -> None:
    frame = tiny_run.zoo.frame
    with pytest.raises(InputError, match=r"have 5 rows; pass one for each of the .* checkpoints of run.zoo, in its order: X = "):
        wsl.evaluate(np.ones((5, 2)), tiny_run)
    with pytest.raises(InputError, match="index of the DataFrame is not 0, 1, 2"):
        wsl.evaluate(pd.DataFrame(np.ones((len(frame), 2))).iloc[::-1], tiny_run)
    named = frame[["model", "epoch"]].assign(a=1.0)
    with pytest.raises(InputError, match=r"lack 1 of .* such as \('"):
        wsl.evaluate(named.iloc[:-1], tiny_run)
    with pytest.raises(InputError, match="two rows of"):
        wsl.evaluate(pd.concat([named, named.iloc[:1]]), tiny_run)
    with pytest.raises(InputError, match="no numbers"):
        wsl.evaluate(frame[["model"]], tiny_run)
    with pytest.raises(InputError, match=r"shape \(\d+,\), not"):
        wsl.evaluate(np.ones(len(frame)), tiny_run)
    with pytest.raises(InputError, match="no setting 'penalty'"):
        wsl.evaluate(np.ones((len(frame), 1)), tiny_run, penalty=1)


def test_the_recipe_prints_a_table(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path(__file__).parent.parent.parent / "docs" / "how_to" / "add_a_probe.md"
    (code,) = (one for one in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL) if "evaluate(" in one)
    shutil.copytree(tiny_run.path, tmp_path / "checkpoints" / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert "own" in capsys.readouterr().out
