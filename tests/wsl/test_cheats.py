"""Planted cheats: samplers that look new by one measure or another are flagged, refused, or ranked where they belong."""

import gc
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.wsl.conftest import train_small
from tests.zoos import SHORT, known, make_zoo
from wsl.generators.copy_model import CopyModel
from wsl.generators.drawing import draw
from wsl.generators.evaluation import Bench
from wsl.generators.family import Family, FamilySampler, Sample, draw_families, given
from wsl.generators.kde import KDE
from wsl.generators.names import CLASSES
from wsl.generators.population import families_of, relatives_of
from wsl.generators.relatives import Relatives
from wsl.layout import layout_of
from wsl.run import Run
from wsl.symmetry.group import MAPPED, MOVES, PERMUTED, random_view
from wsl.symmetry.null_directions import NULLS
from wsl.symmetry.stacks import stack, unstack
from zoo_gen import InputError, Zoo
from zoo_gen.architecture import outline
from zoo_gen.images import Images

N = 24


@dataclass
class Judge:
    """A population with its bench."""

    run: Run
    families: Sequence[Family]
    relatives: Sequence[Relatives]
    bench: Bench

    def row(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """The row of some samples."""
        return self.bench.measure("tested", {}, self.bench.score(samples))

    def of(self, change: Callable[[Family, int, np.random.Generator], dict[str, Tensor]]) -> dict[str, Any]:
        """The row of samples that a function makes of the number of each family."""
        rng = np.random.default_rng(0)
        drawn = draw_families(self.families, N, rng)
        return self.row([(family, change(family, self.families.index(family), rng)) for family in drawn])


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """Three roots with 16 children each, every epoch kept."""
    folder = tmp_path_factory.mktemp("cheats")
    rates = [["adamw", 1e-2], ["adamw", 3e-3], ["sgd", 1e-1], ["sgd", 3e-2]]
    axes: dict[str, list[Any]] = {"optimizer,learning_rate": rates, "seed": [0, 1, 2, 3]}
    longer = ("zoo.pretrain.recipe.epochs=6", "zoo.finetune.recipe.epochs=6", "zoo.pretrain.members.2.epochs=3")
    make_zoo(folder / "zoo", *SHORT, *longer, "zoo.finetune.recipe.batch_size=32", "zoo.pretrain.recipe.batch_size=32", axes=axes)
    run = train_small(folder / "zoo", folder / "run")
    families, relatives = families_of(run), relatives_of(run)
    return Judge(run, families, relatives, Bench(families, run.zoo.images("finetune"), seed=0, relatives=relatives))


def disguised(state: dict[str, Tensor], family: Family, moves: Sequence[str], seed: int = 0) -> dict[str, Tensor]:
    layout = layout_of(outline(family.architecture))
    doubles = {name: tensor.double() for name, tensor in stack([state]).items()}
    view = random_view(doubles, layout, torch.Generator().manual_seed(seed), moves=moves, maps="general", strength=0.3)
    return {name: tensor.float() for name, tensor in unstack(view)[0].items()}


def any_of(family: Family, rng: np.random.Generator) -> dict[str, Tensor]:
    return dict(family.states[int(rng.integers(len(family)))])


def noisy(state: dict[str, Tensor], noise: float, rng: np.random.Generator) -> dict[str, Tensor]:
    white = {name: torch.from_numpy(rng.standard_normal(tuple(t.shape), dtype=np.float32)) for name, t in state.items()}
    return {name: t + noise * t.square().mean().sqrt() * white[name] for name, t in state.items()}


def test_fresh_models_have_the_novelty_and_diversity_one_and_are_not_flagged(judge: Judge):
    row = judge.bench.measure_held_out()
    assert row["scale"] == "held-out models"
    assert row["novelty"] == pytest.approx(1, abs=0.1)
    assert row["diversity"] > 0.5
    assert row["flags"] == []
    assert row["flagged"]["copied"] < 0.2
    assert judge.bench.measure_train()["flags"] == []


def test_fresh_models_that_the_scale_was_not_fitted_on_are_about_as_new(judge: Judge):
    halves = [replace(kin, held_out=[kin.held_out[k] for k in range(0, len(kin.held_out), 2)]) for kin in judge.relatives]
    bench = Bench(judge.families, judge.run.zoo.images("finetune"), seed=0, relatives=halves)
    others = [
        (family, dict(kin.held_out[k]))
        for family, kin in zip(judge.families, judge.relatives, strict=True)
        for k in range(1, len(kin.held_out), 2)
    ]
    row = bench.measure("fresh", {}, bench.score(others))
    assert row["novelty"] == pytest.approx(1, abs=0.35)
    assert row["flags"] == []


@pytest.mark.parametrize("noise", [0, 0.01])
@pytest.mark.parametrize("root", ["own", "other"])
def test_a_copy_is_flagged_whatever_its_root_and_with_a_little_noise(judge: Judge, root: str, noise: float):
    samples = CopyModel(noise=noise, anchors=None, root=root).fit(judge.families).sample(N, np.random.default_rng(0))
    row = judge.row(samples)
    assert "copied" in row["flags"]
    assert row["flagged"]["copied"] == 1
    assert row["good_and_new"]["median"]["share"] == 0
    assert row["novelty_by_space"]["weights"] < 0.25
    assert (row["nearest_is_of_another_root"] > 0.9) == (root == "other")
    if root == "other":  # the old scale, within the family, calls it new
        assert row["on_train_scale"]["novelty_by_space"]["weights"] > 1


MOVED = {**{move: (move,) for move in (*NULLS, *PERMUTED, *MAPPED, "rotation")}, "all": MOVES}
MOVED = {name: moves for name, moves in MOVED.items() if name not in ("scale", "sum", "sign", "dim", "register")}


CASES = [(moves, "own") for moves in MOVED.values() if set(moves) <= set(MOVES)] + [(MOVES, "other")]


@pytest.mark.parametrize(("moves", "root"), CASES, ids=lambda case: case if isinstance(case, str) else case[0])
def test_a_copy_that_is_permuted_or_moved_in_a_null_direction_is_flagged(judge: Judge, moves: Sequence[str], root: str):
    copies = CopyModel(noise=0, anchors=None, root=root).fit(judge.families).sample(4, np.random.default_rng(1))
    samples = [(family, disguised(state, family, moves, seed)) for seed, (family, state) in enumerate(copies)]
    row = judge.row(samples)
    assert row["novelty_by_space"]["weights"] < 0.05
    assert row["flagged"]["copied"] == 1


def test_an_earlier_epoch_of_a_train_model_is_flagged(judge: Judge):
    def early(family: Family, place: int, rng: np.random.Generator) -> dict[str, Tensor]:
        kin = judge.relatives[place]
        return disguised(dict(kin.earlier[int(rng.integers(len(kin.earlier)))]), family, MOVES)

    row = judge.of(early)
    assert row["flagged"]["copied"] == 1
    assert row["on_train_scale"]["novelty_by_space"]["weights"] > row["novelty_by_space"]["weights"]


def test_half_copies_and_half_noise_show_in_the_share_of_copies_and_count_for_nothing(judge: Judge):
    def half(family: Family, place: int, rng: np.random.Generator) -> dict[str, Tensor]:
        return noisy(any_of(family, rng), float(rng.integers(2)), rng)

    row = judge.of(half)
    assert 0.25 < row["flagged"]["copied"] < 0.75
    copied, good = np.array(row["samples"]["copied"]), np.array(row["samples"]["accuracy"]) > judge.bench.bars.median
    new = np.array(row["samples"]["novelty"], dtype=float) >= 1
    assert not (copied & new).any()
    assert row["good_and_new"]["median"]["share"] <= (good & ~copied).mean()


def test_an_interpolation_of_one_percent_is_flagged(judge: Judge):
    def mixed(family: Family, place: int, rng: np.random.Generator) -> dict[str, Tensor]:
        one, other = any_of(family, rng), any_of(family, rng)
        return {name: 0.99 * tensor + 0.01 * other[name] for name, tensor in one.items()}

    row = judge.of(mixed)
    assert "copied" in row["flags"]
    assert row["flagged"]["copied"] == 1


def test_one_model_many_times_has_collapsed(judge: Judge):
    far = {family.name: noisy(dict(family.states[0]), 1.0, np.random.default_rng(0)) for family in judge.families}
    row = judge.of(lambda family, place, rng: dict(far[family.name]))
    assert "collapsed" in row["flags"]
    assert row["flagged"]["collapsed"] == 1
    assert row["good_and_new"]["median"]["share"] == 0


def test_a_copy_of_a_held_out_model_is_flagged_as_leaked_and_counts_for_nothing(judge: Judge):
    def leaked(family: Family, place: int, rng: np.random.Generator) -> dict[str, Tensor]:
        unseen = judge.relatives[place].held_out
        return disguised(dict(unseen[int(rng.integers(len(unseen)))]), family, MOVES)

    row = judge.of(leaked)
    assert "leaked" in row["flags"]
    assert row["flagged"]["leaked"] == 1
    assert row["good_and_new"]["median"]["share"] == 0
    assert "leaked" not in judge.bench.measure_held_out()["flags"]  # those are known to be real
    honest = judge.of(lambda family, place, rng: noisy(any_of(family, rng), 0.3, rng))
    assert "leaked" not in honest["flags"]


def reachable(*first: Any) -> list[Any]:
    """All objects that lead from some, not through modules and classes; those of a zoo's folder are no objects."""
    seen, waiting = {}, list(first)
    while waiting:
        one = waiting.pop()
        if id(one) not in seen and not isinstance(one, types.ModuleType | type):
            seen[id(one)] = one
            inside = [one.__closure__, one.__defaults__] if isinstance(one, types.FunctionType) else gc.get_referents(one)
            waiting += [*inside, getattr(one, "__self__", None)]
    return [*seen.values()]


@pytest.mark.parametrize("uses", CLASSES)
def test_no_generator_reaches_the_run_the_zoo_test_images_or_labels_that_its_class_forbids(judge: Judge, uses: str):
    images = judge.run.zoo.images("finetune")
    found = reachable(given(judge.families, uses, images.train))
    assert not [one for one in found if isinstance(one, Run | Zoo | Images | Relatives | Bench | Path)]
    tensors = [one for one in found if isinstance(one, Tensor)]
    assert len(tensors) > 100
    for hidden in (images.test.pixels, images.test.labels, images.val.pixels, images.val.labels):
        assert not [one for one in tensors if one.shape == hidden.shape and torch.equal(one, hidden)]
    labelled = any(one.shape == images.train.labels.shape and torch.equal(one, images.train.labels) for one in tensors)
    assert labelled == (uses == "labels")
    assert any(one.shape == images.train.pixels.shape for one in tensors) == (uses != "weights")
    held = {tensor.detach().numpy().tobytes() for tensor in tensors if tensor.dtype == torch.float32 and tensor.numel() > 50}
    unseen = [state["pos_embed"].numpy().tobytes() for kin in judge.relatives for state in kin.held_out]
    assert not held & set(unseen)


def test_the_search_for_what_is_reachable_would_find_a_run_in_a_closure(judge: Judge):
    leaky = replace(judge.families[0], decode=lambda latents: judge.run.split.test)
    assert any(isinstance(one, Run) for one in reachable([leaky]))


class Reader(FamilySampler):
    """A sampler that copies train models if it is shown labels."""

    def sample(self, n: int, rng: np.random.Generator) -> list[Sample]:
        """Raises `InputError` without labels."""
        if any(family.labels is None for family in self.families):
            raise InputError("no labels")
        return CopyModel(noise=0, anchors=None, root="own").fit(self.families).sample(n, rng)


def test_labels_are_shown_to_the_class_of_labels_alone(judge: Judge):
    images, rng = judge.run.zoo.images("finetune"), np.random.default_rng(0)
    for uses in ("weights", "unlabelled images"):
        reader = Reader()
        reader.uses = uses  # type: ignore[misc]
        with pytest.raises(InputError, match="no labels"):
            draw(reader, judge.families, images, n=2, rng=rng)
    reader.uses = "labels"  # type: ignore[misc]
    drawn = draw(reader, judge.families, images, n=2, rng=rng)
    assert drawn.about["uses"] == "labels"
    reader.uses = "tests"  # type: ignore[misc]
    with pytest.raises(InputError, match="one of weights, unlabelled images, labels, not 'tests'"):
        draw(reader, judge.families, images, n=2, rng=rng)


def test_samples_of_a_decoder_that_rehearses_are_of_the_class_of_labels_and_their_gradients_are_counted(
    judge: Judge, tmp_path: Path
):
    rehearsing = train_small(judge.run.zoo.path, tmp_path / "run", "rehearsal.steps=2", "rehearsed=2")
    images, rng = judge.run.zoo.images("finetune"), np.random.default_rng(0)
    for run, uses, gradients in ((rehearsing, "labels", 4), (judge.run, "weights", 0)):
        families = families_of(run)
        drawn = draw(KDE(bandwidth=0.5, anchors=None), families, images, n=3, rng=rng)
        assert drawn.about["uses"] == uses
        assert drawn.about["cost"]["gradient_evaluations"] == gradients
        assert drawn.about["cost"]["cpu_seconds"] > 0
        tokens, latents = next(run.latents([run.split.train.select(final=True)[0]]))
        root = known(run.zoo.root(run.split.train.select(final=True)[0])).state_dict()
        (again,) = families[0].decode(latents.numpy()[None])
        whole = run.decode(tokens, latents, root=root)
        assert all(torch.allclose(again[name], tensor, atol=1e-6) for name, tensor in whole.items())
