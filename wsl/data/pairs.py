"""Checkpoints with the roots that they descend from."""

from collections.abc import Iterator

from zoo_gen import Checkpoint, Zoo


def pairs_of(zoo: Zoo) -> Iterator[tuple[Checkpoint, Checkpoint]]:
    """Each checkpoint of a zoo with the root that it descends from."""
    roots: dict[str, Checkpoint] = {}
    for checkpoint in zoo:
        if checkpoint.root not in roots:
            roots[checkpoint.root] = zoo.root(checkpoint)
        yield checkpoint, roots[checkpoint.root]


def roots_of(zoo: Zoo) -> list[Checkpoint]:
    """The roots that checkpoints of a zoo descend from, in the order of their names."""
    return [zoo.final(name) for name in sorted(set(zoo.select(stage="finetune").frame["root"]))]
