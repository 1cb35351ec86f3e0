"""Zoos of the field have a layout, and their checkpoints come back from tokens to the bit."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from omegaconf import OmegaConf
from torch import Tensor

from tests.checkpoints import identical
from tests.commands import call
from tests.field_zoos import params_of, write_model_j, write_ray_tune, write_small_cnn_zoo, write_small_transformer_zoo, write_trial
from wsl.layout import layout_of
from wsl.symmetry.alignment import distance
from wsl.symmetry.group import MOVES, random_view
from wsl.symmetry.stacks import stack
from wsl.tokenizers.rows import Rows
from zoo_gen import Zoo
from zoo_gen.adopt import main
from zoo_gen.config import CONFIGS, instantiate

CARDS = sorted(card for card in (CONFIGS / "tokenizer").glob("*.yaml") if instantiate(OmegaConf.load(card)).local)


def resnet(name: str = "resnet18") -> dict[str, Tensor]:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=10).state_dict()


def write_resnets(folder: Path) -> None:
    params = params_of(0, **{"model::type": "Resnet18", "model::nlin": "relu"})
    write_trial(folder / "trial_0", {50: resnet()}, params)


ZOOS: dict[str, tuple[Callable[[Path], object], str]] = {
    "ray_tune": (write_ray_tune, "cnn"),
    "ray_tune of ResNets": (write_resnets, "resnet"),
    "small_cnn_zoo": (write_small_cnn_zoo, "cnn"),
    "small_transformer_zoo": (write_small_transformer_zoo, "small_transformer"),
    "model_j": (lambda folder: write_model_j(folder, resnet()), "resnet"),
}


@pytest.mark.parametrize("name", ZOOS)
def test_checkpoints_of_a_zoo_of_the_field_come_back_from_tokens_to_the_bit(name: str, tmp_path: Path) -> None:
    write, family = ZOOS[name]
    write(tmp_path / "theirs")
    call(main, f"folder={tmp_path / 'theirs'}", f"path={tmp_path / 'zoo'}")
    zoo = Zoo.open(tmp_path / "zoo")
    for one in (zoo[0], zoo[len(zoo) - 1]):
        weights = one.state_dict()
        assert layout_of(weights).family == family
        for card in CARDS if len(weights) < 60 else CARDS[:1]:
            tokenizer = instantiate(OmegaConf.load(card))
            assert identical(tokenizer.decode(tokenizer.encode(weights, root=weights), root=weights), weights)


@pytest.mark.parametrize("name", ["ray_tune", "small_cnn_zoo", "small_transformer_zoo"])
def test_copies_of_their_models_have_distance_zero_and_others_do_not(name: str, tmp_path: Path) -> None:
    ZOOS[name][0](tmp_path / "theirs")
    call(main, f"folder={tmp_path / 'theirs'}", f"path={tmp_path / 'zoo'}")
    zoo = Zoo.open(tmp_path / "zoo")
    one, other = ({key: tensor.double() for key, tensor in zoo[place].state_dict().items()} for place in (0, 1))
    layout, weights = layout_of(one, heads=2), stack([one])
    copy = random_view(weights, layout, torch.Generator().manual_seed(0), moves=MOVES, maps="general", strength=0.3)
    size = float(sum(tensor.square().sum() for tensor in weights.values()) ** 0.5)
    assert float(sum((copy[key] - weights[key]).square().sum() for key in copy) ** 0.5) > 0.1 * size
    assert float(distance(copy, weights, layout)) < 1e-8 * size
    assert float(distance(stack([other]), weights, layout)) > 1e-3 * size


def test_a_rows_tokenizer_has_a_token_for_each_channel() -> None:
    """As in SANE: a row is a filter with its bias."""
    weights = {"module_list.0.weight": torch.randn(8, 1, 5, 5), "module_list.0.bias": torch.randn(8)}
    weights |= {"module_list.3.weight": torch.randn(6, 8, 5, 5), "module_list.3.bias": torch.randn(6)}
    weights |= {"module_list.7.weight": torch.randn(10, 24), "module_list.7.bias": torch.randn(10)}
    tokens = Rows(reference="none").encode(weights)
    assert tokens.values.shape == (24, 201)


@pytest.mark.parametrize("names", ["torchvision", "others"])
def test_residual_networks_are_known_by_their_names(names: str) -> None:
    weights = {name: tensor for name, tensor in resnet().items() if not name.endswith("num_batches_tracked")}
    if names == "others":
        weights = {name.replace("downsample", "shortcut").replace("fc.", "linear."): tensor for name, tensor in weights.items()}
    layout = layout_of(weights)
    assert (layout.family, layout.depth) == ("resnet", 8)
    assert {axis: size for axis, size in layout.sizes if axis.startswith("resid")} == {
        "resid.stem": 64,
        "resid.2": 128,
        "resid.3": 256,
        "resid.4": 512,
    }


@pytest.mark.parametrize("name", ["resnext50_32x4d", "seresnet50", "densenet121"])
def test_networks_whose_channels_are_tied_otherwise_have_no_table(name: str) -> None:
    with torch.device("meta"), pytest.raises(Exception, match="no architecture of"):
        layout_of(timm.create_model(name).state_dict())


def test_names_of_layers_may_be_of_any_kind() -> None:
    chain = {"weight": [(4, 1, 3, 3), (5, 4, 3, 3), (7, 20), (3, 7)], "bias": [(4,), (5,), (7,), (3,)]}
    for names in (
        ["module_list.0", "module_list.4", "module_list.9", "module_list.12"],
        ["features.0", "features.10", "classifier.1", "classifier.4"],
        ["conv1", "conv2", "fc1", "fc2"],
        ["0", "2", "5", "7"],
    ):
        weights = {f"{name}.{kind}": torch.randn(chain[kind][i]) for i, name in enumerate(names) for kind in chain}
        layout = layout_of(dict(sorted(weights.items())))
        assert layout.family == "cnn"
        assert [slot.name for slot in layout.slots if slot.parts[0].role == "head"] == [f"{names[3]}.weight", f"{names[3]}.bias"]
        assert dict(layout.sizes)[f"place.{names[1]}"] == 4
