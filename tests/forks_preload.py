"""What the process imports that others are forked from (tests/forks.py): all but the commands, which are run."""

# ruff: noqa: F401

import hydra
import pytest
import sklearn.datasets
import torch
from hydra.core import hydra_config

import tests.forks
import wsl.models.hyperrep
import wsl.probes.prediction
import wsl.reporting.terminal_tables
import wsl.tokenizers.residual
import wsl.training.objectives.reconstruction
import wsl.training.run_training
import zoo_gen.generate
import zoo_gen.plan

torch.set_num_threads(1)
