"""Analyses: questions about trained representations and populations that are neither probes nor samples; one per file."""
