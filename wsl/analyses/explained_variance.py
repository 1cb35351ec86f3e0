r"""Variance of models explained by their generating factors and pairs of these, of type II.

The response is a matrix of squared distances between models (Anderson, 2001: permutational analysis of variance). With
:math:`G = -\tfrac12 C D^2 C` and the projection P onto the columns of a linear model, its sum of squares is tr(PG); one number for
each model is the case of one dimension. The sum of a term is that of a model with it less that of the same model without it, where
both hold all other terms that do not contain it (Langsrud, 2003). Shares are over the total, tr(G).
"""

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.linalg import qr

Term = tuple[str, ...]


def terms_of(factors: Sequence[str], *, pairs: bool = True) -> list[Term]:
    """Returns every factor and every pair of them."""
    return [*((name,) for name in factors), *(itertools.combinations(factors, 2) if pairs else ())]


def gram_of(squared: Float[np.ndarray, "N N"]) -> Float[np.ndarray, "N N"]:
    """Returns the centred inner products of points at these squared distances."""
    centred = squared - squared.mean(0, keepdims=True)
    return -0.5 * (centred - centred.mean(1, keepdims=True))


def type_two(frame: pd.DataFrame, terms: Sequence[Term], grams: Mapping[str, Float[np.ndarray, "N N"]]) -> pd.DataFrame:
    """Returns the share of the variance that each term explains.

    Args:
        frame: a column of levels for each factor, a row for each model.
        terms: factors, and pairs of them.
        grams: inner products of the models by the name of the response, centred or not.

    Returns:
        A row for each term and `residual`, with its degrees of freedom `df` and a column for each response. A term that other terms
        tell (no degree of freedom) is NaN.
    """
    levels = {name: pd.get_dummies(frame[name].astype(str)).to_numpy(float) for name in frame}
    columns = {term: _product([levels[name] for name in term]) for term in terms}
    grams = {name: gram - gram.mean(0, keepdims=True) for name, gram in grams.items()}
    grams = {name: gram - gram.mean(1, keepdims=True) for name, gram in grams.items()}
    known: dict[frozenset[Term], tuple[int, dict[str, float]]] = {}

    def sums(some: Sequence[Term]) -> tuple[int, dict[str, float]]:
        key = frozenset(some)
        if key not in known:
            basis = _basis([columns[term] for term in some], len(frame))
            known[key] = basis.shape[1], {name: float(((gram @ basis) * basis).sum()) for name, gram in grams.items()}
        return known[key]

    rows = []
    for term in terms:
        others = [other for other in terms if not set(term) <= set(other)]
        (more, with_it), (fewer, without) = sums([*others, term]), sums(others)
        rows.append({"df": more - fewer} | {name: with_it[name] - without[name] if more > fewer else np.nan for name in grams})
    df, whole = sums(terms)
    left = {name: float(np.trace(gram)) - whole[name] for name, gram in grams.items()}
    rows.append({"df": len(frame) - 1 - df} | left)
    table = pd.DataFrame(rows, index=pd.Index([*map(" x ".join, terms), "residual"]))
    for name, gram in grams.items():
        total = float(np.trace(gram))
        table[name] = table[name] / total if total > 0 else np.nan
    return table


def bootstrap(
    frame: pd.DataFrame,
    terms: Sequence[Term],
    grams: Mapping[str, Float[np.ndarray, "N N"]],
    *,
    n: int,
    rng: np.random.Generator,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, pd.Series]:
    """Returns the standard error of each share by n bootstraps over models, by the name of the response.

    Resampled models stand there twice, which lowers residuals: the mean of the bootstraps is biased, and their deviation counts.
    `advance` is called after each one.
    """
    drawn = []
    for _ in range(n):
        rows = rng.integers(len(frame), size=len(frame))
        some = {name: gram[np.ix_(rows, rows)] for name, gram in grams.items()}
        drawn.append(type_two(frame.iloc[rows].reset_index(drop=True), terms, some).drop(columns="df"))
        advance()
    return {name: pd.concat([table[name] for table in drawn], axis=1).std(axis=1) for name in grams}


def intervals(shares: pd.Series, errors: pd.Series) -> dict[str, list[float]]:
    """Returns the 95 % interval of each share: 1.96 standard errors to both sides, within 0 and 1."""
    low, high = (shares - 1.96 * errors).clip(0, 1), (shares + 1.96 * errors).clip(0, 1)
    return {str(term): [float(low[term]), float(high[term])] for term in shares.index}


def _product(levels: Sequence[np.ndarray]) -> np.ndarray:
    """Returns a column for each combination of levels."""
    found = levels[0]
    for other in levels[1:]:
        found = (found[:, :, None] * other[:, None, :]).reshape(len(found), -1)
    return found[:, found.any(0)]


def _basis(columns: Sequence[np.ndarray], n: int) -> Float[np.ndarray, "N rank"]:
    """Returns an orthonormal basis of the centred columns."""
    if not columns:
        return np.zeros((n, 0))
    x = np.concatenate(columns, axis=1)
    q, r = qr(x - x.mean(0), mode="economic", pivoting=True)[:2]  # type: ignore[misc]
    size = np.abs(np.diag(r))
    return np.asarray(q)[:, size > 1e-9 * max(float(size[0]), 1.0)]
