"""A window holds what the whole checkpoint's tokens hold there: every family, both tokenizers, every place."""

import pytest
import torch
from torch import Tensor

from tests.architectures import MODELS
from wsl.tokenizers.residual import Residual
from wsl.tokenizers.rows import Rows
from wsl.tokenizers.tokens import Tokenizer
from wsl.tokenizers.window import Window, parts_in, parts_of, sums_in, sums_of
from zoo_gen.formats.names import unwrapped


def pair(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A model, some tensors in another type, and a root."""
    torch.manual_seed(0)
    root = unwrapped(MODELS[name]().state_dict(), attributes=())  # as files are read, without counters
    root = {key: tensor.bfloat16() if n % 3 == 0 else tensor for n, (key, tensor) in enumerate(root.items())}
    return {key: tensor + 0.1 * torch.randn_like(tensor) for key, tensor in root.items()}, root


@pytest.mark.parametrize(
    "tokenizer", [Residual(width=64, reference="root"), Residual(width=5, reference="none"), Rows(reference="root")]
)
@pytest.mark.parametrize("name", MODELS)
def test_a_window_is_a_slice_of_the_tokens_to_the_bit(name: str, tokenizer: Tokenizer):
    weights, root = pair(name)
    tokens = tokenizer.encode(weights, root=root)
    plan, missed = tokens.plan, 0
    for length in (7, plan.n_tokens):
        for start in range(0, plan.n_tokens, length):
            stop = min(start + length, plan.n_tokens)
            window = Window.of(plan, start, stop)
            assert torch.equal(window.read(weights, root), tokens.values[start:stop])
            assert torch.equal(window.parts >= 0, tokens.mask[start:stop])
            assert torch.equal(window.positions, tokens.positions[start:stop])
            assert [plan.groups[g].role for g in window.groups] == [plan.groups[g].role for g in window.groups.sort().values]
            assert all(plan.groups[g].start <= t < plan.groups[g].stop for t, g in enumerate(window.groups.tolist(), start))
            missed += torch.equal(window.read(root, root), tokens.values[start:stop])
    assert missed < 2 + plan.n_tokens // 7


@pytest.mark.parametrize("piece", [50, 2**13])
@pytest.mark.parametrize("name", ["plain", "GPT-2", "CNN"])
def test_sums_at_once_are_those_of_the_parts_to_the_bit(name: str, piece: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("wsl.tokenizers.plan.PIECE", piece)
    weights, root = pair(name)
    for tokenizer in (Residual(width=60 + piece % 7, reference="root"), Rows(reference="none", width=60 + piece % 7)):  # new plans
        tokens = tokenizer.encode(weights, root=root)
        parts = sums_of(parts_in(tokens.plan, tokens.values))
        found = sums_in(tokens.plan, tokens.values)
        assert found.dtype == parts.dtype == torch.float64
        assert torch.equal(found, parts)
        assert torch.equal(found, sums_of(parts_of(tokens.plan, weights, root)))
        assert not torch.equal(found, sums_in(tokens.plan, tokens.values.roll(1, 0)))


@pytest.mark.parametrize("tokenizer", [Residual(width=64, reference="root"), Rows(reference="none")])
def test_parts_are_read_in_the_order_of_the_tokens(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("wsl.tokenizers.plan.PIECE", 50)
    for name in ("plain", "GPT-2"):
        weights, root = pair(name)
        tokens = tokenizer.encode(weights, root=root)
        expected = [segment.of(tokens.values).flatten() for group in tokens.plan.groups for segment in group.segments]
        for parts in (parts_of(tokens.plan, weights, root), parts_in(tokens.plan, tokens.values)):
            pieces = [list(part) for part in parts]
            assert max(map(len, pieces)) > 1
            assert all(torch.equal(torch.cat(part), values) for part, values in zip(pieces, expected, strict=True))
        wrong = [torch.cat(list(part)) for part in parts_of(tokens.plan, root, weights)]
        assert not all(map(torch.equal, wrong, expected))
