"""The settings of evaluations by probes, as the commands take them; each adds to the one before."""

from dataclasses import dataclass
from typing import Protocol


class Settings(Protocol):
    """What an evaluation needs of a configuration."""

    penalties: list[float]
    n_bootstrap: int
    n_permutations: int
    noise_ceiling_checkpoints: int
    seed: int


@dataclass
class BenchmarkConfig:
    """The values of configs/property_prediction.yaml."""

    zoo: str
    runs: list[str]
    pretrained: str | None
    out: str
    targets: list[str]
    features: list[str]
    penalties: list[float]
    n_bootstrap: int
    n_permutations: int
    noise_ceiling_checkpoints: int
    seed: int


class CurveSettings(Settings, Protocol):
    """What a curve needs of a configuration."""

    targets: list[str]
    labelled: list[int]
    selections: int


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
