"""The probes of a run, saved with it: answers with intervals for any embedding, and whether it lies outside the run's population.

Intervals are split-conformal, by model: the misses of the val models, each model with the same weight, and one more model that
missed by any amount. A distance is Mahalanobis', in the principal directions of the train embeddings.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.numpy
from jaxtyping import Float
from safetensors import safe_open

from wsl.probe import cards, probed
from wsl.probes.inputs import Inputs
from wsl.probes.probe import Answers, Linear
from wsl.probes.regression import Regression
from wsl.run import MODEL_ENCODER, Run
from wsl.stacks import in_float32
from zoo_gen import InputError
from zoo_gen.files import sha256_of, weights_sha256, write_atomically
from zoo_gen.reader import read_weights

FILE = "probes.safetensors"
_AGAIN = "delete it: the next wsl.predict makes it again"
_FEWEST = 1e-4  # of the largest variance: directions below it count as this wide


@dataclass(frozen=True)
class Predictor:
    """What answers about embeddings.

    Attributes:
        tensors: per target `<target>/coefficients`, `/intercepts`, `/misses` (of val checkpoints) and `/shares` (their
            weights); and
            `population/mean`, `/directions` (F C, scaled to unit variance), `/limit` (99th percentile of val distances).
        about: `state` (sha256 of the encoder), `classes` by target, `roots` (sha256 of weights) and `shapes` of train models.
    """

    tensors: Mapping[str, np.ndarray]
    about: Mapping[str, Any]

    @classmethod
    def fit(cls, run: Run, *, penalties: Sequence[float]) -> "Predictor":
        """Fits every card of `configs/probe` on the run's train models; the val models choose penalties and widths."""
        train, val = (probed(part) for part in run.split[:2])
        of_train, of_val = (np.asarray(run.embed(part), dtype=np.float64) for part in (train, val))
        tensors, classes = {}, {}
        for target, probe in cards("probe", ["*"]).items():
            (truth, known), (val_truth, val_known) = probe.targets(train.frame), probe.targets(val.frame)
            truth, val_truth = truth[known], val_truth[val_known]
            if not len(truth) or not len(val_truth) or not probe.answerable(truth, val_truth):
                continue
            inputs = Inputs.of(of_train[known], of_val[val_known], of_val[:0])
            models = [pd.factorize(part.frame["model"])[0] for part in (train, val)]
            answers = Answers(truth, models[0][known]), Answers(val_truth, models[1][val_known])
            turned = probe.fit(inputs, *answers, penalties=penalties)
            coefficients = (inputs.basis @ turned.coefficients) / inputs.standardize.scale[:, None]
            linear = Linear(coefficients, turned.intercepts - inputs.standardize.mean @ coefficients, turned.classes)
            tensors[f"{target}/coefficients"], tensors[f"{target}/intercepts"] = linear.coefficients, linear.intercepts
            tensors[f"{target}/misses"] = _misses(linear, of_val[val_known], val_truth)
            tensors[f"{target}/shares"] = _shares(models[1][val_known])
            classes[target] = list(turned.classes)
        variances, vectors = np.linalg.eigh(np.cov(of_train.T))
        scale = np.sqrt(np.maximum(variances, _FEWEST * variances.max()))
        tensors |= {"population/mean": of_train.mean(0), "population/directions": vectors / scale}
        distances = _distances(tensors, of_val)
        tensors["population/limit"] = np.array([np.quantile(distances, 0.99)])
        children = {str(one.architecture): one for one in train.select(final=True)}
        roots = {
            str(root): weights_sha256(in_float32(train.final(str(root)).state_dict())) for root in train.frame["root"].unique()
        }
        shapes = [_shapes(one.state_dict()) for one in children.values()]
        return cls(tensors, {"state": _state(run), "classes": classes, "roots": roots, "shapes": shapes})

    def save(self, folder: Path) -> None:
        """Writes the predictor into a run's folder."""
        data = safetensors.numpy.save(dict(self.tensors), {"about": json.dumps(dict(self.about))})
        write_atomically(folder / FILE, lambda beside: _write(beside, data))

    @classmethod
    def of(cls, run: Run, *, penalties: Sequence[float]) -> "Predictor":
        """Reads what was saved with the run; fits and saves it first if it is not there, or of another encoder."""
        if (run.path / FILE).is_file():
            tensors = {name: tensor.numpy() for name, tensor in read_weights(run.path / FILE, advice=_AGAIN).items()}
            with safe_open(run.path / FILE, framework="numpy") as file:
                about = json.loads((file.metadata() or {}).get("about", "null"))
            if not isinstance(about, dict) or not about.keys() >= {"state", "classes", "roots", "shapes"}:
                raise InputError(f"{run.path / FILE} is damaged; {_AGAIN}")
            if about["state"] == _state(run):
                return cls(tensors, about)
        found = cls.fit(run, penalties=penalties)
        found.save(run.path)
        return found

    def __call__(self, embeddings: Float[np.ndarray, "N F"], *, coverage: float) -> pd.DataFrame:
        """Returns answers: `<target>`, and for numbers `<target>_low`, `<target>_high`; `distance` over its limit.

        NaN where an embedding is not finite.
        """
        columns: dict[str, Any] = {}
        for target, probe in cards("probe", sorted(self.about["classes"])).items():
            classes = tuple(self.about["classes"][target])
            linear = Linear(self.tensors[f"{target}/coefficients"], self.tensors[f"{target}/intercepts"], classes)
            scores = linear(np.nan_to_num(embeddings))
            if isinstance(probe, Regression):
                reach = _quantile(self.tensors[f"{target}/misses"], self.tensors[f"{target}/shares"], coverage)
                for name, change in {"": 0.0, "_low": -reach, "_high": reach}.items():
                    columns[f"{target}{name}"] = probe.restore(scores[:, 0] + change)
            else:
                columns[target] = np.array(classes)[_choice(scores)]
        columns["distance"] = _distances(self.tensors, np.nan_to_num(embeddings)) / self.tensors["population/limit"]
        found = pd.DataFrame(columns)
        known = np.isfinite(embeddings).all(axis=1)
        return found if known.all() else found.where(pd.DataFrame(dict.fromkeys(found, known)))

    def strange_shapes(self, weights: Mapping[str, Any]) -> bool:
        """Tells whether no train model has tensors of these names and shapes."""
        return _shapes(weights) not in self.about["shapes"]


