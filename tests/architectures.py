"""Every family and form of model whose symmetries are known, small enough to run in milliseconds, with inputs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from timm.layers.mlp import GluMlp, Mlp, SwiGLU
from timm.models.deit import VisionTransformerDistilled
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import ParallelScalingBlock, ParallelThingsBlock, VisionTransformer
from torch import Tensor, nn
from torch.func import functional_call

from wsl.symmetry.stacks import unstack

small = partial(VisionTransformer, img_size=8, patch_size=4, in_chans=1, embed_dim=16, depth=2, num_heads=4, num_classes=3)


def with_mlp_head() -> nn.Module:
    model = small()
    model.register_module("head", Mlp(16, 24, 3))
    return model


class NormedSwiGLU(SwiGLU):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs | {"norm_layer": nn.LayerNorm})


class GateFirst(GluMlp):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs | {"act_layer": nn.SiLU, "gate_last": False})


class ThreeBranches(ParallelThingsBlock):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs | {"num_parallel": 3})


def huggingface(config: str, model: str, **sizes: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    return getattr(transformers, model)(getattr(transformers, config)(**sizes))


def plain_cnn(act: Callable[[], nn.Module], *, norm: bool = False, flatten: bool = True) -> nn.Module:
    """Two convolutions and two linear layers, as in the zoos of the field; channels of a different number each."""
    layers = [nn.Conv2d(1, 6, 3, padding=1), *([nn.BatchNorm2d(6)] if norm else []), act(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(6, 5, 3), *([nn.BatchNorm2d(5)] if norm else []), act()]
    layers += [nn.Flatten()] if flatten else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(20 if flatten else 5, 7), act(), nn.Dropout(0.5), nn.Linear(7, 3))


def norms_behind_activations() -> nn.Module:
    """The norms of Keras stand behind activations; the last one passes into the linear layer."""
    layers = [nn.Conv2d(1, 6, 3), nn.ReLU(), nn.BatchNorm2d(6), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.BatchNorm2d(5)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))


def resnet(block: Any, layers: tuple[int, ...], channels: tuple[int, ...] = (8, 12, 8, 12), **settings: Any) -> nn.Module:
    sizes = {"num_classes": 3, "in_chans": 1, "channels": channels, "zero_init_last": False}
    return ResNet(block, layers, **sizes, **settings)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.n_attention_heads = heads
        for name in ("queries", "keys", "values", "out_projection"):
            self.add_module(name, nn.Linear(width, width, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.get_submodule(name)(x).unflatten(-1, (self.n_attention_heads, -1)).transpose(1, 2) for name in _QKV)
        mixed = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        return self.get_submodule("out_projection")(mixed.transpose(1, 2).flatten(2))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.attention = _Attention(width, heads)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(self.norm1(x))
        return self.fc2(self.fc1(self.norm2(x)).relu())


class _Embedding(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 4, stride=4)
        self.pos_embedding = nn.Parameter(torch.randn(4, width), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1(x).flatten(2).mT + self.pos_embedding


class SmallTransformer(nn.Module):
    """The Vision Transformer of Transformer-NFN, which has no residual connections."""

    def __init__(self, width: int = 16, heads: int = 2, depth: int = 2):
        super().__init__()
        self.embedding = _Embedding(width)
        self.encoder = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.classifier = nn.Module()
        self.classifier.fc1, self.classifier.fc2 = nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        for block in self.encoder:
            x = block(x)
        x = self.get_submodule("classifier.fc1")(self.norm(x).mean(1))
        return self.get_submodule("classifier.fc2")(x.relu())


_QKV = ("queries", "keys", "values")
SmallTransformer.__module__, SmallTransformer.__name__ = "model", "VisionTransformer"


def images(model: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    channels = next(module for module in model.modules() if isinstance(module, nn.Conv2d)).in_channels
    return torch.randn(3, channels, 8, 8, generator=generator, dtype=torch.float64)


def words(model: nn.Module) -> Tensor:
    return torch.randint(1, 11, (3, 6), generator=torch.Generator().manual_seed(0))


_BERT = {"vocab_size": 11, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
_GPT = {"vocab_size": 11, "n_positions": 9, "n_embd": 16, "n_layer": 2, "n_head": 4, "pad_token_id": 0, "bos_token_id": 0}
_GPT |= {"eos_token_id": 0}
_VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
_RESNET = {"num_channels": 1, "embedding_size": 6, "hidden_sizes": [16, 24], "depths": [1, 2], "layer_type": "bottleneck"}

MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": small,
    "no class token": partial(small, class_token=False, global_pool="avg"),
    "registers": partial(small, reg_tokens=2),
    "registers without positions": partial(small, reg_tokens=3, no_embed_class=True),
    "layer scale": partial(small, init_values=1e-5),
    "no qkv bias": partial(small, qkv_bias=False),
    "q/k norm": partial(small, qk_norm=True),
    "pre-norm": partial(small, pre_norm=True),
    "no final norm": partial(small, final_norm=False),
    "no final norm and averages": partial(small, final_norm=False, global_pool="avg"),
    "no final norm and RMS norms": partial(small, final_norm=False, norm_layer=nn.RMSNorm),
    "no final norm and attention pooling": partial(small, class_token=False, final_norm=False, global_pool="map"),
    "no final norm but of the pool": partial(small, class_token=False, fc_norm=True, global_pool="map"),
    "no position embedding": partial(small, pos_embed="none"),
    "attention pooling": partial(small, class_token=False, global_pool="map"),
    "packed gated MLP": partial(small, mlp_layer=GluMlp),
    "SwiGLU with q/k norm": partial(small, mlp_layer=SwiGLU, qk_norm=True),
    "SwiGLU": partial(small, mlp_layer=SwiGLU),
    "packed gated MLP with the gate first": partial(small, mlp_layer=GateFirst),
    "normed SwiGLU": partial(small, mlp_layer=NormedSwiGLU),
    "packed gated MLP with q/k norm": partial(small, mlp_layer=GluMlp, qk_norm=True),
    "RMS norms": partial(small, norm_layer=nn.RMSNorm),
    "RMS norms with q/k norm": partial(small, norm_layer=nn.RMSNorm, qk_norm=True),
    "RMS norms and layer scale": partial(small, norm_layer=nn.RMSNorm, init_values=1e-5),
    "layer norms without shift": partial(small, norm_layer=partial(nn.LayerNorm, bias=False), qk_norm=True),
    "layer norms without weights": partial(small, norm_layer=partial(nn.LayerNorm, elementwise_affine=False)),
    "RMS norms without weights": partial(small, norm_layer=partial(nn.RMSNorm, elementwise_affine=False)),
    "parallel": partial(small, block_fn=ParallelThingsBlock, init_values=1e-5),
    "parallel with q/k norm": partial(small, block_fn=ParallelThingsBlock, qk_norm=True),
    "parallel with SwiGLU": partial(small, block_fn=ParallelThingsBlock, mlp_layer=SwiGLU, qk_norm=True),
    "parallel with normed SwiGLU": partial(small, block_fn=ParallelThingsBlock, mlp_layer=NormedSwiGLU),
    "three parallel branches": partial(small, block_fn=ThreeBranches),
    "parallel scaling": partial(small, block_fn=ParallelScalingBlock, init_values=1e-5, mlp_ratio=1.5),
    "parallel scaling with q/k norm": partial(small, block_fn=ParallelScalingBlock, qk_norm=True),
    "parallel scaling without qkv bias": partial(small, block_fn=ParallelScalingBlock, qkv_bias=False),
    "no head": partial(small, num_classes=0),
    "MLP head": with_mlp_head,
    "distilled": partial(VisionTransformerDistilled, img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=4, num_classes=3),
    "Swin": partial(
        SwinTransformer, img_size=8, patch_size=2, window_size=2, embed_dim=8, depths=(2, 1), num_heads=(2, 4), num_classes=3
    ),
    "Swin of three stages": partial(
        SwinTransformer, img_size=8, patch_size=1, window_size=2, embed_dim=8, depths=(1, 1, 1), num_heads=(2, 2, 4), num_classes=3
    ),
    "Hugging Face ViT": partial(
        huggingface, "ViTConfig", "ViTForImageClassification", image_size=8, patch_size=4, num_channels=1, **_VIT
    ),
    "BERT": partial(huggingface, "BertConfig", "BertForSequenceClassification", max_position_embeddings=9, **_BERT),
    "BERT of tokens": partial(huggingface, "BertConfig", "BertForTokenClassification", max_position_embeddings=9, **_BERT),
    "GPT-2": partial(huggingface, "GPT2Config", "GPT2LMHeadModel", **_GPT),
    "small transformer without residual": partial(SmallTransformer, heads=4),
    "CNN": partial(plain_cnn, nn.ReLU),
    "CNN of tanh": partial(plain_cnn, nn.Tanh),
    "CNN of global pooling": partial(plain_cnn, nn.LeakyReLU, flatten=False),
    "CNN with batch norms": partial(plain_cnn, nn.ReLU, norm=True),
    "CNN with batch norms of tanh": partial(plain_cnn, nn.Tanh, norm=True),
    "CNN with batch norms behind activations": norms_behind_activations,
    "ResNet": partial(resnet, BasicBlock, (2, 1, 1, 2)),
    "ResNet without a shortcut": partial(resnet, BasicBlock, (2, 1, 1, 1), channels=(64, 8, 12, 8)),
    "ResNet of bottlenecks": partial(resnet, Bottleneck, (1, 2, 1, 1), stem_type="deep", stem_width=4, avg_down=True),
    "ResNet of GELU": partial(resnet, BasicBlock, (2, 2, 1, 1), act_layer="gelu"),
    "Hugging Face ResNet": partial(huggingface, "ResNetConfig", "ResNetForImageClassification", **_RESNET),
    "GPT-2 classifier": partial(huggingface, "GPT2Config", "GPT2ForSequenceClassification", **_GPT),
}


def build(name: str) -> tuple[nn.Module, int | None, Tensor]:
    """A model in float64 with weights far from their initial values, its number of heads (Swin's table tells), and inputs."""
    torch.manual_seed(0)
    model = MODELS[name]().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                assert module.num_batches_tracked is not None
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.num_batches_tracked = module.num_batches_tracked.double()  # noise may be added to all tensors
    heads = None if "Swin" in name.split() else 4
    return model, heads, words(model) if name.startswith(("BERT", "GPT")) else images(model)


def outputs(model: nn.Module, weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """Runs a stack (K, *shape): (K, ...) outputs."""
    found = []
    for one in unstack(weights):
        out = functional_call(model, one, (inputs,), tie_weights=False)
        found.append(out if isinstance(out, Tensor) else out.logits)
    return torch.stack(found).detach()
