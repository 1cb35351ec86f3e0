"""Saved probes predict as fresh ones do, and say when a checkpoint is out of distribution."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from tests.commands import call, refused
from tests.foreign import write_adapter
from tests.zoos import known
from wsl.layout import layout_of
from wsl.predict import PredictConfig, main
from wsl.probes.inputs import Inputs
from wsl.probes.places import checkpoints_in
from wsl.probes.prediction import predict
from wsl.probes.predictor import FILE, Predictor
from wsl.probes.probe import Targets, probed_checkpoints
from wsl.run import Run
from wsl.symmetry.alignment import align
from wsl.symmetry.group import random_view
from wsl.symmetry.stacks import stack, unstack
from zoo_gen import Checkpoint, InputError
from zoo_gen.config import cards, compose


@pytest.fixture(scope="module")
def run(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return copy(tiny_run, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def encoder(tiny_encoder: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return copy(tiny_encoder, tmp_path_factory.mktemp("runs"))


@pytest.fixture(params=["run", "encoder"])
def of_each_model(request: pytest.FixtureRequest) -> Run:
    """A hyper-representation, and an invariant encoder."""
    return request.getfixturevalue(request.param)


def copy(run: Run, folder: Path) -> Run:
    return Run.open(Path(shutil.copytree(run.path, folder / "tiny")))


def config(path: Path, *overrides: str) -> PredictConfig:
    return PredictConfig(**compose("predict", [f"path={path}", *overrides]))


def predicted(run: Run, path: Path, *overrides: str) -> pd.DataFrame:
    return predict(run, checkpoints_in(path), config(path, *overrides), Console(quiet=True))


def test_saved_probes_predict_as_fresh_ones(of_each_model: Run, tmp_path: Path):
    run = of_each_model
    penalties = config(tmp_path).penalties
    fitted = Predictor.of(run, penalties=penalties)
    saved = Predictor.of(run, penalties=[])  # from the file: nothing could be fitted without penalties
    assert fitted.tensors.keys() == saved.tensors.keys()
    for name, tensor in fitted.tensors.items():
        np.testing.assert_array_equal(saved.tensors[name], tensor)
    train, val, test = (probed_checkpoints(part) for part in run.split)
    embedded = [np.asarray(run.embed(part), dtype=float) for part in (train, val, test)]
    probe = cards("probe", ["test_loss"])["test_loss"]
    models = [part.frame["model"].factorize()[0] for part in (train, val)]
    known = [Targets(part.frame["test_loss"].to_numpy(), some) for part, some in zip((train, val), models, strict=True)]
    inputs = Inputs.of(*embedded)
    fresh = probe.fit(inputs, *known, penalties=penalties).predict(inputs.test)
    np.testing.assert_allclose(saved(embedded[2], coverage=0.9)["test_loss"], fresh, atol=1e-6)


def test_random_weights_are_out_of_distribution_and_a_model_of_the_zoo_finds_its_root(of_each_model: Run, tmp_path: Path):
    run = of_each_model
    one = run.split.train.select(final=True)[0]
    (own,) = predicted(run, one.path).to_dict("records")
    assert (own["taken_root"], own["out_of_distribution"]) == (one.root, "")
    assert own["test_accuracy_low"] <= own["test_accuracy"] <= own["test_accuracy_high"]
    noise = {name: torch.randn(weight.shape) for name, weight in one.state_dict().items()}
    save_file(noise, tmp_path / "noise.safetensors")
    (found,) = predicted(run, tmp_path / "noise.safetensors").to_dict("records")
    assert "no root of the run is near" in found["out_of_distribution"]
    assert pd.isna(found["test_accuracy"])
    assert pd.isna(found["optimizer_set"])
    (shown,) = predicted(run, tmp_path / "noise.safetensors", "outside=show").to_dict("records")
    assert 0 <= shown["test_accuracy"] <= 1
    assert (shown["test_accuracy_low"], shown["test_accuracy_high"]) == (0, 1)
    assert shown["test_loss_high"] == np.inf
    assert set(shown["optimizer_set"].split(" or ")) == {"adamw", "sgd"}
    with pytest.raises(InputError, match="outside must be hide or show, not all"):
        predicted(run, one.path, "outside=all")


def permuted(run: Run, one: Checkpoint) -> dict[str, torch.Tensor]:
    """The same function as a model of a zoo, its features, neurons and heads in another order."""
    rng, moves = torch.Generator().manual_seed(0), ("resid", "mlp", "head")
    return unstack(random_view(stack([one.state_dict()]), layout_of(one.build()), rng, moves=moves, maps="orthogonal", strength=0))[
        0
    ]


def test_a_permuted_copy_is_predicted_otherwise_with_a_warning_and_alike_once_it_is_aligned(
    encoder: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run, one = encoder, encoder.split.train.select(final=True)[0]
    root = known(run.zoo.root(one))
    copy, layout = permuted(run, one), layout_of(one.build())
    aligned = unstack(align(stack([copy]), layout, to=stack([one.state_dict()]), moves=("resid", "mlp", "head")).weights)[0]
    folder = tmp_path / "some"
    folder.mkdir()
    for name, weights in (("own", one.state_dict()), ("copy", copy), ("aligned", aligned)):
        save_file({key: tensor.float().contiguous() for key, tensor in weights.items()}, folder / f"{name}.safetensors")
    call(main, f"run={run.path}", f"path={folder}", f"root={root.path}", "outside=show", f"out={tmp_path / 'found.csv'}")
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("once its neurons and heads are in the order of the root") == 1
    assert "warning: copy.safetensors differs from its root by" in said
    found = pd.read_csv(tmp_path / "found.csv").set_index("checkpoint")["distance"]  # which all of the embedding enters
    assert found["aligned.safetensors"] == pytest.approx(found["own.safetensors"], rel=1e-3)
    assert found["copy.safetensors"] != pytest.approx(found["own.safetensors"], rel=1e-4)


def test_a_copy_that_is_permuted_as_its_root_is_has_the_same_latents(encoder: Run):
    one = encoder.split.train.select(final=True)[0]
    root = known(encoder.zoo.root(one))
    assert root.architecture["num_classes"] == one.architecture["num_classes"]
    both = [permuted(encoder, one), permuted(encoder, root)]  # by one seed
    own = encoder.embed(one)
    np.testing.assert_allclose(encoder.embed(both[0], root=both[1]), own, rtol=1e-3, atol=1e-3)
    assert not np.allclose(encoder.embed(both[0], root=root), own, rtol=1e-3, atol=1e-3)


def with_other_root(run: Run, folder: Path) -> tuple[Path, str]:
    """A train model with a root that differs from all of the run in one number."""
    one = run.split.train.select(final=True)[0]
    root = dict(known(run.zoo.root(one)).state_dict())
    name = next(iter(root))
    root[name] = root[name] + 1e-6
    save_file(root, folder / "root.safetensors")
    return one.path, f"root={folder / 'root.safetensors'}"


def test_a_new_root_has_wider_intervals_and_no_prediction_where_the_roots_left_out_cannot_promise_it(run: Run, tmp_path: Path):
    path, root = with_other_root(run, tmp_path)
    (refused_one,) = predicted(run, path, root).to_dict("records")
    roots = run.zoo.select(stage="finetune").frame["root"].nunique()
    promised = f"its root is none of the run's, and those promise a coverage of {roots / (roots + 1):.2f} at most for other roots"
    assert refused_one["out_of_distribution"] == promised
    assert pd.isna(refused_one["test_accuracy"])
    (own,), (other,) = (predicted(run, path, *more, "coverage=0.6").to_dict("records") for more in ([], [root]))
    assert other["out_of_distribution"] == ""
    assert other["test_accuracy_low"] <= other["test_accuracy"] <= other["test_accuracy_high"]
    assert pd.isna(other["root"])  # none that the probe could name
    assert own["root_set"]


def test_only_weights_that_are_not_finite_are_called_so(run: Run, tmp_path: Path):
    one = run.split.train.select(final=True)[0]
    root = f"root={known(run.zoo.root(one)).path}"
    weights = dict(one.state_dict())
    name = next(name for name, weight in weights.items() if weight.ndim > 1)
    reasons = []
    for value in (float("nan"), 3e38):
        changed = {**weights, name: torch.full_like(weights[name], value)}
        save_file(changed, tmp_path / "changed.safetensors")
        (found,) = predicted(run, tmp_path / "changed.safetensors", root).to_dict("records")
        assert pd.isna(found["test_accuracy"])
        reasons.append("weights are not finite" in found["out_of_distribution"])
    assert reasons == [True, False]


def test_numbers_keep_within_their_bounds_and_labels_have_probabilities_and_sets(run: Run):
    predictor = Predictor.of(run, penalties=[1.0])
    embedded = np.asarray(run.embed(probed_checkpoints(run.split.test)), dtype=float)
    found = predictor(embedded, coverage=0.999)  # more than so few val models can promise
    for target, (low, high) in {"test_accuracy": (0, 1), "test_loss": (0, np.inf), "accuracy_gap": (-1, 1)}.items():
        assert (found[f"{target}_low"] == low).all()
        assert (found[f"{target}_high"] == high).all()
        assert found[target].between(low, high).all()
    assert set(found["optimizer_set"]) <= {"adamw or sgd", "sgd or adamw"}
    narrow = predictor(embedded, coverage=0.01)
    inside = narrow[narrow["distance"] <= 1]
    assert len(inside) > 0
    assert (inside["optimizer_set"] == inside["optimizer"]).all()
    assert narrow["root_probability"].between(1 / 3, 1).all()
    assert (inside["test_loss_high"] < found["test_loss_high"][inside.index]).all()
    assert (narrow["test_loss_high"] == np.inf)[narrow["distance"] > 1].all()


def test_an_interval_beyond_the_bounds_of_its_target_is_left_out(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    one = run.split.train.select(final=True)[0]
    (own,) = predicted(run, one.path).to_dict("records")
    assert own["test_accuracy_low"] < own["test_accuracy_high"]
    wrong = copy(run, tmp_path)
    saved = Predictor.of(wrong, penalties=[])
    above = {"test_accuracy/intercepts": saved.tensors["test_accuracy/intercepts"] + 1e3}
    Predictor({**saved.tensors, **above}, saved.about).save(wrong.path)
    (found,) = predicted(wrong, one.path).to_dict("records")
    assert found["test_accuracy"] == 1
    assert np.isnan([found["test_accuracy_low"], found["test_accuracy_high"]]).all()
    assert found["test_loss_low"] == own["test_loss_low"]
    call(main, f"run={wrong.path}", f"path={one.path}")
    assert "no interval" in capsys.readouterr().out


def test_a_checkpoint_out_of_distribution_has_an_exit_code_if_asked(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    one = run.split.train.select(final=True)[0]
    save_file({name: torch.randn(weight.shape) for name, weight in one.state_dict().items()}, tmp_path / "noise.safetensors")
    call(main, f"run={run.path}", f"path={tmp_path / 'noise.safetensors'}")
    call(main, f"run={run.path}", f"path={one.path}", "fail_outside=true")
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        call(main, f"run={run.path}", f"path={tmp_path / 'noise.safetensors'}", "fail_outside=true")
    said = capsys.readouterr()
    assert exit.value.code == 3
    assert "test_accuracy" in said.out
    assert said.err == "out of distribution: 1 of 1 checkpoint: noise.safetensors\n"


def test_sets_hold_the_true_labels_of_val_models_as_often_as_asked(run: Run):
    predictor, val = Predictor.of(run, penalties=[1.0]), probed_checkpoints(run.split.val)
    embedded = np.asarray(run.embed(val), dtype=float)
    for coverage in (0.5, 0.8):
        sets = predictor(embedded, coverage=coverage)["optimizer_set"].str.split(" or ")
        held = [truth in some for truth, some in zip(val.frame["optimizer"], sets, strict=True)]
        assert np.mean(held) >= coverage


def folder_of_three(run: Run, folder: Path) -> Path:
    one = run.split.val.select(final=True)[1]  # in distribution: the limit of distances is that of val models
    folder.mkdir()
    save_file(one.state_dict(), folder / "a.safetensors")
    (folder / "b.safetensors").write_bytes(b"no weights")
    save_file({"odd": torch.ones(3)}, folder / "c.safetensors")
    return folder


def test_the_command_predicts_what_it_can_read_and_names_the_rest(
    of_each_model: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = of_each_model
    folder, out = folder_of_three(run, tmp_path / "some"), tmp_path / "found.csv"
    with pytest.raises(SystemExit) as exit:
        call(main, f"run={run.path}", f"path={folder}", f"out={out}")
    assert exit.value.code == 1
    said = capsys.readouterr()
    assert "3 checkpoints: 1 in distribution, 0 out of distribution, 2 unreadable" in " ".join(said.out.split())
    assert "test_loss: of the test images of zoo" in " ".join(said.out.split())
    message = said.err
    assert message.startswith("error: 2 of 3 checkpoints could not be read: b.safetensors (")
    assert "; c.safetensors (" in message
    assert "a.safetensors" not in message
    table = pd.read_csv(out).set_index("checkpoint")
    assert table["error"].notna().tolist() == [False, True, True]
    assert table["test_accuracy"].notna().tolist() == [True, False, False]
    for name in "bc":
        assert "could not be read: " not in refused(main, f"run={run.path}", f"path={folder / name}.safetensors")
    (folder / "b.safetensors").unlink()
    (folder / "c.safetensors").unlink()
    call(main, f"run={run.path}", f"path={folder}", f"out={tmp_path / 'found.json'}")
    assert "a.safetensors" in capsys.readouterr().out


def test_names_that_are_not_utf_8_are_one_clear_error_and_the_others_are_predicted(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    one, odd = run.split.val.select(final=True)[1], os.fsdecode(b"odd\xff.safetensors")
    for name in ("a.safetensors", odd):
        shutil.copy(one.path, tmp_path / name)
    assert "path=" in refused(main, f"run={run.path}", f"path={tmp_path / odd}")
    (tmp_path / os.fsdecode(b"c\xff.h5")).touch()
    for out in ("found.csv", "found.json"):
        with pytest.raises(SystemExit):
            call(main, f"run={run.path}", f"path={tmp_path}", f"out={tmp_path / out}")
        said = capsys.readouterr()
        message = r"odd\udcff.safetensors has bytes that are not UTF-8, and libraries cannot open such a path; rename it"
        assert said.err.startswith("error: 1 of 2 checkpoints could not be read: ")
        assert message in said.err
        assert r"c\udcff.h5" in said.out
    assert pd.read_csv(tmp_path / "found.csv")["test_accuracy"].notna().tolist() == [True, False]


def test_an_adapter_is_merged_into_its_base_which_is_its_root(run: Run, tmp_path: Path):
    one = run.split.train.select(final=True)[0]
    root = known(run.zoo.root(one))
    write_adapter(tmp_path / "adapter", root.state_dict())
    (found,) = predicted(run, tmp_path / "adapter", f"base={root.path}").to_dict("records")
    assert found["taken_root"] == one.root
    with pytest.raises(InputError, match="base=<path>"):
        predicted(run, tmp_path / "adapter")
    with pytest.raises(InputError, match="leave base out"):
        predicted(run, one.path, f"base={root.path}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"population/mean": np.full(3, np.nan)}, "is missing, unknown, or of a wrong shape"),
        ({"optimizer/nonconformity": np.full(1, np.nan), "optimizer/weights": np.ones(1)}, "'optimizer/nonconformity' has values"),
        ({"population/limit": np.zeros(1)}, "'population/limit' has values"),
        ({"optimizer/weights": np.ones(1)}, "'optimizer/weights' is missing, unknown, or of a wrong shape"),
        ({"other/weights": np.ones(1)}, "'other/weights' is missing, unknown"),
    ],
)
def test_damaged_probes_are_one_message(run: Run, tmp_path: Path, change: dict[str, np.ndarray], message: str):
    saved = Predictor.of(run, penalties=[1.0])
    Predictor(saved.tensors, saved.about).save(tmp_path)
    assert Predictor.read(tmp_path / FILE).about == saved.about
    Predictor({**saved.tensors, **change}, saved.about).save(tmp_path)
    with pytest.raises(InputError, match=f"is damaged .*({message}).*delete it"):
        Predictor.read(tmp_path / FILE)
    Predictor(saved.tensors, {**saved.about, "classes": {"../x": []}}).save(tmp_path)
    with pytest.raises(InputError, match="missing"):
        Predictor.read(tmp_path / FILE)


def test_an_empty_folder_is_refused(run: Run, tmp_path: Path):
    with pytest.raises(InputError, match="holds no checkpoint"):
        predicted(run, tmp_path)


def test_a_folder_says_what_it_holds_besides(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    one = run.split.train.select(final=True)[0]
    shutil.copy(one.path, tmp_path / "a.safetensors")
    torch.save(one.state_dict(), tmp_path / "b.pth.tar")
    (tmp_path / "c.h5").touch()
    (tmp_path / "notes.txt").touch()
    call(main, f"run={run.path}", f"path={tmp_path}")
    said = capsys.readouterr().out
    assert "b.pth.tar" in said
    assert "passed over, of no kind that is read: c.h5\n" in said


def test_a_part_of_another_model_is_predicted_by_its_prefix(run: Run, tmp_path: Path):
    one = run.split.train.select(final=True)[0]
    whole = {f"encoder.{name}": tensor for name, tensor in one.state_dict().items()} | {"decoder.weight": torch.ones(3)}
    torch.save(whole, tmp_path / "whole.pt")
    (own,) = predicted(run, one.path).to_dict("records")
    (found,) = predicted(run, tmp_path / "whole.pt", "prefix=encoder").to_dict("records")
    assert found["test_accuracy"] == pytest.approx(own["test_accuracy"])


def test_an_answer_needs_no_write(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    mine = copy(run, tmp_path)
    (mine.path / FILE).unlink(missing_ok=True)

    def read_only(path: Path, content: bytes) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr("zoo_gen.files.write_bytes", read_only)
    call(main, f"run={mine.path}", f"path={run.split.train.select(final=True)[0].path}")
    said = capsys.readouterr()
    assert "test_accuracy" in said.out
    assert f"could not save {mine.path / FILE} (Read-only file system)" in said.err


def test_hidden_files_and_folders_are_no_checkpoints(tmp_path: Path):
    for name in ("a.safetensors", "._a.safetensors", ".ipynb_checkpoints/model.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save_file({"a": torch.ones(1)}, tmp_path / name)
    assert list(checkpoints_in(tmp_path)) == ["a.safetensors"]
