"""Mutated files by the thousand: each must be read, or be one clear error; nothing may run, crash, or take much memory.

    python -m tests.fuzz --count 10000 --seed 0 [--formats safetensors torch ...]    # all formats: half an hour on one core

Runs in a process of its own with a limit on its memory (`RLIMIT_AS`), in which a file that asks for more is a crash.
Prints a JSON line per format: how many files were read and refused, and by how much the peak memory grew.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import pickle
import random
import re
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from PIL import Image
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from safetensors.torch import save_file

from tests.foreign import (
    ARCHITECTURE,
    CANARY,
    Bait,
    mutate,
    mutate_frame,
    mutate_tree,
    vit,
    write_adapter,
    write_probes,
    write_run,
    write_sharded,
    write_zoo,
)
from tests.fuzz_runs import read_inputs, read_models_file, read_results, write_inputs, write_models_file, write_results
from tests.zoos import known
from wsl import tokenize
from wsl.probes.predictor import FILE, Predictor
from wsl.run import Run
from zoo_gen import InputError, Zoo, verify
from zoo_gen.content import sealed
from zoo_gen.errors import one_clear_error
from zoo_gen.formats.checkpoint import read_checkpoint
from zoo_gen.sources.folder import folder as image_folder
from zoo_gen.sources.parquet import parquet as image_table

HEADROOM = 1 << 30
"""Address space in bytes that reading may take beyond what the process has after its first reads."""

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Format:
    """Valid examples (files by relative path), which of the files are mutated, and what reads them."""

    examples: Sequence[Files]
    targets: tuple[str, ...]
    read: Callable[[Path], None]


def read_weights(folder: Path) -> None:
    """Reads the checkpoint in a folder, and reports it by the command if its layout is known."""
    (path,) = [folder / name for name in ("w.safetensors", "w.pt", "hub", "adapter") if (folder / name).exists()]
    base = folder / "base.safetensors" if path.name == "adapter" else None
    found = read_checkpoint(path, base=base)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert all(tensor.nbytes <= size for tensor in found.values()), "a tensor is larger than its file"
    if path.suffix == ".safetensors":
        check_safetensors(path.read_bytes(), found)
    elif path.suffix == ".pt":
        check_torch(path, found)
    tokenize.main([str(path), *(["--base", str(base)] if base else [])])


def check_safetensors(content: bytes, found: Mapping[str, torch.Tensor]) -> None:
    """Compares what was read with the bytes of the file, read by other means."""
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    header.pop("__metadata__", None)
    assert {name.removeprefix("module.") for name in header} == {name.removeprefix("module.") for name in found}
    for name, described in header.items():
        start, stop = described["data_offsets"]
        tensor = found.get(name, found.get(name.removeprefix("module.")))
        assert tensor is not None
        assert list(tensor.shape) == described["shape"]
        assert tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() == data[start:stop] if tensor.numel() else True


def check_torch(path: Path, found: Mapping[str, torch.Tensor]) -> None:
    """Compares what was read with what torch reads, where torch reads it (it also compares checksums)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = torch.load(path, weights_only=True)
    except Exception:  # torch raises errors of any kind for what it does not read: nothing to compare with
        return
    theirs = theirs.get("state_dict", theirs) if isinstance(theirs, dict) else theirs
    names = {name.removeprefix("module."): name for name in theirs}
    checksums = {record.CRC for record in zipfile.ZipFile(path).infolist()} if zipfile.is_zipfile(path) else set[int]()
    for name, tensor in found.items():
        other = theirs[name if name in theirs else names[name]]
        mine, its = (one.detach().contiguous().view(-1).view(torch.uint8) for one in (tensor, other))
        assert tensor.shape == other.shape
        assert tensor.dtype == other.dtype
        # torch reads other bytes than those of the checksum where the header of a record was changed
        assert torch.equal(mine, its) or zlib.crc32(mine.numpy().tobytes()) in checksums


