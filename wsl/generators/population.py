"""Population: the families of a run, which generators are fitted on, and their relatives, which judges alone know."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from wsl.data.pairs import root_weights
from wsl.data.stacks import shape_key
from wsl.data.token_inputs import TokenInputs
from wsl.generators.decoder import Decoder
from wsl.generators.family import Family
from wsl.generators.relatives import OnDisk, Relatives
from wsl.run import Run
from wsl.tokenizers.tokens import Tokens
from zoo_gen import Checkpoint, Zoo
from zoo_gen.errors import InputError


def families_of(run: Run) -> list[Family]:
    """Returns the train models of a run at their final epochs by root, head type and shape; diverged models are left out.

    Raises:
        InputError: no train model is left.
    """
    finals = run.split.train.select(final=True, status="ok")
    groups = defaultdict(list)
    for checkpoint, encoded in zip(finals, run.latents(finals), strict=True):
        groups[family_key(checkpoint)].append((checkpoint, *encoded))
    if not groups:
        raise InputError(f"run {run.path} has no train model that finished without diverging; make a larger zoo")
    shapes: dict[tuple[str | None, str | None], list[str]] = defaultdict(list)
    for root, head, shape in groups:
        shapes[root, head].append(shape)
    variants = [f"shape {n}" if (n := shapes[root, head].index(shape)) else "" for root, head, shape in groups]
    inputs = run.decoding.without_zoo()
    return [_family(run, inputs, variant, *zip(*of, strict=True)) for variant, of in zip(variants, groups.values(), strict=True)]


def family_key(checkpoint: Checkpoint) -> tuple[str | None, str | None, str]:
    """Returns what models of one family have in common: root, head type, shape."""
    return checkpoint.root, checkpoint.factors["head"], shape_key(checkpoint)


def _family(
    run: Run,
    inputs: TokenInputs,
    variant: str,
    checkpoints: Sequence[Checkpoint],
    tokens: Sequence[Tokens],
    latents: Sequence[Tensor],
) -> Family:
    first = checkpoints[0]
    root_state = root_weights(run.zoo, first)
    accuracies = [checkpoint.results["val_accuracy"] for checkpoint in checkpoints]
    return Family(
        root=first.root,
        head=first.factors["head"],
        architecture=first.architecture,
        root_state=root_state,
        states=[checkpoint.state_dict() for checkpoint in checkpoints],
        val_accuracy=np.array([np.nan if accuracy is None else accuracy for accuracy in accuracies]),
        latents=np.stack([one.numpy() for one in latents]),
        decode=Decoder(run.model, inputs, tokens[0], root_state),
        variant=variant,
    )


def relatives_of(run: Run) -> list[Relatives]:
    """Returns the relatives of each family of a run, in the order of `families_of`; diverged models are left out."""
    finals, place = _by_family(run.split.train), {}
    for key, models in finals.items():
        place |= {checkpoint.model: (key, number) for number, checkpoint in enumerate(models)}
    earlier = defaultdict(list)
    for checkpoint in run.split.train.where(~run.split.train.frame["final"].astype(bool)):
        if checkpoint.model in place:
            key, number = place[checkpoint.model]
            earlier[key].append((checkpoint, number))
    unseen = [_by_family(part) for part in (run.split.val, run.split.test)]
    found = []
    for key in finals:
        epochs, numbers = ([pair[i] for pair in earlier[key]] for i in (0, 1))
        held_out = [checkpoint for part in unseen for checkpoint in part.get(key, [])]
        found.append(Relatives(OnDisk(epochs), numbers, OnDisk(held_out)))
    return found


def _by_family(part: Zoo) -> dict[tuple, list[Checkpoint]]:
    groups = defaultdict(list)
    for checkpoint in part.select(final=True, status="ok"):
        groups[family_key(checkpoint)].append(checkpoint)
    return dict(groups)
