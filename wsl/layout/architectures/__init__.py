"""Tables of axis names, one module per family of architectures.

A module defines `TABLES`, a tuple of texts in the language of `wsl.layout.lookup`; the module's name is the family's. A
table may have rows for tensors that a model lacks. Several tables are for forms that differ in what a tensor of one
name means: the first one whose names and sizes fit is taken, so the more symmetric forms come first.

Names and shapes do not tell in what order a model reads its tensors. Where a module defines `CLASSES`, models are held to it:
pattern of a submodule's name -> classes that the tables are of (package and name), one of which it must be or inherit from; and
by `SETTINGS` to values of attributes of the model.
"""
