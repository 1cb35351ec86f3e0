"""Image sets of torchvision, read from its own files on the disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zoo_gen.errors import InputError
from zoo_gen.images import Images
from zoo_gen.sources.pictures import Labelled, Selection, missing

CHECKED = ("CIFAR10", "CIFAR100", "SVHN", "STL10")
"""Data sets whose files torchvision compares with the checksums of the published ones before it reads them."""

PLAIN = ("MNIST", "FashionMNIST", "KMNIST")
"""Data sets of numbers, unless torchvision finds the pickles of its old versions in `processed`."""


def torchvision(
    *, dataset: str, root: str, train: Mapping[str, Any], test: Mapping[str, Any], foreign: bool = False, **card: Any
) -> Images:
    """Loads a classification set of torchvision.

    Args:
        dataset: class of `torchvision.datasets`, such as `CIFAR100` or `SVHN`.
        root: folder that torchvision keeps it in.
        train, test: arguments that choose a part: `{train: true}` or `{split: train}`; `{download: true}` fetches it.
        foreign: whether somebody else wrote the card: only `CHECKED` and `PLAIN` sets are read then, and nothing is fetched.
        card: values of `zoo_gen.sources.pictures.Selection`.

    Raises `InputError` for a set that torchvision does not have, and for files that are missing, damaged, or not to be trusted.
    """
    from torchvision import datasets

    if dataset not in datasets.__all__:
        raise InputError(f"torchvision has no data set '{dataset}'; see torchvision.datasets")
    if foreign:
        train, test = (_without_code(dataset, root, arguments) for arguments in (train, test))
    selection = Selection(**card)
    parts: list[Labelled] = []
    for arguments in (train, test):
        try:
            found = getattr(datasets, dataset)(root, **arguments)
            pairs = [found[number] for number in range(len(found))]
        except TypeError as error:
            raise InputError(f"torchvision.datasets.{dataset} does not take {dict(arguments)}: {error}") from error
        except (RuntimeError, OSError, ValueError, EOFError) as error:
            raise missing(f"{dataset} of torchvision in {root}", error) from error
        parts.append(([np.asarray(image) for image, _ in pairs], [int(label) for _, label in pairs]))
    return selection.draw(*parts)


def _without_code(dataset: str, root: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a part that fetch nothing. Raises `InputError` for a set whose files could run code."""
    pickled = dataset in PLAIN and (Path(root) / dataset / "processed").exists()
    if dataset not in (*CHECKED, *PLAIN) or pickled:
        raise InputError(
            f"the zoo's images are torchvision's {dataset} in {root}, which could run code that lies there; safe are "
            f"{', '.join((*CHECKED, *PLAIN))}. If you made the zoo, or trust it, add --trust-images to the command"
        )
    if odd := sorted(set(arguments) - {"train", "split", "download"}):
        raise InputError(f"the zoo's images take {', '.join(odd)}, which no card of ours does; add --trust-images if you trust it")
    return {**arguments, "download": False}
