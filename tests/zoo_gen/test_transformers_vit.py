"""A ViT of transformers and the timm model that it is read as are one function, and its weights come back to the bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from tests.commands import call
from tests.forms import HF_CONFIG, write_transformers
from tests.zoos import SMALL, tuned
from zoo_gen import InputError, Zoo
from zoo_gen.adopt import main
from zoo_gen.architecture import build, initialize
from zoo_gen.formats.transformers_vit import timm_description, to_timm, to_transformers

IMAGES = torch.randn(3, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def weights(seed: int = 0) -> dict[str, Tensor]:
    return tuned(initialize(SMALL, seed), seed + 4, by=0.2)


def by_hand(state: dict[str, Tensor], config: dict[str, Any], images: Tensor) -> Tensor:
    """What transformers' ViTForImageClassification computes, written out."""
    width, heads, eps = config["hidden_size"], config["num_attention_heads"], config["layer_norm_eps"]

    def linear(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, (width,), state[f"{name}.weight"], state[f"{name}.bias"], eps)

    patches = "vit.embeddings.patch_embeddings.projection"
    x = functional.conv2d(images, state[f"{patches}.weight"], state[f"{patches}.bias"], stride=config["patch_size"])
    x = torch.cat([state["vit.embeddings.cls_token"].expand(len(x), -1, -1), x.flatten(2).mT], dim=1)
    x = x + state["vit.embeddings.position_embeddings"]
    for number in range(config["num_hidden_layers"]):
        layer = f"vit.encoder.layer.{number}"
        inner = norm(x, f"{layer}.layernorm_before")
        q, k, v = (
            linear(inner, f"{layer}.attention.attention.{part}").unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        mixed = (q @ k.mT / (width / heads) ** 0.5).softmax(-1) @ v
        x = x + linear(mixed.transpose(1, 2).flatten(2), f"{layer}.attention.output.dense")
        hidden = functional.gelu(linear(norm(x, f"{layer}.layernorm_after"), f"{layer}.intermediate.dense"))
        x = x + linear(hidden, f"{layer}.output.dense")
    return linear(norm(x, "vit.layernorm")[:, 0], "classifier")


def test_the_timm_model_computes_what_that_of_transformers_does():
    theirs = {name: tensor.double() for name, tensor in to_transformers(weights()).items()}
    ours = to_timm(theirs)
    described = timm_description(HF_CONFIG, ours)
    assert described is not None
    outputs = {}
    for eps in (1e-12, 1e-3):
        model = build({**described, "model_args": {**described["model_args"], "norm_eps": eps}}).double().eval()
        model.load_state_dict(ours)
        outputs[eps] = model(IMAGES)
    expected = by_hand(theirs, HF_CONFIG, IMAGES)
    assert (outputs[1e-12] - expected).abs().max() < 1e-12
    assert (outputs[1e-3] - expected).abs().max() > 1e-6


@pytest.mark.parametrize("prefix", ["vit.", ""])
@pytest.mark.parametrize("release", [4, 5])
def test_weights_go_to_transformers_and_back_to_the_bit(release: int, prefix: str):
    there = weights()
    theirs = to_transformers(there, prefix=prefix, release=release)
    again = to_timm(theirs)
    assert again.keys() == there.keys()
    assert all(again[name].equal(there[name]) for name in there)
    block = f"{prefix}encoder.layer.1.attention.attention.key" if release == 4 else f"{prefix}layers.1.attention.k_proj"
    assert theirs[f"{block}.weight"].equal(there["blocks.1.attn.qkv.weight"][16:32])
    assert "classifier.weight" in theirs


@pytest.mark.parametrize("kind", ["ViTForImageClassification", "ViTModel"])
def test_a_folder_of_transformers_is_adopted_as_the_same_function_and_exported_to_equal_bits(kind: str, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(**{key: value for key, value in HF_CONFIG.items() if key != "architectures"}, num_labels=3)
    theirs = getattr(transformers, kind)(config).double().eval()
    theirs.save_pretrained(tmp_path / "mine" / "a")
    call(main, f"folder={tmp_path / 'mine'}", f"path={tmp_path / 'zoo'}")
    zoo = Zoo.open(tmp_path / "zoo")
    model = zoo[0].build().double()
    found = theirs(IMAGES)
    expected = found.logits if kind == "ViTForImageClassification" else found.last_hidden_state[:, 0]
    assert (model(IMAGES) - expected).abs().max() < 1e-7  # built in float32 from weights in float64
    exact = build(zoo[0].architecture).double().eval()
    exact.load_state_dict(zoo[0].state_dict())
    assert (exact(IMAGES) - expected).abs().max() < 1e-12

    prefix = "vit." if kind == "ViTForImageClassification" else ""
    file, exported = load_file(tmp_path / "mine" / "a" / "model.safetensors"), to_transformers(zoo[0].state_dict(), prefix=prefix)
    assert {name for name in file if name not in exported} == (
        {f"pooler.dense.{part}" for part in ("weight", "bias")} if not prefix else set()
    )
    assert all(tensor.equal(file[name]) for name, tensor in exported.items())
    again = to_transformers(zoo[0].state_dict(), prefix=prefix, release=5)
    assert all(tensor.equal(theirs.state_dict()[name]) for name, tensor in again.items())


@pytest.mark.parametrize("change", [{"hidden_act": "gelu_new"}, {"model_type": "deit"}])
def test_another_function_keeps_its_names_and_its_number_of_heads(change: dict[str, Any], tmp_path: Path):
    write_transformers(tmp_path / "mine" / "a", weights())
    (tmp_path / "mine" / "a" / "config.json").write_text(json.dumps({**HF_CONFIG, **change}))
    call(main, f"folder={tmp_path / 'mine'}", f"path={tmp_path / 'zoo'}")
    zoo = Zoo.open(tmp_path / "zoo")
    assert zoo[0].architecture == {"architecture": None, "num_heads": 2}
    assert "vit.encoder.layer.0.attention.attention.query.weight" in zoo[0].state_dict()


def test_without_biases_of_queries_it_is_the_same_function(tmp_path: Path):
    theirs = {
        name: tensor
        for name, tensor in to_transformers(weights()).items()
        if not name.endswith(("query.bias", "key.bias", "value.bias"))
    }
    (tmp_path / "mine" / "a").mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in theirs.items()}, tmp_path / "mine" / "a" / "model.safetensors")
    (tmp_path / "mine" / "a" / "config.json").write_text(json.dumps({**HF_CONFIG, "qkv_bias": False}))
    call(main, f"folder={tmp_path / 'mine'}", f"path={tmp_path / 'zoo'}")
    model = Zoo.open(tmp_path / "zoo")[0].build()
    zeros = {
        f"vit.encoder.layer.{n}.attention.attention.{part}.bias": torch.zeros(16)
        for n in (0, 1)
        for part in ("query", "key", "value")
    }
    assert torch.allclose(model(IMAGES.float()), by_hand(theirs | zeros, HF_CONFIG, IMAGES.float()), atol=1e-5)


@pytest.mark.parametrize("odd", ["vit.encoder.layer.0.lora.weight", "decoder.0.weight"])
def test_a_tensor_that_timm_has_not_is_refused_in_either_direction(odd: str):
    with pytest.raises(InputError, match="is of no ViT that timm has"):
        to_timm({**to_transformers(weights()), odd: torch.zeros(1)})
    with pytest.raises(InputError, match="has no tensor for"):
        to_transformers({**weights(), odd: torch.zeros(1)})


def test_a_part_of_queries_keys_and_values_is_refused():
    theirs = to_transformers(weights())
    del theirs["vit.encoder.layer.1.attention.attention.key.weight"]
    with pytest.raises(InputError, match="needs query, key and value"):
        to_timm(theirs)
