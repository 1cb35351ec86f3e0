"""Adoption: models that were trained elsewhere become a zoo, in place (`python -m zoo_gen.adopt`)."""
