"""The executor protocol."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from zoo_gen.blueprint import ModelSpec


class Executor(Protocol):
    """Something that trains stacks, here or elsewhere.

    Attributes:
        ranks: processes that share each batch of a stack.
    """

    ranks: int

    def models_at_once(self, spec: ModelSpec) -> int:
        """How many models like this one can train as one stack: what a card without `stack_size` gets."""
        ...

    def run(self, zoo: Path, stacks: Sequence[str]) -> Iterator[str]:
        """Trains stacks of the zoo, in this order, by `zoo_gen.generate.train_stack`; yields the name of each as it finishes.

        Raises what the training raised, after the others have been stopped.
        """
        ...
