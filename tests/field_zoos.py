"""Small samples of zoos of the field, in the form that their makers wrote them in."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from torch import Tensor, nn

from tests.architectures import SmallTransformer

EPOCHS = (0, 1, 2, 3, 20, 40, 60, 80, 86)
"""Steps of the Small CNN Zoo."""


class HsgCnn(nn.Module):
    """The small CNN of HSG-AIML, on images of 28 x 28: dropout shifts the indices of its layers."""

    def __init__(self, *, dropout: float):
        super().__init__()
        drop = [nn.Dropout(dropout)] if dropout else []
        layers = [
            nn.Conv2d(1, 8, 5),
            nn.MaxPool2d(2, 2),
            nn.Tanh(),
            *drop,
            nn.Conv2d(8, 6, 5),
            nn.MaxPool2d(2, 2),
            nn.Tanh(),
            *drop,
        ]
        layers += [nn.Conv2d(6, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(36, 20), nn.Tanh(), *drop, nn.Linear(20, 10)]
        self.module_list = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.module_list:
            x = layer(x)
        return x


def write_trial(place: Path, weights: Mapping[int, Mapping[str, Tensor]], params: Mapping[str, Any], *, digits: int = 6) -> Path:
    """Writes a trial of Ray Tune: its checkpoints by their numbers, and a line of results for each number."""
    place.mkdir(parents=True)
    (place / "params.json").write_text(json.dumps(params))
    lines = [
        {"train_loss": 2.0 / (1 + n), "train_acc": 0.1 + 0.01 * n, "test_loss": 2.5 / (1 + n), "test_acc": 0.05 + 0.01 * n}
        | {"training_iteration": n, "time_total_s": 1.5 * n, "pid": 7, "config": dict(params), "sparsity": 0.5, "done": False}
        for n in weights
    ]
    (place / "result.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for number, state in weights.items():
        folder = place / f"checkpoint_{number:0{digits}d}"
        folder.mkdir()
        torch.save(dict(state), folder / "checkpoints")
        torch.save({"state": {}, "param_groups": [{"lr": 0.1}]}, folder / "optimizer")
    return place


def params_of(number: int, **more: Any) -> dict[str, Any]:
    found = {
        "model::type": "CNN",
        "model::nlin": "tanh",
        "model::dropout": 0,
        "model::init_type": "kaiming_uniform",
        "seed": number,
    }
    found |= {"optim::optimizer": "adam", "optim::lr": 1e-3, "optim::wd": 1e-4, "optim::momentum": 0.9, "training::batchsize": 12}
    return found | {"training::epochs_train": 50, "dataset::dump": "/home/me/dataset.pt", "cuda": False} | more


def write_ray_tune(folder: Path, *, first: int = 0) -> Path:
    """Three trials of three checkpoints, the last one with dropout."""
    torch.manual_seed(0)
    for number in range(3):
        dropout = 0.5 * (number == 2)
        weights = {n: HsgCnn(dropout=dropout).state_dict() for n in range(first, first + 3)}
        write_trial(folder / f"NN_tune_trainable_a{number}_0000{number}", weights, params_of(number, **{"model::dropout": dropout}))
    return folder


def write_small_cnn_zoo(folder: Path, *, models: int = 3, units: int = 16) -> np.ndarray:
    """Writes models of nine checkpoints each, in the order of runs, and returns the matrix."""
    folder.mkdir(parents=True)
    kernels = [(3, 3, 1, units), (3, 3, units, units), (3, 3, units, units), (units, 10)]
    names = [f"sequential/{name}" for name in ("conv2d", "conv2d_1", "conv2d_2", "dense")]
    lines, end = [], 0
    for name, shape in zip(names, kernels, strict=True):
        for kind, one in (("bias", shape[-1:]), ("kernel", shape)):
            size = int(np.prod(one))
            lines.append({"varname": f"{name}/{kind}:0", "start_idx": end, "end_idx": end + size, "shape": str(one)})
            end += size
    pd.DataFrame(lines).to_csv(folder / "layout.csv", index=False)
    matrix = np.random.default_rng(0).normal(size=(models * len(EPOCHS), end)).astype(np.float32)
    np.save(folder / "weights.npy", matrix)
    rows = [
        {
            "config.activation": "relu" if model % 2 else "tanh",
            "config.dataset": "mnist",
            "config.dropout": 0.25,
            "config.epochs": 86,
        }
        | {
            "config.l2reg": 1e-4,
            "config.learning_rate": 0.01 * (1 + model),
            "config.optimizer": "adam",
            "config.w_init": "he_normal",
        }
        | {"config.train_fraction": 0.5, "config.random_seed": 42, "modeldir": f"/gs/{model}", "step": step}
        | {
            "test_accuracy": 0.1 + 0.01 * place,
            "test_loss": 2.0 - 0.1 * place,
            "train_accuracy": 0.2 + 0.01 * place,
            "train_loss": 1.5,
        }
        for model in range(models)
        for place, step in enumerate(EPOCHS)
    ]
    with gzip.open(folder / "metrics.csv.gz", "wt") as file:
        pd.DataFrame(rows).to_csv(file)
    return matrix


def write_small_transformer_zoo(folder: Path) -> Path:
    """Three runs of MNIST with two epochs and the best one each, and a table of them."""
    torch.manual_seed(0)
    rows = []
    (folder / "metadata").mkdir(parents=True)
    (folder / "mnist").mkdir()
    for run in ("a1b2", "c3d4", "e5f6"):
        for epoch, accuracy in (("50", 9012), ("75", 9377), ("best1", 9402)):
            file = f"mnist/{run}_{epoch}_{accuracy}.pt"
            torch.save(SmallTransformer().state_dict(), folder / file)
            settings = {"seed": 3, "optimizer": "sgd", "lr": 0.005, "dropout": 0.1, "l2_regularize": 1e-6, "n_attention_heads": 2}
            told = {"ckpt_epoch": epoch, "ckpt_file": file, "test_top1_accuracy": accuracy / 10_000, "model_path": "./model/mnist"}
            rows.append(settings | told)
    pd.DataFrame(rows).to_csv(folder / "metadata" / "mnist.csv", index=False)
    return folder


def write_model_j(folder: Path, weights: Mapping[str, Tensor]) -> Path:
    """Four models in caches of the hub: classes, numbers and words in their headers."""
    for number in range(4):
        split = ("train", "train", "val", "test")[number]
        place = folder / split / f"models--ProbeX--Model-J__SupViT__model_idx_{number:04d}"
        snapshot = place / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text("abc")
        header = {"format": "pt", "dataset_chosen_targets": str(["apple", "bear"] if number % 2 else ["bear", "cup's"])}
        header |= {"learning_rate": "0.0003", "optimizer": "AdamW", "test_acc": "0.75", "augmented": "True"}
        tensors = {name: tensor + 0.01 * number for name, tensor in weights.items()}
        safetensors.torch.save_file(tensors, snapshot / "model.safetensors", metadata=header)
    return folder
