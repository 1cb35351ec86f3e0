"""Saved probes answer as fresh ones do, and say when a checkpoint is none of the family's."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from wsl.predict import PredictConfig, predict
from wsl.predictor import Predictor
from wsl.probe import cards, probed
from wsl.probes.inputs import Inputs
from wsl.probes.probe import Answers
from wsl.run import Run
from zoo_gen import InputError
from zoo_gen.config import compose


@pytest.fixture(scope="module")
def run(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run.open(Path(shutil.copytree(tiny_run.path, tmp_path_factory.mktemp("runs") / "tiny")))


def config(path: Path, *overrides: str) -> PredictConfig:
    return PredictConfig(**compose("predict", [f"path={path}", *overrides]))


def test_saved_probes_answer_as_fresh_ones(run: Run, tmp_path: Path):
    penalties = config(tmp_path).penalties
    Predictor.of(run, penalties=penalties)
    saved = Predictor.of(run, penalties=[])  # from the file: nothing could be fitted without penalties
    train, val, test = (probed(part) for part in run.split)
    embedded = [np.asarray(run.embed(part), dtype=float) for part in (train, val, test)]
    probe = cards("probe", ["test_loss"])["test_loss"]
    models = [part.frame["model"].factorize()[0] for part in (train, val)]
    answers = [Answers(part.frame["test_loss"].to_numpy(), some) for part, some in zip((train, val), models, strict=True)]
    fresh = probe.predict(Inputs.of(*embedded), *answers, penalties=penalties)
    np.testing.assert_allclose(saved(embedded[2], coverage=0.9)["test_loss"], fresh, atol=1e-6)


def test_random_weights_are_outside_and_a_model_of_the_zoo_finds_its_root(run: Run, tmp_path: Path):
    one = run.split.train.select(final=True)[0]
    (own,) = predict(run, config(one.path), Console(quiet=True)).to_dict("records")
    assert (own["taken_root"], own["outside"]) == (one.root, "")
    assert own["test_accuracy_low"] <= own["test_accuracy"] <= own["test_accuracy_high"]
    noise = {name: torch.randn(weight.shape) for name, weight in one.state_dict().items()}
    save_file(noise, tmp_path / "noise.safetensors")
    (found,) = predict(run, config(tmp_path / "noise.safetensors"), Console(quiet=True)).to_dict("records")
    assert "no root of the run is near" in found["outside"]


def test_an_empty_folder_is_refused(run: Run, tmp_path: Path):
    with pytest.raises(InputError, match="holds no checkpoint"):
        predict(run, config(tmp_path), Console(quiet=True))
