"""Leaks: ways in which a test model, or its family, was seen before it is asked about. All of them are refused."""

from collections.abc import Collection

from zoo_gen import InputError, Zoo


def refuse_leaks(*, train: Zoo, val: Zoo, test: Zoo, scheme: str, seen: Collection[str]) -> None:
    """Checks that the sets of a probe are as separate as their split scheme promises.

    Args:
        train: checkpoints that fit the probe.
        val: checkpoints that choose its penalty.
        test: checkpoints that it is asked about.
        scheme: `by_model` (models are disjoint) or `leave_root_out` (roots are, too).
        seen: ids of all models that the features were fitted on: the train and val models of the representation.

    Raises:
        InputError: names the overlap, if there is one.
    """
    sets = {"train": train, "val": val, "test": test}
    for name, zoo in sets.items():
        roots = zoo.frame.loc[zoo.frame["stage"] == "pretrain", "model"]
        if len(roots):
            raise InputError(f"the {name} set of the probe holds roots ({_names(roots)}); probe fine-tuned models alone")
    columns = ["model", "root"] if scheme == "leave_root_out" else ["model"]
    for column in columns:
        for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
            both = set(sets[one].frame[column]) & set(sets[other].frame[column])
            if both:
                raise InputError(
                    f"the probe's split '{scheme}' leaks: {column} {_names(both)} is in {one} and in {other}; "
                    "take the sets from zoo.split(...), which keeps whole models (and families) on one side"
                )
    both = set(test.frame["model"]) & set(seen)
    if both:
        raise InputError(
            f"the features were fitted on test models of the probe ({_names(both)}); "
            "probe with the split of the run, or train a run on the split of the probe"
        )


def _names(values: Collection[str]) -> str:
    """Returns up to five names, and how many more there are."""
    names = sorted({str(value) for value in values})
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
