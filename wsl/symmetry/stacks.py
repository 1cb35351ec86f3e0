"""Stacks: K checkpoints of one shape as one, name -> (K, *shape). Everything in this package acts on stacks."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from wsl.layout.slots import Layout
from zoo_gen.errors import InputError


def stack(state_dicts: Collection[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Stacks K checkpoints of one shape: name -> (K, *shape)."""
    first = next(iter(state_dicts))
    return {name: torch.stack([weights[name].detach() for weights in state_dicts]) for name in first}


def unstack(weights: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Takes a stack apart into its K checkpoints, as views."""
    return [{name: tensor[k] for name, tensor in weights.items()} for k in range(len(next(iter(weights.values()))))]


def check_stack(weights: Mapping[str, Tensor], layout: Layout) -> None:
    """Raises `InputError` unless the weights are a stack (K, *shape) of the tensors of a layout, with one K for all."""
    shapes = {slot.name: (*slot.shape[:-2], *slot.shape[:-3:-1]) if slot.transposed else slot.shape for slot in layout.slots}
    for names, what in ((shapes.keys() - weights.keys(), "lacks"), (weights.keys() - shapes.keys(), "has, and the layout lacks,")):
        if names:
            raise InputError(f"the stack {what} tensor {min(names)!r}; pass weights of the model that the layout is of")
    size = next(iter(weights.values())).shape[:1]
    for name, shape in shapes.items():
        found = tuple(weights[name].shape)
        if found != (*size, *shape):
            raise InputError(
                f"tensor {name!r} of the stack has shape {found}, not (K, {', '.join(map(str, shape))}) with one K for all; stack "
                "state dicts of one model, even a single one, by wsl.symmetry.stacks.stack([state_dict, ...])"
            )
    if not size or not size[0]:
        raise InputError("the stack has no checkpoint; pass at least one state dict to wsl.symmetry.stacks.stack")
