"""Checkpoints with the roots that they descend from; None where the root is not known."""

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

from zoo_gen import Checkpoint, Zoo

ROOTS_KEPT = 16
"""Roots whose weights are kept in memory."""

Pairs = Iterable[tuple[Mapping[str, Tensor], Mapping[str, Tensor] | None]]
"""Weights of checkpoints, each with those of its root, or with None."""


def pairs_of(zoo: Zoo) -> Iterator[tuple[Checkpoint, Checkpoint | None]]:
    """Yields each checkpoint of a zoo with the root that it descends from."""
    roots: dict[str | None, Checkpoint | None] = {None: None}
    for checkpoint in zoo:
        if checkpoint.root not in roots:
            roots[checkpoint.root] = zoo.root(checkpoint)
        yield checkpoint, roots[checkpoint.root]


def with_roots(
    pairs: Iterable[tuple[Checkpoint, Checkpoint | None]],
) -> Iterator[tuple[Checkpoint, dict[str, Tensor] | None]]:
    """Yields checkpoints with the weights of their roots; those of the last few roots stay in memory."""
    kept: dict[str, dict[str, Tensor]] = {}
    for checkpoint, root in pairs:
        if root is None:
            yield checkpoint, None
            continue
        if (key := str(root.path)) not in kept:
            if len(kept) == ROOTS_KEPT:
                kept.pop(next(iter(kept)))
            kept[key] = root.state_dict()
        yield checkpoint, kept[key]


def weights_with_roots(checkpoints: Zoo) -> Pairs:
    """Yields the weights of checkpoints of a zoo, each with those of its root."""
    return ((checkpoint.state_dict(), root) for checkpoint, root in with_roots(pairs_of(checkpoints)))


def root_weights(zoo: Zoo, checkpoint: Checkpoint) -> dict[str, Tensor] | None:
    """Returns the weights of the root of a checkpoint, None where it is not known."""
    root = zoo.root(checkpoint)
    return None if root is None else root.state_dict()


def roots_by_checkpoint(zoo: Zoo, checkpoints: Iterable[Checkpoint]) -> list[dict[str, Tensor] | None]:
    """Returns the weights of the root of each checkpoint, one object for each root; None where it is not known."""
    found: dict[str | None, dict[str, Tensor] | None] = {None: None}
    every = list(checkpoints)
    for checkpoint in every:
        if checkpoint.root not in found:
            found[checkpoint.root] = root_weights(zoo, checkpoint)
    return [found[checkpoint.root] for checkpoint in every]


def roots_of(zoo: Zoo) -> list[Checkpoint]:
    """Returns the known roots that checkpoints of a zoo descend from, in the order of their names."""
    return [zoo.final(name) for name in sorted(set(zoo.select(stage="finetune").frame["root"].dropna()))]


def rootless(zoo: Zoo) -> int:
    """Returns how many fine-tuned models of a zoo have no known root."""
    children = zoo.select(stage="finetune", final=True).frame
    return int(children["root"].isna().sum())
