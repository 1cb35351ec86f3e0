"""Every tokenizer covers every weight and decodes to the bit, in every mode; what should break the round trip does."""

import dataclasses
import math
from itertools import pairwise, product
from pathlib import Path

import pytest
import timm
import torch
from omegaconf import OmegaConf
from torch import Tensor

from tests.checkpoints import fine_tuned, identical, shapes, tokenizers, weights
from wsl.layout.axis_table import ROLES
from wsl.tokenizers.chunks import Chunks
from wsl.tokenizers.codec import Codec
from wsl.tokenizers.fisher_basis import FisherBasis
from wsl.tokenizers.plan import Segment, coverage
from wsl.tokenizers.residual import Residual
from wsl.tokenizers.rows import Rows
from wsl.tokenizers.tokens import Tokenizer, Tokens
from zoo_gen import Checkpoint
from zoo_gen.config import CONFIGS, instantiate
from zoo_gen.errors import InputError
from zoo_gen.files import write_json, write_weights
from zoo_gen.reader import read_weights

CARDS = sorted((CONFIGS / "tokenizer").glob("*.yaml"))
LOCAL = [card for card in CARDS if instantiate(OmegaConf.load(card)).local]
DIGITS = shapes(32, 3, 4, "linear")
WILD = weights(DIGITS, seed=0)
CHILD = fine_tuned(WILD, seed=1)
ROOT = {name: weight.nan_to_num(1, 1, 1) for name, weight in WILD.items()}


@pytest.fixture(scope="session")
def root_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("root")
    sizes = {"img_size": 8, "patch_size": 2, "in_chans": 1, "embed_dim": 32, "depth": 3, "num_heads": 4, "mlp_ratio": 2}
    card = {"architecture": "vit_tiny_patch16_224", "num_classes": 5, "model_args": sizes}
    write_json(folder / "config.json", {**card, "pretrained_cfg": {"input_size": [1, 8, 8]}})
    write_weights(folder / "model.safetensors", ROOT)
    of_root = {"parent": None, "stage": "pretrain", "epoch": 1, "final": True, "status": "ok", "fold": None}
    return Checkpoint(model="a", root="a", **of_root, factors={}, results={}, path=folder / "model.safetensors")


@pytest.fixture(params=CARDS, ids=lambda card: card.stem)
def tokenizer(request: pytest.FixtureRequest, root_checkpoint: Checkpoint) -> Tokenizer:
    tokenizer = instantiate(OmegaConf.load(request.param))
    tokenizer.prepare([root_checkpoint])
    return tokenizer


@pytest.fixture(params=LOCAL, ids=lambda card: card.stem)
def local(request: pytest.FixtureRequest) -> Tokenizer:
    """A tokenizer each of whose values depends on one weight."""
    return instantiate(OmegaConf.load(request.param))


OPAQUE = {"adapter.alpha": torch.tensor(1.5), "adapter.down.weight": torch.randn(3, 4), "adapter.down.bias": torch.randn(3)}
OPAQUE |= {"adapter.conv": torch.randn(2, 3, 2, 2), "adapter.query": torch.randn(1, 3, 2)}


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)
@pytest.mark.parametrize(("known", "patterns"), [(DIGITS, ["adapter.*"]), ({}, ["*.alpha", "adapter.[!a]*"])])
def test_every_card_lays_opaque_tensors_out_once_and_returns_their_bits(
    card: Path, known: dict[str, Tensor], patterns: list[str], root_checkpoint: Checkpoint
) -> None:
    tokenizer: Codec = instantiate(OmegaConf.load(card))
    tokenizer.prepare([root_checkpoint])
    root = ROOT if known else None
    whole = {name: CHILD[name] for name in known} | OPAQUE
    laid = tokenizer.plan(whole, root=root or whole, opaque=patterns)
    assert sum(segment.n_weights for segments in laid.segments for segment in segments) == sum(t.numel() for t in whole.values())
    if root or tokenizer.reference == "none":
        tokens = tokenizer.encode(whole, root=root, opaque=patterns)
        assert identical(tokenizer.decode(tokens, root=root), whole)
    with pytest.raises(InputError, match="no tensor of the checkpoint is named 'adopter"):
        tokenizer.plan(whole, root=root or whole, opaque=[*patterns, "adopter.*"])


