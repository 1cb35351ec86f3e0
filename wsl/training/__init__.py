"""Training: from a model with first weights to a trained one.

Here: the loop over windows of tokens with its strategies, states and logs, what it minimises (`objectives`), where its metrics go
(`loggers`), first weights that follow from data, and the pre-training of encoders of invariants (`pretraining`, `targets`,
`heads`). Not here: the command (`wsl.train`).
"""
