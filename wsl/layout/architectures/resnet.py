"""Residual networks of convolutions: `timm.models.ResNet`, `torchvision.models.ResNet` and that of transformers.

Basic and bottleneck blocks, any number of stages, one convolution or several in the stem; names `shortcut` and `linear`, which
other code has, are read too. All blocks of a stage write to one stream, so their channels are permuted alike; where the first
block has no convolution on its shortcut, it is the stream of the stage before. Groups (ResNeXt) and squeeze-and-excitation have
no table.

Batch norms stand directly behind convolutions, and hide their scale and shift. The outputs of a stage's first block depend on the
sum of two biases. Where all activations of the model are ReLU, each channel has a positive factor: inside of a block, and in all
that writes to a stream. A state dict does not tell the activations, nor the epsilon of norms.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_KNOWN = ("BasicBlock", "Bottleneck", "ResNet")
_OF_TRANSFORMERS = (
    "BasicLayer",
    "BottleNeckLayer",
    "Embeddings",
    "Encoder",
    "ForImageClassification",
    "ConvLayer",
    "Model",
    "ShortCut",
)
_OF_TORCH = ("Conv2d", "BatchNorm2d", "ReLU", "LeakyReLU", "MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d", "Linear", "Identity")
_HOMOGENEOUS = {
    *(f"{package}.{name}" for package in ("timm", "torchvision") for name in _KNOWN),
    *(f"transformers.ResNet{name}" for name in (*_OF_TRANSFORMERS, "Stage")),
    *(f"torch.{name}" for name in (*_OF_TORCH, "Sequential", "ModuleList", "Flatten", "Dropout")),
    *("timm.SelectAdaptivePool2d", "timm.DropPath"),
}

CLASSES = {
    "": ("timm.ResNet", "torchvision.ResNet", "transformers.ResNetForImageClassification"),
    r"(layer\d+|resnet\.encoder\.stages\.\d+\.layers)\.\d+": (
        *("timm.BasicBlock", "timm.Bottleneck", "torchvision.BasicBlock", "torchvision.Bottleneck"),
        *("transformers.ResNetBasicLayer", "transformers.ResNetBottleNeckLayer"),
    ),
}
TABLES: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Naming:
    """Names of the modules of a residual network; pairs are a convolution and its norm."""

    stems: tuple[tuple[tuple[str, str], ...], ...]
    block: str
    inner: tuple[str, str]
    first: int
    shortcuts: tuple[tuple[str, str], ...]
    heads: tuple[str, ...]


_HUB = "resnet.embedder.embedder"
_NAMINGS = (
    _Naming(
        ((("conv1", "bn1"),), (("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1"))),
        "layer{s}.{b}",
        ("conv{i}", "bn{i}"),
        1,
        (("downsample.0", "downsample.1"), ("downsample.1", "downsample.2"), ("shortcut.0", "shortcut.1")),
        ("fc", "linear"),
    ),
    _Naming(
        (((f"{_HUB}.convolution", f"{_HUB}.normalization"),),),
        "resnet.encoder.stages.{s}.layers.{b}",
        ("layer.{i}.convolution", "layer.{i}.normalization"),
        0,
        (("shortcut.convolution", "shortcut.normalization"),),
        ("classifier.1",),
    ),
)


def tables(shapes: Mapping[str, tuple[int, ...]], modules: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Writes the table of a residual network; none for tensors that are none.

    Args:
        shapes: of the tensors.
        modules: names and classes of the modules of the model; empty for a state dict.
    """
    positive = bool(modules) and {kind for _, kind in modules} <= _HOMOGENEOUS
    return tuple(
        "\n".join(_table(naming, stem, shapes, positive))
        for naming in _NAMINGS
        for stem in naming.stems
        if all(f"{conv}.weight" in shapes for conv, _ in stem) and _blocks(naming, shapes)
    )


