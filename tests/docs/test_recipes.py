"""The code of the pages runs, and the commands that they name exist."""

import dataclasses
import importlib
import inspect
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml

from tests.checkpoints import fine_tuned, identical, shapes, weights
from tests.commands import call
from tests.docs.pages import ROOT, name_of, pages
from wsl.features.features import Features
from wsl.layout import architectures, lookup
from wsl.tokenizers.residual import Residual
from zoo_gen import Zoo
from zoo_gen.adopt import main as adopt
from zoo_gen.config import CONFIGS, compose
from zoo_gen.sources.folder import folder
from zoo_gen.sources.pictures import Selection

HOW_TO = ROOT / "docs" / "how_to"
NEW_CARDS = r"\b(mine|mine_small|columns|interpolation|norms|train_loss)\b"
"""Cards that the recipes make."""


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of code of a page."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def run(code: str, **given: object) -> dict[str, object]:
    """The names that a block of code defines, with those that it is given."""
    names: dict[str, object] = {"__name__": "recipe", **given}
    exec(code, names)
    return names


def built(page: str, *, card: int) -> object:
    """What a recipe's card makes of the class in its module."""
    names = run(blocks(HOW_TO / page, "python")[0])
    values = yaml.safe_load(blocks(HOW_TO / page, "yaml")[card])
    maker = names[values.pop("_target_").rpartition(".")[2]]
    assert callable(maker)
    return maker(**values)


def test_the_recipe_makes_a_lossless_tokenizer() -> None:
    tokenizer = built("add_a_tokenizer.md", card=0)
    root = weights(shapes(32, 3, 4, "linear"), seed=0)
    child = fine_tuned(root, seed=1)
    tokens = tokenizer.encode(child, root=root)  # type: ignore[attr-defined]
    assert int(tokens.mask.sum()) == sum(weight.numel() for weight in child.values())
    assert identical(tokenizer.decode(tokens, root=root), child)  # type: ignore[attr-defined]


def test_the_recipe_makes_features(tiny_zoo: Path) -> None:
    features = built("add_a_probe.md", card=1)
    assert isinstance(features, Features)
    some = Zoo.open(tiny_zoo).select(stage="finetune", final=True)
    table = features.extract(None, some)  # type: ignore[arg-type]
    assert len(table) == len(some)
    assert np.isfinite(table["patch_embed.proj.weight"]).all()


def test_the_card_of_a_target_asks_for_a_column(tiny_zoo: Path) -> None:
    card = yaml.safe_load(blocks(HOW_TO / "add_a_probe.md", "yaml")[0])
    known = yaml.safe_load((CONFIGS / "probe" / "test_loss.yaml").read_text(encoding="utf-8"))
    assert card.keys() == known.keys()
    assert card["column"] in Zoo.open(tiny_zoo).frame


def test_the_cards_of_a_zoo_have_the_keys_that_they_need() -> None:
    images, zoo, *_ = (yaml.safe_load(block) for block in blocks(HOW_TO / "own_images.md", "yaml"))
    assert images.pop("_target_") == "zoo_gen.sources.folder.folder"
    shared = {field.name for field in dataclasses.fields(Selection)}
    assert images.keys() == inspect.signature(folder).parameters.keys() - {"card"} | shared
    known = yaml.safe_load((CONFIGS / "zoo" / "digits.yaml").read_text(encoding="utf-8"))
    assert zoo.keys() - {"architecture"} == known.keys()


def test_windows_are_drawn_as_the_page_says(tiny_zoo: Path) -> None:
    (code,) = blocks(ROOT / "docs" / "training.md", "python")
    names = run(code, zoo=Zoo.open(tiny_zoo), tokenizer=Residual(width=64, reference="root"))
    assert len(names["sources"]) > 0  # type: ignore[arg-type]


@pytest.fixture
def torchvision_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The recipe's table, beside those of the package."""
    (tmp_path / "torchvision_vit.py").write_text(blocks(HOW_TO / "add_an_architecture.md", "python")[0], encoding="utf-8")
    monkeypatch.setattr(architectures, "__path__", [*architectures.__path__, str(tmp_path)])
    lookup._layout.cache_clear()
    yield
    lookup._layout.cache_clear()


def test_the_recipe_makes_a_table_of_true_symmetries(torchvision_family: None) -> None:
    names = run(blocks(HOW_TO / "add_an_architecture.md", "python")[1])  # its assertions are of every move
    assert names["layout"].family == "torchvision_vit"  # type: ignore[attr-defined]


