"""The command refuses what it cannot make with one message, before anything is written; a plan refuses the same."""

import os
from pathlib import Path

import pytest

from tests.commands import refused
from zoo_gen.__main__ import main


@pytest.mark.parametrize("plan", ["true", "false"])
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("seed=-1", "seed must be at least 0"),
        ("gpu=abacus", "choose one of a100"),
        ("executor.device=foo", "choose cpu, cuda"),
        ("executor.device=cuda:x", "choose cpu, cuda"),
        ("executor.processes=-1", "processes must be at least 1"),
        ("executor.processes=0", "processes must be at least 1"),
        ("executor.precision=half", "unknown precision 'half'"),
        ("executor.compile=fast", "unknown compile 'fast'"),
        ("zoo.pretrain_images.classes=[0]", "two or more"),
        ("zoo.pretrain_images.classes=[]", "two or more"),
        ("zoo.finetune_images.classes=[1,1]", "two or more"),
        ("zoo.finetune_images.seed=-1", "has values that it cannot be built of"),
        ("zoo.pretrain_images=1", "must be a card"),
        ("+zoo.pretrain_images.images=1", "three numbers"),
        ("zoo.pretrain.samples=0", "samples must be at least 1"),
        ("zoo.pretrain.recipe.weight_decay=-1", "weight_decay must be at least 0"),
        ("zoo.pretrain.recipe.warmup_epochs=-1", "warmup_epochs must be at least 0"),
        ("zoo.pretrain.recipe.temperature=0", "temperature must be more than 0"),
        ("zoo.pretrain.recipe.flip=2", "flip must be in"),
        ("zoo.pretrain.recipe.epochs=1.5", "epochs must be a whole number"),
        ("zoo.pretrain.members.0.learning_rate=-1", "learning_rate must be more than 0"),
        ("zoo.pretrain.members.0.learning_rate=0", "learning_rate must be more than 0"),
        ("zoo.pretrain.members.0.learning_rate=fast", "learning_rate must be a finite number"),
    ],
)
def test_what_cannot_run_is_one_message_in_a_plan_too_and_leaves_nothing_behind(
    argument: str, message: str, plan: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(main, "zoo=digits_mini", f"plan={plan}", argument)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zoo=nope"], "there is no card 'nope' of zoo; choose one of cifar100, digits"),
        (["executor=nope"], "choose one of data_parallel, local"),
        (["plan=maybe"], "plan=maybe does not fit: Value 'maybe' is not a valid bool"),
        (["seed=x"], "seed=x does not fit"),
        (["sede=1"], "there is no setting 'sede'"),
        (["+zoo=digits"], "settings are key=value"),
        (["two words"], "settings are key=value"),
    ],
)
def test_a_wrong_command_line_is_said_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = refused(main, *arguments)
    assert message in printed
    assert len(printed.splitlines()) == 1
    assert "HYDRA_FULL_ERROR" not in os.environ
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["/proc/new/zoo", "file/zoo", "file"])
def test_a_place_that_cannot_be_written_is_one_message(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    assert "choose another folder" in refused(main, "zoo=digits_mini", f"path={place}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
