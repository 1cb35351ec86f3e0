r"""FisherBasis weights: a checkpoint measured by how much its outputs feel each direction, for matching.

The distance of two checkpoints counts every weight the same, and the outputs do not: they feel :math:`d^T F d` of a change d of a
tensor, with F the sum of :math:`g g^T` over gradients g of the outputs (Gauss-Newton). Along each dimension of the tensor the
gradients have a second moment, L and R of a matrix, and F is about :math:`L \otimes R / \mathrm{tr} L` (after Shampoo, Gupta et
al., 1802.09568). Up to a factor :math:`W \mapsto L^{p/2} W R^{p/2}` makes distances those of :math:`F^p`, from p = 0, weights as
they are, to p = 1. Symmetries that keep distances move the moments with the weights, so what is felt has the axes of the weights.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from wsl.layout.slots import Axis, Layout, Slot
from wsl.symmetry.group import MAPPED, PERMUTED
from wsl.symmetry.null_directions import unstack
from zoo_gen.errors import InputError

POWER = 0.5
"""Of the metric: half way between every weight the same and what outputs feel."""

DRAWS = 32
"""Most gradients that moments are taken of."""

DAMPING = 1e-6
"""What is added to a moment in every direction, over its trace: directions that few inputs do not reach still count a little."""


def felt(weights: Mapping[str, Tensor], layout: Layout, model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Weighs a stack (K, *shape) by what outputs on given inputs feel of it.

    Only tensors that symmetries move count, the others are zero; so are scales of norms that fold away: folded they are ones, and
    their gradients do not turn with the stream.

    Args:
        weights: the stack.
        layout: of the stack.
        model: runs the checkpoints and returns a tensor, or an object with `logits`; its own weights do not matter.
        inputs: a batch of what the model takes; no labels are needed.

    Returns:
        A stack of the same shapes, in float64.

    Raises:
        InputError: the model returns something else.
    """
    folded = {name for rule in layout.rules if rule.verb in ("norm", "scale") for name in (rule.source, f"{rule.source}.weight")}
    slots = [
        slot for slot in layout.slots if slot.name not in folded and any(_moves(dim) for part in slot.parts for dim in part.axes)
    ]
    out = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in weights.items()}
    for k, one in enumerate(unstack(weights)):
        found = moments(one, slots, model, inputs)
        for slot in slots:
            pieces = zip(slot.pieces(one[slot.name].double().unsqueeze(0)), found[slot.name], strict=True)
            out[slot.name][k] = slot.turn(torch.cat([_weigh(piece[0], measured) for piece, measured in pieces]))
    return out


def _moves(dim: Sequence[Axis]) -> bool:
    return any(axis.kind in (*PERMUTED, *MAPPED) for axis in dim)


def moments(
    one: Mapping[str, Tensor], slots: Sequence[Slot], model: nn.Module, inputs: Tensor
) -> dict[str, list[list[Float[Tensor, "n n"] | Float[Tensor, " n"]]]]:
    """Sums second moments of the gradients of outputs along each dimension of each part, by tensor.

    Those of a dimension that nothing moves (positions, a vocabulary) are diagonals. Each gradient is that of the outputs on some
    inputs, summed under random signs: on average over signs, moments are sums over all outputs.
    """
    generator = torch.Generator().manual_seed(0)
    leaves = {slot.name: one[slot.name].detach().requires_grad_() for slot in slots}
    inputs = inputs.to(next(iter(leaves.values())).dtype) if inputs.is_floating_point() else inputs
    sums = {slot.name: [[torch.zeros(()).double()] * len(part.axes) for part in slot.parts] for slot in slots}
    for x in inputs.tensor_split(min(len(inputs), DRAWS)):
        found = functional_call(model, {**one, **leaves}, (x,), tie_weights=False)
        outputs = found if isinstance(found, Tensor) else getattr(found, "logits", None)
        if not isinstance(outputs, Tensor):
            raise InputError(
                f"the model returns a {type(found).__name__}; pass one that returns a tensor, or an object with logits"
            )
        signs = (2 * torch.randint(2, outputs.shape, generator=generator) - 1).to(outputs)
        gradients = torch.autograd.grad((outputs * signs).sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)
        for slot, gradient in zip(slots, gradients, strict=True):
            for p, piece in enumerate(slot.pieces(gradient.double().unsqueeze(0))):
                for i, dim in enumerate(slot.parts[p].axes):
                    rows = piece[0].movedim(i, 0).reshape(piece.shape[1 + i], -1)
                    sums[slot.name][p][i] = sums[slot.name][p][i] + (rows @ rows.mT if _moves(dim) else rows.square().sum(1))
    return sums


def _weigh(piece: Tensor, moments: Sequence[Tensor]) -> Tensor:
    """Multiplies a part by a power of the moment of each of its dimensions."""
    trace = (moments[0].diagonal() if moments[0].ndim > 1 else moments[0]).sum().clamp_min(torch.finfo(torch.float64).tiny)
    for i, moment in enumerate(moments):
        if moment.ndim > 1:
            values, vectors = torch.linalg.eigh(moment / trace)
            root = (vectors * _power(values)) @ vectors.mT
        else:
            root = _power(moment / trace)
        piece = torch.einsum("i j, j ... -> i ..." if root.ndim > 1 else "i, i ... -> i ...", root, piece.movedim(i, 0)).movedim(
            0, i
        )
    return piece * trace ** (POWER / 2)


def _power(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    return (values.clamp_min(0) + DAMPING) ** (POWER / 2)
