"""Side information: what is known of a checkpoint's body beside its latents, as tokens in the place of its own.

A token has three channels of its own width, one after the other, each a change of the body in the tokenizer's form, scaled to a
mean square of 1 in each group:

- `root`: the root's own weights, as weight decay moves a body along them;
- `sgd`, `adamw`: where short fine-tunings of the root under the checkpoint's head go (`wsl.data.rehearsal`).

Zeros stand where a channel is not known: without a root, without images, without rehearsals; and at tensors that a root does not
have, heads above all. Coding with side information at the decoder: Wyner and Ziv, 1976.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wsl.data.logits import lack_to_run
from wsl.data.pairs import ROOTS_KEPT
from wsl.data.rehearsal import AT_ONCE, Rehearsal
from wsl.data.sources import FileSource
from wsl.data.standardizer import Standardizer
from wsl.tokenizers.plan import Plan
from wsl.tokenizers.tokens import Tokenizer
from zoo_gen import Zoo
from zoo_gen.architecture import skeleton
from zoo_gen.errors import InputError
from zoo_gen.images import ImageSplit
from zoo_gen.stack import ModelStack
from zoo_gen.threads import pieces

CHANNELS = ("root", "sgd", "adamw")

FAINT = 1e-12
"""Mean squares of a channel in a group below this are none."""

State = Mapping[str, Tensor]


class SideInformation:
    """Finds side information of checkpoints of a zoo.

    Args:
        tokenizer, standardizer: of the checkpoints' tokens.
        rehearsal: its recipe.
        zoo: whose images and architectures rehearsals need; None: no rehearsals.
    """

    def __init__(self, tokenizer: Tokenizer, standardizer: Standardizer, rehearsal: Rehearsal, *, zoo: Zoo | None):
        self.tokenizer, self.standardizer, self.rehearsal, self.zoo = tokenizer, standardizer, rehearsal, zoo
        self._roots: dict[tuple[int, int], tuple[Plan, State, Tensor]] = {}  # by identity: both are kept beside it

    def roots(self, plan: Plan, weights: State, root: State | None) -> Float[Tensor, "T CD"]:
        """Returns what is known without a rehearsal, given any weights of the plan; read only, and the same for all of a root."""
        shape = plan.n_tokens, len(CHANNELS) * plan.width
        if root is None or not self._differs(plan):
            return torch.zeros(1, 1).expand(shape)
        if (kept := self._roots.get((id(plan), id(root)))) is not None:
            return kept[2]
        doubled = {name: 2 * root[name] if name in body_of(plan) else tensor for name, tensor in weights.items()}
        found = torch.zeros(shape)
        found[:, : plan.width] = self._channel(plan, doubled, root)
        self._roots[id(plan), id(root)] = plan, root, found
        for old in list(self._roots)[:-ROOTS_KEPT]:
            self._roots.pop(old, None)  # or another thread has
        return found

    def all(self, plan: Plan, heads: Sequence[State], roots: Sequence[State | None]) -> list[Float[Tensor, "T CD"]]:
        """Returns the side information of checkpoints of one plan, of whose weights only the heads are read, given their roots."""
        found = [self.roots(plan, weights, root) for weights, root in zip(heads, roots, strict=True)]
        known = [root for root in roots if root is not None]
        if len(known) < len(roots) or self.images is None or not self.rehearses(plan):
            return found
        body = body_of(plan)
        starts = [
            {name: root[name] if name in body else tensor for name, tensor in weights.items()}
            for weights, root in zip(heads, known, strict=True)
        ]
        fixed = frozenset(starts[0]) - body
        found = [side.clone() for side in found]
        moves = self.rehearsal.changes(self.architectures[plan], starts, fixed, self.images)
        for side, start, changes, root in zip(found, starts, moves, known, strict=True):
            for channel, change in enumerate(changes, start=1):
                moved = {name: tensor + change[name] if name in body else tensor for name, tensor in start.items()}
                side[:, channel * plan.width : (channel + 1) * plan.width] = self._channel(plan, moved, root)
        return found

    def rehearses(self, plan: Plan) -> bool:
        """Tells whether checkpoints of a plan are rehearsed where their roots are known."""
        return self.images is not None and self._differs(plan) and plan in self.architectures

    def without_zoo(self) -> "SideInformation":
        """Returns what finds the same and holds of the zoo its train images and architectures alone."""
        found = SideInformation(self.tokenizer, self.standardizer, self.rehearsal, zoo=None)
        found.images, found.architectures = self.images, self.architectures
        return found

    @cached_property
    def images(self) -> ImageSplit | None:
        """The images of rehearsals; None where there are none."""
        if self.zoo is None or self.rehearsal.steps == 0 or self.tokenizer.reference == "none" or lack_to_run(self.zoo):
            return None
        return self.zoo.images("finetune").train

    @cached_property
    def architectures(self) -> dict[Plan, dict[str, Any]]:
        """Architectures by plan, of models that a stack runs and that have the images' classes: others are not rehearsed."""
        found: dict[Plan, dict[str, Any]] = {}
        if self.images is None or self.zoo is None:
            return found
        children, classes = self.zoo.select(stage="finetune", final=True), int(self.images.labels.max()) + 1
        for checkpoint in children.select(path=children.frame.drop_duplicates(["root", "config_sha256"])["path"].tolist()):
            root = self.zoo.root(checkpoint)
            if root is not None:
                plan = self.tokenizer.plan(checkpoint.state_dict(), root=root.state_dict())
                described = checkpoint.architecture
                if plan not in found and described["num_classes"] >= classes and _stackable(described):
                    found[plan] = described
        return found

    def _differs(self, plan: Plan) -> bool:
        return self.tokenizer.linear and any(plan.differences)

    def _channel(self, plan: Plan, weights: State, root: State) -> Float[Tensor, "T D"]:
        """Tokens of a change of the body, of mean square 1 in each group; zeros in tensors that are no differences."""
        change = self.standardizer.in_deviations(self.tokenizer.encode(weights, root=root)).where(changing(plan), 0)
        for group in plan.groups:
            own = change[group.start : group.stop]
            mean = own.square().mean()
            own *= mean.rsqrt() if mean > FAINT else 0
        return change


