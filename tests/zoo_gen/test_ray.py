"""A zoo that a Ray cluster of two nodes makes is the zoo of one process, whatever dies meanwhile."""

import gc
import importlib
import importlib.util
import os
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.zoos import make_short
from zoo_gen import InputError, Zoo
from zoo_gen.config import compose, instantiate
from zoo_gen.executors.ray import RayExecutor, train
from zoo_gen.files import sha256_of
from zoo_gen.hardware import CPU
from zoo_gen.on_ray import run, run_line

pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray: pip install -e '.[ray]'")
STACKS = ("zoo.stack_size=3", "zoo.finetune.recipe.epochs=8")


def executor(**settings: Any) -> Any:
    return instantiate({**compose("zoo_gen", ["executor=ray"])["executor"], **settings})


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two nodes of one core each, that this process is connected to."""
    ray, patch = importlib.import_module("ray"), pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("PYTHONPATH", os.getcwd())
    cluster = importlib.import_module("ray.cluster_utils").Cluster()
    cluster.add_node(num_cpus=1, include_dashboard=False)
    cluster.add_node(num_cpus=1)
    executor(address=cluster.address).connect()
    yield cluster
    with warnings.catch_warnings(action="ignore"):  # Ray leaves sockets and processes to the garbage collector
        ray.shutdown()
        cluster.shutdown()
        del cluster
        gc.collect()
    patch.undo()


def workers_of(node: Any) -> list[int]:
    """The processes of a node that train."""
    found = []
    (raylet,) = node.all_processes["raylet"]
    for place in Path("/proc").glob("[0-9]*"):
        try:
            status, line = (place / "stat").read_text(), (place / "cmdline").read_text()
        except OSError:
            continue
        if int(status.rpartition(")")[2].split()[1]) == raylet.process.pid and line.startswith("ray::train"):
            found.append(int(place.name))
    return found


@needs_ray
def test_a_cluster_makes_the_zoo_of_one_process_though_a_worker_is_killed(tmp_path: Path, cluster: Any) -> None:
    alone = make_short(tmp_path / "alone", *STACKS)
    killed: list[int] = []
    kept: dict[Path, int] = {}
    path, trained = tmp_path / "zoo", threading.Event()

    def kill() -> None:
        while not killed and not trained.is_set():
            time.sleep(0.002)
            if list(path.glob("state/finetune_*")) and (
                found := [pid for node in cluster.list_all_nodes() for pid in workers_of(node)]
            ):
                killed.extend(found)
                for pid in found:
                    os.kill(pid, signal.SIGKILL)
                kept.update({file: file.stat().st_mtime_ns for file in path.rglob("epochs/0001.safetensors")})

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        together = make_short(path, *STACKS, executor=executor())
    finally:
        trained.set()
        killer.join()
    assert killed
    assert kept
    assert {file: file.stat().st_mtime_ns for file in kept} == kept  # no epoch that was saved is trained again
    assert together.content_hash == alone.content_hash
    assert together.config["stacks"] == alone.config["stacks"]
    assert not list(path.rglob("state/*"))


@needs_ray
def test_an_error_of_a_task_arrives_as_it_was(tmp_path: Path, short_zoo: Path, cluster: Any) -> None:
    shutil.copytree(short_zoo, zoo := tmp_path / "zoo")
    (child,) = Zoo.open(zoo).select(stage="finetune", final=True)[:1]
    (child.folder / "record.json").unlink()
    (root := zoo / "models" / str(child.root) / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match=rf"^checkpoint {root} is damaged"):
        make_short(zoo, executor=executor())


@needs_ray
def test_commands_run_on_the_cluster_and_those_that_fail_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [*(f"touch {number}" for number in range(3)), "ls nowhere", "touch 0"]
    with pytest.raises(InputError, match=r"^1 of 4 commands failed: ls nowhere .*nowhere"):
        run(lines, address="auto", cpus=1, gpus=0, retries=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]


def test_a_node_that_sees_no_zoo_or_another_one_says_so(tmp_path: Path, short_zoo: Path) -> None:
    for place, sha256 in ((tmp_path, ""), (short_zoo, "of another zoo.json")):
        with pytest.raises(InputError, match=r"does not see the zoo at .*all nodes share"):
            train("pretrain_000", str(place), sha256, str(tmp_path / "no folder"), CPU)
    before = {file: file.stat().st_mtime_ns for file in short_zoo.rglob("*.safetensors")}
    train("pretrain_000", str(short_zoo), sha256_of(short_zoo / "zoo.json"), str(Path.cwd()), CPU)
    assert {file: file.stat().st_mtime_ns for file in before} == before  # what is finished is not trained again


@needs_ray
@pytest.mark.parametrize(
    ("settings", "message"),
    [({"device": "tpu"}, "cpu or cuda"), ({"cpus": 0}, "cpus > 0"), ({"in_flight": 0}, "in_flight >= 1")],
)
def test_settings_that_make_no_sense_are_one_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        executor(**settings)


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_address_without_a_cluster_is_one_error(address: str) -> None:
    importlib.import_module("ray").shutdown()  # the cluster of the tests before
    with pytest.raises(InputError, match=rf"^no Ray cluster at {address} .*ray start --head"):
        executor(address=address).connect()


def test_without_the_package_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    card = {name: value for name, value in compose("zoo_gen", ["executor=ray"])["executor"].items() if name != "_target_"}

    def missing(name: str) -> None:
        raise ImportError(name)

    with monkeypatch.context() as patch:
        patch.setattr(importlib, "import_module", missing)
        with pytest.raises(InputError, match=r"vit-weight-space\[ray\]"):
            RayExecutor(**card)


def test_a_command_is_run_where_it_was_given_and_its_last_word_comes_back(tmp_path: Path) -> None:
    assert run_line("touch 'a file'", str(tmp_path)) == (0, "")
    assert (tmp_path / "a file").exists()
    code, said = run_line("ls nowhere", str(tmp_path))
    assert code
    assert "nowhere" in said
    with pytest.raises(InputError, match="cannot run no-such-program"):
        run_line("no-such-program", str(tmp_path))
