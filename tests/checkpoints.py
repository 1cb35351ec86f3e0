"""Checkpoints to encode: random weights of ViTs, wild ones among them, and tokenizers in every mode."""

from itertools import product

import torch
from timm.layers.mlp import Mlp
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from wsl.tokenizers.chunks import Chunks
from wsl.tokenizers.codec import Codec
from wsl.tokenizers.residual import Residual
from wsl.tokenizers.rows import Rows

INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
SPECIAL = (float("nan"), float("inf"), -float("inf"), -0.0, 1e-42)
MODES = list(product(["none", "root"], ["raw", "canonical"], ["within", "apart"]))
TYPES = (torch.float32, torch.bfloat16, torch.float16)


def tokenizers(reference: str, form: str, scale: str, *, width: int = 64, heads: int | None = None) -> list[Codec]:
    """One of each, in one mode."""
    return [
        Residual(width=width, reference=reference, form=form, scale=scale, heads=heads),
        Rows(reference=reference, form=form, scale=scale, heads=heads),
        Chunks(width=width, reference=reference, form=form, scale=scale, heads=heads),
    ]


def shapes(width: int, depth: int, heads: int, head: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        model = VisionTransformer(
            img_size=8,
            patch_size=2,
            in_chans=1,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            mlp_ratio=2,
            num_classes=5,
        )
        if head == "mlp":
            model.register_module("head", Mlp(width, 2 * width, 5))
    return model.state_dict()


def weights(meta: dict[str, Tensor], seed: int, dtypes: tuple[torch.dtype, ...] = (torch.float32,)) -> dict[str, Tensor]:
    """Random weights of these shapes, a few of them NaN, infinite, negative zero or denormal."""
    rng = torch.Generator().manual_seed(seed)
    found = {}
    for i, (name, tensor) in enumerate(meta.items()):
        weight = torch.randn(tensor.shape, generator=rng)
        weight.view(-1)[torch.randint(weight.numel(), (5,), generator=rng)] = torch.tensor(SPECIAL)
        found[name] = weight.to(dtypes[i % len(dtypes)])
    return found


def fine_tuned(root: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {name: weight + 0.01 * torch.randn(weight.shape, generator=rng).to(weight.dtype) for name, weight in root.items()}


def identical(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Equality of bits, so that NaN equals NaN and -0 differs from 0."""
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype
        and a[name].shape == b[name].shape
        and torch.equal(a[name].view(INTEGERS[a[name].itemsize]), b[name].view(INTEGERS[b[name].itemsize]))
        for name in a
    )


def any_bits(meta: dict[str, Tensor], seed: int, dtypes: tuple[torch.dtype, ...]) -> dict[str, Tensor]:
    """Weights of which a quarter have any bits: NaNs of all payloads, infinities, subnormals, zeros of both signs."""
    rng = torch.Generator().manual_seed(seed)
    found = {}
    for i, (name, tensor) in enumerate(meta.items()):
        dtype = dtypes[i % len(dtypes)]
        weight = torch.randn(tensor.shape, generator=rng).to(dtype)
        noise = torch.randint(-(2**63), 2**63 - 1, tensor.shape, generator=rng).to(INTEGERS[dtype.itemsize]).view(dtype)
        found[name] = torch.where(torch.rand(tensor.shape, generator=rng) < 0.25, noise, weight)
    return found
