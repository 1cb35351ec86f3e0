"""The benchmark of barriers: alignments keep functions, barriers are excesses over a line, rows are a step from other rows."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import barriers
from benchmarks.barriers import ROWS, Pairs, bootstrap_weights, excess
from tests.architectures import outputs, small
from wsl.layout import layout_of
from wsl.symmetry.group import MOVES, random_view
from wsl.symmetry.stacks import stack
from zoo_gen.images import ImageSplit


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    models = []
    for seed in range(4):
        torch.manual_seed(seed)
        models.append(small(depth=1).eval())
        for parameter in models[-1].parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    images = ImageSplit(torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2]))
    stacks = [{n: t.double() for n, t in stack([one.state_dict() for one in half]).items()} for half in (models[:2], models[2:])]
    return Pairs(stacks[0], stacks[1], layout_of(models[0]), models[0], images)


@pytest.mark.parametrize("name", ROWS)
def test_an_alignment_keeps_the_function_of_the_model(pairs: Pairs, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(barriers, "STEPS", 2)
    aligned, images = ROWS[name].align(pairs), pairs.train.pixels.double()
    expected = outputs(pairs.model, pairs.a, images)
    assert (outputs(pairs.model, aligned, images) - expected).norm() < 1e-9 * expected.norm()
    moved = any((aligned[name] - pairs.a[name]).abs().max() > 1e-3 for name in aligned)
    assert moved == (name != "naive")


def test_the_full_group_brings_copies_together_and_permutations_do_not(pairs: Pairs) -> None:
    generator = torch.Generator().manual_seed(0)
    copies = random_view(pairs.b, pairs.layout, generator, moves=MOVES, maps="orthogonal", strength=0.3)
    full, permuted = (ROWS[name].align(replace(pairs, a=copies)) for name in ("full", "permutation"))
    assert max((full[name] - pairs.b[name]).abs().max() for name in full) < 1e-5
    assert max((permuted[name] - pairs.b[name]).abs().max() for name in permuted) > 0.1


def test_a_row_is_compared_to_rows_that_are_measured_before_it() -> None:
    names = ["naive", *ROWS]
    for i, row in enumerate(ROWS.values(), 1):
        assert {row.previous, *row.beside} <= set(names[:i])


def test_a_barrier_is_the_largest_excess_over_the_line_between_the_ends() -> None:
    line = [torch.tensor([1.0 + t, 3.0 - t], dtype=torch.float64) for t in torch.linspace(0, 1, 11).tolist()]
    assert np.allclose(excess(line), 0, atol=1e-6)
    line[4] += torch.tensor([0.5, -0.5])
    assert np.allclose(excess(line), [0.5, 0], atol=1e-6)


def test_bootstrap_weights_count_pairs_of_distinct_roots() -> None:
    weights = bootstrap_weights(3, [(0, 1), (0, 2), (1, 2)])
    assert np.allclose(weights.sum(1), 1)
    assert np.allclose(weights.mean(0), 1 / 3, atol=0.02)
    assert (weights.max(1) == 1).any()  # a resample of two roots has one pair
