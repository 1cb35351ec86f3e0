"""Layouts: the place of each weight of an architecture, its role, and the transformation of each of its axes.

A layout is read off a table of axis names (`wsl.layout.architectures`), one row per tensor:

    blocks.{b}.attn.qkv.weight   q: (head.{b} qk.{b}) resid | k: (head.{b} qk.{b}*) resid | v: (head.{b} vo.{b}) resid
    blocks.{b}.attn.proj.weight  o: resid (head.{b} vo.{b}*)
    head.bias                    head: class

The signs of a row:

- `|` splits the first axis into equal parts, each written `role: axes`.
- `/` binds less tightly and splits the first axis into sections of any size; a section may have equal parts.
- Parentheses make one axis of several; the first varies slowest.
- `{b}` is the index of the block, `{b=3}` that of block 3 alone. Other placeholders (`{i}` of parallel branches) may stand in
  names too.
- `^T` after a name marks a tensor whose last two dimensions are stored the other way round (GPT-2's linear layers).
- A line that begins with `|` or `/` continues a row; a line after `->` continues a rule.

Rows before the first `{b}` are the stem, rows after the last one the tail.

Equal names mean the same group element, hence the same size. An element g acts on an axis by g, and on an axis marked `*` by its
dual g^-T. The kind of an axis is the part of its name before the first dot:

    resid     residual stream, permuted     mlp   hidden neurons, permuted           head  attention heads, permuted
    dim       features of normed queries and keys, permuted in all heads alike       register  register tokens, permuted
    qk        features of queries and keys of a head, any invertible map             vo    the same of values and outputs
    factor    one number of a neuron, any but zero: a value, and what reads it       sign  one number of a neuron, 1 or -1

Axes of the last two lines belong to an axis of heads, neurons or dims, as their maps differ along it: `(head.0 qk.0)`,
`(mlp.0 sign.0)`. That owner stands in the same dimension, or alone in the part. A part has one invertible map at most.

Every other kind (`class`, `position`, ...) carries no symmetry, and `1` is an axis of size one.

A row may be of some models alone, those with a setting that a state dict does not tell. A row of the same name without the
condition follows it:

    given blocks.{b}.mlp.gate_last=True: blocks.{b}.mlp.fc1.weight   fc1: (mlp.{b} factor.{b}) resid | fc1: mlp.{b} resid

Rules, lines with an arrow, name the null directions that no axis shows: changes of weights without any effect on the outputs
(`wsl.symmetry.null_directions` folds them away):

    norm   blocks.{b}.norm1 -> blocks.{b}.attn.qkv              scale and shift of a norm pass into the layers that read it
    bias   blocks.{b}.attn.qkv.bias[2] -> blocks.{b}.attn.proj  a constant passes through a layer into its bias (part 2: values)
    bias   blocks.{b}.attn.qkv.bias[1] -> nothing               the softmax removes a constant that all keys have in common
    scale  blocks.{b}.ls1.gamma -> blocks.{b}.attn.proj         a factor per feature of a layer's output passes into the layer
    sum    blocks.{b}.mlp_out_proj.bias -> blocks.{b}.attn_out_proj.bias    outputs depend on the sum of two vectors alone
    mean   cls_token blocks.{b}.mlp.fc2 -> norm fc_norm         norms remove the mean of the vectors of the residual stream
    mean   blocks.{b}.attn.qkv[0] -> blocks.{b}.attn.q_norm     the same of the features of a head
    constant  attn_pool.latent -> attn_pool.q                   a layer reads one vector alone, so its outputs are one vector
    batch  layer1.{b}.bn1 -> layer1.{b}.conv1                   a batch norm hides scale and shift of the layer before it
    positive  mlp.{b} -> conv{b}.weight conv{b}.bias            a positive factor of each entry of an axis, and what writes it

A rule of a mean is dropped where outputs depend on the mean: where none of the norms named is there (`nothing` needs none), where
a norm may keep the mean, or where a layer that a norm passes into reads the same stream without any. A norm with a shift is a
LayerNorm, which removes the mean; which norm one without shift is, its class tells, and a state dict does not.

A norm with another reader, which cannot take over its scale, is written `norm ... -> kept`. Such a norm forbids rotations of its
stream, and so does a norm or scale none of whose layers the model has. Where all norms and scales of a stream fold away, every
rotation of its features that fixes the mean is a symmetry, and where all norms are known to be RMSNorms, every rotation.
"""

