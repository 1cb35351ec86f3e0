"""What the documents tell people to do works."""

import importlib
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from wsl.generators.family import Generator
from wsl.generators.population import families_of
from wsl.run import Run
from zoo_gen.config import compose

ROOT = Path(__file__).parent.parent.parent
README, CONTRIBUTING = (ROOT / name for name in ("README.md", "CONTRIBUTING.md"))
HOW_TO = ROOT / "docs" / "how_to"
COMMANDS = {"zoo_gen": "zoo_gen.__main__", "zoo_gen.adopt": "zoo_gen.adopt", "wsl.train": "wsl.train", "wsl.probe": "wsl.probe"}
COMMANDS |= {"wsl.generate": "wsl.generate", "wsl.report": "wsl.report", "wsl.predict": "wsl.predict"}
COMMANDS |= {name: name for name in ("wsl.compare", "wsl.duplicates", "wsl.align", "wsl.analyze")}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


def test_the_python_of_the_readme_runs(tiny_zoo: Path, tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoints" / "zoos").mkdir(parents=True)
    (tmp_path / "checkpoints" / "zoos" / "digits_mini").symlink_to(tiny_zoo)
    shutil.copytree(tiny_run.path, tmp_path / "checkpoints" / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    code, _ = blocks(README, "python")
    names: dict[str, object] = {}
    exec(code, names)
    assert set(names["again"]) == set(names["best"].state_dict())  # type: ignore[call-overload, attr-defined]


def test_the_copy_in_disguise_of_the_readme_is_the_same_function_and_has_distance_zero(capsys: pytest.CaptureFixture[str]) -> None:
    _, code = blocks(README, "python")
    exec(code, {})
    outputs, weights, distance = map(float, re.findall(r"tensor\(\[?([^],)]+)", capsys.readouterr().out))
    assert outputs < 1e-10
    assert weights > 100
    assert distance < 1e-8


def test_the_commands_of_the_readme_compose() -> None:
    lines = [line.partition("#")[0] for block in blocks(README, "bash") for line in block.splitlines()]
    found = [shlex.split(line)[2:] for line in lines if line.startswith("python -m")]
    assert {words[0] for words in found} == {*COMMANDS, "wsl.tokenize"}
    for module, *overrides in found:
        if module in COMMANDS:
            importlib.import_module(COMMANDS[module])
            assert compose(module.rpartition(".")[2], overrides)


def test_the_folders_of_the_map_exist() -> None:
    linked = re.findall(r"\]\(([^)#:]+)\)", README.read_text() + CONTRIBUTING.read_text())
    assert len(linked) > 10
    assert [path for path in linked if not (ROOT / path).exists()] == []


def test_the_recipe_makes_a_generator(tiny_run: Run) -> None:
    page = HOW_TO / "add_a_generator.md"
    (code,), (card,) = blocks(page, "python"), blocks(page, "yaml")
    names: dict[str, type] = {"__name__": "recipe"}  # type: ignore[dict-item]
    exec(code, names)
    values = yaml.safe_load(card)
    generator = names[values.pop("_target_").rpartition(".")[2]](**values)
    assert isinstance(generator, Generator)
    samples = generator.fit(families_of(tiny_run)).sample(3, np.random.default_rng(0))
    assert len(samples) == 3
    for family, state in samples:
        assert {name: value.shape for name, value in state.items()} == {n: v.shape for n, v in family.states[0].items()}
