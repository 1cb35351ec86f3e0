"""Analyses: questions about checkpoints, trained representations and populations that are neither probes nor samples; one per file.

Here: copies in disguise among checkpoints (`comparison` of two, `duplicates` of many, `align_models`), what decoding retains of
models (`compression`), and the studies of a population that `python -m wsl.analyze` runs (`analysis` is their protocol, `diversity`
and `soups` are two). Not here: properties from weights (`wsl.probes`), the judgement of samples (`wsl.generators.evaluation`).
"""
