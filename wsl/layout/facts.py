"""Facts of a model that its tensors do not tell: classes, settings, and which norms remove the mean."""

import re
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType

from torch import nn

from wsl.layout.slots import Layout, Rule
from zoo_gen.errors import InputError

NORMS = {"torch.LayerNorm": "layer", "torch.RMSNorm": "rms", "timm.RmsNorm": "rms", "timm.RmsNormFp32": "rms"}
"""Classes of norms, and whether they remove the mean ("layer") or not ("rms")."""

Facts = tuple[tuple[str, str], ...]
"""Facts of a model: pairs of a name and what is true of it."""


def check_classes(model: nn.Module, table: ModuleType, family: str) -> None:
    """Raises `InputError` for a model with the tensors of a family but other classes or settings."""
    classes: Mapping[str, Sequence[str]] = getattr(table, "CLASSES", {})
    for name, module in model.named_modules():
        for pattern, known in classes.items():
            if re.fullmatch(pattern, name) and not set(_classes(module)) & set(known):
                raise InputError(
                    f"{name or 'the model'} is a {type(module).__name__}, which may read its tensors in another way than the table "
                    f"{family!r} says; that is of {', '.join(known)}. Add a table for it (one file in wsl/layout/architectures)"
                )
    for setting, known in getattr(table, "SETTINGS", {}).items():
        if (value := getattr(model, setting)) not in known:
            raise InputError(
                f"the model has {setting}={value!r}, for which the table {family!r} is wrong; it is right for "
                f"{', '.join(map(repr, known))}. Add a table for it (one file in wsl/layout/architectures)"
            )


def check_norms(model: nn.Module, layout: Layout) -> None:
    """Raises `InputError` for a norm without weights where no tensor tells that it is there, unless all of it is a stream's."""
    axes = {slot.name: slot.parts[0].axes for slot in layout.slots}
    passed = {slot.name for slot in layout.slots if slot.parts[0].axes[:1] and slot.parts[0].axes[0][0].kind == "opaque"}
    modules = {name.rpartition(".")[0] for name in passed}

    def of_stream(rule: Rule) -> bool:
        read = [axis.kind for layer in rule.targets for dim in axes[f"{layer}.weight"][1:] for axis in dim]
        return not rule.targets or "resid" in read

    known = {rule.source for rule in layout.rules if rule.verb == "norm" and of_stream(rule)}
    for name, _ in norms_of(model):
        parents = {".".join(name.split(".")[:i]) for i in range(1, name.count(".") + 2)}
        if model.get_submodule(name).weight is None and name not in known and not parents & modules:
            raise InputError(
                f"{name} is a norm without weights, so no tensor tells a table that it is there, and the symmetries of the table "
                f"{layout.family!r} are wrong with it. Give the norm weights, or add a table (one file in wsl/layout/architectures)"
            )


def norms_of(model: nn.Module) -> Facts:
    """Returns the forms of the norms of a model that have no shift, as one with a shift tells by that that it removes the mean."""
    found = []
    for name, module in model.named_modules():
        form = next((NORMS[one] for one in _classes(module) if one in NORMS), None)
        if form and getattr(module, "bias", None) is None and len(getattr(module, "normalized_shape", ())) == 1:
            found.append((name, form))
    return tuple(found)


def batch_norms_of(model: nn.Module) -> Facts:
    """Returns the epsilons of the batch norms of a model, as texts."""
    return tuple(
        (name, repr(module.eps)) for name, module in model.named_modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    )


def modules_of(model: nn.Module) -> Facts:
    """Returns the classes of the modules within a model, in their order, as package and name."""
    found = model.named_modules(remove_duplicate=False)
    return tuple((name, next(_classes(module))) for name, module in found if name)


def settings_of(model: nn.Module) -> Facts:
    """Returns the settings of a model and its modules that conditions of rows may name (`blocks.0.mlp.gate_last`), as texts."""
    found = []
    for name, module in model.named_modules():
        for setting, value in vars(module).items():
            if isinstance(value, bool) and not setting.startswith("_") and setting != "training":
                found.append((f"{name}.{setting}".removeprefix("."), str(value)))
    return tuple(found)


def _classes(module: nn.Module) -> Iterator[str]:
    """Yields the classes of a module as package and name, the nearest first."""
    for kind in type(module).__mro__:
        yield f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
