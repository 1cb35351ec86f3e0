"""Relatives: what judges know of families and samplers do not: earlier epochs of train models, and held-out models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from zoo_gen import Checkpoint

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


class OnDisk(Sequence[State]):
    """State dicts that are read when they are needed."""

    def __init__(self, checkpoints: Sequence[Checkpoint]):
        self._checkpoints = checkpoints

    def __len__(self) -> int:
        return len(self._checkpoints)

    def __getitem__(self, index: Any) -> Any:
        return OnDisk(self._checkpoints[index]) if isinstance(index, slice) else self._checkpoints[index].state_dict()
