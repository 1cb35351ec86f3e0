"""Splits of a population into train, val and test models: never by checkpoint, never with a family on both sides by accident."""

from typing import Generic, NamedTuple, TypeVar

import pandas as pd

from zoo_gen.blueprint import FOLDS
from zoo_gen.errors import InputError

Part = TypeVar("Part")


class Split(NamedTuple, Generic[Part]):
    """Three disjoint parts of a population."""

    train: Part
    val: Part
    test: Part


def split_models(frame: pd.DataFrame, scheme: str, *, fold: int) -> Split[list[str]]:
    """Returns the model ids of each part; `fold` is tested, the one after it validates.

    `frame` is the index of the fine-tuned models (columns `model`, `root`, `fold`); `scheme` is `by_model` or `leave_root_out`.
    Raises `InputError` for an unknown scheme or fold, and when there are too few parts to split.
    """
    if scheme == "by_model":
        key, parts = frame["fold"], list(range(FOLDS))
    elif scheme == "leave_root_out":
        key, parts = frame["root"], sorted(frame["root"].unique())
    else:
        raise InputError(f"unknown split '{scheme}'; choose by_model or leave_root_out")
    if len(parts) < 3:
        raise InputError(f"split {scheme} needs at least 3 roots (train, val, test), the zoo has {len(parts)}")
    if not 0 <= fold < len(parts):
        raise InputError(f"split {scheme} has the folds 0 to {len(parts) - 1}, not {fold}")
    test, val = parts[fold], parts[(fold + 1) % len(parts)]
    named = {"test": key == test, "val": key == val, "train": ~key.isin([test, val])}
    return Split(*(sorted(frame["model"][named[part]].unique()) for part in ("train", "val", "test")))
