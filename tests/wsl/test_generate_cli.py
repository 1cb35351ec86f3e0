import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

import wsl.generate
from tests.commands import call, refused
from tests.wsl.conftest import SMALL
from tests.zoos import known, make_zoo
from wsl.generate import main as generate
from wsl.generators.family import FamilySampler, Sample, write_samples
from wsl.generators.population import families_of
from wsl.generators.scoring import Probes, score_models
from wsl.run import Run
from wsl.train import main as train
from zoo_gen import InputError
from zoo_gen.files import locked

ONE_ROW_EACH = [
    "scan.copy_noise.noise=[0.2]",
    "scan.weight_gaussian={spread: [1.0], anchors: [2]}",
    "scan.dirichlet={noise: [0.0]}",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a zoo of two roots with two heads, a run of it, and what generate made of the run."""
    folder = tmp_path_factory.mktemp("generate")
    axes = {"head": ["linear", "mlp"], "learning_rate": [1e-4, 1e-3, 3e-3], "weight_decay": [0.1, 0.0]}
    make_zoo(folder / "checkpoints" / "zoos" / "digits_mini", "zoo.pretrain.members=[{seed: 0}, {seed: 1}]", axes=axes)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        call(train, "run=demo", *SMALL)
        call(generate, "n=6", *ONE_ROW_EACH)
    return folder / "checkpoints" / "runs" / "demo"


@pytest.fixture
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Works in the directory of `folder`."""
    monkeypatch.chdir(folder.parents[2])


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict]:
    return json.loads((folder / "generate.json").read_text())


def test_the_rows_hold_the_generator_and_every_baseline(rows):
    names = [row["generator"] for row in rows]
    assert names[:4] == ["train models", "held-out models", "kde", "nearest train model"]
    weights = {"random_init", "new_head", "copy", "copy_other_root", "copy_noise", "soup", "dirichlet", "weight_gaussian"}
    assert weights | {"fitted_head", "decoded_copy"} <= set(names)
    for row in rows:
        assert row["n"] == 6 or row["generator"] in ("train models", "held-out models", "soup")
        assert row["accuracy"]["q25"] <= row["accuracy"]["median"] <= row["accuracy"]["q75"]
        assert row["aligned"] is True


class Vandal(FamilySampler):
    """A sampler that returns copies, and changes in place whatever it was given."""

    def sample(self, n: int, rng: np.random.Generator) -> list[Sample]:
        samples: list[Sample] = [(family, dict(family.states[0])) for family in self.families[:n]]
        for family in self.families:
            for tensor in [*known(family.root_state).values(), *(tensor for state in family.states for tensor in state.values())]:
                tensor.zero_()
            for array in (family.weights, family.latents, family.val_accuracy):
                array[:] = 0
        return samples


