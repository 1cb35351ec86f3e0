"""Checkpoints of others: safetensors, files of `torch.save`, folders as on the Hugging Face hub, sharded or not, LoRA adapters.

Everything comes out as a state dict on the CPU whose tensors are views of the files. Nothing is executed or downloaded.
"""

from pathlib import Path

from torch import Tensor

from wsl.formats.lora import merge
from wsl.formats.torch_file import read_torch_file, unprefixed
from zoo_gen.errors import InputError
from zoo_gen.reader import inside, read_json, read_weights, shortened

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
WHOLE = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"
ADAPTER = "adapter_config.json"
ADVICE = "write or fetch it again"


def read_checkpoint(path: str | Path, *, base: str | Path | None = None) -> dict[str, Tensor]:
    """Reads the weights of a checkpoint of any known kind.

    Args:
        path: a `.safetensors` file; a `.pt`, `.pth`, `.bin` or `.ckpt` file of `torch.save`; the index (`*.index.json`) of a
            sharded checkpoint; a folder that holds `model.safetensors` or `pytorch_model.bin`, or their index; or the
            folder of a LoRA adapter (`adapter_config.json`).
        base: the checkpoint that an adapter is merged into, of any of these kinds. The name of a base in the adapter is never
            followed.

    Raises:
        InputError: there is no such file; it is damaged, or of an unknown kind; a shard lies outside the folder; an adapter has no
            base, does not fit it, or is no plain LoRA.
    """
    place = Path(path)
    if _exists(place / ADAPTER):
        config = read_json(_member(place, ADAPTER), advice=ADVICE)
        if base is None:
            named = shortened(config.get("base_model_name_or_path"))
            raise InputError(
                f"{place} is an adapter of the model {named}; say where that one is: base=<path>, on the command line --base <path>"
            )
        return merge(_read_first(place, ("adapter_model.safetensors", "adapter_model.bin")), config, read_checkpoint(base))
    if base is not None:
        raise InputError(f"{place} is no folder of an adapter (it has no {ADAPTER}), so there is nothing to merge; leave base out")
    if place.is_dir():
        return _read_first(place, (*WHOLE, *(f"{name}{INDEX}" for name in WHOLE)))
    if not _exists(place):
        raise InputError(f"no file at {place.absolute()}; name a file or folder of weights")
    return _read_file(place)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # a name too long, no permission
        raise InputError(f"{shortened(str(path))} cannot be read ({error.strerror}); name a file or folder of weights") from error


def _read_first(folder: Path, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Reads the first of some files that a folder has."""
    for name in names:
        if (folder / name).is_symlink() or (folder / name).exists():
            return _read_file(_member(folder, name), name=name)
    raise InputError(f"{folder} holds none of {', '.join(names)}; name the file of weights itself")


def _member(folder: Path, name: object) -> Path:
    """Returns the place of a file in a folder; in the hub's cache, files are links into the folder `blobs` of their repository."""
    if not isinstance(name, str) or Path(name).name != name:
        raise InputError(f"{folder} names the file {shortened(name)}, which is not simply a file in it; do not use it")
    repository = folder.resolve().parent.parent
    is_cache = folder.resolve().parent.name == "snapshots" and repository.name.startswith("models--")
    return inside(folder, name, also=repository / "blobs" if is_cache else None)


def _read_file(path: Path, *, name: str | None = None) -> dict[str, Tensor]:
    """Reads one file, or the index of several, by the name it goes under."""
    name = name or path.name
    if name.endswith(".safetensors"):
        return unprefixed(read_weights(path, advice=ADVICE))
    if name.endswith(TORCH_SUFFIXES):
        return read_torch_file(path)
    if name.endswith(INDEX):
        return _read_shards(path)
    raise InputError(f"{path} is of no known kind; it should end in .safetensors, {', '.join(TORCH_SUFFIXES)} or {INDEX}")


def _read_shards(index: Path) -> dict[str, Tensor]:
    """Reads the shards that an index names; each must hold exactly the tensors that the index says."""
    places = read_json(index, advice=ADVICE).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(shard, str) for shard in places.values()):
        raise InputError(f"{index} has no object 'weight_map' from tensors to files; {ADVICE}")
    weights: dict[str, Tensor] = {}
    for shard in dict.fromkeys(places.values()):
        if shard.endswith(INDEX):
            raise InputError(f"{index} names the index {shortened(shard)} as a shard; {ADVICE}")
        found = _read_file(_member(index.parent, shard), name=shard)
        wanted = {name for name, file in places.items() if file == shard}
        if odd := wanted ^ found.keys():
            raise InputError(f"{index} and its shard {shortened(shard)} do not agree on the tensor {shortened(min(odd))}; {ADVICE}")
        weights |= found
    return {name: weights[name] for name in places}