def read_zoo(folder: Path) -> None:
    """Reads what a zoo says of itself, and verifies it by the command."""
    zoo = Zoo.open(folder / "zoo")
    _ = zoo.complete, zoo.name, zoo.seed, repr(zoo)
    for scheme in ("by_model", "leave_root_out"):
        with contextlib.suppress(InputError):  # would hide the rest
            zoo.split(scheme, fold=0)
    with contextlib.suppress(InputError):
        zoo.images("finetune")
    for checkpoint in zoo:
        with contextlib.suppress(InputError):
            known(zoo.root(checkpoint)).state_dict()
    verify.main([str(folder / "zoo")])


def read_models(folder: Path) -> None:
    """Builds the models of a zoo whose config.json is new, and verifies the zoo by the command."""
    for checkpoint in Zoo.open(folder / "zoo"):
        with contextlib.suppress(InputError):
            if checkpoint.architecture != ARCHITECTURE:  # it takes long
                checkpoint.build()
    verify.main([str(folder / "zoo")])


def read_run(folder: Path) -> None:
    """Opens a run and its zoo."""
    run = Run.open(folder / "run")
    with contextlib.suppress(InputError):
        len(run.zoo)


def read_probes(folder: Path) -> None:
    """Reads the probes saved with a run, and asks them."""
    predictor = Predictor.read(folder / FILE)
    predictor(np.zeros((2, 3)), coverage=0.9, groups=["models", "roots"])


LOOK: dict[str, Any] = {"images": [1, 1, 1], "num_classes": 2, "size": 8, "mean": [0.5] * 3, "std": [0.5] * 3}
LOOK |= {"seed": 0, "memory_gb": 1.0, "workers": 1}


def read_pictures(folder: Path) -> None:
    """Reads a data set of two training images and a test image, all of its pixels."""
    if (folder / "pictures.parquet").exists():
        name = "pictures.parquet"
        images = image_table(source=str(folder), train=name, test=name, image="image", label="label", **LOOK)
    else:
        images = image_folder(path=str(folder), train="train", test="train", **LOOK)
    for split in (images.train, images.val, images.test):
        assert tuple(split.pixels.shape) == (1, 3, 8, 8)
        assert float(split.pixels[:].abs().max()) <= 1


def pictures() -> list[tuple[str, bytes]]:
    """Small pictures of each format and mode that is read, and one of a format that would reach another program."""
    grey = (np.arange(256, dtype=np.uint16).reshape(16, 16) * 257).astype(np.uint16)
    plain = Image.fromarray((grey >> 8).astype(np.uint8))
    kinds = [
        ("png", plain, {}),
        ("png", Image.fromarray(grey), {}),
        ("png", plain.convert("P"), {}),
        ("tif", Image.fromarray(grey), {}),
    ]
    kinds += [("png", plain.convert("RGBA"), {}), ("tif", plain.convert("RGB"), {"compression": "tiff_lzw"})]
    kinds += [(suffix, plain.convert("RGB"), {}) for suffix in ("jpg", "webp", "bmp", "ppm")]
    made = []
    for suffix, image, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix), **options)
        made.append((suffix, buffer.getvalue()))
    return made


