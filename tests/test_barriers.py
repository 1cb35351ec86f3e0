"""The benchmark of barriers: alignments keep functions, barriers are excesses over a line, rows are a step from other rows."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import alignments, barriers
from benchmarks.alignments import IDEAS, ROWS, Pairs
from tests.architectures import outputs, small
from wsl.layout import layout_of
from wsl.symmetry.group import MOVES, random_view
from wsl.symmetry.null_directions import stack
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


@pytest.mark.parametrize("name", ROWS | IDEAS)
def test_an_alignment_keeps_the_functions_of_both_models(pairs: Pairs, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignments, "STEPS", 2)
    a, b = (ROWS | IDEAS)[name].align(pairs)
    images = pairs.images.double()
    for found, before in ((a, pairs.a), (b, pairs.b)):
        expected = outputs(pairs.model, before, images)
        assert (outputs(pairs.model, found, images) - expected).norm() < 1e-9 * expected.norm()
    moved = any((a[name] - pairs.a[name]).abs().max() > 1e-3 for name in a)
    assert moved == (name != "naive")


@pytest.mark.parametrize("name", [name for name in ROWS | IDEAS if "full" in name and name != "loss: full"])
def test_the_full_group_brings_copies_together(pairs: Pairs, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignments, "STEPS", 2)
    generator = torch.Generator().manual_seed(0)
    copies = random_view(pairs.b, pairs.layout, generator, moves=MOVES, maps="orthogonal", strength=0.3)
    a, b = (ROWS | IDEAS)[name].align(replace(pairs, a=copies))
    assert max((a[name] - b[name]).abs().max() for name in a) < 1e-5
    assert max((copies[name] - pairs.b[name]).abs().max() for name in copies) > 0.1


def test_a_row_is_one_step_from_one_that_is_measured_before_it() -> None:
    seen = {"naive"}
    for name, way in (ROWS | IDEAS).items():
        assert {way.previous, *way.beside} <= seen, name
        seen.add(name)


def test_a_barrier_is_the_largest_excess_over_the_line_between_the_ends() -> None:
    line = [torch.tensor([1.0 + t, 3.0 - t], dtype=torch.float64) for t in torch.linspace(0, 1, 11).tolist()]
    assert np.allclose(barriers._excess(line), 0, atol=1e-6)
    line[4] += torch.tensor([0.5, -0.5])
    assert np.allclose(barriers._excess(line), [0.5, 0], atol=1e-6)


def test_bootstrapped_shares_count_pairs_of_distinct_roots() -> None:
    shares = barriers._shares(3, [(0, 1), (0, 2), (1, 2)])
    assert np.allclose(shares.sum(1), 1)
    assert np.allclose(shares.mean(0), 1 / 3, atol=0.02)
    assert (shares.max(1) == 1).any()  # a draw of two roots has one pair
