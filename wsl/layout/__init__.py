"""Layout: where the weights of an architecture live, what they are for, and how each axis transforms.

Here: the language of tables of axis names (`axis_table`), what a table says of a checkpoint (`slots`, `lookup`), and one table per
family (`architectures`). Not here: what follows from the axes, which is `wsl.symmetry`, or from the order of the slots, which is
`wsl.tokenizers`.
"""

from wsl.layout.lookup import layout_of
from wsl.layout.slots import Axis, Layout, Part, Rule, Slot

__all__ = ["Axis", "Layout", "Part", "Rule", "Slot", "layout_of"]
