"""The benchmark of throughput: rivals of equal size and compression, errors of decoded weights, times to equal error."""

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wsl.train  # noqa: F401 (its settings, for `compose`)
from benchmarks import hyperrep_throughput
from benchmarks.hyperrep_throughput import OURS, RIVALS, Field
from benchmarks.padded_rows import RowsAutoencoder, masked_error
from benchmarks.race import Contestant, Holdout, Mark, gain, race
from tests.zoos import TINY, InThisProcess
from wsl.data.windows import Batch
from zoo_gen.config import compose
from zoo_gen.generate import generate

SETTINGS = ["model.width=32", "batch_size=2", "window=64", "warmup=5"]


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Field:
    """Six and three children of the SimCLR root of digits_mini."""
    config = compose("zoo_gen", ["zoo=digits_mini", *TINY])["zoo"]
    config["pretrain"]["members"] = config["pretrain"]["members"][2:]
    place = tmp_path_factory.mktemp("zoos") / "field"
    zoo = generate(place, config, name="field", seed=0, executor=InThisProcess())
    return Field(zoo, SETTINGS, train=6, val=3)


@pytest.fixture(scope="module")
def sides(field: Field) -> list[Contestant]:
    """Ours and both rivals, untrained."""
    return [field.ours("ours", rate=1e-3), *(field.rival(name, width=33, rate=1e-3) for name in RIVALS)]


def test_rivals_have_the_size_compression_and_batches_of_ours_or_more(sides: list[Contestant]) -> None:
    ours, *rivals = (side.about for side in sides)
    for rival in rivals:
        assert rival["weights"] == pytest.approx(ours["weights"], rel=0.1)
        assert 0.8 * ours["weights_per_number"] < rival["weights_per_number"] <= 1.025 * ours["weights_per_number"]
        assert rival["weights_per_step"] == pytest.approx(ours["weights_per_step"], rel=0.2)


class Returning(nn.Module):
    """A model that returns its input, times a factor."""

    def __init__(self, factor: float, width: int):
        super().__init__()
        self.factor, self.width = nn.Parameter(torch.tensor(factor)), width

    def encode(self, values: Tensor, *others: Tensor) -> Tensor:
        return values[..., : self.width]

    def decode(self, latents: Tensor, *others: Tensor) -> Tensor:
        return self.factor * latents


def returning(side: Contestant, factor: float) -> Returning:
    return Returning(factor, side.about["token_width"] + (side.name in OURS))


@pytest.mark.parametrize("number", range(3))
def test_a_perfect_decoder_has_no_error_and_one_that_decodes_means_an_error_of_about_one(
    sides: list[Contestant], number: int
) -> None:
    side = sides[number]
    errors = side.holdout.errors(returning(side, 1.0), side.inputs)
    assert max(errors.values()) < 1e-6
    blank = side.holdout.errors(returning(side, 0.0), side.inputs)
    assert 0.1 < blank["weights" if side.name == "rows" else "changes"] < 10


def test_errors_are_those_of_state_dicts(field: Field) -> None:
    side, (stored, root) = field.ours("ours", rate=1e-3), field.val[0]
    model = returning(side, 0.5)
    tokens, latents = next(side.inputs.latents(model, [(stored, root)]))
    (decoded,) = side.inputs.decode(model, [tokens], [latents], roots=[root])
    name = "blocks.1.mlp.fc1.weight"
    scales = field.holdout.scales["changes"]
    expected = (decoded[name] - stored[name]).square().sum() / scales[name][1] ** 2
    holdout = Holdout(field.train, field.val[:1])
    holdout.scales["changes"] = {key: (mean, deviation if key == name else 0.0) for key, (mean, deviation) in scales.items()}
    total = sum(weight.numel() for weight in stored.values())
    assert holdout.errors(model, side.inputs)["changes"] * total == pytest.approx(expected.item(), rel=1e-4)


def test_training_in_turns_lowers_the_error_of_all(sides: list[Contestant]) -> None:
    race(sides, seconds=1.0, turns=2)
    for side, measure in zip(sides, ("changes", "weights", "changes"), strict=True):
        assert side.course[-1].seconds >= 1
        assert side.best(measure) < side.course[0].errors[measure]


def test_an_initialization_from_train_checkpoints_is_ahead_of_one_at_random_and_its_preparation_counts(field: Field) -> None:
    fitted, at_random = (field.ours(name, rate=1e-3) for name in ("ours", "ours_random"))
    assert fitted.course[0].errors["changes"] < 0.8 * at_random.course[0].errors["changes"]
    assert fitted.about["weights_per_number"] == pytest.approx(at_random.about["weights_per_number"], rel=0.02)
    assert min(fitted.course[0].seconds, at_random.course[0].seconds) >= field.prepared.seconds > 0


def test_the_rival_does_not_read_what_is_no_weight() -> None:
    torch.manual_seed(0)
    model = RowsAutoencoder(token_width=5, latent=2, width=16, layers=20, places=9, heads=2, depth=1)
    positions = torch.stack([torch.ones(3, 7), torch.ones(3, 7), torch.arange(7.0).expand(3, 7)], dim=-1).long()
    mask = torch.ones(3, 7, 6, dtype=torch.bool)
    mask[:, :, 4] = False
    values = torch.randn(3, 7, 6) * mask
    batch = Batch(values, mask, positions, torch.zeros(3, 7, 0), torch.full((3,), 7), torch.zeros(3))
    loss = masked_error(model, batch)["loss"]
    values[..., -1] += 1  # the log-scale, which it does not have
    assert torch.equal(masked_error(model, batch)["loss"], loss)
    values[..., 0] += 1
    assert not torch.equal(masked_error(model, batch)["loss"], loss)


def course(*errors: float) -> Any:
    marks = [Mark(float(second), {"changes": error}) for second, error in enumerate(errors)]
    side = SimpleNamespace(course=marks)
    side.best = lambda measure: Contestant.best(side, measure)  # type: ignore[arg-type]
    side.reached = lambda error, measure: Contestant.reached(side, error, measure)  # type: ignore[arg-type]
    return side


def test_the_gain_is_the_ratio_of_times_to_the_least_error_that_both_reach() -> None:
    fast, slow = course(4, 2, 1, 0.5, 0.25), course(4, math.sqrt(8), 2, math.sqrt(2), 1)
    assert gain(fast, slow, "changes") == pytest.approx(2)
    assert gain(slow, fast, "changes") == pytest.approx(0.5)
    assert gain(fast, course(1.5, 1.2, 1.2), "changes") == pytest.approx(1 / (1 + math.log2(2 / 1.2)))
    assert gain(course(0.5, 0.4), slow, "changes") == pytest.approx(4)  # from the first mark on


def test_the_command_ends_with_a_line_of_json(tiny_zoo: Any, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"seconds": ".2", "scan": ".05", "turns": "2", "train": "4", "val": "2", "rates": "1e-3"}
    threads = torch.get_num_threads()
    hyperrep_throughput.main([str(tiny_zoo), *SETTINGS, *(f"--{name}={value}" for name, value in options.items())])
    torch.set_num_threads(threads)
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["ratio"].keys() == {"ours", "ours_random"}
    assert figures["ratio"]["ours"].keys() == {"rows", "rows_root"}
    assert figures["over_products"] > 1
    assert figures["rows"]["weights_per_second"] > 0
