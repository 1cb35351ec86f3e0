"""Zoos of the field: weights, epochs, factors and results are those that their makers wrote; broken ones are a clear error."""

import gzip
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.architectures import MODELS
from tests.commands import call, refused
from tests.field_zoos import (
    EPOCHS,
    HsgCnn,
    params_of,
    write_model_j,
    write_ray_tune,
    write_small_cnn_zoo,
    write_small_transformer_zoo,
    write_trial,
)
from zoo_gen import Zoo
from zoo_gen.adopt import main
from zoo_gen.field_zoos.field_zoo import kinds
from zoo_gen.formats.matrix_row import read_row
from zoo_gen.verify import problems


def adopted(folder: Path, *arguments: str) -> Zoo:
    call(main, f"folder={folder}", f"path={folder.parent / 'zoo'}", *arguments)
    return Zoo.open(folder.parent / "zoo")


def reasons(zoo: Zoo) -> dict[str, str]:
    return {row["file"]: row["reason"] for row in json.loads((zoo.path / "left_out.json").read_text())}


def test_every_reader_is_found_by_its_name() -> None:
    assert kinds() == ["model_j", "ray_tune", "small_cnn_zoo", "small_transformer_zoo"]


@pytest.mark.parametrize("first", [0, 1])
def test_a_line_of_ray_tune_is_that_of_its_training_iteration(first: int, tmp_path: Path) -> None:
    """With a checkpoint 0, a line is that of an epoch; without it, that of the epoch before."""
    folder = write_ray_tune(tmp_path / "hsg", first=first)
    zoo = adopted(folder)
    assert not list(problems(zoo.path))
    assert len(zoo) == 9
    for one in zoo:
        number = int(one.columns["training_iteration"] or 0)
        assert one.epoch == number + (first == 0)
        assert one.results["test_accuracy"] == 0.05 + 0.01 * number
        assert one.results["train_loss"] == 2.0 / (1 + number)
        assert one.columns["sparsity"] == 0.5
        there = torch.load(folder / one.model / f"checkpoint_{number:06d}" / "checkpoints", weights_only=True)
        found = one.state_dict()
        assert list(found) == [f"layers.{layer}.{kind}" for layer in range(5) for kind in ("weight", "bias")]
        assert all(ours.equal(theirs) for ours, theirs in zip(found.values(), there.values(), strict=True))


def test_dropout_shifts_no_names(tmp_path: Path) -> None:
    folder = write_ray_tune(tmp_path / "hsg")
    names = [set(torch.load(place, weights_only=True)) for place in sorted(folder.glob("*/checkpoint_000002/checkpoints"))]
    assert names[0] != names[2]
    assert len({tuple(one.state_dict()) for one in adopted(folder)}) == 1


def test_factors_of_ray_tune_have_their_names_and_others_keep_their_own(tmp_path: Path) -> None:
    zoo = adopted(write_ray_tune(tmp_path / "hsg"))
    finals = zoo.select(final=True).frame
    assert finals["dropout"].tolist() == [0, 0, 0.5]
    assert finals["seed"].tolist() == [0, 1, 2]
    one = finals.iloc[0]
    assert (one["optimizer"], one["learning_rate"], one["weight_decay"], one["batch_size"]) == ("adam", 1e-3, 1e-4, 12)
    assert (one["epochs"], one["init"], one["model::nlin"], one["optim::momentum"]) == (50, "kaiming_uniform", "tanh", 0.9)
    assert not {"dataset::dump", "cuda", "pid", "time_total_s", "config"} & set(finals.columns)


def test_folders_of_older_releases_and_lines_that_are_cut_are_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    states = {n: HsgCnn(dropout=0).state_dict() for n in (1, 2)}
    trial = write_trial(tmp_path / "hsg" / "trial_0", states, params_of(0), digits=1)
    with (trial / "result.json").open("a") as file:
        file.write('{"test_acc": 0.9, "training_it')
    zoo = adopted(tmp_path / "hsg")
    assert zoo.frame["test_accuracy"].tolist() == pytest.approx([0.06, 0.07])
    assert "no JSON" in reasons(zoo)["trial_0/result.json, line 3"]


def test_trials_without_results_or_weights_are_said(tmp_path: Path) -> None:
    folder = write_ray_tune(tmp_path / "hsg")
    first, second, third = sorted(folder.iterdir())
    (first / "checkpoint_000001" / "checkpoints").unlink()
    (second / "result.json").unlink()
    (third / "result.json").write_text('{"test_acc": 0.5}\n')
    (third / "checkpoint_000002" / "checkpoints").write_bytes(pickle.dumps(print))
    zoo = adopted(folder)
    told = reasons(zoo)
    assert len(zoo) == 7
    assert "no file 'checkpoints'" in told[f"{first.name}/checkpoint_000001"]
    assert "there is none" in told[f"{second.name}/result.json"]
    assert "no training_iteration" in told[f"{third.name}/result.json, line 1"]
    assert f"{third.name}/checkpoint_000002/checkpoints" in told


