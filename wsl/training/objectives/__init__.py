"""Objectives: what a hyper-representation learns. One card in `configs/objective` per kind; a new kind is one module."""
