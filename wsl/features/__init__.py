"""Features: one vector of named numbers per checkpoint, for probes to read.

One card in `configs/features` per kind; a new kind is a module with a class that satisfies `Features`.
"""
