"""Coverage: how many weights of a checkpoint its tokens hold, and how much of them is padding."""

import pandas as pd

from wsl.tokenizers.plan import Plan


def coverage(plan: Plan) -> pd.DataFrame:
    """Returns a frame indexed by the role of the tokens, with `total` as its last row.

    Columns: `weights` (entries that hold one), `tokens` (count), `padding` (share of the entries that hold none).
    """
    rows = [(group.role, group.n_weights, group.stop - group.start) for group in plan.groups]
    frame = pd.DataFrame(rows, columns=["role", "weights", "tokens"]).groupby("role", sort=False).sum()
    frame.loc["total"] = frame.sum()
    frame["padding"] = 1 - frame["weights"] / (frame["tokens"] * plan.width)
    return frame
