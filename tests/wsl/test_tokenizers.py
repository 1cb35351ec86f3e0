"""Every tokenizer covers every weight and decodes to the bit, in every mode; what should break the round trip does."""

import dataclasses
from itertools import product
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from timm.layers.mlp import Mlp
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from tests.architectures import MODELS as FAMILIES
from tests.architectures import build, outputs
from wsl.canonical import canonicalize
from wsl.fold import stack, unstack
from wsl.layout import ROLES, layout_of
from wsl.normalize import Standardizer
from wsl.symmetry import MAPPED, PERMUTED, random_view
from wsl.tokenizers.chunks import Chunks
from wsl.tokenizers.codec import Codec
from wsl.tokenizers.coverage import coverage
from wsl.tokenizers.plan import Segment
from wsl.tokenizers.residual import Residual
from wsl.tokenizers.rows import Rows
from wsl.tokenizers.tokens import Tokenizer, Tokens
from zoo_gen.config import CONFIGS, instantiate
from zoo_gen.errors import InputError
from zoo_gen.files import write_weights
from zoo_gen.zoo import read_weights

CARDS = sorted((CONFIGS / "tokenizer").glob("*.yaml"))
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


def any_bits(meta: dict[str, Tensor], seed: int, dtypes: tuple[torch.dtype, ...]) -> dict[str, Tensor]:
    """Weights of these shapes of which a quarter have any bits at all: NaNs of all payloads, infinities, subnormals, zeros of both signs."""
    rng = torch.Generator().manual_seed(seed)
    found = {}
    for i, (name, tensor) in enumerate(meta.items()):
        dtype = dtypes[i % len(dtypes)]
        weight = torch.randn(tensor.shape, generator=rng).to(dtype)
        noise = torch.randint(-(2**63), 2**63 - 1, tensor.shape, generator=rng).to(INTEGERS[dtype.itemsize]).view(dtype)
        found[name] = torch.where(torch.rand(tensor.shape, generator=rng) < 0.25, noise, weight)
    return found


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(
    heads=st.integers(1, 3),
    per_head=st.integers(1, 9),
    depth=st.integers(1, 3),
    head=st.sampled_from(["linear", "mlp"]),
    width=st.sampled_from([1, 7, 64]),
    dtypes=st.lists(st.sampled_from(TYPES), min_size=1, max_size=3),
    mode=st.sampled_from(MODES),
    wild=st.booleans(),
    seed=st.integers(0, 99),
)
def test_decoding_an_encoding_returns_every_bit(heads, per_head, depth, head, width, dtypes, mode, wild, seed) -> None:
    meta = shapes(heads * per_head, depth, heads, head)
    if wild:
        root, child = (any_bits(meta, seed + i, tuple(dtypes)) for i in (0, 1))
    else:
        root = {name: weight.nan_to_num(1, 1, 1) for name, weight in weights(meta, seed, tuple(dtypes)).items()}
        child = fine_tuned(root, seed + 1)
    for tokenizer in tokenizers(*mode, width=width, heads=heads):
        tokens = tokenizer.encode(child, root=root)
        scales = len(child) if "apart" in mode else 0
        assert int(tokens.mask.sum()) == sum(weight.numel() for weight in child.values()) + scales
        assert identical(tokenizer.decode(tokens, root=root), child)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_comes_back_to_the_bit_from_every_tokenizer_in_every_mode(name: str) -> None:
    model, heads, _ = build(name)
    for dtype in (torch.float32, torch.bfloat16):
        root = {key: weight.to(dtype) for key, weight in model.state_dict().items()}
        child = fine_tuned(root, seed=1)
        broken = any_bits(root, 2, (dtype,))
        for mode in MODES if dtype == torch.float32 else MODES[:3]:
            for tokenizer in tokenizers(*mode, heads=heads):
                tokens = tokenizer.encode(child, root=root)
                assert identical(tokenizer.decode(tokens, root=root), child)
                if "canonical" not in mode:
                    assert identical(tokenizer.decode(tokenizer.encode(broken, root=broken), root=broken), broken)
                    assert not identical(tokenizer.decode(tokenizer.encode(broken, root=root), root=root), child)


def canonical(state_dict: dict[str, Tensor], heads: int) -> dict[str, Tensor]:
    forms = canonicalize({name: weight[None] for name, weight in state_dict.items()}, layout_of(state_dict, heads=heads))
    return {name: weight[0].to(state_dict[name].dtype) for name, weight in forms.items()}


@pytest.mark.parametrize("scale", ["within", "apart"])
def test_tokens_of_the_canonical_form_are_those_of_the_canonical_weights(scale: str) -> None:
    model, heads, inputs = build("plain")
    assert heads
    child = {name: weight.float() for name, weight in model.state_dict().items()}
    for tokenizer in tokenizers("none", "canonical", scale, heads=heads):
        tokens = tokenizer.encode(child)
        decoded = tokenizer.decode(tokens.with_values(tokens.values))
        assert identical(decoded, canonical(child, heads))
        assert not identical(decoded, child)
        again = outputs(model, stack([{name: weight.double() for name, weight in decoded.items()}]), inputs)
        torch.testing.assert_close(again[0], model(inputs), rtol=1e-3, atol=1e-4)


