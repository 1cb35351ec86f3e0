"""Every tokenizer covers every weight and decodes to the bit; what should break the round trip does."""

import dataclasses

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from timm.layers.mlp import Mlp
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from wsl.layout import ROLES
from wsl.tokenizers.coverage import coverage
from wsl.tokenizers.plan import Segment
from wsl.tokenizers.residual import Residual
from wsl.tokenizers.rows import Rows
from wsl.tokenizers.tokens import Tokenizer, Tokens
from zoo_gen.config import CONFIGS, instantiate
from zoo_gen.errors import InputError

CARDS = sorted((CONFIGS / "tokenizer").glob("*.yaml"))
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
SPECIAL = (float("nan"), float("inf"), -float("inf"), -0.0, 1e-42)


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


DIGITS = shapes(32, 3, 4, "linear")
ROOT = weights(DIGITS, seed=0)
CHILD = fine_tuned(ROOT, seed=1)


@pytest.fixture(params=CARDS, ids=lambda card: card.stem)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return instantiate(OmegaConf.load(request.param))


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


def test_a_flipped_weight_changes_exactly_one_entry(tokenizer: Tokenizer) -> None:
    before = tokenizer.encode(ROOT, root=ROOT)
    flipped = {name: weight.clone() for name, weight in ROOT.items()}
    flipped["blocks.1.attn.proj.weight"][3, 4] += 1
    after = tokenizer.encode(flipped, root=ROOT)
    assert int((before.values.view(torch.int32) != after.values.view(torch.int32)).sum()) == 1


