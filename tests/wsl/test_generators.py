from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.zoos import known
from wsl.generators.copy_model import CopyModel
from wsl.generators.dirichlet import Dirichlet
from wsl.generators.evaluation import Bench
from wsl.generators.family import Family, Generator, anchor_rule, flatten
from wsl.generators.fitted_head import FittedHead
from wsl.generators.kde import KDE
from wsl.generators.random_init import NewHead, RandomInit
from wsl.generators.soup import UniformSoup
from wsl.generators.weight_gaussian import WeightGaussian
from zoo_gen.architecture import architecture, initialize, with_head
from zoo_gen.config import CONFIGS, instantiate
from zoo_gen.errors import InputError
from zoo_gen.evaluate import logits
from zoo_gen.images import Images, ImageSplit

CARDS = sorted((CONFIGS / "generator").glob("*.yaml"))
SIZES = {"patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2, "mlp_ratio": 2}
BACKBONE = architecture(timm_name="vit_tiny_patch16_224", model_args=SIZES, in_chans=1, img_size=8, mean=[0.5], std=[0.5])
LATENT = 4


def make_family(root: str, head: str, *, models: int, seed: int) -> Family:
    """Train models that differ from their root by noise; their latents are their weights, so decoding is exact."""
    described = with_head(BACKBONE, head, 5)
    root_state = initialize(BACKBONE, seed)
    states = []
    for i in range(models):
        fresh = initialize(described, seed + 1 + i)
        moved = {
            name: tensor + 0.3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(i))
            for name, tensor in fresh.items()
        }
        states.append(moved)
    weights = np.stack([flatten(state) for state in states])
    size = weights.shape[1]
    latents = np.pad(weights, [(0, 0), (0, -size % LATENT)]).reshape(models, -1, LATENT)
    family = Family(
        root=root,
        head=head,
        architecture=described,
        root_state=root_state,
        states=states,
        val_accuracy=np.linspace(0, 1, models),
        latents=latents,
        decode=lambda latents: [family.unflatten(one.reshape(-1)[:size]) for one in latents],
        pixels=torch.randn(50, 1, 8, 8, generator=torch.Generator().manual_seed(seed)),
        labels=torch.arange(50) % 5,
    )
    return family


@pytest.fixture(scope="module")
def families() -> list[Family]:
    return [
        make_family("a", "linear", models=6, seed=0),
        make_family("b", "mlp", models=4, seed=100),
        make_family("c", "linear", models=5, seed=200),
    ]


@pytest.fixture(scope="module")
def bench(families) -> Bench:
    def split(count: int, seed: int) -> ImageSplit:
        pixels = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
        return ImageSplit(pixels, torch.arange(count) % 5)

    return Bench(families, Images(split(10, 0), split(100, 1), split(500, 2), 5), seed=0)


def sample(generator: Generator, families, n: int = 24, seed: int = 0):
    return generator.fit(families).sample(n, np.random.default_rng(seed))


def measure(generator: Generator, bench: Bench, n: int = 24):
    return judge(bench, sample(generator, bench.families, n))


def judge(bench: Bench, samples):
    return bench.measure("tested", {}, bench.score(samples))


def load(card) -> Generator:
    from omegaconf import OmegaConf

    return instantiate(OmegaConf.to_container(OmegaConf.load(card)))


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)
def test_every_card_samples_models_of_a_family_reproducibly(card, families):
    generator = load(card)
    assert isinstance(generator, Generator)
    assert generator.fit(families) is generator
    first, again = sample(generator, families), sample(generator, families)
    assert len(first) == 24 or card.stem == "soup"
    for (family, state), (same_family, same_state) in zip(first, again, strict=True):
        assert family is same_family
        assert {name: tensor.shape for name, tensor in state.items()} == {n: t.shape for n, t in family.states[0].items()}
        assert all(torch.equal(tensor, same_state[name]) for name, tensor in state.items())


@pytest.mark.parametrize("card", [card for card in CARDS if card.stem != "soup"], ids=lambda card: card.stem)
def test_other_seeds_give_other_models(card, families):
    first, second = (sample(load(card), families, seed=seed) for seed in (0, 1))
    assert any(
        one is not other or not np.array_equal(flatten(a), flatten(b)) for (one, a), (other, b) in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)
