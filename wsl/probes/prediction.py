"""Predictions for checkpoints of any kind: read, paired with the roots they were fine-tuned from, embedded, and probed.

Predictions come with intervals or sets of labels (`wsl.probes.predictor`). A checkpoint that no calibration reaches is out of
distribution, says why (its shapes, its root, or the distance of its embedding), and is given no prediction without `outside=show`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd
import yaml
from rich.console import Console
from rich.progress import Progress

from wsl.data.pairs import rootless
from wsl.layout import layout_of
from wsl.probes.places import Places, is_adapter
from wsl.probes.predictions import Predictions, reasons_of
from wsl.probes.predictor import Group, Predictor
from wsl.probes.root_order import changes_raw_and_in_order, heads_of
from wsl.run import Run
from wsl.run_weights import Source, Sources, Weights, as_many, name_of, nearest_root, weights_of
from zoo_gen import Checkpoint, InputError, Zoo
from zoo_gen.config import CONFIGS
from zoo_gen.errors import printable
from zoo_gen.files import weights_sha256
from zoo_gen.finite import all_finite
from zoo_gen.formats.checkpoint import ADAPTER
from zoo_gen.reader import shortened

AT_ONCE = 32
ORDERS = 3
"""Checkpoints that have moved far from their root and are compared to it in its order: an alignment takes seconds."""

OUTSIDE = ("hide", "show")
"""What becomes of predictions that are out of distribution."""

NEW_ROOT = "its root is none of the run's"
ROUNDING = 1e-9


def predict_sources(run: Run, sources: Sources | Zoo, *, root: Source | None, coverage: float | None) -> Predictions:
    """Returns the predictions of `predict` for what a caller has; settings that are None are those of configs/predict.yaml."""
    values: dict[str, Any] = yaml.safe_load((CONFIGS / "predict.yaml").read_text(encoding="utf-8"))
    named: dict[str, Any] = {field.name: values[field.name] for field in fields(PredictConfig)} | {"path": ""}
    config = PredictConfig(**{**named, **({} if coverage is None else {"coverage": coverage})})
    places: dict[str, tuple[Source, Weights | None]] = {}
    given = None if root is None else weights_of(root)
    for number, source in enumerate(sources if isinstance(sources, Zoo) else as_many(sources)):
        known = given if given is not None else run.root_of(source)
        name = name_of(source, number)
        places[name if name not in places else f"{name} ({number})"] = (source, known)
    if not places:
        raise InputError("there is no checkpoint to predict for; pass one or more")
    found = Predictions(predict(run, places, config, Console(quiet=True)))
    found.reasons = reasons_of(run)
    return found


@dataclass
class PredictConfig:
    """The values of configs/predict.yaml."""

    run: str
    path: str
    root: str | None
    base: str | None
    prefix: str | None
    leave_out: list[str]
    zoo: str | None
    coverage: float
    outside: str
    fail_outside: bool
    out: str | None
    penalties: list[float]


def predict(run: Run, places: Places, config: PredictConfig, console: Console) -> pd.DataFrame:
    """Returns one row per checkpoint: `checkpoint`, `taken_root`, `out_of_distribution` (why; empty: it is not),
    `error` (empty: none), and predictions.

    Predictions of what is out of distribution are missing; with `outside=show` they are there, with intervals as wide as the
    target's range.

    Raises:
        InputError: a setting cannot be, there is nothing to read, or the only checkpoint cannot be read.
    """
    predictor = _calibrated(run, config, console)
    reader = _Reader.of(run, predictor, places, config)
    heads = heads_of(run) if run.inputs.needs_root else None
    tables = []
    orders: dict[str, tuple[float, float]] = {}
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("predicting", total=len(places))
        for start in range(0, len(places), AT_ONCE):
            some = list(places.items())[start : start + AT_ONCE]
            pairs, about = [], []
            for name, (place, own) in some:
                row: dict[str, Any] = {"checkpoint": printable(name), "taken_root": "", "out_of_distribution": [], "error": ""}
                about.append(row)
                try:
                    weights, root, row["taken_root"], row["out_of_distribution"] = reader.read(place, own)
                except InputError as error:
                    if len(places) == 1:
                        raise
                    row["error"] = " ".join(str(error).split())
                    continue
                pairs.append((weights, root))
                if root is not None and run.inputs.needs_root and len(orders) < ORDERS:
                    changed = changes_raw_and_in_order(weights, root, heads=heads)
                    orders |= {} if changed is None else {row["checkpoint"]: changed}
            tables.append(_predicted(run, predictor, pairs, about, config))
            progress.advance(bar, len(some))
    for name, (raw, in_order) in orders.items():
        if in_order < raw / 2:
            console.print(
                f"warning: {name} differs from its root by {raw:.2f} of the root's norm, and by {in_order:.2f} once its neurons "
                "and heads are in the order of the root. The model of this run reads differences to the root, so align it first: "
                f"python -m wsl.align {name} to=<root> out=<file>",
                soft_wrap=True,
                markup=False,
            )
    return pd.concat(tables, ignore_index=True)


def _calibrated(run: Run, config: PredictConfig, console: Console) -> Predictor:
    """Returns the probes of a run with their intervals. Raises `InputError` for a setting that cannot be."""
    if not 0 < config.coverage < 1:
        raise InputError(f"coverage must be between 0 and 1, not {config.coverage:g}")
    if config.outside not in OUTSIDE:
        raise InputError(f"outside must be {' or '.join(OUTSIDE)}, not {config.outside}")
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("calibrating on roots left out (once)", total=None)
        advance = lambda roots: progress.update(bar, total=roots, advance=1)  # noqa: E731
        predictor = Predictor.of(run, penalties=config.penalties, advance=advance)
    if config.coverage > (most := predictor.promised_for_known_roots) + ROUNDING:
        console.print(
            f"the val models of this run promise a coverage of {most:.2f} at most: at coverage={config.coverage:g} intervals are "
            f"as wide as the range of the target; coverage={int(100 * most) / 100:g} gives narrower ones",
            soft_wrap=True,
        )
    return predictor


@dataclass(frozen=True)
class _Reader:
    """Reads checkpoints with their roots.

    Attributes:
        predictor: what knows the shapes and roots of train models.
        names: options of names of tensors.
        given, base: weights that the user says checkpoints, or adapters, were made from.
        base_source: where those of adapters are.
        roots: of the run's train models, by name.
        some_have_none: whether some train models have no known root.
    """

    predictor: Predictor
    names: Mapping[str, Any]
    given: Weights | None
    base: Weights | None
    base_source: str | None
    roots: Mapping[str, Weights]
    some_have_none: bool

    @classmethod
    def of(cls, run: Run, predictor: Predictor, places: Places, config: PredictConfig) -> "_Reader":
        """Reads what the user names. Raises `InputError` where that cannot be read, or is of no use."""
        names: dict[str, Any] = {"prefix": config.prefix, "leave_out": config.leave_out}
        given = weights_of(config.root, **names) if config.root is not None else None
        base = weights_of(config.base) if config.base else None
        if base and not any(is_adapter(place) for place, _ in places.values()):
            raise InputError(
                f"base={config.base} is what adapters are merged into, and {config.path} holds no {ADAPTER}; leave base out"
            )
        return cls(predictor, names, given, base, config.base, {} if given else run.roots, rootless(run.split.train) > 0)

    def read(self, place: Source, own: Weights | None) -> tuple[Weights, Weights | None, str, list[str]]:
        """Returns the weights of a checkpoint, those of its root, the name of the root, and what is unusual about it.

        Raises `InputError` for a checkpoint that cannot be read, or that no root fits.
        """
        adapted = is_adapter(place)
        weights = weights_of(place, base=self.base_source if adapted else None, **self.names)
        layout_of(weights)  # of a known architecture
        root, name, unusual = self._root_of(weights, own or self.given or (self.base if adapted else None), place)
        if self.predictor.has_unseen_shapes(weights):
            unusual.insert(0, "no train model has tensors of these names and shapes")
        return weights, root, name, unusual

    def _root_of(self, weights: Weights, own: Weights | None, place: Source) -> tuple[Weights | None, str, list[str]]:
        """Returns the root of a checkpoint (the one that is known, else the nearest), its name, and what is unusual about it.

        Where train models have no known root, a checkpoint far from all roots has none either.
        """
        names = {sha: name for name, sha in self.predictor.about["roots"].items()}
        if own is not None:
            name = names.get(weights_sha256(own), "")
            return own, name, [] if name else [NEW_ROOT]
        name, distance = nearest_root(weights, self.roots) if self.roots else ("", float("inf"))
        if self.some_have_none and (distance > 1 or (isinstance(place, Checkpoint) and place.root is None)):
            return None, "", []
        if distance == float("inf"):
            raise InputError(
                f"{name_of(place, 0)} has the shapes of no root of the run; say what it was fine-tuned from: root=<path>"
            )
        return self.roots[name], name, ["no root of the run is near: root=<path> says which it is"] if distance > 1 else []


def _predicted(
    run: Run, predictor: Predictor, pairs: list[tuple[Weights, Weights | None]], about: list[dict[str, Any]], config: PredictConfig
) -> pd.DataFrame:
    """Returns the rows of some checkpoints, with predictions where there are weights."""
    read = [number for number, row in enumerate(about) if not row["error"]]
    found = pd.DataFrame()
    if pairs:
        groups: list[Group] = [_group(about[number]["out_of_distribution"]) for number in read]
        found = _bounded(predictor(run.embed_weights(pairs), coverage=config.coverage, groups=groups)).set_axis(read)
    for number, (weights, root) in zip(read, pairs, strict=True):
        reasons, distance = about[number]["out_of_distribution"], found["distance"][number]
        if NEW_ROOT in reasons:
            reasons.remove(NEW_ROOT)
            if config.coverage > predictor.promised + ROUNDING:
                reasons.append(f"{NEW_ROOT}, and those promise a coverage of {predictor.promised:.2f} at most for other roots")
        if pd.isna(distance):
            reasons.append(_not_finite(weights, root))
        elif distance > 1:
            reasons.append(f"beyond the limit of distances from the train models ({distance:.3f} of it)")
    rows = [row | {"out_of_distribution": "; ".join(row["out_of_distribution"])} for row in about]
    if config.outside == "hide":
        hidden = [number for number in read if rows[number]["out_of_distribution"]]
        found.loc[hidden, [name for name in found if name != "distance"]] = None
    return pd.concat([pd.DataFrame(rows), found], axis=1)


def _group(reasons: list[str]) -> Group:
    """Returns what the intervals of a checkpoint are calibrated on, by what is unusual about it."""
    if set(reasons) - {NEW_ROOT}:
        return "nothing"
    return "roots" if reasons else "models"


def _not_finite(weights: Weights, root: Weights | None) -> str:
    """Returns why there is no embedding."""
    for whose, tensors in (("weights", weights), ("weights of its root", root or {})):
        if not all_finite(tensors.values()):
            return f"{whose} are not finite"
    return "weights are finite, but too large to be embedded"


def test_set(run: Run) -> str:
    """Returns which images the accuracies and losses of predictions are of: the test images of the zoo that the run is of."""
    try:
        card = run.zoo.image_card("finetune")
    except InputError:
        return f"test images of zoo {run.zoo.path.name}"
    named = [f"{key} {_listed(card[key])}" for key in ("source", "path", "dataset", "classes") if card.get(key)]
    return f"test images of zoo {run.zoo.path.name} ({'; '.join([str(card['_target_']).rpartition('.')[2], *named])})"


def _listed(value: Any) -> str:
    return shortened(", ".join(map(str, value)) if isinstance(value, list) else str(value)).strip("'")


def _bounded(found: pd.DataFrame) -> pd.DataFrame:
    """Returns predictions without intervals that lie wholly beyond the bounds of their target: clipped, they would have no width.

    Such a probe is wrong there, and how wrong is unknown.
    """
    for low, high in ((name, f"{name[:-4]}_high") for name in map(str, found) if name.endswith("_low")):
        found.loc[found[low] == found[high], [low, high]] = float("nan")
    return found
