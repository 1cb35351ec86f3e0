r"""Principal components of tokens by role: the linear autoencoder that a hyper-representation can begin as.

With U the leading eigenvectors of the second moments of standardised tokens of a role, the best linear code of these tokens is
(Baldi and Hornik, 1989)

    latents = U^T x,    x' = U latents

What gradient descent needs hundreds of steps for, from random weights, is one pass over a few windows.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from wsl.data.windows import Windows
from zoo_gen.errors import InputError

WINDOWS = 256
"""Windows that second moments are taken of; with a quarter of them the error of the code is the same to a percent."""


def second_moments(windows: Windows, *, roles: int) -> Float[Tensor, "R D D"]:
    """Mean products of the entries of standardised tokens, role by role; zeros for a role that no window has.

    Raises `InputError` for a token whose role is none of `roles`.
    """
    width = windows.sources[0].plan.width + 1
    products, counts = torch.zeros(roles, width, width), torch.zeros(roles, 1, 1)
    for number in range(min(WINDOWS, windows.per_epoch)):
        window = windows[number]
        tokens, role = window.values.masked_fill(~window.mask, 0), window.positions[:, 1]
        if role.max() >= roles:
            raise InputError(f"tokens have roles up to {int(role.max())}; set model.roles to more than that (now {roles})")
        for r in role[role >= 0].unique().tolist():
            some = tokens[role == r]
            products[r] += some.T @ some
            counts[r] += len(some)
    return products / counts.clamp(min=1)
