"""Merging: weighted means of models after alignment, within the family of a root and across roots.

The first model of each group stays where it is, the others are aligned to it by the whole symmetry group
(`wsl.symmetry.alignment`), and

    merged = sum of share * aligned model,    shares that sum to 1.

Two models are an interpolation. Permutations before the mean: Ainsworth et al., "Git Re-Basin", arXiv 2209.04836; rotations and
maps of heads: Theus et al., arXiv 2506.22712; means of fine-tuned models: Wortsman et al., "Model soups", arXiv 2203.05482.
"""

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wsl.layout.slots import Layout
from wsl.operations.models import Advance, State, check_states, on_all_cores, size_of, slices
from wsl.symmetry.alignment import align
from wsl.symmetry.group import MOVES, check_moves
from wsl.symmetry.stacks import stack, unstack
from zoo_gen.errors import InputError
from zoo_gen.wording import counted

Pair = tuple[str, str]
"""Hashes of a model that stays and of one that is aligned to it."""


def merge(
    groups: Sequence[Sequence[State]],
    shares: Sequence[Sequence[float]],
    layout: Layout,
    *,
    moves: Collection[str] | None = None,
    advance: Advance = lambda done: None,
) -> list[dict[str, Tensor]]:
    """Merges each group of models into one.

    Args:
        groups: K groups, each of one or more models; their first models stay where they are.
        shares: of each model of each group, which sum to 1 in a group; negative ones extrapolate.
        layout: of all models, with the number of heads.
        moves: symmetries that models are aligned by (`wsl.symmetry.group.MOVES`); None for all, an empty list for no alignment.
        advance: is called with the number of pairs that were aligned. Equal pairs are aligned once.

    Returns:
        K state dicts, in the number formats of the first models of the groups.

    Raises:
        InputError: groups and shares do not fit each other, models are of different shapes or not finite, or a move is unknown.
    """
    _check(groups, shares)
    moves = MOVES if moves is None else moves
    check_moves(moves)
    known = {id(one): _content(one) for group in groups for one in group}
    pairs: dict[Pair, tuple[State, State]] = {}
    for group in groups:
        pairs |= {(known[id(group[0])], known[id(one)]): (group[0], one) for one in group}
    moving = {pair: states for pair, states in pairs.items() if moves and pair[0] != pair[1]}
    aligned = dict(zip(moving, _aligned([*moving.values()], layout, moves, advance), strict=True))
    merged = []
    for group, share in zip(groups, shares, strict=True):
        parts = [aligned.get((known[id(group[0])], known[id(one)]), one) for one in group]
        merged.append({name: _mean([part[name] for part in parts], share).to(tensor.dtype) for name, tensor in group[0].items()})
    return merged


def interpolate(
    states: Sequence[State],
    others: Sequence[State],
    share: float,
    layout: Layout,
    *,
    moves: Collection[str] | None = None,
    advance: Advance = lambda done: None,
) -> list[dict[str, Tensor]]:
    """Interpolates K models and K others, one by one, after the others are aligned to them.

    Args:
        states: models that stay where they are.
        others: models that are aligned to them.
        share: of the other model; 0 is the first one, 1 the other, aligned. Below 0 and above 1 it extrapolates.
        layout, moves, advance: see `merge`.

    Returns:
        K state dicts. Raises `InputError` as `merge` does.
    """
    if len(states) != len(others):
        raise InputError(f"{counted(len(states), 'model')} cannot be interpolated with {len(others)}; pass as many of both")
    pairs = [*zip(states, others, strict=True)]
    return merge(pairs, [(1 - share, share)] * len(pairs), layout, moves=moves, advance=advance)


@dataclass(frozen=True, kw_only=True)
class Merging:
    """The card of `merge`.

    Attributes:
        moves: see `merge`.
    """

    moves: Collection[str] | None

    def __post_init__(self) -> None:
        """Raises `InputError` for moves that are none."""
        check_moves(MOVES if self.moves is None else self.moves)

    def __call__(
        self,
        groups: Sequence[Sequence[State]],
        shares: Sequence[Sequence[float]],
        layout: Layout,
        *,
        advance: Advance = lambda done: None,
    ) -> list[dict[str, Tensor]]:
        """Merges each group of models into one: see `merge`."""
        return merge(groups, shares, layout, moves=self.moves, advance=advance)


@dataclass(frozen=True, kw_only=True)
class Interpolation:
    """The card of `interpolate`.

    Attributes:
        share, moves: see `interpolate`.
    """

    share: float
    moves: Collection[str] | None

    def __post_init__(self) -> None:
        """Raises `InputError` for a share that is no finite number, and for moves that are none."""
        check_moves(MOVES if self.moves is None else self.moves)
        if not math.isfinite(self.share):
            raise InputError(f"the share of an interpolation is {self.share}; choose a finite number, 0.5 for the middle")

    def __call__(
        self, states: Sequence[State], others: Sequence[State], layout: Layout, *, advance: Advance = lambda done: None
    ) -> list[dict[str, Tensor]]:
        """Interpolates models and others that are aligned to them: see `interpolate`."""
        return interpolate(states, others, self.share, layout, moves=self.moves, advance=advance)


def _check(groups: Sequence[Sequence[State]], shares: Sequence[Sequence[float]]) -> None:
    if len(groups) != len(shares):
        raise InputError(f"{counted(len(groups), 'group')} of models cannot be merged by shares of {len(shares)}; pass one each")
    for number, (group, share) in enumerate(zip(groups, shares, strict=True)):
        if not group or len(group) != len(share):
            raise InputError(f"group {number} has {counted(len(group), 'model')} and {counted(len(share), 'share')}; pass one each")
        if not abs(sum(share) - 1) < 1e-6:
            raise InputError(f"the shares of group {number} sum to {sum(share):g}, not to 1; divide them by their sum")
    every = {id(one): one for group in groups for one in group}
    shapes = {name: tensor.shape for name, tensor in groups[0][0].items()} if groups else {}
    check_states([*every.values()], shapes)


def _content(state: State) -> str:
    """A hash of a model's weights and their number formats."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(state):
        digest.update(f"{name} {state[name].dtype}".encode())
        digest.update(state[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _aligned(
    pairs: Sequence[tuple[State, State]], layout: Layout, moves: Collection[str], advance: Advance
) -> list[Mapping[str, Tensor]]:
    """The second models of pairs, each aligned to the first."""

    def work(some: slice) -> list[Mapping[str, Tensor]]:
        to, others = (stack([pair[side] for pair in pairs[some]]) for side in (0, 1))
        found = unstack(align(others, layout, to=to, moves=moves).weights)
        advance(len(found))
        return [{n: t.to(other[n].dtype) for n, t in one.items()} for one, (_, other) in zip(found, pairs[some], strict=True)]

    if not pairs:
        return []
    return [one for found in on_all_cores(work, slices(len(pairs), size_of(pairs[0][0]))) for one in found]


def _mean(tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """The weighted mean, in float64."""
    return torch.stack([tensor.double() * share for tensor, share in zip(tensors, shares, strict=True)]).sum(0)
