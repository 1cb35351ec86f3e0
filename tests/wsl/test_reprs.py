"""What is printed of an object fits into two lines, however much it holds."""

from pathlib import Path

import pytest

from tests.zoos import known
from wsl import Residual, Run, layout_of
from zoo_gen import Zoo

LIMIT = 200


@pytest.fixture(scope="module")
def printed(tiny_run: Run) -> dict[str, str]:
    zoo = tiny_run.zoo
    checkpoint = zoo.select(stage="finetune")[0]
    weights = checkpoint.state_dict()
    tokens = Residual(width=64, reference="root").encode(weights, root=known(zoo.root(checkpoint)).state_dict())
    images = zoo.images("finetune")
    deep = Zoo(Path("/" + "/".join(["folder"] * 100)), zoo.config, zoo.frame)
    found = [tokens, tokens.plan, tokens.plan.groups, layout_of(weights, heads=4), tiny_run, zoo, deep, checkpoint]
    found = [*found, tiny_run.split, images, images.train]
    return {f"{type(one).__name__} {number}": (repr(one), str(one)) for number, one in enumerate(found)}  # type: ignore[misc]


def test_every_object_is_printed_in_at_most_200_characters(printed: dict[str, tuple[str, str]]) -> None:
    long = {name: len(text) for name, texts in printed.items() for text in texts if len(text) > LIMIT and "tuple" not in name}
    assert long == {}
    assert all("\n" not in text for texts in printed.values() for text in texts)


def test_what_is_printed_tells_what_it_is(printed: dict[str, tuple[str, str]], tiny_run: Run) -> None:
    texts = {name.partition(" ")[0]: shown for name, (shown, _) in printed.items()}
    assert f"of the zoo '{tiny_run.zoo.path}'"[-30:] in texts["Run"]
    assert "of width 64" in texts["Tokens"]
    assert "Layout(vit, depth 3" in texts["Layout"]
    assert texts["Split"].startswith("Split(train: ")
    assert "5 classes, 1 x 8 x 8" in texts["Images"]
    assert "epoch 1" in texts["Checkpoint"]
