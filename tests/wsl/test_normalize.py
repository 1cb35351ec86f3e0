"""Standardising can be undone; scale and direction are apart; nothing wild gets into the statistics."""

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.wsl.batches import fitted
from wsl.data.standardizer import Standardizer
from wsl.tokenizers.tokens import Tokens
from zoo_gen import InputError


def scaled(tokens: Tokens, factor: float) -> Tokens:
    return tokens.with_values(tokens.values * factor)


@pytest.fixture(scope="module")
def standardizer(family: list[Tokens]) -> Standardizer:
    return fitted(family)


@pytest.mark.parametrize("factor", [1.0, 1e-8, 1e8, 0.0])
def test_restoring_what_was_standardised_returns_the_tokens(family: list[Tokens], standardizer: Standardizer, factor: float):
    for tokens in (scaled(tokens, factor) for tokens in family):
        values = standardizer.standardize(tokens)
        assert values.shape == (tokens.plan.n_tokens, tokens.plan.width + 1)
        assert values.isfinite().all()
        restored = standardizer.restore(values, tokens.plan)
        # single precision, relative to the part's own spread
        assert (restored - tokens.values).abs().max() <= 1e-5 * (tokens.values.abs().max() + 0.1)
        wrong = values.clone()
        wrong[:, -1] /= 2
        assert factor == 0 or not torch.allclose(standardizer.restore(wrong, tokens.plan), tokens.values, rtol=1e-2)


def test_directions_have_unit_scale_in_every_group(family: list[Tokens], standardizer: Standardizer):
    for tokens in family:
        values = standardizer.standardize(tokens)[:, :-1]
        for group in tokens.plan.groups:
            energy = values[group.start : group.stop].square().sum() / group.n_weights
            assert energy == pytest.approx(1, abs=1e-3)


def test_a_larger_difference_moves_the_log_scale_and_not_the_direction(family: list[Tokens]):
    centred = fitted([*family, *(scaled(tokens, -1) for tokens in family)])  # means of zero, nearly
    centred = Standardizer(parts={kind: (0.0, d) for kind, (_, d) in centred.parts.items()}, roles=centred.roles)
    once, twice = (centred.standardize(scaled(family[0], factor)) for factor in (1, 2))
    torch.testing.assert_close(once[:, :-1], twice[:, :-1])
    assert (twice[:, -1] > once[:, -1]).all()


def test_a_diverged_checkpoint_does_not_move_the_statistics(family: list[Tokens]):
    broken = family[0].values.clone()
    broken[3, 5] = torch.nan
    found = fitted([*family, family[0].with_values(broken)])
    assert found.parts == fitted(family).parts
    assert found.roles == fitted(family).roles
    assert fitted([*family, scaled(family[0], 3)]).roles != fitted(family).roles
    with pytest.raises(InputError, match="no train checkpoint has finite weights"):
        fitted([family[0].with_values(broken)])


def test_a_part_that_never_moves_stays_where_it_is(family: list[Tokens]):
    def frozen(tokens: Tokens) -> Tokens:
        values = tokens.values.clone()
        for group in tokens.plan.groups:
            if group.role == "q":
                values[group.start : group.stop] = 0
        return dataclasses.replace(tokens, values=values)

    checkpoints = [frozen(tokens) for tokens in family]
    standardizer = fitted(checkpoints)
    values = standardizer.standardize(checkpoints[0])
    assert values.isfinite().all()
    torch.testing.assert_close(standardizer.restore(values, checkpoints[0].plan), checkpoints[0].values)


def test_saved_statistics_are_read_back_to_the_bit(standardizer: Standardizer, tmp_path: Path):
    standardizer.save(tmp_path / "standardizer.json")
    loaded = Standardizer.load(tmp_path / "standardizer.json")
    assert (loaded.parts, loaded.roles) == (standardizer.parts, standardizer.roles)
    (tmp_path / "standardizer.json").write_text('{"parts": {"a": [1]}')
    with pytest.raises(InputError, match="cannot read the statistics"):
        Standardizer.load(tmp_path / "standardizer.json")


def test_a_part_the_fit_has_not_seen_is_named(family: list[Tokens], standardizer: Standardizer):
    parts = {kind: moments for kind, moments in standardizer.parts.items() if kind != "head.weight"}
    with pytest.raises(InputError, match=r"head\.weight"):
        Standardizer(parts=parts, roles=standardizer.roles).standardize(family[0])
