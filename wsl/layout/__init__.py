"""Layout: the place of each weight of an architecture, its role, and the transformation of each of its axes.

Here: the language of tables of axis names (`axis_table`), the layout of a checkpoint by its table (`slots`, `lookup`), and one
table per family (`architectures`). Not here: symmetries, which follow from the axes (`wsl.symmetry`), and tokens, which follow from
the order of the slots (`wsl.tokenizers`).
"""

from wsl.layout.lookup import layout_of

__all__ = ["layout_of"]
