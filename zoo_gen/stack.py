"""Stacks: K models of one shape, run and trained as one program.

The leaf modules of a timm model are swapped for twins that hold K sets of weights and work on a batch of K·B images, model by model
(one `baddbmm` where K models would launch K); bare parameters such as `cls_token` are expanded along the batch; the `forward` of
timm runs unchanged. All weights lie in one (K, W) buffer of which the parameters are views: an optimizer step is a few operations.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from zoo_gen.errors import InputError
from zoo_gen.stack_attention import FEW_TOKENS, shorten_attention


class Twin(nn.Module):
    """A module whose weight, and bias if the layer has one, are those of K layers: (K, *shape)."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.register_parameter("bias", None)


class StackedLinear(Twin):
    """K linear layers: weight (K, out, in), bias (K, out)."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (K·B, ..., in) to (K·B, ..., out)."""
        return self.outputs(x, 0, self.weight.shape[1])

    def outputs(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Maps (K·B, ..., in) to the outputs from `start` to `stop` alone."""
        weight = self.weight[:, start:stop]
        rows = x.reshape(len(weight), -1, x.shape[-1])
        out = _products(rows, weight.mT, None if self.bias is None else self.bias[:, start:stop])
        return out.view(*x.shape[:-1], -1)


class StackedLayerNorm(Twin):
    """K layer normalisations: weight and bias (K, features)."""

    def __init__(self, layer: nn.LayerNorm):
        super().__init__(layer)
        self.shape, self.eps = layer.normalized_shape, layer.eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalises the last axis of (K·B, ..., features)."""
        weight = self.weight.unsqueeze(1)
        rows = functional.layer_norm(x, self.shape, None, None, self.eps).reshape(len(weight), -1, x.shape[-1])
        out = rows * weight if self.bias is None else torch.addcmul(self.bias.unsqueeze(1), rows, weight)
        return out.view(x.shape)


class StackedConv2d(Twin):
    """K patch filters: weight (K, out, in, p, p), bias (K, out); the stride equals the kernel size."""

    def __init__(self, layer: nn.Conv2d):
        super().__init__(layer)
        if tuple(layer.stride) != tuple(layer.kernel_size) or layer.padding not in ((0, 0), 0) or layer.groups != 1:
            raise InputError(
                f"cannot stack {layer}: only patch filters (stride = kernel size, no padding, no groups) are supported"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Maps (K·B, in, height, width) to (K·B, out, height / p, width / p)."""
        p, q = self.weight.shape[-2:]
        patches = rearrange(x, "(k b) c (h p) (w q) -> k (b h w) (c p q)", k=len(self.weight), p=p, q=q)
        out = _products(patches, self.weight.flatten(2).mT, self.bias)
        return rearrange(out, "k (b h w) d -> (k b) d h w", b=x.shape[0] // len(self.weight), h=x.shape[-2] // p)


def _products(rows: Tensor, matrices: Tensor, bias: Tensor | None) -> Tensor:
    """Multiplies rows (K, n, in) with K matrices (K, in, out), and adds K biases."""
    return torch.bmm(rows, matrices) if bias is None else torch.baddbmm(bias.unsqueeze(1), rows, matrices)


class StackedDropout(nn.Module):
    """Dropout with a probability and a stream of its own for each of K models; without them it does nothing."""

    def __init__(self):
        super().__init__()
        self.p = 0.0  # timm hands the probability of attention weights to the fused attention
        self.rates: Tensor | None = None
        self.streams: Sequence[torch.Generator] = ()

    def forward(self, x: Tensor) -> Tensor:
        """Drops entries of (K·B, ...) in training and scales the others up."""
        if self.rates is None or not self.training:
            return x
        rows = x.unflatten(0, (len(self.rates), -1))
        draws = [torch.rand(rows.shape[1:], generator=stream, device=x.device, dtype=x.dtype) for stream in self.streams]
        rates = self.rates.view(-1, *[1] * (rows.ndim - 1)).to(x.dtype)
        return (rows * (torch.stack(draws) >= rates) / (1 - rates)).flatten(0, 1)


_TWINS = {nn.Linear: StackedLinear, nn.LayerNorm: StackedLayerNorm, nn.Conv2d: StackedConv2d}
FUSED_TOKENS = 64
"""On the CPU, attention over fewer tokens than this is faster unfused (17 tokens, 8 channels per head: 10.5 against 18.0 ms)."""


class ModelStack(nn.Module):
    """A stack of K models of one shape with independent weights.

    Attributes:
        flat: (K, W) weights of all models, one row per model; the parameters are views of it.
        slots: name -> (offset, shape) of each tensor in a row, in the order of the model's `state_dict`.
    """

    flat: Tensor

    def __init__(self, template: nn.Module, size: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"):
        """Stacks `size` models shaped like `template`, whose modules are taken over; weights start at zero.

        Dropout is of the recipe, not of the architecture: see `drop`.

        Raises `InputError` for a model with buffers, active dropout or a parametrised layer that has no stacked twin.
        """
        super().__init__()
        if any(True for _ in template.buffers()):
            raise InputError(f"cannot stack {type(template).__name__}: it has buffers (batch statistics?)")
        for module in template.modules():
            if getattr(module, "drop_prob", 0.0) or (isinstance(module, nn.Dropout) and module.p):
                raise InputError(f"cannot stack {type(template).__name__} with active {type(module).__name__}")
        self.size = size
        self.slots: dict[str, tuple[int, torch.Size]] = {}
        offset = 0
        for name, parameter in template.named_parameters():
            self.slots[name] = (offset, parameter.shape)
            offset += parameter.numel()
        self.register_buffer("flat", torch.zeros(size, offset, dtype=dtype, device=device))
        self._views = nn.ParameterList(nn.Parameter(view) for view in self.rows(self.flat).values())
        self._bare: list[tuple[nn.Module, str, int]] = []
        views = dict(zip(self.slots, self._views, strict=True))
        vit = cast(Any, getattr(template, "backbone", template))
        tokens = getattr(getattr(vit, "patch_embed", None), "num_patches", 0) + getattr(vit, "num_prefix_tokens", 0)
        unfused = torch.device(device).type == "cpu" and tokens <= FUSED_TOKENS
        self.model = self._stacked(template, "", views)
        for module in self.model.modules():
            if unfused and hasattr(module, "fused_attn"):
                cast(Any, module).fused_attn = False
        shorten_attention(getattr(self.model, "backbone", self.model), few_tokens=unfused and tokens <= FEW_TOKENS)

    def rows(self, flat: Float[Tensor, "K W"]) -> dict[str, Tensor]:
        """Views of a buffer shaped like `flat`, one (K, *shape) tensor for each name."""
        return {
            name: flat[:, start : start + math.prod(shape)].unflatten(1, shape or (1,))
            for name, (start, shape) in self.slots.items()
        }

    def _stacked(self, module: nn.Module, prefix: str, views: Mapping[str, nn.Parameter]) -> nn.Module:
        """Swaps the leaves of a module for their twins, in place where the module itself has none."""
        if isinstance(module, nn.Dropout):
            return StackedDropout()
        own = [name for name, _ in module.named_parameters(recurse=False)]
        twin = next((made for kind, made in _TWINS.items() if isinstance(module, kind)), None)
        if own and twin is not None:
            stacked = twin(cast(Any, module))
            for name in own:
                stacked.register_parameter(name, views[prefix + name])
            return stacked
        for name in own:
            shape = views[prefix + name].shape[1:]
            if len(shape) > 1 and shape[0] != 1:
                raise InputError(f"cannot stack parameter {prefix + name} of shape {tuple(shape)}: its first axis is no batch axis")
            del module._parameters[name]
            setattr(module, name, None)
            self._bare.append((module, name, list(self.slots).index(prefix + name)))
        for name, child in list(module.named_children()):
            setattr(module, name, self._stacked(child, f"{prefix}{name}.", views))
        return module

    def drop(self, rates: Float[Tensor, "K"], streams: Sequence[torch.Generator]) -> None:
        """Makes training drop activations: one probability and one stream per model. Attention weights are never dropped."""
        for name, module in self.model.named_modules():
            if isinstance(module, StackedDropout) and not name.endswith("attn_drop"):
                module.rates, module.streams = rates, streams

    def forward(self, pixels: Float[Tensor, "K B *image"]) -> Tensor:
        """Runs model k on the images of row k: (K, B, channels, height, width) -> (K, B, *outputs)."""
        batch = pixels.shape[1]
        for module, name, number in self._bare:
            parameter = self._views[number]
            # (1, tokens, channels) has a batch axis to fill; (channels,) acts on (batch, tokens, channels)
            own = parameter.squeeze(1) if parameter.ndim > 2 else parameter.unsqueeze(1)
            setattr(module, name, repeat(own, "k ... -> (k b) ...", b=batch))
        out = self.model(pixels.flatten(0, 1))
        for module, name, _ in self._bare:
            setattr(module, name, None)
        return out.unflatten(0, (len(pixels), batch))

    def run(self, flat: Float[Tensor, "K W"], pixels: Float[Tensor, "K B *image"]) -> Tensor:
        """Runs other weights than the stack's own, of any number of models; gradients flow back to them."""
        rows = self.rows(flat).values()
        return functional_call(self, {f"_views.{number}": row for number, row in enumerate(rows)}, (pixels,))

    @torch.no_grad()
    def load(self, index: int, weights: Mapping[str, Tensor]) -> None:
        """Copies one model's weights into row `index`; raises `InputError` where names or shapes differ from the stack's."""
        if weights.keys() != self.slots.keys():
            odd = sorted(weights.keys() ^ self.slots.keys())
            raise InputError(f"weights do not fit the stack: {', '.join(odd[:4])} on one side only")
        for name, rows in self.rows(self.flat).items():
            shape = self.slots[name][1]
            if weights[name].shape != shape:
                raise InputError(f"weights do not fit the stack: {name} is {tuple(weights[name].shape)}, not {tuple(shape)}")
            rows[index].copy_(weights[name])

    @torch.no_grad()
    def weights(self, index: int) -> dict[str, Tensor]:
        """Returns a copy of one model's weights, as a state dict on the CPU."""
        row = self.flat[index].cpu()
        return {name: row[start : start + math.prod(shape)].view(shape).clone() for name, (start, shape) in self.slots.items()}


def stack_of(template: nn.Module, state_dicts: Sequence[Mapping[str, Tensor]]) -> ModelStack:
    """Returns the stack of models that have the given weights, ready to run (not to train)."""
    if not state_dicts:
        raise InputError("no weights to run: the list of state dicts is empty")
    stack = ModelStack(template, len(state_dicts))
    for index, weights in enumerate(state_dicts):
        stack.load(index, weights)
    return stack.requires_grad_(False)
