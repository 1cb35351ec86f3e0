"""Parts of the hyper-representation: transformer blocks that begin as the identity, linear maps per role, position embeddings."""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from timm.models.vision_transformer import Block
from torch import Tensor, nn


def identity_block(width: int, *, heads: int, mlp_ratio: float) -> Block:
    """Returns a pre-norm transformer block, `x + attention(norm(x))` then `x + mlp(norm(x))`, that starts as the identity."""
    block = Block(width, heads, mlp_ratio, qkv_bias=True)
    for name, parameter in block.named_parameters():
        if name.startswith(("attn.proj.", "mlp.fc2.")):
            nn.init.zeros_(parameter)
    return block


class RoleLinear(nn.Module):
    """Linear map with weights of its own for each role: q rows and fc2 columns live in different subspaces."""

    def __init__(self, inputs: int, outputs: int, *, roles: int):
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(roles, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(roles, outputs))

    def forward(self, x: Float[Tensor, "B T I"], role: Int[Tensor, "B T"]) -> Float[Tensor, "B T O"]:
        """Maps each token by the weights of its role; padded tokens, whose role is negative, to zeros."""
        order = role.flatten().argsort(stable=True)
        counts = torch.bincount(role.flatten() + 1, minlength=len(self.weight) + 1).tolist()
        padding, *members = rearrange(x, "b t i -> (b t) i").index_select(0, order).split(counts)
        mapped = [torch.addmm(b, tokens, w) for b, tokens, w in zip(self.bias, members, self.weight, strict=True)]
        y = torch.cat([padding.new_zeros(len(padding), self.weight.shape[-1]), *mapped])
        return y.index_select(0, order.argsort()).view(*role.shape, -1)


class PositionEmbedding(nn.Module):
    """Sum of a learned vector per block, one per role, and a linear map of sinusoids of the index within the group."""

    def __init__(self, width: int, *, blocks: int, roles: int):
        super().__init__()
        self.block = nn.Embedding(blocks, width)
        self.role = nn.Embedding(roles, width)
        self.index = nn.Linear(width, width, bias=False)
        frequencies = torch.logspace(0, -4, width // 2, dtype=torch.float64).float()
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, positions: Int[Tensor, "B T P"]) -> Float[Tensor, "B T M"]:
        """Embeds (block, role, index); padded tokens, whose positions are negative, get those of position zero."""
        block, role, index = positions.clamp(min=0).unbind(-1)
        angles = index[..., None] * self.get_buffer("frequencies")
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
        return self.block(block) + self.role(role) + self.index(waves)
