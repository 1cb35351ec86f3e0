"""Operations: functions from models to models, on stacks of many at a time; samplers and commands are built of them.

Here: interpolation and merging after alignment (`merge`), last layers fitted convexly to given targets (`head_fit`), descent in
weights towards labels or teachers (`refine`; `targets` says towards what), noise shaped by what the outputs of a root depend on
(`noise`), and what all of them take and cost (`models`). Each has a card in `configs/operation`. Not here: which models an
operation is given and how its results are judged (`wsl.generators`), and descent in latents (`wsl.training.latent_optimization`).
"""
