"""Two checkpoints are compared and aligned by commands that know a disguise from another function."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.func import functional_call

from tests.commands import call, refused
from tests.disguises import CONFIG, in_type, moved, root, trained
from wsl.align import main as align_main
from wsl.analyses.align_models import align_models
from wsl.analyses.comparison import WORDS, Comparison, compare
from wsl.analyses.models import Model, Reading, open_model
from wsl.compare import main
from wsl.layout import layout_of
from wsl.layout.slots import Layout
from wsl.symmetry.group import MOVES
from zoo_gen import InputError
from zoo_gen.files import write_weights
from zoo_gen.formats.heads import heads_beside

QUIET = Console(quiet=True)


def model(weights: dict[str, Tensor]) -> Model:
    return Model("model", weights, root(0)[1], 4, ())


def compared(a: dict[str, Tensor], b: dict[str, Tensor]) -> Comparison:
    return compare(model(a), model(b), QUIET)


def outputs(weights: dict[str, Tensor]) -> Tensor:
    args: dict[str, Any] = dict(CONFIG["model_args"])  # type: ignore[call-overload]
    network = VisionTransformer(num_classes=len(weights["head.bias"]), init_values=0.1, **args).double().eval()
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return functional_call(network, {name: tensor.double() for name, tensor in weights.items()}, (images,))


def with_classes(weights: dict[str, Tensor], classes: int) -> dict[str, Tensor]:
    return weights | {"head.weight": torch.randn(classes, 32), "head.bias": torch.randn(classes)}


KINDS = ("resid", "mlp", "head", "qk", "vo", "norm", "bias", "scale", "mean")


@pytest.mark.parametrize("kind", KINDS)
def test_the_distance_modulo_the_kind_of_a_disguise_is_zero_and_that_of_others_is_not(kind: str) -> None:
    weights, layout = root(0)
    found = compared(moved(kind)(weights, layout, 1), weights)
    assert found.equal_up_to == "symmetry"
    assert set(found.modulo) == {*KINDS, "rotation"}
    known = (kind, "rotation", "mean")  # rotations act on folded weights, and means are those of scaled layers
    others = {other: far.relative for other, far in found.modulo.items() if other not in known}
    assert found.modulo[kind].relative < 1e-5
    assert min(others.values()) > 1e-3


def test_all_disguises_at_once_are_one_function_in_every_layer() -> None:
    weights, layout = root(0)
    found = compared(moved(*MOVES)(weights, layout, 1), weights)
    assert found.verdict.startswith("the same function in disguise")
    assert found.aligned is not None
    assert found.aligned.relative < 1e-5 < found.raw.relative
    assert [raw.what for raw, _ in found.layers] == ["stem", "blocks.0", "blocks.1", "blocks.2", "tail", "head"]
    assert max(aligned.relative for _, aligned in found.layers) < 1e-5
    assert found.head == "same"


def test_a_change_of_one_layer_shows_in_that_layer() -> None:
    weights, layout = root(0)
    changed = trained(weights, 1, 0.1)
    one = weights | {name: tensor for name, tensor in changed.items() if name.startswith("blocks.1.mlp.fc")}
    found = compared(moved("mlp", "resid", "head")(one, layout, 1), weights)
    far = {raw.what: aligned.relative for raw, aligned in found.layers}
    assert found.equal_up_to is None
    assert max(far, key=far.__getitem__) == "blocks.1"
    assert far["blocks.0"] < 0.1 * far["blocks.1"]


def test_another_head_on_the_same_body_is_said() -> None:
    weights, layout = root(0)
    disguised = moved("mlp", "resid")(weights, layout, 1)
    other = disguised | {"head.weight": torch.randn(5, 32)}
    found = compared(other, weights)
    assert (found.equal_up_to, found.body_equal_up_to, found.head) == (None, "symmetry", "different")
    wider = with_classes(disguised, 7)
    found = compare(Model("a", wider, layout_with(wider), 4, ()), model(weights), QUIET)
    assert (found.equal_up_to, found.body_equal_up_to, found.head) == (None, "symmetry", "of other shapes")
    trained_too = compared(trained(weights, 1, 0.1) | {name: weights[name] for name in ("head.weight", "head.bias")}, weights)
    assert (trained_too.body_equal_up_to, trained_too.head) == (None, "same")


def layout_with(weights: dict[str, Tensor]) -> Layout:
    return layout_of(weights, heads=4)


def test_what_cannot_be_compared_is_one_clear_error() -> None:
    weights, layout = root(0)
    deeper = {name: tensor for name, tensor in weights.items() if "blocks.2" not in name}
    with pytest.raises(InputError, match=r"'blocks\.2.* is not in a and .*no symmetry joins them"):
        compare(Model("a", deeper, layout_with(deeper), 4, ()), model(weights), QUIET)
    with pytest.raises(InputError, match="8 attention heads and model 4"):
        compare(Model("a", weights, layout, 8, ()), model(weights), QUIET)
    with pytest.raises(InputError, match="not finite"):
        compared(weights | {"head.bias": torch.full((5,), float("inf"))}, weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_alignment_takes_a_copy_back_and_keeps_the_function_of_another(dtype: torch.dtype) -> None:
    weights, layout = root(0)
    copy = in_type(dtype, moved(*MOVES))(weights, layout, 1)
    back = align_models(model(copy), model(weights), MOVES, dtype=None)
    assert back.after < 0.02 < back.before
    assert {name: tensor.dtype for name, tensor in back.weights.items()} == dict.fromkeys(weights, dtype)
    other = trained(weights, 1, 0.1)
    found = align_models(model(moved("mlp", "resid", "head")(other, layout, 1)), model(weights), MOVES, dtype=torch.float64)
    assert (outputs(found.weights) - outputs(other)).abs().max() < 1e-4
    assert (outputs(found.weights) - outputs(weights)).abs().max() > 1e-2


def test_a_head_of_another_shape_moves_along() -> None:
    weights, _ = root(0)
    other = with_classes(weights, 7)
    moved_other = moved("mlp", "resid", "norm")(other, layout_with(other), 1)
    found = align_models(Model("a", moved_other, layout_with(other), 4, ()), model(weights), MOVES, dtype=torch.float64)
    assert found.after < 0.01 < found.before
    assert (outputs(found.weights) - outputs(other)).abs().max() < 1e-4


def test_weights_that_a_scale_of_zero_would_hide_are_not_written() -> None:
    weights, layout = root(0)
    hiding = weights | {"blocks.0.ls1.gamma": torch.zeros(32)}
    with pytest.raises(InputError, match="another function"):
        align_models(model(weights), model(hiding), MOVES, dtype=None)
    kept = align_models(model(moved("mlp")(weights, layout, 1)), model(hiding), ("mlp",), dtype=None)
    assert kept.after < kept.before


def test_the_number_of_heads_is_read_given_or_safe(tmp_path: Path) -> None:
    weights, _ = root(0)
    write_weights(tmp_path / "a.safetensors", weights)
    assert open_model(tmp_path / "a.safetensors", Reading()).heads is None
    assert "heads=<number>" in open_model(tmp_path / "a.safetensors", Reading()).notes[0]
    assert open_model(tmp_path / "a.safetensors", Reading(heads=4)).heads == 4
    configs = {
        4: CONFIG,
        8: {"model_type": "vit", "num_attention_heads": 8},
        2: {"n_head": 2},
        3: {"architecture": "vit_tiny_patch16_224"},
        None: {"architecture": "nobody's", "num_attention_heads": "many"},
    }
    for heads, config in configs.items():
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert heads_beside(tmp_path / "a.safetensors") == heads
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "epochs").mkdir()
    write_weights(tmp_path / "epochs" / "0001.safetensors", weights)
    assert open_model(tmp_path / "epochs" / "0001.safetensors", Reading()).heads == 4
    with torch.device("meta"):
        tiny = VisionTransformer(embed_dim=192, num_heads=3, depth=1, num_classes=2).state_dict()
    write_weights(tmp_path / "epochs" / "tiny.safetensors", {name: torch.zeros(tensor.shape) for name, tensor in tiny.items()})
    (tmp_path / "config.json").unlink()
    guessed = open_model(tmp_path / "epochs" / "tiny.safetensors", Reading())
    assert guessed.heads == 3
    assert "taken from the width of 192" in guessed.notes[0]


def test_the_commands_compare_and_align_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, layout = root(0)
    a, b, c = tmp_path / "epoch=9.ckpt", tmp_path / "b.safetensors", tmp_path / "c.safetensors"
    copy = moved(*MOVES)(weights, layout, 1)
    state = {f"model.{name}": tensor for name, tensor in copy.items()}
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.5.0"}, a)
    write_weights(b, weights)
    call(main, str(a), str(b), "--heads", "4")
    assert "the same function in disguise" in capsys.readouterr().out
    call(main, str(a), f"b={b}", "heads=4", "--json", f"out={tmp_path / 'found.json'}")
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "found.json").read_text())
    assert found["equal_up_to"] == "symmetry"
    call(align_main, str(a), f"to={b}", f"out={c}", "heads=4")
    assert "wrote" in capsys.readouterr().out
    assert set(load_file(c)) == set(weights)
    assert max(float((load_file(c)[name] - weights[name]).abs().max()) for name in weights) < 1e-3
    before = c.read_bytes()
    assert "exists; choose another name, or overwrite=true" in refused(align_main, str(b), f"to={a}", f"out={c}", "heads=4")
    assert c.read_bytes() == before
    call(align_main, str(b), f"to={b}", f"out={c}", "heads=4", "overwrite=true")
    assert c.read_bytes() != before
    write_weights(tmp_path / "d.safetensors", {"conv.weight": torch.ones(2)})
    message = refused(align_main, str(tmp_path / "d.safetensors"), f"to={b}", f"out={tmp_path / 'e.safetensors'}")
    assert "cannot be aligned: no symmetries are known" in message
    assert not (tmp_path / "e.safetensors").exists()


def test_words_too_many_or_too_few_are_one_clear_error(tmp_path: Path) -> None:
    assert "b= is required" in refused(main, "a")
    assert "one word too many" in refused(main, "a", "b", "c")
    assert "there is no setting 'hedas'" in refused(main, "a", "b", "hedas=4")
    assert "--heads has no value" in refused(main, "a", "b", "--heads")
    assert "must end in .safetensors" in refused(align_main, "a", "to=b", "out=c.pt")
    assert "dtype must be one of" in refused(align_main, "a", "to=b", "out=c.safetensors", "dtype=int8")
    assert "unknown moves spin" in refused(align_main, "a", "to=b", "out=c.safetensors", "moves=[spin]")


def test_every_kind_of_symmetry_has_words():
    assert set(WORDS) == set(MOVES)
