"""Symmetry: other weights, the same function; for any architecture that has a table.

Here: random elements of the symmetry group (`group`), directions without any effect (`null_directions`), canonical forms,
alignment of one checkpoint to another (`weight_matching`; `profiles` say where from) and distances modulo symmetry, and what the
outputs of a root depend on (`fisher`, `root_basis`). Not here: the tables themselves (`wsl.layout`).
"""
