"""Confidence intervals by resampling whole patients, with the same draws for every classifier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri
from scipy.stats import binomtest

from .metrics import Ranking

N_DRAWS = 2000
#: False positive rates at which the band of a ROC curve is drawn.
FPR_GRID = np.linspace(0, 1, 101)
# Number of drawn images at a time that fit into the cache of a core.
_CHUNK = 400_000
# It holds counts exactly up to 16 million.
_DTYPE = np.float32


class Draws(NamedTuple):
    """The metrics of a classifier in each bootstrap draw; NaN where a draw lacks a class.

    Attributes
    ----------
    metrics : dict of str to ndarray of shape (n_draws,)
        By the names in ``METRICS`` at the threshold, and "prevalence".
    at_half : dict of str to ndarray of shape (n_draws,)
        The metrics that depend on the threshold, at 0.5.
    roc : ndarray of shape (n_draws, 101)
        Highest sensitivity at each false positive rate of ``FPR_GRID``.
    """

    metrics: dict[str, np.ndarray]
    at_half: dict[str, np.ndarray]
    roc: np.ndarray


def patient_counts(n_patients: int, n_draws: int, random_state: int, n_rows: int) -> Iterator[np.ndarray]:
    """Draw patients with replacement, and yield how often each was drawn: `n_draws` rows in all, shape (n, n_patients).

    The same seed gives the same draws; `n_rows`, the number of images, decides how many fit into memory at a time.
    """
    rng = np.random.default_rng(random_state)
    step = max(1, _CHUNK // max(n_rows, n_patients))
    for start in range(0, n_draws, step):
        drawn = rng.integers(0, n_patients, size=(min(step, n_draws - start), n_patients))
        yield np.stack([np.bincount(row, minlength=n_patients) for row in drawn]).astype(_DTYPE)


def bootstrap(
    patients: ArrayLike,
    target: ArrayLike,
    scores: Mapping[str, ArrayLike],
    thresholds: Mapping[str, float],
    *,
    n_draws: int = N_DRAWS,
    random_state: int = 0,
) -> dict[str, Draws]:
    """Compute every metric of every classifier on bootstrap draws of patients.

    Images of one patient are alike, so they are drawn together; drawing single images would make every interval too
    narrow. All classifiers share the draws, so the difference of two entries is a draw of the difference.

    Parameters
    ----------
    patients : array-like of shape (n_images,)
    target : array-like of shape (n_images,)
        1 for pneumonia, 0 for normal.
    scores : mapping of str to array-like of shape (n_images,)
        Probability of pneumonia, by classifier.
    thresholds : mapping of str to float
        By classifier.
    n_draws : int, default=2000
    random_state : int, default=0

    Returns
    -------
    dict of str to Draws
        By classifier.

    References
    ----------
    Field, Welsh (2007). Bootstrapping clustered data. Journal of the Royal Statistical Society B 69, 369-390.
    """
    names, patient_of = np.unique(np.asarray(patients), return_inverse=True)
    rankings = {
        name: Ranking(np.asarray(target), np.asarray(score, dtype=float), (thresholds[name], 0.5), _DTYPE)
        for name, score in scores.items()
    }
    parts: dict[str, list[Draws]] = {name: [] for name in scores}
    for counts in patient_counts(len(names), n_draws, random_state, len(patient_of)):
        for name, ranking in rankings.items():
            values, (decisions, at_half), ranks = ranking.measure(counts[:, patient_of[ranking.order]])
            parts[name].append(Draws(values | decisions, at_half, _on_grid(ranks.true, ranks.false)))
    return {name: Draws(*map(_joined, zip(*chunks, strict=True))) for name, chunks in parts.items()}


def _joined(chunks: Sequence[Any]) -> Any:
    """Join arrays, or the arrays of the same name in dicts."""
    if isinstance(chunks[0], dict):
        return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    return np.concatenate(chunks)


def _on_grid(true: np.ndarray, false: np.ndarray) -> np.ndarray:
    """Return the sensitivity at each rate of ``FPR_GRID``, from cumulative true and false positives of each draw."""
    n_draws, n_scores = true.shape
    # In counts, with a margin for rounding: 0.1 of 10 images is one image.
    allowed = np.floor(FPR_GRID * false[:, -1:] * (1 + 1e-6))
    # An offset per draw makes all rows one sorted array, which is searched much faster than row by row.
    offset = np.arange(n_draws)[:, np.newaxis] * (float(false[:, -1].max()) + 1)
    last = np.searchsorted((false + offset).ravel(), (allowed + offset).ravel(), side="right").reshape(n_draws, -1) - 1
    last -= np.arange(n_draws)[:, np.newaxis] * n_scores
    with np.errstate(invalid="ignore"):  # 0 / 0 in draws without pneumonia
        rates = np.where(last < 0, 0.0, np.take_along_axis(true, np.maximum(last, 0), axis=1)) / true[:, -1:]
    return np.where(false[:, -1:] > 0, rates, np.nan)


def drawn_sums(sums: np.ndarray, *, n_draws: int = N_DRAWS, random_state: int = 0) -> np.ndarray:
    """Return the sums over the patients of each draw, shape (n_draws, k), of sums by patient, (n_patients, k)."""
    few = patient_counts(len(sums), n_draws, random_state, len(sums))
    # The sums of many patients do not fit into a cache, and are read once for each product.
    products = [np.vstack(parts) @ sums for parts in iter(lambda: list(islice(few, 16)), [])]
    return np.vstack(products).astype(float)


def bootstrap_rates(
    patients: ArrayLike,
    hits: np.ndarray,
    members: np.ndarray,
    *,
    n_draws: int = N_DRAWS,
    random_state: int = 0,
) -> np.ndarray:
    """Return bootstrap draws of rates, by patient, shape (n_draws, n_rates); NaN where a draw has no member.

    `hits` and `members` are bool, shape (n_images, n_rates): each rate is the share of its members that are hits.
    """
    names, patient_of = np.unique(np.asarray(patients), return_inverse=True)
    sums = np.zeros((len(names), 2 * hits.shape[1]))
    np.add.at(sums, patient_of, np.hstack([hits & members, members]).astype(float))
    n_hits, n_members = np.hsplit(drawn_sums(sums, n_draws=n_draws, random_state=random_state), 2)
    return np.divide(n_hits, n_members, where=n_members > 0, out=np.full_like(n_hits, np.nan))


def interval(draws: np.ndarray, value: float) -> list[float] | None:
    """Return both ends of the bias-corrected 95 % percentile interval of draws, shape (n_draws,); NaN is ignored.

    `value` is that on the original images. If more than half of the draws lie below it, as happens with average
    precision, the percentiles are moved up. There is no interval if all draws are equal, which says nothing about the
    uncertainty.

    References
    ----------
    Efron (1981). Nonparametric standard errors and confidence intervals. Canadian Journal of Statistics 9, 139-158.
    """
    known = draws[~np.isnan(draws)]
    ties = np.abs(known - value) < 1e-6
    if ties.all():
        return None
    below = np.mean((known < value) & ~ties) + np.mean(ties) / 2
    shift = 2 * ndtri(np.clip(below, 1 / len(known), 1 - 1 / len(known)))
    low, high = np.quantile(known, ndtr(shift + ndtri((0.025, 0.975))))
    return [float(low), float(high)]


def wilson(n_hits: int, n: int) -> list[float]:
    """Return Wilson's 95 % interval of a rate, `n_hits` of `n` images, as if each image showed another patient.

    References
    ----------
    Wilson (1927). Probable inference, the law of succession, and statistical inference. JASA 22, 209-212.
    """
    found = binomtest(n_hits, n).proportion_ci(method="wilson")
    return [float(found.low), float(found.high)]


def rate(n_hits: int, n: int, draws: np.ndarray) -> dict[str, float | str | list[float]]:
    """Return "value", "ci95" and its "method" for a rate, `n_hits` of `n` images.

    The method is "bootstrap", or "wilson" if all of the rate's draws, shape (n_draws,), are equal.
    """
    ends = interval(draws, n_hits / n)
    return {"value": n_hits / n, "ci95": ends or wilson(n_hits, n), "method": "bootstrap" if ends else "wilson"}
