"""Kills nodes of a Ray cluster that makes digits_mini, and checks that nothing is lost: python runs/kill_node.py --kills 3.

A cluster of two nodes runs on this machine. At random moments all processes of the second node are killed by SIGKILL, and a new
node joins. The content hash must be that of `executor=local`.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import ray  # pyright: ignore[reportMissingImports]
from ray.cluster_utils import Cluster  # pyright: ignore[reportMissingImports]

from zoo_gen import Zoo
from zoo_gen.verify import problems

SHORT = ["zoo.pretrain.recipe.epochs=4", "zoo.finetune.recipe.epochs=4", "zoo.pretrain.members.2.epochs=4", "zoo.stack_size=9"]


def command(path: Path, *executor: str) -> list[str]:
    """The command that makes the zoo."""
    return [sys.executable, "-m", "zoo_gen", "zoo=digits_mini", f"path={path}", *SHORT, *executor]


def processes_of(raylet: int) -> list[int]:
    """The processes of a node: its raylet, and what that has started."""
    found = [raylet]
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(place.read_text().rpartition(")")[2].split()[1]) == raylet:
                found.append(int(place.parent.name))
        except OSError:
            continue
    return found


def main() -> None:
    """Runs the whole experiment; exits with 1 at the first difference."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("checkpoints/kills_of_nodes"))
    options = parser.parse_args()
    shutil.rmtree(options.folder, ignore_errors=True)
    start = time.monotonic()
    subprocess.run(command(options.folder / "local", "executor.processes=2"), check=True, stdout=subprocess.DEVNULL)
    duration, rng = time.monotonic() - start, np.random.default_rng(options.seed)
    cluster = Cluster()
    cluster.add_node(num_cpus=1, include_dashboard=False)
    second = cluster.add_node(num_cpus=1)
    path = options.folder / "ray"
    process = subprocess.Popen(command(path, "executor=ray", f"executor.address={cluster.address}"), stdout=subprocess.DEVNULL)
    watcher = threading.Thread(target=process.wait)
    watcher.start()
    while not list(path.glob("state/*.safetensors")) and process.poll() is None:
        time.sleep(0.05)
    for number in range(options.kills):
        watcher.join(float(rng.uniform(0, duration / options.kills / 2)))
        if process.poll() is not None:
            break
        (raylet,) = second.all_processes["raylet"]
        trained = len(list(path.rglob("*.safetensors")))
        for pid in processes_of(raylet.process.pid):
            os.kill(pid, signal.SIGKILL)
        print(f"kill {number + 1}: {trained} files of weights were there", flush=True)
        cluster.remove_node(second, allow_graceful=False)
        second = cluster.add_node(num_cpus=1)
    watcher.join()
    found, expected = (Zoo.open(options.folder / name).content_hash for name in ("ray", "local"))
    cluster.shutdown()
    wrong = [*problems(path), *([] if found == expected else [f"content hash {found}, not {expected}"])]
    if wrong or process.returncode:
        raise SystemExit(f"{process.returncode}: {wrong[:3]}")
    print(f"the zoo is that of executor=local: {found} (Ray {ray.__version__})")


if __name__ == "__main__":
    main()