import fnmatch
import functools
import importlib
import math
import pkgutil
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import ModuleType

from torch import Tensor, nn

from wsl.layout import architectures
from wsl.layout.axis_table import Row, Table, parse
from wsl.layout.facts import Facts, batch_norms_of, check_classes, check_norms, modules_of, norms_of, settings_of
from wsl.layout.rules import rules_of
from wsl.layout.slots import SINGLE, Axis, Layout, Part, Slot, opaque_slot
from zoo_gen.errors import InputError
from zoo_gen.wording import counted


def layout_of(source: Mapping[str, Tensor] | nn.Module, *, heads: int | None = None, opaque: Sequence[str] = ()) -> Layout:
    """Finds the architecture of a state dict or model and returns its layout.

    A model must be of the classes of its table (`CLASSES` of `wsl.layout.architectures`). A state dict is taken to be of those
    classes: nothing in it tells that norms come after the sum (timm's `ResPostBlock`) or that positions rotate queries and keys
    (timm's `Eva`). Where the architecture is known, as that of a zoo's checkpoint is, pass the model. The layout then has the
    symmetries that settings and classes of norms tell, too; otherwise it has those of every such model alone.

    Args:
        source: a model or its state dict. Only names, shapes and the classes of a model are read.
        heads: number of attention heads per block, which a model tells (`num_heads`) and a state dict does not. Symmetries need
            it, tokens do not.
        opaque: patterns (`adapter.*`) of tensors without a row in any table. The layout has them in its tail, without any
            symmetry; a checkpoint of nothing else is of the family "opaque". The caller must know that they read no axis that
            the symmetries move.

    Raises:
        InputError: no table has all other tensors with consistent sizes, a model is of other classes than those of the table or
            has a norm that no tensor tells of, or a pattern of `opaque` names no tensor.
    """
    if isinstance(source, nn.Module):
        found = {n for module in source.modules() if isinstance(n := getattr(module, "num_heads", None), int)}
        heads = found.pop() if heads is None and len(found) == 1 else heads
    tensors = source.state_dict() if isinstance(source, nn.Module) else source
    facts: tuple[Facts, Facts, Facts] = ((), (), ())
    if isinstance(source, nn.Module):
        facts = ((*norms_of(source), *batch_norms_of(source)), settings_of(source), modules_of(source))
    layout = _layout(tuple((name, tuple(tensor.shape)) for name, tensor in tensors.items()), heads, tuple(opaque), *facts)
    if isinstance(source, nn.Module) and layout.family != "opaque":
        check_classes(source, importlib.import_module(f"{architectures.__name__}.{layout.family}"), layout.family)
        check_norms(source, layout)
    return layout


def refuse_idle(opaque: Sequence[str], names: Iterable[str]) -> None:
    """Raises `InputError` for a pattern that names no tensor."""
    there = list(names)
    for pattern in opaque:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in there):
            raise InputError(f"no tensor of the checkpoint is named {pattern!r}; remove it from opaque")


class _Mismatch(Exception):
    """A table that does not fit: the number of tensors without a row, and the reason."""

    def __init__(self, unknown: int, reason: str):
        super().__init__(unknown, reason)
        self.unknown, self.reason = unknown, reason


