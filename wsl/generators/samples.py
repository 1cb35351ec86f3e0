"""Samples on disk: one timm folder per generated model."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from wsl.generators.family import Sample
from zoo_gen.files import write_json, write_weights


def write_samples(folder: Path, samples: Sequence[Sample]) -> None:
    """Writes each model as a timm folder `0000`, `0001`, ..., in place of older ones in `folder`."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for i, (family, state) in enumerate(samples):
        write_json(partial / f"{i:04d}" / "config.json", family.architecture)
        write_weights(partial / f"{i:04d}" / "model.safetensors", state)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
