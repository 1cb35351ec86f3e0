"""A run reloads by its path alone, reads no foreign code, and says where its zoo is missed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from rich.console import Console

from tests.wsl.conftest import train_small
from tests.zoos import known
from wsl.probes.benchmark import evaluate_runs
from wsl.run import Run
from wsl.run_models import FILE, write_models
from zoo_gen import InputError
from zoo_gen.config import cards


@pytest.fixture
def folder(tiny_run: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run.path, tmp_path / "run"))


def change(folder: Path, edit: Callable[[dict], None]) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    edit(config)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def test_a_run_opened_by_path_has_the_weights_that_were_trained(tiny_run: Run, folder: Path):
    again = Run.open(folder)
    for name, tensor in tiny_run.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name])
    untrained = again.untrained().model.state_dict()
    assert any(not torch.equal(tensor, again.model.state_dict()[name]) for name, tensor in untrained.items())


def test_a_run_is_found_by_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "checkpoints" / "runs").mkdir(parents=True)
    folder.rename(tmp_path / "checkpoints" / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    assert len(Run.open("demo").zoo) > 0


def test_latents_and_embedding_follow_the_order_of_the_checkpoints(tiny_run: Run):
    checkpoints = tiny_run.split.test
    some = [checkpoints[i] for i in (5, 17, 0)]
    embedding = tiny_run.embed(checkpoints)
    picked = tiny_run.embed_weights((one.state_dict(), known(tiny_run.zoo.root(one)).state_dict()) for one in some)
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(picked, embedding[[5, 17, 0]], rtol=1e-4, atol=1e-5)
    assert not np.allclose(embedding[5], embedding[0])
    for checkpoint, (tokens, latents) in zip(some, tiny_run.latents(some), strict=True):
        assert latents.shape == (tokens.plan.n_tokens, tokens.plan.width + 1)
        state = tiny_run.decode(tokens, latents, root=known(tiny_run.zoo.root(checkpoint)).state_dict())
        assert {name: w.shape for name, w in state.items()} == {n: w.shape for n, w in checkpoint.state_dict().items()}


def test_decoding_does_not_read_the_values_of_its_template(tiny_run: Run):
    checkpoint = tiny_run.split.test[0]
    root = known(tiny_run.zoo.root(checkpoint)).state_dict()
    ((tokens, latents),) = tiny_run.latents([checkpoint])
    blank = tokens.with_values(torch.zeros_like(tokens.values))
    original, other = (tiny_run.decode(template, latents, root=root) for template in (tokens, blank))
    assert all(torch.equal(original[name], other[name]) for name in original)
    moved = tiny_run.decode(tokens, latents + 1, root=root)
    assert any(not torch.equal(original[name], moved[name]) for name in original)


def test_the_parts_of_the_split_share_no_model(tiny_run: Run):
    train, val, test = (set(part.frame["model"]) for part in tiny_run.split)
    assert train
    assert val
    assert test
    assert not train & val | train & test | val & test


def test_a_missing_run_names_the_command_that_makes_it(tmp_path: Path):
    with pytest.raises(InputError, match=r"not found at .*python -m wsl\.train"):
        Run.open(tmp_path / "nothing")


def test_an_unfinished_run_is_not_opened(folder: Path):
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="not finished"):
        Run.open(folder)


@pytest.mark.parametrize("keep", [0, 100, -10])
def test_truncated_weights_are_named(folder: Path, keep: int):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"model\.safetensors are damaged"):
        Run.open(folder)


@pytest.mark.parametrize("text", ["a: [", "- 1", "a: 1", "model: {}\nwindow: 3"])
def test_a_damaged_configuration_is_named(folder: Path, text: str):
    (folder / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=r"config\.yaml"):
        Run.open(folder)


@pytest.mark.parametrize("key", ["tokenizer", "model"])
def test_a_target_outside_the_trusted_packages_is_not_called(folder: Path, key: str, tmp_path: Path):
    bait = {"_target_": "pathlib.Path.touch", "self": str(tmp_path / "owned")}
    for card in ({"_target_": "pandas.read_pickle", "filepath_or_buffer": "x.pkl"}, bait):
        change(folder, lambda config, card=card: config.update({key: card}))
        with pytest.raises(InputError, match="nothing was executed"):
            Run.open(folder)
    assert not (tmp_path / "owned").exists()


def test_a_zoo_that_moved_is_found_where_the_user_points(folder: Path, tiny_zoo: Path, tmp_path: Path):
    def move(config: dict) -> None:
        config["zoo"] |= {"path": str(tmp_path / "gone"), "relative": "gone/too"}

    change(folder, move)
    with pytest.raises(InputError, match=r"if it has moved, point to it with zoo="):
        len(Run.open(folder).zoo)
    assert len(Run.open(folder, zoo=tiny_zoo).zoo) > 0


def test_a_zoo_that_moved_along_with_the_run_is_found(folder: Path, tiny_zoo: Path, tmp_path: Path):
    shutil.copytree(tiny_zoo, tmp_path / "zoo")
    change(folder, lambda config: config["zoo"].update({"path": "/nowhere", "relative": "../zoo"}))
    assert Run.open(folder).zoo.path.resolve() == (tmp_path / "zoo").resolve()


def test_another_zoo_in_the_same_place_is_refused(folder: Path):
    change(folder, lambda config: config["zoo"].update(content_hash="0" * 64))
    with pytest.raises(InputError, match="is not the one that run"):
        len(Run.open(folder).zoo)


def relabelled(zoo: Path, tmp_path: Path, version: int, **columns: Callable[[pd.Series], pd.Series]) -> Path:
    """A copy of a zoo, of a format, with other values in columns of its index."""
    copy = Path(shutil.copytree(zoo, tmp_path / "zoo"))
    described = json.loads((copy / "zoo.json").read_text())
    (copy / "zoo.json").write_text(json.dumps({**described, "format_version": version}))
    frame = pd.read_parquet(copy / "index.parquet")
    frame.assign(**{name: change(frame[name]) for name, change in columns.items()}).to_parquet(copy / "index.parquet", index=False)
    return copy


def rotated(folds: pd.Series) -> pd.Series:
    return (folds + 1) % 5


def test_a_run_refuses_a_zoo_whose_split_was_edited_since(tiny_run: Run, tiny_zoo: Path, tmp_path: Path):
    assert Run.open(tiny_run.path, zoo=relabelled(tiny_zoo, tmp_path / "same", 2)).seen == tiny_run.seen
    edits: dict[str, Callable] = {"fold": rotated, "root": lambda roots: roots.replace("supervised_0", "supervised_1")}
    edits |= {"status": lambda all: all.where(all.index != 100, "diverged"), "learning_rate": lambda rates: rates * 2}
    edits |= {"stage": lambda stages: stages.where(stages.index != 100, "pretrain")}
    for column, change_it in edits.items():
        edited = relabelled(tiny_zoo, tmp_path / column, 2, **{column: change_it})
        with pytest.raises(InputError, match="labels, splits or weights were changed since"):
            _ = Run.open(tiny_run.path, zoo=edited).split


def test_the_models_of_a_run_are_read_from_its_folder_on_a_zoo_that_guards_no_split(tiny_zoo: Path, tmp_path: Path):
    old = relabelled(tiny_zoo, tmp_path, 1)
    run = train_small(old, tmp_path / "run", "model=invariant_encoder")
    assert run.seen == frozenset(run.split.train.frame["model"]) | frozenset(run.split.val.frame["model"])
    shutil.rmtree(old)
    relabelled(tiny_zoo, tmp_path, 1, fold=rotated)
    again = Run.open(run.path)
    assert again.zoo.content_hash == run.zoo.content_hash  # of format 1, it does not cover folds
    assert again.seen == run.seen
    with pytest.raises(InputError, match=r"the train models of split by_model, fold 0, .* are not those of run"):
        _ = again.split
    with pytest.raises(InputError, match="are not those of run"):
        evaluate_runs([again], cards("probe", ["test_loss"]), cards("features", ["statistics"]), None, Console())  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [None, "{}", "[", '{"x": {"train": {}}}'])
def test_a_run_that_does_not_say_what_it_was_trained_on_is_not_probed(folder: Path, content: str | None):
    (folder / FILE).unlink() if content is None else (folder / FILE).write_text(content)
    run = Run.open(folder)
    for read in (lambda: run.split, lambda: run.seen):
        with pytest.raises(InputError, match=rf"{FILE}.*train the run again"):
            read()


def test_an_interrupted_run_does_not_go_on_with_another_split(tiny_run: Run, folder: Path):
    (folder / "model.safetensors").unlink()
    zoo = tiny_run.zoo
    write_models(folder, [zoo], "by_model", fold=0)
    with pytest.raises(InputError, match="begun on another split"):
        write_models(folder, [zoo], "by_model", fold=1)
    write_models(folder.with_name("fresh"), [zoo], "by_model", fold=1)


@pytest.mark.parametrize("model", ["hyperrep", "invariant_encoder"])
def test_equal_trainings_write_equal_files(tiny_run: Run, tiny_encoder: Run, tiny_zoo: Path, tmp_path: Path, model: str):
    first = tiny_run if model == "hyperrep" else tiny_encoder
    again = train_small(tiny_zoo, tmp_path / "again", *(["model=invariant_encoder"] if first is tiny_encoder else []))
    for name in ("model.safetensors", FILE, first.inputs.file):
        assert (again.path / name).read_bytes() == (first.path / name).read_bytes()
