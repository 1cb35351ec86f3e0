"""`python -m wsl.train model=hyperrep`: trains a model of checkpoints on a zoo, into a run folder that explains itself.

`model=hyperrep` is an autoencoder of weight tokens, which begins as a linear code and is trained from there;
`model=invariant_encoder` an encoder of numbers that no order of neurons changes. Each comes with settings to train it by
(configs/training).

`zoo=a,b` trains on two zoos at once, of any shapes: the run belongs to the first, and `Run.open(..., zoo=b)` sees the second.
The same command resumes an interrupted run and leaves a finished one alone. Only the train models of the split are learned from,
and checkpoints with non-finite weights (models that diverged) are left out.
"""

import torch
from rich.console import Console

from wsl.run_files import run_folder
from wsl.training.run_training import check, run_name, train
from wsl.training.settings import TrainConfig
from zoo_gen import InputError, Zoo
from zoo_gen.config import command
from zoo_gen.files import locked, remove_leftovers
from zoo_gen.remote import is_remote, refuse_remote
from zoo_gen.zoo import zoo_folder


@command("train", TrainConfig)
def main(config: TrainConfig) -> None:
    """Opens the zoos, and trains the run."""
    console = Console()
    refuse_remote("run=", config.run)
    torch.set_num_threads(config.threads)
    names = [config.zoo] if not is_remote(config.zoo) and zoo_folder(config.zoo).is_dir() else config.zoo.split(",")
    zoos = [Zoo.open(zoo_folder(name)) for name in names]
    for zoo in zoos:
        if not zoo.complete:
            raise InputError(f"zoo {zoo.path} is not finished; finish it with: python -m zoo_gen zoo={zoo.path.name}")
    check(config, zoos)
    folder = run_folder(run_name(config, zoos[0]))
    with locked(folder / "lock", f"run {folder}"):
        remove_leftovers(folder)
        train(config, zoos, folder, console)


if __name__ == "__main__":
    main()
