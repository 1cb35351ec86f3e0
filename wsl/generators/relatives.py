"""Relatives: what judges know of families and samplers do not: earlier epochs of train models, and held-out models."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from wsl.generators.family import family_key
from wsl.run import Run
from zoo_gen import Checkpoint, Zoo

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Relatives:
    """What judges know of a family and samplers do not.

    Attributes:
        earlier: epochs of its train models before the final ones.
        models: the number of the train model that each of these is of.
        held_out: val and test models of the family's root and shape, at their final epochs.
    """

    earlier: Sequence[State] = ()
    models: Sequence[int] = ()
    held_out: Sequence[State] = ()


class Stored(Sequence[State]):
    """State dicts that are read when they are needed."""

    def __init__(self, checkpoints: Sequence[Checkpoint]):
        self._checkpoints = checkpoints

    def __len__(self) -> int:
        return len(self._checkpoints)

    def __getitem__(self, index: Any) -> Any:
        return Stored(self._checkpoints[index]) if isinstance(index, slice) else self._checkpoints[index].state_dict()


def relatives_of(run: Run) -> list[Relatives]:
    """Returns the relatives of each family of a run, in the order of `families_of`; diverged models are left out."""
    finals, place = _by_family(run.split.train), {}
    for key, models in finals.items():
        place |= {checkpoint.model: (key, number) for number, checkpoint in enumerate(models)}
    earlier = defaultdict(list)
    for checkpoint in run.split.train.where(~run.split.train.frame["final"].astype(bool)):
        if checkpoint.model in place:
            key, number = place[checkpoint.model]
            earlier[key].append((checkpoint, number))
    unseen = [_by_family(part) for part in (run.split.val, run.split.test)]
    found = []
    for key in finals:
        epochs, numbers = ([pair[i] for pair in earlier[key]] for i in (0, 1))
        held_out = [checkpoint for part in unseen for checkpoint in part.get(key, [])]
        found.append(Relatives(Stored(epochs), numbers, Stored(held_out)))
    return found


def _by_family(part: Zoo) -> dict[tuple, list[Checkpoint]]:
    groups = defaultdict(list)
    for checkpoint in part.select(final=True, status="ok"):
        groups[family_key(checkpoint)].append(checkpoint)
    return dict(groups)
