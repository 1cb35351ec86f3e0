"""Analyses: questions about trained representations and populations that are neither probes nor samples; one per file.

Here: what decoding retains of models (`compression`). Not here: properties from weights (`wsl.probes`), the judgement of sampled
models (`wsl.generators.evaluation`).
"""
