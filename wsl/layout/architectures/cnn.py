"""Plain networks: a chain of convolutions, then of linear layers, with activations, pooling, a flatten and batch norms between.

These are the models of the zoos of the field (Unterthiner et al., 2002.11448; Schürholt et al., 2209.14764), AlexNet, VGG and plain
MLPs. Layers are numbered (`module_list.4.weight`, `features.3.weight` and then `classifier.1.weight`), or are called `conv1`,
`bn1`, `fc1`. Each layer reads the channels of the one before, so a table is written for the layers that a checkpoint has.
A linear layer behind a flatten has an axis of channels, which vary slowest, and of places.

The order of modules tells more, and a state dict does not tell it:

- a batch norm directly behind a layer hides scale and shift of the layer; one whose outputs only a linear layer reads passes its
  scale and shift into that one;
- where nothing but ReLU, LeakyReLU and pooling stands between two layers, each channel has a positive factor;
- where nothing but tanh and averages does, it has a sign.

The next layer may be a convolution with padding, which sees where the image ends: no shift passes into convolutions.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

_LINEAR = ("torch.AvgPool2d", "torch.AdaptiveAvgPool2d", "torch.Flatten", "torch.Identity", "torch.Dropout", "torch.Dropout2d")
_HOMOGENEOUS = (*_LINEAR, "torch.ReLU", "torch.LeakyReLU", "torch.MaxPool2d", "torch.AdaptiveMaxPool2d")
_ODD = (*_LINEAR, "torch.Tanh")
_NORMS = ("torch.BatchNorm1d", "torch.BatchNorm2d")
_LAYERS = ("torch.Conv2d", "torch.Linear")
_CURVED = ("ReLU6", "GELU", "SiLU", "ELU", "CELU", "SELU", "Tanh", "Sigmoid", "Hardswish", "Hardtanh", "Softplus", "Mish")
_LEAVES = (*_HOMOGENEOUS, *_NORMS, *_LAYERS, *(f"torch.{name}" for name in _CURVED))

CLASSES = {
    "": ("torch.Sequential", "torchvision.AlexNet", "torchvision.VGG"),
    "features|classifier": ("torch.Sequential",),
    r"(?!(features|classifier)$).+": (*_LEAVES, "torch.Sequential"),
}
TABLES: tuple[str, ...] = ()
_NAMED = re.compile(r"(conv|bn|batchnorm|norm|fc|linear)_?(\d+)")


@dataclass
class _Module:
    """A layer or norm of a chain: its name, the shapes of its tensors, and the axis that it writes."""

    name: str
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    axis: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the weight."""
        return self.shapes.get("weight", ())

    @property
    def is_norm(self) -> bool:
        """Whether it is a batch norm."""
        return len(self.shape) == 1 and "running_var" in self.shapes

    @property
    def place(self) -> tuple[int, str, int]:
        """Where it stands among modules of one prefix."""
        if named := _NAMED.fullmatch(self.name):
            return int(named[1] in ("fc", "linear")), "", 2 * int(named[2]) + self.is_norm
        prefix, _, number = self.name.rpartition(".")
        return 0, prefix, int(number)


def tables(shapes: Mapping[str, tuple[int, ...]], modules: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Writes the table of a chain of layers; none for tensors that are no chain.

    Args:
        shapes: of the tensors.
        modules: names and classes of the modules of the model, in their order; empty for a state dict.
    """
    found: dict[str, _Module] = {}
    for name, shape in shapes.items():
        module, _, tensor = name.rpartition(".")
        found.setdefault(module, _Module(module)).shapes[tensor] = shape
    if not all(_NAMED.fullmatch(name) or re.fullmatch(r"(.+\.)?[0-9]{1,6}", name) for name in found):
        return ()
    if not all(one.is_norm or len(one.shape) in (2, 4) for one in found.values()):
        return ()
    flat = {
        one.place[:2]: all(len(other.shape) < 4 for other in found.values() if other.place[:2] == one.place[:2])
        for one in found.values()
    }
    chain = sorted(found.values(), key=lambda one: (flat[one.place[:2]], one.place))
    layers = [one for one in chain if not one.is_norm]
    if not layers or chain[0].is_norm or any(len(a.shape) < len(b.shape) for a, b in pairwise(layers)):
        return ()
    names = [name for name, _ in modules]
    if not {one.name for one in chain} <= set(names):
        return ("\n".join(_rows(chain, layers, set())),)
    between = [modules[names.index(a.name) + 1 : names.index(b.name)] for a, b in pairwise(layers)]
    signed = {one.name for one, kinds in zip(layers, between, strict=False) if {kind for _, kind in kinds} <= set(_ODD)}
    return ("\n".join([*_rows(chain, layers, signed), *_rules(chain, layers, between)]),)


def _rows(chain: Sequence[_Module], layers: Sequence[_Module], signed: Collection[str]) -> list[str]:
    rows = []
    before: _Module | None = None
    for one in chain:
        name = re.sub(r"(\d+)$", r"{b=\1}", one.name)
        if one.is_norm:
            assert before is not None
            one.axis = _read(one.shape[0], before)
            rows += [f"{name}.{kind}  vectors: {one.axis}" for kind in ("weight", "bias", "running_mean", "running_var")]
            rows.append(f"{name}.num_batches_tracked  vectors:")
            continue
        last = one is layers[-1]
        one.axis = "class" if last else f"(mlp.{one.name} sign.{one.name})" if one.name in signed else f"mlp.{one.name}"
        inputs = "channel" if before is None else _read(one.shape[1], before)
        kernel = f"row.{one.name} column.{one.name}" if len(one.shape) == 4 else ""
        role = "head" if last else "patch" if before is None and kernel else "fc1"
        rows.append(f"{name}.weight  {role}: {one.axis} {inputs} {kernel}")
        rows.append(f"{name}.bias  {'head' if last else 'vectors'}: {one.axis}")
        before = one
    return rows


def _read(size: int, before: _Module) -> str:
    """Returns the axes of inputs: the channels of the layer before, or these and their places behind a flatten."""
    channels = before.shape[0]
    return before.axis if size == channels or size % channels else f"({before.axis.strip('()')} place.{before.name})"


def _rules(chain: Sequence[_Module], layers: Sequence[_Module], gaps: Sequence[Sequence[tuple[str, str]]]) -> list[str]:
    """Returns the rules that the modules between each two layers allow."""
    rules, by_name = [], {one.name: one for one in chain}
    for (layer, following), gap in zip(pairwise(layers), gaps, strict=True):
        between, writers = list(gap), [f"{layer.name}.weight", f"{layer.name}.bias"]
        if between and between[0][1] in _NORMS and {"weight", "bias", "running_var"} <= by_name[between[0][0]].shapes.keys():
            norm, _ = between.pop(0)
            rules.append(f"batch {norm} -> {layer.name}")
            writers = [f"{layer.name}.weight", f"{norm}.bias"]
        if {kind for _, kind in between} <= set(_HOMOGENEOUS):
            rules.append(f"positive {layer.axis.strip('()').split()[0]} -> {' '.join(writers)}")
        norms = [n for n, (_, kind) in enumerate(between) if kind in _NORMS]
        if norms and {kind for _, kind in between[norms[-1] + 1 :]} <= set(_LINEAR):
            norm = between[norms[-1]][0]
            if following.shape[1:] == by_name[norm].shape and {"weight", "bias"} <= following.shapes.keys():
                rules.append(f"norm {norm} -> {following.name}")
    return rules
