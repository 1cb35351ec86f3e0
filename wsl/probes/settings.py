"""The settings of evaluations by probes, as the commands take them; each adds to the one before."""

from dataclasses import dataclass


@dataclass
class Settings:
    """The settings of every evaluation."""

    targets: list[str]
    features: list[str]
    penalties: list[float]
    n_bootstrap: int
    n_permutations: int
    noise_ceiling_checkpoints: int
    seed: int


@dataclass
class BenchmarkConfig(Settings):
    """The values of configs/property_prediction.yaml."""

    zoo: str
    runs: list[str]
    pretrained: str | None
    out: str


@dataclass
class LabelEfficiencyConfig(BenchmarkConfig):
    """The values of configs/few_labels.yaml."""

    labelled: list[int]
    selections: int


@dataclass
class TransferConfig(LabelEfficiencyConfig):
    """The values of configs/transfer.yaml."""

    run_zoo: str
    carried: list[str]
