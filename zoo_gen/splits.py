"""Splits of a population into train, val and test models: never by checkpoint, never with a family on both sides by accident."""

from typing import Generic, NamedTuple, TypeVar

import pandas as pd

from zoo_gen.blueprint import FOLDS
from zoo_gen.errors import InputError
from zoo_gen.wording import counted

Part = TypeVar("Part")


_ADVICE = "python -m zoo_gen.verify <zoo> says what is wrong with the zoo"


class Split(NamedTuple, Generic[Part]):
    """Three disjoint parts of a population."""

    train: Part
    val: Part
    test: Part

    def __repr__(self) -> str:
        return f"Split({', '.join(f'{name}: {len(part)}' for name, part in self._asdict().items())})"  # type: ignore[arg-type]


def split_models(frame: pd.DataFrame, scheme: str, *, fold: int) -> Split[list[str]]:
    """Returns the model ids of each part; `fold` is tested, the one after it validates.

    `frame` is the index of the fine-tuned models (columns `model`, `root`, `fold`, `status`, `weights_sha256`); `scheme` is
    `by_model` or `leave_root_out`.
    Raises `InputError` for an unknown scheme or fold, when there are too few parts to split, and when one model, or equal weights
    under two names, would be in two parts.
    """
    if scheme == "by_model":
        key, parts = frame["fold"], list(range(FOLDS))
    elif scheme == "leave_root_out":
        key, parts = frame["root"], sorted(frame["root"].dropna().unique())  # a model of unknown root is in no part
    else:
        raise InputError(f"unknown split '{scheme}'; choose by_model or leave_root_out")
    if len(parts) < 3:
        unknown = frame["model"][key.isna()].nunique()
        advice = (
            f"; the roots of {counted(unknown, 'model')} are not known: name them (docs/how_to/own_models.md), or choose by_model"
        )
        raise InputError(
            f"split {scheme} needs at least 3 roots (train, val, test), the zoo has {len(parts)}{advice if unknown else ''}"
        )
    if not 0 <= fold < len(parts):
        raise InputError(f"split {scheme} has the folds 0 to {len(parts) - 1}, not {fold}")
    test, val = parts[fold], parts[(fold + 1) % len(parts)]
    named = {"test": key == test, "val": key == val, "train": key.notna() & ~key.isin([test, val])}
    split = Split(*(sorted(frame["model"][named[part]].unique()) for part in ("train", "val", "test")))
    part_of: dict[str, str] = {}
    for part, models in split._asdict().items():
        for model in models:
            if model in part_of:
                raise InputError(f"model {model} is in {part_of[model]} and in {part} of split {scheme}; {_ADVICE}")
            part_of[model] = part
    seen: dict[str, str] = {}
    sound = frame[(frame["status"] == "ok") & frame["model"].isin(part_of)]  # weights that are all NaN are equal and no copies
    for model, weights in sound[["model", "weights_sha256"]].drop_duplicates().itertuples(index=False):
        other = seen.setdefault(weights, model)
        if part_of[other] != part_of[model]:
            raise InputError(
                f"models {other} ({part_of[other]}) and {model} ({part_of[model]}) of split {scheme} have equal weights; {_ADVICE}"
            )
    return split