def test_every_card_leaves_the_train_models_as_they_were(card):
    family = make_family("a", "linear", models=3, seed=0)
    before = family.weights.copy(), family.latents.copy()
    sample(load(card), [family, make_family("b", "linear", models=3, seed=100)])
    assert np.array_equal(np.stack([flatten(state) for state in family.states]), before[0])
    assert np.array_equal(family.latents, before[1])


def test_weights_flattened_and_unflattened_are_the_same_to_the_bit(families):
    for family in families:
        back = family.unflatten(family.weights[1])
        assert all(torch.equal(back[name], tensor) for name, tensor in family.states[1].items())


def test_anchors_are_chosen_by_val_accuracy(families):
    assert families[0].anchors(2).tolist() == [5, 4]
    assert sorted(families[0].anchors(None)) == list(range(6))
    assert anchor_rule(families, 2) == "the 2 train models of each family with the best val accuracy"


def test_anchors_are_spread_evenly_where_no_val_accuracy_is_known(families):
    first, *others = families
    bare = replace(first, val_accuracy=np.full(6, np.nan))
    assert [bare.anchors(k).tolist() for k in (1, 2, 4, 6, 9)] == [[0], [0, 5], [0, 2, 3, 5], [*range(6)], [*range(6)]]
    assert sorted(bare.anchors(None)) == list(range(6))
    assert anchor_rule([bare], 4) == "4 train models spread evenly over each family, as no val accuracy is known"
    assert "spread evenly over 1 of " in anchor_rule([bare, *others, first], 4)
    one_is_known = replace(first, val_accuracy=np.array([np.nan, np.nan, 0.5, np.nan, np.nan, np.nan]))
    assert one_is_known.anchors(2).tolist() == [2, 0]


def test_a_copier_copies_and_is_flagged_and_train_models_against_each_other_are_not(bench):
    row = measure(CopyModel(noise=0, anchors=None, root="own"), bench)
    assert row["novelty"] == 0
    assert "copied" in row["flags"]
    assert bench.measure_train()["flags"] == []
    assert bench.measure_train()["novelty_by_space"] == pytest.approx({"weights": 1, "behaviour": 1}, rel=0.3)


def test_a_copy_with_tiny_noise_is_flagged_and_noise_raises_the_novelty(bench):
    tiny, large = (measure(CopyModel(noise=noise, anchors=None, root="own"), bench) for noise in (0.01, 2.0))
    assert tiny["novelty_by_space"]["weights"] > 0
    assert "copied" in tiny["flags"]
    assert large["novelty"] > 1
    assert large["flags"] == []


def test_a_kde_without_bandwidth_gives_the_anchors_themselves_and_is_flagged(bench):
    train = {flatten(state).tobytes() for family in bench.families for state in family.states}
    samples = sample(KDE(bandwidth=0, anchors=None), bench.families)
    assert all(flatten(state).tobytes() in train for _, state in samples)
    assert "copied" in measure(KDE(bandwidth=0, anchors=None), bench)["flags"]


def test_a_kde_widens_the_spread_of_its_anchors_by_the_bandwidth(families):
    family = families[0]
    sampled = np.stack([flatten(state) for _, state in sample(KDE(bandwidth=0.5, anchors=None), [family], n=3000)])
    spread = family.weights.var(axis=0)
    assert sampled.var(axis=0).sum() / spread.sum() == pytest.approx(1 + 0.5**2, rel=0.05)


def test_a_soup_is_the_mean_and_a_gaussian_without_spread_is_the_soup(families):
    souped, still = (
        sample(UniformSoup(anchors=None), families),
        sample(WeightGaussian(spread=0, anchors=None), families),
    )
    assert [family for family, _ in souped] == families
    for family, state in souped:
        assert np.allclose(flatten(state), family.weights.mean(axis=0))
    assert all(np.allclose(flatten(state), family.weights.mean(axis=0), atol=1e-6) for family, state in still)


def test_a_gaussian_has_the_mean_and_the_spread_of_the_train_models(families):
    family = families[0]
    sampled = np.stack([flatten(state) for _, state in sample(WeightGaussian(spread=1, anchors=None), [family], n=3000)])
    assert sampled.var(axis=0).sum() / family.weights.var(axis=0, ddof=1).sum() == pytest.approx(1, rel=0.05)


def test_random_models_are_near_chance_and_no_copies(bench):
    row = measure(RandomInit(), bench, n=100)
    assert row["accuracy"]["median"] == pytest.approx(0.2, abs=0.06)
    assert row["novelty_by_space"]["weights"] > 0.5


