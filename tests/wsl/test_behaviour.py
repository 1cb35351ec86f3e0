"""The behavioural objective runs decoded weights as timm would, and its gradient reaches the decoder."""

import dataclasses
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.commands import call
from tests.wsl.conftest import SMALL
from tests.zoos import known
from wsl.data.pairs import pairs_of
from wsl.data.sources import FileSource, scan
from wsl.data.standardizer import Standardizer
from wsl.data.windows import Batch, Windows
from wsl.run import Run
from wsl.tokenizers.fisher_basis import FisherBasis
from wsl.train import main
from wsl.training.objectives.behaviour import Behaviour
from wsl.training.objectives.objective import Objective
from wsl.training.objectives.total import Total
from zoo_gen import InputError


class Decoder(nn.Module):
    """A model whose output is what it is told."""

    def __init__(self, output: Tensor):
        super().__init__()
        self.output = nn.Parameter(output)
        self.runs = 0

    def forward(self, *inputs: Tensor) -> Tensor:
        self.runs += 1
        return self.output


@pytest.fixture(scope="module")
def sources(tiny_run: Run) -> list[FileSource]:
    finals = tiny_run.split.train.select(final=True)
    heads = [finals.select(head=head) for head in ("linear", "mlp")]
    return [source for some in heads for source in scan(islice(pairs_of(some), 2), tiny_run.tokenizer)]


def whole(run: Run, sources: Sequence[FileSource]) -> Batch:
    length = max(source.plan.n_tokens for source in sources)
    windows = Windows(sources, run.standardizer, length=length, seed=0, cache=0)
    return Batch(*map(torch.stack, zip(*(windows[n] for n in range(4)), strict=True)))


def test_exact_tokens_answer_as_the_original_and_others_do_not(tiny_run: Run, sources: list[FileSource]):
    objective = Behaviour(images=64)
    objective.prepare(tiny_run, sources)
    batch = whole(tiny_run, sources)
    assert sorted(batch.source.tolist()) == [0, 1, 2, 3]
    exact = objective(Decoder(batch.values), batch)
    assert exact["loss"].item() < 1e-5
    assert exact["agreement"].item() > 0.98
    wrong = Decoder(torch.zeros_like(batch.values))
    found = objective(wrong, batch)
    assert found["loss"].item() > 100 * exact["loss"].item()
    found["loss"].backward()
    assert wrong.output.grad is not None
    reached = wrong.output.grad.abs().sum(-1) > 0
    real = batch.positions[..., 0] >= 0
    assert float(reached[real].float().mean()) > 0.95
    assert not reached[~real].any()


def test_images_are_drawn_alike_whether_or_not_models_have_been_run_before(tiny_run: Run, sources: list[FileSource]):
    objective = Behaviour(images=4)
    objective.prepare(tiny_run, sources)
    batch, after = whole(tiny_run, sources), []
    for _ in range(2):
        torch.manual_seed(0)
        objective(Decoder(batch.values), batch)
        after.append(torch.rand(3))
    assert torch.equal(*after)
    objective(Decoder(batch.values), batch)
    assert not torch.equal(torch.rand(3), after[0])  # images are drawn


def test_decoded_weights_are_those_of_the_tokenizer(tiny_run: Run, sources: list[FileSource]):
    objective = Behaviour(images=1)
    objective.prepare(tiny_run, sources)
    for number, source in enumerate(sources):
        root = known(source.root).state_dict()
        tokens = tiny_run.tokenizer.encode(source.checkpoint.state_dict(), root=root)
        runner = objective.runner_of(objective.architectures[number], source.plan)
        values = torch.randn(tokens.values.shape, generator=torch.Generator().manual_seed(0))
        expected = tiny_run.tokenizer.decode(tokens.with_values(values), root=root)
        found = runner.decoded(values, objective.root_weights(number), objective.turn_of(number))
        torch.testing.assert_close(found, runner.flat(expected))
        assert not torch.allclose(found, runner.flat(source.checkpoint.state_dict()))


def test_decoded_weights_are_turned_out_of_the_basis_of_the_root(tiny_run: Run, sources: list[FileSource]):
    tokenizer = FisherBasis(width=64, images=16, seed=0)
    tokenizer.prepare(known(source.root) for source in sources)
    turned = scan([(source.checkpoint, source.root) for source in sources], tokenizer)
    inputs = dataclasses.replace(tiny_run.inputs.tokens, tokenizer=tokenizer)
    run = Run(tiny_run.path, tiny_run.config, tiny_run.model, inputs)
    objective = Behaviour(images=1)
    objective.prepare(run, turned)
    for number, source in enumerate(turned):
        weights, root = source.checkpoint.state_dict(), known(source.root).state_dict()
        runner = objective.runner_of(objective.architectures[number], source.plan)
        values = tokenizer.encode(weights, root=root).values.requires_grad_()
        found = runner.decoded(values, objective.root_weights(number), objective.turn_of(number))
        torch.testing.assert_close(found, runner.flat(weights), atol=1e-5, rtol=1e-4)
        assert not torch.allclose(runner.decoded(values, objective.root_weights(number), dict), runner.flat(weights), atol=1e-3)
        found.square().sum().backward()
        assert values.grad is not None
        assert values.grad[source.plan.mask].ne(0).float().mean() > 0.9


def test_exact_weights_have_no_loss_on_training_images_and_others_have(tiny_run: Run, sources: list[FileSource]):
    objective = Behaviour(images=5)
    objective.prepare(tiny_run, sources)
    batch = whole(tiny_run, sources)
    assert objective(Decoder(batch.values), batch)["loss"].item() < 1e-4
    assert objective(Decoder(torch.zeros_like(batch.values)), batch)["loss"].item() > 1e-4


def test_a_sum_weighs_its_terms_and_runs_the_model_once(tiny_run: Run, sources: list[FileSource]):
    class Term(Objective):
        def __init__(self, value: float):
            self.value = value

        def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
            model(*batch.inputs)
            return {"loss": torch.tensor(self.value), "other": torch.tensor(7.0)}

    batch = whole(tiny_run, sources)
    decoder = Decoder(batch.values)
    found = Total(terms={"a": Term(1.0), "b": Term(2.0)}, weights={"a": 0.5, "b": 3.0})(decoder, batch)
    assert found["loss"].item() == 6.5
    assert (float(found["a"]), float(found["b"]), float(found["other"])) == (1.0, 2.0, 7.0)
    assert decoder.runs == 1
    with pytest.raises(InputError, match="same names"):
        Total(terms={"a": Term(1.0)}, weights={})


def test_windows_of_half_a_model_are_refused(tiny_run: Run, sources: list[FileSource]):
    objective = Behaviour(images=1)
    objective.prepare(tiny_run, sources)
    windows = Windows(sources, tiny_run.standardizer, length=20, seed=0, cache=0)
    batch = Batch(*(tensor[None] for tensor in windows[0]))
    with pytest.raises(InputError, match="set window to at least"):
        objective(Decoder(batch.values), batch)


def test_a_run_trains_on_behaviour(tiny_zoo: Path, tmp_path: Path):
    run = tmp_path / "run"
    call(main, *SMALL, "objective=behaviour", "window=448", "batch_size=2", "steps=2", f"zoo={tiny_zoo}", f"run={run}")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3  # two steps, a validation
    assert all('"behaviour"' in line and '"agreement"' in line for line in lines)
    assert isinstance(Run.open(run).standardizer, Standardizer)
