"""Blocks of the hyper-representation: a pre-norm transformer block and the embedding of token positions."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """Multi-head self-attention in which nobody attends to padded tokens."""

    def __init__(self, width: int, *, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B T M"], real: Bool[Tensor, "B T"]) -> Float[Tensor, "B T M"]:
        """Attends within each window; `real` is False where a window is padded."""
        q, k, v = rearrange(self.qkv(x), "b t (n h d) -> n b h t d", n=3, h=self.heads)
        x = functional.scaled_dot_product_attention(q, k, v, attn_mask=rearrange(real, "b t -> b 1 1 t"))
        return self.proj(rearrange(x, "b h t d -> b t (h d)"))


class Block(nn.Module):
    """Pre-norm transformer block: `x + attention(norm(x))`, then `x + mlp(norm(x))`."""

    def __init__(self, width: int, *, heads: int, mlp_ratio: float):
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads=heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Float[Tensor, "B T M"], real: Bool[Tensor, "B T"]) -> Float[Tensor, "B T M"]:
        """Maps a window of tokens; `real` is False where it is padded."""
        x = x + self.attn(self.norm1(x), real)
        return x + self.mlp(self.norm2(x))


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