def test_a_generator_that_changes_train_models_in_place_moves_no_baseline(
    folder: Path, rows: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = shutil.copytree(folder, tmp_path / "run")
    build = wsl.generate.instantiate
    monkeypatch.setattr("wsl.generate.instantiate", lambda card: Vandal() if card.get("bandwidth") else build(card))
    call(generate, f"run={mine}", "n=6", *ONE_ROW_EACH)
    found = json.loads((mine / "generate.json").read_text())
    for row, other in zip(found, rows, strict=True):
        if row["generator"] not in ("kde", "nearest train model"):
            assert row["accuracy"] == pytest.approx(other["accuracy"], abs=1e-6), row["generator"]
            assert row["novelty"] == pytest.approx(other["novelty"], abs=1e-6), row["generator"]
    (vandal,) = (row for row in found if row["generator"] == "kde")
    assert "copied" in vandal["flags"]  # its copies were taken before


def test_copies_are_flagged_and_train_models_judged_against_the_others_are_not(rows):
    flags = {row["generator"]: row["flags"] for row in rows}
    assert "copied" in flags["copy"]
    assert "copied" in flags["nearest train model"]
    assert flags["train models"] == []


def test_random_models_have_no_weights_of_train_models(rows):
    (random,) = (row for row in rows if row["generator"] == "random_init")
    assert random["novelty_by_space"]["weights"] > 1


def test_the_samples_are_timm_folders_that_hold_what_was_scored(folder, rows):
    models = sorted((folder / "samples" / "kde").iterdir())
    assert [model.name for model in models] == [f"{i:04d}" for i in range(6)]
    images = Run.open(folder).zoo.images("finetune").test
    accuracies = []
    for model in models:
        built = timm.create_model(f"local-dir:{model}", pretrained=True).eval()
        with torch.no_grad():
            accuracies.append((built(images.pixels).argmax(-1) == images.labels).float().mean().item())
    kde = next(row for row in rows if row["generator"] == "kde")
    assert sorted(accuracies) == pytest.approx(sorted(kde["samples"]["accuracy"]), abs=1e-6)


def test_families_hold_train_models_only_and_decode_to_their_shapes(folder):
    run = Run.open(folder)
    families = families_of(run)
    train_models = run.split.train.select(final=True, status="ok")
    assert sum(map(len, families)) == len(train_models)
    held = {state["pos_embed"].numpy().tobytes() for family in families for state in family.states}
    unseen = [checkpoint.state_dict()["pos_embed"].numpy().tobytes() for checkpoint in run.split.test.select(final=True)]
    assert not held & set(unseen)
    for family in families:
        decoded = family.decode(family.latents[:1])[0]
        assert {name: w.shape for name, w in decoded.items()} == {name: w.shape for name, w in family.states[0].items()}


def test_train_models_score_what_the_zoo_recorded(folder):
    run = Run.open(folder)
    finals = list(run.split.train.select(final=True, status="ok"))
    recorded = {checkpoint.state_dict()["pos_embed"].numpy().tobytes(): checkpoint for checkpoint in finals}
    images = run.zoo.images("finetune")
    probes = Probes.of(images, seed=0)
    for family in families_of(run)[:2]:  # one of either head
        scored = score_models(family.states, family=family, probes=probes, test=images.test)
        known = [recorded[state["pos_embed"].numpy().tobytes()].results["test_accuracy"] for state in family.states]
        assert scored.accuracy == pytest.approx(known, abs=1e-6)


def test_a_seed_gives_the_same_rows_whatever_the_baselines_and_another_seed_other_models(folder, inside, rows):
    sampled = folder / "samples" / "kde" / "0003" / "model.safetensors"
    weights = load_file(sampled)
    call(generate, "n=6", "baselines=[]")
    again = json.loads((folder / "generate.json").read_text())
    assert [without_seconds(row) for row in again] == [without_seconds(row) for row in rows]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in load_file(sampled).items())
    call(generate, "n=6", "baselines=[]", "seed=1")
    other = json.loads((folder / "generate.json").read_text())
    assert [row["generator"] for row in other] == ["train models", "held-out models", "kde", "nearest train model"]
    assert other[2]["samples"] != rows[2]["samples"]


def without_seconds(row: dict) -> dict:
    return {**row, "cost": {**row["cost"], "cpu_seconds": None}} if "cost" in row else row


def found(folder: Path) -> dict[tuple[str, str | None], dict]:
    rows = json.loads((folder / "generate.json").read_text())
    return {(row["generator"], row["settings"].get("of")): row for row in rows}


