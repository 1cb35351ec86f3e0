"""Model zoos: populations of Vision Transformers with known generating factors, every epoch kept.

>>> from zoo_gen import Zoo, InputError
>>> try:
...     Zoo.open("no/such/zoo")
... except InputError as error:
...     print(str(error).partition(" at ")[0])
zoo 'zoo' not found
"""

# ruff: noqa: E402
from zoo_gen import startup

startup.begin()

from zoo_gen.checkpoint import Checkpoint  # registers the ViT with an MLP head in timm, too
from zoo_gen.errors import InputError
from zoo_gen.images import Images, ImageSplit
from zoo_gen.splits import Split
from zoo_gen.zoo import Zoo

__all__ = ["Checkpoint", "ImageSplit", "Images", "InputError", "Split", "Zoo"]
