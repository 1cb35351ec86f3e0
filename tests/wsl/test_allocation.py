"""What is kept are the numbers of most energy, as many as a checkpoint's own weights allow, wherever a window of it begins."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.zoos import known
from wsl.data.pairs import pairs_of
from wsl.data.sources import FileSource, scan
from wsl.data.standardizer import Standardizer
from wsl.data.token_statistics import TokenStatistics
from wsl.data.windows import Windows
from wsl.models.allocation import Allocation
from wsl.models.hyperrep import HyperRep
from wsl.tokenizers.fisher_basis import FisherBasis
from wsl.tokenizers.plan import Plan
from wsl.tokenizers.residual import Residual
from wsl.tokenizers.tokens import Tokenizer
from zoo_gen import InputError, Zoo

PLACES = {"blocks": 5, "roles": 10, "places": 64}
SIZES = {"width": 32, "heads": 2, "depth": 1, "mlp_ratio": 2}


def scanned(zoo: Path, tokenizer: Tokenizer) -> list[FileSource]:
    finals = Zoo.open(zoo).select(stage="finetune", final=True, pretraining="supervised")
    return scan(islice(pairs_of(finals), 0, 40, 3), tokenizer)


@pytest.fixture(scope="module")
def sources(tiny_zoo: Path) -> list[FileSource]:
    """Checkpoints of two shapes: linear and MLP heads."""
    return scanned(tiny_zoo, Residual(width=64, reference="root"))


def statistics_of(sources: list[FileSource]) -> TokenStatistics:
    standardizer = Standardizer.fit((source.plan, source.sums) for source in sources)
    return TokenStatistics(sources, Windows(sources, standardizer, length=448, seed=0, cache=0))


def allocated(sources: list[FileSource], *, compression_ratio: float = 4, **changes: Any) -> Allocation:
    found = Allocation(compression_ratio=compression_ratio, width=64, **{**PLACES, **changes})
    statistics = statistics_of(sources)
    found.allocate(found.measured(statistics.energies()), statistics.plans)
    return found


def plans_of(sources: list[FileSource]) -> tuple[Plan, Plan]:
    """The plans with fewer and with more tokens."""
    few, many = sorted({source.plan for source in sources}, key=lambda plan: plan.n_tokens)
    return few, many


def kept_of(allocation: Allocation, plan: Plan, total: int | None = None) -> Tensor:
    return allocation(plan.positions[None], torch.tensor([plan.n_tokens if total is None else total]))[0]


@pytest.mark.parametrize("compression_ratio", [2, 4, 16])
def test_every_plan_has_its_own_share_of_numbers_and_no_more(sources: list[FileSource], compression_ratio: int):
    model = HyperRep(token_width=65, compression_ratio=compression_ratio, **SIZES, **PLACES)
    model.initialize(statistics_of(sources))
    for plan in plans_of(sources):
        numbers, most = model.numbers(plan.positions), plan.n_weights / compression_ratio
        assert 0.97 * most < numbers <= most
        assert numbers == int(kept_of(model.allocation, plan).sum()) + len(plan.groups)


def test_what_is_kept_has_more_energy_than_what_is_not(sources: list[FileSource]):
    found = allocated(sources, compression_ratio=8)
    for plan in plans_of(sources):
        block, role, index = plan.positions.unbind(-1)
        energy, kept = found.energy[block, role, found.place(index)], kept_of(found, plan)
        assert energy[kept].min() > energy[~kept].max()
        fewer = kept_of(allocated(sources, compression_ratio=16), plan)
        assert not (fewer & ~kept).any()
        assert fewer.sum() < 0.6 * kept.sum()


def test_energies_are_mean_squares_of_the_tokens_of_a_root(sources: list[FileSource]):
    first = sources[0]
    family = [one for one in sources if (one.plan, one.checkpoint.root) == (first.plan, first.checkpoint.root)]
    assert 1 < len(family) < len(sources)
    (plan, energy), *others = statistics_of(family).energies()
    assert not others
    tokens = [one.tokenizer.encode(one.checkpoint.state_dict(), root=known(one.root).state_dict()).values for one in family]
    torch.testing.assert_close(energy, torch.stack(tokens).double().square().mean(0))
    allocation = Allocation(compression_ratio=4, width=64, **{**PLACES, "places": 2 * plan.n_tokens})  # each place its own
    block, role, index = plan.positions.unbind(-1)
    found = allocation.measured([(plan, energy)])[block, role, index]
    expected = (energy * plan.mask).float()
    torch.testing.assert_close(found * expected.max(), expected, atol=1e-9, rtol=1e-4)


def test_energies_of_what_is_left_are_in_the_units_of_the_tokens(sources: list[FileSource]):
    statistics = statistics_of(sources)
    standardizer, plan = statistics.windows.standardizer, sources[0].plan
    alike = [one for one in sources if (one.plan, one.checkpoint.root) == (plan, sources[0].checkpoint.root)]
    tokens = [one.tokenizer.encode(one.checkpoint.state_dict(), root=known(one.root).state_dict()) for one in alike]
    left = [0.5 * standardizer.standardize(one)[:, :-1] for one in tokens]
    ((_, energy),) = statistics.energies((source, one[None]) for source, one in zip(alike, left, strict=True))
    centre = standardizer.restore(torch.zeros(plan.n_tokens, plan.width + 1), plan)
    expected = torch.stack([one.values - centre for one in tokens]).double().square().mean(0) / 4
    torch.testing.assert_close(energy, expected, atol=1e-12, rtol=1e-3)
    (_, of_tokens), *_ = statistics.energies()
    assert not torch.allclose(energy, of_tokens / 4, atol=1e-12, rtol=1e-3)  # which are not centred


def test_whole_checkpoints_are_final_and_have_all_their_tokens(sources: list[FileSource], monkeypatch: pytest.MonkeyPatch):
    statistics = statistics_of(sources)
    wholes = list(statistics.wholes())
    assert [source for source, _ in wholes] == sources
    for number, (source, batch) in enumerate(wholes):
        tokens = source.tokenizer.encode(source.checkpoint.state_dict(), root=known(source.root).state_dict())
        assert torch.equal(batch.values[0], statistics.windows.standardizer.standardize(tokens))
        assert torch.equal(batch.mask[0, :, :-1], tokens.mask)
        assert torch.equal(batch.positions[0], tokens.positions)
        assert (batch.total.item(), batch.source.item()) == (tokens.plan.n_tokens, number)
    monkeypatch.setattr("wsl.data.token_statistics.WHOLES", 4)
    assert [source for source, _ in statistics.wholes()] == sources[:: -(-len(sources) // 4)]


def test_energies_of_several_roots_are_averaged_by_their_logarithms(sources: list[FileSource]):
    few, _ = plans_of(sources)
    allocation = Allocation(compression_ratio=4, width=64, **{**PLACES, "places": 2 * few.n_tokens})
    rng = torch.Generator().manual_seed(0)
    first, second = (torch.rand(few.n_tokens, 64, generator=rng, dtype=torch.float64) + 0.1 for _ in range(2))
    block, role, index = few.positions.unbind(-1)
    found = allocation.measured([(few, first), (few, 1e6 * second)])[block, role, index]
    expected = ((first * second).sqrt() * few.mask).float()
    torch.testing.assert_close(found * expected.max(), expected)


def test_energies_count_more_where_outputs_depend_on_them(tiny_zoo: Path):
    finals = Zoo.open(tiny_zoo).select(stage="finetune", final=True, pretraining="supervised", head="linear")
    pairs = list(islice(pairs_of(finals), 3))
    tokenizer = FisherBasis(width=64, images=16, seed=0)
    tokenizer.prepare(known(root) for _, root in pairs)
    sources = scan(pairs, tokenizer)
    ((plan, energy),) = statistics_of(sources).energies()
    root = known(pairs[0][1]).state_dict()
    plain = torch.stack([tokenizer.encode(one.state_dict(), root=root).values for one, _ in pairs]).double().square().mean(0)
    strength = tokenizer.strength(plan, root=root).double()
    seen = plan.mask & (plain > 0) & (strength > 1e-20)
    torch.testing.assert_close((energy / plain)[seen], (strength**0.25)[seen])
    assert strength[seen].max() > 100 * strength[seen].min()


def test_a_window_that_is_part_of_a_checkpoint_has_the_level_of_its_whole_checkpoint(sources: list[FileSource]):
    found = allocated(sources)
    few, many = plans_of(sources)
    for plan in (few, many):
        whole = kept_of(found, plan)
        window = found(plan.positions[None, 50:90], torch.tensor([plan.n_tokens]))[0]
        assert torch.equal(window, whole[50:90])
    assert not torch.equal(kept_of(found, few, many.n_tokens), kept_of(found, few))


def test_a_checkpoint_of_an_unknown_length_keeps_no_more_than_any_that_is_known(sources: list[FileSource]):
    found = allocated(sources)
    few, many = plans_of(sources)
    unknown = kept_of(found, few, 12345)
    by_length = [kept_of(found, few, plan.n_tokens) for plan in (few, many)]
    assert int(unknown.sum()) == min(int(kept.sum()) for kept in by_length)
    assert int(unknown.sum()) < max(int(kept.sum()) for kept in by_length)


def test_padded_tokens_keep_nothing(sources: list[FileSource]):
    found = allocated(sources)
    few, _ = plans_of(sources)
    padded = torch.cat([few.positions, torch.full((5, 3), -1)])[None]
    kept = found(padded, torch.tensor([few.n_tokens]))[0]
    assert torch.equal(kept[:-5], kept_of(found, few))
    assert not kept[-5:].any()


def test_places_far_in_a_group_share_energies_and_near_ones_have_their_own(sources: list[FileSource]):
    few, _ = plans_of(sources)
    index = torch.arange(20_000)
    place = Allocation(compression_ratio=4, width=64, **PLACES).place(index)
    assert torch.equal(place[:32], index[:32])
    assert (place.diff() >= 0).all()
    assert int(place.max()) == 63
    assert len(place[32:64].unique()) == 8  # eight an octave
    group = max(few.groups, key=lambda group: group.stop - group.start)
    rng = torch.Generator().manual_seed(0)
    energy = torch.rand(few.n_tokens, 64, generator=rng, dtype=torch.float64)

    def differing(places: int) -> int:
        allocation = Allocation(compression_ratio=4, width=64, **{**PLACES, "places": places})
        allocation.allocate(allocation.measured([(few, energy)]), [few])
        return len(kept_of(allocation, few)[group.start : group.stop].unique(dim=0))

    assert differing(2) == 2
    assert differing(256) == group.stop - group.start > 30


def test_what_does_not_fit_is_refused(sources: list[FileSource]):
    with pytest.raises(InputError, match=r"leaves nothing of \d+ weights; choose a smaller one"):
        allocated(sources, compression_ratio=1e6)
    with pytest.raises(InputError, match=r"set model\.blocks and model\.roles to more than that \(now 3 and 10\)"):
        allocated(sources, blocks=3)
    with pytest.raises(InputError, match=r"roles up to 9; set model\.blocks and model\.roles"):
        allocated(sources, roles=5)
    for changes in ({"compression_ratio": 0.9}, {"blocks": 0}, {"roles": 0}, {"places": 1}):
        with pytest.raises(InputError, match=r"must be at least"):
            allocated(sources, **changes)
    found = allocated(sources)
    few, _ = plans_of(sources)
    for deeper in (torch.tensor([3, 0, 0]), torch.tensor([0, 3, 0])):
        with pytest.raises(InputError, match=r"train anew"):
            found(few.positions[None] + deeper, torch.tensor([few.n_tokens]))
    assert kept_of(found, few).any()
