"""Attention of stacks has the outputs and gradients of timm's."""

from typing import Any

import pytest
import timm
import torch
from timm.layers.attention import Attention
from torch import Tensor, nn

from zoo_gen.stack import ModelStack
from zoo_gen.stack_attention import FEW_TOKENS, ClassTokenBlock, FewTokenAttention

SIZES: dict[str, Any] = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 3}


def results(attention: nn.Module, x: Tensor, weights: list[nn.Parameter], **masks: Any) -> list[Tensor]:
    """Outputs, and the gradients of the input and of weights."""
    x = x.clone().requires_grad_()
    out = attention(x, **masks)
    return [out, *torch.autograd.grad(out.square().sum(), [x, *weights])]


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("tokens", [1, 17])
def test_attention_over_few_tokens_is_that_of_timm(heads: int, tokens: int) -> None:
    torch.manual_seed(0)
    plain = Attention(12, num_heads=heads, qkv_bias=True).double().eval()
    x, weights = torch.randn(4, tokens, 12).double(), list(plain.parameters())
    few = FewTokenAttention(plain)
    torch.testing.assert_close(results(few, x, weights), results(plain, x, weights))
    for masks in ({"is_causal": True}, {"attn_mask": torch.ones(tokens, tokens, dtype=torch.bool).tril()}):
        torch.testing.assert_close(results(few, x, weights, **masks), results(plain, x, weights, **masks))
        assert torch.allclose(few(x, **masks), few(x)) == (tokens == 1)


@pytest.mark.parametrize("image", [8, 28])
def test_a_stack_takes_the_faster_ways_where_there_are_few_tokens(image: int) -> None:
    torch.manual_seed(0)
    vits = [timm.create_model("vit_tiny_patch16_224", img_size=image, **SIZES).double().eval() for _ in range(2)]
    stack = ModelStack(timm.create_model("vit_tiny_patch16_224", img_size=image, **SIZES), 2, dtype=torch.float64)
    for index, vit in enumerate(vits):
        stack.load(index, vit.state_dict())
    modules = [type(module) for module in stack.modules()]
    tokens = (image // 4) ** 2 + 1
    assert modules.count(FewTokenAttention) == (tokens <= FEW_TOKENS)
    assert modules.count(ClassTokenBlock) == 1
    pixels = torch.randn(2, 3, 3, image, image).double()
    outputs = stack.eval()(pixels)
    gradients = torch.autograd.grad(outputs.square().sum(), list(stack.parameters()))
    for index, vit in enumerate(vits):
        expected = vit(pixels[index])
        torch.testing.assert_close(outputs[index], expected)
        assert not torch.allclose(outputs[index], vit(pixels[index - 1]))
        one = torch.autograd.grad(expected.square().sum(), list(vit.parameters()))
        for found, right in zip(gradients, one, strict=True):
            torch.testing.assert_close(found[index].view(right.shape), right)


def test_blocks_that_are_not_plain_are_left_to_timm() -> None:
    others: list[dict[str, Any]] = [{"global_pool": "avg"}, {"qk_norm": True}, {"global_pool": "map"}]
    for other in others:
        stack = ModelStack(timm.create_model("vit_tiny_patch16_224", img_size=8, **SIZES, **other), 2)
        assert not any(isinstance(module, ClassTokenBlock) for module in stack.modules())