def table_of(contents: Sequence[bytes]) -> bytes:
    """A Parquet file of two pictures or more."""
    buffer = io.BytesIO()
    cells = [{"bytes": content, "path": None} for content in contents]
    pyarrow.parquet.write_table(pa.table({"image": cells, "label": [n % 2 for n in range(len(cells))]}), buffer)
    return buffer.getvalue()


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def formats(bait: Path) -> dict[str, Format]:
    """The corpus: small, valid files of every format."""
    weights = vit()
    mixed = {"a": torch.ones(3, 2, dtype=torch.bfloat16), "b": torch.ones((), dtype=torch.int64), "c": torch.ones(2).half()}
    made: dict[str, Format] = {}

    def folder_of(write: Callable[[Path], object]) -> dict[str, bytes]:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            return _files(Path(folder))

    def saved(content: object, *, zipped: bool) -> dict[str, bytes]:
        return folder_of(lambda folder: torch.save(content, folder / "w.pt", _use_new_zipfile_serialization=zipped))

    def sharded(folder: Path, suffix: str) -> None:
        (folder / "hub").mkdir()
        write_sharded(folder / "hub", weights, suffix=suffix)

    def adapter(folder: Path) -> None:
        save_file(weights, folder / "base.safetensors")
        write_adapter(folder / "adapter", weights, alpha_pattern={"qkv": 5}, rank_pattern={})

    plain = [folder_of(lambda folder, one=one: save_file(one, folder / "w.safetensors")) for one in (weights, mixed)]
    made["safetensors"] = Format(plain, (".safetensors",), read_weights)
    wrapped = {"state_dict": {f"module.{name}": tensor for name, tensor in weights.items()}, "epoch": 3, "args": {"lr": 0.1}}
    evil = {"state_dict": weights, "args": Bait(bait)}
    script = {"model": weights, "args": argparse.Namespace(lr=0.1, seen={1}), "metric": np.float64(0.5), "best": torch.ones(())}
    corpus = (weights, mixed, wrapped, evil, script)
    made["torch"] = Format([saved(one, zipped=True) for one in corpus], (".pt",), read_weights)
    made["torch_older"] = Format([saved(one, zipped=False) for one in corpus], (".pt",), read_weights)
    shards = [folder_of(lambda folder, suffix=suffix: sharded(folder, suffix)) for suffix in ("safetensors", "bin")]
    made["shards"] = Format(shards, (".json", ".json", ".json", ".safetensors", ".bin"), read_weights)
    made["adapter"] = Format([folder_of(adapter)], ("config.json", "config.json", "model.safetensors"), read_weights)
    zoo = folder_of(lambda folder: write_zoo(folder / "zoo", weights))
    made["index"] = Format([zoo], ("index.parquet",), read_zoo)
    made["zoo.json"] = Format([zoo], ("zoo.json",), read_zoo)
    made["record.json"] = Format([zoo], ("record.json", "record.json", "config.json"), read_models)
    run = folder_of(lambda folder: (write_zoo(folder / "zoo", weights), write_run(folder / "run")))
    made["run"] = Format([run], ("config.yaml", "config.yaml", "standardizer.json", "run/model.safetensors"), read_run)
    made["probes"] = Format([folder_of(write_probes)], (FILE,), read_probes)
    made["models.json"] = Format([folder_of(write_models_file)], ("models.json",), read_models_file)
    made["inputs.json"] = Format([folder_of(write_inputs)], ("inputs.json",), read_inputs)
    results = ("metrics.jsonl", "probe.json", "generate.json")
    made["results"] = Format([folder_of(write_results)], results, read_results)
    found = pictures()
    made["pictures"] = Format(
        [{f"train/a/0.{suffix}": content, f"train/b/1.{suffix}": content} for suffix, content in found],
        tuple(f".{suffix}" for suffix, _ in found),
        read_pictures,
    )
    tables = [{"pictures.parquet": table_of([one, other])} for (_, one), (_, other) in itertools.pairwise(found)]
    made["pictures_parquet"] = Format(tables, (".parquet",), read_pictures)
    return made