def _blocks(naming: _Naming, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, list[int]]:
    """Returns the numbers of the blocks of each stage."""
    pattern = re.escape(naming.block).replace(r"\{s\}", "([0-9]{1,3})").replace(r"\{b\}", "([0-9]{1,3})")
    pairs = {match.groups() for name in shapes if (match := re.match(rf"{pattern}\.", name))}
    stages = sorted({stage for stage, _ in pairs}, key=int)
    return {stage: sorted(int(block) for one, block in pairs if one == stage) for stage in stages}


def _table(
    naming: _Naming, stem: Sequence[tuple[str, str]], shapes: Mapping[str, tuple[int, ...]], positive: bool
) -> Iterator[str]:
    inside: list[str] = []  # factors inside of blocks come after those of streams, which they depend on
    streams: dict[str, list[str]] = {}
    inputs = "channel"
    for n, (conv, norm) in enumerate(stem):
        axis = f"mlp.stem.{n}" if n + 1 < len(stem) else "resid.stem"
        yield from _pair(conv, norm, "fc1" if n else "patch", axis, inputs, f"stem.{n}")
        streams[axis] = _writers(conv, norm, shapes)
        inputs = axis
    stream = inputs
    for stage, blocks in _blocks(naming, shapes).items():
        at = naming.block.replace("{s}", stage)
        first = at.replace("{b}", str(blocks[0]))
        short = next((pair for pair in naming.shortcuts if f"{first}.{pair[0]}.weight" in shapes), None)
        entering, stream = stream, f"resid.{stage}" if short else stream
        if short:
            conv, norm = (f"{at}.{name}" for name in short)
            yield from _pair(conv, norm, "fc2", stream, entering, f"{stage}.short")
            streams[stream] = _writers(f"{first}.{short[0]}", f"{first}.{short[1]}", shapes)
        convs = [i for i in range(naming.first, naming.first + 9) if f"{first}.{naming.inner[0].format(i=i)}.weight" in shapes]
        for i in convs:
            conv, norm = (f"{at}.{name.format(i=i)}" for name in naming.inner)
            last = i == convs[-1]
            axis = stream if last else f"mlp.{stage}.{{b}}.{i}"
            kernel = f"{stage}.{i}"
            if i == convs[0] and entering != stream:
                only = f"{{b={blocks[0]}}}"
                yield f"{conv.replace('{b}', only)}.weight  fc1: {axis} {entering} row.{kernel} column.{kernel}"
            before = stream if i == convs[0] else f"mlp.{stage}.{{b}}.{i - 1}"
            yield from _pair(conv, norm, "fc2" if last else "fc1", axis, before, kernel)
            if last:
                for b in blocks:
                    streams[stream] += _writers(conv.replace("{b}", str(b)), norm.replace("{b}", str(b)), shapes)
                if short:
                    yield f"sum {at}.{short[1]}.bias -> {norm}.bias"
            else:
                inside.append(f"positive {axis} -> {conv}.weight {norm}.bias")
    for head in naming.heads:
        yield f"{head}.weight  head: class {stream}\n{head}.bias  head: class"
    norms = {name.rpartition(".")[0] for name in shapes if len(shapes[name]) == 1 and not name.startswith(naming.heads)}
    whole = all(f"{norm}.{kind}" in shapes for norm in norms for kind in ("weight", "bias", "running_mean", "running_var"))
    if positive and whole:
        yield from (f"positive {axis} -> {' '.join(writers)}" for axis, writers in streams.items())
        yield from inside


def _pair(conv: str, norm: str, role: str, axis: str, inputs: str, kernel: str) -> Iterator[str]:
    """Yields the rows of a convolution and its norm."""
    yield f"{conv}.weight  {role}: {axis} {inputs} row.{kernel} column.{kernel}"
    yield f"{conv}.bias  vectors: {axis}"
    yield from (f"{norm}.{kind}  vectors: {axis}" for kind in ("weight", "bias", "running_mean", "running_var"))
    yield f"{norm}.num_batches_tracked  vectors:"
    yield f"batch {norm} -> {conv}"


def _writers(conv: str, norm: str, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Returns the tensors of a convolution and its norm that write its outputs, once the norm is folded."""
    return [name for name in (f"{conv}.weight", f"{norm}.bias") if name in shapes]
