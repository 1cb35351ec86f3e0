"""Every card of an operation is built, and the page of operations runs and knows all of them."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.docs.pages import ROOT
from wsl.operations.models import Cost
from zoo_gen.config import card_names, cards

PAGE = ROOT / "docs" / "how_to" / "operations.md"


def test_every_card_is_built_and_has_a_row_on_the_page() -> None:
    built = cards("operation", ["*"])
    rows = re.findall(r"(?m)^\| `(\w+)` \| .* \| (?:weights|train images|the same)", PAGE.read_text(encoding="utf-8"))
    assert sorted(rows) == sorted(built) == [*card_names("operation")]
    assert all(callable(operation) for operation in built.values())


def test_the_code_of_the_page_makes_new_models(short_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoints" / "zoos").mkdir(parents=True)
    (tmp_path / "checkpoints" / "zoos" / "digits_mini").symlink_to(short_zoo)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    new, models, cost = names["new"], names["models"], names["cost"]
    assert isinstance(new, list)
    assert isinstance(models, list)
    assert isinstance(cost, Cost)
    assert len(new) == len(models) == 6
    assert all(torch.isfinite(tensor).all() for state in new for tensor in state.values())
    assert cost.gradients == 30
    assert cost.head_gradients > 0
    assert not np.allclose(new[0]["head.weight"], models[0]["head.weight"])
