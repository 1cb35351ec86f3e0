"""Tables of axis names, one module per family of architectures.

A module defines `TABLES`, a tuple of texts in the language of `wsl.layout.lookup`; the module's name is the family's. A
table may have rows for tensors that a model lacks. Several tables are for forms in which tensors of one name have different
meanings: the layout is of the first table whose names and sizes fit, so the more symmetric forms come first.

Names and shapes do not tell in which order a model reads its tensors. `CLASSES` of a module maps a pattern of submodules' names to
the classes that the tables are of (package and name): a submodule must be of one of these. `SETTINGS` maps an attribute of the
model to the values that it must have.
"""