def _choice(scores: Float[np.ndarray, "N K"]) -> np.ndarray:
    return scores.argmax(axis=1) if scores.shape[1] > 1 else (scores[:, 0] > 0).astype(int)


def _misses(linear: Linear, features: Float[np.ndarray, "N F"], truth: np.ndarray) -> Float[np.ndarray, "N"]:
    """Returns how far answers are off; of labels, 1 for a wrong one."""
    if linear.classes:
        return (np.array(linear.classes)[_choice(linear(features))] != truth).astype(float)
    return np.abs(linear(features)[:, 0] - truth)


def _shares(models: np.ndarray) -> Float[np.ndarray, "N"]:
    """Returns the weight of each checkpoint: every model has the same, and so has one that is not there."""
    _, codes, counts = np.unique(models, return_inverse=True, return_counts=True)
    return 1 / (counts[codes] * (len(counts) + 1))


def _quantile(misses: Float[np.ndarray, "N"], shares: Float[np.ndarray, "N"], coverage: float) -> float:
    order = np.argsort(misses)
    reached = np.cumsum(shares[order]) >= coverage
    return float(misses[order][reached.argmax()]) if reached.any() else np.inf


def _distances(tensors: Mapping[str, np.ndarray], embeddings: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N"]:
    turned = (embeddings - tensors["population/mean"]) @ tensors["population/directions"]
    return np.sqrt((turned**2).mean(axis=1))


def _shapes(weights: Mapping[str, Any]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in sorted(weights.items())}


def _state(run: Run) -> str:
    return sha256_of(run.path / ("model.safetensors" if run.model_encoder is None else MODEL_ENCODER))


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
