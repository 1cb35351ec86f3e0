"""Inputs of a hyper-representation: the tokens of checkpoints, standardised, and how they pass through a model window by window."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache, partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from wsl.data.pairs import Pairs, pairs_of, root_weights, rootless, roots_of, weights_with_roots
from wsl.data.rehearsal import Rehearsal
from wsl.data.side_information import CHANNELS, SideInformation
from wsl.data.sources import scan
from wsl.data.stacks import shape_key
from wsl.data.standardizer import Standardizer
from wsl.layout.slots import ROLES
from wsl.tokenizers.plan import Plan
from wsl.tokenizers.tokens import Tokenizer, Tokens
from wsl.tokenizers.window import padded, window_starts
from zoo_gen import InputError, Zoo
from zoo_gen.config import instantiate
from zoo_gen.reader import read_json
from zoo_gen.threads import batched, in_threads
from zoo_gen.wording import counted

CHECKPOINTS_AT_ONCE = 32
"""Checkpoints of one plan that are encoded together, at most."""

WEIGHTS_AT_ONCE = 2**24
"""Weights of checkpoints that are encoded, or decoded and evaluated, together, at most; a larger checkpoint is alone."""


Root = Mapping[str, Tensor] | None
"""Weights of a root; None where it is not known."""


@dataclass(frozen=True)
class TokenInputs:
    """Standardised tokens of checkpoints.

    Attributes:
        reads, fitted, file: what they are, whether they are fitted to train models, and their file in the folder of a run.
        tokenizer: of all checkpoints.
        standardizer: of their tokens, fitted on train models.
        window: tokens that the model sees at once.
        rehearsal: the recipe of what decoders find out about a body by its root and head.
        zoo: whose images rehearsals need; None: there are none.
    """

    reads: ClassVar[Literal["tokens"]] = "tokens"
    fitted: ClassVar[bool] = True
    file: ClassVar[str] = "standardizer.json"

    tokenizer: Tokenizer
    standardizer: Standardizer
    window: int
    rehearsal: Rehearsal
    zoo: Zoo | None = None

    @classmethod
    def read(cls, folder: Path, config: Mapping[str, Any], *, advice: str) -> Self:
        """Reads what `save` wrote into a run's folder. Raises `InputError` for a file that is missing or damaged."""
        read_json(folder / cls.file, advice=advice)
        standardizer = Standardizer.load(folder / cls.file)
        tokenizer = instantiate(config["tokenizer"], group="tokenizer")
        return cls(tokenizer, standardizer, config["window"], rehearsal_of(config["rehearsal"]))

    def save(self, folder: Path) -> None:
        """Writes the statistics into a run's folder."""
        self.standardizer.save(folder / self.file)

    @property
    def model_values(self) -> dict[str, Any]:
        """The keyword values of a model that follow from its inputs: none that the configuration does not have."""
        return {}

    @property
    def tokens(self) -> Self:
        """These inputs: they are of tokens."""
        return self

    @property
    def needs_root(self) -> bool:
        """Whether tokens are differences to a root."""
        return self.tokenizer.reference == "root"

    def prepare(self, zoo: Zoo) -> None:
        """Tells the tokenizer the roots of a zoo. Raises `InputError` for tokens of differences where a root is not known."""
        if self.needs_root and (count := rootless(zoo)):
            raise InputError(
                f"tokens of this run are differences to a root, and the roots of {counted(count, 'model')} of {zoo.path} are not "
                "known; name them where the zoo is adopted, or train a run on tokens of the weights themselves: "
                "tokenizer.reference=none"
            )
        self.tokenizer.prepare(roots_of(zoo))

    def on(self, zoo: Zoo) -> Self:
        """Returns these inputs with rehearsals on the images of a zoo."""
        return replace(self, zoo=zoo)

    def without_zoo(self) -> Self:
        """Returns these inputs, which decode as before, with nothing of the zoo but train images and architectures."""
        found = replace(self, zoo=None)
        found.__dict__["side_information"] = self.side_information.without_zoo()
        return found

    @cached_property
    def side_information(self) -> SideInformation:
        """Finds what is known of checkpoints beside their tokens."""
        return SideInformation(self.tokenizer, self.standardizer, self.rehearsal, zoo=self.zoo)

    def table(self, model: Any, checkpoints: Zoo, *, within: Zoo) -> pd.DataFrame:
        """Returns the inputs of checkpoints as features (N F): standardised tokens, pooled as latents are."""

        def standardized(pairs: Pairs) -> Iterator[tuple[Tokens, Tensor]]:
            encoded = (self.tokenizer.encode(weights, root=root) for weights, root in pairs)
            return ((tokens, self.standardizer.standardize(tokens)) for tokens in encoded)

        return self._pooled(model, standardized, weights_with_roots(checkpoints), within)

    def embed(self, model: Any, checkpoints: Zoo, *, within: Zoo) -> pd.DataFrame:
        """Returns the latents of checkpoints, pooled over each (block, role) of `within` (N F); NaN for a model that diverged."""
        return self.embed_weights(model, weights_with_roots(checkpoints), within=within)

    def embed_weights(self, model: Any, pairs: Pairs, *, within: Zoo) -> pd.DataFrame:
        """Returns the pooled latents (N F) of weights, each with those of its root; see `embed`."""
        return self._pooled(model, partial(self.latents, model), pairs, within)

    def latents(self, model: Any, pairs: Pairs) -> Iterator[tuple[Tokens, Float[Tensor, "T Z"]]]:
        """Yields tokens and latents of weights, in order; latents of a model that diverged are not finite."""
        encoded = (self.tokenizer.encode(weights, root=root) for weights, root in pairs)
        for plan, alike in groupby(encoded, key=lambda tokens: tokens.plan):
            for every in batched(alike, _at_once(plan)):
                values = torch.stack([self.standardizer.standardize(tokens) for tokens in every])
                mask = torch.stack([functional.pad(tokens.mask, (0, 1), value=True) for tokens in every])
                yield from zip(every, self._by_window(model, model.encode, values, mask, positions_of(every)), strict=True)

    def decode(
        self, model: Any, tokens: Sequence[Tokens], latents: Sequence[Float[Tensor, "T Z"]], *, roots: Sequence[Root]
    ) -> list[dict[str, Tensor]]:
        """Returns weights from latents, laid out as in `tokens` (whose values do not matter), given those of their roots."""
        sides = self.sides(tokens, latents, roots=roots)
        found: list[dict[str, Tensor]] = [{}] * len(tokens)
        for some in _alike(tokens):
            positions = positions_of(tokens[n] for n in some)
            inputs = torch.stack([latents[n] for n in some]), positions, torch.stack([sides[n] for n in some])
            for n, values in zip(some, self._by_window(model, model.decode, *inputs), strict=True):
                found[n] = self._weights(tokens[n], values, roots[n])
        return found

    def sides(
        self, tokens: Sequence[Tokens], latents: Sequence[Float[Tensor, "T Z"]], *, roots: Sequence[Root]
    ) -> list[Float[Tensor, "T CD"]]:
        """Returns what a decoder knows beside latents: of rehearsals, by the heads that the latents hold."""
        found: list[Tensor] = [one.new_zeros(len(one), 0) for one in latents]
        for some in _alike(tokens):
            plan, width = tokens[some[0]].plan, latents[some[0]].shape[1]
            if width != plan.width + 1:
                continue  # latents of another kind of model, which hold no heads
            heads = {n: self._weights(tokens[n], latents[n], roots[n]) for n in some if latents[n].isfinite().all()}
            known = self.side_information.all(plan, [*heads.values()], [roots[n] for n in heads]) if heads else []
            nothing = torch.zeros(plan.n_tokens, len(CHANNELS) * plan.width)
            for n in some:
                found[n] = dict(zip(heads, known, strict=True)).get(n, nothing)
        return found

    def _weights(self, tokens: Tokens, values: Float[Tensor, "T D+1"], root: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        return self.tokenizer.decode(tokens.with_values(self.standardizer.restore(values, tokens.plan)), root=root)

    def rescaled(self, model: Any, train: Zoo) -> tuple[Any, "TokenInputs"]:
        """Returns the model, and inputs that are standardised by other checkpoints."""
        self.prepare(train)
        sources = scan(pairs_of(train), self.tokenizer)
        standardizer = Standardizer.fit((source.plan, source.sums) for source in sources)
        return model, replace(self, standardizer=standardizer)

    def _pooled(
        self, model: Any, latents: Callable[[Pairs], Iterable[tuple[Tokens, Tensor]]], pairs: Pairs, within: Zoo
    ) -> pd.DataFrame:
        groups = _groups(self.tokenizer, within)

        def pooled(some: Pairs) -> Tensor:
            rows = []
            for plan, alike in groupby(latents(some), key=lambda found: found[0].plan):
                for piece in batched(alike, _at_once(plan)):
                    rows.append(model.embed(torch.stack([z for _, z in piece]), piece[0][0].positions, groups))
            return torch.cat(rows)

        rows = torch.cat(list(in_threads(pooled, batched(pairs, CHECKPOINTS_AT_ONCE))))
        each = rows.shape[1] // len(groups)
        last = max(block for block, _ in groups)  # it has another number in deeper models, and the same name
        names = [f"{'tail' if block == last else block}.{ROLES[role]}/{i}" for block, role in groups for i in range(each)]
        return pd.DataFrame(rows.numpy(), columns=names)

    @torch.no_grad()
    def _by_window(self, model: nn.Module, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """Applies a function to (B T ...) window by window, on the model's device; where windows overlap, the later one counts."""
        device, total = next(model.parameters()).device, tensors[0].shape[1]
        starts, totals = window_starts(total, self.window), torch.full((len(tensors[0]),), total, device=device)
        pieces = []
        for start, following in pairwise([*starts, total]):
            window = (padded(tensor[:, start : start + self.window], self.window).to(device) for tensor in tensors)
            pieces.append(function(*window, totals)[..., : following - start, :].float().cpu())
        return torch.cat(pieces, dim=-2)


@lru_cache(16)
def _groups(tokenizer: Tokenizer, zoo: Zoo) -> tuple[tuple[int, int], ...]:
    """Returns the (block, role) that tokens of a zoo have, whatever the shape of the model."""
    return tuple(sorted({(group.block, ROLES.index(group.role)) for plan in plans_of(tokenizer, zoo) for group in plan.groups}))


def plans_of(tokenizer: Tokenizer, zoo: Zoo) -> Iterator[Plan]:
    """Yields the plan of each shape that fine-tuned models of a zoo have."""
    shapes = {shape_key(checkpoint): checkpoint for checkpoint in zoo.select(stage="finetune", final=True)}
    for checkpoint in shapes.values():
        yield tokenizer.plan(checkpoint.state_dict(), root=root_weights(zoo, checkpoint))


def _alike(tokens: Sequence[Tokens]) -> Iterator[list[int]]:
    """Yields numbers of checkpoints of one plan, as many at once as memory is meant for."""
    alike: dict[Plan, list[int]] = {}
    for n, one in enumerate(tokens):
        alike.setdefault(one.plan, []).append(n)
    for plan, every in alike.items():
        yield from batched(every, _at_once(plan))


def positions_of(every: Iterable[Tokens]) -> Int[Tensor, "B T P"]:
    """Returns the positions of tokens of some checkpoints of one plan."""
    return torch.stack([tokens.positions for tokens in every])


def rehearsal_of(values: Any) -> Rehearsal:
    """Returns a recipe of rehearsals. Raises `InputError` for values that are none."""
    known, given = {field.name for field in fields(Rehearsal)}, values if isinstance(values, Mapping) else {}
    if {*given} != known or not all(isinstance(value, int | float) for value in given.values()):
        raise InputError(f"rehearsal needs the numbers {', '.join(sorted(known))}, and nothing else")
    if not isinstance(given["steps"], int) or not isinstance(given["batch_size"], int):
        raise InputError(f"rehearsal.steps and batch_size are whole numbers, not {given['steps']} and {given['batch_size']}")
    return Rehearsal(**{str(key): value for key, value in given.items()})


def _at_once(plan: Plan) -> int:
    """Checkpoints of a plan that are worked on together: as many as memory is meant for."""
    return max(1, min(CHECKPOINTS_AT_ONCE, WEIGHTS_AT_ONCE // plan.n_weights))