def test_a_new_head_keeps_the_root_and_replaces_the_head(families):
    heads = set()
    for family, state in sample(NewHead(), families):
        for name, tensor in state.items():
            if name.startswith("head."):
                heads.add(tensor.numpy().tobytes()) if tensor.any() else None
            else:
                assert torch.equal(tensor, known(family.root_state)[name])
    assert len(heads) >= 24


def test_a_fitted_head_keeps_the_root_and_knows_the_labels_that_it_was_fitted_on(families):
    family = replace(families[0], labels=(families[0].pixels.mean(dim=(1, 2, 3)) > 0).long())
    fitted, scores = FittedHead(penalty=1e-4, images=500), []
    for (_, state), (_, plain) in zip(sample(fitted, [family]), sample(NewHead(), [family]), strict=True):
        right = [
            float((logits(family.architecture, [each], known(family.pixels)).argmax(-1)[0] == family.labels).float().mean())
            for each in (state, plain)
        ]
        scores.append(right)
        body = [name for name in state if not name.startswith("head.")]
        assert all(torch.equal(state[name], known(family.root_state)[name]) for name in body)
    with_labels, without = np.mean(scores, axis=0)
    assert with_labels > 0.55
    assert without < 0.4
    assert fitted.gradient_evaluations >= 24


def test_a_head_is_not_fitted_without_labels(families):
    with pytest.raises(InputError, match="labelled train images"):
        sample(FittedHead(penalty=1, images=500), [replace(families[0], labels=None)])


def test_random_soups_lie_between_their_anchors_and_noise_takes_them_away(families):
    family = families[0]
    ends = family.weights[family.anchors(2)]
    line = (ends[1] - ends[0]) / np.linalg.norm(ends[1] - ends[0])

    def off_the_line(noise: float) -> list[float]:
        drawn = sample(Dirichlet(concentration=1, noise=noise, anchors=2), [family])
        apart = [flatten(state) - ends[0] for _, state in drawn]
        return [float(np.linalg.norm(one - (one @ line) * line)) for one in apart]

    assert max(off_the_line(0)) < 1e-3
    assert min(off_the_line(0.2)) > 0.1


def test_copies_of_another_root_are_of_its_models_in_families_of_that_shape_alone(families):
    samples = sample(CopyModel(noise=0, anchors=None, root="other"), families)
    assert {family.name for family, _ in samples} == {"a/linear", "c/linear"}  # no other root has an MLP head
    theirs = {"a/linear": families[2], "c/linear": families[0]}
    for family, state in samples:
        assert any(np.array_equal(flatten(state), row) for row in theirs[family.name].weights)
    with pytest.raises(InputError, match="no two roots"):
        sample(CopyModel(noise=0, anchors=None, root="other"), families[:2])
    with pytest.raises(InputError, match="own or other"):
        CopyModel(noise=0, anchors=None, root="any")


def test_families_are_drawn_in_proportion_to_their_train_models(families):
    drawn = [family.name for family, _ in sample(CopyModel(noise=0, anchors=None, root="own"), families, n=2000)]
    assert drawn.count("a/linear") / 2000 == pytest.approx(0.4, abs=0.05)


def test_the_nearest_train_models_of_copies_are_the_copied_ones(bench):
    samples = sample(CopyModel(noise=0.001, anchors=None, root="own"), bench.families)
    nearest = bench.measure_nearest("kde", bench.score(samples))
    copied = judge(bench, samples)
    assert nearest["novelty"] == 0
    assert nearest["accuracy"] == pytest.approx(copied["accuracy"], abs=0.01)


def test_a_row_reports_every_sample_and_its_quartiles(bench):
    row = measure(KDE(bandwidth=1, anchors=None), bench)
    each = row["samples"]
    assert row["n"] == len(each["accuracy"]) == len(each["novelty"]) == len(each["family"]) == 24
    assert row["accuracy"]["median"] == np.median(each["accuracy"])
    assert row["novelty"] == np.median(each["novelty"])
    assert row["aligned"] is True


@pytest.mark.parametrize("n", [0, -3])
def test_no_models_cannot_be_sampled(n, families):
    with pytest.raises(InputError, match=f"n={n} models"):
        sample(KDE(bandwidth=1, anchors=None), families, n=n)
