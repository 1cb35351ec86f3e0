"""The probes of a run, saved with it: predictions with intervals for any embedding, and its distance from the train models.

Intervals and sets of labels are conformal (`wsl.probes.calibration`): for models of known roots by the errors on val models, for
models of other roots by the errors on roots that were left out. A distance is Mahalanobis'
(`wsl.probes.population`).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import safetensors.numpy
from jaxtyping import Float
from safetensors import safe_open

from wsl.data.pairs import roots_of
from wsl.data.stacks import in_float32, shape_key
from wsl.probes.calibration import (
    Part,
    at,
    fitted,
    nonconformity,
    probabilities,
    quantile,
    roots_left_out,
    usual_error,
    weights_of,
)
from wsl.probes.population import distances_of, population
from wsl.probes.probe import Linear, Probe, probed_checkpoints
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

_FORMAT = 5
_AGAIN = "delete it: the next wsl.predict makes it again"
_SIGNED = ("coefficients", "intercepts", "mean", "directions")  # tensors that may have values below 0


Group = Literal["models", "roots", "nothing"]
"""What intervals are calibrated on: val models of known roots, roots left out, or nothing, where they are as wide as the range."""


@dataclass(frozen=True)
class Predictor:
    """Linear probes of embeddings, with conformal intervals.

    Attributes:
        tensors: in float64. Per target `<target>/coefficients` (F K), `/intercepts` (K), `/usual_error` (2: a line over
            distances), `/nonconformity` and `/weights` (scores of val models of known roots), `/root_nonconformity` and
            `/root_weights` (scores of roots left out). Of train embeddings `population/mean` (F), `/directions` (F R: the R that
            vary, scaled to unit variance), `/floor` (1: variance of the others) and `/limit` (1: 99th percentile of val
            distances).
        about: `state` (format of the file, sha256 of the encoder), `classes` by target, `roots` (sha256 of weights) and `shapes`
            of train models.
    """

    tensors: Mapping[str, np.ndarray]
    about: Mapping[str, Any]

    @classmethod
    def fit(cls, run: Run, *, penalties: Sequence[float], advance: Callable[[int], None] = lambda roots: None) -> "Predictor":
        """Fits every target of the zoo on the run's train models; val models and roots left out choose penalties and widths.

        `advance` is called after each root that is left out, with the number of all roots.

        Raises `InputError` where no target can be predicted.
        """
        zoos = [probed_checkpoints(part) for part in run.split[:2]]
        embedded = [np.asarray(run.embed(part), dtype=np.float64) for part in zoos]
        finite = [np.asarray(np.isfinite(features).all(axis=1)) for features in embedded]
        if not finite[0].any() or not finite[1].any():
            raise InputError(f"run {run.path} has no train model, or no val model, with finite weights; train on another fold")
        of_train, of_val = (features[known] for features, known in zip(embedded, finite, strict=True))
        frames = [part.where(known).frame for part, known in zip(zoos, finite, strict=True)]
        tensors: dict[str, np.ndarray] = {}
        tensors |= population(of_train)
        limit = np.quantile(distances_of(tensors, of_val), 0.99, method="higher")
        tensors["population/limit"] = np.array([limit])
        train, val = (
            Part(features, frame, distances_of(tensors, features) / limit)
            for features, frame in zip((of_train, of_val), frames, strict=True)
        )
        memory: dict[Any, Any] = {}
        probes = targets_of(run.zoo, ["*"])
        found = {target: fitted(probe, train, val, penalties=penalties, memory=memory) for target, probe in probes.items()}
        linears = {target: linear for target, linear in found.items() if linear is not None}
        if not linears:
            raise InputError(f"nothing varies that could be predicted in {run.zoo.path}; give its models a column of results")
        for target, linear in linears.items():
            tensors |= {f"{target}/coefficients": linear.coefficients, f"{target}/intercepts": linear.intercepts}
            tensors |= {f"{target}/{name}": values for name, values in _of_models(probes[target], linear, train, val).items()}
        roots = len({*train.roots(), *val.roots()} - {None})
        by_target: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {target: [] for target in linears}
        some = {target: probes[target] for target in linears}
        left_out = roots_left_out(some, train, val, penalties=penalties, advance=lambda: advance(roots))
        for target, errors, part in left_out:
            scores = errors / at(tensors[f"{target}/usual_error"], part.distances)
            by_target[target].append((scores, part.roots().astype(str)))
        for target, pairs in by_target.items():
            tensors |= {f"{target}/root_{name}": values for name, values in _weighted(pairs).items()}
            if not tensors[f"{target}/weights"].size:  # no val model is of a known root
                tensors |= {f"{target}/{name}": tensors[f"{target}/root_{name}"] for name in ("nonconformity", "weights")}
        classes = {target: list(linear.classes) for target, linear in linears.items()}
        children = {shape_key(one): one for one in zoos[0].select(final=True)}
        hashes = {one.model: weights_sha256(in_float32(one.state_dict())) for one in roots_of(zoos[0])}
        shapes = [_shapes(one.state_dict()) for one in children.values()]
        tensors = {name: np.ascontiguousarray(tensor, dtype=np.float64) for name, tensor in tensors.items()}  # as files have them
        return cls(tensors, {"state": _state(run), "classes": classes, "roots": hashes, "shapes": shapes})

    def save(self, folder: Path) -> None:
        """Writes the predictor into a run's folder, where that is possible."""
        data = safetensors.numpy.save(dict(self.tensors), {"about": json.dumps(dict(self.about))})
        saved(folder / FILE, data)

    @classmethod
    def of(cls, run: Run, *, penalties: Sequence[float], advance: Callable[[int], None] = lambda roots: None) -> "Predictor":
        """Reads what was saved with the run; fits and saves it first if it is not there, or of another encoder."""
        if (run.path / FILE).is_file() and (saved := cls.read(run.path / FILE)).about["state"] == _state(run):
            return saved
        found = cls.fit(run, penalties=penalties, advance=advance)
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
    def __call__(self, embeddings: Float[np.ndarray, "N F"], *, coverage: float, groups: Sequence[Group] = ()) -> pd.DataFrame:
        """Returns predictions: `<target>`, and for numbers `<target>_low`, `<target>_high`, for labels `<target>_probability` and
        `<target>_set` (all that may be true, the most probable first); `distance` over its limit.

        Intervals are calibrated on the `groups` of the checkpoints (by default models), and on nothing beyond the limit of
        distances. A target whose name is that of another column is called `predicted_<target>`. NaN where an embedding is not
        finite.

        Raises `InputError` for embeddings of another encoder.
        """
        if embeddings.shape[1] != len(self.tensors["population/mean"]):
            raise InputError(f"the saved probes are of embeddings of another width than {embeddings.shape[1]}; {_AGAIN}")
        columns: dict[str, Any] = {}
        distances = distances_of(self.tensors, np.nan_to_num(embeddings)) / self.tensors["population/limit"]
        of = np.where(distances <= 1, np.array(groups or ["models"] * len(embeddings), dtype=str), "nothing")
        names = _names_of(sorted(self.about["classes"]))
        for target, labels in sorted(self.about["classes"].items()):
            probe, classes, shown = probe_of(target, is_number=not labels), tuple(labels), names[target]
            linear = Linear(self.tensors[f"{target}/coefficients"], self.tensors[f"{target}/intercepts"], classes)
            scores = linear(np.nan_to_num(embeddings))
            reaches = {"models": self._reach(target, "", coverage), "roots": self._reach(target, "root_", coverage)}
            reach = np.array([reaches.get(group, np.inf) for group in of]) * at(self.tensors[f"{target}/usual_error"], distances)
            if isinstance(probe, Regression):
                for name, change in {"": 0.0, "_low": -reach, "_high": reach}.items():
                    columns[f"{shown}{name}"] = probe.restore(scores[:, 0] + change)
            else:
                of_label = probabilities(scores, len(classes))
                columns[shown] = np.array(classes)[of_label.argmax(axis=1)]
                columns[f"{shown}_probability"] = of_label.max(axis=1)
                columns[f"{shown}_set"] = [_likely(row, classes, some) for row, some in zip(of_label, reach, strict=True)]
            if not self._says_of_new_roots(target):
                for name in columns.keys() & {shown, *(f"{shown}{end}" for end in ENDS)}:
                    columns[name] = pd.Series(columns[name]).where(of != "roots")
        found = pd.DataFrame(columns | {"distance": distances})
        known = np.isfinite(embeddings).all(axis=1)
        return found if known.all() else found.where(pd.DataFrame(dict.fromkeys(found, known)))

    def _reach(self, target: str, kind: str, coverage: float) -> float:
        return quantile(self.tensors[f"{target}/{kind}nonconformity"], self.tensors[f"{target}/{kind}weights"], coverage)

    def _says_of_new_roots(self, target: str) -> bool:
        """Tells whether a target was predicted for a root left out, and is no label that each root has for itself."""
        scores = self.tensors[f"{target}/root_nonconformity"]
        return bool(scores.size) and not (self.about["classes"][target] and scores.min() >= 1)

    @property
    def promised_for_known_roots(self) -> float:
        """The largest coverage that val models promise for models of known roots: K / (K + 1) of K models."""
        return max(float(self.tensors[f"{target}/weights"].sum()) for target in self.about["classes"])

    @property
    def promised(self) -> float:
        """The largest coverage that roots left out promise for models of another root: K / (K + 1) of K roots."""
        return max(float(self.tensors[f"{target}/root_weights"].sum()) for target in self.about["classes"])

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
    rank = tensors.get("population/directions", mean).shape[-1]
    shapes: dict[str, tuple[int, ...]] = {"population/mean": (size,), "population/directions": (size, rank)}
    shapes |= {"population/floor": (1,), "population/limit": (1,)}
    for target, classes in sorted(about["classes"].items()):
        if not isinstance(classes, list) or not all(isinstance(label, str) for label in classes):
            raise ValueError(f"the classes of {target} are no labels")
        if isinstance(probe_of(target, is_number=not classes), Regression) != (not classes) or len(set(classes)) < len(classes):
            raise ValueError(f"the classes of {target} are not those of its card")
        columns = len(classes) if len(classes) > 2 else 1
        scores = tensors.get(f"{target}/nonconformity", mean).size
        shapes |= {f"{target}/coefficients": (size, columns), f"{target}/intercepts": (columns,)}
        of_roots = tensors.get(f"{target}/root_nonconformity", mean).size
        shapes |= {f"{target}/nonconformity": (scores,), f"{target}/weights": (scores,), f"{target}/usual_error": (2,)}
        shapes |= {f"{target}/root_nonconformity": (of_roots,), f"{target}/root_weights": (of_roots,)}
    if odd := {name: tensor.shape for name, tensor in tensors.items()}.items() ^ shapes.items():
        raise ValueError(f"tensor {shortened(min(name for name, _ in odd))} is missing, unknown, or of a wrong shape")
    for name, tensor in tensors.items():
        kind = name.rpartition("/")[2]
        least = np.finfo(float).tiny if kind in ("limit", "floor") else -np.inf if kind in _SIGNED else 0.0
        may_be_empty = kind.endswith(("nonconformity", "weights"))  # of a target without a val model, or a second root, to judge by
        if (
            tensor.dtype != np.float64
            or not (tensor.size or may_be_empty)
            or not np.isfinite(tensor).all()
            or (tensor < least).any()
        ):
            raise ValueError(f"tensor {shortened(name)} has values that it cannot have")


