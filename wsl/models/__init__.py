"""Models: networks that embed checkpoints. They know no file, no zoo and no column of their inputs.

Here: the hyper-representation (an autoencoder of weight tokens), the encoder of invariants. Not here: how they are trained
(`wsl.training`), and how a trained one is opened (`wsl.run`).
"""
