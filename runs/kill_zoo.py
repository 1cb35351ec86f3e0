"""Kills generations of digits_mini at random moments and checks that nothing is lost: python runs/kill_zoo.py --kills 50 --seed 0.

Each round starts the command, kills it by SIGKILL at a random moment of the first half of what a generation takes, and starts it
again, until the zoo is complete;
the content hash must be that of the uninterrupted zoo. A reader polls throughout: it must never fail or see part of a checkpoint.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from zoo_gen import InputError, Zoo
from zoo_gen.files import weights_sha256
from zoo_gen.verify import problems


def command(path: Path, overrides: list[str]) -> list[str]:
    """The command that makes the zoo."""
    return [sys.executable, "-m", "zoo_gen", "zoo=digits_mini", f"path={path}", *overrides]


def poll(path: Path, rng: np.random.Generator, done: threading.Event, failures: list[str], reads: list[int]) -> None:
    """Opens the zoo again and again and reads one of the checkpoints that its index lists."""
    while not done.is_set():
        try:
            zoo = Zoo.open(path)
            rows = zoo.frame
            if len(rows):
                number = int(rng.integers(len(rows)))
                if weights_sha256(zoo[number].state_dict()) != rows["weights_sha256"].iloc[number]:
                    failures.append(f"read part of {zoo[number].path}")
                reads.append(number)
        except InputError as error:
            if "not found" not in str(error) and "no checkpoints yet" not in str(error):
                failures.append(str(error))
        time.sleep(0.05)


def main() -> None:
    """Runs the whole experiment; exits with 1 at the first difference."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("checkpoints/kills"))
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    shutil.rmtree(options.folder, ignore_errors=True)
    start = time.monotonic()
    subprocess.run(command(options.folder / "whole", options.overrides), check=True, stdout=subprocess.DEVNULL)
    duration = time.monotonic() - start
    expected = Zoo.open(options.folder / "whole").content_hash
    rng = np.random.default_rng(options.seed)
    killed = generations = 0
    reads: list[int] = []
    while killed < options.kills:
        path = options.folder / f"killed_{generations:02d}"
        done, failures = threading.Event(), []
        reader = threading.Thread(target=poll, args=(path, np.random.default_rng(generations), done, failures, reads))
        reader.start()
        finished = False
        while not finished:
            process = subprocess.Popen(command(path, options.overrides), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            try:
                _, message = process.communicate(timeout=float(rng.uniform(0, duration / 2)) if killed < options.kills else None)
                finished = True
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
                continue
            if process.returncode:
                raise SystemExit(f"the command failed: {message.decode()}")
        done.set()
        reader.join()
        found = Zoo.open(path).content_hash
        wrong = [*failures, *problems(path), *([] if found == expected else [f"content hash {found}, not {expected}"])]
        if wrong:
            raise SystemExit(f"generation {generations}, {killed} kills: {wrong[:3]}")
        generations += 1
        shutil.rmtree(path)
        print(f"{killed} kills, {generations} generations, {len(reads)} reads: all equal to the uninterrupted zoo", flush=True)


if __name__ == "__main__":
    main()
