"""Checkpoints of others: safetensors, files of `torch.save`, folders as on the Hugging Face hub, sharded or not, LoRA adapters.

Everything comes out as a state dict on the CPU whose tensors are views of the files. Nothing is executed or downloaded.
"""

import re
from collections.abc import Sequence
from fnmatch import filter as matching
from pathlib import Path

from torch import Tensor

from zoo_gen.errors import InputError
from zoo_gen.formats import matrix_row
from zoo_gen.formats.lora import merge
from zoo_gen.formats.names import ATTRIBUTES, LIGHTNING, below, unwrapped, without
from zoo_gen.formats.torch_file import read_torch_file
from zoo_gen.reader import inside, read_json, read_text, read_weights, shortened, size_of, what_it_is
from zoo_gen.remote import copy_of, is_remote

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pth.tar", ".pt.tar")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES)
WHOLE = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"
REFERENCE = ".reference.json"
"""Files of an adopted zoo that say where weights lie (`zoo_gen.reference`)."""
ADOPTED = f"model{REFERENCE}"
WHOLE_OR_INDEX = (*WHOLE, *(f"{name}{INDEX}" for name in WHOLE))
"""Files of weights in a folder, the first one there is."""
ADAPTER = "adapter_config.json"
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
ADVICE = "write or fetch it again"

TIED = re.compile(r"(.+\.)?(lm_head|decoder|proj_out|embed_out|output_projection)\.(weight|bias)")
"""Names of heads that are the input embeddings again, so that no shard holds them; indices of older releases list them still."""


