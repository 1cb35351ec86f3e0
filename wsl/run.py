"""A run: the folder of a trained hyper-representation, which explains itself.

`config.yaml` (cards, settings, and which zoo in which state), `standardizer.json`, `model_encoder.safetensors`,
`model.safetensors`, `metrics.jsonl`. Reloading needs the path alone, and builds only `_target_`s of trusted packages: a config is
foreign data.
"""

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from wsl.data.invariants import invariants, invariants_of
from wsl.data.leakage import refuse_shared
from wsl.data.sources import roots_of
from wsl.data.standardizer import Standardizer
from wsl.data.windows import Batch, TokenizedZoo, window_starts
from wsl.layout.axis_table import ROLES
from wsl.models.invariant_encoder import InvariantEncoder
from wsl.run_files import check_config, read_config, read_model_encoder
from wsl.tokenizers.fisher_basis import prepare
from wsl.tokenizers.tokens import Tokens
from zoo_gen import Checkpoint, InputError, Zoo
from zoo_gen.config import instantiate
from zoo_gen.reader import read_json, read_weights
from zoo_gen.splits import Split

CHECKPOINTS_AT_ONCE = 32
"""Checkpoints of one plan that are encoded together, at most."""

WEIGHTS_AT_ONCE = 2**24
"""Weights of checkpoints that are encoded, or decoded and scored, together, at most; a larger checkpoint is alone."""


