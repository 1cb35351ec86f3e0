"""Checkpoints with the roots that they descend from."""

from collections.abc import Iterable, Iterator

from torch import Tensor

from zoo_gen import Checkpoint, Zoo

ROOTS_KEPT = 16
"""Roots whose weights are kept in memory."""


def pairs_of(zoo: Zoo) -> Iterator[tuple[Checkpoint, Checkpoint]]:
    """Yields each checkpoint of a zoo with the root that it descends from."""
    roots: dict[str, Checkpoint] = {}
    for checkpoint in zoo:
        if checkpoint.root not in roots:
            roots[checkpoint.root] = zoo.root(checkpoint)
        yield checkpoint, roots[checkpoint.root]


def with_roots(pairs: Iterable[tuple[Checkpoint, Checkpoint]]) -> Iterator[tuple[Checkpoint, dict[str, Tensor]]]:
    """Yields checkpoints with the weights of their roots; those of the last few roots stay in memory."""
    kept: dict[str, dict[str, Tensor]] = {}
    for checkpoint, root in pairs:
        if (key := str(root.path)) not in kept:
            if len(kept) == ROOTS_KEPT:
                kept.pop(next(iter(kept)))
            kept[key] = root.state_dict()
        yield checkpoint, kept[key]


def roots_of(zoo: Zoo) -> list[Checkpoint]:
    """Returns the roots that checkpoints of a zoo descend from, in the order of their names."""
    return [zoo.final(name) for name in sorted(set(zoo.select(stage="finetune").frame["root"]))]
