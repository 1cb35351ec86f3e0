"""Probes: questions to a vector of features, answered by linear models.

One question per card in `configs/probe`; a new kind of question is a module with a class that satisfies `Probe`.
"""
