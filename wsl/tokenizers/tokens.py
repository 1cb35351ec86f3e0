"""Tokens of a checkpoint, and what makes a tokenizer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wsl.layout.slots import Slot
from wsl.tokenizers.plan import Plan
from zoo_gen import Checkpoint
from zoo_gen.errors import InputError
from zoo_gen.wording import counted

INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The type that shows the bits of weights of so many bytes."""


@dataclass(frozen=True, repr=False)
class Correction:
    """The weights of one tensor that decoding misses: their places (None means all of them), and their bits as integers."""

    name: str
    index: Int[Tensor, " E"] | None
    bits: Int[Tensor, " E"]

    @classmethod
    def whole(cls, slot: Slot, weight: Tensor) -> "Correction":
        """All bits of a tensor of the checkpoint."""
        turned = slot.turn(weight.detach()).clone(memory_format=torch.contiguous_format)
        return cls(slot.name, None, turned.view(-1).view(INTEGERS[turned.dtype.itemsize]))

    def __repr__(self) -> str:
        return f"Correction({self.name}: {counted(len(self.bits), 'weight')})"


@dataclass(frozen=True, repr=False)
class Tokens:
    """A checkpoint as T vectors of D weights, with the plan that leads back and what makes the way back exact."""

    values: Float[Tensor, "T D"]
    plan: Plan
    corrections: tuple[Correction, ...]

    def __repr__(self) -> str:
        return f"Tokens({self.plan.n_tokens:,} of width {self.plan.width}, {self.values.dtype}, of {self.plan.layout!r})"

    @property
    def mask(self) -> Bool[Tensor, "T D"]:
        """True where a weight is, False where padding is; shared by all tokens of the plan."""
        return self.plan.mask

    @property
    def positions(self) -> Int[Tensor, "T P"]:
        """Block, role, index of each token; shared by all tokens of the plan."""
        return self.plan.positions

    def with_values(self, values: Float[Tensor, "T D"]) -> "Tokens":
        """Returns tokens of other values, such as a decoder network's, which have no exact weights to be corrected to.

        Raises:
            InputError: the shape is not that of this plan.
        """
        if values.shape != (self.plan.n_tokens, self.plan.width):
            raise InputError(
                f"values of shape {tuple(values.shape)} do not fit the plan; "
                f"pass {counted(self.plan.n_tokens, 'token')} of width {self.plan.width}"
            )
        return Tokens(values, self.plan, ())


class Tokenizer(Protocol):
    """A lossless map between checkpoints and tokens: `decode(encode(s)) == s` to the bit, NaNs of diverged models too.

    With `reference == "root"` the tokens hold differences to the root's weights, except for heads and for what the root
    lacks or has in another shape; both directions then need the root. With `reference == "none"` it is ignored.
    """

    reference: str

    @classmethod
    def rootless(cls, card: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the card of the same tokenizer for models whose roots are not known, given the card of this one."""
        return {**card, "reference": "none"}

    @property
    def local(self) -> bool:
        """Whether each value depends on one weight (and the root's) alone, so that single windows can be read from files."""
        ...

    @property
    def linear(self) -> bool:
        """Whether decoded weights are those of the root plus `turn_back` of the values, so that gradients flow."""
        return self.local

    def prepare(self, roots: Iterable[Checkpoint]) -> None:
        """Is told the roots of the checkpoints that it will encode, before it does."""

    def turn_back(self, coded: Mapping[str, Tensor], *, root: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Returns differences of weights (where they are coded as such, else weights) from what tokens hold of each tensor."""
        return dict(coded)

    def strength(self, plan: Plan, *, root: Mapping[str, Tensor] | None) -> Float[Tensor, "*T D"]:
        """Returns how strongly outputs depend on each number of the tokens, up to a factor; ones where it is not known."""
        return torch.ones(1, 1)

    def plan(self, state_dict: Mapping[str, Tensor], *, root: Mapping[str, Tensor] | None = None) -> Plan:
        """Returns where each weight would lie; reads names, shapes and types only."""
        ...

    def encode(self, state_dict: Mapping[str, Tensor], *, root: Mapping[str, Tensor] | None = None) -> Tokens:
        """Returns the tokens of a checkpoint. Raises `InputError` for unknown tensors and for a missing root."""
        ...

    def decode(self, tokens: Tokens, *, root: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Returns the checkpoint of tokens. Raises `InputError` for a missing or unfit root."""
        ...

    def decode_in_place(self, tokens: Tokens, *, root: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Returns the checkpoint of tokens in the memory of their values, which are lost. Raises as `decode`."""
        ...
