"""The checkpoints of a zoo that probes are about."""

from zoo_gen import Zoo


def probed_checkpoints(zoo: Zoo) -> Zoo:
    """Returns the checkpoints that probes are about: those of fine-tuned models whose loss is finite."""
    children = zoo.select(stage="finetune")
    return children.select(path=children.frame["path"][children.frame["test_loss"].notna()].tolist())  # the others diverged
