"""Reading what was found: each file becomes a checkpoint with hashes and an architecture, or a row that says why it does not."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import filter as matching
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo_gen.adoption.description import architecture_of, base_of_card, config_of, is_transformers_vit
from zoo_gen.adoption.scan import Found, LeftOut
from zoo_gen.adoption.write import AdoptedCheckpoint
from zoo_gen.errors import InputError
from zoo_gen.files import weights_sha256
from zoo_gen.finite import all_finite
from zoo_gen.formats.checkpoint import ADAPTER, read_checkpoint
from zoo_gen.formats.transformers_vit import LEFT_OUT
from zoo_gen.reader import read_json, shortened
from zoo_gen.reference import Reference

ALIKE = 0.5
"""Share of names that two models of one family have in common (of all that either has), numbers and heads aside."""

HALF = (torch.float16, torch.bfloat16)
SOME = 64
"""Numbers of a tensor that are compared first, about."""

_HEAD = re.compile(r"(head|head_dist|classifier|fc|pre_logits|pooler|fc_norm)(\..*)?")


@dataclass(frozen=True)
class Read:
    """A checkpoint that was read.

    Attributes:
        found: where.
        checkpoint: its hashes; its epoch is not settled.
        architecture: the config.json it gets.
        base: the name of the model it was made of, as its model card or adapter tells; None where none does.
        pattern: names of its tensors, with `#` for numbers, without the head.
        is_finite: whether all its weights are.
        sketches: a hash of some of its weights rounded to each format of half precision.
        halves: number of tensors of each of these formats.
    """

    found: Found
    checkpoint: AdoptedCheckpoint
    architecture: Mapping[str, Any]
    base: str | None
    pattern: frozenset[str]
    is_finite: bool
    sketches: Mapping[torch.dtype, str]
    halves: Mapping[torch.dtype, int]


class Names:
    """What was found, by the names that people call it: path (with and without suffix), its last part, model, hub name."""

    def __init__(self, found: Iterable[Found]):
        self._by_name: dict[str, list[Found]] = {}
        for one in found:
            for name in dict.fromkeys(_names(one)):
                self._by_name.setdefault(name, []).append(one)

    def all(self, name: str) -> list[Found]:
        """Returns all that is called so, and only what lies there if it is a whole path."""
        text = name.strip().removeprefix("./").rstrip("/")
        called = self._by_name.get(text) or self._by_name.get(os.path.abspath(text)) or []
        return [one for one in called if one.name == text] or called


def _names(one: Found) -> Iterable[str]:
    stem = re.sub(r"(\.pth\.tar|\.pt\.tar|\.safetensors|\.pth|\.pt|\.bin|\.ckpt)$", "", one.name)
    yield from (one.name, stem, one.name.rpartition("/")[2], stem.rpartition("/")[2], one.model, str(one.path))
    for owner, name in re.findall(r"models--([^/]+?)--([^/]+)", str(one.path))[-1:]:
        yield from (f"{owner}/{name}", name, f"models--{owner}--{name}")
    if one.config != one.path and one.word:
        yield one.config.name


def read_found(
    one: Found, names: Names, given: Mapping[str, Any] | None, *, root: Found | None, options: Mapping[str, Any]
) -> Read:
    """Reads a file or folder of weights.

    Args:
        one: where.
        names: all that was found, which the base of an adapter is looked for in; it is never looked for elsewhere.
        given: the architecture that the user names, None for none.
        root: what the user names as the root, the base of adapters whose own is not found; None for none.
        options: `prefix` and `leave_out`, as `zoo_gen.formats.checkpoint.read_checkpoint` takes them; `names` of
            `zoo_gen.reference.Reference`.

    Raises:
        InputError: it cannot be read, or does not fit the architecture.
    """
    base, told = None, base_of_card(one.config)
    config = config_of(one.config)
    if one.is_adapter:
        named = read_json(one.path / ADAPTER, advice="fetch it again").get("base_model_name_or_path")
        told = told or (named if isinstance(named, str) else None)
        base = _base(one, [name for name in (named, told) if isinstance(name, str)], names, root)
        config = config_of(base.config)
        told = base.name
    if is_transformers_vit(config):
        try:
            return _read(one, base, told, config, given, {**options, "leave_out": (*options["leave_out"], *LEFT_OUT)}, "timm")
        except InputError:
            pass  # it is none that timm has
    return _read(one, base, told, config, given, options, options.get("names"))


def _read(
    one: Found,
    base: Found | None,
    told: str | None,
    config: Mapping[str, Any] | None,
    given: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    names: str | None,
) -> Read:
    at, prefix, patterns = None if base is None else base.path, options["prefix"], options["leave_out"]
    if patterns:  # those that this checkpoint has
        there = read_checkpoint(one.path, base=at, prefix=prefix)
        patterns = tuple(pattern for pattern in patterns if matching(there, pattern))
    reference = Reference(one.path, at, prefix, patterns, names).sealed()
    tensors = reference.tensors()
    checkpoint = AdoptedCheckpoint(1, reference, weights_sha256(tensors))
    if not tensors:
        raise InputError("it holds no tensors")
    described = architecture_of(config, given, tensors)
    if names == "timm" and described["architecture"] is None:
        raise InputError("timm has no model of these shapes")
    pattern = frozenset(re.sub(r"\d+", "#", name) for name in tensors if not _HEAD.fullmatch(name))
    is_finite = all_finite(tensors.values())
    sketches = {dtype: sketch(tensors, dtype) for dtype in HALF}
    halves = {dtype: sum(tensor.dtype is dtype for tensor in tensors.values()) for dtype in HALF}
    return Read(one, checkpoint, described, told, pattern, is_finite, sketches, halves)


def sketch(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> str:
    """Returns a hash of some numbers of each tensor, evenly spaced, rounded to a format of fewer bits."""
    some = {name: tensor.reshape(-1)[:: max(1, tensor.numel() // SOME)].to(dtype) for name, tensor in tensors.items()}
    return weights_sha256(some)


def _base(one: Found, called: list[str], names: Names, root: Found | None) -> Found:
    """Returns what an adapter is merged into: what is called so in the folder, or else the root that the user names."""
    for name in called:
        there = [other for other in (names.all(name) or names.all(name.rpartition("/")[2])) if not other.is_adapter]
        if len(there) == 1:
            return there[0]
    if root is None or root == one:
        shown = shortened(called[0]) if called else "(none named)"
        raise InputError(f"it is an adapter of the model {shown}, which is not in the folder; put it there, or name it by root=")
    return root


def of_one_family(read: list[Read], report: Callable[[LeftOut], None]) -> list[Read]:
    """Returns the models of the family that most are of, and reports the others."""
    if not read:
        return []
    counts = Counter(one.pattern for one in read)
    most = max(
        counts, key=lambda pattern: (sum(count for other, count in counts.items() if _alike(pattern, other)), sorted(pattern))
    )
    for one in read:
        if not _alike(one.pattern, most):
            odd, usual = min(one.pattern - most, default="(none)"), min(most - one.pattern, default="(none)")
            report(
                LeftOut(
                    one.found.name,
                    f"it is of another family: it has {shortened(odd)}, most have {shortened(usual)}; adopt it apart",
                )
            )
    return [one for one in read if _alike(one.pattern, most)]


def _alike(one: frozenset[str], other: frozenset[str]) -> bool:
    return len(one & other) >= ALIKE * len(one | other)


def place_of(name: str, folder: Path) -> Path | None:
    """Returns the file or folder that a user's text names, absolute or relative to the folder or to where we are; None for none."""
    for place in (folder / name, Path(name)):
        try:
            if place.exists():
                return place
        except OSError:
            continue
    return None
