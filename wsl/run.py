"""A run: the folder of a trained model, which explains itself.

`config.yaml` (cards, settings, and which zoo in which state), `models.json` (which models of it), `model.safetensors`, what the
model reads (`standardizer.json` for tokens, `inputs.json` for invariants) and `metrics.jsonl`. Reloading needs the path alone, and
builds only `_target_`s of cards: a config is foreign data.
"""

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from wsl.data.invariant_inputs import InvariantInputs
from wsl.data.leakage import refuse_shared
from wsl.data.pairs import Pairs, rootless, roots_of, with_roots
from wsl.data.standardizer import Standardizer
from wsl.data.token_inputs import TokenInputs
from wsl.run_files import WEIGHTS, read_trained
from wsl.run_models import read_models, recorded_split
from wsl.run_weights import Source, Sources, as_many, name_of, nearest_root, weights_of
from wsl.run_zoos import entries_of, find, first_of
from wsl.tokenizers.tokens import Tokenizer, Tokens
from zoo_gen import Checkpoint, InputError, Zoo
from zoo_gen.config import instantiate, resolve
from zoo_gen.errors import printable
from zoo_gen.splits import Split
from zoo_gen.zoo import zoo_folder

Inputs = TokenInputs | InvariantInputs
INPUTS: dict[str, type[TokenInputs] | type[InvariantInputs]] = {"tokens": TokenInputs, "invariants": InvariantInputs}
"""What a model may read, by the attribute `reads` of its class."""

_WRONG = (RuntimeError, ValueError, ArithmeticError, AssertionError, TypeError, AttributeError, KeyError)


