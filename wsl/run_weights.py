"""Weights of whatever a caller has: a checkpoint of a zoo, a module, a state dict, or the path of a checkpoint of any kind."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

from torch import Tensor, nn

from wsl.data.stacks import changes, in_float32
from zoo_gen import Checkpoint, InputError
from zoo_gen.formats.checkpoint import read_checkpoint
from zoo_gen.formats.names import below, without

Weights = Mapping[str, Tensor]

Source = Checkpoint | nn.Module | Weights | str | Path
"""What has weights."""

Sources = Source | Iterable[Source]


def weights_of(
    source: Source, *, base: str | Path | None = None, prefix: str | None = None, leave_out: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Returns the weights of a source in float32; the other arguments are those of `read_checkpoint`.

    Raises `InputError` for what has no weights, or cannot be read.
    """
    if isinstance(source, str | Path):
        return in_float32(read_checkpoint(source, base=base, prefix=prefix, leave_out=leave_out))
    if isinstance(source, Checkpoint | nn.Module):
        source = source.state_dict()
    if not isinstance(source, Mapping) or not all(isinstance(tensor, Tensor) for tensor in source.values()):
        raise InputError(
            f"{type(source).__name__} has no weights; pass a checkpoint of a zoo, a module, a state dict, a path, or many of them"
        )
    weights = without(dict(source), list(leave_out))
    weights = below(weights, prefix) if prefix else weights
    return {name: tensor.detach().cpu() for name, tensor in in_float32(weights).items()}


def as_many(sources: Sources) -> list[Source]:
    """Returns sources as a list, one source as a list of one."""
    if isinstance(sources, Checkpoint | nn.Module | Mapping | str | Path):
        return [cast(Source, sources)]
    return list(sources)


def name_of(source: Source, number: int) -> str:
    """Returns how a source is called: a checkpoint by its model, a path by its name, anything else by its number."""
    if isinstance(source, Checkpoint):
        return source.model
    return Path(source).name if isinstance(source, str | Path) else str(number)


def nearest_root(weights: Weights, roots: Mapping[str, Weights]) -> tuple[str, float]:
    """Returns the name of the root that weights have changed least from, and the norm of the change over that of the root.

    The distance is infinite where no root shares most of its tensors. There must be a root.
    """
    near = {name: _distance(weights, root) for name, root in roots.items()}
    name = min(near, key=near.__getitem__)
    return name, near[name]


def _distance(weights: Weights, root: Weights) -> float:
    """Returns the norm of the change over that of the root; infinite where nothing, or not the first tensor, is shared."""
    changed = changes(weights, root)
    if len(changed) < len(root) / 2:
        return float("inf")
    size = sum(float(root[name].square().sum()) for name in changed)
    return (sum(float(change.square().sum()) for change in changed.values()) / size) ** 0.5
