"""The order of the rooms: imports go down only, in no circle, and not deep; a command imports no other command."""

import ast
import graphlib
from functools import cache
from pathlib import Path

import pytest

import wsl

SOURCE = Path(wsl.__file__).parent
ROOMS = [
    "layout",
    "symmetry",
    "tokenizers",
    "data",
    "operations",
    "models",
    "run",
    "training",
    "features",
    "generators",
    "analyses",
]
ROOMS += ["probes", "reporting", "commands"]
"""From the ground up; `run` is run.py and run_*.py, and the commands are the other files at the top."""

FLOORS = 11
LINES = 300


def module_of(path: Path) -> str:
    return ".".join(("wsl", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module_of(path): path for path in sorted(SOURCE.rglob("*.py"))}
COMMANDS = {name for name in MODULES if name.count(".") == 1 and not MODULES[name].name.startswith(("run", "__init__"))}


@cache
def imports_of(name: str) -> frozenset[str]:
    """The modules of wsl that a module imports; names from a package count as that package."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & MODULES.keys() if names & MODULES.keys() else {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return frozenset(found & MODULES.keys() - {name})


def room_of(name: str) -> str:
    first = (*name.split("."), "")[1]
    return first if first in ROOMS else "run" if first.startswith("run") else "commands"


def floor_of(name: str) -> int:
    return 1 + max((floor_of(other) for other in imports_of(name)), default=0)


def test_imports_go_in_no_circle():
    order = graphlib.TopologicalSorter({name: imports_of(name) for name in MODULES}).static_order()
    assert set(order) == set(MODULES)


def test_a_circle_would_be_found():
    with pytest.raises(graphlib.CycleError):
        list(graphlib.TopologicalSorter({"a": {"b"}, "b": {"a"}}).static_order())


def test_there_are_at_most_fourteen_rooms_and_each_says_what_is_in_it():
    rooms = sorted(path.parent for path in SOURCE.glob("*/__init__.py"))
    assert {room.name for room in rooms} == {*ROOMS} - {"run", "commands"}
    assert len(ROOMS) <= 14
    for room in rooms:
        assert (ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or "").startswith(room.name.capitalize()), room


@pytest.mark.parametrize("name", [name for name in MODULES if name != "wsl"])
def test_imports_go_down(name: str):
    above = [other for other in imports_of(name) if ROOMS.index(room_of(other)) > ROOMS.index(room_of(name))]
    assert not above, f"{name} is in {room_of(name)} and imports {above}"


def test_imports_are_at_most_eleven_deep():
    floors = {name: floor_of(name) for name in MODULES if name != "wsl"}
    assert max(floors.values()) <= FLOORS, {name: floor for name, floor in floors.items() if floor > FLOORS}


def test_no_command_imports_another():
    assert len(COMMANDS) > 8
    for name in sorted(COMMANDS):
        assert not imports_of(name) & COMMANDS, name


def test_no_file_is_longer_than_three_hundred_lines():
    packages = [SOURCE, SOURCE.parent / "zoo_gen", SOURCE.parent / "benchmarks"]
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for folder in packages for path in folder.rglob("*.py")}
    assert not {path: count for path, count in lines.items() if count > LINES}
