"""Reporting: tables for the terminal, tables and figures for the docs, and the HTML page of a run. Nothing is computed here that
is not computed elsewhere."""
