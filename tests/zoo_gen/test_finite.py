"""Weights are finite where none is NaN or infinite, of whatever type and shape."""

import pytest
import torch

from zoo_gen.finite import all_finite

TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.complex64)


@pytest.mark.parametrize("dtype", TYPES)
def test_a_single_number_that_is_not_finite_is_found(dtype: torch.dtype) -> None:
    fine = [torch.randn(3, 5).to(dtype), torch.zeros((), dtype=dtype), torch.empty(0, dtype=dtype), torch.arange(3)]
    assert all_finite(fine)
    for wrong in (float("nan"), float("inf"), -float("inf")):
        for place in (0, 7, 14):
            numbers = torch.ones(15)
            numbers[place] = wrong
            assert not all_finite([*fine, numbers.to(dtype).view(3, 5)])
            assert not all_finite([numbers.to(dtype)[place], *fine])
