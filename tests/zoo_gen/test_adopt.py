"""Models that people have become a zoo by one command; what cannot be read is a row of its report."""

import json
from pathlib import Path

import pytest
import torch

from tests.commands import call, refused
from tests.forms import write_forms
from tests.zoos import SMALL
from zoo_gen import Zoo
from zoo_gen.adopt import main
from zoo_gen.verify import problems


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("mine")
    write_forms(place / "models")
    return place


@pytest.fixture(scope="module")
def zoo(folder: Path) -> Zoo:
    arguments = (f"folder={folder / 'models'}", f"metrics={folder / 'models' / 'metrics.csv'}", f"architecture={card(folder)}")
    call(main, *arguments, f"path={folder / 'zoo'}")
    return Zoo.open(folder / "zoo")


def card(folder: Path) -> Path:
    place = folder / "small.yaml"
    sizes = {
        "_target_": "zoo_gen.architecture.architecture",
        "timm_name": "vit_tiny_patch16_224",
        "model_args": SMALL["model_args"],
    }
    place.write_text(json.dumps({**sizes, "in_chans": 1, "img_size": 8, "mean": [0.5], "std": [0.5]}))
    return place


def left_out(zoo: Zoo) -> dict[str, str]:
    return {row["file"]: row["reason"] for row in json.loads((zoo.path / "left_out.json").read_text())}


def test_sixty_files_of_eight_forms_are_one_zoo(zoo: Zoo):
    for row in left_out(zoo).items():
        print(row)
    assert zoo.frame["model"].nunique() == 51
    assert not list(problems(zoo.path))
    assert zoo.complete
    assert torch.isfinite(zoo[0].build()(torch.zeros(1, 1, 8, 8))).all()
