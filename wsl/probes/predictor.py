"""The probes of a run, saved with it: predictions with intervals for any embedding, and its distance from the train models.

Intervals and sets of labels are split-conformal, by model (Angelopoulos and Bates, 2107.07511): nonconformity scores of the val
models, each model with the same weight, and one more model with an infinite score. A distance is Mahalanobis', in the principal
directions of the train embeddings.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.numpy
import scipy.special
from jaxtyping import Float
from safetensors import safe_open

from wsl.data.pairs import roots_of
from wsl.data.stacks import in_float32, shape_key
from wsl.probes.inputs import Inputs
from wsl.probes.probe import Linear, Targets, probed_checkpoints
from wsl.probes.regression import Regression
from wsl.probes.targets import probe_of, targets_of
from wsl.run import Run
from zoo_gen import InputError
from zoo_gen.files import saved, sha256_of, weights_sha256
from zoo_gen.reader import read_weights, shortened

FILE = "probes.safetensors"
ABOUT = ("checkpoint", "taken_root", "out_of_distribution", "error", "distance")
"""Columns of a table of predictions that are no targets."""

ENDS = ("_low", "_high", "_probability", "_set")
"""How the columns end that stand beside that of a target."""

_FORMAT = 3
_AGAIN = "delete it: the next wsl.predict makes it again"
_FEWEST = 1e-4  # of the largest variance: directions below it count as this wide


@dataclass(frozen=True)
class Predictor:
    """Linear probes of embeddings, with conformal intervals.

    Attributes:
        tensors: in float64. Per target `<target>/coefficients` (F K), `/intercepts` (K), `/nonconformity` (scores of val
            checkpoints) and `/weights` (of these scores). Of train embeddings `population/mean` (F), `/directions` (F F,
            scaled to unit variance) and `/limit` (1: 99th percentile of val distances).
        about: `state` (format of the file, sha256 of the encoder), `classes` by target, `roots` (sha256 of weights) and `shapes`
            of train models.
    """

    tensors: Mapping[str, np.ndarray]
    about: Mapping[str, Any]

    @classmethod
    def fit(cls, run: Run, *, penalties: Sequence[float]) -> "Predictor":
        """Fits every target of the zoo on the run's train models; the val models choose penalties and widths.

        Raises `InputError` where no target can be predicted.
        """
        train, val = (probed_checkpoints(part) for part in run.split[:2])
        of_train, of_val = (np.asarray(run.embed(part), dtype=np.float64) for part in (train, val))
        finite = [np.isfinite(features).all(axis=1) for features in (of_train, of_val)]
        if not finite[0].any() or not finite[1].any():
            raise InputError(f"run {run.path} has no train model, or no val model, with finite weights; train on another fold")
        tensors, classes = {}, {}
        for target, probe in targets_of(run.zoo, ["*"]).items():
            (truth, known), (val_truth, val_known) = probe.targets(train.frame), probe.targets(val.frame)
            known, val_known = known & finite[0], val_known & finite[1]
            truth, val_truth = truth[known], val_truth[val_known]
            if not len(truth) or not len(val_truth) or not probe.predictable(truth, val_truth):
                continue
            inputs = Inputs.of(of_train[known], of_val[val_known], of_val[:0])
            models = [pd.factorize(part.frame["model"])[0] for part in (train, val)]
            known_values = Targets(truth, models[0][known]), Targets(val_truth, models[1][val_known])
            turned = probe.fit(inputs, *known_values, penalties=penalties)
            coefficients = (inputs.basis @ turned.coefficients) / inputs.standardize.scale[:, None]
            linear = Linear(coefficients, turned.intercepts - inputs.standardize.mean @ coefficients, turned.classes)
            tensors[f"{target}/coefficients"], tensors[f"{target}/intercepts"] = linear.coefficients, linear.intercepts
            tensors[f"{target}/nonconformity"] = _nonconformity(linear, of_val[val_known], val_truth)
            _, codes, counts = np.unique(models[1][val_known], return_inverse=True, return_counts=True)
            # as much for each model, and for one that is new
            tensors[f"{target}/weights"] = 1 / (counts[codes] * (len(counts) + 1))
            classes[target] = list(turned.classes)
        if not classes:
            raise InputError(f"nothing varies that could be predicted in {run.zoo.path}; give its models a column of results")
        variances, vectors = np.linalg.eigh(np.cov(of_train[finite[0]].T))
        scale = np.sqrt(np.maximum(variances, _FEWEST * variances.max()))
        tensors |= {"population/mean": of_train[finite[0]].mean(0), "population/directions": vectors / scale}
        distances = _distances(tensors, of_val[finite[1]])
        tensors["population/limit"] = np.array([np.quantile(distances, 0.99)])
        children = {shape_key(one): one for one in train.select(final=True)}
        roots = {one.model: weights_sha256(in_float32(one.state_dict())) for one in roots_of(train)}
        shapes = [_shapes(one.state_dict()) for one in children.values()]
        tensors = {name: np.asarray(tensor, dtype=np.float64) for name, tensor in tensors.items()}
        return cls(tensors, {"state": _state(run), "classes": classes, "roots": roots, "shapes": shapes})

    def save(self, folder: Path) -> None:
        """Writes the predictor into a run's folder, where that is possible."""
        data = safetensors.numpy.save(dict(self.tensors), {"about": json.dumps(dict(self.about))})
        saved(folder / FILE, data)

    @classmethod
    def of(cls, run: Run, *, penalties: Sequence[float]) -> "Predictor":
        """Reads what was saved with the run; fits and saves it first if it is not there, or of another encoder."""
        if (run.path / FILE).is_file() and (saved := cls.read(run.path / FILE)).about["state"] == _state(run):
            return saved
        found = cls.fit(run, penalties=penalties)
        found.save(run.path)
        return found

    @classmethod
    def read(cls, path: Path) -> "Predictor":
        """Reads what was saved. Raises `InputError` for a file that is damaged in whatever way."""
        try:
            tensors = {name: tensor.numpy() for name, tensor in read_weights(path, advice=_AGAIN).items()}
            with safe_open(path, framework="numpy") as file:
                about = json.loads((file.metadata() or {}).get("about", "null"))
            _check(tensors, about)
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f"{path} is damaged ({error}); {_AGAIN}") from error
        return cls(tensors, about)

    @np.errstate(over="ignore", invalid="ignore")  # of embeddings as far away as any file may put them
    def __call__(self, embeddings: Float[np.ndarray, "N F"], *, coverage: float) -> pd.DataFrame:
        """Returns predictions: `<target>`, and for numbers `<target>_low`, `<target>_high`, for labels `<target>_probability` and
        `<target>_set` (all that may be true, the most probable first); `distance` over its limit.

        A target whose name is that of another column is called `predicted_<target>`.
        NaN where an embedding is not finite. Raises `InputError` for embeddings of another encoder.
        """
        if embeddings.shape[1] != len(self.tensors["population/mean"]):
            raise InputError(f"the saved probes are of embeddings of another width than {embeddings.shape[1]}; {_AGAIN}")
        columns: dict[str, Any] = {}
        names = _names_of(sorted(self.about["classes"]))
        for target, labels in sorted(self.about["classes"].items()):
            probe, classes = probe_of(target, is_number=not labels), tuple(labels)
            shown = names[target]
            linear = Linear(self.tensors[f"{target}/coefficients"], self.tensors[f"{target}/intercepts"], classes)
            scores = linear(np.nan_to_num(embeddings))
            reach = _quantile(self.tensors[f"{target}/nonconformity"], self.tensors[f"{target}/weights"], coverage)
            if isinstance(probe, Regression):
                for name, change in {"": 0.0, "_low": -reach, "_high": reach}.items():
                    columns[f"{shown}{name}"] = probe.restore(scores[:, 0] + change)
            else:
                probabilities = _probabilities(scores, len(classes))
                columns[shown] = np.array(classes)[probabilities.argmax(axis=1)]
                columns[f"{shown}_probability"] = probabilities.max(axis=1)
                columns[f"{shown}_set"] = [_likely(row, classes, reach) for row in probabilities]
        columns["distance"] = _distances(self.tensors, np.nan_to_num(embeddings)) / self.tensors["population/limit"]
        found = pd.DataFrame(columns)
        known = np.isfinite(embeddings).all(axis=1)
        return found if known.all() else found.where(pd.DataFrame(dict.fromkeys(found, known)))

    def has_unseen_shapes(self, weights: Mapping[str, Any]) -> bool:
        """Tells whether no train model has tensors of these names and shapes."""
        return _shapes(weights) not in self.about["shapes"]


