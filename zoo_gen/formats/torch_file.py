"""Weights in files of `torch.save`, read without unpickling (`pickle_parser`): the tensors are views of the file."""

import io
import struct
import zipfile
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from zoo_gen.errors import InputError
from zoo_gen.formats.pickle_parser import Described, Opaque, Refused, Storage, dtype_of, follow
from zoo_gen.reader import LIMIT, TENSORS, shortened, size_of

WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "module", "weights", "net"),
    *("teacher", "student", "state_dict_ema", "model_ema"),
)
"""Keys under which training scripts keep the weights, beside the optimizer and the like; the first that holds tensors is taken."""

LIGHTNING = "pytorch-lightning_version"
"""A key that only files of PyTorch Lightning have."""

_MAGIC = 0x1950A86A20F9469CFC6C


def read_torch_file(path: Path) -> tuple[dict[str, Tensor], bool]:
    """Reads the weights in a file of `torch.save`, in today's format (a zip file) or the older one. Nothing is executed.

    The weights are the tensors under one of `WRAPPERS`, or else the tensors of the whole file. Values of unknown classes beside
    the weights, as the arguments of a training script, are passed over.

    Returns the weights by their names in the file, and whether PyTorch Lightning wrote it.

    Raises:
        InputError: the file is missing, damaged or compressed, has no weights, or has a value of an unknown class among them.
    """
    size = size_of(path, advice="name a file of weights")
    try:
        with path.open("rb") as file:
            start = file.read(2)
            file.seek(0)
            tree, places, little = _zip(file, size) if start == b"PK" else _legacy(file, size)
        if not little:
            raise Refused("its numbers are stored big end first")
        chosen = _state_dict(tree, set(), depth=2)
        if odd := _opaque(tree if chosen is None else chosen):
            raise Refused(f"it asks for {shortened(odd.text)}, which is no weight")
        described = _tensors(chosen)
        if not isinstance(tree, dict):
            raise Refused(f"it holds a {type(tree).__name__.lower()} where a dict of tensors should be")
        if not described:
            there = ", ".join(shortened(key) for key in list(tree)[:8]) or "nothing"
            raise Refused(f"it has no tensors, and none under {', '.join(WRAPPERS)}, but {there}")
        if len(described) > TENSORS:
            raise Refused(f"it has {len(described):,} tensors, more than any checkpoint")
        whole, copies = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=size), dict[str, Tensor]()
        weights = {name: _tensor(found, whole, places, copies) for name, found in described.items()}
    except Refused as error:
        raise InputError(
            f"{path} is no file of weights: {error}; nothing was executed. Save the state dict alone, best as safetensors"
        ) from error
    except (OSError, ValueError, zipfile.BadZipFile, struct.error, NotImplementedError, RuntimeError, OverflowError) as error:
        raise InputError(f"{path} is damaged or no file of torch.save ({error}); nothing was executed. Fetch it again") from error
    return weights, LIGHTNING in tree


def _state_dict(tree: Any, seen: set[int], *, depth: int) -> dict[Any, Any] | None:
    """Finds the dict of tensors in the content of a file: under up to `depth` nested wrappers, or else the whole."""
    if not isinstance(tree, dict) or id(tree) in seen:
        return None
    seen.add(id(tree))
    for key in WRAPPERS if depth else ():
        if (found := _state_dict(tree.get(key), seen, depth=depth - 1)) is not None:
            return found
    return tree if _tensors(tree) else None


def _tensors(tree: dict[Any, Any] | None) -> dict[str, Described]:
    """Returns the tensors of a dict, not those of dicts in it."""
    pairs = tree.items() if tree else ()
    return {name: value for name, value in pairs if isinstance(value, Described) and isinstance(name, str)}


def _opaque(tree: Any) -> Opaque | None:
    """Returns something opaque in a description, without recursion: it may be nested as deep as it likes."""
    stack, seen = [tree], set()
    while stack:
        node = stack.pop()
        if isinstance(node, Opaque):
            return node
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, dict):
            stack += [*node, *node.values()]
        elif type(node) in (list, tuple):
            stack += node
    return None


