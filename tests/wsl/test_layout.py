"""A layout covers every weight exactly once, says which axes transform together, and refuses what it does not know."""

import sys
from functools import partial
from typing import Literal

import pytest
import torch
from timm.models import create_model
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import Block, ResPostBlock
from torch import nn

from tests.architectures import MODELS, outputs, small
from wsl.layout import architectures, layout_of
from wsl.layout.axis_table import ROLES, parse
from wsl.layout.slots import Layout
from wsl.symmetry.alignment import distance
from wsl.symmetry.group import MOVES, random_view
from wsl.symmetry.stacks import stack
from zoo_gen.errors import InputError


def meta(name: str) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return MODELS[name]().state_dict()


def kinds(layout: Layout) -> set[str]:
    return {axis.kind for slot in layout.slots for part in slot.parts for axes in part.axes for axis in axes}


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_of_a_model_has_one_slot_of_its_shape(name: str) -> None:
    state_dict = meta(name)
    layout = layout_of(state_dict)
    assert sorted(slot.name for slot in layout.slots) == sorted(state_dict)
    for slot in layout.slots:
        assert slot.shape == tuple(slot.turn(state_dict[slot.name]).shape)
        assert all(part.role in ROLES and len(part.axes) == len(slot.shape) for part in slot.parts)
    members = [member for group in layout.groups().values() for member in group]
    assert len(members) == len(set(members)) == sum(len(slot.parts) for slot in layout.slots)
    assert layout == layout_of(dict(reversed(state_dict.items())))


@pytest.mark.parametrize("name", MODELS)
def test_layers_hold_every_tensor_once_in_the_order_of_the_blocks(name: str) -> None:
    layout = layout_of(meta(name))
    layers = layout.layers()
    assert sorted(tensor for some in layers.values() for tensor in some) == sorted(slot.name for slot in layout.slots)
    blocks = [f"block {i}" for i in range(layout.depth)]
    assert [layer for layer in layers if layer.startswith("block ")] == [block for block in blocks if block in layers]
    assert set(layers) <= {"stem", "tail", "head", *blocks}


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "resnet18"])
def test_the_head_is_what_depends_on_the_number_of_classes(name: str) -> None:
    with torch.device("meta"):
        few, many = (create_model(name, num_classes=classes).state_dict() for classes in (3, 5))
    changed = {tensor for tensor in few if few[tensor].shape != many[tensor].shape}
    assert layout_of(few).head == changed
    assert layout_of(few).layers()["head"] == [slot.name for slot in layout_of(few).slots if slot.name in changed]


def test_blocks_count_from_one_between_stem_and_tail() -> None:
    layout = layout_of(meta("plain"))
    blocks = {slot.name: slot.parts[0].block for slot in layout.slots}
    assert blocks["pos_embed"] == 0
    assert blocks["blocks.0.attn.qkv.weight"] == 1
    assert blocks["blocks.1.mlp.fc2.bias"] == layout.depth == 2
    assert blocks["norm.weight"] == blocks["head.bias"] == 3


def test_axis_sizes_follow_from_shapes_and_the_number_of_heads() -> None:
    sizes = dict(layout_of(meta("plain")).sizes)
    assert (sizes["resid"], sizes["mlp.1"], sizes["class"], sizes["position"]) == (16, 64, 3, 5)
    assert "head.0" not in sizes
    sizes = dict(layout_of(meta("plain"), heads=4).sizes)
    assert (sizes["head.0"], sizes["qk.0"], sizes["vo.1"]) == (4, 4, 4)
    assert dict(layout_of(meta("q/k norm")).sizes)["head.1"] == 4  # the norm's size tells it
    for model in ("plain", "q/k norm"):
        with pytest.raises(InputError, match=r"head\.0"):
            layout_of(meta(model), heads=3)


def test_a_table_states_only_the_symmetries_of_its_form() -> None:
    assert {"qk", "vo", "head", "mlp", "resid"} <= kinds(layout_of(meta("plain")))
    assert "qk" not in kinds(layout_of(meta("q/k norm")))
    parts = {
        name: len(slot.parts)
        for name in ("plain", "packed gated MLP", "packed gated MLP with q/k norm")
        for slot in layout_of(meta(name)).slots
        if "0.mlp.fc1" in slot.name
    }
    assert parts["packed gated MLP"] == parts["packed gated MLP with q/k norm"] == 2
    assert parts["plain"] == 1


def test_queries_and_keys_transform_dually_as_do_values_and_outputs() -> None:
    slots = {slot.name: slot for slot in layout_of(meta("plain")).slots}
    q, k, v = (part.axes[0][1] for part in slots["blocks.1.attn.qkv.weight"].parts)
    o = slots["blocks.1.attn.proj.weight"].parts[0].axes[1][1]
    assert q.name == k.name == "qk.1"
    assert v.name == o.name == "vo.1"
    assert [q.dual, k.dual, v.dual, o.dual] == [False, True, False, True]