class Run:
    """A trained model with everything that leads from checkpoints to its latents, and back where it decodes.

    Attributes:
        path: the folder.
        config: the resolved configuration of the training.
        model: the model, in eval mode.
        inputs: what the model reads of a checkpoint.
        is_unseen: whether the model has seen nothing of the run's zoo; see `transferred`.
    """

    def __init__(
        self,
        path: Path,
        config: Mapping[str, Any],
        model: Any,
        inputs: Inputs,
        *,
        zoo: str | Path | None = None,
        unseen: Zoo | None = None,
    ):
        """Puts the parts of a run together; use `Run.open` for a trained one."""
        self.path, self.config, self.model, self.inputs = path, config, model.eval(), inputs
        self._place, self._unseen, self.is_unseen = zoo, unseen, unseen is not None

    @classmethod
    def open(cls, path: str | Path, *, zoo: str | Path | None = None) -> "Run":
        """Opens a finished run by its folder, by its name under checkpoints/runs, or by its URL (`s3://`, `hf://`, `https://` ...).

        Args:
            path: the folder, the name or the URL.
            zoo: where the run's zoo is now, if it has moved since, or which of several it is to be seen on.

        Raises `InputError` for a run that is missing, unfinished, damaged, of an older version, or names a `_target_` without a
        card.
        """
        folder, config, tensors = read_trained(path)
        weights, again = folder / WEIGHTS, f"delete {folder} and train the run again"
        try:
            inputs = inputs_of(config["model"]).read(folder, config, advice=again)
            with torch.device("meta"):  # takes no memory, whatever sizes the card asks for
                shapes = {name: tensor.shape for name, tensor in build_model(config, inputs).state_dict().items()}
            if shapes != {name: tensor.shape for name, tensor in tensors.items()}:
                raise ValueError("names or shapes differ from those of the configuration's model")
            model = build_model(config, inputs)
            model.load_state_dict(tensors)
        except InputError as error:
            reason = printable(" ".join(str(error).split()), limit=500)  # it may show a module where a number should be
            raise InputError(f"{folder} cannot be opened: {reason}; if another version wrote it, {again}") from error
        except _WRONG as error:
            first_line = str(error).partition("\n")[0]
            raise InputError(f"the weights {weights} are damaged or of another model ({first_line}); {again}") from error
        return cls(folder, config, model, inputs, zoo=zoo)

    def __repr__(self) -> str:
        of = self._unseen.path if self._unseen is not None else self._place or self.config["zoo"]["path"]
        places = [text if len(text) <= 70 else f"...{text[-67:]}" for text in (str(self.path), str(of))]
        return f"Run('{places[0]}': {self.model_name} of the zoo '{places[1]}')"

    @property
    def model_name(self) -> str:
        """The name of the model's card, which rows of tables are called by."""
        return self.config["model_name"]

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises `InputError` for a model that reads no tokens."""
        return self.inputs.tokens.tokenizer

    @property
    def standardizer(self) -> Standardizer:
        """Statistics of tokens. Raises `InputError` for a model that reads no tokens."""
        return self.inputs.tokens.standardizer

    def on(self, zoo: Path) -> "Run":
        """Returns this run, with the same model, on another of the zoos that it was trained on."""
        return Run(self.path, self.config, self.model, self.inputs, zoo=zoo)

    def transferred(self, zoo: Zoo) -> "Run":
        """Returns this run, with the same model, on a zoo that it has seen nothing of; its split is of that zoo's models.

        Raises `InputError` if that zoo shares a checkpoint with one that the run was trained on.
        """
        for seen in self.zoos:
            refuse_shared(seen, zoo, advice="probe another zoo, or this one by the folds of runs on it")
        return Run(self.path, self.config, self.model, self.inputs, unseen=zoo)

    def untrained(self) -> "Run":
        """Returns this run with random weights: fitted to nothing but the scales of its inputs."""
        model = build_model(self.config, self.inputs)
        fresh = model.state_dict()
        model.load_state_dict({**fresh, **{name: buffer for name, buffer in self.model.named_buffers() if name in fresh}})
        return Run(self.path, self.config, model, self.inputs, zoo=self._place, unseen=self._unseen)

    def rescaled(self) -> "Run":
        """Returns this run with the scales of its inputs taken from the train models of its zoo, which takes no label."""
        model, inputs = self.inputs.rescaled(self.model, self.split.train)
        return Run(self.path, self.config, model, inputs, zoo=self._place, unseen=self._unseen)

    @cached_property
    def zoo(self) -> Zoo:
        """The zoo that the run was trained on (the first of several if not told otherwise), or the one that it was transferred to.

        Raises `InputError` if it is gone or no longer the same.
        """
        if self._unseen is not None:
            return self._prepared(self._unseen)
        if self._place is None:
            return self._prepared(find(self.path, entries_of(self.path, self.config)[0]))
        hashes = [entry["content_hash"] for entry in entries_of(self.path, self.config)]
        return self._prepared(first_of(self.path, [zoo_folder(self._place)], hashes))

    @cached_property
    def zoos(self) -> list[Zoo]:
        """All zoos that the run was trained on, the first one first. Raises `InputError` if one is gone or no longer the same."""
        here = self.zoo  # it may have moved since, and is known to whoever opened the run
        return [
            here if entry["content_hash"] == here.content_hash else self._prepared(find(self.path, entry))
            for entry in entries_of(self.path, self.config)
        ]

    @cached_property
    def split(self) -> Split[Zoo]:
        """Train, val and test models, as in training. Raises `InputError` if the zoo's split has changed since."""
        scheme, fold = self.config["split"], self.config["fold"]
        return self.zoo.split(scheme, fold=fold) if self.is_unseen else recorded_split(self.path, self.zoo, scheme, fold=fold)

    @cached_property
    def seen(self) -> frozenset[str]:
        """Ids of the models of the run's zoo that it was trained or validated on, by the hashes of their weights; none of a zoo
        that it was transferred to."""
        if self.is_unseen:
            return frozenset()
        train, val, _ = read_models(self.path, self.zoo.content_hash)
        frame = self.zoo.frame
        return frozenset(frame["model"][frame["weights_sha256"].isin({*train.values(), *val.values()})])

    def embed(self, sources: Zoo | Sources, *, root: Source | None = None) -> Float[np.ndarray, "N F"]:
        """Returns one vector per checkpoint; not finite for a model that diverged.

        Args:
            sources: a selection of the run's zoo; or a checkpoint, a module, a state dict, a path, or many of them, of any origin.
            root: what the sources were fine-tuned from, of any of these kinds. None: the root that a checkpoint of the run's zoo
                has, and for others the nearest root of the run's train models, where the model of the run needs one.

        Raises:
            InputError: a source cannot be read, or no root of the run has its shapes.
        """
        if isinstance(sources, Zoo) and root is None:
            return self.embeddings(sources).to_numpy(dtype=np.float32)
        given = None if root is None else weights_of(root)
        every = list(sources) if isinstance(sources, Zoo) else as_many(sources)
        return self.embed_weights(self._paired(source, given) for source in every)

    def predict(self, sources: Zoo | Sources, *, root: Source | None = None, coverage: float | None = None) -> pd.DataFrame:
        """Returns the predictions of `python -m wsl.predict`, one row per checkpoint; a column that is not there says why.

        Args:
            sources, root: as in `embed`.
            coverage: of the intervals; None: as in configs/predict.yaml.
        """
        prediction = importlib.import_module("wsl.probes.prediction")  # probes are a room above this one
        return prediction.predict_sources(self, sources, root=root, coverage=coverage)

    def root_of(self, source: Source) -> dict[str, Tensor] | None:
        """Returns the weights of the root of a checkpoint of the run's zoo; None where there is none, or for another source."""
        if not isinstance(source, Checkpoint) or not source.path.is_relative_to(self.zoo.path.resolve()):
            return None
        root = self.zoo.root(source)
        return None if root is None else weights_of(root)

    @cached_property
    def roots(self) -> dict[str, dict[str, Tensor]]:
        """The weights of the known roots of the run's train models, by name, in float32."""
        return {root.model: weights_of(root) for root in roots_of(self.split.train)}

    def _paired(self, source: Source, given: dict[str, Tensor] | None) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """Returns the weights of a source with those of its root."""
        weights = weights_of(source)
        root = given if given is not None else self.root_of(source)
        unknown = isinstance(source, Checkpoint) and source.root is None and rootless(self.split.train) > 0
        if root is not None or not self.inputs.needs_root or not self.roots or unknown:
            return weights, root
        name, distance = nearest_root(weights, self.roots)
        if distance == float("inf"):
            raise InputError(f"{name_of(source, 0)} has the shapes of no root of the run; name what it was fine-tuned from: root=")
        return weights, self.roots[name]

    def embeddings(self, checkpoints: Zoo) -> pd.DataFrame:
        """Returns what `embed` does, with names of columns (N F)."""
        return self.inputs.embed(self.model, checkpoints, within=self.zoo)

    def embed_weights(self, pairs: Pairs) -> Float[np.ndarray, "N F"]:
        """Returns one vector per checkpoint, given its weights and those of its root (None: not known), of any zoo or none."""
        return self.inputs.embed_weights(self.model, pairs, within=self.zoo).to_numpy(dtype=np.float32)

    def encoder_inputs(self, checkpoints: Zoo) -> pd.DataFrame:
        """Returns what the model reads of checkpoints as features (N F): invariants, or tokens pooled as latents are."""
        return self.inputs.table(self.model, checkpoints, within=self.zoo)

    def latents(self, checkpoints: Iterable[Checkpoint]) -> Iterator[tuple[Tokens, Float[Tensor, "T Z"]]]:
        """Yields tokens and latents of each checkpoint, in order; latents of a model that diverged are not finite.

        Raises `InputError` for a model that reads no tokens.
        """
        pairs = with_roots((checkpoint, self.zoo.root(checkpoint)) for checkpoint in checkpoints)
        return self.inputs.tokens.latents(self.model, ((checkpoint.state_dict(), root) for checkpoint, root in pairs))

    def decode(
        self, tokens: Tokens, latents: Float[Tensor, "T Z"], *, root: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Returns weights from latents, laid out as in `tokens` (of any model of the same shape; its values do not matter).

        Raises `InputError` for a model that reads no tokens.
        """
        return self.decode_all([tokens], [latents], roots=[root])[0]

    def decode_all(
        self,
        tokens: Sequence[Tokens],
        latents: Sequence[Float[Tensor, "T Z"]],
        *,
        roots: Sequence[Mapping[str, Tensor] | None],
    ) -> list[dict[str, Tensor]]:
        """Returns what `decode` does of many latents; rehearsals of models of one shape run in stacks."""
        return self.decoding.decode(self.model, tokens, latents, roots=roots)

    @cached_property
    def decoding(self) -> TokenInputs:
        """The inputs with what a decoder needs: the images of the zoo. Raises `InputError` for a model that reads no tokens."""
        return self.inputs.tokens.on(self.zoo)

    def _prepared(self, zoo: Zoo) -> Zoo:
        self.inputs.prepare(zoo)
        return zoo


def inputs_of(card: Mapping[str, Any]) -> type[TokenInputs] | type[InvariantInputs]:
    """Returns the kind of inputs that the model of a card reads. Raises `InputError` for a target without a card."""
    reads = getattr(resolve(str(card["_target_"]), group="model"), "reads", None)
    if reads not in INPUTS:
        raise InputError(
            f"model {card['_target_']} does not say what it reads; its class needs an attribute reads, of {', '.join(INPUTS)}"
        )
    return INPUTS[reads]


def build_model(config: Mapping[str, Any], inputs: Inputs) -> Any:
    """Returns the model of a configuration with fresh weights, drawn by its seed. Raises `InputError` for a card that does not
    fit."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        return fresh_model(config, inputs)


def fresh_model(config: Mapping[str, Any], inputs: Inputs) -> Any:
    """Returns the model of a configuration with fresh weights, drawn by the random state of torch."""
    return instantiate({**config["model"], **inputs.model_values}, group="model")
