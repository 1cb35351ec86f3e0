"""Models to compare: a checkpoint of any kind with its layout, and how the number of its heads is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from wsl.layout.lookup import layout_of
from wsl.layout.slots import Axis, Layout, Part
from wsl.symmetry.group import MAPPED
from zoo_gen.architecture import outline
from zoo_gen.errors import InputError
from zoo_gen.formats.checkpoint import ADAPTER, read_checkpoint
from zoo_gen.formats.heads import config_beside, heads_beside

WIDTHS = {192: 3, 384: 6, 1024: 16}
"""Heads by the width of a Vision Transformer, where all of timm's models of that width have as many."""

OPAQUE = "opaque"
"""The family of checkpoints that no table knows."""


@dataclass(frozen=True)
class Reading:
    """How checkpoints are read: see `read_checkpoint` and `layout_of` for the keys."""

    heads: int | None = None
    base: str | None = None
    prefix: str | None = None
    leave_out: Sequence[str] = ()
    opaque: Sequence[str] = ()

    def weights(self, place: Path) -> dict[str, Tensor]:
        """Reads a checkpoint; only adapters are merged into the base."""
        base = self.base if (place / ADAPTER).is_file() else None
        return read_checkpoint(place, base=base, prefix=self.prefix, leave_out=self.leave_out)


@dataclass(frozen=True)
class Model:
    """A checkpoint: its weights, its layout, the number of its heads, and notes on both.

    Where the number of heads is not known, the layout has no symmetries of heads. The family is `opaque` where no table fits.
    """

    name: str
    weights: dict[str, Tensor]
    layout: Layout
    heads: int | None
    notes: tuple[str, ...]

    @property
    def head(self) -> frozenset[str]:
        """Names of the tensors of the classifier."""
        return self.layout.head


def open_model(place: Path, reading: Reading) -> Model:
    """Reads a checkpoint. Raises `InputError` if it cannot be read, or the number of heads given does not fit it."""
    weights = reading.weights(place)
    heads, note = heads_of(place, weights, reading)
    layout, notes = layout_for(weights, heads, reading.opaque)
    layout = described(place, weights, reading) or layout
    return Model(str(place), weights, layout, heads, (*notes, *([note] if note else [])))


def heads_of(place: Path, weights: Mapping[str, Tensor], reading: Reading) -> tuple[int | None, str]:
    """Finds the number of heads: given, from `config.json`, or from the width where that is safe.

    Returns:
        The number or None, and a note where it was guessed or is missing.
    """
    try:
        layout = layout_of(weights, opaque=reading.opaque)
    except InputError:
        return None, ""
    if not _unknown(layout):
        return None, ""
    found = reading.heads or heads_beside(place) or (heads_beside(Path(reading.base)) if reading.base else None)
    if found:
        return found, ""
    width = dict(layout.sizes).get("resid")
    if layout.family in ("vit", "huggingface_vit") and width in WIDTHS:
        return WIDTHS[width], f"{WIDTHS[width]} heads are taken from the width of {width}; heads=<number> says otherwise"
    return None, "the number of heads is not known, so symmetries of heads are left out: heads=<number>, or a config.json beside it"


def layout_for(weights: Mapping[str, Tensor], heads: int | None, opaque: Sequence[str]) -> tuple[Layout, tuple[str, ...]]:
    """Returns the layout of a checkpoint whatever it is, and a note where no table knows it.

    Raises `InputError` if the number of heads does not fit a checkpoint that is of a known family otherwise.
    """
    try:
        layout = layout_of(weights, opaque=opaque)
    except InputError as error:
        if not weights or any(0 in tensor.shape for tensor in weights.values()):
            raise
        return layout_of(weights, opaque=["*"]), (f"no symmetries are known: {error}",)
    if not _unknown(layout):
        return layout, ()
    return (layout_of(weights, heads=heads, opaque=opaque) if heads else without_heads(layout)), ()


def described(place: Path, weights: Mapping[str, Tensor], reading: Reading) -> Layout | None:
    """Returns the layout of the timm model that a config.json beside a checkpoint, or beside its base, describes.

    None where there is none that fits. A model tells of symmetries that no tensor does: which activations and norms it has.
    """
    config = config_beside(place) or (config_beside(Path(reading.base)) if reading.base else None)
    if config is None or not isinstance(config.get("architecture"), str):
        return None
    try:
        model = outline({"model_args": {}, **config})  # timm leaves out what is empty
        layout = layout_of(model, heads=reading.heads, opaque=reading.opaque)
    except InputError:
        return None
    slots = tuple(slot for slot in layout.slots if slot.name in weights)  # counters of batches are no weights
    shapes = {slot.name: slot.shape for slot in slots}
    return replace(layout, slots=slots) if shapes == {name: tuple(tensor.shape) for name, tensor in weights.items()} else None


def without_heads(layout: Layout) -> Layout:
    """Returns a layout of the same tensors without the symmetries of heads and of their features."""

    def plain(part: Part) -> Part:
        width = (Axis(f"width.{part.block}", False),)
        return replace(part, axes=tuple(width if any(_of_head(axis) for axis in dim) else dim for dim in part.axes))

    return replace(layout, slots=tuple(replace(slot, parts=tuple(map(plain, slot.parts))) for slot in layout.slots))


def _unknown(layout: Layout) -> bool:
    """Whether the size of an axis of heads does not follow from the shapes."""
    sizes = dict(layout.sizes)
    axes = {axis for slot in layout.slots for part in slot.parts for dim in part.axes for axis in dim}
    return any(_of_head(axis) and axis.name not in sizes for axis in axes)


def _of_head(axis: Axis) -> bool:
    return axis.kind in ("head", *MAPPED)