def _names_of(targets: Sequence[str]) -> dict[str, str]:
    """Returns how the columns of targets are called, so that no two are called the same."""
    taken = {*ABOUT, *(f"{target}{end}" for target in targets for end in ENDS)}
    return {target: f"predicted_{target}" if target in taken else target for target in targets}


def _check(tensors: Mapping[str, np.ndarray], about: Any) -> None:
    """Raises `ValueError` for what `Predictor.fit` does not make."""
    kinds = {"state": str, "classes": dict, "roots": dict, "shapes": list}
    if not isinstance(about, dict) or not all(isinstance(about.get(key), kind) for key, kind in kinds.items()):
        raise ValueError("it does not say what it is of")
    if not all(isinstance(sha, str) for sha in about["roots"].values()):
        raise ValueError("roots have no sha256")
    if not about["classes"]:
        raise ValueError("it has no probes")
    mean = tensors.get("population/mean", np.zeros(0))
    size = mean.size
    shapes: dict[str, tuple[int, ...]] = {"population/mean": (size,), "population/directions": (size, size)}
    shapes["population/limit"] = (1,)
    for target, classes in sorted(about["classes"].items()):
        if not isinstance(classes, list) or not all(isinstance(label, str) for label in classes):
            raise ValueError(f"the classes of {target} are no labels")
        probe = probe_of(target, is_number=not classes)
        if isinstance(probe, Regression) != (not classes) or len(set(classes)) < len(classes):
            raise ValueError(f"the classes of {target} are not those of its card")
        columns = len(classes) if len(classes) > 2 else 1
        scores = tensors.get(f"{target}/nonconformity", mean).size
        shapes |= {f"{target}/coefficients": (size, columns), f"{target}/intercepts": (columns,)}
        shapes |= {f"{target}/nonconformity": (scores,), f"{target}/weights": (scores,)}
    if odd := {name: tensor.shape for name, tensor in tensors.items()}.items() ^ shapes.items():
        raise ValueError(f"tensor {shortened(min(name for name, _ in odd))} is missing, unknown, or of a wrong shape")
    for name, tensor in tensors.items():
        least = {"limit": np.finfo(float).tiny, "nonconformity": 0.0, "weights": 0.0}.get(name.rpartition("/")[2], -np.inf)
        if tensor.dtype != np.float64 or not tensor.size or not np.isfinite(tensor).all() or tensor.min() < least:
            raise ValueError(f"tensor {shortened(name)} has values that it cannot have")


