"""The codec behind every tokenizer: weights into the places of a plan and back, to the bit.

Three options compose: the form of the weights (raw or canonical), their reference (zero, or the root's weights in the same form),
and whether the scale of each tensor is kept apart:

    coded = (form(w) - form(root)) / 2^e,    form(w) = coded * 2^e + form(root)

with 2^e the power of two nearest to the root mean square of the difference: dividing by it is exact unless entries leave
the range of the type. The exponents are tensors of one entry in the tokens of their block, so tokens that a network makes
have scales too. Where decoding (`wsl.tokenizers.coding`) does not return the weights to the bit, the tokens carry the
bits. A checkpoint in canonical form carries all of its own, as no rounded form leads back to it.
"""

import functools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from wsl.layout import layout_of
from wsl.layout.slots import Layout, Part, Slot
from wsl.symmetry.canonical import canonicalize
from wsl.tokenizers.at_once import pack_any, unpack_any
from wsl.tokenizers.coding import unpack_in_place
from wsl.tokenizers.plan import SCALE, Plan
from wsl.tokenizers.tokens import Correction, Tokenizer, Tokens
from zoo_gen.errors import InputError
from zoo_gen.finite import all_finite
from zoo_gen.reader import shortened

_OPTIONS = {"reference": ("none", "root"), "form": ("raw", "canonical"), "scale": ("within", "apart")}


