"""Model soups and means over epochs: test accuracy of means of weights beside the single models that they are made of.

Within a root: the fine-tuned models of one root and head type. Across roots: the best model by val of a root and those of other
roots, as they are and aligned to it. Over epochs: the checkpoints of one model. Coefficients are chosen on val images; test images,
clean and corrupted, are looked at once. Gains are paired, with 95 % bootstrap intervals over families (root and head type).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor
from torch.func import functional_call, vmap

from wsl.analyses import soup_recipes
from wsl.analyses.analysis import Findings, Subject
from wsl.analyses.connectivity import barriers, bend, profile
from wsl.analyses.corruptions import check_strengths, corrupted
from wsl.analyses.flat_models import Flat, FlatModels, accuracy, cross_entropy
from wsl.analyses.soup_findings import findings
from wsl.analyses.soup_rows import Row, Scores, gains, row_of
from wsl.data.stacks import shape_key
from wsl.layout.lookup import layout_of
from wsl.layout.slots import Layout
from wsl.symmetry.alignment import align, align_by_loss
from wsl.symmetry.group import MOVES
from zoo_gen import Checkpoint, InputError, Zoo
from zoo_gen.images import Images, ImageSplit
from zoo_gen.streams import stream
from zoo_gen.threads import in_threads, pieces

PAIRS_AT_ONCE = 8
"""Models that are aligned together."""

POINTS = 9
"""Of a path."""


@dataclass(frozen=True, kw_only=True)
class Soups:
    """The analysis `soups`.

    Attributes:
        corruptions: kind -> strengths of the corrupted test images, whose mean accuracy counts.
        others: other roots in a soup across roots.
        last, decays, best: means over epochs (`wsl.analyses.soup_recipes.epoch_recipes`).
        learned: `steps` and `rate` of learned coefficients.
        loss: `images`, `steps` and `rate` of alignment by loss; no steps leave it out.
        curve: `steps`, `rate`, `batch_size` and `pairs` (at most) of learned curves.
        seed: of the curves, and of which roots are joined.
    """

    corruptions: Mapping[str, Sequence[float]]
    others: int
    last: Sequence[int]
    decays: Sequence[float]
    best: Sequence[int]
    learned: Mapping[str, float]
    loss: Mapping[str, float]
    curve: Mapping[str, float]
    seed: int

    def __post_init__(self) -> None:
        """Raises `InputError` for settings that nothing can be measured with."""
        check_strengths(dict(self.corruptions))
        if self.others < 1 or min([1, *self.last, *self.best]) < 1 or not all(0 < decay < 1 for decay in self.decays):
            raise InputError("others, last and best must be at least 1, and decays between 0 and 1")

    def __call__(self, subject: Subject, progress: Progress) -> Findings:
        """Measures a zoo. Raises `InputError` where the images, the roots or families of two models are not there."""
        subject.require_images()
        zoo, finals = subject.population, subject.finals
        families: dict[tuple[str, str], list[Checkpoint]] = {}
        for checkpoint in finals:
            if checkpoint.root is None:
                raise InputError(f"soups are made of models of one root, and the root of model {checkpoint.model} is not known")
            families.setdefault((checkpoint.root, shape_key(checkpoint)), []).append(checkpoint)
        families = {key: some for key, some in families.items() if len(some) > 1}
        if not families:
            raise InputError(f"no two fine-tuned models of zoo {zoo.path} are of one root and shape; soups need two or more")
        images, notes, rows = zoo.images("finetune"), [], []
        tests = [images.test, *(self._corrupted(images.test, *one) for one in self._strengths())]
        paths: dict[str, Any] = {}
        for shape in dict.fromkeys(key[1] for key in families):
            alike = {root: some for (root, own), some in families.items() if own == shape}
            part = _Part(self, zoo, images, tests, alike, progress)
            rows += part.soups()
            rows += part.epochs(notes)
            for name, found in part.paths().items():
                paths.setdefault(name, []).append(found)
        joined = {name: np.concatenate(found) for name, found in paths.items()}
        if len({root for root, _ in families}) < 2:
            notes.append("soups across roots are left out: there is one root")
        return findings(gains(rows), joined, len(families), dict(self.corruptions), list(dict.fromkeys(notes)))

    def _strengths(self) -> list[tuple[str, float]]:
        return [(kind, strength) for kind, some in self.corruptions.items() for strength in some]

    def _corrupted(self, images: ImageSplit, kind: str, strength: float) -> ImageSplit:
        return ImageSplit(corrupted(images.pixels, kind, strength), images.labels)


class _Part:
    """The families of one shape."""

    def __init__(
        self,
        settings: Soups,
        zoo: Zoo,
        images: Images,
        tests: Sequence[ImageSplit],
        families: Mapping[str, Sequence[Checkpoint]],
        progress: Progress,
    ):
        self.settings, self.zoo, self.images, self.tests, self.progress = settings, zoo, images, tests, progress
        self.families = families
        first = next(iter(families.values()))[0]
        self.head = str(first.factors["head"])
        self.models = FlatModels(first.architecture)
        self.built = first.build()
        self.layout: Layout = layout_of(self.built)
        self.names = [f"{root}/{self.head}" for root in families]
        self.groups: list[Flat] = []
        for some in families.values():
            rows = self.models.rows([one.state_dict() for one in some])
            order = self.models.scores(rows, images.val)[0].argsort(descending=True, stable=True)
            self.groups.append(rows[order])
        self.pools = {"of one root": self.groups} | self._across()

    def soups(self) -> list[Row]:
        """Returns the rows of all soups, the single models and the ensembles."""
        rows = []
        steps, rate = int(self.settings.learned["steps"]), self.settings.learned["rate"]
        bar = self.progress.add_task(f"soups, {self.head} heads", total=len(self.pools) * (steps + 3))
        for pool, groups in self.pools.items():
            advance = self._advance(bar)
            apart = self._barriers(groups)
            advance()
            every = {"best single by val": [torch.eye(len(group))[0] for group in groups], "uniform": soup_recipes.uniform(groups)}
            every["greedy"] = soup_recipes.greedy(groups, self.models, self.images.val)
            advance()
            every["learned"] = soup_recipes.learned(groups, self.models, self.images.val, steps=steps, rate=rate, advance=advance)
            for recipe, coefficients in every.items():
                scores = self._scores(soup_recipes.mixed(groups, coefficients))
                used = [float((share > 0.01).sum()) for share in coefficients]
                rows.append(row_of(pool, recipe, scores, self.names, used=used, barrier=apart))
            if "aligned" not in pool:  # alignment keeps all functions
                used = [float(len(group)) for group in groups]
                rows.append(row_of(pool, "ensemble", self._ensembles(groups), self.names, used=used, barrier=apart))
        return rows

    def epochs(self, notes: list[str]) -> list[Row]:
        """Returns the rows of means over the epochs of each model."""
        settings: Soups = self.settings
        names: list[str] = []
        members = [(name, one) for name, some in zip(self.names, self.families.values(), strict=True) for one in some]
        bar = self.progress.add_task(f"means over epochs, {self.head} heads", total=len(members))
        found: dict[str, list[Tensor]] = {}  # in the order of the recipes
        ensembles: list[Scores] = []
        frame = self.zoo.frame
        waiting: list[Flat] = []
        by_model = frame.groupby("model").indices
        for number, (name, one) in enumerate(members):
            places = sorted(by_model[one.model], key=lambda place: frame["epoch"].iloc[place])
            every = [self.zoo[int(place)] for place in places]
            val = [checkpoint.results.get("val_accuracy") for checkpoint in every]
            if len(every) < 2:
                notes.append("means over epochs are left out for models of which one epoch is kept")
                self.progress.advance(bar)
                continue
            known = None if any(v is None for v in val) else np.array(val, dtype=float)
            if known is None:
                notes.append("means of the best epochs are left out for models whose accuracy on val images is not known")
            recipes = soup_recipes.epoch_recipes(len(every), known, last=settings.last, decays=settings.decays, best=settings.best)
            sums: dict[str, Tensor] = {}
            for place, checkpoint in enumerate(every):
                used = {recipe: share[place] for recipe, share in recipes.items() if share[place]}
                if used:
                    row = self.models.rows([checkpoint.state_dict()])[0].double()
                    for recipe, share in used.items():
                        sums[recipe] = sums.get(recipe, torch.zeros(())) + float(share) * row
            waiting += [torch.stack([self.models.rows([c.state_dict()])[0] for c in every[-min(settings.last) :]])]
            for recipe in recipes:
                found.setdefault(recipe, []).append(sums[recipe].float())
            names.append(name)
            self.progress.advance(bar)
            if len(waiting) == 16 or number == len(members) - 1:
                ensembles.append(self._ensembles(waiting))
                waiting = []
        if waiting:
            ensembles.append(self._ensembles(waiting))
        done: list[Row] = []
        bar = self.progress.add_task(f"scores of means, {self.head} heads", total=len(found))
        for recipe, means in found.items():
            if len(means) == len(names):
                done.append(row_of("over epochs", recipe, self._scores(torch.stack(means)), names))
            self.progress.advance(bar)
        if names:
            joined = Scores.joined(ensembles)
            done.append(row_of("over epochs", f"ensemble of the last {min(settings.last)}", joined, names))
        return done

    def paths(self) -> dict[str, np.ndarray]:
        """Returns test losses along lines and curves: kind -> (pairs, points)."""
        curve, rng = self.settings.curve, stream(self.settings.seed, "analysis", "soups", self.head)
        found: dict[str, np.ndarray] = {}
        most, steps = int(curve["pairs"]), int(curve["steps"])
        bar = self.progress.add_task(f"paths, {self.head} heads", total=len(self.pools) * (steps + 2))
        for pool, groups in self.pools.items():
            a, b = (torch.stack([group[side] for group in groups[:most]]) for side in (0, 1))
            found[f"{pool}, line"] = profile(a, (a + b) / 2, b, self.models, self.images.test, points=POINTS)
            self.progress.advance(bar)
            if steps:
                theta = bend(
                    a, b, self.models, self.images.train, steps=steps, rate=curve["rate"], batch_size=int(curve["batch_size"]),
                    rng=rng, advance=self._advance(bar),
                )  # fmt: skip
                found[f"{pool}, curve"] = profile(a, theta, b, self.models, self.images.test, points=POINTS)
            self.progress.advance(bar)
        return found

    def _across(self) -> dict[str, list[Flat]]:
        """Returns the pools across roots: the best model of each root, and those of the next roots in a drawn circle."""
        count = len(self.groups)
        if count < 2:
            return {}
        circle = stream(self.settings.seed, "analysis", "roots").permutation(count)
        place = {int(number): at for at, number in enumerate(circle)}
        chosen = []
        for number in range(count):
            others = [int(circle[(place[number] + step) % count]) for step in range(1, min(self.settings.others, count - 1) + 1)]
            chosen.append([number, *others])
        naive = [torch.stack([self.groups[one][0] for one in some]) for some in chosen]
        pools = {"of several roots": naive, "of several roots, aligned by weights": self._aligned(naive, self._by_weights)}
        if self.settings.loss["steps"]:
            pools["of several roots, aligned by loss"] = self._aligned(naive, self._by_loss)
        return pools

    def _aligned(self, groups: Sequence[Flat], align_to: Callable[[dict, dict], Mapping[str, Tensor]]) -> list[Flat]:
        """Returns groups whose models after the first are aligned to it."""
        moving = torch.cat([group[1:] for group in groups])
        fixed = torch.cat([group[:1].expand(len(group) - 1, -1) for group in groups])
        bar = self.progress.add_task(f"alignment, {self.head} heads", total=len(moving))

        def work(some: slice) -> Flat:
            found = align_to(self.models.stacked(moving[some]), self.models.stacked(fixed[some]))
            self.progress.advance(bar, some.stop - some.start)
            return torch.cat([found[name].detach().float().flatten(1) for name in self.models.shapes], dim=1)

        rows = torch.cat([*in_threads(work, pieces(len(moving), PAIRS_AT_ONCE))])
        parts = rows.split([len(group) - 1 for group in groups])
        return [torch.cat([group[:1], part]) for group, part in zip(groups, parts, strict=True)]

    def _by_weights(self, a: dict[str, Tensor], b: dict[str, Tensor]) -> Mapping[str, Tensor]:
        return align(a, self.layout, to=b, moves=MOVES).weights

    def _by_loss(self, a: dict[str, Tensor], b: dict[str, Tensor]) -> Mapping[str, Tensor]:
        settings = self.settings.loss
        for module in self.built.modules():
            if hasattr(module, "fused_attn"):
                cast(Any, module).fused_attn = False  # has no rule for stacks
        count = int(settings["images"])
        pixels, labels = self.images.train.pixels[:count], self.images.train.labels[:count]
        run = vmap(lambda weights: functional_call(self.built, weights, (pixels,)))

        def loss(weights: Mapping[str, Tensor]) -> Tensor:
            return cross_entropy(run({name: tensor.float() for name, tensor in weights.items()}), labels)

        steps, rate = int(settings["steps"]), settings["rate"]
        return align_by_loss(a, self.layout, to=b, moves=MOVES, loss=loss, steps=steps, rate=rate).weights

    def _scores(self, rows: Flat) -> Scores:
        return Scores.of([accuracy(self.models.logits(rows, one.pixels), one.labels) for one in self.tests])

    def _ensembles(self, groups: Sequence[Flat]) -> Scores:
        """Scores the mean predictions of each group."""
        rows, sizes = torch.cat([*groups]), [len(group) for group in groups]
        found = []
        for one in self.tests:
            predictions = self.models.logits(rows, one.pixels).softmax(-1).split(sizes)
            found.append(accuracy(torch.stack([some.mean(0) for some in predictions]), one.labels))
        return Scores.of(found)

    def _barriers(self, groups: Sequence[Flat]) -> list[float]:
        """Returns the mean loss barrier, on val images, between the first model of each group and its others."""
        a = torch.cat([group[:1].expand(len(group) - 1, -1) for group in groups])
        b = torch.cat([group[1:] for group in groups])
        found = torch.from_numpy(barriers(profile(a, (a + b) / 2, b, self.models, self.images.val, points=POINTS)))
        return [float(some.mean()) for some in found.split([len(group) - 1 for group in groups])]

    def _advance(self, bar: Any) -> Callable[[], object]:
        return lambda: self.progress.advance(bar)
