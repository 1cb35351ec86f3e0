r"""Kronecker factors of the Fisher matrix: second moments of the gradients of a model's outputs along each dimension of a tensor.

A change d of a weight matrix has a squared effect of :math:`d^T F d` on the outputs. Here F is the sum of :math:`g g^T` over the
gradients g of the outputs (Gauss-Newton; the Fisher matrix of outputs with unit normal noise). Along the two dimensions of the
matrix the gradients G have the second moments

.. math:: L = \sum G G^T, \qquad R = \sum G^T G, \qquad F \approx L \otimes R / \mathrm{tr} L

(Shampoo: Gupta et al., 1802.09568). The eigenvectors of L and R are the Fisher eigenbasis of the matrix (George et al.,
1806.03884); the tokenizer `wsl.tokenizers.fisher_basis` works in it. Permutations and orthogonal maps of an axis turn its moments
as they turn the weights: :math:`L \mapsto Q L Q^T` where :math:`W \mapsto Q W`.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from wsl.layout.slots import Slot
from wsl.symmetry.group import MAPPED, PERMUTED
from zoo_gen.errors import InputError

GRADIENTS = 32
"""Largest number of gradients in the sums: larger batches of inputs are divided into this many."""


def moments(
    one: Mapping[str, Tensor], slots: Sequence[Slot], model: nn.Module, inputs: Tensor
) -> dict[str, list[list[Float[Tensor, "n n"] | Float[Tensor, " n"]]]]:
    """Sums second moments of the gradients of outputs along each dimension of each part, by tensor.

    Dimensions without a symmetry (positions, a vocabulary) have the diagonals of their moments; moments of buffers are zero. Each
    gradient is of the outputs on a few inputs, summed under random signs: the expectation over signs is the sum over all outputs.

    Args:
        one: a checkpoint.
        slots: the tensors that moments are taken of.
        model: runs the checkpoint and returns a tensor, or an object with `logits`; its own weights do not matter.
        inputs: a batch of the model's inputs; no labels are needed.

    Returns:
        For each tensor, part and dimension of n entries: a moment (n, n), or a diagonal (n,), in float64.

    Raises:
        InputError: the model returns something else.
    """
    generator = torch.Generator().manual_seed(0)
    buffers = {name for name, _ in model.named_buffers()}  # running statistics of batch norms have no gradients
    leaves = {slot.name: one[slot.name].detach().requires_grad_() for slot in slots if slot.name not in buffers}
    inputs = inputs.to(next(iter(leaves.values())).dtype) if inputs.is_floating_point() else inputs
    sums = {slot.name: [[torch.zeros(()).double()] * len(part.axes) for part in slot.parts] for slot in slots}
    for x in inputs.tensor_split(min(len(inputs), GRADIENTS)):
        found = functional_call(model, {**one, **leaves}, (x,), tie_weights=False)
        outputs = found if isinstance(found, Tensor) else getattr(found, "logits", None)
        if not isinstance(outputs, Tensor):
            raise InputError(
                f"the model returns a {type(found).__name__}; pass one that returns a tensor, or an object with logits"
            )
        signs = (2 * torch.randint(2, outputs.shape, generator=generator) - 1).to(outputs)
        gradients = torch.autograd.grad((outputs * signs).sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)
        by_name = dict(zip(leaves, gradients, strict=True))
        for slot in slots:
            gradient = by_name.get(slot.name, torch.zeros_like(one[slot.name]))
            for p, piece in enumerate(slot.pieces(gradient.double().unsqueeze(0))):
                for i, dim in enumerate(slot.parts[p].axes):
                    rows = piece[0].movedim(i, 0).reshape(piece.shape[1 + i], -1)
                    moves = any(axis.kind in (*PERMUTED, *MAPPED) for axis in dim)
                    sums[slot.name][p][i] = sums[slot.name][p][i] + (rows @ rows.mT if moves else rows.square().sum(1))
    return sums
