"""Models that operations take: state dicts of one architecture, checked, and worked on in stacks on all cores; and the cost."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from jaxtyping import Float
from torch import Tensor

from wsl.data.rehearsal import AT_ONCE, WEIGHTS_AT_ONCE
from zoo_gen.architecture import outline, skeleton
from zoo_gen.errors import InputError
from zoo_gen.finite import all_finite
from zoo_gen.stack import ModelStack
from zoo_gen.threads import in_threads, pieces
from zoo_gen.wording import counted

State = Mapping[str, Tensor]
Advance = Callable[[int], None]
"""Is called with a number of models, each time that so many are done."""

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What an operation costs for each of its models; costs of operations in a row add up.

    Attributes:
        gradients: gradient evaluations of the whole model, forward and backward on one batch.
        gradient_images: images in these.
        forward_images: images that the model was run on without a gradient.
        head_gradients: gradients, and products with the curvature, of the last layer alone, on features that were computed before.
    """

    gradients: float = 0.0
    gradient_images: float = 0.0
    forward_images: float = 0.0
    head_gradients: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(**{name: value + getattr(other, name) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Outcome:
    """Models after an operation, in the order in which they came.

    Attributes:
        states: new state dicts in float32.
        cost: of each model, the mean where models differ.
        figures: what the operation measured on its way, one number for each model, or a row of them.
    """

    states: list[dict[str, Tensor]]
    cost: Cost
    figures: Mapping[str, Float[Tensor, "K ..."]]


def check_states(states: Sequence[State], shapes: Mapping[str, Sequence[int]], what: str = "model") -> None:
    """Raises `InputError` unless there are state dicts, all of finite tensors of these names and shapes."""
    if not states:
        raise InputError(f"no {what} was given; pass at least one state dict")
    for number, state in enumerate(states):
        where = f"{what} {number} of {len(states)}"
        if odd := sorted(state.keys() ^ shapes.keys()):
            side = "lacks" if odd[0] in shapes else "has, and the others lack,"
            raise InputError(f"{where} {side} tensor {odd[0]!r}; pass models of one architecture and type of head")
        for name, shape in shapes.items():
            if tuple(state[name].shape) != tuple(shape):
                found = tuple(state[name].shape)
                raise InputError(f"{where} has {name!r} of shape {found}, not {tuple(shape)}; pass models of one architecture")
        if not all_finite(state.values()):
            raise InputError(f"{where} has weights that are not finite; leave diverged models out (status='ok' of a zoo)")


def shapes_of(architecture: Mapping[str, Any]) -> dict[str, Sequence[int]]:
    """Returns the shape of each tensor of an architecture."""
    return {name: tensor.shape for name, tensor in outline(architecture).state_dict().items()}


def check_images(pixels: Tensor, states: Sequence[State]) -> None:
    """Raises `InputError` where there are no images."""
    if not len(pixels):
        raise InputError(f"no images were given to run {counted(len(states), 'model')} on; pass train images of the zoo")


def loaded(architecture: Mapping[str, Any], states: Sequence[State]) -> ModelStack:
    """Returns the stack of models, whose weights can be trained."""
    stack = ModelStack(skeleton(architecture), len(states))
    for row, state in enumerate(states):
        stack.load(row, state)
    return stack


def slices(count: int, weights: int) -> list[slice]:
    """Divides models of so many weights into stacks: a few small models together, a large one alone."""
    return pieces(count, max(1, min(AT_ONCE, WEIGHTS_AT_ONCE // max(1, weights))))


def on_all_cores(work: Callable[[slice], R], stacks: Sequence[slice]) -> Iterator[R]:
    """Yields what becomes of each stack, in order; a large model has all cores, and memory, for itself."""
    small = any(some.stop - some.start > 1 for some in stacks)
    return in_threads(work, stacks) if small else map(work, stacks)


def size_of(state: State) -> int:
    """Returns the number of weights of a model."""
    return sum(math.prod(tensor.shape) for tensor in state.values())


def positive(what: str, **values: float) -> None:
    """Raises `InputError` for the first of some settings that is not a finite number of more than 0."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise InputError(f"{name} of {what} must be more than 0 and finite, not {value}")


def whole(what: str, **values: int) -> None:
    """Raises `InputError` for the first of some settings that is not a whole number of at least 1."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{name} of {what} must be a whole number of at least 1, not {value}")
