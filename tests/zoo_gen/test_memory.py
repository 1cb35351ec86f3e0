"""Where a card states no stack size, free memory decides once, and the zoo remembers."""

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.zoos import ONE_EPOCH, InThisProcess, compose, make_zoo
from zoo_gen import hardware as memory
from zoo_gen.blueprint import Blueprint, ModelSpec
from zoo_gen.config import instantiate
from zoo_gen.generate import generate
from zoo_gen.hardware import CPU, bytes_of_training, free_bytes, left_of_limits, models_that_fit


def spec() -> ModelSpec:
    blueprint: Blueprint = instantiate(compose("zoo_gen", ["zoo=digits_mini"])["zoo"])
    return blueprint.plan(0)[0]


def test_activations_are_counted_as_autograd_saves_them() -> None:
    member = spec()
    one = bytes_of_training(member, CPU)
    two = bytes_of_training(dataclasses.replace(member, recipe=dataclasses.replace(member.recipe, batch_size=64)), CPU)
    per_image = (two - one) / 32
    tokens, width, blocks = 17, 32, 3
    assert 10 < per_image / (4 * tokens * width * blocks) < 40  # some twenty tensors of tokens x width per block
    weights = one - 32 * per_image
    assert weights == pytest.approx(memory.COPIES * 4 * 27_000, rel=0.1)


def test_as_many_models_fit_as_there_is_memory_and_never_none(monkeypatch: pytest.MonkeyPatch) -> None:
    member = spec()
    need = bytes_of_training(member, CPU)
    monkeypatch.setattr(memory, "free_bytes", lambda device: int(10.5 * need / memory.SHARE))
    assert models_that_fit(member, CPU, processes=1) == 10
    assert models_that_fit(member, CPU, processes=2) == 5
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1)
    assert models_that_fit(member, CPU, processes=1) == 1


def test_free_memory_is_known_and_less_than_all() -> None:
    assert 2**20 < free_bytes("cpu") < 2**50
    if torch.cuda.is_available():
        assert 2**20 < free_bytes("cuda") < 2**50


def group(folder: Path, files: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")


def test_what_a_container_may_use_is_what_the_tightest_of_its_limits_leaves(tmp_path: Path) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    stat = "anon 5\ninactive_file 100"
    group(two / "a", {"memory.max": 5000, "memory.current": 1000, "memory.stat": stat})
    group(two / "a/b", {"memory.max": "max", "memory.current": 700, "memory.stat": stat})
    assert left_of_limits(two, [("", "/a/b")]) == [4100]
    group(two, {"memory.max": 3000, "memory.current": 2900, "memory.stat": stat})  # as the group of a container looks from inside
    assert min(left_of_limits(two, [("", "/a/b")])) == left_of_limits(two, [("", "/gone")])[0] == 200
    group(one / "memory/c", {"memory.limit_in_bytes": 900, "memory.usage_in_bytes": 1200, "memory.stat": "total_inactive_file 50"})
    assert left_of_limits(one, [("cpu,cpuacct", "/c"), ("hugetlb,memory", "/c"), ("name=systemd", "/")]) == [0]
    assert left_of_limits(one, [("", "/c"), ("cpu", "/")]) == []


def test_the_smaller_of_the_machines_memory_and_the_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = free_bytes("cpu")
    monkeypatch.setattr(memory, "left_of_limits", lambda mount, groups: [2**20, 2**60])
    assert free_bytes("cpu") == 2**20
    monkeypatch.setattr(memory, "left_of_limits", lambda mount, groups: [2**60])
    assert 2**20 < free_bytes("cpu") < max(2 * whole, 2**50)


def test_a_zoo_keeps_its_partition_when_memory_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = {"learning_rate": [1e-3, 1e-2]}
    first = make_zoo(tmp_path / "zoo", "zoo.stack_size=null", *ONE_EPOCH, axes=axes, executor=InThisProcess(die_after=None))
    sizes = [len(plan["models"]) for plan in first.config["stacks"].values()]
    assert max(sizes) == 2  # what the executor of the tests has room for
    roomy = InThisProcess()
    monkeypatch.setattr(roomy, "models_at_once", lambda spec: 50)
    again = generate(first.path, first.config["config"], name="zoo", seed=0, executor=roomy)
    assert again.config["stacks"] == first.config["stacks"]
    assert again.content_hash == first.content_hash
