"""Costs of symmetries, in CPU seconds of one thread: a random view against a training step, a canonical form, all-pairs distances.

python -m benchmarks.symmetry ZOO: the last line is JSON. Bars: a view of 16 checkpoints costs a tenth of a training step of the
default hyper-representation on them, at most; ViT-S at most 10 s; 250 digits models at most a minute.
"""

import sys
from itertools import cycle, islice
from pathlib import Path

import timm
import torch
from torch.nn import functional

import wsl.train  # noqa: F401 (its settings, for `compose`)
from benchmarks.measure import last_line, seconds
from wsl.generators.novelty import euclidean
from wsl.layout import layout_of
from wsl.symmetry.alignment import aligned_vectors
from wsl.symmetry.canonical import canonicalize
from wsl.symmetry.group import MAPPED, PERMUTED, random_view
from wsl.symmetry.stacks import stack
from wsl.tokenizers.residual import Residual
from zoo_gen import Zoo
from zoo_gen.config import compose, instantiate

CHECKPOINTS, PAIRED = 16, 250
"""Checkpoints of a view and of a training step, and models whose distances are taken."""


def main() -> None:
    """Prints the costs."""
    torch.set_num_threads(1)
    zoo, config = Zoo.open(Path(sys.argv[1])), compose("train", ["window=448"])
    chosen = list(zoo.select(stage="finetune", final=True, status="ok", head="linear"))
    layout = layout_of(chosen[0].build())
    batch = [one.state_dict() for one in chosen[:CHECKPOINTS]]
    weights = stack(batch)
    generator = torch.Generator().manual_seed(0)

    tokens = [Residual(width=64, reference="none").encode(one) for one in batch]
    window = slice(config["window"])
    values, mask, positions = (
        torch.stack([getattr(one, name)[window] for one in tokens]) for name in ("values", "mask", "positions")
    )
    values, mask = functional.pad(values, (0, 1)), functional.pad(mask, (0, 1), value=True)  # by log-scales
    side, total = values.new_zeros(*values.shape[:2], 0), torch.tensor([one.plan.n_tokens for one in tokens])
    model = instantiate({**config["model"], "token_width": 65})
    optimizer = torch.optim.AdamW(model.parameters())

    def view() -> None:
        random_view(weights, layout, generator, moves=(*PERMUTED, *MAPPED), maps="orthogonal", strength=0.0)

    def step() -> None:
        (model(values, mask, positions, side, total) - values).square()[mask].mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    small = timm.create_model("vit_small_patch16_224")
    one, of_small = stack([small.state_dict()]), layout_of(small)
    many = stack([model.state_dict() for model in islice(cycle(chosen), PAIRED)])
    many = {name: tensor + 1e-3 * torch.randn(tensor.shape, generator=generator) for name, tensor in many.items()}

    def all_pairs() -> None:
        vectors = aligned_vectors(many, layout, to={name: tensor[:1] for name, tensor in many.items()})
        euclidean(vectors, vectors)

    (viewed, stepped) = seconds(view, step, repeats=5)
    (canonical, pairs) = seconds(lambda: canonicalize(one, of_small), all_pairs, repeats=1)
    print(f"random view of {CHECKPOINTS}: {viewed * 1e3:.1f} ms; training step: {stepped * 1e3:.0f} ms")
    print(last_line({"view_over_step": viewed / stepped, "canonicalize_vit_s_s": canonical, "all_pairs_250_s": pairs}))


if __name__ == "__main__":
    main()
