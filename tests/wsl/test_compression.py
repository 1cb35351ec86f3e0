"""The benchmark of compression: exact decoding retains all, random weights retain nothing, collapse is seen; refinement helps."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.wsl.conftest import train_small
from tests.zoos import known
from wsl.analyses.compression import DecodedFamily, compress, measure, paired
from wsl.compression import main
from wsl.reporting.benchmark_tables import compression_table
from wsl.run import Run
from wsl.training.latent_optimization import LatentRefinement
from zoo_gen import InputError
from zoo_gen.evaluate import logits

QUICK = LatentRefinement(steps=8, learning_rate=0.05, images=32, batch_size=4)


def family(seed: int, *, keep: float, collapse: bool = False) -> DecodedFamily:
    """Five models that are right about most images, and what is left of them: the fraction `keep` of their predictions."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, 400)
    before = np.where(rng.random((5, 400)) < 0.8, labels, rng.integers(0, 5, (5, 400)))
    after = np.where(rng.random((5, 400)) < keep, before, rng.integers(0, 5, (5, 400)))
    weights = rng.normal(size=(5, 30))
    decoded = weights.mean(0) + (0.0 if collapse else 1.0) * (weights - weights.mean(0))
    return DecodedFamily(str(seed), (weights, decoded), (before, after[:1].repeat(5, 0) if collapse else after), labels, 0.2)


def test_exact_decoding_retains_all_and_random_predictions_nothing():
    exact = measure([family(0, keep=1.0), family(1, keep=1.0)])
    assert (exact["accuracy_retained"], exact["diversity_weights"], exact["diversity_behaviour"]) == pytest.approx((1, 1, 1))
    assert exact["models"] == exact["judged"] == 10
    nothing = measure([family(0, keep=0.0)])
    assert abs(nothing["accuracy_retained"]) < 0.1
    half = measure([family(seed, keep=0.5) for seed in range(5)])
    assert half["accuracy_retained"] == pytest.approx(0.5, abs=0.05)


def test_collapse_to_one_model_is_seen_though_accuracy_is_retained():
    found = measure([family(0, keep=1.0, collapse=True)])
    assert found["accuracy_retained"] > 0.9
    assert found["diversity_weights"] == pytest.approx(0, abs=1e-6)
    assert found["diversity_behaviour"] == 0


def test_differences_to_the_linear_code_are_paired_and_their_intervals_are_over_roots():
    rng = np.random.default_rng(0)
    other, roots = rng.random(40), [f"root {n}" for n in range(10) for _ in range(4)]
    mean, low, high = known(paired((other + 0.1).tolist(), other.tolist(), roots))
    assert (mean, low, high) == pytest.approx((0.1, 0.1, 0.1))
    shared = np.repeat(rng.normal(size=10), 4)  # of all models of a root
    mean, low, high = known(paired((other + shared).tolist(), other.tolist(), roots))
    assert mean == pytest.approx(shared.mean())
    assert high - low > 2 * 1.96 * shared.std() / 40**0.5  # as of 40 models on their own
    assert paired([], [], []) is None


def test_models_at_chance_are_counted_and_not_judged():
    bad = family(0, keep=1.0)
    wrong = np.tile((bad.labels + 1) % 5, (5, 1))
    bad = DecodedFamily(None, bad.weights, (wrong, wrong), bad.labels, 0.2)
    both = measure([bad, family(1, keep=1.0)])
    assert (both["models"], both["judged"], both["accuracy_retained"]) == (10, 5, 1)
    alone = measure([bad])
    assert alone["accuracy_retained"] is None
    row = {**alone, "run": "a", "model": "hyperrep", "behaviour": False, "refined": False, "compression_ratio": 4.0}
    assert "–" in compression_table([row])


def test_models_of_refined_latents_predict_more_like_the_originals_and_latents_stay_as_many(tiny_run: Run):
    finals = list(tiny_run.split.test.select(final=True, learning_rate=3e-3))[:4]
    tokens, exact = zip(*tiny_run.latents(finals), strict=True)
    latents = [torch.cat([one[:, :-1] / 2, one[:, -1:]], dim=1) for one in exact]  # the exact ones leave little to refine
    refined = QUICK(tiny_run, finals, latents)
    pixels = tiny_run.zoo.images("finetune").train.pixels

    def divergence(latents) -> float:
        total = 0.0
        for checkpoint, own, latent in zip(finals, tokens, latents, strict=True):
            decoded = tiny_run.decode(own, latent, root=known(tiny_run.zoo.root(checkpoint)).state_dict())
            both = logits(checkpoint.architecture, [checkpoint.state_dict(), decoded], pixels).log_softmax(-1)
            total += float((both[0].exp() * (both[0] - both[1])).sum(-1).mean())
        return total

    assert [one.shape for one in refined] == [one.shape for one in latents]
    assert divergence(refined) < 0.9 * divergence(latents)
    elsewhere = [one + 0.05 * torch.randn(one.shape, generator=torch.Generator().manual_seed(0)).sign() for one in latents]
    assert divergence(elsewhere) > divergence(refined)
    with pytest.raises(InputError, match="refinement"):
        LatentRefinement(steps=0, learning_rate=0.1, images=1, batch_size=1)


def test_a_run_reopens_with_its_allocation_and_keeps_more_of_its_models_at_a_lower_ratio(tiny_zoo: Path, tmp_path: Path):
    settings = ("tokenizer=fisher_basis", "tokenizer.images=16", "window=448", "steps=2", "warmup=1")
    rows = {}
    for ratio in (2, 32):
        run = train_small(tiny_zoo, tmp_path / f"at_{ratio}", f"model.compression_ratio={ratio}", *settings)
        rows[ratio] = compress(run)
        assert ratio <= rows[ratio]["compression_ratio"] < 1.1 * ratio
        assert json.dumps(rows[ratio])
    assert rows[2]["accuracy_decoded"] == pytest.approx(rows[2]["accuracy"], abs=0.05)
    assert rows[2]["diversity_weights"] > rows[32]["diversity_weights"]
    assert rows[2]["diversity_weights"] == pytest.approx(1, abs=0.1)


def test_the_command_writes_rows_and_a_table_and_measures_a_run_once(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("wsl.compression.REFINEMENT", QUICK)
    out = tmp_path / "rows.json"
    folder = tmp_path / "run"
    folder.mkdir()
    for path in tiny_run.path.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    main([str(folder), str(tmp_path), "--out", str(out)])
    rows = json.loads(out.read_text())
    assert [(row["model"], row["refined"]) for row in rows] == [("linear_code", False), ("hyperrep", False), ("hyperrep", True)]
    assert [row["compression_ratio"] for row in rows] == pytest.approx([4] * 3, rel=0.01)  # of the tiny run
    assert out.with_suffix(".md").read_text() == compression_table(rows)
    monkeypatch.setattr("wsl.analyses.compression.compress", None)
    main([str(folder), "--out", str(out)])
    assert json.loads(out.read_text()) == rows
    with pytest.raises(SystemExit):
        main([str(tmp_path / "nothing"), "--out", str(out)])
    assert "no finished run" in capsys.readouterr().err