def read_checkpoint(
    path: str | Path, *, base: str | Path | None = None, prefix: str | None = None, leave_out: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Reads the weights of a checkpoint of any known kind, by the names that the model itself has (`zoo_gen.formats.names`).

    Args:
        path: a `.safetensors` file, or a file of `torch.save`, whatever its suffix; the index (`*.index.json`) of a sharded
            checkpoint; a folder that holds `model.safetensors` or `pytorch_model.bin`, or their index; the folder of a model
            in the cache of the Hugging Face hub (`models--owner--name`) or of one of its snapshots; or the folder of a LoRA
            adapter (`adapter_config.json`); or a row of a matrix of weights, `weights.npy/12` (`zoo_gen.formats.matrix_row`); or a
            reference of an adopted zoo (`*.reference.json`) or the folder of one, which says how its weights are read; or the
            URL of one of these (`zoo_gen.remote`).
        base: the checkpoint that an adapter is merged into, of any of these kinds. The name of a base in the adapter is never
            followed.
        prefix: reads only the tensors below it, as of a model that is part of another (`backbone`).
        leave_out: patterns of names (`head.*`) of tensors that are no weights of the model.

    Raises:
        InputError: there is no such file; it is damaged, of an unknown kind, or not as it was adopted; a shard lies outside the
            folder; an adapter has no base, does not fit it, or is no plain LoRA; no name is below the prefix or fits a pattern.
    """
    place = _snapshot(copy_of(path) if isinstance(path, str) and is_remote(path) else Path(path))
    attributes = ATTRIBUTES
    if _exists(place / ADAPTER):
        config = read_json(_member(place, ADAPTER), advice=ADVICE)
        if base is None:
            named = shortened(config.get("base_model_name_or_path"))
            raise InputError(
                f"{place} is an adapter of the model {named}; say where that one is: base=<path>, on the command line --base <path>"
            )
        adapter, _ = _read_first(place, ADAPTERS)
        weights = merge(adapter, config, read_checkpoint(base))
    elif base is not None:
        raise InputError(f"{place} is no folder of an adapter (it has no {ADAPTER}), so there is nothing to merge; leave base out")
    else:
        weights, is_lightning = _read(place)
        attributes = (*LIGHTNING, *attributes) if is_lightning else attributes
    if weights and not any(tensor.numel() for tensor in weights.values()):
        raise InputError(
            f"no tensor of {place} has a value: placeholders, as sharded training (DeepSpeed ZeRO-3) leaves them "
            "where the weights were not gathered; gather them with its zero_to_fp32.py, then name the file that it writes"
        )
    raw, weights = weights, unwrapped(weights, attributes=() if prefix else attributes)
    weights = without(weights, [pattern for pattern in leave_out if matching(weights, pattern) or not matching(raw, pattern)])
    return unwrapped(below(weights, prefix) if prefix else weights, attributes=attributes)


def _read(place: Path) -> tuple[dict[str, Tensor], bool]:
    """Reads a file or folder as it is; the second value is whether PyTorch Lightning wrote it."""
    if matrix_row.is_row(place):
        return matrix_row.read_row(place), False
    if place.is_dir() and _exists(place / ADOPTED):
        place = place / ADOPTED
    if place.name.endswith(REFERENCE):
        from zoo_gen.reference import read_reference  # which reads checkpoints itself

        return read_reference(place).read(), False
    if place.is_dir():
        return _read_first(place, WHOLE_OR_INDEX)
    if not _exists(place):
        raise InputError(f"no file at {place.absolute()}; name a file or folder of weights")
    return _read_file(place, place)


def files_of(path: str | Path, *, base: str | Path | None = None) -> list[Path]:
    """Returns the files that `read_checkpoint` takes weights from, where their links lead: one, or an index and its shards.

    Of an adapter, its configuration and the files of its base are among them. Raises `InputError` as `read_checkpoint` does.
    """
    place = _snapshot(Path(path))
    if _exists(place / ADAPTER):
        adapter = [_member(place, ADAPTER), _member(place, _first(place, ADAPTERS).name)]
        return adapter if base is None else [*adapter, *files_of(base)]
    if matrix_row.is_row(place):
        return matrix_row.files_of_row(place)
    file = _first(place, WHOLE_OR_INDEX) if place.is_dir() else place
    found = _member(place, file.name) if place.is_dir() else file
    if not _exists(found):
        raise InputError(f"no file at {found.absolute()}; name a file or folder of weights")
    shards = dict.fromkeys(_weight_map(file, found).values()) if file.name.endswith(INDEX) else ()
    return [found, *(_member(file.parent, shard) for shard in shards)]


def _snapshot(place: Path) -> Path:
    """Returns the snapshot that a model's folder in the hub's cache holds, and any other place as it is."""
    if not place.name.startswith("models--") or not (place / "snapshots").is_dir():
        return place
    there = sorted(path.name for path in (place / "snapshots").iterdir() if path.is_dir())
    main = place / "refs" / "main"
    name = read_text(main, advice=ADVICE).strip() if main.is_file() else there[0] if len(there) == 1 else None
    if name not in there:
        raise InputError(
            f"{place} has the snapshots {', '.join(there) or '(none)'}; name the folder of one of them, below snapshots"
        )
    return place / "snapshots" / name


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # a name too long, no permission
        raise InputError(f"{shortened(str(path))} cannot be read ({error.strerror}); name a file or folder of weights") from error


def _read_first(folder: Path, names: tuple[str, ...]) -> tuple[dict[str, Tensor], bool]:
    """Reads the first of some files that a folder has."""
    file = _first(folder, names)
    return _read_file(file, _member(folder, file.name))


def _first(folder: Path, names: tuple[str, ...]) -> Path:
    """Returns the first of some files that a folder has."""
    for name in names:
        if (folder / name).is_symlink() or (folder / name).exists():
            return folder / name
    raise InputError(f"{folder} holds none of {', '.join(names)}; name the file of weights itself")


def _member(folder: Path, name: object) -> Path:
    """Returns the place of a file in a folder; in the hub's cache, files are links into a folder `blobs`.

    That folder is the repository's own, or one beside it that all repositories share.
    """
    if not isinstance(name, str) or Path(name).name != name:
        raise InputError(f"{folder} names the file {shortened(name)}, which is not simply a file in it; do not use it")
    repository = folder.resolve().parent.parent
    is_cache = folder.resolve().parent.name == "snapshots" and repository.name.startswith("models--")
    return inside(folder, name, also=(repository / "blobs", repository.parent / "blobs") if is_cache else ())


def _read_file(path: Path, place: Path) -> tuple[dict[str, Tensor], bool]:
    """Reads one file by its content, or the index of several by its name; `place` is where its links lead."""
    if path.name.endswith(INDEX):
        return _read_shards(path, place), False
    size_of(place, advice=ADVICE, missing=f"{path} is missing; fetch it again")
    kind = what_it_is(place)
    if kind == "safetensors" or path.name.endswith(".safetensors"):
        return read_weights(place, advice=ADVICE), False
    if kind in ("a zip file", "a pickle") or (kind is None and path.name.endswith(TORCH_SUFFIXES)):
        return read_torch_file(place)
    if kind is not None:
        raise InputError(f"{path} is {kind}, no file of weights; {ADVICE}")
    raise InputError(f"{path} is of no known kind; it should be a file of {', '.join(SUFFIXES)} or {INDEX}")


def _weight_map(index: Path, place: Path) -> dict[str, str]:
    """Returns the file of each tensor that an index names."""
    places = read_json(place, advice=ADVICE).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(shard, str) for shard in places.values()):
        raise InputError(f"{index} has no object 'weight_map' from tensors to files; {ADVICE}")
    return places


def _read_shards(index: Path, place: Path) -> dict[str, Tensor]:
    """Reads the shards that an index names; each must hold exactly the tensors that the index says."""
    places = _weight_map(index, place)
    weights: dict[str, Tensor] = {}
    for shard in dict.fromkeys(places.values()):
        if shard.endswith(INDEX):
            raise InputError(f"{index} names the index {shortened(shard)} as a shard; {ADVICE}")
        found, _ = _read_file(index.parent / shard, _member(index.parent, shard))
        wanted = {name for name, file in places.items() if file == shard}
        odd = {name for name in wanted ^ found.keys() if name in found or not TIED.fullmatch(name)}
        if odd:
            raise InputError(f"{index} and its shard {shortened(shard)} do not agree on the tensor {shortened(min(odd))}; {ADVICE}")
        weights |= found
    return {name: weights[name] for name in places if name in weights}
