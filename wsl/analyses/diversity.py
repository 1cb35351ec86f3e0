"""Diversity of a population: how far its models are apart in weights and in behaviour, and what of that its factors explain.

Weights: distances and cosines of all pairs, raw and modulo symmetry, norms, distances to the root, effective rank, by layer.
Behaviour on the test images: accuracy, disagreement, overlap of errors, Jensen-Shannon divergence, debiased CKA of each block,
calibration, and accuracy under corruptions. Explained variance: shares of type II of each factor and pair
(`wsl.analyses.explained_variance`). The models are the fine-tuned ones at their final epochs that did not diverge.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.progress import Progress

from wsl.analyses.analysis import Findings, Subject
from wsl.analyses.behaviour import calibration_error, debiased_cka, error_overlap, features_by_layer, jensen_shannon
from wsl.analyses.corruptions import check_strengths, corrupted
from wsl.analyses.diversity_findings import findings
from wsl.analyses.explained_variance import bootstrap, gram_of, intervals, terms_of, type_two
from wsl.analyses.weight_distances import WeightDistances, distances_modulo_symmetry, weight_distances, without_heads
from wsl.data.logits import run_models
from wsl.data.pairs import roots_by_checkpoint
from wsl.data.stacks import shape_key
from wsl.generators.novelty import disagreement, effective_rank
from wsl.layout.lookup import layout_of
from zoo_gen import Checkpoint, InputError, Zoo
from zoo_gen.index import ALL_FACTORS
from zoo_gen.streams import stream

Pairwise = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """The analysis `diversity`.

    Attributes:
        corruptions: kind -> strengths (`wsl.analyses.corruptions`).
        cka_images: test images of CKA, at most.
        n_bootstrap: bootstraps over models behind the intervals of explained variance.
        seed: of the bootstraps.
    """

    corruptions: Mapping[str, Sequence[float]]
    cka_images: int
    n_bootstrap: int
    seed: int

    def __post_init__(self) -> None:
        """Raises `InputError` for settings that nothing can be measured with."""
        check_strengths(dict(self.corruptions))
        if self.cka_images < 4 or self.n_bootstrap < 1:
            raise InputError(f"cka_images must be at least 4 and n_bootstrap at least 1, not {self.cka_images}, {self.n_bootstrap}")

    def __call__(self, subject: Subject, progress: Progress) -> Findings:
        """Measures a zoo. Raises `InputError` for one with fewer than two models of one body."""
        zoo, notes = subject.population, []
        finals, left_out = _of_one_body(subject.finals)
        if left_out:
            notes.append(f"{left_out} models of other architectures than the most common one are left out")
        checkpoints = list(finals)
        weights, pairs = self._weights(zoo, checkpoints, progress, notes)
        numbers: dict[str, Any] = {"models": [one.model for one in checkpoints], "roots": [one.root for one in checkpoints]}
        numbers |= {"weights": weights}
        try:
            subject.require_images()
            numbers["behaviour"], of_behaviour = self._behaviour(zoo, finals, progress, notes)
            pairs |= of_behaviour
        except InputError as error:
            notes.append(f"behaviour is left out: {error}")
        numbers["explained_variance"], factors = self._variance(finals, pairs, numbers, progress, notes)
        numbers["pairs"] = {name: _summary(matrix, numbers["roots"]) for name, matrix in pairs.items()}
        numbers["matrices"] = {name: np.round(matrix, 5) for name, matrix in pairs.items()}
        return findings(numbers, factors, notes)

    def _weights(
        self, zoo: Zoo, checkpoints: list[Checkpoint], progress: Progress, notes: list[str]
    ) -> tuple[dict[str, Any], Pairwise]:
        first = checkpoints[0].state_dict()
        is_known = checkpoints[0].architecture.get("architecture") is not None
        layout = layout_of(checkpoints[0].build() if is_known else first)
        several = len({shape_key(one) for one in checkpoints}) > 1
        if several:
            notes.append("heads differ in shape: distances of weights are those of the bodies")
        layers = {name: some for name, some in layout.layers().items() if name != "head" or not several}
        bar = progress.add_task("weights of all pairs", total=len(checkpoints))
        raw = weight_distances([one.state_dict for one in checkpoints], layers, advance=lambda n: progress.advance(bar, n))
        pairs: Pairwise = {"L2": raw.distances(), "cosine": raw.cosines()}
        if not is_known:
            notes.append("distances modulo symmetry are left out: the architecture is not known, and so the number of heads is not")
        else:
            groups: dict[str | None, list[int]] = {}
            for place, one in enumerate(checkpoints):
                groups.setdefault(one.root, []).append(place)
            states = [
                [
                    without_heads(state, first, layout) if several else state
                    for place in places
                    if (state := checkpoints[place].state_dict())
                ]
                for places in groups.values()
            ]
            total = len(checkpoints) + len(groups) * (len(groups) - 1) // 2
            bar = progress.add_task("weights modulo symmetry", total=total)
            found = distances_modulo_symmetry(states, layout, advance=lambda n: progress.advance(bar, n))
            order = np.argsort([place for places in groups.values() for place in places])
            pairs["L2 modulo symmetry"] = found[np.ix_(order, order)]
        to_root = _distances_to_roots(zoo, checkpoints, layers)
        if to_root is None:
            notes.append("distances to the root are left out: the roots of some models are not known")
        return _by_layer(raw, to_root), pairs

    def _behaviour(self, zoo: Zoo, finals: Zoo, progress: Progress, notes: list[str]) -> tuple[dict[str, Any], Pairwise]:
        images = zoo.images("finetune").test
        labels = images.labels.numpy()
        strengths = [(kind, strength) for kind, some in self.corruptions.items() for strength in some]
        bar = progress.add_task("behaviour of all models", total=1 + len(strengths) + 1)
        logits = run_models(finals, images.pixels)
        progress.advance(bar)
        classes = logits.argmax(-1)
        robustness: dict[str, dict[str, Any]] = {}
        for kind, strength in strengths:
            found = run_models(finals, corrupted(images.pixels, kind, strength)).argmax(-1)
            robustness.setdefault(kind, {})[f"{strength:g}"] = (found == labels).mean(1)
            progress.advance(bar)
        pairs: Pairwise = {
            "disagreement": disagreement(classes, classes),
            "error overlap": error_overlap(classes != labels),
            "Jensen-Shannon": jensen_shannon(logits),
        }
        chosen = np.linspace(0, len(labels) - 1, min(self.cka_images, len(labels))).round().astype(int)
        pairs |= {f"CKA {layer}": one for layer, one in _cka(list(finals), images.pixels[torch.from_numpy(chosen)]).items()}
        progress.advance(bar)
        if not any(name.startswith("CKA") for name in pairs):
            notes.append(
                "CKA is left out: the models have no blocks that are named blocks.<n>, or there are fewer than four images"
            )
        accuracy = (classes == labels).mean(1)
        return {"accuracy": accuracy, "calibration_error": calibration_error(logits, labels), "robustness": robustness}, pairs

    def _variance(
        self, finals: Zoo, pairs: Pairwise, numbers: Mapping[str, Any], progress: Progress, notes: list[str]
    ) -> tuple[dict[str, Any], list[str]]:
        frame = finals.frame
        factors = factors_of(frame)
        if not factors:
            notes.append("explained variance is left out: no generating factor varies among the models")
            return {}, []
        grams = {name: gram_of(pairs[name] ** 2) for name in ("L2", "L2 modulo symmetry") if name in pairs}
        grams |= {name: gram_of(pairs[name]) for name in ("disagreement", "Jensen-Shannon") if name in pairs}  # squared metrics
        if "behaviour" in numbers:
            accuracy = np.asarray(numbers["behaviour"]["accuracy"])
            grams["accuracy"] = np.outer(accuracy - accuracy.mean(), accuracy - accuracy.mean())
        bar = progress.add_task("explained variance", total=self.n_bootstrap)
        levels = frame[factors].reset_index(drop=True)
        terms = terms_of(factors, pairs=True)
        table = type_two(levels, terms, grams)
        rng = stream(self.seed, "analysis", "diversity")
        errors = bootstrap(levels, terms, grams, n=self.n_bootstrap, rng=rng, advance=lambda: progress.advance(bar))
        found = {}
        for name in grams:
            ends = intervals(table[name], errors[name])
            found[name] = {
                str(term): {"df": int(table["df"][term]), "share": table[name][term], "interval": ends[str(term)]}
                for term in table.index
            }
        return found, factors


def factors_of(frame: Any) -> list[str]:
    """Returns the root and the generating factors that vary within a root; one of two that go together is enough."""
    varied = [name for name in ALL_FACTORS if name in frame and frame[name].nunique(dropna=False) > 1]
    known = frame["root"].notna().all() and frame["root"].nunique() > 1
    if known:
        varied = [name for name in varied if (frame.groupby("root")[name].nunique(dropna=False) > 1).any()]
    found: list[str] = []
    for name in varied:
        codes = frame[name].astype(str)
        if not any(
            frame.groupby([frame[other].astype(str), codes]).ngroups == codes.nunique() == frame[other].nunique() for other in found
        ):
            found.append(name)
    return [*(["root"] if known else []), *found]


def _of_one_body(finals: Zoo) -> tuple[Zoo, int]:
    """Returns the models of the most common body, and the number of others."""
    bodies = []
    for checkpoint in finals:
        state = checkpoint.state_dict()
        layout = layout_of(state)
        body = {slot.name for slot in layout.slots} - layout.head
        bodies.append(str(sorted((name, tuple(state[name].shape)) for name in body)))
    common = max(dict.fromkeys(bodies), key=bodies.count)
    chosen = finals.where([body == common for body in bodies])
    if len(chosen) < 2:
        raise InputError(f"no two fine-tuned models of zoo {finals.path} are of one architecture")
    return chosen, len(bodies) - len(chosen)


def _distances_to_roots(zoo: Zoo, checkpoints: Sequence[Checkpoint], layers: Mapping[str, Sequence[str]]) -> Any:
    """Returns layer -> the distance of each model to its root, over the tensors that both have; None where a root is not known."""
    roots = roots_by_checkpoint(zoo, checkpoints)
    if any(root is None for root in roots):
        return None
    found: dict[str, list[float]] = {layer: [] for layer in layers}
    for checkpoint, root in zip(checkpoints, roots, strict=True):
        state = checkpoint.state_dict()
        assert root is not None
        for layer, names in layers.items():
            shared = [name for name in names if name in root and root[name].shape == state[name].shape and layer != "head"]
            found[layer].append(sum(float((state[n].double() - root[n].double()).square().sum()) for n in shared) ** 0.5)
    return {layer: np.array(values) for layer, values in found.items() if layer != "head"}


def _by_layer(raw: WeightDistances, to_root: Mapping[str, np.ndarray] | None) -> dict[str, Any]:
    """Returns norms, distances, effective rank of the population and distances to the root, by layer and of all weights."""

    def measured(layer: str | None = None) -> dict[str, Any]:
        distances = raw.distances(layer)
        upper = distances[np.triu_indices(len(distances), 1)]
        found = {"norm": raw.norms(layer), "median_distance": np.median(upper), "effective_rank": effective_rank(distances)}
        if to_root is not None and layer is None:
            found["distance_to_root"] = np.sqrt(sum(np.square(values) for values in to_root.values()))
        elif to_root is not None and layer is not None and layer in to_root:
            found["distance_to_root"] = to_root[layer]
        return found

    return {"all": measured(None), "by_layer": {layer: measured(layer) for layer in raw.grams}}


def _cka(checkpoints: Sequence[Checkpoint], pixels: torch.Tensor) -> Pairwise:
    if len(pixels) < 4:
        return {}
    alike: dict[str, list[int]] = {}
    for place, one in enumerate(checkpoints):
        alike.setdefault(shape_key(one), []).append(place)
    found: dict[str, list[torch.Tensor]] = {}
    order = [place for places in alike.values() for place in places]
    for places in alike.values():
        for start in range(0, len(places), 32):
            some = [checkpoints[place] for place in places[start : start + 32]]
            for layer, features in features_by_layer(some[0].architecture, [one.state_dict() for one in some], pixels).items():
                found.setdefault(layer, []).append(features)
    back = np.argsort(order)
    return {
        layer: debiased_cka(features)[np.ix_(back, back)]
        for layer, features in found.items()
        if sum(map(len, features)) == len(checkpoints)
    }


def _summary(matrix: np.ndarray, roots: Sequence[str | None]) -> dict[str, float | None]:
    """Returns the medians over pairs: all, of one root, of two roots."""
    upper = np.triu_indices(len(matrix), 1)
    same = np.array(
        [roots[i] is not None and roots[i] == roots[j] for i, j in zip(*(side.tolist() for side in upper), strict=True)]
    )
    values = matrix[upper]

    def median(some: np.ndarray) -> float | None:
        return float(np.median(some)) if len(some) else None

    return {"all": median(values), "same_root": median(values[same]), "other_roots": median(values[~same])}