def test_unknown_tensors_are_named() -> None:
    with pytest.raises(InputError, match=r"no row for blocks\.0\.adapter\.weight"):
        layout_of(meta("plain") | {"blocks.0.adapter.weight": torch.zeros(2, 2)})


@pytest.mark.parametrize("block", [Block, ResPostBlock])
def test_a_model_of_other_blocks_is_refused_by_their_name(block: type[nn.Module]) -> None:
    model = small(block_fn=block)
    assert layout_of(model.state_dict()).family == "vit"  # nothing in a state dict tells
    if block is Block:
        assert layout_of(model) == layout_of(model.state_dict(), heads=4)
        return
    with pytest.raises(InputError, match=r"blocks\.0 is a ResPostBlock"):
        layout_of(model)


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax"])
@pytest.mark.parametrize("fc_norm", [True, False])
def test_a_maximum_over_tokens_breaks_symmetries_and_is_refused(pool: Literal["avg", "max", "avgmax"], fc_norm: bool) -> None:
    torch.manual_seed(0)
    model = small(class_token=False, global_pool=pool, fc_norm=fc_norm).double().eval()
    weights, inputs = stack([model.state_dict()]), torch.randn(3, 1, 8, 8, dtype=torch.float64)
    expected = outputs(model, weights, inputs)
    layout = layout_of(model.state_dict(), heads=4)  # nothing in a state dict tells
    moved = random_view(weights, layout, torch.Generator().manual_seed(1), moves=("rotation",), maps="orthogonal", strength=0.3)
    kept = bool((outputs(model, moved, inputs) - expected).norm() < 1e-10 * expected.norm())
    assert kept == (pool == "avg")
    if kept:
        assert layout_of(model) == layout
    else:
        with pytest.raises(InputError, match=f"global_pool='{pool}'"):
            layout_of(model)


def test_a_swin_with_a_maximum_over_positions_is_refused() -> None:
    swin = partial(SwinTransformer, img_size=8, patch_size=2, window_size=2, embed_dim=8, depths=(1, 1), num_heads=(2, 2))
    assert layout_of(swin()).family == "swin"
    with pytest.raises(InputError, match="global_pool='max'"):
        layout_of(swin(global_pool="max"))


def test_a_named_model_of_timm_with_norms_after_the_sum_is_refused() -> None:
    with torch.device("meta"), pytest.raises(InputError, match="ResPostBlock"):
        layout_of(create_model("vit_base_patch16_rpn_224", depth=1))


def test_a_model_with_rotary_positions_is_no_vision_transformer() -> None:
    with torch.device("meta"):
        model = create_model("vit_pe_spatial_tiny_patch16_512", depth=1)
        plain = create_model("vit_tiny_patch16_224", depth=1)
    assert layout_of(model.state_dict()).family == layout_of(plain).family == "vit"  # nothing in a state dict tells
    with pytest.raises(InputError, match="the model is a Eva"):
        layout_of(model)


@pytest.mark.parametrize("name", MODELS)
def test_every_known_model_is_of_the_classes_of_its_table(name: str) -> None:
    with torch.device("meta"):
        model = MODELS[name]()
    assert layout_of(model).family == layout_of(model.state_dict()).family


def test_contradictory_sizes_are_named() -> None:
    with pytest.raises(InputError, match=r"'resid' has size 16 .* and size 8 \(norm\.weight\)"):
        layout_of(meta("plain") | {"norm.weight": torch.zeros(8)})
    with pytest.raises(InputError, match=r"blocks\.0\.attn\.qkv\.weight of shape \(47, 16\) is not 3 equal part"):
        layout_of(meta("plain") | {"blocks.0.attn.qkv.weight": torch.zeros(47, 16)})


@pytest.mark.parametrize("state_dict", [{}, {"norm.weight": torch.zeros(0)}])
def test_nothing_is_no_checkpoint(state_dict: dict[str, torch.Tensor]) -> None:
    with pytest.raises(InputError):
        layout_of(state_dict)


