"""Generators: samplers of new models, and how samples are judged.

Samplers: one per file, baselines among them; `family` is what one may look at, `population` where families come from, `drawing` how
one is fitted and sampled. Judges: `evaluation` measures rows, by `scoring`, `neighbours`, `fresh_scale`, `verdict` and `frontier`;
`novelty` has distances and the scale of train models. One card in `configs/generator` per kind; a new kind is one module. Not here:
the command (`wsl.generate`).
"""