class Run:
    """A hyper-representation with everything that leads from checkpoints to latents and back.

    Attributes:
        path: the folder.
        config: the resolved configuration of the training.
        unseen_zoo: whether it has seen nothing of its zoo; see `transferred`.
        tokenizer, standardizer, model: built from the folder; the model is in eval mode.
        model_encoder: None for a run without one.
    """

    model_encoder: InvariantEncoder | None = None
    unseen_zoo: bool = False

    def __init__(self, path: Path, config: Mapping[str, Any], standardizer: Standardizer, *, zoo: str | Path | None = None):
        """Builds the parts of a run, the model with fresh weights; use `Run.open` for a trained one."""
        self.path, self.config, self.standardizer = path, config, standardizer
        self._zoo_path = zoo
        try:
            self._window, self._split, self._seed = config["window"], config["split"], config["seed"]
            self._zoo_config, cards = config["zoo"], {group: config[group] for group in ("tokenizer", "model")}
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{path / 'config.yaml'} is not the configuration of a run ({error} is missing); train it again"
            ) from error
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            self.tokenizer, self.model = (instantiate(card, group=group) for group, card in cards.items())
        self.model.eval()

    @classmethod
    def open(cls, path: str | Path, *, zoo: str | Path | None = None) -> "Run":
        """Opens a finished run by its folder, or by its name under checkpoints/runs.

        Args:
            path: the folder or the name.
            zoo: where the run's zoo is now, if it has moved since, or which of several it is to be seen on.

        Raises `InputError` for a run that is missing, unfinished, damaged, or names a `_target_` outside the trusted
        packages.
        """
        folder = run_folder(path)
        if not (folder / "config.yaml").is_file():
            raise InputError(
                f"run '{path}' not found at {folder.resolve()}; make it with: python -m wsl.train model=hyperrep run={path}"
            )
        config = read_config(folder)
        again = f"delete {folder} and train the run again"
        read_json(folder / "standardizer.json", advice=again)
        try:
            standardizer = Standardizer.load(folder / "standardizer.json")
        except OverflowError as error:
            raise InputError(f"{folder / 'standardizer.json'} is damaged ({error}); {again}") from error
        weights = folder / "model.safetensors"
        if not weights.is_file():
            raise InputError(
                f"run {folder} is not finished; the command that started it resumes it: python -m wsl.train run={path}"
            )
        try:
            tensors = read_weights(weights, advice=again)
        except InputError as error:
            raise InputError(f"the weights {weights} are damaged: {error}") from error
        check_config(folder, config, tensors)
        try:
            with torch.device("meta"):  # takes no memory, whatever sizes the card asks for
                shapes = {name: tensor.shape for name, tensor in cls(folder, config, standardizer).model.state_dict().items()}
        except InputError as error:
            raise InputError(
                f"{folder / 'config.yaml'} cannot be built ({error}); if an older version wrote it, {again}"
            ) from error
        except (RuntimeError, ValueError, ArithmeticError, AssertionError, TypeError, AttributeError) as error:
            raise InputError(_damaged(weights, error, again)) from error
        try:
            if shapes != {name: tensor.shape for name, tensor in tensors.items()}:
                raise ValueError("names or shapes differ from those of the configuration's model")
            run = cls(folder, config, standardizer, zoo=zoo)
            run.model.load_state_dict(tensors)
            run.model_encoder = read_model_encoder(folder, config, advice=again)
        except (RuntimeError, ValueError, ArithmeticError, AssertionError, TypeError, AttributeError) as error:
            raise InputError(_damaged(weights, error, again)) from error
        return run

    def on(self, zoo: Path) -> "Run":
        """Returns this run, with the same model, on another of the zoos that it was trained on."""
        run = copy.copy(self)
        run.__dict__ = {key: value for key, value in vars(self).items() if key not in ("zoo", "split", "groups", "unseen_zoo")} | {
            "_zoo_path": zoo
        }
        return run

    def transferred(self, zoo: Zoo) -> "Run":
        """Returns this run, with the same model, on a zoo that it has seen nothing of; its split is of that zoo's models.

        Raises `InputError` if that zoo shares a checkpoint with one that the run was trained on.
        """
        for seen in self.zoos:
            refuse_shared(seen, zoo, advice="ask another zoo, or this one by the folds of runs on it")
        run = self.on(zoo.path)
        run.zoo, run.unseen_zoo = zoo, True
        return run

    @cached_property
    def zoo(self) -> Zoo:
        """The zoo that the run was trained on, the first of several if not told otherwise.

        Raises `InputError` if it is gone or no longer the same.
        """
        first, *others = self._entries
        if self._zoo_path is None:
            return self._find(first)
        return self._found([Path(self._zoo_path)], [entry["content_hash"] for entry in (first, *others)])

    @cached_property
    def zoos(self) -> list[Zoo]:
        """All zoos that the run was trained on, the first one first. Raises `InputError` if one is gone or no longer the same."""
        here = self.zoo  # it may have moved since, and is known to whoever opened the run
        return [here if entry["content_hash"] == here.content_hash else self._find(entry) for entry in self._entries]

    @property
    def _entries(self) -> list[Mapping[str, str]]:
        """What the configuration says of each zoo."""
        stored, others = self._zoo_config, self.config.get("other_zoos", [])
        entries = [stored, *(others if isinstance(others, list) else [others])]
        keys = ("path", "relative", "content_hash")
        if not all(isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in keys) for entry in entries):
            raise InputError(f"{self.path / 'config.yaml'} does not say which zoo the run is of; train it again")
        return entries

    def _find(self, entry: Mapping[str, str]) -> Zoo:
        """The zoo of an entry, where it lay, or where it lies from the run."""
        return self._found([Path(entry["path"]), self.path / entry["relative"]], [entry["content_hash"]])

    def _found(self, places: Sequence[Path], hashes: Sequence[str]) -> Zoo:
        """The first zoo in some places that has one of some hashes."""
        found = [Zoo.open(place) for place in places if _is_zoo(place)]
        point = f"point to it with zoo=<folder>, or Run.open('{self.path}', zoo=<folder>)"
        if not found:
            raise InputError(f"the zoo of run {self.path} is not at {' nor at '.join(map(str, places))}; if it has moved, {point}")
        for zoo in found:
            if zoo.content_hash in hashes:
                prepare(self.tokenizer, roots_of(zoo))
                return zoo
        now, then = found[0].content_hash[:12], hashes[0][:12]
        raise InputError(
            f"the zoo at {found[0].path} is not the one that run {self.path} was trained on (content hash {now}, "
            f"then {then}); if that one is elsewhere, {point}, else train a new run on this one"
        )

    @cached_property
    def split(self) -> Split[Zoo]:
        """Train, val and test models, as in training."""
        return self.zoo.split(self._split, fold=self.config["fold"])

    def latents(self, checkpoints: Iterable[Checkpoint]) -> Iterator[tuple[Tokens, Float[Tensor, "T Z"]]]:
        """Tokens and latents of each checkpoint, in order. Those of a model that diverged are not finite."""
        every = TokenizedZoo(self.zoo, self.tokenizer)
        for _, alike in groupby(map(every.tokens, checkpoints), key=lambda tokens: tokens.plan):
            for some in _pieces(alike):
                batch = Batch(*map(torch.stack, zip(*(Batch.of(tokens, self.standardizer) for tokens in some), strict=True)))
                latents = self._by_window(lambda window: self.model.encode(*window[:3]), batch)
                yield from zip(some, latents, strict=True)

    def embed(self, checkpoints: Iterable[Checkpoint]) -> Float[np.ndarray, "N F"]:
        """One latent vector per checkpoint, by the model encoder; without one, the latents of its tokens, pooled by the model.

        Not finite for a model that diverged.
        """
        if self.model_encoder is not None:
            if isinstance(checkpoints, Zoo):
                return self.embed_invariants(invariants_of(checkpoints))
            weights = TokenizedZoo(self.zoo, self.tokenizer)  # reads each root once
            return self.embed_invariants(invariants((c.state_dict(), weights.root(c)) for c in checkpoints))
        rows = [self.model.embed(z[None], tokens.positions, self.groups)[0] for tokens, z in self.latents(checkpoints)]
        return torch.stack(rows).numpy()

    @torch.no_grad()
    def embed_invariants(self, table: pd.DataFrame) -> Float[np.ndarray, "N F"]:
        """Latent vectors of checkpoints that `wsl.data.invariants` describes; columns that the encoder does not know are not
        read."""
        assert self.model_encoder is not None
        values = table.reindex(columns=self.model_encoder.columns).to_numpy(dtype=np.float64, copy=True)
        return self.model_encoder(torch.from_numpy(values)).numpy()

    def untrained(self) -> "Run":
        """Returns this run with weights at random, not a linear start: fitted on nothing but scales of tokens and invariants."""
        run = Run(self.path, self.config, self.standardizer, zoo=self.zoo.path)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            run.model_encoder = None if self.model_encoder is None else self.model_encoder.untrained()
        return run

    @cached_property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """The (block, role) that tokens of the run's zoo have, whatever the shape of the model; latents are pooled by them."""
        found: set[tuple[int, int]] = set()
        shapes = {json.dumps(c.architecture, sort_keys=True): c for c in self.zoo.select(stage="finetune", final=True)}
        for checkpoint in shapes.values():
            plan = self.tokenizer.plan(checkpoint.state_dict(), root=self.zoo.root(checkpoint).state_dict())
            found |= {(group.block, ROLES.index(group.role)) for group in plan.groups}
        return tuple(sorted(found))

    def decode(
        self, tokens: Tokens, latents: Float[Tensor, "T Z"], *, root: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Weights from latents, laid out as in `tokens` (of any model of the same shape; its values do not matter)."""
        mask, nobody = torch.ones_like(latents[None], dtype=torch.bool), torch.tensor([-1])
        batch = Batch(latents[None], mask, tokens.positions[None], nobody)
        values = self._by_window(lambda window: self.model.decode(window.values, window.positions), batch)[0]
        return self.tokenizer.decode(tokens.with_values(self.standardizer.restore(values, tokens.plan)), root=root)

    @torch.no_grad()
    def _by_window(self, function: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
        """Applies a function window by window, on the model's device; where windows overlap, the later one counts."""
        device, total = next(self.model.parameters()).device, batch.values.shape[-2]
        starts = window_starts(total, self._window)
        pieces = []
        for start, following in pairwise([*starts, total]):
            window = Batch(*(tensor.to(device) for tensor in batch.crop(start, self._window)))
            pieces.append(function(window)[..., : following - start, :].float().cpu())
        return torch.cat(pieces, dim=-2)


def _pieces(alike: Iterator[Tokens]) -> Iterator[list[Tokens]]:
    """Tokens of one plan, as many at once as memory is meant for."""
    for first in alike:
        fitting = max(1, min(CHECKPOINTS_AT_ONCE, WEIGHTS_AT_ONCE // first.plan.n_weights))
        yield [first, *islice(alike, fitting - 1)]


def run_folder(path: str | Path) -> Path:
    """The folder of a run: a path that holds one or has more than one part, else a name under checkpoints/runs."""
    given = Path(path)
    return given if (given / "config.yaml").is_file() or len(given.parts) > 1 else Path("checkpoints", "runs", given)


def _damaged(weights: Path, error: Exception, again: str) -> str:
    first_line = str(error).partition("\n")[0]
    return f"the weights {weights} are damaged or of another model ({first_line}); {again}"


def _is_zoo(place: Path) -> bool:
    """Whether a folder holds a zoo; no such place is none."""
    try:
        return (place / "zoo.json").is_file()
    except (OSError, ValueError):  # a name too long, or no name at all
        return False