def _probabilities(scores: Float[np.ndarray, "N K"], classes: int) -> Float[np.ndarray, "N classes"]:
    """Returns the probabilities of labels from the scores of a `Linear`."""
    if classes == 2:
        scores = np.column_stack([np.zeros(len(scores)), scores])
    return scipy.special.softmax(scores, axis=1)


def _likely(probabilities: Float[np.ndarray, "classes"], classes: Sequence[str], reach: float) -> str:
    """Returns the labels whose nonconformity score is at most `reach`, and in any case the most probable one."""
    order = [int(i) for i in np.argsort(-probabilities, kind="stable")]
    return " or ".join(classes[i] for place, i in enumerate(order) if place == 0 or 1 - probabilities[i] <= reach)


def _nonconformity(linear: Linear, features: Float[np.ndarray, "N F"], truth: np.ndarray) -> Float[np.ndarray, "N"]:
    """Returns nonconformity scores: absolute errors of numbers; of labels, 1 less the probability of the true one."""
    if linear.classes:
        true = np.array(linear.classes) == truth[:, None]
        return 1 - _probabilities(linear(features), len(linear.classes))[true]
    return np.abs(linear(features)[:, 0] - truth)


def _quantile(scores: Float[np.ndarray, "N"], weights: Float[np.ndarray, "N"], coverage: float) -> float:
    order = np.argsort(scores)
    reached = np.cumsum(weights[order]) >= coverage
    return float(scores[order][reached.argmax()]) if reached.any() else np.inf


def _distances(tensors: Mapping[str, np.ndarray], embeddings: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N"]:
    turned = (embeddings - tensors["population/mean"]) @ tensors["population/directions"]
    return np.sqrt((turned**2).mean(axis=1))


def _shapes(weights: Mapping[str, Any]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in sorted(weights.items())}


def _state(run: Run) -> str:
    return f"{_FORMAT} {sha256_of(run.path / 'model.safetensors')}"