class SourceSides:
    """Side information of checkpoints in files, by number: found for whole stacks of them, and kept.

    Args:
        sources: the checkpoints.
        finders: what finds the side information of each.
    """

    def __init__(self, sources: Sequence[FileSource], finders: Sequence[SideInformation]):
        self._sources, self._finders = sources, finders
        self._kept: dict[int, Tensor] = {}
        self._roots: dict[Path, State] = {}

    def __getitem__(self, number: int) -> Float[Tensor, "T CD"]:
        if number not in self._kept:
            self.find([number])
        return self._kept[number]

    def stacks(self) -> list[list[int]]:
        """Returns the numbers of all checkpoints, by those whose side information is best found together."""
        alike: dict[tuple[Plan, int], list[int]] = {}
        for number, source in enumerate(self._sources):
            alike.setdefault((source.plan, id(self._finders[number])), []).append(number)
        return [every[some] for every in alike.values() for some in pieces(len(every), AT_ONCE)]

    def find(self, numbers: Sequence[int]) -> None:
        """Finds the side information of some checkpoints of one of the `stacks`."""
        some = [self._sources[number] for number in numbers]
        heads = [source.checkpoint.state_dict() for source in some]
        found = self._finders[numbers[0]].all(some[0].plan, heads, [self._root(source) for source in some])
        self._kept.update(zip(numbers, found, strict=True))

    def _root(self, source: FileSource) -> State | None:
        if source.root is None:
            return None
        if (kept := self._roots.get(source.root.path)) is not None:
            return kept
        self._roots[source.root.path] = found = source.root.state_dict()
        for old in list(self._roots)[:-ROOTS_KEPT]:
            self._roots.pop(old, None)
        return found


def body_of(plan: Plan) -> frozenset[str]:
    """Returns the names of the tensors that tokens hold as differences to the root."""
    return frozenset(slot.name for (i, slot) in plan.tensors if plan.differences[i])


def changing(plan: Plan) -> Bool[Tensor, "T D"]:
    """Returns where tokens hold differences to the root."""
    differs = torch.tensor([*(plan.differences[segment.slot] for segment in plan.parts), False])
    return differs[plan.part_of.long()]


def _stackable(architecture: Mapping[str, Any]) -> bool:
    try:
        ModelStack(skeleton(architecture), 1)
    except InputError:
        return False
    return True
