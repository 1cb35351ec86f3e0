"""Probes: properties of models, read off features of their weights.

Linear probes of numbers and of labels, cross-validation with controls and noise ceilings, comparisons, and predictors that are
saved with a run. Each target is a card in `configs/probe`. Features are in `wsl.features`, tables and figures in `wsl.reporting`.
"""
