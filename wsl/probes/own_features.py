"""A user's own features in the benchmark: the probes and folds of a run, beside its embedding and the hand-made baselines."""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from wsl.probes.benchmark import beside
from wsl.probes.probe import probed_checkpoints
from wsl.probes.settings import Settings
from wsl.run import Run
from zoo_gen import InputError, Zoo
from zoo_gen.config import stored
from zoo_gen.wording import counted

OWN = "own"
"""How rows of the user's features are called."""


def evaluate(own: np.ndarray | pd.DataFrame, /, run: Run, **settings: Any) -> pd.DataFrame:
    """Probes features of one's own, as `python -m wsl.probe` probes the embedding of a run.

    The probes are fitted on the train models of the run's split, penalties are chosen on val, and test models are predicted.

    Args:
        own: the features (N F), one row for each checkpoint of `run.zoo`, in its order, or of those that are probed: fine-tuned,
            and not diverged. A DataFrame with the columns `model` and `epoch` may have any order.
        run: a trained model, whose zoo and split are used.
        settings: values of configs/probe.yaml to change, such as `targets=["test_accuracy"]` or `features=["spectra"]`.

    Returns:
        A row for each target, set of `checkpoints` (all, or final ones), and kind of features: `own`, the run's model, and
        baselines. `score` is R2 for numbers and balanced accuracy for labels, `low` to `high` its 95 % interval over models. The
        `difference` is the score of `own` less that of the row, on the same resamples.

    Raises:
        InputError: rows do not match the checkpoints, values are no numbers, or a setting is unknown.
    """
    chosen = _settings(settings)
    children = probed_checkpoints(run.zoo)
    return pd.DataFrame(beside(_aligned(own, run.zoo, children), run, chosen, name=OWN))


def _settings(changes: dict[str, Any]) -> Settings:
    """The settings of configs/probe.yaml with some changes, without what takes images."""
    defaults = stored("probe.yaml")
    known = {name: defaults[name] for name in Settings.__dataclass_fields__}
    if odd := sorted(set(changes) - set(known)):
        raise InputError(f"evaluate has no setting '{odd[0]}'; it has {', '.join(known)}")
    return Settings(**{**known, **changes, "noise_ceiling_checkpoints": 0, "n_permutations": 0})


def _aligned(features: np.ndarray | pd.DataFrame, zoo: Zoo, children: Zoo) -> Float[np.ndarray, "N F"]:
    """Returns the features of the checkpoints that are probed, in their order."""
    if isinstance(features, pd.DataFrame):
        if {"model", "epoch"} <= {*features.columns}:
            return _by_name(features, children)
        if not features.index.equals(pd.RangeIndex(len(features))):
            raise InputError(
                "the index of the DataFrame is not 0, 1, 2 ..., so its order is unclear; add the columns model and epoch of "
                "run.zoo.frame, or call reset_index(drop=True) if the rows are in the order of run.zoo"
            )
    values = _numbers(features)
    if len(values) == len(zoo):
        return values[zoo.frame["path"].isin(children.frame["path"].tolist()).to_numpy()]
    if len(values) != len(children):
        raise InputError(
            f"the features have {counted(len(values), 'row')}; pass one for each of the {counted(len(zoo), 'checkpoint')} of "
            "run.zoo, in its order: X = np.stack([my_features(checkpoint) for checkpoint in run.zoo]). Or pass only those of the "
            f"{len(children)} that are probed: fine-tuned, and not diverged"
        )
    return values


def _by_name(features: pd.DataFrame, children: Zoo) -> Float[np.ndarray, "N F"]:
    """Returns the features of checkpoints by model and epoch."""
    keyed = features.set_index(["model", "epoch"])
    wanted = pd.MultiIndex.from_frame(children.frame[["model", "epoch"]])
    if not keyed.index.is_unique:
        raise InputError(f"the features have two rows of {keyed.index[keyed.index.duplicated()][0]}; keep one of each checkpoint")
    if len(lacking := wanted[~wanted.isin(keyed.index)]):
        raise InputError(
            f"the features lack {len(lacking)} of {counted(len(wanted), 'checkpoint')}, such as {lacking[0]}; add their rows"
        )
    return _numbers(keyed.loc[wanted])


def _numbers(features: np.ndarray | pd.DataFrame) -> Float[np.ndarray, "N F"]:
    """Returns features as numbers. Raises `InputError` for anything else."""
    try:
        values = np.asarray(features, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"the features are no numbers ({error}); leave out columns of text") from error
    if values.ndim != 2 or not values.shape[1]:
        raise InputError(f"the features have the shape {values.shape}, not (checkpoints, features); one feature is X[:, None]")
    return values
