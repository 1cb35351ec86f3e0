"""The public names: few, documented, and of the modules that they are defined in."""

import ast
import importlib
import inspect
import subprocess
import sys

import pytest

import wsl
import zoo_gen


@pytest.mark.parametrize("package", [wsl, zoo_gen])
def test_a_package_exports_at_most_fifteen_names_and_each_is_documented(package):
    assert len(package.__all__) <= 15
    assert len(set(package.__all__)) == len(package.__all__)
    for name in package.__all__:
        found = getattr(package, name)
        if callable(found):
            assert (inspect.getdoc(found) or "").strip(), name


def test_lazy_names_are_those_that_type_checkers_see():
    tree = ast.parse(inspect.getsource(wsl))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert sorted(seen) == sorted(wsl.__all__)
    for name, module in seen.items():
        assert getattr(wsl, name) is getattr(importlib.import_module(str(module)), name)


def test_a_command_that_is_imported_hides_no_public_function():
    command = importlib.import_module("wsl.align")
    assert callable(command.main)
    assert callable(wsl.align)
    assert wsl.align is importlib.import_module("wsl.symmetry.alignment").align


def test_a_name_that_is_not_there_is_an_error_that_lists_those_that_are():
    with pytest.raises(AttributeError, match="no attribute 'Ruin'; it has MOVES, Chunks"):
        _ = wsl.Ruin


def test_importing_the_package_alone_imports_no_torch():
    code = "import sys; sys.modules['torch'] = None; import wsl; print('imported'); wsl.Run"  # no torch: who imports it ends
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "imported\n")
    assert "ModuleNotFoundError: import of torch halted" in done.stderr
