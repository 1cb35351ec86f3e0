"""Windows follow from seed and number alone, cover what they should, and are the same wherever and by whomever weights are read."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.race import InMemory
from tests.wsl.batches import cropped, fitted, whole
from tests.wsl.conftest import TOKENIZER
from tests.zoos import known
from wsl.data.pairs import pairs_of
from wsl.data.sources import FileSource, MemoryMapped, Source, scan
from wsl.data.standardizer import Standardizer
from wsl.data.windows import Batch, Windows, ahead
from wsl.tokenizers.residual import Residual
from wsl.tokenizers.rows import Rows
from wsl.tokenizers.tokens import Tokens
from wsl.tokenizers.window import window_starts
from zoo_gen import InputError, Zoo
from zoo_gen.files import write_weights


def in_memory(family: Sequence[Tokens]) -> list[InMemory]:
    return [InMemory.of(tokens) for tokens in family]


def windows(family: Sequence[Tokens], *, length: int = 20, seed: int = 0) -> Windows:
    return Windows(in_memory(family), fitted(family), length=length, seed=seed, cache=0)


def equal(a: Batch, b: Batch) -> bool:
    """Whether two windows hold the same, of whichever checkpoint they say they are."""
    return all(torch.equal(x, y) for x, y in zip(a.inputs, b.inputs, strict=True))


@pytest.fixture(scope="module")
def stored(tiny_zoo: Path) -> list[FileSource]:
    """Checkpoints of two shapes: linear and MLP heads."""
    zoo = Zoo.open(tiny_zoo).select(stage="finetune", final=True, pretraining="supervised")
    return scan(islice(pairs_of(zoo), 30), Residual(width=64, reference="root"))


def stream(sources: Sequence[Source], *, cache: int = 0, length: int = 100) -> Windows:
    standardizer = Standardizer.fit((source.plan, source.sums) for source in sources)
    return Windows(sources, standardizer, length=length, seed=0, cache=cache)


def test_a_window_follows_from_seed_and_number(family: list[Tokens]):
    assert equal(windows(family)[5], windows(family)[5])
    assert not equal(windows(family)[5], windows(family)[6])
    assert not equal(windows(family)[5], windows(family, seed=1)[5])


def test_batches_do_not_depend_on_workers_or_devices_or_where_training_began(family: list[Tokens]):
    drawn = windows(family)
    undivided = list(drawn.batches(range(4), 6, rank=0, world_size=1, workers=0))
    resumed = list(drawn.batches(range(2, 4), 6, rank=0, world_size=1, workers=1))
    ranks = [list(drawn.batches(range(4), 6, rank=rank, world_size=2, workers=0)) for rank in (0, 1)]
    with pytest.raises(InputError, match="multiple of the 4 devices"):
        drawn.batches(range(4), 6, rank=0, world_size=4, workers=0)
    assert all(equal(a, b) for a, b in zip(undivided[2:], resumed, strict=True))
    for batch, first, second in zip(undivided, *ranks, strict=True):
        assert torch.equal(batch.values, torch.cat([first.values, second.values]))
        assert not equal(first, second)


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_and_caches_change_no_bit_in_the_middle_of_an_epoch_or_across_its_end(stored: list[FileSource], workers: int):
    one = stream(stored)
    assert one.per_epoch > 7 * 8
    steps = range(4, one.per_epoch // 8 + 5)
    alone = list(one.batches(steps, 8, rank=0, world_size=1, workers=0))
    for cache in (0, 200_000, 10**9):  # none, for a few windows, for all
        other = stream(stored, cache=cache)
        assert all(map(equal, alone, other.batches(steps, 8, rank=0, world_size=1, workers=workers)))
    assert not any(map(equal, alone, one.batches(range(5, steps.stop + 1), 8, rank=0, world_size=1, workers=workers)))


def test_every_epoch_draws_every_window_once_in_an_order_of_its_own(family: list[Tokens]):
    drawn = windows(family)
    epochs = [[drawn[epoch * drawn.per_epoch + n].values for n in range(drawn.per_epoch)] for epoch in (0, 1)]
    counts = [Counter(tuple(values.flatten().tolist()) for values in epoch) for epoch in epochs]
    assert drawn.per_epoch == len(family) * len(window_starts(family[0].plan.n_tokens, 20))
    assert set(counts[0].values()) == {1}
    assert counts[0] == counts[1]
    assert not all(map(torch.equal, *epochs))


def test_streamed_windows_are_slices_of_the_whole_checkpoint_to_the_bit(stored: list[FileSource]):
    tokenizer, one = Residual(width=64, reference="root"), stream(stored)
    slices = []
    for source in stored:
        tokens = tokenizer.encode(source.checkpoint.state_dict(), root=known(source.root).state_dict())
        assert torch.equal(source.sums, InMemory.of(tokens).sums)
        batch = whole(tokens, one.standardizer)
        slices += [cropped(batch, start, 100) for start in window_starts(tokens.plan.n_tokens, 100)]
    found = {tuple(batch.values[:, 0].tolist()): batch for batch in slices}
    assert len(found) == len(slices) == one.per_epoch
    for n in range(one.per_epoch):
        assert equal(found[tuple(one[n].values[:, 0].tolist())], one[n])
        assert not equal(found[tuple(one[n].values[:, 0].tolist())], one[n + 1])


def test_statistics_of_a_stream_are_those_of_tokens_in_memory_to_the_bit(stored: list[FileSource]):
    tokenizer = Residual(width=64, reference="root")
    tokens = [tokenizer.encode(source.checkpoint.state_dict(), root=known(source.root).state_dict()) for source in stored]
    streamed, at_once = stream(stored).standardizer, fitted(tokens)
    assert (streamed.parts, streamed.roles) == (at_once.parts, at_once.roles)
    assert fitted(tokens[1:]).parts != at_once.parts


def test_checkpoints_with_weights_that_are_not_finite_are_left_out(tiny_zoo: Path, tmp_path: Path):
    (first, root), (second, _) = islice(pairs_of(Zoo.open(tiny_zoo).select(stage="finetune", final=True)), 2)
    weights = {name: tensor.clone() for name, tensor in second.state_dict().items()}
    weights["cls_token"][0, 0, 3] = torch.inf
    write_weights(tmp_path / "diverged.safetensors", weights)
    diverged = dataclasses.replace(second, path=tmp_path / "diverged.safetensors")
    assert [one.checkpoint for one in scan([(first, root), (second, root)], TOKENIZER)] == [first, second]
    assert [one.checkpoint for one in scan([(diverged, root), (second, root)], TOKENIZER)] == [second]


def test_a_checkpoint_that_is_gone_or_damaged_is_named(tiny_zoo: Path, tmp_path: Path):
    (checkpoint, root) = next(pairs_of(Zoo.open(tiny_zoo).select(stage="finetune")))
    copy = dataclasses.replace(checkpoint, path=tmp_path / "copy.safetensors")
    copy.path.write_bytes(checkpoint.path.read_bytes())
    drawn = stream(scan([(copy, root)], TOKENIZER))
    assert drawn[0].values.isfinite().all()
    copy.path.write_bytes(checkpoint.path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"copy\.safetensors is damaged"):
        drawn[0]
    copy.path.unlink()
    with pytest.raises(InputError, match=r"copy\.safetensors is gone"):
        drawn[0]


def test_a_large_file_is_mapped_anew_and_reads_the_same(stored: list[FileSource], monkeypatch: pytest.MonkeyPatch):
    one = stored[0]
    monkeypatch.setattr("wsl.data.sources.MAPPED", 1000)
    again = FileSource.of(one.checkpoint, one.root, Residual(width=64, reference="root"))
    assert torch.equal(again.sums, one.sums)
    mapped, weights = MemoryMapped(one.checkpoint), one.checkpoint.state_dict()
    assert set(mapped) == set(weights)
    assert len(mapped) == len(weights)
    assert all(torch.equal(mapped[name], weights[name]) for name in weights)


def test_checkpoints_of_any_size_share_batches_and_the_short_are_padded(stored: list[FileSource], family: list[Tokens]):
    narrow = Residual(width=64, reference="none").encode({"cls_token": torch.randn(1, 1, 32), "norm.weight": torch.randn(32)})
    mixed = stream([*stored[:3], InMemory.of(narrow)])
    drawn = [mixed[n] for n in range(mixed.per_epoch)]
    short = [batch for batch in drawn if (batch.positions < 0).any()]
    assert len(short) == 1
    assert (short[0].positions[:2] >= 0).all()
    assert (short[0].positions[2:] == -1).all()
    assert not short[0].mask[2:].any()
    assert torch.stack([batch.values for batch in drawn]).isfinite().all()
    with pytest.raises(InputError, match="16 and 64 width; choose tokenizer=residual"):
        stream([*stored[:3], *in_memory(family)])


def test_a_short_checkpoint_is_padded_and_says_so(family: list[Tokens]):
    n = family[0].plan.n_tokens
    window = cropped(whole(family[0], fitted(family)), 0, n + 3)
    assert window.values.shape == (n + 3, family[0].plan.width + 1)
    assert (window.positions[:n] >= 0).all()
    assert (window.positions[n:] == -1).all()
    assert window.mask[:n].any(-1).all()
    assert not window.mask[n:].any()


def test_windows_are_no_longer_than_the_longest_checkpoint(stored: list[FileSource]):
    lengths = [source.plan.n_tokens for source in stored]
    assert len(set(lengths)) == 2  # linear and MLP heads
    drawn = stream(stored, length=10_000)
    assert drawn.length == max(lengths)


def test_padding_within_tokens_is_masked_and_log_scales_never_are(family: list[Tokens]):
    batch = whole(family[0], fitted(family))
    assert torch.equal(batch.mask[:, :-1], family[0].mask)
    assert batch.mask[:, -1].all()
    assert (batch.values[~batch.mask] == 0).all()


def test_rows_stream_as_well(tiny_zoo: Path):
    zoo = Zoo.open(tiny_zoo).select(stage="finetune", final=True, head="linear")
    sources = scan(islice(pairs_of(zoo), 3), Rows(reference="none"))
    one = stream(sources)
    tokens = Rows(reference="none").encode(sources[0].checkpoint.state_dict())
    batch = whole(tokens, one.standardizer)
    expected = [cropped(batch, start, 100) for start in window_starts(tokens.plan.n_tokens, 100)]
    assert sum(any(equal(one[n], other) for other in expected) for n in range(one.per_epoch)) == len(expected)


def test_an_error_in_a_worker_reaches_the_training():
    def make(step: int) -> Batch:
        if step == 3:
            raise InputError("checkpoint is gone")
        return Batch(*(torch.zeros(1),) * 6)

    batches = ahead(make, range(5), 2)
    assert len(list(islice(batches, 3))) == 3
    with pytest.raises(InputError, match="checkpoint is gone"):
        next(batches)


@pytest.mark.parametrize(("tokens", "length"), [(10, 3), (9, 3), (3, 3), (2, 3), (1, 1)])
def test_windows_cover_every_token_and_only_the_short_are_padded(tokens: int, length: int):
    starts = window_starts(tokens, length)
    assert {start + i for start in starts for i in range(length)} >= set(range(tokens))
    assert all(start + length <= tokens for start in starts) or (starts == [0] and tokens < length)
    assert starts == sorted(set(starts))


class Absolute(Residual):
    """A tokenizer whose tokens are no plain weights."""

    @property
    def local(self) -> bool:
        return False

    def encode(
        self, state_dict: Mapping[str, Tensor], *, root: Mapping[str, Tensor] | None = None, opaque: Sequence[str] = ()
    ) -> Tokens:
        tokens = super().encode(state_dict, root=root, opaque=opaque)
        return tokens.with_values(tokens.values.abs())


def test_tokens_that_take_the_whole_model_are_windows_of_its_encoding(tiny_zoo: Path):
    pairs = list(islice(pairs_of(Zoo.open(tiny_zoo).select(stage="finetune", final=True)), 3))
    absolute, plain = (stream(scan(pairs, kind(width=64, reference="root"))) for kind in (Absolute, Residual))
    tokens = Absolute(width=64, reference="root").encode(pairs[0][0].state_dict(), root=known(pairs[0][1]).state_dict())
    batch = whole(tokens, absolute.standardizer)
    assert sum(equal(absolute[n], cropped(batch, 0, 100)) for n in range(absolute.per_epoch)) == 1
    assert not any(equal(plain[n], cropped(batch, 0, 100)) for n in range(plain.per_epoch))
