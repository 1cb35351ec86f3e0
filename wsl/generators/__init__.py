"""Generators: samplers of new models.

Here: one sampler per file, baselines among them, what a sampler may look at (`family`), and how samples are judged (`evaluation`,
`novelty`). One card in `configs/generator` per kind; a new kind is one module. Not here: the command (`wsl.generate`).
"""
