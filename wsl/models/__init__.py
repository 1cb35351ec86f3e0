"""Models: networks that embed checkpoints. They know no file, no zoo and no column of their inputs.

Here: the hyper-representation (a transformer over weight tokens), the transform code, the encoder of invariants. Not here: how
they are trained (`wsl.training`), and how a trained one is opened (`wsl.run`).
"""