@functools.lru_cache(maxsize=256)
def _layout(
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    heads: int | None,
    opaque: tuple[str, ...],
    norms: Facts,
    settings: Facts,
    modules: Facts,
) -> Layout:
    if not shapes:
        raise InputError("the checkpoint has no tensors; pass the state dict of a model")
    if empty := [name for name, shape in shapes if 0 in shape]:
        raise InputError(f"tensor {empty[0]!r} of the checkpoint is empty; remove it")
    refuse_idle(opaque, [name for name, _ in shapes])
    passed = [pair for pair in shapes if any(fnmatch.fnmatchcase(pair[0], pattern) for pattern in opaque)]
    known = tuple(pair for pair in shapes if pair not in passed)
    if not known:
        return Layout("opaque", 0, tuple(opaque_slot(name, shape, block=1) for name, shape in passed), ())
    mismatches: list[tuple[str, _Mismatch]] = []
    for module in pkgutil.iter_modules(architectures.__path__):
        for text in tables_of(importlib.import_module(f"{architectures.__name__}.{module.name}"), dict(known), modules):
            try:
                layout = _fit(module.name, parse(text), known, heads, dict(norms), frozenset(settings))
            except _Mismatch as mismatch:
                mismatches.append((module.name, mismatch))
            else:
                tail = tuple(opaque_slot(name, shape, block=layout.depth + 1) for name, shape in passed)
                return replace(layout, slots=layout.slots + tail)
    families = ", ".join(module.name for module in pkgutil.iter_modules(architectures.__path__))
    family, closest = min(mismatches, key=lambda item: item[1].unknown)
    near = f"the closest, {family!r}, does not because {closest.reason}"
    if closest.unknown == len(known):
        near = f"none has a row for any of them, such as {known[0][0]!r}"
    raise InputError(
        f"no architecture of wsl.layout.architectures fits the checkpoint's {counted(len(shapes), 'tensor')}; {near}. Families are "
        f"{families}: add a table for another (one file in wsl/layout/architectures), "
        "remove tensors that are no weights of the model (--without on the command line), or pass their names as opaque (--opaque)"
    )


def tables_of(module: ModuleType, shapes: Mapping[str, tuple[int, ...]], modules: Facts) -> tuple[str, ...]:
    """Returns the tables of an architecture: those that its module has, and those that it writes for the tensors of a checkpoint.

    Args:
        module: of `wsl.layout.architectures`.
        shapes: of the tensors.
        modules: names and classes of the modules of the model; empty for a state dict.
    """
    return (*module.TABLES, *(module.tables(shapes, modules) if hasattr(module, "tables") else ()))


def _fit(
    family: str,
    table: Table,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    heads: int | None,
    norms: Mapping[str, str],
    settings: frozenset[tuple[str, str]],
) -> Layout:
    def hits(row: Row, name: str) -> re.Match[str] | None:
        match = row.pattern.fullmatch(name)
        setting, _, value = row.condition.partition("=")
        return match if match and (not setting or (setting.format(**match.groupdict()), value) in settings) else None

    matches: list[tuple[int, dict[str, str], str, tuple[int, ...]]] = []
    unknown = []
    for name, shape in shapes:
        hit = next(((i, match) for i, row in enumerate(table.rows) if (match := hits(row, name))), None)
        if hit:
            matches.append((hit[0], hit[1].groupdict(), name, shape))
        else:
            unknown.append(name)
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise _Mismatch(len(unknown), f"it has no row for {', '.join(unknown[:3])}{more}")

    blocks = sorted({(table.rows[i].stage, int(values["b"])) for i, values, *_ in matches if "b" in values})
    keyed = []
    for i, values, name, shape in matches:
        row = table.rows[i]
        if "b" in values:
            block = 1 + blocks.index((row.stage, int(values["b"])))
        else:  # the stem, the end of a stage, or the tail
            block = sum(stage <= row.stage for stage, _ in blocks) + row.tail
        parts = []
        turned = (*shape[:-2], shape[-1], shape[-2]) if row.transposed and len(shape) > 1 else shape
        for role, dimensions in row.parts:
            named = [[axis.format(**values) for axis in dimension] for dimension in dimensions]
            axes = tuple(tuple(Axis(name.removesuffix("*"), name.endswith("*")) for name in names) for names in named)
            parts.append(Part(role, block, 0, axes))
        keyed.append(((block, i, name), Slot(name, turned, row.name, tuple(parts), row.transposed), row.sections))
    keyed.sort(key=lambda item: item[0])
    slots, sizes = _solve([(slot, sections) for _, slot, sections in keyed], heads)
    bindings = [values for _, values, *_ in matches]
    return Layout(family, len(blocks), slots, sizes, rules_of(table.rules, slots, bindings, norms))


