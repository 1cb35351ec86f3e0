"""Novelty is measured modulo symmetry: a copy in whatever disguise is a copy, and train models are none of each other."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.zoos import known
from wsl.generators.evaluation import Bench
from wsl.generators.family import Family, flatten
from wsl.generators.novelty import THRESHOLD, Distances, euclidean, judge, pool
from wsl.generators.scoring import score_models
from wsl.layout import layout_of
from wsl.symmetry.group import MOVES, random_view
from wsl.symmetry.stacks import stack, unstack
from zoo_gen import Zoo

DISGUISES = {
    **{move: (move,) for move in ("resid", "mlp", "head", "qk", "vo", "rotation", "norm", "bias", "mean")},
    "all": MOVES,
}
"""The symmetries that a ViT of the digits zoo has."""


@pytest.fixture(scope="module", params=["linear", "mlp"])
def bench(tiny_zoo: Path, request: pytest.FixtureRequest) -> Bench:
    zoo = Zoo.open(tiny_zoo)
    chosen = list(zoo.select(final=True, status="ok", head=request.param, root="supervised_0"))
    family = Family(
        root="supervised_0",
        head=request.param,
        architecture=chosen[0].architecture,
        root_state=known(zoo.root(chosen[0])).state_dict(),
        states=[one.state_dict() for one in chosen],
        val_accuracy=np.array([one.results["val_accuracy"] for one in chosen]),
        latents=np.zeros((len(chosen), 1, 1)),
        decode=lambda latents: [chosen[0].state_dict()] * len(latents),
    )
    return Bench([family], zoo.images("finetune"), seed=0)


def copies_of_three(bench: Bench, moves: tuple[str, ...]) -> list[dict[str, Tensor]]:
    """Train models, moved in float64."""
    family = bench.families[0]
    layout = layout_of(family.states[0], heads=family.architecture["model_args"]["num_heads"])
    originals = stack([{name: tensor.double() for name, tensor in family.states[i].items()} for i in (1, 4, 7)])
    generator = torch.Generator().manual_seed(1)
    moved = random_view(originals, layout, generator, moves=moves, maps="general", strength=0.3)
    return unstack({name: moved[name] for name in originals})  # in the order that raw weights are compared in


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_copy_in_disguise_is_flagged_and_would_not_be_by_its_raw_weights(bench: Bench, disguise: str) -> None:
    copies = copies_of_three(bench, DISGUISES[disguise])
    family = bench.families[0]
    scored = bench.score([(family, copy) for copy in copies])
    row = bench.measure("copier", {}, scored)
    assert row["aligned"] is True
    assert "copied" in row["flags"], row
    assert row["novelty_by_space"]["weights"] < 1e-6
    to_train = euclidean(scored[0].vectors, bench.train[0].vectors)
    assert to_train.argmin(1).tolist() == [1, 4, 7]
    assert to_train.min(1).max() < 1e-6 * np.median(np.sort(euclidean(bench.train[0].vectors, bench.train[0].vectors))[:, 1])
    raw = Distances.between(np.stack([flatten(copy) for copy in copies]), family.weights, distance=euclidean)
    assert (raw.to_train > 0).all()
    control = judge({"weights": raw, "behaviour": raw}, np.random.default_rng(0))
    assert control.novelty["weights"].min() > THRESHOLD
    assert "copied" not in pool({"family": control})["flags"]


def test_a_model_moved_by_what_is_no_symmetry_is_no_copy(bench: Bench) -> None:
    copies = copies_of_three(bench, MOVES)
    wrong = [copy | {"pos_embed": copy["pos_embed"].roll(1, -1)} for copy in copies]
    scored = bench.score([(bench.families[0], copy) for copy in wrong])
    assert bench.measure("wrong", {}, scored)["novelty_by_space"]["weights"] > 0.01


def test_no_real_model_is_flagged(bench: Bench) -> None:
    row = bench.measure_train()
    assert row["flags"] == []
    own = np.sort(euclidean(bench.train[0].vectors, bench.train[0].vectors))[:, 1]
    assert (own > THRESHOLD * np.median(own)).all()


def test_vectors_of_a_model_do_not_depend_on_the_models_beside_it(bench: Bench) -> None:
    family = bench.families[0]
    alone = score_models(family.states[4:5], family=family, probes=bench.probes, test=None).vectors
    assert np.abs(alone - bench.train[0].vectors[4]).max() < 1e-9
