"""Features: what a probe reads, one vector of named numbers per checkpoint.

One card in `configs/features` per kind; a new kind is a module with a class that satisfies `Features`.
"""
