"""Tables of predictions, which say why they have no column of a target."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from wsl.probes.predictor import ABOUT, ENDS
from wsl.probes.targets import targets_of
from wsl.run import Run
from zoo_gen import InputError, Zoo
from zoo_gen.wording import counted


class NotPredicted(InputError, KeyError):
    """A column that a table of predictions does not have; a `KeyError` for those who expect one of a table."""

    def __str__(self) -> str:
        """The message as it is, where a KeyError would quote it."""
        return str(self.args[0])


class Predictions(pd.DataFrame):
    """A table of predictions.

    Attributes:
        reasons: why other columns of the zoo are not predicted, by name.
    """

    reasons: Mapping[str, str] = {}
    _metadata = ["reasons"]  # noqa: RUF012 (the name and the kind that pandas asks for)

    @property
    def _constructor(self) -> type["Predictions"]:
        return Predictions

    def __getitem__(self, key: Any) -> Any:
        """Returns a column, or what a DataFrame does of another key. Raises `NotPredicted` for a column that is not there."""
        try:
            return super().__getitem__(key)
        except KeyError as error:
            keys = [key] if isinstance(key, str) else list(key) if isinstance(key, list) else []
            odd = [name for name in keys if isinstance(name, str) and name not in self.columns]
            if not odd:
                raise
            there = [str(name) for name in self.columns if name not in ABOUT and not str(name).endswith(ENDS)]
            target = next((name for name in self.reasons if odd[0] in {name, *(f"{name}{end}" for end in ENDS)}), None)
            reason = "the zoo of the run has no such column" if target is None else self.reasons[target]
            raise NotPredicted(f"{odd[0]} is not predicted: {reason}; predicted are {', '.join(there)}") from error


def reasons_of(run: Run) -> dict[str, str]:
    """Returns why a column of the run's zoo is not predicted, of all columns: a table asks for those that it does not have."""
    train, val = run.split.train, run.split.val
    has_probe = {probe.column for probe in targets_of(run.zoo, ["*"]).values()}
    return {str(name): _reason(str(name), train, val, has_probe=name in has_probe) for name in run.zoo.frame}


def _reason(name: str, train: Zoo, val: Zoo, *, has_probe: bool) -> str:
    known = [part.frame[name].dropna() for part in (train, val)]
    for part, values in zip(("train", "val"), known, strict=True):
        if values.empty:
            return f"no {part} model of the run has a value of it"
    if len(known[0].unique()) == 1:
        return f"it is {known[0].iloc[0]} for all {counted(train.frame['model'].nunique(), 'train model')}"
    if not has_probe:
        return "the zoo records it, and it is no target: configs/probe has no card of it"
    return "it varies too little, or val models have labels that no train model has"