def test_several_generators_leave_one_table_and_a_repeated_one_replaces_its_own_rows_only(
    folder: Path, inside: None, capsys: pytest.CaptureFixture[str]
):
    call(generate, "n=3", "seed=2", "baselines=[copy]")
    first = found(folder)
    call(generate, "generator=soup", "n=3", "seed=2", "baselines=[kde, new_head]")
    both = found(folder)
    nearest = "nearest train model"
    assert list(both) == [
        *(("train models", None), ("held-out models", None)),
        *(("kde", None), (nearest, "kde"), ("soup", None), (nearest, "soup")),
        *(("copy", None), ("new_head", None)),
    ]
    kept = {key: row for key, row in both.items() if key in first and key != ("train models", None)}  # which holds the frontier
    assert kept == {key: first[key] for key in kept}  # kde keeps the rows of the samples beside them
    assert len(list((folder / "samples" / "kde").iterdir())) == 3
    call(generate, "n=2", "seed=2", "baselines=[]")
    again = found(folder)
    assert {key for key in both if again[key] != both[key]} == {("train models", None), ("kde", None), (nearest, "kde")}
    assert len(list((folder / "samples" / "kde").iterdir())) == again["kde", None]["n"] == 2
    capsys.readouterr()
    call(generate, "n=2", "seed=3", "baselines=[]")
    assert f"left out: {len(again)} rows of another zoo, split, seed or model" in capsys.readouterr().out
    assert ("soup", None) not in found(folder)


def test_samples_that_are_not_written_leave_no_row_of_theirs_and_all_rows_of_others(
    folder: Path, inside: None, monkeypatch: pytest.MonkeyPatch
):
    call(generate, "n=2", "seed=4", "baselines=[copy]")
    before = found(folder)

    def full(*_: object) -> None:
        raise InputError("no space")

    monkeypatch.setattr("wsl.generate.write_samples", full)
    with pytest.raises(SystemExit):
        call(generate, "n=3", "seed=4", "baselines=[]")
    assert found(folder) == {key: row for key, row in before.items() if "kde" not in key}
    (folder / "generate.json").write_text("[{]")
    monkeypatch.undo()
    monkeypatch.chdir(folder.parents[2])
    call(generate, "n=2", "seed=4", "baselines=[]")
    assert len(found(folder)) == 4


def test_fewer_samples_leave_no_older_ones_behind_and_scanned_values_are_rows(folder, inside):
    call(generate, "n=3", "baselines=[copy_noise]", "scan.copy_noise.noise=[0.1, 0.5]", "+scan.kde.bandwidth=[0.0, 1.0]")
    assert len(list((folder / "samples" / "kde").iterdir())) == 3
    rows = json.loads((folder / "generate.json").read_text())
    noises = [row["settings"]["noise"] for row in rows if row["generator"] == "copy_noise"]
    widths = [row["settings"]["bandwidth"] for row in rows if row["generator"] == "kde"]
    assert noises == [0.1, 0.5]
    assert widths[1:] == [0.0, 1.0]
    assert not np.isnan(rows[2]["accuracy"]["median"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["n=0"], "n=0 models cannot be sampled"),
        (["n=-5"], "n=-5 models cannot be sampled"),
        (["n=abc"], "could not be converted to Integer"),
        (["generator=kdee"], "no card 'kdee' of generator"),
        (["generator.bandwith=1"], "bandwith"),
        (["baselines=[coppy]"], "no generator 'coppy'; choose among copy, copy_noise"),
        (["+scan.copy_noise.nois=[1]"], "scan.copy_noise names ['nois']"),
        (["+scan.copyy.noise=[1]"], "no generator 'copyy'"),
        (["run=nowhere"], "run 'nowhere' not found"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_input_is_one_message_and_a_failing_exit_code(arguments, message, inside):
    assert message in refused(generate, *arguments)


@pytest.mark.parametrize("link", ["samples", "samples/kde", "samples/.kde.partial"])
def test_samples_follow_no_link_out_of_the_run(tmp_path: Path, link: str):
    outside, run = tmp_path / "outside", tmp_path / "run"
    (outside / "kde").mkdir(parents=True)
    (outside / "kde" / "kept.txt").touch()
    (run / link).parent.mkdir(parents=True)
    (run / link).symlink_to(outside / "kde" if link.endswith("kde") else outside)
    with pytest.raises(InputError, match="is a symbolic link"):
        write_samples(run / "samples" / "kde", [])
    assert (outside / "kde" / "kept.txt").is_file()


def test_two_at_once_do_not_write_into_one_run(folder: Path, inside: None):
    with locked(folder / "lock", "run demo"):
        assert "is being written by another process" in refused(generate, "n=6", *ONE_ROW_EACH)
