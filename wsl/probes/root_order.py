"""Checkpoints that stand in another order of features, neurons and heads than their root.

Differences to a root are taken weight by weight, so they tell how a checkpoint was trained only where both have one order. Training
keeps the order of the root. A copy that was permuted since has the same function, and other differences.
"""

from collections.abc import Mapping

from torch import Tensor

from wsl.analyses.fingerprints import ends
from wsl.analyses.models import layout_for
from wsl.analyses.rounding import apart
from wsl.data.stacks import changes
from wsl.run import Run
from wsl.symmetry.alignment import align
from wsl.symmetry.stacks import stack
from zoo_gen import InputError
from zoo_gen.architecture import outline
from zoo_gen.finite import all_finite

FAR = 0.5
"""Checkpoints that have changed less than this, over the norm of the root, are in its order, or as good as that."""

MOVES = ("resid", "mlp", "head")

Weights = Mapping[str, Tensor]


def heads_of(run: Run) -> int | None:
    """Returns the number of heads of the run's train models; None where it is not known, or differs from block to block."""
    described = run.split.train[0].architecture
    if described.get("architecture") is None:
        return described.get("num_heads")
    try:
        found = {getattr(module, "num_heads", None) for module in outline(described).modules()} - {None}
    except InputError:  # it embeds by its tensors all the same
        return None
    heads = found.pop() if len(found) == 1 else None
    return heads if isinstance(heads, int) else None


def changes_raw_and_in_order(weights: Weights, root: Weights, *, heads: int | None) -> tuple[float, float] | None:
    """Compares a checkpoint to its root as it is, and permuted to be near the root.

    Only the stem, the last block and the tail are compared: all of a large model would take a minute.

    Returns:
        The norms of both changes over the norm of the root. None where the first is below `FAR`, where a number is not finite, or
        where no table knows how the tensors may be permuted.
    """
    shared = [name for name in changes(weights, root) if all_finite((weights[name], root[name]))]
    try:
        layout, unknown = layout_for({name: weights[name] for name in shared}, heads, ())
    except InputError:
        return None
    layout = ends(layout)
    a, b = (stack([{slot.name: tensors[slot.name] for slot in layout.slots}]) for tensors in (weights, root))
    size = sum(float(tensor.square().sum()) for tensor in b.values()) ** 0.5
    if unknown or not size or (raw := apart(a, b) / size) < FAR:
        return None
    return raw, align(a, layout, to=b, moves=MOVES).distance.item() / size