def test_a_new_architecture_is_one_file(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.ModuleDict({"stem": nn.Linear(3, 8), "layers": nn.ModuleList([nn.Linear(8, 8, bias=False)])})
    with pytest.raises(InputError):
        layout_of(model)
    table = """
        stem.weight        patch: resid channel
        stem.bias          embed: resid
        layers.{b}.weight  fc1: mlp.{b} resid
    """
    (tmp_path / "perceptron.py").write_text(f"TABLES = ('''{table}''',)")
    monkeypatch.setattr(architectures, "__path__", [*architectures.__path__, str(tmp_path)])
    layout = layout_of(model)
    monkeypatch.delitem(sys.modules, "wsl.layout.architectures.perceptron")
    assert (layout.family, layout.depth) == ("perceptron", 1)
    assert list(layout.groups()) == [(0, "patch"), (0, "embed"), (1, "fc1")]


def test_a_table_with_an_unknown_role_is_a_bug(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "misspelled.py").write_text("TABLES = ('weight  fc9: mlp resid',)")
    monkeypatch.setattr(architectures, "__path__", [str(tmp_path)])
    with pytest.raises(ValueError, match="fc9"):
        layout_of({"weight": torch.zeros(2, 2)})
    monkeypatch.delitem(sys.modules, "wsl.layout.architectures.misspelled")


def test_unknown_tensors_pass_through_where_asked() -> None:
    weights = meta("plain") | {"adapter.weight": torch.zeros(2, 3), "adapter.scale": torch.zeros(())}
    layout = layout_of(weights, opaque=["adapter.*"])
    assert sorted(slot.name for slot in layout.slots) == sorted(weights)
    assert not {"resid", "mlp", "head"} & {
        axis.kind for slot in layout.slots if "adapter" in slot.name for dim in slot.parts[0].axes for axis in dim
    }
    with pytest.raises(InputError, match="adopter"):
        layout_of(weights, opaque=["adapter.*", "adopter.*"])


def test_a_single_number_that_no_table_knows_moves_with_no_symmetry() -> None:
    model = create_model("vit_tiny_patch16_224", depth=1, img_size=32, embed_dim=12, num_heads=2, num_classes=3)
    whole = model.state_dict() | {"adapter.alpha": torch.tensor(1.5)}
    layout, weights = layout_of(whole, heads=2, opaque=["adapter.*"]), stack([whole])
    copy = random_view(weights, layout, torch.Generator().manual_seed(0), moves=MOVES, maps="orthogonal", strength=1.0)
    assert copy["adapter.alpha"].tolist() == [1.5]
    assert float(distance(weights, weights, layout)) == pytest.approx(0, abs=1e-4)
    other = stack([whole | {"adapter.alpha": torch.tensor(2.5)}])
    assert float(distance(other, weights, layout)) == pytest.approx(1, abs=1e-4)


def test_nothing_but_opaque_tensors_is_of_no_family() -> None:
    weights = {"x": torch.zeros(2, 3), "y": torch.zeros(())}
    layout = layout_of(weights, opaque=["*"])
    assert (layout.family, [slot.name for slot in layout.slots]) == ("opaque", ["x", "y"])
    assert layout_of(nn.Linear(2, 3), opaque=["*"]).family == "opaque"
    assert layout_of(meta("plain") | weights, opaque=["x", "y"]).family == "vit"


def test_no_family_is_the_closest_where_none_has_a_row() -> None:
    with pytest.raises(InputError, match=r"none has a row for any of them, such as 'conv1\.weight'") as caught:
        layout_of({"conv1.weight": torch.zeros(2, 3), "layer1.weight": torch.zeros(2, 2)})
    assert "closest" not in str(caught.value)
    with pytest.raises(InputError, match=r"the closest, 'vit', does not because it has no row for conv1\.weight"):
        layout_of(meta("plain") | {"conv1.weight": torch.zeros(2, 3)})


def test_parts_may_have_any_size_that_other_tensors_tell() -> None:
    model = meta("parallel scaling")
    slot = next(slot for slot in layout_of(model).slots if slot.name == "blocks.0.in_proj.weight")
    assert [(part.role, part.size, slot.start(i)) for i, part in enumerate(slot.parts)] == [
        ("fc1", 24, 0),
        ("q", 16, 24),
        ("k", 16, 40),
        ("v", 16, 56),
    ]
    with pytest.raises(InputError, match=r"\(73, 16\) is not parts of 24 \+ 16 \+ 16 \+ 16 rows"):
        layout_of(model | {"blocks.0.in_proj.weight": torch.zeros(73, 16)})


def test_blocks_count_on_through_the_stages_of_a_hierarchy() -> None:
    layout = layout_of(meta("Swin"))
    blocks = {slot.name: slot.parts[0].block for slot in layout.slots}
    assert [blocks[f"layers.{name}.mlp.fc1.weight"] for name in ("0.blocks.0", "0.blocks.1", "1.blocks.0")] == [1, 2, 3]
    assert blocks["patch_embed.proj.weight"] == 0
    assert blocks["layers.1.downsample.reduction.weight"] == 2
    assert blocks["head.fc.weight"] == layout.depth + 1 == 4


@pytest.mark.parametrize("line", ["move a -> b", "norm -> b", "mean a ->"])
def test_a_malformed_rule_is_a_bug(line: str) -> None:
    with pytest.raises(ValueError, match="rule"):
        parse(f"a vectors: resid\n{line}")