def test_copies_by_symmetry_have_one_canonical_form_of_tokens_and_several_raw_ones() -> None:
    model, heads, _ = build("plain")
    layout = layout_of(model)
    moved = {"moves": (*PERMUTED, *MAPPED), "maps": "orthogonal", "strength": 0.0}
    view = unstack(random_view(stack([model.state_dict()]), layout, torch.Generator().manual_seed(0), **moved))[0]
    for form, close in (("canonical", True), ("raw", False)):
        for tokenizer in tokenizers("none", form, "within", heads=heads):
            one, other = (tokenizer.encode(w).values for w in (dict(model.state_dict()), view))
            assert torch.allclose(one, other, atol=1e-6) == close


def test_a_canonical_form_without_the_number_of_heads_is_refused_and_diverged_models_have_none() -> None:
    tokenizer = Residual(width=64, reference="none", form="canonical")
    finite = {name: weight.nan_to_num(0, 0, 0) for name, weight in CHILD.items()}
    with pytest.raises(InputError, match=r"tokenizer\.heads=\.\.\."):
        tokenizer.encode(finite)
    tokens, raw = tokenizer.encode(CHILD), Residual(width=64, reference="none").encode(CHILD)
    assert torch.equal(tokens.values.view(torch.int32), raw.values.view(torch.int32))
    assert identical(tokenizer.decode(tokens), CHILD)


@pytest.mark.parametrize("reference", ["none", "root"])
def test_scales_apart_are_powers_of_two_and_leave_directions_of_unit_size(reference: str) -> None:
    root = {name: weight.nan_to_num(1, 1, 1) for name, weight in ROOT.items()}
    name = "blocks.1.attn.proj.weight"
    child = fine_tuned(root, seed=1)
    larger = child | {name: root[name] + 8 * (child[name] - root[name]) if reference == "root" else 8 * child[name]}
    for tokenizer in tokenizers(reference, "raw", "apart"):
        one, other = (tokenizer.encode(w, root=root) for w in (child, larger))
        segments = {segment.key: segment for group in one.plan.groups for segment in group.segments}
        for key, segment in segments.items():
            size = segment.of(one.values).double().square().mean().sqrt().item()
            assert key.endswith(":scale") or "head" in key or "[" in key or 2**-0.51 < size < 2**0.51
        exponents = [segments[f"{name}:scale"].of(tokens.values).item() for tokens in (one, other)]
        assert exponents[1] == exponents[0] + 3
        torch.testing.assert_close(segments[name].of(one.values), segments[name].of(other.values), rtol=1e-3, atol=1e-4)
        doubled = one.values.clone()
        segments[f"{name}:scale"].of(doubled).add_(0.5)
        bare = [tokenizer.decode(one.with_values(values), root=root) for values in (one.values, doubled)]
        zero = root[name] if reference == "root" else torch.zeros_like(root[name])
        torch.testing.assert_close(bare[1][name] - zero, 2**0.5 * (bare[0][name] - zero), rtol=1e-3, atol=1e-5)
        assert identical({k: w for k, w in bare[0].items() if k != name}, {k: w for k, w in bare[1].items() if k != name})


def test_a_scale_that_no_network_should_say_decodes_without_failing() -> None:
    tokenizer = Residual(width=64, reference="none", scale="apart")
    tokens = tokenizer.encode({name: weight.nan_to_num(1, 1, 1) for name, weight in CHILD.items()})
    for wild in (1e9, -1e9, float("inf")):
        assert len(tokenizer.decode(tokens.with_values(torch.full_like(tokens.values, wild)))) == len(CHILD)


def test_standardising_and_restoring_serves_every_mode() -> None:
    root = {name: weight.nan_to_num(1, 1, 1) for name, weight in ROOT.items()}
    children = [fine_tuned(root, seed) for seed in range(1, 5)]
    for mode in MODES:
        for tokenizer in tokenizers(*mode, heads=4):
            every = [tokenizer.encode(child, root=root) for child in children]
            standardizer = Standardizer.fit(every)
            restored = standardizer.restore(standardizer.standardize(every[0]), every[0].plan)
            assert (restored - every[0].values).abs().max() <= 1e-5 * (every[0].values.abs().max() + 0.1)


def test_one_standardizer_and_token_width_serve_models_of_several_shapes_and_families() -> None:
    found = []
    for name in FAMILIES:
        model, _, _ = build(name)
        weights = {key: weight.float() for key, weight in model.state_dict().items()}
        for seed in (1, 2):
            found.append(Residual(width=64, reference="root").encode(fine_tuned(weights, seed), root=weights))
    for width, depth in ((32, 3), (48, 4)):
        root = {key: weight.nan_to_num(1, 1, 1) for key, weight in weights_of(width, depth).items()}
        found += [Residual(width=64, reference="root").encode(fine_tuned(root, seed), root=root) for seed in (1, 2)]
    standardizer = Standardizer.fit(found)
    for tokens in found:
        assert tokens.plan.width == 64
        assert standardizer.standardize(tokens).isfinite().all()
        assert int(tokens.positions[:, 0].max()) < 32


def weights_of(width: int, depth: int) -> dict[str, Tensor]:
    return weights(shapes(width, depth, 4, "linear"), seed=0)


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
