"""Probes: properties of models, read off features of their weights.

Here: linear probes of numbers and of labels, cross-validation with its controls and ceilings, comparisons, and predictors that
are saved with a run. One card in `configs/probe` per target. Not here: what probes read (`wsl.features`), and tables and figures
(`wsl.reporting`).
"""