def test_weights_that_lie_beside_the_trials_are_said(tmp_path: Path) -> None:
    folder = write_ray_tune(tmp_path / "hsg")
    torch.save(HsgCnn(dropout=0).state_dict(), folder / "mine.pt")
    zoo = adopted(folder)
    assert len(zoo) == 9
    assert "no part of a zoo of this kind" in reasons(zoo)["mine.pt"]


def test_the_small_cnn_zoo_is_read_in_the_order_of_pytorch(tmp_path: Path) -> None:
    matrix = write_small_cnn_zoo(tmp_path / "fields" / "mnist")
    zoo = adopted(tmp_path / "fields")
    assert not list(problems(zoo.path))
    assert (len(zoo), zoo.frame["model"].nunique()) == (27, 3)
    for number, one in enumerate(zoo):
        model, place = divmod(number, len(EPOCHS))
        assert one.columns["step"] == EPOCHS[place]
        assert one.epoch == EPOCHS[place] + 1
        assert one.results["test_accuracy"] == pytest.approx(0.1 + 0.01 * place)
        assert one.factors["learning_rate"] == pytest.approx(0.01 * (1 + model))
        assert one.columns["config.activation"] == ("relu" if model % 2 else "tanh")
        found = one.state_dict()
        assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {
            "layers.0.bias": (16,),
            "layers.0.weight": (16, 1, 3, 3),
            "layers.1.bias": (16,),
            "layers.1.weight": (16, 16, 3, 3),
            "layers.2.bias": (16,),
            "layers.2.weight": (16, 16, 3, 3),
            "layers.3.bias": (10,),
            "layers.3.weight": (10, 16),
        }
        row = matrix[number]
        kernel = row[176:2480].reshape(3, 3, 16, 16)  # rows, columns, in, out
        assert np.array_equal(found["layers.1.weight"].numpy()[5, 7, 2, 1], kernel[2, 1, 7, 5])
        assert np.array_equal(found["layers.3.weight"].numpy().T, row[4810:].reshape(16, 10))
        assert np.array_equal(found["layers.2.bias"].numpy(), row[2480:2496])
    assert {"fraction", "seed", "epochs"} <= set(zoo.frame.dropna(axis=1).columns)


def test_weights_of_a_matrix_stay_there_or_are_copied(tmp_path: Path) -> None:
    write_small_cnn_zoo(tmp_path / "fields", models=1)
    zoo = adopted(tmp_path / "fields")
    assert all(one.is_reference for one in zoo)
    call(main, f"folder={tmp_path / 'fields'}", f"path={tmp_path / 'copied'}", "copy=true", "kind=small_cnn_zoo")
    copied = Zoo.open(tmp_path / "copied")
    assert not any(one.is_reference for one in copied)
    assert copied.content_hash == zoo.content_hash
    (tmp_path / "fields" / "layout.csv").unlink()
    assert list(problems(zoo.path))
    assert not list(problems(copied.path))


