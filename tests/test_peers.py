"""The benchmark beside the peers: rows, equal numbers, what the peers see, and the parts of what they learn by."""

import contextlib
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import peers, race
from benchmarks.contrast import PERMUTATIONS, WAYS, Contrast, nt_xent, permuted_places, squared_error
from benchmarks.peers import Match, training_of
from benchmarks.race import Contestant
from tests.wsl.conftest import features, tiny_encoder, tiny_run
from wsl.data import sources
from wsl.data.sources import scan
from wsl.run import Run
from wsl.tokenizers.rows import Rows
from zoo_gen import Checkpoint, InputError, Zoo

__all__ = ["features", "tiny_encoder", "tiny_run"]

RIVALS = ("sane", "weightclip")


@dataclass
class Outcome:
    """What the command wrote to its file and to stdout."""

    written: dict[str, Any]
    last_line: dict[str, Any]

    def row(self, name: str) -> dict[str, Any]:
        return next(row for row in self.written["rows"] if row["row"] == name)


@pytest.fixture(scope="module")
def fewer_settings() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(race, "ROW_PARTS", (1,))
        patch.setattr(peers, "SHARES", (0.1,))
        yield


@pytest.fixture(scope="module")
def outcome(tiny_run: Run, fewer_settings: None, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    out, threads, stdout = tmp_path_factory.mktemp("peers") / "peers.json", torch.get_num_threads(), io.StringIO()
    with contextlib.redirect_stdout(stdout):
        peers.main([str(tiny_run.path), "--seconds=1", "--turns=1", "--val=2", "--rates", "3e-3", f"--out={out}"])
    torch.set_num_threads(threads)
    return Outcome(json.loads(out.read_text()), json.loads(stdout.getvalue().splitlines()[-1]))


@pytest.fixture(scope="module")
def match(tiny_run: Run) -> Match:
    return Match(tiny_run, val=2)


def rival_of(match: Match, name: str, **changes: float) -> Contestant:
    settings: dict[str, Any] = {"width": match.widest, "share": 0.1, "rate": 3e-3, "seconds": 1.0, **changes}
    return match.rival(name, **settings)


def one_step(rival: Contestant) -> None:
    rival.train(until=rival.seconds + 1e-9)


def test_the_last_line_is_the_json_that_the_file_has(outcome: Outcome) -> None:
    assert outcome.last_line == outcome.written
    assert outcome.written["seconds"] == 1


def test_there_is_a_row_of_the_run_each_peer_and_the_statistics(outcome: Outcome) -> None:
    assert [row["row"] for row in outcome.written["rows"]] == ["hyperrep", *RIVALS, "statistics"]
    for name in ("hyperrep", *RIVALS):
        row = outcome.row(name)
        assert row["errors"].keys() == {"changes", "weights"}
        assert min(row["numbers"], row["weights"], row["weights_per_second"], *row["errors"].values()) > 0
        assert row["accuracy_retained"] is None or math.isfinite(row["accuracy_retained"])


def test_all_rows_are_probed_for_the_same_targets_and_differences_are_those_of_the_scores(outcome: Outcome) -> None:
    rows = [{(one["target"], one["checkpoints"]): one for one in row["probes"]} for row in outcome.written["rows"]]
    wanted = {(target, some) for target in ("test_accuracy", "test_loss") for some in ("all", "final")} | {("epoch", "all")}
    own = rows[0]
    for found in rows:
        assert found.keys() == wanted
    for found in rows[1:]:
        for key, one in found.items():
            assert one["difference"] == pytest.approx(own[key]["score"] - one["score"])
            assert one["difference_low"] <= one["difference_high"]


def test_the_decoders_of_peers_get_as_many_numbers_or_a_few_more(outcome: Outcome) -> None:
    ours = outcome.row("hyperrep")["numbers"]
    for name in RIVALS:
        row = outcome.row(name)
        assert row["numbers"] >= 0.98 * ours
        assert row["numbers"] * (row["latent"] - 1) / row["latent"] < 0.98 * ours


def test_wider_latents_have_more_numbers(tiny_run: Run, match: Match) -> None:
    generous = Match(tiny_run, val=2, latent=40)
    numbers = [of.numbers(of.run_of(rival_of(of, "sane")), of.sources(of.widest)[1]) for of in (match, generous)]
    assert rival_of(generous, "sane").about["latent"] == 40
    assert numbers[1] > 2 * numbers[0]


def test_latents_as_wide_as_a_token_and_its_scale_are_decoded(tiny_run: Run, match: Match) -> None:
    alike = Match(tiny_run, val=2, latent=match.widest + 1)
    assert math.isfinite(rival_of(alike, "sane").course[0].errors["weights"])


@pytest.mark.parametrize("name", RIVALS)
def test_peers_in_training_read_no_test_model(name: str, tiny_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    read, state_dict, mapped = set[Path](), Checkpoint.state_dict, sources.tensors_in

    def recorded(checkpoint: Checkpoint) -> Any:
        read.add(checkpoint.path.resolve())
        return state_dict(checkpoint)

    def recorded_file(path: Path) -> Any:
        read.add(path.resolve())
        return mapped(path)

    monkeypatch.setattr(Checkpoint, "state_dict", recorded)
    monkeypatch.setattr(sources, "tensors_in", recorded_file)
    run = Run.open(tiny_run.path)
    one_step(rival_of(Match(run, val=2), name))
    of_train, of_test = ({one.path.resolve() for one in part} for part in (run.split.train, run.split.test))
    assert read >= of_train
    assert not read & of_test


@pytest.mark.parametrize("name", RIVALS)
def test_a_training_lowers_the_error(name: str, match: Match) -> None:
    rival = rival_of(match, name, rate=1e-2)
    before = rival.course[0].errors["weights"]
    rival.train(until=1.0)
    assert rival.course[-1].errors["weights"] < before
    assert rival.weights > 0


def test_windows_are_parts_of_models_for_sane_and_whole_models_for_weightclip(match: Match) -> None:
    batch = next(rival_of(match, "sane").batches)
    longest = batch.values.shape[1]
    lengths = {name: rival_of(match, name).inputs.window for name in RIVALS}
    assert lengths["sane"] <= longest / 2 + 1
    assert lengths["weightclip"] == longest


@pytest.mark.parametrize("name", RIVALS)
def test_views_differ_by_what_the_peer_does_and_padding_stays(name: str, match: Match) -> None:
    rival = rival_of(match, name)
    objective = rival.objective
    assert isinstance(objective, Contrast)
    (first, mask, _), (second, other_mask, _) = objective.views(next(rival.batches))
    assert torch.equal(mask, other_mask)
    assert not torch.equal(first, second)
    for view in (first, second):
        assert not view[..., :-1][~mask[..., :-1]].any()
    if WAYS[name].noise == 0:  # numbers change places, and nothing else
        assert torch.equal(first.flatten(1).sort().values, second.flatten(1).sort().values)


def test_permuted_tokens_are_those_of_a_model_of_the_same_function(tiny_zoo: Path) -> None:
    tokenizer, chosen = Rows(width=33, reference="none"), Zoo.open(tiny_zoo).select(stage="finetune", final=True)[0]
    (source,) = scan([(chosen, None)], tokenizer)
    tokens = tokenizer.encode(chosen.state_dict())
    places = permuted_places(source, PERMUTATIONS, rng=torch.Generator().manual_seed(0))
    model, images = chosen.build(), torch.randn(4, 1, 8, 8)
    expected = model(images)
    for one in places:
        values = tokens.values.flatten()[one].view(tokens.values.shape)
        assert not torch.equal(values, tokens.values)
        model.load_state_dict(tokenizer.decode(tokens.with_values(values)))
        assert torch.allclose(model(images), expected, atol=1e-4)
    model.load_state_dict(tokenizer.decode(tokens.with_values(tokens.values.roll(1, 0) * tokens.mask)))
    assert not torch.allclose(model(images), expected, atol=1e-4)


def test_the_contrast_is_the_one_made_by_hand() -> None:
    views = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    assert nt_xent(views, views, temperature=1.0).item() == pytest.approx(-math.log(math.e / (math.e + 2)))
    crossed = nt_xent(views, views.flip(0), temperature=1.0).item()
    assert crossed == pytest.approx(-math.log(1 / (math.e + 2)))
    assert nt_xent(views, views, temperature=0.5).item() == pytest.approx(-math.log(math.e**2 / (math.e**2 + 2)))


def test_errors_are_over_weights_or_in_deviations_of_coordinates() -> None:
    values = torch.tensor([[[1.0, 10.0, 0.0], [-1.0, 30.0, 0.0], [0.0, 99.0, 0.0]]])
    mask = torch.tensor([[[True, True, True], [True, True, True], [False, False, True]]])
    decoded = values[..., :-1] + torch.tensor([[[1.0, 2.0], [0.0, 0.0], [7.0, 7.0]]])
    assert squared_error(decoded, values, mask, by_coordinate=False).item() == pytest.approx((1 + 4) / 4)
    assert squared_error(decoded, values, mask, by_coordinate=True).item() == pytest.approx((1 / 1 + 4 / 100) / 4)


@pytest.mark.parametrize(("done", "share"), [(0.0, 1 / 25), (0.3, 1.0), (0.65, 0.5), (1.0, 0.0)])
def test_rates_of_peers_go_up_and_down_once(done: float, share: float, match: Match) -> None:
    rival = rival_of(match, "weightclip", rate=1e-2)
    rival.seconds = done
    one_step(rival)
    assert rival.optimizer.param_groups[0]["lr"] == pytest.approx(1e-2 * share, abs=1e-6)


def test_the_seconds_of_a_training_are_those_of_all_its_processes(tiny_run: Run, tmp_path: Path) -> None:
    def seconds(*times: float | None) -> float | None:
        events = [{"event": "train", "step": n} | ({} if time is None else {"cpu_time": time}) for n, time in enumerate(times)]
        (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))
        return training_of(Run(tmp_path, tiny_run.config, tiny_run.model, tiny_run.inputs))["seconds"]

    assert seconds(1.0, 2.5, 4.0) == 4.0
    assert seconds(1.0, 2.5, 1.5, 3.0) == 5.5
    assert seconds(None, None) is None
    assert seconds() is None


def test_a_training_tells_its_cpu_seconds(tiny_run: Run) -> None:
    told = training_of(tiny_run)
    assert told["seconds"] is not None
    assert told["seconds"] > 0


def test_a_run_that_reads_no_tokens_is_refused(tiny_encoder: Run) -> None:
    with pytest.raises(InputError, match="token"):
        Match(tiny_encoder, val=2)