class Codec(Tokenizer):
    """A tokenizer but for the laying out, which `lay` does.

    Args:
        reference: "none" for tokens of the weights themselves, "root" for differences to the root's weights.
        form: "raw" for weights as they are, "canonical" for their canonical form (`wsl.symmetry.canonical`), of the root too;
            checkpoints that are not finite have none and stay as they are.
        scale: "within" the values, or "apart" from them: values of unit size, to the nearest power of two, and the
            exponent of each tensor as one more value.
        heads: attention heads per block, for canonical forms of architectures whose shapes do not tell.
    """

    def __init__(self, *, reference: str, form: str = "raw", scale: str = "within", heads: int | None = None):
        for name, given in (("reference", reference), ("form", form), ("scale", scale)):
            first, second = _OPTIONS[name]
            if given not in (first, second):
                raise InputError(f"{name} {given!r} of the tokenizer is neither {first!r} nor {second!r}; choose one of them")
        self.reference, self.form, self.scale, self.heads = reference, form, scale, heads

    @property
    def local(self) -> bool:
        """Whether each value depends on one weight (and the root's) alone, so that single windows can be read from files."""
        return self.form == "raw" and self.scale == "within"

    @abstractmethod
    def lay(self, layout: Layout, dtypes: tuple[torch.dtype, ...], differences: tuple[bool, ...]) -> Plan:
        """Returns the plan of a layout, given the type of each slot and whether it is coded as a difference."""

    def layout(self, state_dict: Mapping[str, Tensor], *, opaque: Sequence[str] = ()) -> Layout:
        """Returns the layout that is laid out. Raises `InputError` for tensors that neither a table knows nor `opaque` names."""
        return layout_of(state_dict, opaque=opaque)

    def plan(
        self, state_dict: Mapping[str, Tensor], *, root: Mapping[str, Tensor] | None = None, opaque: Sequence[str] = ()
    ) -> Plan:
        """Returns where each weight would lie; reads names, shapes and types only. Raises as `encode` does.

        Args:
            state_dict: the checkpoint.
            root: the root's weights, where the reference is "root".
            opaque: patterns of tensors that no table knows, to be laid out at the end (`wsl.layout.layout_of`).
        """
        layout = self.layout(state_dict, opaque=opaque)
        dtypes = _dtypes(layout, state_dict)
        differences = _differences(layout, root) if self.reference == "root" else (False,) * len(layout.slots)
        if self.scale == "apart":
            layout = _with_scales(layout)
            dtypes, differences = dtypes * 2, differences + (False,) * len(differences)
        return self.lay(layout, dtypes, differences)

    def encode(
        self, state_dict: Mapping[str, Tensor], *, root: Mapping[str, Tensor] | None = None, opaque: Sequence[str] = ()
    ) -> Tokens:
        """Returns the tokens of a checkpoint, arguments as of `plan`.

        Raises `InputError` for unknown tensors (in a canonical form also for opaque ones) and for a missing root.
        """
        plan = self.plan(state_dict, root=root, opaque=opaque)
        exact = self.form == "raw"
        tokens = pack_any(plan, self.formed(state_dict, root), self._formed_root(root), exact=exact)
        if exact:
            return tokens
        return replace(tokens, corrections=tuple(Correction.whole(slot, state_dict[slot.name]) for _, slot in plan.tensors))

    def decode(self, tokens: Tokens, *, root: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Returns the checkpoint of tokens, its tensors side by side in one block of memory.

        Tokens of other values than a checkpoint's (`Tokens.with_values`) decode to weights in the tokenizer's form.
        Raises `InputError` for a missing or unfit root.
        """
        return unpack_any(tokens, self._formed_root(root))

    def decode_in_place(self, tokens: Tokens, *, root: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Returns the checkpoint of tokens in the memory of their values, which are lost: use the tokens no more.

        Decoding takes no other memory than that of one block of the model. Raises as `decode`, and then leaves the tokens alone.
        """
        return unpack_in_place(tokens, self._formed_root(root))

    def _formed_root(self, root: Mapping[str, Tensor] | None) -> Mapping[str, Tensor] | None:
        return root if root is None or self.reference == "none" else self.formed(root, root)

    def formed(self, weights: Mapping[str, Tensor], root: Mapping[str, Tensor] | None) -> Mapping[str, Tensor]:
        """Returns the weights of a checkpoint, or of a root, in the tokenizer's form."""
        if self.form == "raw" or not all_finite(weights.values()):
            return weights
        try:
            stacked = {name: tensor.detach()[None] for name, tensor in weights.items()}
            canonical = canonicalize(stacked, layout_of(weights, heads=self.heads))
        except InputError as error:
            raise InputError(f"no canonical form: {error}. A tokenizer's heads are set by tokenizer.heads=...") from error
        return {name: canonical[name][0].to(tensor.dtype) for name, tensor in weights.items()}


def _dtypes(layout: Layout, state_dict: Mapping[str, Tensor]) -> tuple[torch.dtype, ...]:
    for slot in layout.slots:
        dtype = state_dict[slot.name].dtype
        if not dtype.is_floating_point or dtype.itemsize < 2:
            raise InputError(
                f"tensor {shortened(slot.name)} is {dtype}, no weight; convert it to float32, bfloat16 or float16, or remove it "
                "(--without on the command line)"
            )
    return tuple(state_dict[slot.name].dtype for slot in layout.slots)


def _differences(layout: Layout, root: Mapping[str, Tensor] | None) -> tuple[bool, ...]:
    """Tells which tensors are coded as differences: all but heads, which are made anew, and those without a counterpart."""
    if root is None:
        raise InputError("the tokenizer's reference is 'root'; pass root=<state dict of the model this one was fine-tuned from>")
    return tuple(
        slot.parts[0].role != "head" and slot.name in root and tuple(slot.turn(root[slot.name]).shape) == slot.shape
        for slot in layout.slots
    )


@functools.lru_cache(maxsize=64)
def _with_scales(layout: Layout) -> Layout:
    """Returns the layout with the exponents of its tensors behind them."""
    return replace(layout, slots=layout.slots + tuple(map(_scale_of, layout.slots)))


def _scale_of(slot: Slot) -> Slot:
    """Returns the slot of a tensor's exponent."""
    part = Part("vectors", slot.parts[0].block, 1, SCALE)
    return Slot(f"{slot.name}:scale", (1,), f"{slot.row}:scale", (part,))