def test_the_concepts_run(capsys: pytest.CaptureFixture[str]) -> None:
    for code in blocks(ROOT / "docs" / "concepts.md", "python"):
        run(code)
    assert "vit 12 152" in capsys.readouterr().out


def test_own_models_are_read_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_models").mkdir()
    state = timm.create_model("vit_tiny_patch16_224", num_classes=5, depth=1).state_dict()
    torch.save({"model": state, "epoch": 3}, "my_models/a.pth")
    torch.save({"state_dict": {f"module.{name}": tensor + 0.01 for name, tensor in state.items()}}, "my_models/b.ckpt")
    compared, predicted = blocks(HOW_TO / "own_models.md", "python")
    names = run(compared)
    assert 'run.predict("my_models/a.pth"' in predicted  # tests/wsl/test_bare_zoo.py does so
    assert names["again"].keys() == state.keys() == names["a"].keys()  # type: ignore[attr-defined]


@pytest.mark.parametrize("heads", [4, 8])
def test_the_card_of_an_own_architecture_makes_its_function_and_another_number_of_heads_does_not(
    heads: int, tmp_path: Path
) -> None:
    (text,) = blocks(HOW_TO / "own_models.md", "yaml")
    (tmp_path / "my_vit.yaml").write_text(text.replace("num_heads: 4", f"num_heads: {heads}"), encoding="utf-8")
    torch.manual_seed(0)
    sizes = yaml.safe_load(text)["model_args"]
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=7, **sizes).eval()
    (tmp_path / "my_models").mkdir()
    torch.save(model.state_dict(), tmp_path / "my_models" / "a.pt")
    call(adopt, f"folder={tmp_path / 'my_models'}", f"path={tmp_path / 'mine'}", f"architecture={tmp_path / 'my_vit.yaml'}")
    images = torch.randn(2, 3, 32, 32)
    outputs = Zoo.open(tmp_path / "mine")[0].build()(images)
    assert outputs.shape == (2, 7)
    assert outputs.equal(model(images)) is (heads == 4)


def commands() -> list[tuple[str, str]]:
    """Pages and the command lines of their blocks of `bash`, those of the recipes' own cards and of sweeps left out."""
    found = []
    for page in pages():
        if page.name == "README.md":  # which tests/wsl/test_docs.py tests
            continue
        lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
        asked = [line.partition(" #")[0].strip() for line in lines if line.startswith("python -m ")]
        found += [(name_of(page), line) for line in asked if not re.search(NEW_CARDS, line) and " -m seed" not in line]
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_of_the_pages_compose(page: str, line: str) -> None:
    _, _, module, *overrides = shlex.split(line)
    if module == "pytest":
        assert all((ROOT / path).exists() for path in overrides if path.startswith("tests/"))
        return
    found = importlib.import_module("zoo_gen.__main__" if module == "zoo_gen" else module)
    name = module.rpartition(".")[2]
    assert callable(found.main)
    if (CONFIGS / f"{name}.yaml").is_file():
        assert compose(name, overrides)


def test_the_start_page_runs(short_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks(ROOT / "docs" / "index.md", "python")
    if not hasattr(importlib.import_module("wsl"), "Run"):
        raise ImportError("until it is exported, nothing is trained for this")
    run_folder = (
        importlib.import_module("tests.wsl.conftest").train_small(short_zoo, tmp_path / "checkpoints" / "runs" / "demo").path
    )
    assert run_folder.is_dir()
    (tmp_path / "checkpoints" / "zoos").mkdir(parents=True)
    (tmp_path / "checkpoints" / "zoos" / "digits_mini").symlink_to(short_zoo)
    monkeypatch.chdir(tmp_path)
    names = run(code)
    assert set(names["again"]) == set(names["best"].state_dict())  # type: ignore[call-overload, attr-defined]


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one, or of a class in one."""
    try:
        return bool(pkgutil.resolve_name(name))
    except (ImportError, AttributeError):
        return False


@pytest.mark.parametrize("page", [pytest.param(page, id=name_of(page)) for page in pages() if page.name != "README.md"])
def test_modules_and_classes_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    dotted = set(re.findall(r"(?<![\w./-])(?:wsl|zoo_gen)(?:\.\w+)+", text))
    files = set(re.findall(r"(?<![\w./])(?:wsl|zoo_gen|configs|runs|benchmarks|tests)/[\w./]+\w", text))
    made = r"\b(columns|interpolation|norms|sizes|torchvision_vit|train_loss|mine|__main__)\b"  # by the recipes
    assert [name for name in sorted(dotted) if not re.search(made, name) and not exists(name)] == []
    assert [name for name in sorted(files) if not re.search(made, name) and not (ROOT / name).exists()] == []
