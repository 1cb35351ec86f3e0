"""Checkpoints come out by the names of the model itself, whatever wrapped, renamed or moved them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.foreign import WEIGHTS, same, write_sharded
from wsl.layout import layout_of
from zoo_gen import InputError
from zoo_gen.formats.checkpoint import read_checkpoint
from zoo_gen.formats.names import RELEASE_4, of_other_releases, unwrapped
from zoo_gen.formats.shapes import shapes_of


def inside(part: str) -> dict[str, Tensor]:
    return {name.replace("blocks.0.", f"blocks.0.{part}"): tensor for name, tensor in WEIGHTS.items()}


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module.", "backbone.", "net."]
)
@pytest.mark.parametrize("sharded", [False, True])
def test_wrappers_come_off_in_any_order_and_depth(tmp_path: Path, prefix: str, sharded: bool) -> None:
    wrapped = {prefix + name: tensor for name, tensor in WEIGHTS.items()}
    write_sharded(tmp_path, wrapped, suffix="safetensors") if sharded else torch.save(wrapped, tmp_path / "pytorch_model.bin")
    assert same(read_checkpoint(tmp_path))


@pytest.mark.parametrize(
    "part", ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod._fsdp_wrapped_module."]
)
def test_wrappers_inside_names_come_off(part: str) -> None:
    assert same(unwrapped(inside(part)))
    assert same(unwrapped({f"module.{name}": tensor for name, tensor in inside(part).items()}))


def test_two_tensors_never_become_one() -> None:
    with pytest.raises(InputError, match="which are one tensor of a model"):
        unwrapped(WEIGHTS | inside("_orig_mod."))


@pytest.mark.parametrize("wrap", ["", "_orig_mod."])
def test_an_averaged_model_is_the_model(wrap: str) -> None:
    averaged = {f"{wrap}module.{name}": tensor for name, tensor in WEIGHTS.items()}
    assert same(unwrapped(averaged | {"n_averaged": torch.tensor(3)}))
    assert "n_averaged" in unwrapped(WEIGHTS | {"n_averaged": torch.tensor(3)})  # beside weights of no averaged model


def test_masks_are_no_weights_and_biases_of_their_name_are() -> None:
    mask, bias = torch.ones(1, 1, 4, 4), torch.ones(4)
    assert list(unwrapped({"h.0.attn.bias": mask, "h.0.attn.masked_bias": torch.tensor(-1e4), "h.0.attn.c_attn.bias": bias})) == [
        "h.0.attn.c_attn.bias"
    ]
    assert list(unwrapped({"h.0.attn.bias": bias, "wte.weight": mask})) == ["h.0.attn.bias", "wte.weight"]


def test_norms_of_older_releases_have_todays_names() -> None:
    found = unwrapped({"bert.embeddings.LayerNorm.gamma": torch.ones(2), "blocks.0.ls1.gamma": torch.ones(2)})
    assert list(found) == ["bert.embeddings.LayerNorm.weight", "blocks.0.ls1.gamma"]


def test_a_part_of_what_was_trained_is_read_by_its_prefix(tmp_path: Path) -> None:
    head = {"head.mlp.0.weight": torch.zeros(4, 8), "head.last_layer.weight_v": torch.zeros(8, 4)}
    body = {f"backbone.{name}": tensor for name, tensor in WEIGHTS.items()}
    torch.save({"teacher": body | head, "student": {"module.x": torch.ones(1)}, "epoch": 3}, tmp_path / "dino.pth")
    for prefix in ("backbone", "backbone."):
        assert same(read_checkpoint(tmp_path / "dino.pth", prefix=prefix))
    assert same(read_checkpoint(tmp_path / "dino.pth", leave_out=["head.*"]))
    with pytest.raises(InputError, match=r"below 'encoder\.'; its names begin with 'backbone', 'head'"):
        read_checkpoint(tmp_path / "dino.pth", prefix="encoder")
    with pytest.raises(InputError, match=r"is named 'tail\.\*'"):
        read_checkpoint(tmp_path / "dino.pth", leave_out=["tail.*"])


def test_what_lies_beside_lightnings_model_can_be_left_out(tmp_path: Path) -> None:
    beside = {f"model.{name}": tensor for name, tensor in WEIGHTS.items()} | {"criterion.pos_weight": torch.tensor(3.2)}
    torch.save({"pytorch-lightning_version": "2.5.0", "state_dict": beside}, tmp_path / "last.ckpt")
    assert same(read_checkpoint(tmp_path / "last.ckpt", leave_out=["criterion.*"]))
    assert same(read_checkpoint(tmp_path / "last.ckpt", prefix="model"))


def test_files_are_known_by_their_content(tmp_path: Path) -> None:
    for name in ("model_best.pth.tar", "weights", "model.weights"):
        torch.save({"state_dict": WEIGHTS, "epoch": 12}, tmp_path / name)
        assert same(read_checkpoint(tmp_path / name))
    save_file(WEIGHTS, tmp_path / "named.pt")
    assert same(read_checkpoint(tmp_path / "named.pt"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:" + "5e" * 32 + "\nsize 22883732\n", "git-lfs pointer"),
        ("\n<!DOCTYPE html>\n<html><head></head></html>\n", "a web page"),
        ("<html>", "a web page"),
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "model.pth", "model"])
def test_what_was_fetched_in_place_of_weights_is_called_that(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_checkpoint(tmp_path / name)


def test_placeholders_of_sharded_training_are_called_that(tmp_path: Path) -> None:
    torch.save({name: torch.empty(0) for name in WEIGHTS}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="ZeRO-3"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("beside", [False, True], ids=["own", "shared"])
def test_the_hubs_cache_is_read_by_snapshot_index_and_repository(tmp_path: Path, beside: bool) -> None:
    repository = tmp_path / "models--owner--vit"
    snapshot, blobs = repository / "snapshots" / "abc", (tmp_path if beside else repository) / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    index = write_sharded(tmp_path, WEIGHTS, suffix="safetensors")
    for number, path in enumerate([index, *tmp_path.glob("*.safetensors")]):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(os.path.relpath(blobs / str(number), snapshot))
    (snapshot.parent / "old").mkdir()
    (repository / "refs").mkdir()
    for place in (snapshot, snapshot / index.name):
        assert same(read_checkpoint(place))
    with pytest.raises(InputError, match="has the snapshots abc, old"):
        read_checkpoint(repository)
    (repository / "refs" / "main").write_text("abc")
    assert same(read_checkpoint(repository))


def test_a_missing_shard_is_to_be_fetched_and_a_tied_head_is_not_missing(tmp_path: Path) -> None:
    index = write_sharded(tmp_path, WEIGHTS, suffix="safetensors")
    content = json.loads(index.read_text())
    shard = content["weight_map"]["head.weight"]
    content["weight_map"]["lm_head.weight"] = shard
    index.write_text(json.dumps(content))
    assert same(read_checkpoint(tmp_path))
    (tmp_path / shard).unlink()
    with pytest.raises(InputError, match=f"{shard} is missing; fetch it again"):
        read_checkpoint(tmp_path)


def test_names_of_one_release_lead_to_those_of_the_other() -> None:
    old = "vit.encoder.layer.3.attention.attention.query.weight"
    new = "vit.layers.3.attention.q_proj.weight"
    assert old in of_other_releases(new)
    assert new in of_other_releases(old)
    assert len(set(RELEASE_4.values())) == len(RELEASE_4)


@pytest.mark.parametrize("model", ["ViTModel", "ViTForImageClassification", "BertModel", "GPT2Model", "GPT2LMHeadModel"])
def test_models_of_transformers_are_read_as_they_save_themselves(tmp_path: Path, model: str) -> None:
    transformers = pytest.importorskip("transformers")
    vision = {"image_size": 8, "patch_size": 4, "num_channels": 1}
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    settings: dict[str, Any] = {
        "V": sizes | vision,
        "B": sizes | {"vocab_size": 50, "max_position_embeddings": 16},
        "G": {"vocab_size": 50, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2},
    }[model[0]]
    made = getattr(transformers, model)
    config = made.config_class(**settings)
    made(config).save_pretrained(tmp_path)
    weights = read_checkpoint(tmp_path)
    assert sum(slot.shape != () for slot in layout_of(weights).slots) == len(weights)
    assert layout_of(made(config), heads=2).family == layout_of(weights).family


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("base_release", [4, 5])
@pytest.mark.parametrize("adapter_release", [4, 5])
def test_adapters_equal_merge_and_unload_across_releases(tmp_path: Path, base_release: int, adapter_release: int) -> None:
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(**sizes, image_size=8, patch_size=4, num_channels=1, num_labels=3)
    base = transformers.ViTForImageClassification(config)
    known = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj", "fc2"], modules_to_save=["classifier"]))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    adapted.save_pretrained(tmp_path / "adapter")
    expected = adapted.merge_and_unload().state_dict()

    def of(release: int, name: str) -> str:
        return next(of_other_releases(name)) if release == 4 else name

    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({of(adapter_release, name): tensor for name, tensor in load_file(file).items()}, file)
    save_file({of(base_release, name): tensor for name, tensor in known.items()}, tmp_path / "base.safetensors")
    merged = read_checkpoint(tmp_path / "adapter", base=tmp_path / "base.safetensors")
    assert merged.keys() == {of(base_release, name) for name in expected}
    for name, tensor in expected.items():
        torch.testing.assert_close(merged[of(base_release, name)], tensor)


def test_names_of_timm_are_taken_as_people_paste_them() -> None:
    assert shapes_of("timm/vit_tiny_patch16_224.augreg_in21k").keys() == shapes_of("vit_tiny_patch16_224").keys()
    with pytest.raises(InputError, match="has no weights 'augreg_in22k'; it has augreg_in21k"):
        shapes_of("vit_tiny_patch16_224.augreg_in22k")


def test_windows_of_the_stages_of_a_swin_may_have_different_sizes() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("swin_tiny_patch4_window7_224", img_size=128, embed_dim=8, depths=(1,) * 4, num_heads=(1, 1, 2, 2))
    assert layout_of(model.state_dict()).family == "swin"
