"""Sources of windows: checkpoints in memory-mapped files.

A source has the plan of its tokens and the sums of its parts, which the statistics and the log-scales of its groups follow from.
Weights stay on disk until a window of them is drawn. So memory grows by a few kilobytes per checkpoint, whatever its size.
"""

import math
import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from wsl.tokenizers.plan import Plan
from wsl.tokenizers.tokens import Tokenizer
from wsl.tokenizers.window import Sums, Window, parts_of, sums_in, sums_of
from zoo_gen import Checkpoint
from zoo_gen.reader import tensors_in

MAPPED = 2**26
"""Bytes of tensors that are read from one mapping of a file, about."""

ROWS = 64
"""Checkpoints whose sums are in one block of memory."""


class Source(Protocol):
    """A checkpoint that windows of tokens are drawn from."""

    @property
    def plan(self) -> Plan:
        """The plan of its tokens."""
        ...

    @property
    def sums(self) -> Sums:
        """The sums of its parts."""
        ...

    def draw(self, window: Window) -> Float[Tensor, "T D"]:
        """Returns the values of a window."""
        ...


@dataclass(frozen=True, slots=True)
class FileSource:
    """A checkpoint and the root that it descends from, if that is known, each in its safetensors file."""

    checkpoint: Checkpoint
    root: Checkpoint | None
    tokenizer: Tokenizer
    plan: Plan
    sums: Sums

    @classmethod
    def of(cls, checkpoint: Checkpoint, root: Checkpoint | None, tokenizer: Tokenizer) -> "FileSource":
        """Reads a checkpoint once, part by part where tokens stream."""
        weights, reference = _mapped(checkpoint), None if root is None else _mapped(root)
        plan = tokenizer.plan(weights, root=reference)
        if tokenizer.local and not plan.small:
            sums = sums_of(parts_of(plan, weights, reference))
        else:
            sums = sums_in(plan, tokenizer.encode(weights, root=reference).values)
        return cls(checkpoint, root, tokenizer, plan, sums)

    def draw(self, window: Window) -> Float[Tensor, "T D"]:
        """Reads a window from the files."""
        weights, root = _mapped(self.checkpoint), None if self.root is None else _mapped(self.root)
        if self.tokenizer.local:
            return window.read(weights, root)
        return self.tokenizer.encode(weights, root=root).values[window.start : window.stop].clone()


def _mapped(checkpoint: Checkpoint) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint as views of its file, or as whoever adopted it names them."""
    return checkpoint.state_dict() if checkpoint.is_reference else MemoryMapped(checkpoint)


class MemoryMapped(Mapping[str, Tensor]):
    """The tensors of a checkpoint's file, as views of the mapped file; only pages that are read come into memory.

    Pages leave it with the mapping, which is made anew every now and then, so that a large file never is in memory as a whole.
    Raises `InputError` for a file that is missing or damaged.
    """

    def __init__(self, checkpoint: Checkpoint):
        self._path = checkpoint.path
        self._tensors = tensors_in(self._path)
        self._memory, self._given = self._mapped(), 0

    def __getitem__(self, name: str) -> Tensor:
        stored = self._tensors[name]
        if self._given > MAPPED:
            self._memory, self._given = self._mapped(), 0
        self._given += stored.stop - stored.start
        count = math.prod(stored.shape)
        if not count:
            return torch.empty(stored.shape, dtype=stored.dtype)
        return torch.frombuffer(self._memory, dtype=stored.dtype, count=count, offset=stored.start).view(stored.shape)

    def _mapped(self) -> mmap.mmap:
        with self._path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # nothing is ever written through it

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def scan(pairs: Iterable[tuple[Checkpoint, Checkpoint | None]], tokenizer: Tokenizer) -> list[FileSource]:
    """Reads checkpoints (each with its root) once, in one pass, and returns those with finite weights.

    They may be of several zoos, shapes and families. Equal plans become one object.
    """
    shared: dict[Plan, tuple[Plan, _Rows]] = {}
    found = []
    for checkpoint, root in pairs:
        source = FileSource.of(checkpoint, root, tokenizer)
        if torch.isfinite(source.sums).all():
            plan, rows = shared.setdefault(source.plan, (source.plan, _Rows()))
            found.append(replace(source, plan=plan, sums=rows.keep(source.sums)))
    return found


class _Rows:
    """Tensors of one shape, side by side in blocks: apart, each would end up between things that go, and keep their memory."""

    def __init__(self):
        self._free: Iterator[Tensor] = iter(())

    def keep(self, row: Tensor) -> Tensor:
        """Returns a copy."""
        place = next(self._free, None)
        if place is None:
            self._free = iter(row.new_empty(ROWS, *row.shape))
            place = next(self._free)
        return place.copy_(row)
