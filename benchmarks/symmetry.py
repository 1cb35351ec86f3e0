"""Costs of symmetries, in CPU seconds of one thread: a random view against a training step, a canonical form, all-pairs distances.

python -m benchmarks.symmetry ZOO: the last line is JSON. Bars: a view of 16 checkpoints costs at most a tenth of a training step of
the default hyper-representation on them; ViT-S at most 10 s on 2 cores; 250 digits models at most a minute.
"""

import sys
import time
from itertools import cycle, islice
from pathlib import Path

import timm
import torch

from benchmarks.clock import last_line, seconds
from wsl.generators.novelty import euclidean
from wsl.layout import layout_of
from wsl.models.hyperrep import HyperRep
from wsl.symmetry.alignment import aligned_vectors
from wsl.symmetry.canonical import canonicalize
from wsl.symmetry.group import MAPPED, PERMUTED, random_view
from wsl.symmetry.stacks import stack
from wsl.tokenizers.residual import Residual
from zoo_gen import Zoo

REPEATS = 5
WINDOW = 256
"""Tokens of a checkpoint in one training step, as in configs/train.yaml."""


def main() -> None:
    """Prints the costs."""
    torch.set_num_threads(1)
    zoo = Zoo.open(Path(sys.argv[1]))
    chosen = list(zoo.select(stage="finetune", final=True, status="ok", head="linear"))
    layout = layout_of(chosen[0].build())
    batch = [one.state_dict() for one in chosen[:16]]
    weights = stack(batch)
    generator = torch.Generator().manual_seed(0)

    tokens = [Residual(width=64, reference="none").encode(one) for one in batch]
    values = torch.stack([one.values[:WINDOW] for one in tokens])
    mask, positions = tokens[0].mask[:WINDOW].expand_as(values), tokens[0].positions[:WINDOW].expand(16, -1, -1)
    model = HyperRep(
        token_width=64,
        latent=16,
        width=128,
        heads=4,
        encoder_depth=2,
        decoder_depth=2,
        mlp_ratio=2,
        blocks=32,
        roles=16,
        initialization="random",
    )
    optimizer = torch.optim.AdamW(model.parameters())

    def view() -> None:
        random_view(weights, layout, generator, moves=(*PERMUTED, *MAPPED), maps="orthogonal", strength=0.0)

    def view_with_nulls() -> None:
        moves = (*PERMUTED, *MAPPED, "norm", "bias", "scale", "mean")
        random_view(weights, layout, generator, moves=moves, maps="general", strength=0.3)

    def step() -> None:
        (model.decode(model.encode(values, mask, positions), positions) - values).square()[mask].mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    plain, full, training = seconds(view, view_with_nulls, step, repeats=REPEATS)

    small = timm.create_model("vit_small_patch16_224")
    one, of_small = stack([small.state_dict()]), layout_of(small)
    start = time.process_time()
    canonicalize(one, of_small)
    canonical = time.process_time() - start

    many = stack([model.state_dict() for model in islice(cycle(chosen), 250)])
    many = {name: tensor + 1e-3 * torch.randn(tensor.shape, generator=generator) for name, tensor in many.items()}
    start = time.process_time()
    vectors = aligned_vectors(many, layout, to={name: tensor[:1] for name, tensor in many.items()})
    euclidean(vectors, vectors)
    pairs = time.process_time() - start

    print(f"random view of 16: {plain * 1e3:.1f} ms ({plain / training:.3f} of a training step of {training * 1e3:.0f} ms)")
    print(f"the same with null directions: {full * 1e3:.1f} ms ({full / training:.3f})")
    print(f"canonical form of ViT-S: {canonical:.1f} s; all pairs of 250: {pairs:.1f} s")
    figures = {
        "view_ms": plain * 1e3,
        "view_over_step": plain / training,
        "view_with_nulls_over_step": full / training,
        "canonicalize_vit_s_s": canonical,
        "all_pairs_250_s": pairs,
    }
    print(last_line(figures))


if __name__ == "__main__":
    main()
