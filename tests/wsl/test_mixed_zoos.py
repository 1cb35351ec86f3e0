"""One hyper-representation for zoos of several widths and depths: it trains on all of them and decodes each."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from tests.commands import refused
from tests.wsl.conftest import SMALL, SMALL_ENCODER
from tests.zoos import known
from wsl.data.pairs import pairs_of
from wsl.data.sources import scan
from wsl.run import Run
from wsl.run_files import read_config, write_config
from wsl.tokenizers.residual import Residual
from wsl.train import main
from wsl.training.run_training import check, train
from wsl.training.settings import TrainConfig
from wsl.training.token_training import learned_from
from zoo_gen import InputError, Zoo
from zoo_gen.config import compose


@pytest.fixture(scope="module")
def wide(wide_zoo: Path) -> Path:
    return wide_zoo


@pytest.fixture(scope="module")
def mixed(tiny_zoo: Path, wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = TrainConfig(**compose("train", [*SMALL, f"zoo={tiny_zoo},{wide}"]))
    folder = tmp_path_factory.mktemp("runs") / "mixed"
    train(config, [Zoo.open(tiny_zoo), Zoo.open(wide)], folder, Console(quiet=True))
    return folder


def test_one_run_on_two_zoos_decodes_models_of_both(mixed: Path, tiny_zoo: Path, wide: Path):
    for run in (Run.open(mixed), Run.open(mixed, zoo=wide)):
        checkpoint = run.split.test.select(final=True)[0]
        (tokens, latents), state_dict = next(run.latents([checkpoint])), checkpoint.state_dict()
        root = known(run.zoo.root(checkpoint)).state_dict()
        decoded = run.decode(tokens, latents, root=root)
        assert {name: weight.shape for name, weight in decoded.items()} == {name: w.shape for name, w in state_dict.items()}
        assert all(weight.isfinite().all() for weight in decoded.values())
        exact = run.tokenizer.decode(tokens, root=root)
        assert all(torch.equal(exact[name], weight) for name, weight in state_dict.items())
    assert [run.zoo.path.name for run in (Run.open(mixed), Run.open(mixed, zoo=wide))] == [tiny_zoo.name, "wide"]


def test_both_zoos_are_trained_on_and_validated(mixed: Path, tiny_zoo: Path, wide: Path, tmp_path: Path):
    last = json.loads((mixed / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"accuracy_decoded", "accuracy_decoded/wide", "loss", "loss/wide"} <= last.keys()
    both = Run.open(mixed).standardizer
    config = TrainConfig(**compose("train", [*SMALL, f"zoo={tiny_zoo}"]))
    train(config, [Zoo.open(tiny_zoo)], tmp_path / "one", Console(quiet=True))
    assert Run.open(tmp_path / "one").standardizer.parts != both.parts
    with pytest.raises(InputError, match="is not the one that run"):
        _ = Run.open(tmp_path / "one", zoo=wide).zoo


def test_rehearsals_are_of_final_checkpoints_of_both_zoos_first(tiny_zoo: Path, wide: Path):
    tokenizer = Residual(width=64, reference="root")
    sources = scan((pair for place in (tiny_zoo, wide) for pair in pairs_of(Zoo.open(place).select(stage="finetune"))), tokenizer)
    finals = sum(source.checkpoint.final for source in sources)
    few = learned_from(sources, finals // 2)
    assert len(few) == finals // 2
    assert all(source.checkpoint.final for source in few)
    assert len({source.checkpoint.path.is_relative_to(wide.resolve()) for source in few}) == 2
    more = learned_from(sources, finals + 3)
    assert [source.checkpoint.final for source in more] == [True] * finals + [False] * 3
    every = learned_from(sources, 10**6)
    assert {id(source) for source in every} == {id(source) for source in sources}
    assert len(every) == len(sources)


def test_a_run_goes_on_with_the_same_zoos_in_the_same_order_only(mixed: Path, tiny_zoo: Path, wide: Path, tmp_path: Path):
    third = Path(shutil.copytree(wide, tmp_path / "third"))
    pd.read_parquet(third / "index.parquet").iloc[:-1].to_parquet(third / "index.parquet")
    folder = Path(shutil.copytree(mixed, tmp_path / "run"))
    stored = read_config(folder)
    more = {**stored["other_zoos"][0], "content_hash": Zoo.open(third).content_hash}
    write_config(folder, {**stored, "other_zoos": [*stored["other_zoos"], more]})
    config = TrainConfig(**compose("train", [*SMALL, f"zoo={tiny_zoo},{wide}"]))

    def train_on(*others: Path) -> None:
        train(config, [Zoo.open(zoo) for zoo in (tiny_zoo, *others)], folder, Console(quiet=True))

    train_on(wide, third)
    for others in ((third, wide), (wide,), ()):
        with pytest.raises(InputError, match="another configuration"):
            train_on(*others)


def test_all_zoos_of_a_run_are_found_whichever_it_is_seen_on(mixed: Path, tiny_zoo: Path, wide: Path, tmp_path: Path):
    moved = shutil.copytree(tiny_zoo, tmp_path / "moved")
    for zoo, first in ((None, tiny_zoo), (wide, tiny_zoo), (moved, moved)):
        assert [one.path.name for one in Run.open(mixed, zoo=zoo).zoos] == [Path(first).name, "wide"]


def test_an_invariant_encoder_learns_from_both_zoos(tiny_zoo: Path, wide: Path, tiny_encoder: Run, tmp_path: Path):
    config = TrainConfig(**compose("train", [*SMALL_ENCODER, f"zoo={tiny_zoo},{wide}"]))
    train(config, [Zoo.open(tiny_zoo), Zoo.open(wide)], tmp_path / "both", Console(quiet=True))
    both = Run.open(tmp_path / "both")
    columns = [
        run.encoder_inputs(run.split.val.select(final=True)).shape[1] for run in (tiny_encoder, Run.open(both.path, zoo=wide))
    ]
    assert columns[0] < columns[1]  # the other zoo has a fourth block
    assert all(weight.isfinite().all() for weight in both.model.parameters())
    assert np.isfinite(Run.open(both.path, zoo=wide).embed(Zoo.open(wide).select(stage="finetune", final=True))).all()


def test_a_zoo_that_holds_models_of_the_first_is_refused(tiny_zoo: Path, tmp_path: Path):
    other = shutil.copytree(tiny_zoo, tmp_path / "other")
    assert "shares 51 models" in refused(main, *SMALL, f"zoo={tiny_zoo},{other}", f"run={tmp_path / 'run'}")


def test_zoos_of_one_name_are_refused(tiny_zoo: Path):
    config = TrainConfig(**compose("train", [*SMALL, f"zoo={tiny_zoo},{tiny_zoo}"]))
    with pytest.raises(InputError, match="have one name"):
        check(config, [Zoo.open(tiny_zoo)] * 2)
