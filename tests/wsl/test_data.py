"""Windows follow from seed and number alone, and cover what they should."""

import pytest
import torch

from wsl.data import Batch, Windows, window_starts
from wsl.normalize import Standardizer
from wsl.tokenizers.tokens import Tokens


def windows(family: list[Tokens], *, length: int = 20, seed: int = 0) -> Windows:
    return Windows(family, Standardizer.fit(family), length=length, seed=seed)


def equal(a: Batch, b: Batch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_window_follows_from_seed_and_number(family: list[Tokens]):
    assert equal(windows(family)[5], windows(family)[5])
    assert not equal(windows(family)[5], windows(family)[6])
    assert not equal(windows(family)[5], windows(family, seed=1)[5])


def test_batches_do_not_depend_on_workers_or_devices_or_where_training_began(family: list[Tokens]):
    drawn = windows(family)
    whole = list(drawn.batches(range(4), 6, rank=0, world_size=1, workers=0))
    resumed = list(drawn.batches(range(2, 4), 6, rank=0, world_size=1, workers=1))
    ranks = [list(drawn.batches(range(4), 6, rank=rank, world_size=2, workers=0)) for rank in (0, 1)]
    assert all(equal(a, b) for a, b in zip(whole[2:], resumed, strict=True))
    for batch, first, second in zip(whole, *ranks, strict=True):
        assert torch.equal(batch.values, torch.cat([first.values, second.values]))
        assert not equal(first, second)


def test_a_short_checkpoint_is_padded_and_says_so(family: list[Tokens]):
    n = family[0].plan.n_tokens
    window = windows(family, length=n + 3)[0]
    assert window.values.shape == (n + 3, family[0].plan.width + 1)
    assert (window.positions[:n] >= 0).all()
    assert (window.positions[n:] == -1).all()
    assert window.mask[:n].any(-1).all()
    assert not window.mask[n:].any()


def test_padding_within_tokens_is_masked_and_log_scales_never_are(family: list[Tokens]):
    batch = Batch.of(family[0], Standardizer.fit(family))
    assert torch.equal(batch.mask[:, :-1], family[0].mask)
    assert batch.mask[:, -1].all()
    assert (batch.values[~batch.mask] == 0).all()


@pytest.mark.parametrize(("tokens", "length"), [(10, 3), (9, 3), (3, 3), (2, 3), (1, 1)])
def test_windows_cover_every_token_and_only_the_short_are_padded(tokens: int, length: int):
    starts = window_starts(tokens, length)
    assert {start + i for start in starts for i in range(length)} >= set(range(tokens))
    assert all(start + length <= tokens for start in starts) or (starts == [0] and tokens < length)
    assert starts == sorted(set(starts))
