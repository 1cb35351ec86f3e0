"""Names of rows, of classes of generators, and of levels, which judges and tables share."""

TRAIN, HELD_OUT = "train models", "held-out models"
NEAREST = "nearest train model"

REAL = (TRAIN, HELD_OUT)
"""Rows of models that no generator has made."""

CLASSES = ("weights", "unlabelled images", "labels")
"""What generators may use, each class more than those before."""

LEVELS = (0.25, 0.5, 0.75, 1.0)
"""Least novelty and diversity of the rows that a frontier counts."""
