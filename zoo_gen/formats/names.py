"""Names of tensors as models have them, taken from files in which wrappers, tools and older releases have changed them.

- Wrappers add components: `module.` (`DistributedDataParallel`, `AveragedModel`), `_orig_mod.` (`torch.compile`),
  `_fsdp_wrapped_module.`, `_checkpoint_wrapped_module.`; in any order and depth, some of them inside names.
- Training scripts keep a model under an attribute: `backbone.`, `net.`, and `model.` in files of PyTorch Lightning.
- Files on the Hugging Face hub have buffers that are no weights, and names of older releases (`LayerNorm.gamma`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import filter as matching

from torch import Tensor

from zoo_gen.errors import InputError
from zoo_gen.reader import shortened

ATTRIBUTES = ("backbone.", "net.", "network.")
"""Prefixes that come off where all names have them. They name an attribute of what was trained, and are part of no known model."""

LIGHTNING = ("model.",)
"""The same in files of PyTorch Lightning; in other files this prefix belongs to the names, as in language models."""

_INSIDE = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel
_BUFFER = re.compile(
    r"(.+\.)?(h\.\d+\.attn\.(bias|masked_bias)|embeddings\.position_ids|attn\.relative_position_index|blocks\.\d+\.attn_mask"
    r"|num_batches_tracked)"
)
_OLD_NORM = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}

RELEASE_4 = {
    "layers.": "encoder.layer.",
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
"""Parts of names in Vision Transformers of transformers, release 5, and what release 4 calls them (in this order: whole parts)."""


def unwrapped(weights: Mapping[str, Tensor], *, attributes: Sequence[str] = ATTRIBUTES) -> dict[str, Tensor]:
    """Returns weights by the names that the model itself has, without its buffers.

    Args:
        weights: as in a file.
        attributes: prefixes that come off where all names have them, as often as they do.

    Raises:
        InputError: two tensors would have one name.
    """
    found = {name: tensor for name, tensor in weights.items() if not _is_buffer(name, tensor)}
    others = [name for name in found if name != _COUNTER]
    if _COUNTER in found and others and all("module." in name for name in others):
        del found[_COUNTER]
    found = _renamed(found, {name: _INSIDE.sub("", name) for name in found})
    while prefix := next((one for one in ("module.", *attributes) if found and all(name.startswith(one) for name in found)), None):
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return _renamed(found, {name: _today(name) for name in found})


def _renamed(weights: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    if len(set(names.values())) < len(names):
        twice = next(name for name in names.values() if list(names.values()).count(name) > 1)
        both = " and ".join(shortened(old) for old, new in names.items() if new == twice)
        raise InputError(f"the checkpoint has {both}, which are one tensor of a model; save the model without its wrapper")
    return {names[name]: tensor for name, tensor in weights.items()}


def _today(name: str) -> str:
    for old, new in _OLD_NORM.items():
        if name.endswith(old) and name.removesuffix(old)[-1:] in ("", "."):
            return name.removesuffix(old) + new
    return name


def _is_buffer(name: str, tensor: Tensor) -> bool:
    """Whether a tensor is a mask, an index or a counter that a model makes by itself. Masks share their name with biases."""
    return (bool(_BUFFER.fullmatch(name)) and tensor.dim() != 1) or name.endswith(".masked_bias")


def counted(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights of a list of modules, `module_list.4.weight`, by the count of its layers alone: `layers.1.weight`.

    Indices in a list depend on modules without weights, as dropout. Weights with other names are returned as they are.

    >>> list(counted({"module_list.0.weight": Tensor(), "module_list.4.bias": Tensor()}))
    ['layers.0.weight', 'layers.1.bias']
    """
    found = {name: re.fullmatch(r"module_list\.([0-9]{1,6})\.(\w+)", name) for name in weights}
    numbers = sorted({int(match[1]) for match in found.values() if match})
    if not all(found.values()):
        return dict(weights)
    return {f"layers.{numbers.index(int(match[1]))}.{match[2]}": weights[name] for name, match in found.items() if match}


def below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Returns the tensors below a prefix (`backbone` or `backbone.`), without it. Raises `InputError` where there is none."""
    start = f"{prefix.removesuffix('.')}."
    found = {name.removeprefix(start): tensor for name, tensor in weights.items() if name.startswith(start)}
    if not found:
        there = ", ".join(map(shortened, sorted({name.partition(".")[0] for name in weights})[:8]))
        raise InputError(f"no tensor of the checkpoint is below {shortened(start)}; its names begin with {there}")
    return found


def without(weights: Mapping[str, Tensor], patterns: Sequence[str]) -> dict[str, Tensor]:
    """Returns the tensors whose names fit none of the patterns. Raises `InputError` for a pattern that fits none."""
    left_out: set[str] = set()
    for pattern in patterns:
        if not (found := matching(weights, pattern)):
            raise InputError(f"no tensor of the checkpoint is named {pattern!r}; remove it from without (--without)")
        left_out.update(found)
    return {name: tensor for name, tensor in weights.items() if name not in left_out}


def of_other_releases(name: str) -> Iterator[str]:
    """Yields a name as other releases of transformers have it."""
    yield _replaced(name, RELEASE_4)
    yield _replaced(name, {old: new for new, old in RELEASE_4.items()})


def _replaced(name: str, parts: Mapping[str, str]) -> str:
    """Replaces whole parts of a name, each at most once: never a part of what another replacement has written."""
    pattern = "|".join(re.escape(part) for part in sorted(parts, key=len, reverse=True))
    return re.sub(rf"(?:^|(?<=\.))(?:{pattern})(?=\.|(?<=\.)|$)", lambda match: parts[match[0]], name)
