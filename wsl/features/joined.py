"""Several kinds of features side by side."""

from collections.abc import Sequence, Set

import pandas as pd

from wsl.features.features import Features, Kind
from wsl.run import Run
from zoo_gen import Zoo


class Joined(Features):
    """All columns of its parts, but for parts that a zoo lacks something for.

    Args:
        parts: the kinds of features.
        kind: what they are together: `baseline` for hand-made ones, `joined` for the embedding beside them.
    """

    def __init__(self, parts: Sequence[Features], *, kind: Kind) -> None:
        self.parts, self.kind = parts, kind
        self.of_model = any(part.of_model for part in parts)
        self.reads = tuple({column: None for part in parts for column in part.reads})

    def row_name(self, card: str, model: str) -> str:
        """Returns the name of the card with that of the model in place of `embedding`."""
        return card.replace("embedding", model)

    def lack(self, zoo: Zoo) -> str:
        """Returns what a zoo lacks for the last of its parts, where it lacks something for each; see `Features.lack`."""
        lacks = [part.lack(zoo) for part in self.parts]
        return lacks[-1] if all(lacks) else ""

    def seen(self, run: Run) -> Set[str]:
        """Returns the models that any of the parts has seen."""
        return frozenset().union(*(part.seen(run) for part in self.parts))

    def extract(self, run: Run, checkpoints: Zoo) -> pd.DataFrame:
        """Returns the features of each checkpoint (N F); see `Features.extract`."""
        parts = [(i, part) for i, part in enumerate(self.parts) if not part.lack(checkpoints)]
        tables = [part.extract(run, checkpoints).add_prefix(f"{i}/") for i, part in parts]
        return pd.concat(tables, axis=1)
