"""Validation of a run in training: reconstruction of windows, and accuracy of decoded checkpoints."""

import json
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from wsl.data.logits import lack_to_run
from wsl.data.pairs import roots_by_checkpoint
from wsl.data.token_inputs import WEIGHTS_AT_ONCE
from wsl.data.windows import Batch, Windows
from wsl.run import Run
from zoo_gen import Checkpoint
from zoo_gen.evaluate import score


class Validation:
    """A fixed set of windows of validation models, and their final checkpoints.

    Args:
        run: the run in training.
        objective: whose scalars are averaged over the windows.
        windows: of validation models.
        batches, batch_size: how many windows.
    """

    def __init__(
        self,
        run: Run,
        objective: Callable[[nn.Module, Batch], dict[str, Tensor]],
        windows: Windows,
        *,
        batches: int,
        batch_size: int,
    ):
        self.run, self.objective = run, objective
        self.windows = list(windows.batches(range(batches), batch_size, rank=0, world_size=1, workers=0))
        lacks = bool(lack_to_run(run.zoo))
        finals = [] if lacks else run.split.val.select(final=True, status="ok")
        self.images = None if lacks else run.zoo.images("finetune").val
        groups: dict[str, list[Checkpoint]] = defaultdict(list)
        for checkpoint in finals:
            groups[json.dumps(checkpoint.architecture, sort_keys=True)].append(checkpoint)
        self.groups = [(json.loads(architecture), members) for architecture, members in groups.items()]

    def __call__(self) -> dict[str, float]:
        """Scalars of the objective; mean accuracy of final checkpoints on validation images, as recorded and after decoding.

        Without accuracies where the zoo's models cannot be run on images.
        """
        self.run.model.eval()
        device = next(self.run.model.parameters()).device
        with torch.no_grad():
            scalars = [self.objective(self.run.model, Batch(*(t.to(device) for t in batch))) for batch in self.windows]
        means = {name: torch.stack([s[name] for s in scalars]).nanmean().item() for name in scalars[0]}
        if self.images is None:
            self.run.model.train()
            return means
        original = [c.results["val_accuracy"] for _, members in self.groups for c in members]
        decoded = []
        for architecture, members in self.groups:
            step = max(1, WEIGHTS_AT_ONCE // sum(tensor.numel() for tensor in members[0].state_dict().values()))
            for start in range(0, len(members), step):
                some = members[start : start + step]
                tokens, latents = zip(*self.run.latents(some), strict=True)
                weights = self.run.decode_all(tokens, latents, roots=roots_by_checkpoint(self.run.zoo, some))
                decoded.append(score(architecture, weights, self.images).accuracy)
        self.run.model.train()
        accuracies = {"original": torch.tensor(original).nanmean(), "decoded": torch.cat(decoded).mean()}
        return means | {f"accuracy_{name}": accuracy.item() for name, accuracy in accuracies.items()}
