"""The contract of tables of axis names: what can be told of a table without a model, and that models of all rows are tried."""

import difflib
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import torch

from tests.architectures import MODELS
from wsl.layout import architectures, layout_of
from wsl.layout.axis_table import Row, Table, parse
from wsl.layout.facts import modules_of
from wsl.layout.slots import MAPPED, PERMUTED

FAMILIES = [module.name for module in pkgutil.iter_modules(architectures.__path__)]


def tables(family: str) -> tuple[str, ...]:
    """The tables of a family, and those that it writes for the models that are tried, with and without what a model tells."""
    module = importlib.import_module(f"{architectures.__name__}.{family}")
    found = dict.fromkeys(module.TABLES)
    if hasattr(module, "tables"):
        for make in MODELS.values():
            with torch.device("meta"):
                model = make()
            shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
            found |= dict.fromkeys([*module.tables(shapes, modules_of(model)), *module.tables(shapes, ())])
    return tuple(found)


def _name(row: Row) -> str:
    """The name of a row, where that of one block alone is as rules have it."""
    return re.sub(r"{b=(\d+)}", r"\1", row.name)


def faults(table: Table) -> list[str]:
    """What is wrong with a table."""
    found = []
    used: dict[str, set[tuple[str, int, bool]]] = {}
    for i, row in enumerate(table.rows):
        for p, (_, dimensions) in enumerate(row.parts):
            for name in (name for dimension in dimensions for name in dimension):
                used.setdefault(name.removesuffix("*"), set()).add((row.name, p, name.endswith("*")))
        later = [other.condition for other in table.rows[i + 1 :] if other.name == row.name]
        if row.condition and "" not in later:
            found.append(f"{row.name} has no row for models that do not meet {row.condition}")
        if not row.condition and later:
            found.append(f"{row.name} has a row that is never read")
    for name, places in used.items():
        kind = name.partition(".")[0]
        if kind in MAPPED and kind != "sign" and {dual for *_, dual in places} != {True, False}:
            found.append(f"{name} has no dual, or nothing but duals")
        if kind in PERMUTED and kind != "register" and len(places) < 2:
            found.append(f"{name} is moved in one place alone, so no other layer follows")
        if kind not in (*PERMUTED, *MAPPED) and difflib.get_close_matches(kind, (*PERMUTED, *MAPPED), cutoff=0.6):
            found.append(f"{name} is of no kind that moves, but spelled nearly like one")
        if kind not in MAPPED and any(dual for *_, dual in places):
            found.append(f"{name} is marked as a dual and has none")
    names = {_name(row) for row in table.rows}
    for verb, sources, _ in table.rules:
        for layer in (re.sub(r"\[\d+\]$", "", source) for source in sources):
            if verb == "positive" and layer in used:
                continue
            if not names & {layer, f"{layer}.weight", f"{layer}.bias"}:
                found.append(f"{verb} {layer} names no row")
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tables_of_a_family_keep_the_contract(family: str) -> None:
    """Rules of rows that one table lacks and another has are left out, as tables share rules."""
    parsed = [parse(text) for text in tables(family)]
    rows = {re.sub(r"\d+", "#", _name(row)) for table in parsed for row in table.rows}
    for table in parsed:
        for fault in faults(table):
            layer = re.sub(r"\d+", "#", fault.split()[1])
            assert fault.endswith("names no row"), fault
            assert rows & {layer, f"{layer}.weight", f"{layer}.bias"}, fault


GOOD = """
    a.weight   fc1: (mlp.{b} factor.{b}) channel
    b.weight   fc1: mlp.{b} channel
    given gate=True: c.weight   fc2: class (mlp.{b} factor.{b}*)
    c.weight   fc2: class (mlp.{b} factor.{b}*)
    norm a -> c
"""


@pytest.mark.parametrize(
    ("right", "wrong", "fault"),
    [
        ("factor.{b}*", "factor.{b}", "has no dual"),
        ("fc1: mlp.{b} channel", "fc1: mlp.{b} channle*", "marked as a dual"),
        ("fc1: mlp.{b} channel", "fc1: mpl.{b} channel", "spelled nearly like one"),
        ("fc1: mlp.{b} channel", "fc1: mlp.other channel", "in one place alone"),
        ("norm a", "norm d", "norm d names no row"),
        ("    c.weight", "    d.weight", "no row for models that do not meet gate=True"),
        ("given gate=True: ", "", "never read"),
    ],
)
def test_a_table_that_breaks_the_contract_is_found(right: str, wrong: str, fault: str) -> None:
    assert faults(parse(GOOD)) == []
    assert fault in "; ".join(faults(parse(GOOD.replace(right, wrong))))


@pytest.mark.parametrize("row", ["given gate: a  fc1: mlp channel", "given a b=1: a  fc1: mlp channel"])
def test_a_condition_of_wrong_form_is_a_bug(row: str) -> None:
    with pytest.raises(ValueError, match="given"):
        parse(row)


def test_every_row_of_timms_vision_transformers_is_of_a_model_whose_laws_are_tried() -> None:
    tried = set()
    for make in MODELS.values():
        with torch.device("meta"):
            model = make()
        layout = layout_of(model)
        tried |= {(layout.family, slot.row) for slot in layout.slots}
    rows = {("vit", row.name) for text in tables("vit") for row in parse(text).rows}
    assert rows <= tried


def test_the_tables_of_the_recipe_are_in_the_language() -> None:
    page = Path(__file__).parents[2] / "docs" / "how_to" / "add_an_architecture.md"
    found = re.findall(r"```text\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert [len(parse(text).rows) for text in found] == [6, 6]
    assert faults(parse(found[0])) == []
