"""Data: what models are given of the checkpoints of a zoo.

Here: windows of standardised tokens (`sources`, `windows`, `standardizer`), numbers that no order of neurons changes
(`invariants`), update norms and logits of checkpoints, the cache of features, and the refusal of leaks. Not here: how weights
become tokens (`wsl.tokenizers`), and what probes read (`wsl.features`).
"""
