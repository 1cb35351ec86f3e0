"""Analyses: questions about checkpoints, trained representations and populations that are neither probes nor samples; one per file.

Here: copies in disguise among checkpoints (`comparison` of two, `duplicates` of many, `align_models`), and what decoding retains of
models (`compression`). Not here: properties from weights (`wsl.probes`), the judgement of samples (`wsl.generators.evaluation`).
"""
