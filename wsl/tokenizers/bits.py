"""The bits of weights: as integers, where they differ, and which of many are set."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from wsl.tokenizers.tokens import INTEGERS

_LOWEST = np.array([0, *((byte & -byte).bit_length() - 1 for byte in range(1, 256))], dtype=np.uint8)
"""Place of the lowest bit that is set in a byte."""


def bits(weight: Tensor) -> Int[Tensor, " n"]:
    """Returns a view of a contiguous tensor as a row of integers."""
    return weight.view(-1).view(INTEGERS[weight.dtype.itemsize])


def differing(decoded: Any, exact: Any) -> Bool[np.ndarray, " n"]:
    """Returns where the bits of two flat arrays of one library differ."""
    if isinstance(exact, Tensor):
        return (bits(decoded.to(exact.dtype)) != bits(exact)).cpu().numpy()
    integers = np.int32 if exact.itemsize == 4 else np.int64
    return decoded.view(integers) != exact.view(integers)


def isnan(exact: Any) -> Bool[np.ndarray, " n"]:
    """Returns where a flat array of either library is NaN."""
    return exact.isnan().cpu().numpy() if isinstance(exact, Tensor) else np.isnan(exact)


def set_bits(packed: UInt8[np.ndarray, " n"]) -> Int[np.ndarray, " E"]:
    """Returns the places of the bits that are set, in no order.

    Hardly any byte has more than one. NumPy searches few among many one by one, at a misprediction each; bytes are fewer.
    """
    (found,) = (packed != 0).nonzero()
    bytes_ = packed[found]
    lowest = (found << 3) + _LOWEST[bytes_]
    bytes_ &= bytes_ - 1
    (more,) = (bytes_ != 0).nonzero()
    (rest,) = np.unpackbits(bytes_[more], bitorder="little").view(bool).nonzero()
    return np.concatenate([lowest, (found[more[rest >> 3]] << 3) + (rest & 7)])
