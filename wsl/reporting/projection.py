"""The map of an embedding: checkpoints at two principal components, which are fitted on train models."""

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from wsl.run import Run
from zoo_gen import Zoo


def project(run: Run, children: Zoo, *, limit: int) -> tuple[pd.DataFrame, list[float]]:
    """Embeds checkpoints and projects them on two principal components of the train models.

    Final checkpoints are all in the map; other epochs are thinned evenly to about `limit` rows in total. Diverged models are not in
    it.

    Args:
        run: that embeds.
        children: the checkpoints.
        limit: of rows.

    Returns:
        Rows of the zoo's frame with `x`, `y` and `split`, and the explained variance ratio of each component.
    """
    frame = children.frame
    stride = -(-len(frame) // limit)
    before_end = frame.groupby("model")["epoch"].transform("max") - frame["epoch"]
    shown = children.select(path=frame["path"][before_end % stride == 0].tolist())
    split_of = {model: name for name, zoo in run.split._asdict().items() for model in zoo.frame["model"]}
    features = run.embed(shown)
    finite = np.isfinite(features.sum(axis=1))
    points = shown.frame.assign(split=[split_of[model] for model in shown.frame["model"]])[finite]

    scaler, pca = StandardScaler(), PCA(n_components=2, svd_solver="full")
    pca.fit(scaler.fit_transform(features[finite][points["split"] == "train"]))
    x, y = pca.transform(scaler.transform(features[finite])).T
    return points.assign(x=x, y=y), pca.explained_variance_ratio_.tolist()