def test_a_permuted_plan_does_not_decode(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(CHILD, root=ROOT)
    *groups, last = tokens.plan.groups
    first, second, *rest = last.segments
    swapped = (dataclasses.replace(first, start=first.start + 1), dataclasses.replace(second, start=last.start), *rest)
    plan = dataclasses.replace(tokens.plan, groups=(*groups, dataclasses.replace(last, segments=swapped)))
    assert plan != tokens.plan
    assert not identical(tokenizer.decode(Tokens(tokens.values, plan, tokens.corrections), root=ROOT), CHILD)


def test_decoded_weights_share_no_memory_with_tokens(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(CHILD, root=ROOT)
    for weight in tokenizer.decode(tokens, root=ROOT).values():
        weight.zero_()
    assert identical(tokenizer.decode(tokens, root=ROOT), CHILD)


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(
    heads=st.integers(1, 3),
    per_head=st.integers(1, 9),
    depth=st.integers(1, 3),
    head=st.sampled_from(["linear", "mlp"]),
    width=st.sampled_from([1, 7, 64]),
    dtypes=st.lists(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), min_size=1, max_size=3),
    reference=st.sampled_from(["none", "root"]),
    seed=st.integers(0, 99),
)
def test_decoding_an_encoding_returns_every_bit(heads, per_head, depth, head, width, dtypes, reference, seed) -> None:
    meta = shapes(heads * per_head, depth, heads, head)
    root = weights(meta, seed, tuple(dtypes))
    child = fine_tuned(root, seed + 1)
    for tokenizer in (Residual(width=width, reference=reference), Rows(reference=reference)):
        tokens = tokenizer.encode(child, root=root)
        assert int(tokens.mask.sum()) == sum(weight.numel() for weight in child.values())
        assert identical(tokenizer.decode(tokens, root=root), child)


def test_tokens_keep_the_type_of_the_weights() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        state_dict = weights(DIGITS, 0, (dtype,))
        assert Residual(width=64, reference="none").encode(state_dict).values.dtype == dtype
    mixed = weights(DIGITS, 0, (torch.bfloat16, torch.float16))
    assert Residual(width=64, reference="none").encode(mixed).values.dtype == torch.float32


def test_differences_to_the_root_vanish_where_the_weights_equal_it_except_for_heads() -> None:
    root = {name: weight.nan_to_num(1, 1, 1) for name, weight in ROOT.items()}
    tokens = Residual(width=64, reference="root").encode(root, root=root)
    heads = tokens.positions[:, 1] == ROLES.index("head")
    assert not tokens.values[~heads].any()
    assert bool(tokens.values[heads].any(dim=1).all())


def test_differences_are_exact_only_with_their_corrections() -> None:
    tokenizer = Residual(width=64, reference="root")
    tokens = tokenizer.encode(CHILD, root=ROOT)
    assert tokens.corrections
    assert all(not name.name.startswith("head") for name in tokens.corrections)
    assert not identical(tokenizer.decode(tokens.with_values(tokens.values), root=ROOT), CHILD)
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


def test_a_segment_reads_and_writes_its_part_in_a_batch_of_tokens(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode({name: weight.nan_to_num(0, 0, 0) for name, weight in CHILD.items()}, root=ROOT)
    segments: dict[str, Segment] = {segment.key: segment for group in tokens.plan.groups for segment in group.segments}
    segment = segments["blocks.1.attn.qkv.weight[2]"]
    assert segment.kind == "blocks.{b}.attn.qkv.weight[2]"
    batch = torch.stack([tokens.values, 2 * tokens.values])
    part = segment.of(batch)
    assert part.shape == (2, *segment.shape)
    torch.testing.assert_close(part[1], 2 * segment.of(tokens.values), equal_nan=True)
    part.zero_()
    decoded = tokenizer.decode(tokens.with_values(batch[1]), root={name: torch.zeros_like(w) for name, w in ROOT.items()})
    assert not decoded["blocks.1.attn.qkv.weight"][64:].any()
    assert decoded["blocks.1.attn.qkv.weight"][:64].any()


def test_what_does_not_fit_is_refused() -> None:
    tokenizer = Residual(width=64, reference="none")
    with pytest.raises(InputError, match="418 tokens of width 64"):
        tokenizer.encode(CHILD).with_values(torch.zeros(417, 64))
    with pytest.raises(InputError, match=r"'norm\.bias' is torch\.int64"):
        tokenizer.encode(CHILD | {"norm.bias": torch.zeros(32, dtype=torch.int64)})
    with pytest.raises(InputError, match="width 0"):
        Residual(width=0, reference="none")
    with pytest.raises(InputError, match="neither 'none' nor 'root'"):
        Rows(reference="parent")


def test_padding_is_at_most_a_twentieth_and_coverage_says_so() -> None:
    for head in ("linear", "mlp"):
        meta = shapes(32, 3, 4, head)
        frame = coverage(Residual(width=64, reference="none").plan(meta))
        assert frame["weights"]["total"] == sum(tensor.numel() for tensor in meta.values())
        assert frame["weights"].iloc[:-1].sum() == frame["weights"]["total"]
        assert frame["padding"]["total"] <= 0.05 < coverage(Rows(reference="none").plan(meta))["padding"]["total"]


MODELS = ["vit_tiny_patch16_224", "vit_small_patch16_224", "deit3_small_patch16_224", "vit_base_patch14_reg4_dinov2"]


@pytest.mark.parametrize("name", [MODELS[0], *(pytest.param(name, marks=pytest.mark.slow) for name in MODELS[1:])])
def test_timm_models_come_back_to_the_bit_with_hardly_any_padding(name: str) -> None:
    with torch.device("meta"):
        meta = timm.create_model(name, pretrained=False).state_dict()
    state_dict = weights(meta, seed=0)
    for tokenizer in (Residual(width=64, reference="none"), Rows(reference="none")):
        assert identical(tokenizer.decode(tokenizer.encode(state_dict)), state_dict)
    total = coverage(Residual(width=64, reference="none").plan(meta))
    assert total["weights"]["total"] == sum(tensor.numel() for tensor in meta.values())
    assert total["padding"]["total"] <= 0.05