def _of_models(probe: Probe, linear: Linear, train: Part, val: Part) -> dict[str, np.ndarray]:
    """Returns the line of usual errors (labels have none), and scores and weights of the val models of known roots."""
    errors, models = nonconformity(probe, linear, val), val.models()
    known = np.isfinite(errors)
    line = np.array([1.0, 0.0])
    if not linear.classes:
        line = usual_error(errors[known], val.distances[known], weights_of(models[known]))
    known &= val.frame["root"].isin(train.frame["root"].unique()).to_numpy()
    return {"usual_error": line} | _weighted([(errors[known] / at(line, val.distances[known]), models[known])])


def _weighted(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """Returns the scores that are known, and their weights, from scores and their groups."""
    scores, groups = (np.concatenate(column) for column in zip(*pairs, strict=True)) if pairs else (np.zeros(0), np.zeros(0))
    known = np.isfinite(scores)
    return {"nonconformity": scores[known], "weights": weights_of(groups[known])}


def _likely(probabilities: Float[np.ndarray, "classes"], classes: Sequence[str], reach: float) -> str:
    """Returns the labels whose nonconformity score is at most `reach`, and in any case the most probable one."""
    order = [int(i) for i in np.argsort(-probabilities, kind="stable")]
    return " or ".join(classes[i] for place, i in enumerate(order) if place == 0 or 1 - probabilities[i] <= reach)


def _shapes(weights: Mapping[str, Any]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in sorted(weights.items())}


def _state(run: Run) -> str:
    return f"{_FORMAT} {sha256_of(run.path / 'model.safetensors')}"
