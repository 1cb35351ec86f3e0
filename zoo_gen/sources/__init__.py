"""Sources of images: one file per form that data sets come in."""
