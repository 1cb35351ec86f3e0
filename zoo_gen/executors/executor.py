"""The executor protocol: who trains the stacks of a zoo."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol


class Executor(Protocol):
    """Something that trains stacks, here or elsewhere."""

    def run(self, zoo: Path, stacks: Sequence[str]) -> Iterator[str]:
        """Trains stacks of the zoo by `zoo_gen.generate.train_stack`; yields the name of each as it finishes.

        Raises what the training raised, after the others have been stopped.
        """
        ...
