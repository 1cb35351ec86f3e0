"""Copies in half precision: files whose weights are those of another file, rounded. They are kept, and said.

All weights are compared only where a few of each tensor, evenly spaced, are equal once rounded (`zoo_gen.adoption.reading.sketch`).
"""

from collections.abc import Callable, Sequence

import torch

from zoo_gen.adoption.reading import HALF, Read
from zoo_gen.adoption.scan import LeftOut


def report_rounded(read: Sequence[Read], report: Callable[[LeftOut], None]) -> None:
    """Reports each file whose weights are those of another one, rounded to half precision."""
    for dtype in HALF:
        alike: dict[str, list[Read]] = {}
        for one in read:
            if one.is_finite:
                alike.setdefault(one.sketches[dtype], []).append(one)
        for group in alike.values():
            for one in (one for one in group if one.halves.get(dtype)):
                finer = [other for other in group if other.halves.get(dtype, 0) < one.halves[dtype]]
                if (other := next((other for other in finer if _is_rounded(one, other, dtype)), None)) is not None:
                    rounded = f"it has the weights of {other.found.name}, rounded to {str(dtype).removeprefix('torch.')}"
                    report(LeftOut(one.found.name, f"{rounded}; both are kept, and may be in two parts of a split"))


def _is_rounded(one: Read, other: Read, dtype: torch.dtype) -> bool:
    """Whether all weights of a file are those of another one in fewer bits."""
    ours, theirs = (each.checkpoint.weights.tensors() for each in (one, other))
    return ours.keys() == theirs.keys() and all(ours[name].to(dtype).equal(theirs[name].to(dtype)) for name in ours)
