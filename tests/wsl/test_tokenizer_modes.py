"""Raw or canonical, from zero or from the root, scale within or apart: every mode of every tokenizer comes back to the bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.architectures import MODELS as FAMILIES
from tests.architectures import build, outputs
from tests.checkpoints import MODES, TYPES, any_bits, fine_tuned, identical, shapes, tokenizers, weights
from tests.wsl.batches import fitted
from wsl.layout import layout_of
from wsl.layout.slots import Layout
from wsl.symmetry.canonical import canonicalize
from wsl.symmetry.group import MAPPED, PERMUTED, random_view
from wsl.symmetry.stacks import stack, unstack
from wsl.tokenizers import codec
from wsl.tokenizers.residual import Residual
from wsl.tokenizers.tokens import Tokens
from zoo_gen.errors import InputError

HALF = {torch.bfloat16: ("none", "canonical", "apart"), torch.float16: ("root", "canonical", "within")}
"""One more canonical mode of each type of half precision: canonical forms take most of the time."""
ROOT = {name: weight.nan_to_num(1, 1, 1) for name, weight in weights(shapes(32, 3, 4, "linear"), seed=0).items()}


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
        assert identical(tokenizer.decode_in_place(tokens, root=root), child)


@pytest.fixture
def canonical_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the canonical form of the same weights once for all tokenizers and modes: it takes most of the time."""
    known: dict[tuple[bytes, ...], dict[str, Tensor]] = {}

    def form(stacked: dict[str, Tensor], layout: Layout) -> dict[str, Tensor]:
        key = tuple(tensor.contiguous().view(torch.uint8).numpy().tobytes() for tensor in stacked.values())
        return known[key] if key in known else known.setdefault(key, canonicalize(stacked, layout))

    monkeypatch.setattr(codec, "canonicalize", form)


@pytest.mark.usefixtures("canonical_once")
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_comes_back_to_the_bit_from_every_tokenizer_in_every_mode(name: str) -> None:
    model, heads, _ = build(name)
    for dtype in TYPES:
        root = {key: weight.to(dtype) for key, weight in model.state_dict().items()}
        child, broken = fine_tuned(root, seed=1), any_bits(root, 2, (dtype,))
        raw = [mode for mode in MODES if "raw" in mode]
        for mode in MODES if dtype == torch.float32 else [*raw, ("root", "canonical", "apart"), HALF[dtype]]:
            every = tokenizers(*mode, heads=heads)
            for tokenizer in every if "raw" in mode or dtype == torch.float32 else every[1:2] if mode == HALF[dtype] else every[:1]:
                assert identical(tokenizer.decode(tokenizer.encode(broken, root=broken), root=broken), broken)
                tokens = tokenizer.encode(child, root=root)
                assert identical(tokenizer.decode(tokens, root=root), child)
                if "canonical" in mode:
                    assert not identical(tokenizer.decode(tokens.with_values(tokens.values), root=root), child)
                assert identical(tokenizer.decode_in_place(tokens, root=root), child)


def corrected(tokens: Tokens) -> dict[str, list[tuple[int, int]]]:
    """Places and bits of corrections."""
    found = {}
    for one in tokens.corrections:
        assert one.index is not None
        found[one.name] = sorted(zip(one.index.tolist(), one.bits.tolist(), strict=True))
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_large_checkpoints_are_coded_tensor_by_tensor_as_small_ones_are_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, heads, _ = build(name)
    for dtype in TYPES:
        root = {key: weight.to(dtype) for key, weight in model.state_dict().items()}
        child, broken = fine_tuned(root, seed=1), any_bits(root, 2, (dtype,))
        for mode in [mode for mode in MODES if "raw" in mode and (dtype == torch.float32 or "root" in mode)]:
            every = tokenizers(*mode, heads=heads)
            for number, tokenizer in enumerate(every if dtype == torch.float32 else every[:1]):
                weights = broken if number else child
                small = tokenizer.encode(weights, root=root)
                with monkeypatch.context() as patch:
                    patch.setattr("wsl.tokenizers.plan.SMALL", 0)
                    large = tokenizer.encode(weights, root=root)
                    assert identical(tokenizer.decode(small, root=root), weights)
                    guessed = tokenizer.decode(small.with_values(1.5 * small.values), root=root)
                assert identical({"": large.values}, {"": small.values})
                assert corrected(large) == corrected(small)
                assert corrected(small) or weights is child or mode == ("none", "raw", "within")
                assert identical(tokenizer.decode(small.with_values(1.5 * small.values), root=root), guessed)


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
    diverged = weights(shapes(32, 3, 4, "linear"), seed=0)
    with pytest.raises(InputError, match=r"tokenizer\.heads=\.\.\."):
        tokenizer.encode(ROOT)
    tokens, raw = tokenizer.encode(diverged), Residual(width=64, reference="none").encode(diverged)
    assert torch.equal(tokens.values.view(torch.int32), raw.values.view(torch.int32))
    assert identical(tokenizer.decode(tokens), diverged)


@pytest.mark.parametrize("reference", ["none", "root"])
def test_scales_apart_are_powers_of_two_and_leave_directions_of_unit_size(reference: str) -> None:
    name = "blocks.1.attn.proj.weight"
    root, child = ROOT, fine_tuned(ROOT, seed=1)
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
    tokens = tokenizer.encode(ROOT)
    for wild in (1e9, -1e9, float("inf")):
        assert len(tokenizer.decode(tokens.with_values(torch.full_like(tokens.values, wild)))) == len(ROOT)


def test_standardising_and_restoring_serves_every_mode() -> None:
    root, children = ROOT, [fine_tuned(ROOT, seed) for seed in (1, 2)]
    for mode in MODES:
        for tokenizer in tokenizers(*mode, heads=4):
            every = [tokenizer.encode(child, root=root) for child in children]
            standardizer = fitted(every)
            restored = standardizer.restore(standardizer.standardize(every[0]), every[0].plan)
            assert (restored - every[0].values).abs().max() <= 1e-5 * (every[0].values.abs().max() + 0.1)


def test_one_standardizer_and_token_width_serve_models_of_several_shapes_and_families() -> None:
    found = []
    for name in FAMILIES:
        model, _, _ = build(name)
        root = {key: weight.float() for key, weight in model.state_dict().items()}
        found += [Residual(width=64, reference="root").encode(fine_tuned(root, seed), root=root) for seed in (1, 2)]
    for width, depth in ((32, 3), (48, 4)):
        root = {key: weight.nan_to_num(1, 1, 1) for key, weight in weights(shapes(width, depth, 4, "linear"), seed=0).items()}
        found += [Residual(width=64, reference="root").encode(fine_tuned(root, seed), root=root) for seed in (1, 2)]
    standardizer = fitted(found)
    for tokens in found:
        assert tokens.plan.width == 64
        assert standardizer.standardize(tokens).isfinite().all()
        assert int(tokens.positions[:, 0].max()) < 32