def test_every_card_makes_a_lossless_tokenizer(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(CHILD, root=ROOT)
    n, width = tokens.plan.n_tokens, tokens.plan.width
    assert tokens.values.shape == tokens.mask.shape == (n, width)
    assert tokens.mask.dtype == torch.bool
    assert tokens.positions.shape == (n, 3)
    assert int(tokens.mask.sum()) == tokens.plan.n_weights == sum(weight.numel() for weight in CHILD.values())
    assert not tokens.values[~tokens.mask].any()
    assert identical(tokenizer.decode(tokens, root=ROOT), CHILD)


def test_tokens_of_equal_shapes_share_a_plan_and_others_do_not(tokenizer: Tokenizer) -> None:
    plan = tokenizer.encode(CHILD, root=ROOT).plan
    assert {plan: 1}[tokenizer.encode(ROOT, root=ROOT).plan] == 1
    assert plan == tokenizer.plan(dict(reversed(CHILD.items())), root=ROOT)
    other = weights(shapes(32, 3, 4, "mlp"), seed=0)
    assert plan != tokenizer.plan(other, root=ROOT)
    assert plan != tokenizer.plan({name: weight.bfloat16() for name, weight in CHILD.items()}, root=ROOT)


def test_groups_tile_the_tokens_and_positions_name_them(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(CHILD, root=ROOT)
    end = 0
    for group in tokens.plan.groups:
        assert group.start == end
        end = group.stop
        positions = tokens.positions[group.start : group.stop]
        assert positions[:, 0].unique().tolist() == [group.block]
        assert positions[:, 1].unique().tolist() == [ROLES.index(group.role)]
        assert positions[:, 2].tolist() == list(range(end - group.start))
        assert int(tokens.mask[group.start : group.stop].sum()) == group.n_weights
    assert end == tokens.plan.n_tokens


def changed(tokenizer: Tokenizer) -> Tensor:
    """Where values change with a weight of the output of the attention of block 1 (T D)."""
    flipped = {name: weight.clone() for name, weight in ROOT.items()}
    flipped["blocks.1.attn.proj.weight"][3, 4] += 1
    before, after = (tokenizer.encode(one, root=ROOT).values.view(torch.int32) for one in (ROOT, flipped))
    return before != after


def test_a_flipped_weight_changes_entries_of_its_own_group(tokenizer: Tokenizer) -> None:
    tokens, own = tokenizer.encode(ROOT, root=ROOT), changed(tokenizer)
    groups = [group for group in tokens.plan.groups if own[group.start : group.stop].any()]
    keys = [segment.key for group in groups for segment in group.segments]
    assert len(groups) == 1
    assert "blocks.1.attn.proj.weight" in keys


def test_a_flipped_weight_changes_exactly_one_entry_of_local_tokens(local: Tokenizer) -> None:
    assert int(changed(local).sum()) == 1


def test_tokens_that_are_not_local_mix_the_weights_of_a_tensor(root_checkpoint: Checkpoint) -> None:
    tokenizer = FisherBasis(width=64, images=16, seed=0)
    tokenizer.prepare([root_checkpoint])
    assert int(changed(tokenizer).sum()) > 1


def test_a_permuted_plan_does_not_decode(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(CHILD, root=ROOT)
    *groups, last = tokens.plan.groups
    first, second, *rest = last.segments
    swapped = (dataclasses.replace(first, start=first.start + 1), dataclasses.replace(second, start=last.start), *rest)
    plan = dataclasses.replace(tokens.plan, groups=(*groups, dataclasses.replace(last, segments=swapped)))
    assert plan != tokens.plan
    planned, permuted = (tokenizer.decode(Tokens(tokens.values, one, ()), root=ROOT) for one in (tokens.plan, plan))
    assert not identical(permuted, planned)


def test_decoded_weights_share_no_memory_with_tokens(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(CHILD, root=ROOT)
    for weight in tokenizer.decode(tokens, root=ROOT).values():
        weight.zero_()
    assert identical(tokenizer.decode(tokens, root=ROOT), CHILD)


def test_weights_decoded_in_place_lie_where_the_tokens_were_and_apart_from_each_other(local: Tokenizer) -> None:
    for types in [(torch.float32,), (torch.bfloat16, torch.float32, torch.float16)]:
        root, child = weights(DIGITS, 0, types), weights(DIGITS, 1, types)
        tokens = local.encode(child, root=root)
        first, last = tokens.values.data_ptr(), tokens.values.data_ptr() + tokens.values.nbytes
        decoded = local.decode_in_place(tokens, root=root)
        assert identical(decoded, child)
        elsewhere = local.decode(local.encode(child, root=root), root=root)
        assert list(decoded) == list(elsewhere)
        assert not any(first <= weight.data_ptr() < last for weight in elsewhere.values())
        ranges = sorted((weight.data_ptr(), weight.data_ptr() + weight.nbytes) for weight in decoded.values())
        assert first <= ranges[0][0]
        assert ranges[-1][1] <= last
        assert all(stop <= start for (_, stop), (start, _) in pairwise(ranges))


def test_tokens_that_cannot_be_decoded_are_not_lost() -> None:
    tokenizer = Residual(width=64, reference="root")
    tokens = tokenizer.encode(CHILD, root=ROOT)
    with pytest.raises(InputError, match="pass root="):
        tokenizer.decode_in_place(tokens, root={name: weight for name, weight in ROOT.items() if name != "norm.bias"})
    assert identical(tokenizer.decode(tokens, root=ROOT), CHILD)


def test_regions_cover_every_tensor_once_and_one_block_at_a_time() -> None:
    plan = Residual(width=64, reference="none").plan(CHILD)
    assert sorted(i for region in plan.regions for i in region.slots) == [i for i, _ in plan.tensors]
    blocks = [{part.block for i in region.slots for part in plan.layout.slots[i].parts} for region in plan.regions]
    assert all(len(of_region) == 1 for of_region in blocks)
    assert set.union(*blocks) == {group.block for group in plan.groups}


def test_chunks_take_what_no_table_knows_in_the_order_of_names() -> None:
    layers = {f"layer.{i}.w": torch.full((3, 2), float(i)) for i in (10, 2)}
    state_dict = {"scalar": torch.tensor(7.0), **layers, "head.bias": torch.zeros(5), "body.conv": torch.ones(2, 1, 1, 1, 1)}
    with pytest.raises(InputError, match="no architecture"):
        Residual(width=4, reference="none").encode(state_dict)
    for reference, scale in product(["none", "root"], ["within", "apart"]):
        tokenizer = Chunks(width=4, reference=reference, scale=scale)
        tokens = tokenizer.encode(state_dict, root=state_dict)
        assert identical(dict(sorted(tokenizer.decode(tokens, root=state_dict).items())), dict(sorted(state_dict.items())))
    tokens = Chunks(width=4, reference="none").encode(state_dict)
    assert tokens.values.flatten()[:16].tolist() == [1, 1, *[2] * 6, *[10] * 6, 7, 0]
    assert [group.role for group in tokens.plan.groups] == ["vectors", "head"]
    assert {segment.kind for segment in tokens.plan.groups[0].segments} == {"body.conv", "layer.{b}.w", "scalar"}
    for broken in ({}, {"empty": torch.zeros(0, 3)}):
        with pytest.raises(InputError, match="tensor"):
            Chunks(width=4, reference="none").encode(broken)


@pytest.mark.parametrize("scale", ["within", "apart"])
def test_tensors_that_are_named_as_scales_are_weights_like_any_other(scale: str) -> None:
    state_dict = {"a": torch.randn(3, 2), "a:scale": torch.randn(4), "b:scale": torch.randn(1), "a:scale:scale": torch.randn(2)}
    tokenizer = Chunks(width=4, reference="none", scale=scale)
    tokens = tokenizer.encode(state_dict)
    assert int(tokens.mask.sum()) == 13 + (len(state_dict) if scale == "apart" else 0)
    assert identical(tokenizer.decode(tokens), dict(sorted(state_dict.items())))
    assert not identical(tokenizer.decode(tokens), state_dict | {"a:scale": torch.zeros(4)})


def test_chunks_sort_digits_that_are_no_decimal_numbers_as_text() -> None:
    names = ["x²", "²", "w." + "9" * 5000, "w.10", "w.2", "w.٣"]
    state_dict = {name: torch.full((1,), float(i)) for i, name in enumerate(names)}
    tokenizer = Chunks(width=1, reference="none")
    tokens = tokenizer.encode(state_dict)
    assert list(tokenizer.decode(tokens)) == ["w.2", "w.٣", "w.10", "w." + "9" * 5000, "x²", "²"]
    assert tokenizer.decode(tokens) == state_dict


def test_decoded_weights_can_be_written_and_read(tokenizer: Tokenizer, tmp_path: Path) -> None:
    decoded = tokenizer.decode(tokenizer.encode(CHILD, root=ROOT), root=ROOT)
    write_weights(tmp_path / "model.safetensors", decoded)
    assert identical(read_weights(tmp_path / "model.safetensors"), decoded)
    assert len({weight.data_ptr() for weight in decoded.values()}) == len(decoded)


def test_tokens_keep_the_type_of_the_weights() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        state_dict = weights(DIGITS, 0, (dtype,))
        assert Residual(width=64, reference="none").encode(state_dict).values.dtype == dtype
    mixed = weights(DIGITS, 0, (torch.bfloat16, torch.float16))
    assert Residual(width=64, reference="none").encode(mixed).values.dtype == torch.float32


def test_differences_to_the_root_vanish_where_the_weights_equal_it_except_for_heads() -> None:
    tokens = Residual(width=64, reference="root").encode(ROOT, root=ROOT)
    heads = tokens.positions[:, 1] == ROLES.index("head")
    assert not tokens.values[~heads].any()
    assert bool(tokens.values[heads].any(dim=1).all())


def test_differences_are_exact_only_with_their_corrections() -> None:
    tokenizer = Residual(width=64, reference="root")
    tokens = tokenizer.encode(CHILD, root=WILD)
    assert tokens.corrections
    assert all(not correction.name.startswith("head") for correction in tokens.corrections)
    assert identical(tokenizer.decode(tokens, root=WILD), CHILD)
    assert not identical(tokenizer.decode(tokens.with_values(tokens.values), root=WILD), CHILD)
    assert not identical(tokenizer.decode(tokens, root=CHILD), CHILD)
    assert Residual(width=64, reference="none").encode(CHILD).corrections == ()


def test_what_the_root_lacks_or_has_in_another_shape_is_coded_raw() -> None:
    root = {name: weight for name, weight in ROOT.items() if not name.startswith("head.")}
    del root["cls_token"]
    root["pos_embed"] = torch.zeros(1, 5, 32)
    tokenizer = Residual(width=64, reference="root")
    tokens = tokenizer.encode(CHILD, root=root)
    raw = {slot.name for slot, difference in zip(tokens.plan.layout.slots, tokens.plan.differences, strict=True) if not difference}
    assert raw == {"cls_token", "pos_embed", "head.weight", "head.bias"}
    assert identical(tokenizer.decode(tokens, root=root), CHILD)


def test_differences_without_their_root_are_refused() -> None:
    tokenizer = Residual(width=64, reference="root")
    with pytest.raises(InputError, match="pass root="):
        tokenizer.encode(CHILD)
    tokens = tokenizer.encode(CHILD, root=ROOT)
    with pytest.raises(InputError, match="pass root="):
        tokenizer.decode(tokens)
    with pytest.raises(InputError, match="pass root="):
        tokenizer.decode(tokens, root={name: weight for name, weight in ROOT.items() if name != "norm.bias"})


def test_a_column_that_writes_to_the_residual_stream_is_a_vector_as_is_a_row_that_reads_from_it() -> None:
    tokens = Residual(width=32, reference="none").encode(CHILD)
    groups = {(group.block, group.role): tokens.values[group.start : group.stop] for group in tokens.plan.groups}
    proj, qkv = CHILD["blocks.1.attn.proj.weight"], CHILD["blocks.1.attn.qkv.weight"]
    assert torch.equal(groups[2, "o"][5].view(torch.int32), proj[:, 5].clone().view(torch.int32))
    assert not torch.equal(groups[2, "o"][5].view(torch.int32), proj[5].view(torch.int32))
    assert torch.equal(groups[2, "k"][5].view(torch.int32), qkv[32 + 5].view(torch.int32))
    assert torch.equal(
        groups[0, "patch"].view(torch.int32), CHILD["patch_embed.proj.weight"].flatten(1).T.clone().view(torch.int32)
    )


def test_a_row_is_an_output_channel_with_its_bias_and_zeros() -> None:
    tokens = Rows(reference="none").encode(CHILD)
    (group,) = [group for group in tokens.plan.groups if (group.block, group.role) == (3, "fc1")]
    row = tokens.values[group.start + 7].view(torch.int32)
    assert tokens.plan.width == 2 * 32 + 1
    assert torch.equal(row[:32], CHILD["blocks.2.mlp.fc1.weight"][7].view(torch.int32))
    assert torch.equal(row[32:33], CHILD["blocks.2.mlp.fc1.bias"][7:8].view(torch.int32))
    assert not row[33:].any()


@pytest.mark.parametrize("width", [7, 33, 40, 200])
def test_rows_of_any_width_come_back_and_begin_at_a_token_of_their_own(width: int) -> None:
    tokenizer = Rows(width=width, reference="root")
    tokens = tokenizer.encode(CHILD, root=ROOT)
    assert tokens.values.shape[1] == width
    assert identical(tokenizer.decode(tokens, root=ROOT), CHILD)
    (group,) = [group for group in tokens.plan.groups if (group.block, group.role) == (3, "fc1")]
    per_row = math.ceil(33 / width)
    assert group.stop - group.start == 64 * per_row
    rows = Rows(width=width, reference="none").encode(CHILD).values[group.start : group.stop].view(64, per_row * width)
    expected = torch.cat([CHILD["blocks.2.mlp.fc1.weight"], CHILD["blocks.2.mlp.fc1.bias"][:, None]], dim=1)
    assert torch.equal(rows[:, :33].contiguous().view(torch.int32), expected.view(torch.int32))
    assert not rows[:, 33:].any()


def test_a_segment_reads_and_writes_its_part_in_a_batch_of_tokens(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode({name: weight.nan_to_num(0, 0, 0) for name, weight in CHILD.items()}, root=ROOT)
    segments: dict[str, Segment] = {segment.key: segment for group in tokens.plan.groups for segment in group.segments}
    segment = segments["blocks.1.attn.proj.weight"]
    assert segment.kind == "blocks.{b}.attn.proj.weight"
    batch = torch.stack([tokens.values, 2 * tokens.values])
    part = segment.of(batch)
    assert part.shape == (2, *segment.shape)
    torch.testing.assert_close(part[1], 2 * segment.of(tokens.values), equal_nan=True)
    part.zero_()
    decoded = tokenizer.decode(tokens.with_values(batch[1]), root=ROOT)
    zero = ROOT if tokenizer.reference == "root" else {name: torch.zeros_like(weight) for name, weight in ROOT.items()}
    weight, bias = "blocks.1.attn.proj.weight", "blocks.1.attn.proj.bias"
    torch.testing.assert_close(decoded[weight], zero[weight], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(decoded[bias], zero[bias], atol=1e-3)


def test_what_does_not_fit_is_refused() -> None:
    tokenizer = Residual(width=64, reference="none")
    with pytest.raises(InputError, match="418 tokens of width 64"):
        tokenizer.encode(CHILD).with_values(torch.zeros(417, 64))
    with pytest.raises(InputError, match=r"'norm\.bias' is torch\.int64"):
        tokenizer.encode(CHILD | {"norm.bias": torch.zeros(32, dtype=torch.int64)})
    with pytest.raises(InputError, match=r"width 0.*null is the widest row"):
        Rows(width=0, reference="none")
    with pytest.raises(InputError, match="width 0"):
        Residual(width=0, reference="none")
    with pytest.raises(InputError, match="neither 'none' nor 'root'"):
        Rows(reference="parent")
    with pytest.raises(InputError, match="neither 'raw' nor 'canonical'"):
        Rows(reference="none", form="aligned")
    with pytest.raises(InputError, match="width 0"):
        Chunks(width=0, reference="none")


def test_padding_is_at_most_a_twentieth_and_coverage_says_so() -> None:
    for head in ("linear", "mlp"):
        meta = shapes(32, 3, 4, head)
        frame = coverage(Residual(width=64, reference="none").plan(meta))
        assert frame["weights"]["total"] == sum(tensor.numel() for tensor in meta.values())
        assert frame["weights"].iloc[:-1].sum() == frame["weights"]["total"]
        assert frame["padding"]["total"] <= 0.05 < coverage(Rows(reference="none").plan(meta))["padding"]["total"]


MODELS = ["vit_tiny_patch16_224", "vit_small_patch16_224", "deit3_small_patch16_224", "vit_base_patch14_reg4_dinov2"]


PLAIN = [name for name in timm.list_models("vit_*patch16_224") if name.split("_")[1] in ("tiny", "small", "base", "large")]


@pytest.mark.parametrize("name", PLAIN)
def test_padding_is_at_most_a_twentieth_on_every_timm_vit_from_tiny_to_large(name: str) -> None:
    with torch.device("meta"):
        meta = timm.create_model(name, pretrained=False).state_dict()
    assert coverage(Residual(width=64, reference="none").plan(meta))["padding"]["total"] <= 0.05


@pytest.mark.parametrize("name", [MODELS[0], *(pytest.param(name, marks=pytest.mark.slow) for name in MODELS[1:])])
def test_timm_models_come_back_to_the_bit_with_hardly_any_padding(name: str) -> None:
    with torch.device("meta"):
        meta = timm.create_model(name, pretrained=False).state_dict()
    state_dict = weights(meta, seed=0)
    for tokenizer in tokenizers("none", "raw", "within"):
        assert identical(tokenizer.decode(tokenizer.encode(state_dict)), state_dict)
    total = coverage(Residual(width=64, reference="none").plan(meta))
    assert total["weights"]["total"] == sum(tensor.numel() for tensor in meta.values())
    assert total["padding"]["total"] <= 0.05