def mutated(name: str, content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Mutates a file: as bytes, or half the time as what it holds, so that more than the first check is reached."""
    if rng.random() < 0.5:
        if name == "zoo.json":
            return sealed_again(mutate_tree(name, content, rng))
        if name.endswith(".jsonl"):
            lines = content.splitlines(keepends=True)
            place = rng.randrange(len(lines))
            return b"".join([*lines[:place], mutate_tree(name, lines[place], rng) + b"\n", *lines[place + 1 :]])
        if name.endswith((".json", ".yaml")):
            return mutate_tree(name, content, rng)
        if name == "pictures.parquet":
            cells = pyarrow.parquet.read_table(io.BytesIO(content))["image"].to_pylist()
            return table_of([mutate(cell["bytes"], rng, others) for cell in cells])
        if name.endswith(".parquet"):
            return mutate_frame(content, rng)
        if name.endswith(".safetensors"):
            length = int.from_bytes(content[:8], "little")
            header = mutate_tree(name, content[8 : 8 + length], rng)
            return struct.pack("<Q", len(header)) + header + content[8 + length :]
        if content.startswith(b"PK"):
            return mutate_zip(content, rng, others)
    return mutate(content, rng, others)


def sealed_again(content: bytes) -> bytes:
    """Gives a mutated zoo.json the right hash of itself, so that more than that is read."""
    with contextlib.suppress(ValueError, RecursionError, InputError):
        return json.dumps(sealed(json.loads(content))).encode()
    return content


def mutate_zip(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Mutates the pickle in a zip file, which stays whole around it."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(made, "w") as target:
        for entry in source.namelist():
            data = source.read(entry)
            target.writestr(entry, mutate(data, rng, others) if entry.endswith(".pkl") else data)
    return made.getvalue()


def fuzz(name: str, form: Format, *, numbers: Sequence[int], seed: int, bait: Path) -> dict[str, object]:
    """Reads mutated files of a format by their numbers; raises at the first that is neither read nor refused clearly."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    outcomes = {"read": 0, "refused": 0}
    others = [content for example in form.examples for content in example.values()]
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as scratch:
        places = []
        for number, example in enumerate(form.examples):
            for relative, content in example.items():
                path = Path(scratch) / str(number) / relative
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                places += [(path, content)] * sum(relative.endswith(target) for target in form.targets)
        for number in progress(numbers, name):
            rng = random.Random(f"{seed} {name} {number}")
            path, content = rng.choice(places)
            path.write_bytes(mutated(path.name, content, rng, others))
            root = path
            while root.parent != Path(scratch):
                root = root.parent
            outcomes[_outcome(form, root, f"--seed {seed} --formats {name} --only {number}", path)] += 1
            assert not (bait / CANARY).exists(), f"file {number} of {name}, seed {seed}, ran"
            path.write_bytes(content)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "format": name,
        "seed": seed,
        **outcomes,
        "peak_growth_mb": grown // 1024,
        "seconds": round(time.process_time() - start, 1),
    }


def progress(numbers: Sequence[int], name: str) -> Iterable[int]:
    """Yields the numbers, with a progress bar where somebody looks on; what is read may redirect the standard streams."""
    screen = Console(file=sys.__stderr__)
    quiet: dict[str, Any] = {
        "redirect_stdout": False,
        "redirect_stderr": False,
        "disable": not screen.is_terminal,
        "transient": True,
    }
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=screen, **quiet) as bar:
        yield from bar.track(numbers, description=name)


def _outcome(form: Format, root: Path, case: str, path: Path) -> str:
    """Reads as a command would; anything but a reading or one clear error keeps the file and ends the process."""
    printed, errors = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors), one_clear_error():
            form.read(root)
    except SystemExit as exit:
        message = re.sub(r"zoo \S+ is of format 1: .*\n", "", errors.getvalue())  # a note, not the error
        expected = message.startswith("error: ") and not message.startswith(("error: unexpected", "error: out of memory"))
        if exit.code == 1 and expected and message.count("\n") < 20 and len(message) < 5000:
            return "refused"
        print(f"unclear: {message[:2000]!r}")
    except BaseException:  # whatever it is, it is not one clear error
        traceback.print_exc()
    else:
        return "read"
    kept = Path(tempfile.gettempdir()) / f"fuzz-{path.name}"
    shutil.copy(path, kept)
    raise SystemExit(f"neither read nor refused: {case}; the file is kept at {kept}")


def main() -> None:
    """Fuzzes the formats of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", nargs="*", help="default: all")
    parser.add_argument("--only", type=int, help="number of the one file to read, as a failure names it")
    options = parser.parse_args()
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as bait:
        made = formats(Path(bait))
        for name in options.formats or made:
            form = made[name]
            fuzz(
                name, form, numbers=range(min(20, options.count // 10)), seed=-1, bait=Path(bait)
            )  # everything is imported and cached
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + HEADROOM, resource.RLIM_INFINITY))
            numbers = range(options.count) if options.only is None else [options.only]
            print(json.dumps(fuzz(name, form, numbers=numbers, seed=options.seed, bait=Path(bait))), flush=True)
        pickle.loads(pickle.dumps(Bait(Path(bait))))
        assert (Path(bait) / CANARY).exists(), "the bait is none: nothing would have been noticed"
    sys.exit(0)


if __name__ == "__main__":
    main()
