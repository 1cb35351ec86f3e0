"""The zoo on disk: a folder of checkpoints with an index (docs/zoo_format.md). This file reads; `writer.py` writes."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any, overload

import numpy as np
import pandas as pd

from zoo_gen.checkpoint import Checkpoint
from zoo_gen.config import CONFIGS, instantiate
from zoo_gen.content import content_hash, is_adopted, is_guarded, read_description, say_unguarded
from zoo_gen.errors import InputError
from zoo_gen.foreign import as_foreign
from zoo_gen.images import Images
from zoo_gen.index import ALL_FACTORS, RESULTS, own_columns, plain, read_index
from zoo_gen.reader import ZOO_ADVICE, Places, inside, shortened
from zoo_gen.remote import is_remote, zoo_at
from zoo_gen.splits import Split, split_models
from zoo_gen.wording import counted, values_there, written

_IDENTITY = ("model", "root", "parent", "stage", "epoch", "final", "status", "fold")
_ALWAYS = {"stage": ("pretrain", "finetune"), "status": ("ok", "diverged"), "final": (True, False)}
"""Values that any zoo may be selected by: one without a diverged model has no fault."""


class Zoo:
    """A population of checkpoints in a folder, or a selection of them.

    Attributes:
        path: of the folder.
        config: resolved configuration that made the zoo, from `zoo.json`.
        frame: one row per checkpoint.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], frame: pd.DataFrame, whole: "Zoo | None" = None):
        """Use `Zoo.open`; `whole` is the zoo that this is a selection of."""
        self.path, self.config, self.frame = path, config, frame
        self._whole: Zoo = self if whole is None else whole._whole
        self._finals: dict[str, Checkpoint] = {}

    @classmethod
    def open(cls, path: str | Path) -> "Zoo":
        """Opens a zoo by its folder, by its name under checkpoints/zoos, or by its URL (`s3://`, `hf://`, `https://` ...).

        Raises `InputError` for a folder that is missing, is no zoo, has a newer format, or has a damaged index, and for a server
        that does not answer.
        """
        folder = zoo_folder(path)
        if not (folder / "zoo.json").is_file():
            raise InputError(f"zoo '{folder.name}' not found at {folder.resolve()}; {_how_to_make(folder.name)}")
        config = read_description(folder)
        if not (folder / "index.parquet").exists():
            raise InputError(f"zoo {folder} has no checkpoints yet; finish it by running python -m zoo_gen with the same arguments")
        if not is_guarded(config):
            say_unguarded(folder)
        return cls(folder, config, read_index(inside(folder, "index.parquet"), folder, adopted=is_adopted(config)))

    @property
    def name(self) -> str:
        """The zoo's name, as in its configuration."""
        return str(self.config["name"])

    @property
    def seed(self) -> int:
        """The seed that all streams of the zoo come from."""
        return int(self.config["seed"])

    @property
    def adopted(self) -> bool:
        """Whether the models were trained elsewhere: images, roots and results may be missing, and weights lie where they lay."""
        return is_adopted(self.config)

    @property
    def complete(self) -> bool:
        """Whether every planned model has been trained to its end."""
        return int(self._whole.frame["final"].sum()) == int(self.config["models"])

    def select(self, **conditions: Any) -> "Zoo":
        """Returns the zoo of rows that meet every condition: a scalar means equality, a list membership.

        A range may hold more than there is; None asks for missing values. A value of the zoo that is not in this selection selects
        nothing.

        Raises `InputError` for a column that does not exist, for a value that no checkpoint of the zoo has, and for a function:
        `where` has other conditions.
        """
        frame = self.frame
        for column, wanted in conditions.items():
            if column not in frame:
                raise InputError(f"a zoo has no column '{column}'; it has {', '.join(map(str, frame.columns))}")
            if callable(wanted) or isinstance(wanted, slice):
                raise InputError(
                    f"{column}= takes a value or a list of values; other conditions are for where: "
                    f"zoo.where(zoo.frame['{column}'] > 3)"
                )
            values = pd.Series(list(wanted) if pd.api.types.is_list_like(wanted) else [wanted], dtype=object)
            known = values.dropna()
            if not isinstance(wanted, range):
                self._refuse_unknown(column, known)
            missing = frame[column].isna() & (len(known) < len(values))
            frame = frame[frame[column].isin(known.tolist()) | missing]
        return self._of(frame)

    def _refuse_unknown(self, column: str, values: pd.Series) -> None:
        """Raises `InputError` for a value that no checkpoint of the whole zoo has in a column."""
        there = self._whole.frame[column].dropna().unique()
        odd = values[~values.isin([*there, *_ALWAYS.get(column, ())])].tolist()
        if odd:
            has = f"values are {values_there(there, odd[0])}" if len(there) else "it has no value of it at all"
            raise InputError(f"no checkpoint of zoo {self.path} has {column} {written(odd[0])}; {has}")

    def where(self, mask: Sequence[bool] | np.ndarray | pd.Series) -> "Zoo":
        """Returns the zoo of rows that a mask marks, one boolean for each row of `frame`: `zoo.where(zoo.frame["epoch"] > 3)`.

        Missing values (`<NA>`, as comparisons of the fold of a root have them) mark no row.

        Raises `InputError` for anything but booleans, and for another number or order of rows than that of `frame`.
        """
        try:
            marks = mask if isinstance(mask, pd.Series) else pd.Series(mask)
        except (TypeError, ValueError) as error:
            raise InputError(f"where takes one boolean for each row ({error}): zoo.where(zoo.frame['epoch'] > 3)") from error
        if not pd.api.types.is_bool_dtype(marks) and len(marks):
            raise InputError(f"where takes booleans, not {marks.dtype}: zoo.where(zoo.frame['epoch'] > 3)")
        if not marks.index.equals(self.frame.index):
            raise InputError(
                f"the mask has {counted(len(marks), 'row')}, or another order of rows, than the {len(self)} of this zoo; make it "
                "of its own frame: zoo.where(zoo.frame['epoch'] > 3)"
            )
        return self._of(self.frame[marks.fillna(False).to_numpy(dtype=bool)])

    def _of(self, frame: pd.DataFrame) -> "Zoo":
        """Returns the zoo of some rows."""
        return Zoo(self.path, self.config, frame.reset_index(drop=True), self._whole)

    def split(self, scheme: str, *, fold: int) -> Split["Zoo"]:
        """Splits the fine-tuned models; all epochs of a model stay together. Roots are in no part.

        By `leave_root_out`, models of unknown root are in no part either: they could be of the tested one.

        Args:
            scheme: `by_model` (5 folds stratified by root) or `leave_root_out` (a root with all its descendants).
            fold: which part is the test set; the next one is the validation set.

        Raises `InputError` if there is no such split, or if it would have one model, or equal weights, in two parts.
        """
        children = self.select(stage="finetune")
        parts = split_models(children.frame, scheme, fold=fold)
        return Split(*(children.select(model=list(models)) for models in parts))

    def root(self, checkpoint: Checkpoint) -> Checkpoint | None:
        """Returns the final checkpoint of the root that a checkpoint descends from; None where nobody knows."""
        return None if checkpoint.root is None else self.final(checkpoint.root)

    def final(self, model: str) -> Checkpoint:
        """Returns a model's final checkpoint, also if this selection does not hold it."""
        whole = self._whole
        if model not in whole._finals:
            if model not in whole._final_rows:
                raise InputError(
                    f"zoo {self.path} has no finished model '{model}'; finish the zoo by running python -m zoo_gen again"
                )
            whole._finals[model] = whole[whole._final_rows[model]]
        return whole._finals[model]

    @cached_property
    def _final_rows(self) -> dict[str, int]:
        """The row of each model's final checkpoint, the first one if there are several."""
        rows = self.frame["final"].to_numpy(dtype=bool).nonzero()[0][::-1].tolist()
        return dict(zip(self.frame["model"].iloc[rows].tolist(), rows, strict=True))

    def images(self, stage: str) -> Images:
        """Loads the images that the models of a stage (`pretrain` or `finetune`) were trained on, with the zoo's own split.

        Runs no code and fetches nothing (`zoo_gen.foreign`). Raises `InputError` for images that are not there or not read so.
        """
        card = self.image_card(stage)
        try:
            return instantiate(as_foreign(card), group="images")
        except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError, AttributeError, OSError) as error:
            raise InputError(f"the card of images in {self.path / 'zoo.json'} does not work ({error}); {ZOO_ADVICE}") from error

    def image_card(self, stage: str) -> dict[str, Any]:
        """Returns the card of the images of a stage. Raises `InputError` where there is none."""
        card = self.config["config"].get(f"{stage}_images")
        if card is None and self.adopted:
            raise InputError(
                f"zoo {self.path} was adopted without images, so its models cannot be run; adopt it again with "
                "images=<folder, Parquet file or card> to have them"
            )
        if not isinstance(card, dict) or "_target_" not in card:
            raise InputError(f"{self.path / 'zoo.json'} has no card of images of stage '{stage}' in 'config'; {ZOO_ADVICE}")
        return card

    @cached_property
    def content_hash(self) -> str:
        """Sha256 of all that labels, splits and lineage depend on, and of the weights; see `zoo_gen.content.content_hash`."""
        return content_hash(self.frame, self.config) if self._whole is self else self._whole.content_hash

    def _checkpoints(self, frame: pd.DataFrame) -> Iterator[Checkpoint]:
        """Makes checkpoints of rows; their paths must stay inside the zoo."""
        columns, place, names = plain(frame), Places(self.path), own_columns(frame)
        identity, factors, results = (
            zip(*(columns[name] for name in names), strict=True) for names in (_IDENTITY, ALL_FACTORS, RESULTS)
        )
        own = zip(*(columns[name] for name in names), strict=True) if names else repeat(())
        for who, chosen, measured, told, name in zip(identity, factors, results, own, columns["path"]):  # noqa: B905 (without end)
            try:
                path = place(name)
            except InputError as error:
                raise InputError(f"index of zoo {self.path} points outside the zoo: {shortened(name)}; do not use it") from error
            yield Checkpoint(
                *who,
                factors=dict(zip(ALL_FACTORS, chosen, strict=True)),
                results=dict(zip(RESULTS, measured, strict=True)),
                path=path,
                columns=dict(zip(names, told, strict=True)),
            )

    def __len__(self) -> int:
        return len(self.frame)

    @overload
    def __getitem__(self, index: int) -> Checkpoint: ...
    @overload
    def __getitem__(self, index: slice) -> "Zoo": ...
    def __getitem__(self, index: int | slice) -> "Checkpoint | Zoo":
        if isinstance(index, slice):
            return self._of(self.frame.iloc[index])
        if not isinstance(index, int | np.integer):
            raise TypeError("a zoo is indexed by whole numbers and slices; other selections are select(...) and where(mask)")
        if not -len(self) <= index < len(self):
            raise IndexError(f"checkpoint {index} of a selection of {len(self)}: {self!r}; look at zoo.frame for what there is")
        return next(self._checkpoints(self.frame.iloc[[index]]))

    def __iter__(self) -> Iterator[Checkpoint]:
        return self._checkpoints(self.frame)

    def __repr__(self) -> str:
        models, place = self.frame["model"].nunique(), str(self.path)
        place = place if len(place) <= 120 else f"...{place[-117:]}"
        return f"Zoo('{place}': {counted(models, 'model')}, {counted(len(self), 'checkpoint')})"


def zoo_folder(path: str | Path) -> Path:
    """The folder of a zoo: a path that holds one or has more than one part, else a name under checkpoints/zoos.

    Of a URL it is that of its copy (`zoo_gen.remote`).
    """
    if isinstance(path, str) and is_remote(path):
        return zoo_at(path)
    given = Path(path)
    return given if (given / "zoo.json").is_file() or len(given.parts) > 1 else Path("checkpoints", "zoos", given)


def _how_to_make(name: str) -> str:
    """Says how a zoo comes to be: by the card of its name, or else by any card."""
    cards = sorted(path.stem for path in (CONFIGS / "zoo").glob("*.yaml"))
    card, _, seed = name.rpartition("-seed")
    if name in cards:
        return f"make it with: python -m zoo_gen zoo={name}"
    if card in cards and seed.isdecimal():
        return f"make it with: python -m zoo_gen zoo={card} seed={seed}"
    return (
        "name the folder of a zoo, or one under checkpoints/zoos; if it is not made yet, choose a card "
        f"({', '.join(cards)}) and a place: python -m zoo_gen zoo=<card> path=<folder>"
    )
