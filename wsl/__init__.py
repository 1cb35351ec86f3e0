"""Weight-space learning on Vision Transformers: weights in, tokens, embeddings, properties and new weights out.

    from zoo_gen import Zoo
    from wsl import Run

    run = Run.open("demo")  # a trained model, by the name or path of its folder
    features = run.embed(run.split.test)  # (checkpoints, features), from weights alone

Shapes, in every signature of this package:

    B  batch              T  tokens                D  weights per token     P  position coordinates
    Z  latent             M  width of the model    H  heads                 K  models in a stack
    L  blocks             N  checkpoints           F  features              E  ensemble members
    C  columns

The rooms, from the ground up; each imports only those above it in this list. docs/concepts.md explains the words.

    layout        where the weights of an architecture lie, and how each axis transforms
    symmetry      other weights, the same function: random views, canonical forms, alignment, distance
    tokenizers    a checkpoint becomes tokens and comes back, bit for bit
    data          what models are given: windows of tokens, invariants, statistics
    operations    models from models: merging, head fits, refinement, noise
    models        networks that embed checkpoints
    run           a trained model in its folder
    training      from first weights to a trained model
    features      what probes read: embeddings and hand-made baselines
    generators    samplers of new models, and how samples are judged
    analyses      questions that are neither probes nor samples
    probes        properties of models, read off features
    reporting     tables, figures, the HTML page

The other files at the top are the commands.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

for _first in ["zoo_gen"] if sys.argv[:1] == ["-m"] else []:  # a command, maybe of this package: zoo_gen prepares its start
    importlib.import_module(_first)

if TYPE_CHECKING:
    from wsl.layout.lookup import layout_of
    from wsl.probes.own_features import evaluate
    from wsl.run import Run
    from wsl.symmetry.alignment import align, distance
    from wsl.symmetry.canonical import canonicalize
    from wsl.symmetry.group import MOVES, random_view
    from wsl.symmetry.stacks import stack, unstack
    from wsl.tokenizers.chunks import Chunks
    from wsl.tokenizers.fisher_basis import FisherBasis
    from wsl.tokenizers.residual import Residual
    from wsl.tokenizers.rows import Rows
    from zoo_gen.formats.checkpoint import read_checkpoint

_HOMES = {
    "zoo_gen.formats.checkpoint": ["read_checkpoint"],
    "wsl.layout.lookup": ["layout_of"],
    "wsl.probes.own_features": ["evaluate"],
    "wsl.run": ["Run"],
    "wsl.symmetry.alignment": ["align", "distance"],
    "wsl.symmetry.canonical": ["canonicalize"],
    "wsl.symmetry.group": ["MOVES", "random_view"],
    "wsl.symmetry.stacks": ["stack", "unstack"],
    "wsl.tokenizers.chunks": ["Chunks"],
    "wsl.tokenizers.fisher_basis": ["FisherBasis"],
    "wsl.tokenizers.residual": ["Residual"],
    "wsl.tokenizers.rows": ["Rows"],
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "MOVES",
    "Chunks",
    "FisherBasis",
    "Residual",
    "Rows",
    "Run",
    "align",
    "canonicalize",
    "distance",
    "evaluate",
    "layout_of",
    "random_view",
    "read_checkpoint",
    "stack",
    "unstack",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: `import wsl` alone takes no time."""
    if name not in _HOME:
        raise AttributeError(f"module 'wsl' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)


class _Package(ModuleType):
    """This package: a command that is imported does not hide the public function of its name (`align`)."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
