"""Random draws of generating factors: what a blueprint says in place of a list of values."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from zoo_gen.errors import InputError


def draw(rng: np.random.Generator, card: Mapping[str, Any]) -> Any:
    """Draws one value.

    Args:
        rng: the model's stream of draws.
        card: `{choices: [...]}`, or two bounds: `{uniform: [low, high]}`, `{log_uniform: ...}`, `{integers: ...}`.

    Real numbers are rounded to three digits, so that the model id tells them exactly. Raises `InputError` for any other card.

    >>> draw(np.random.default_rng(0), {"log_uniform": [1e-4, 1e-1]})
    0.00814
    """
    match list(card.items()):
        case [("choices", [_, *_] as choices)]:
            return choices[int(rng.integers(len(choices)))]
        case [("uniform", [low, high])] if low <= high:
            return float(f"{rng.uniform(low, high):.3g}")
        case [("log_uniform", [low, high])] if 0 < low <= high:
            return float(f"{math.exp(rng.uniform(math.log(low), math.log(high))):.3g}")
        case [("integers", [int(low), int(high)])] if low <= high:
            return int(rng.integers(low, high + 1))
    raise InputError(
        f"cannot draw from {dict(card)}; write {{choices: [...]}}, {{uniform: [low, high]}}, {{log_uniform: [low, high]}} "
        "or {integers: [low, high]}, low <= high"
    )