def _zip(file: BinaryIO, size: int) -> tuple[Any, dict[str, tuple[int, int]], bool]:
    """Reads the description in a zip file, the places (start, length) of its storages, and whether numbers are little end first."""
    _check_directory(file, size)
    places: dict[str, tuple[int, int]] = {}
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise Refused(f"it is compressed or encrypted ({shortened(entry.filename)}), which torch.save never does")
        file.seek(entry.header_offset)
        header = file.read(30)
        if len(header) < 30 or header[:4] != b"PK\3\4":
            raise ValueError(f"the entry {shortened(entry.filename)} is not where the directory says")
        start = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
        if start + entry.file_size > size or entry.filename in places:
            raise ValueError(f"the entry {shortened(entry.filename)} is longer than the file, or there twice")
        places[entry.filename] = (start, entry.file_size)
    if sum(length for _, length in places.values()) > size:
        raise ValueError("its entries are longer than the file")
    programs = [name for name in places if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(programs) != 1:
        raise Refused("it is a zip file without a data.pkl, so torch.save did not write it")
    folder = programs[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in places:
        raise Refused("it is a TorchScript program")
    order = _entry(file, places.get(f"{folder}byteorder", (0, 0)))
    (tree,) = follow(io.BytesIO(_entry(file, places[programs[0]])), programs=1, storages={})
    data = {name.removeprefix(f"{folder}data/"): place for name, place in places.items() if name.startswith(f"{folder}data/")}
    return tree, data, order in (b"", b"little")


def _check_directory(file: BinaryIO, size: int) -> None:
    """Refuses a zip file whose directory of entries is absurdly long, before it is read."""
    file.seek(max(0, size - 2**16 - 22))
    tail = file.read()
    end = tail.rfind(b"PK\5\6")
    if end < 0 or len(tail) < end + 22:
        raise ValueError("a zip file without an end: it is cut off")
    length = struct.unpack_from("<L", tail, end + 12)[0]
    if end >= 76 and tail[end - 20 : end - 16] == b"PK\6\7":
        length = max(length if length != 2**32 - 1 else 0, struct.unpack_from("<Q", tail, end - 76 + 40)[0])
    if length > LIMIT:
        raise Refused(f"its directory of {length:,} bytes is longer than any checkpoint's")


def _entry(file: BinaryIO, place: tuple[int, int]) -> bytes:
    """Reads a small entry."""
    start, length = place
    if length > LIMIT:
        raise Refused(f"its description of {length:,} bytes is longer than any checkpoint's")
    file.seek(start)
    return file.read(length)


def _legacy(file: BinaryIO, size: int) -> tuple[Any, dict[str, tuple[int, int]], bool]:
    """Reads a file of the older format: pickles of a number, a version, the system, the content, and keys; then the storages."""
    begin = file.read(LIMIT)
    head = io.BytesIO(begin)
    storages: dict[str, Storage] = {}
    made = follow(head, programs=5, storages=storages)
    if next(made) != _MAGIC:
        raise Refused("it is a pickle that torch.save did not write")
    version, system, tree, keys = made
    if version != 1001 or not isinstance(system, dict) or not isinstance(keys, list):
        raise Refused("it is of an unknown version of torch.save")
    places, position = {}, head.tell()
    for key in keys:
        if not isinstance(key, str) or key not in storages or key in places:
            raise ValueError(f"storage {shortened(key)} is not in the description, or there twice")
        file.seek(position)
        count = int.from_bytes(file.read(8), "little")
        length = count * dtype_of(storages[key].kind).itemsize
        if position + 8 + length > size:
            raise ValueError(f"storage {shortened(key)} of {length:,} bytes is longer than the file")
        places[key] = (position + 8, length)
        position += 8 + length
    return tree, places, system.get("little_endian") is True


def _tensor(described: Described, whole: Any, places: dict[str, tuple[int, int]], copies: dict[str, Tensor]) -> Tensor:
    """Returns a described tensor of a mapped file, a view of it or of a copy where the file does not align the storage.

    Raises `Refused` for one that does not lie inside its storage.
    """
    key, kind = described.storage.key, described.storage.kind
    if key not in places:
        raise ValueError(f"storage {shortened(key)} is missing")
    (start, length), dtype = places[key], dtype_of(kind, described.dtype)
    if described.storage.length * dtype_of(kind).itemsize > length:
        raise ValueError(f"storage {shortened(key)} is shorter than it says")
    count, dimensions = prod(described.shape), zip(described.shape, described.strides, strict=True)
    stop = described.offset + 1 + sum((size - 1) * stride for size, stride in dimensions)
    if count and max(stop, count) * dtype.itemsize > length:
        raise Refused("it describes a tensor that is larger than its storage")
    if not count:
        return torch.empty(described.shape, dtype=dtype)
    row = whole[start : start + length // dtype.itemsize * dtype.itemsize]
    numbers = torch.empty(0, dtype=torch.uint8).set_(row)
    if numbers.data_ptr() % dtype.itemsize:  # as in the older format
        numbers = copies.setdefault(f"{key} {dtype.itemsize}", numbers.clone())
    return numbers.view(dtype).as_strided(described.shape, described.strides, described.offset)
