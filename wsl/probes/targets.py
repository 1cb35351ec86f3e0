"""Targets of a zoo: the cards of `configs/probe` whose column it has, and its own columns, which need no card.

An own column of numbers is predicted by a regression, one of texts by a classification. A target without values is absent.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd

from wsl.probes.classification import Classification
from wsl.probes.probe import Probe, probed_checkpoints
from wsl.probes.regression import Regression
from zoo_gen import InputError, Zoo
from zoo_gen.config import CONFIGS, card_names, cards
from zoo_gen.index import own_columns


def targets_of(zoo: Zoo, wanted: Sequence[str]) -> dict[str, Probe]:
    """Returns the probes of what is wanted and has values, those of cards first.

    Args:
        zoo: the zoo; its fine-tuned checkpoints tell which columns have values.
        wanted: names of cards or of own columns, or patterns of them.

    Raises:
        InputError: a pattern fits neither a card nor an own column, or nothing that is wanted has values.
    """
    if not wanted:
        raise InputError("no target was named; name some, or '*' for all")
    frame = probed_checkpoints(zoo).frame
    own, of_cards = own_targets(frame), card_names("probe")
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in (*of_cards, *own)):
            theirs = f"; columns of {zoo.path} are {', '.join(own)}" if own else f"; {zoo.path} has no columns of its own"
            raise InputError(f"no target '{pattern}': cards of {CONFIGS / 'probe'} are {', '.join(of_cards)}{theirs}")
    chosen = [name for name in (*of_cards, *own) if any(fnmatchcase(name, pattern) for pattern in wanted)]
    found = {name: probe_of(name, is_number=name not in own or own[name]) for name in chosen}
    known = {name: probe for name, probe in found.items() if frame[probe.column].notna().any()}
    if not known:
        raise InputError(
            f"{zoo.path} has no values of {', '.join(chosen)}, so nothing can be predicted; give it a column of results"
        )
    return known


def own_targets(frame: pd.DataFrame) -> dict[str, bool]:
    """Returns the columns of `zoo.frame` beside those of the format that can be predicted, and whether each is of numbers.

    Texts that every model has for itself, as names or remarks, are no labels.
    """
    found = {}
    for name in own_columns(frame):
        values = frame[name].dropna()
        if pd.api.types.is_numeric_dtype(values.dtype):
            found[name] = True
        elif len(values) and values.nunique() < frame.loc[values.index, "model"].nunique():
            found[name] = False
    return found


def probe_of(name: str, *, is_number: bool) -> Probe:
    """Returns the probe of a target: of its card, or else of a zoo's own column of numbers, or of texts."""
    if name in card_names("probe"):
        return cards("probe", [name])[name]
    if not is_number:
        return Classification(column=name, trivial=False)
    bounds = (-np.inf, np.inf)
    return Regression(column=name, scale="linear", measured="none", sign=1, trivial=False, bounds=bounds)
