"""LoRA adapters are merged as peft merges them; what is no plain LoRA is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.foreign import WEIGHTS, vit, write_adapter
from zoo_gen import InputError
from zoo_gen.formats.checkpoint import read_checkpoint


def test_an_adapter_is_merged_as_it_is_defined(tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter", WEIGHTS)
    save_file(WEIGHTS, tmp_path / "base.safetensors")
    merged = read_checkpoint(tmp_path / "adapter", base=tmp_path / "base.safetensors")
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    layer = "blocks.0.attn.qkv"
    down, up = (adapter[f"base_model.model.{layer}.lora_{name}.weight"] for name in "AB")
    torch.testing.assert_close(merged[f"{layer}.weight"], WEIGHTS[f"{layer}.weight"] + 1.5 * up @ down)
    assert torch.equal(merged["head.weight"], adapter["base_model.model.head.weight"])
    changed = {name for name in WEIGHTS if not torch.equal(merged[name], WEIGHTS[name])}
    assert changed == {f"{layer}.weight", "head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "not 'LORA'"),
        ({"use_dora": True}, "use_dora"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes its base"),
        ({"alpha_pattern": {"(.*)*x": 1}}, "more than names"),
        ({"alpha_pattern": {"qkv": "big"}}, "no number"),
        ({"r": 4}, "rank"),
        ({"modules_to_save": None}, "modules_to_save"),
        ({"fan_in_fan_out": True}, "do not fit"),
        ({"r": 0, "rank_pattern": [1]}, "more than names"),
    ],
)
def test_an_adapter_that_is_no_plain_lora_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_adapter(tmp_path / "adapter", WEIGHTS, **changes)
    save_file(WEIGHTS, tmp_path / "base.safetensors")
    with pytest.raises(InputError, match=message):
        read_checkpoint(tmp_path / "adapter", base=tmp_path / "base.safetensors")


def test_an_adapter_needs_its_base_and_nothing_else_takes_one(tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter", WEIGHTS)
    save_file(WEIGHTS, tmp_path / "base.safetensors")
    save_file(vit(embed_dim=16), tmp_path / "wider.safetensors")
    with pytest.raises(InputError, match="--base"):
        read_checkpoint(tmp_path / "adapter")
    with pytest.raises(InputError, match="leave base out"):
        read_checkpoint(tmp_path / "base.safetensors", base=tmp_path / "base.safetensors")
    with pytest.raises(InputError, match="do not fit the base's weight"):
        read_checkpoint(tmp_path / "adapter", base=tmp_path / "wider.safetensors")


class Layers(nn.Module):
    """One layer of each kind that LoRA adapts."""

    def __init__(self) -> None:
        super().__init__()
        from transformers.pytorch_utils import Conv1D

        self.embed, self.conv, self.point = nn.Embedding(7, 6), nn.Conv2d(6, 4, 3), nn.Conv2d(4, 4, 1)
        self.first, self.second, self.turned, self.head = nn.Linear(6, 8), nn.Linear(8, 6), Conv1D(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.turned(self.second(self.first(self.embed(x)))))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("targets", "settings"),
    [
        (["first", "second"], {}),
        (["first", "second"], {"use_rslora": True, "bias": "all"}),
        (["first", "second"], {"rank_pattern": {"first": 5}, "alpha_pattern": {"^second": 7, "first": 2}, "bias": "lora_only"}),
        (["embed", "conv", "point"], {"modules_to_save": ["head"]}),
        (["turned"], {"fan_in_fan_out": True}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_merge_as_peft_merges_them(
    tmp_path: Path, targets: list[str], settings: dict[str, Any], dtype: torch.dtype
) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = Layers().to(dtype)
    save_file(model.state_dict(), tmp_path / "base.safetensors")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=3, lora_alpha=4, target_modules=targets, **settings))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter)) if "lora" in name else parameter.mul_(1.5).add_(1)
    adapted.save_pretrained(tmp_path / "adapter")
    merged = read_checkpoint(tmp_path / "adapter", base=tmp_path / "base.safetensors")
    expected = adapted.merge_and_unload().state_dict()
    assert merged.keys() == expected.keys()
    rtol, atol = (1e-6, 1e-6) if dtype == torch.float32 else (2**-7, 2**-8)  # peft rounds changes of embeddings to bfloat16 first
    for name, tensor in expected.items():
        torch.testing.assert_close(merged[name], tensor, rtol=rtol, atol=atol)
    base = load_file(tmp_path / "base.safetensors")
    assert any(not torch.equal(merged[name], base[name]) for name in base)
