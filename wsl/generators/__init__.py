"""Generators: samplers of new models, one per file. A new one is one module and one card in `configs/generator`."""
