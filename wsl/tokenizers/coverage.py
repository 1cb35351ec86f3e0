"""Coverage: how many weights of a checkpoint its tokens hold, and how much of them is padding."""

import pandas as pd

from wsl.tokenizers.plan import Plan


def coverage(plan: Plan) -> pd.DataFrame:
    """Returns a frame indexed by the role of the tokens, with `total` as its last row.

    Columns: `weights` (entries that hold one), `tokens` (count), `padding` (share of the entries that hold none).
    """
    weights: dict[str, int] = {}
    tokens: dict[str, int] = {}
    for group in plan.groups:
        weights[group.role] = weights.get(group.role, 0) + group.n_weights
        tokens[group.role] = tokens.get(group.role, 0) + group.stop - group.start
    frame = pd.DataFrame({"weights": weights, "tokens": tokens})
    frame.loc["total"] = frame.sum()
    frame["padding"] = 1 - frame["weights"] / (frame["tokens"] * plan.width)
    return frame
