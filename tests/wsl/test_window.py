"""A window holds what the whole checkpoint's tokens hold there: every family, both tokenizers, every place."""

import pytest
import torch
from torch import Tensor

from tests.architectures import FAMILIES
from wsl.tokenizers.residual import Residual
from wsl.tokenizers.rows import Rows
from wsl.tokenizers.tokens import Tokenizer
from wsl.tokenizers.window import Window, parts_of