@pytest.mark.parametrize(
    ("file", "right", "wrong", "message"),
    [
        ("layout.csv", '"(3, 3, 1, 16)"', '"(3, 3, 2, 16)"', "no variable"),
        ("layout.csv", '"(3, 3, 1, 16)"', '"__import__(1)"', "no variable"),
        ("layout.csv", "conv2d_1/kernel:0", "conv2d_1/momentum:0", "no variable"),
        ("layout.csv", "conv2d_1/", "conv2d/", "twice"),
        ("metrics.csv", "modeldir", "model", "no column 'modeldir'"),
        ("metrics.csv", ",86,0.1", ",86.5,0.1", "no epoch"),
    ],
)
def test_a_small_cnn_zoo_that_contradicts_itself_is_one_error(
    file: str, right: str, wrong: str, message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "fields"
    write_small_cnn_zoo(folder, models=1)
    (folder / "metrics.csv").write_bytes(gzip.decompress((folder / "metrics.csv.gz").read_bytes()))
    (folder / "metrics.csv.gz").unlink()
    text = (folder / file).read_text()
    assert right in text
    (folder / file).write_text(text.replace(right, wrong))
    assert message in refused(main, f"folder={folder}", f"path={tmp_path / 'zoo'}")
    assert not (tmp_path / "zoo").exists()


def test_a_matrix_of_objects_is_never_unpickled(tmp_path: Path) -> None:
    write_small_cnn_zoo(tmp_path / "fields", models=1)
    np.save(tmp_path / "fields" / "weights.npy", np.array([[print]], dtype=object), allow_pickle=True)
    assert "no matrix of numbers" in refused(main, f"folder={tmp_path / 'fields'}", f"path={tmp_path / 'zoo'}")
    np.save(tmp_path / "fields" / "weights.npy", np.zeros((2, 4970), np.float32))
    assert "2 rows of weights, and 9 of metrics" in refused(main, f"folder={tmp_path / 'fields'}", f"path={tmp_path / 'zoo'}")
    assert len(read_row(tmp_path / "fields" / "weights.npy" / "1")) == 8


def test_the_small_transformer_zoo_is_read_by_its_table(tmp_path: Path) -> None:
    folder = write_small_transformer_zoo(tmp_path / "transformers")
    (folder / "mnist" / "a1b2_25_8000.pt").write_bytes((folder / "mnist" / "a1b2_50_9012.pt").read_bytes())
    (folder / "mnist" / "c3d4_75_9377.pt").unlink()
    (folder / "mnist" / "embedding.pt").write_bytes(b"")
    zoo = adopted(folder)
    assert not list(problems(zoo.path))
    told = reasons(zoo)
    one = zoo.select(model="mnist--e5f6", final=True)[0]
    assert (one.epoch, one.results["test_accuracy"], one.factors["learning_rate"], one.factors["optimizer"]) == (
        75,
        0.9377,
        0.005,
        "sgd",
    )
    assert one.columns["l2_regularize"] == 1e-6
    assert "model_path" not in one.columns
    assert one.architecture["num_heads"] == 2
    there = torch.load(folder / "mnist" / "e5f6_75_9377.pt", weights_only=True)
    assert all(one.state_dict()[name].equal(there[name]) for name in there)
    assert "best1" in " ".join(told)
    assert "only its name tells" in told["mnist/a1b2_25_8000.pt"]
    assert "c3d4_75_9377.pt is not there" in told["metadata/mnist.csv"]
    assert "no checkpoint of this zoo" in told["mnist/embedding.pt"]


def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return HsgCnn(dropout=0).state_dict()


def test_labels_of_model_j_are_parsed_from_the_header(tmp_path: Path) -> None:
    zoo = adopted(write_model_j(tmp_path / "models", weights()))
    assert not list(problems(zoo.path))
    frame = zoo.frame
    assert frame["learning_rate"].tolist() == [0.0003] * 4
    assert frame["test_accuracy"].tolist() == [0.75] * 4
    assert frame["optimizer"].tolist() == ["AdamW"] * 4
    assert sorted(frame["split"]) == ["test", "train", "train", "val"]
    assert sorted(frame["trained on apple"]) == ["no", "no", "yes", "yes"]
    assert set(frame["trained on bear"]) == {"yes"}
    assert sorted(frame["trained on cup's"]) == ["no", "no", "yes", "yes"]
    assert set(frame["augmented"]) == {"True"}
    assert len(frame["model"].unique()) == 4


def test_vits_of_model_j_are_read_by_the_names_of_timm(tmp_path: Path) -> None:
    model = MODELS["Hugging Face ViT"]()
    folder = write_model_j(tmp_path / "models", model.state_dict())
    for place in folder.rglob("model.safetensors"):
        place.with_name("config.json").write_text(model.config.to_json_string())  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    zoo = adopted(folder)
    assert len(zoo) == 4
    assert all("blocks.0.attn.qkv.weight" in one.state_dict() for one in zoo)
    assert zoo[0].architecture["architecture"] is not None
    assert "trained on bear" in zoo.frame


def test_a_header_that_is_no_list_is_said_and_never_evaluated(tmp_path: Path) -> None:
    folder = write_model_j(tmp_path / "models", weights())
    for number, text in enumerate(["__import__('os').abort()", "[" * 5000 + "]" * 5000]):
        file = sorted(folder.rglob("model.safetensors"))[number]
        other = {name: tensor + number for name, tensor in weights().items()}
        safetensors.torch.save_file(other, file, metadata={"dataset_chosen_targets": text})
    told = reasons(adopted(folder, "kind=model_j"))
    assert sum("no list of classes" in reason for reason in told.values()) == 2


def test_a_kind_that_the_folder_is_not_of_is_refused(tmp_path: Path) -> None:
    folder = write_ray_tune(tmp_path / "hsg")
    assert "no zoo of kind=small_cnn_zoo" in refused(main, f"folder={folder}", f"path={tmp_path / 'zoo'}", "kind=small_cnn_zoo")
    assert "there is no kind=ray" in refused(main, f"folder={folder}", f"path={tmp_path / 'zoo'}", "kind=ray")
    assert "holds no file of weights" in refused(main, f"folder={folder}", f"path={tmp_path / 'zoo'}", "kind=files")
