"""Families of a run: its train models at their final epochs, with their latents and the run's decoder."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wsl.generators.family import Family
from wsl.run import Run
from wsl.tokenizers.tokens import Tokens
from zoo_gen.errors import InputError
from zoo_gen.zoo import Checkpoint


def families_of(run: Run) -> list[Family]:
    """Returns the train models of a run by root and head type; diverged models are left out.

    Raises:
        InputError: no train model is left.
    """
    finals = run.split.train.select(final=True, status="ok")
    groups: dict[tuple[str, str], list[int]] = {}
    for i, checkpoint in enumerate(finals):
        groups.setdefault((checkpoint.root, checkpoint.factors["head"]), []).append(i)
    if not groups:
        raise InputError(f"run {run.path} has no train model that finished without diverging; make a larger zoo")
    checkpoints, encoded = list(finals), list(run.latents(finals))
    return [_family(run, [checkpoints[i] for i in members], [encoded[i] for i in members]) for members in groups.values()]


def _family(run: Run, checkpoints: Sequence[Checkpoint], encoded: Sequence[tuple[Tokens, Tensor]]) -> Family:
    first, tokens = checkpoints[0], encoded[0][0]
    root_state = run.zoo.root(first).state_dict()
    return Family(
        root=first.root,
        head=first.factors["head"],
        architecture=first.architecture,
        root_state=root_state,
        states=[checkpoint.state_dict() for checkpoint in checkpoints],
        val_accuracy=np.array([checkpoint.results["val_accuracy"] for checkpoint in checkpoints]),
        latents=np.stack([latents.numpy() for _, latents in encoded]),
        decode=lambda latents: run.decode(tokens, torch.from_numpy(latents).float(), root=root_state),
    )