def _solve(rows: Sequence[tuple[Slot, tuple[int, ...]]], heads: int | None) -> tuple[tuple[Slot, ...], tuple[tuple[str, int], ...]]:
    """Finds the size of every part and axis from the shapes.

    Args:
        rows: slots without the sizes of their parts, and the number of parts in each section of the first axis.
        heads: their number, where it is given.

    Raises:
        _Mismatch: equal names would need different sizes.
    """
    products: dict[tuple[str, ...], tuple[int, str]] = {("1",): (1, "by definition")}

    def equate(names: tuple[str, ...], size: int, where: str) -> None:
        known, first = products.setdefault(names, (size, where))
        if known != size:
            raise _Mismatch(0, f"axis '{' '.join(names)}' has size {known} ({first}) and size {size} ({where})")

    filled: dict[str, Slot] = {}
    for slot, sections in sorted(rows, key=lambda row: len(row[1])):  # other tensors tell the sizes of sections
        sizes: list[int] = []
        for n in sections[:-1]:
            names = tuple(axis.name for axis in slot.parts[len(sizes)].axes[0])
            sizes += n * [products.get(names, (0, ""))[0]]
        sizes += sections[-1] * [((*slot.shape, 1)[0] - sum(sizes)) // sections[-1]]
        if any(len(part.axes) != len(slot.shape) for part in slot.parts) or min(sizes) < 1 or sum(sizes) != (*slot.shape, 1)[0]:
            what = counted(len(sizes), "equal part") if len(sections) == 1 else f"parts of {' + '.join(map(str, sizes))} rows"
            raise _Mismatch(
                0, f"{slot.name} of shape {slot.shape} is not {what} of {counted(len(slot.parts[0].axes), 'dimension')}"
            )
        parts = tuple(replace(part, size=size) for part, size in zip(slot.parts, sizes, strict=True))
        filled[slot.name] = replace(slot, parts=parts)
        for part in parts:
            for axes, size in zip(part.axes, (part.size, *slot.shape[1:])[: len(slot.shape)], strict=True):
                equate(tuple(axis.name for axis in axes), size, slot.name)
    if heads is not None:
        for name in sorted({axis.name for slot in filled.values() for part in slot.parts for axes in part.axes for axis in axes}):
            if name.startswith("head."):
                equate((name,), heads, "the given number of heads")
    for name in sorted({name for names in products for name in names}):
        if name.partition(".")[0] in SINGLE:
            equate((name,), 1, "by definition")
    before = 0
    while before < len(products):  # a size that was found may tell others
        before = len(products)
        for names, (size, where) in list(products.items()):
            missing = [name for name in names if (name,) not in products]
            product = math.prod(products[(name,)][0] for name in names if (name,) in products)
            if (not missing and product != size) or (len(missing) == 1 and size % product):
                raise _Mismatch(0, f"axis '{' '.join(names)}' of {where} has size {size}, which {product} does not fit")
            if len(missing) == 1:
                equate((missing[0],), size // product, where)
    slots = tuple(filled[slot.name] for slot, _ in rows)
    return slots, tuple((names[0], size) for names, (size, _) in products.items() if len(names) == 1)
