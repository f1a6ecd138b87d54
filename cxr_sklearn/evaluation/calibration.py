"""Can a score be read as a probability? Measures of calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit
from sklearn.metrics import d2_brier_score

from ..models.calibration import finite_log_odds
from . import benefit
from .bootstrap import Draws, drawn_sums, interval, wilson

N_BINS = 10
#: Scores nearer to 0 or 1 than this count as this near: their log odds would be infinite.
_NEAREST = 1e-6
#: Quantiles of the log odds between which a smooth curve is bent (Harrell's choice for four knots).
_KNOTS = (0.05, 0.35, 0.65, 0.95)
_N_POINTS = 50
#: Beyond this condition number, equations determine no coefficients.
_MOST_CONDITION = 1e10
_MOST_STEPS, _CONVERGED = 50, 1e-9


def calibration_facts(patients: ArrayLike, target: ArrayLike, score: ArrayLike, draws: Draws) -> dict[str, Any]:
    """Compare scores with the share of images that show pneumonia.

    Intervals of all but the bins come from bootstrap draws of patients, the same as those of the metrics. In
    each draw, a regression takes one Newton step from its coefficients on all images: sums over patients suffice for
    that, and the rest of the way is much shorter than the interval.

    Parameters
    ----------
    patients : array-like of shape (n,)
    target : array-like of shape (n,)
        1 for pneumonia, 0 for normal.
    score : array-like of shape (n,)
        Probability of pneumonia.
    draws : Draws
        Of the same images.

    Returns
    -------
    dict
        "brier_skill": the part of the Brier score of a constant forecast, the prevalence, that the scores avoid. "ece",
        the expected calibration error: the distance between mean score and share of pneumonia in ten equal bins,
        averaged over the images; and the "bins", with Wilson's intervals, which count every image as a patient.

        "slope", of a logistic regression on the log odds of the scores: 1 for probabilities, below 1 if scores are too
        extreme. "intercept", the calibration in the large: 0 for probabilities, above 0 if scores are too low on
        average. "observed_expected", the number of images with pneumonia over the sum of the scores. Each has "value"
        and "ci95". Without a maximum of the likelihood, because scores are all alike or separate the classes, "slope"
        is None; "observed_expected" is None if all scores are 0.

        "curve": by "score", the share of pneumonia, smoothed by a restricted cubic spline, "observed", with the
        pointwise band from "low" to "high". None where "slope" is.

        "decision_curve", what :func:`~cxr_sklearn.evaluation.benefit.curves` makes of the scores.

    References
    ----------
    Brier (1950). Verification of forecasts expressed in terms of probability. Monthly Weather Review 78, 1-3.
    Naeini, Cooper, Hauskrecht (2015). Obtaining well calibrated probabilities using Bayesian binning. AAAI, 2901-2907.
    Van Calster et al. (2019). Calibration: the Achilles heel of predictive analytics. BMC Medicine 17, 230.
    Harrell (2015). Regression modeling strategies, 2nd ed. Springer.
    """
    y, p = np.asarray(target), np.asarray(score, dtype=float)
    drawn = draws.metrics["prevalence"]
    with np.errstate(divide="ignore", invalid="ignore"):
        skill = 1 - draws.metrics["brier"] / (drawn * (1 - drawn))
    value = float(d2_brier_score(y, p))
    # As scikit-learn's calibration_curve, which does not return the sizes of the bins.
    bin_of = np.searchsorted(np.linspace(0, 1, N_BINS + 1)[1:-1], p)
    bins: list[dict[str, Any]] = []
    for inside in (bin_of == i for i in np.unique(bin_of)):
        n, n_pneumonia = int(inside.sum()), int(y[inside].sum())
        rate = {"observed": n_pneumonia / n, "ci95": wilson(n_pneumonia, n)}
        bins.append({"n": n, "mean_score": float(p[inside].mean()), **rate})
    return {
        "brier_skill": {"value": value, "ci95": interval(skill, value)},
        "ece": float(sum(part["n"] * abs(part["mean_score"] - part["observed"]) for part in bins) / len(y)),
        "bins": bins,
        **_by_patient(patients, y, p),
    }


def log_odds(score: ArrayLike) -> np.ndarray:
    """Return the log odds of scores, shape (n,), of which none is infinite."""
    found: np.ndarray = logit(np.clip(np.asarray(score, dtype=float), _NEAREST, 1 - _NEAREST))
    return found


def fit_recalibration(target: ArrayLike, score: ArrayLike, kind: str) -> tuple[float, float] | None:
    """Fit the intercept of probabilities at another place and, for the `kind` "sigmoid", their slope.

    Returns
    -------
    tuple of two floats or None
        For ``expit(intercept + slope * logit(score))``; None if the likelihood has no maximum.

    References
    ----------
    Cox (1958). Two further applications of a model for binary regression. Biometrika 45, 562-565.
    Steyerberg et al. (2004). Validation and updating of predictive logistic regression models: a study on sample size
    and shrinkage. Statistics in Medicine 23, 2567-2586.
    """
    y, odds = np.asarray(target), finite_log_odds(score)
    one = np.ones_like(odds)
    if kind == "intercept":
        found = maximise_likelihood(one[:, np.newaxis], y, odds)
        return None if found is None else (float(found[0]), 1.0)
    found = maximise_likelihood(np.column_stack([one, odds]), y, 0.0)
    return None if found is None else (float(found[0]), float(found[1]))


def _by_patient(patients: ArrayLike, y: np.ndarray, p: np.ndarray) -> dict[str, Any]:
    """Compute all that is made of sums over patients, in one pass through the draws."""
    _, patient_of = np.unique(np.asarray(patients), return_inverse=True)
    odds = log_odds(p)
    one, line = np.ones((len(y), 1)), np.column_stack([np.ones_like(odds), odds])
    knots = np.unique(np.quantile(odds, _KNOTS))
    fits = [_Regression(one, y, odds), _Regression(line, y, 0.0), _Regression(_spline(odds, knots), y, 0.0)]
    parts = [np.column_stack([y, p]), *(fit.each for fit in fits)]
    called = benefit.called_by_patient(patient_of, y, p)
    sums = np.hstack([*(_summed(part, patient_of) for part in parts), called])
    ends = np.cumsum([part.shape[1] for part in parts])
    (seen_and_expected, *of_fits, of_calls) = np.hsplit(drawn_sums(sums), ends)
    intercept, slope, curve = (fit.drawn(found) for fit, found in zip(fits, of_fits, strict=True))
    return {
        "slope": fits[1].described(1, slope),
        "intercept": fits[0].described(0, intercept),
        "observed_expected": _ratio(y, p, seen_and_expected),
        "curve": _smooth_curve(odds, knots, fits[2], curve) if len(knots) > 1 else None,
        "decision_curve": benefit.curves(called, of_calls, float(y.mean())),
    }


def _ratio(y: np.ndarray, p: np.ndarray, drawn: np.ndarray) -> dict[str, Any] | None:
    """Describe the ratio of observed to expected cases; it is None if none are expected."""
    if not p.sum():
        return None
    value = float(y.sum() / p.sum())
    return {"value": value, "ci95": interval(drawn[:, 0] / np.maximum(drawn[:, 1], np.finfo(float).tiny), value)}


def _summed(columns: np.ndarray, patient_of: np.ndarray) -> np.ndarray:
    """Return the sum of each column over the images of each patient."""
    sums = np.zeros((int(patient_of.max()) + 1, columns.shape[1]), dtype=np.float32)
    for i, column in enumerate(columns.T):
        sums[:, i] = np.bincount(patient_of, column)
    return sums


class _Regression:
    """A logistic regression without a penalty, and its coefficients in bootstrap draws of patients.

    `offset` is a part of the log odds whose coefficient is fixed at 1. `each` is what an image adds to the gradient and
    to the information, the negative second derivatives; it has no columns where the likelihood has no maximum.
    """

    def __init__(self, X: np.ndarray, y: np.ndarray, offset: Any) -> None:
        self.coefficients = maximise_likelihood(X, y, offset)
        self.each = np.zeros((len(y), 0))
        if self.coefficients is not None:
            fitted = expit(X @ self.coefficients + offset)
            left, right = self._pairs = np.triu_indices(X.shape[1])
            information = X[:, left] * X[:, right] * (fitted * (1 - fitted))[:, np.newaxis]
            self.each = np.hstack([X * (y - fitted)[:, np.newaxis], information])

    def drawn(self, sums: np.ndarray) -> np.ndarray:
        """Return the coefficients in each draw, shape (n_draws, k); NaN where a draw determines none."""
        if self.coefficients is None:
            return np.zeros((len(sums), 0))
        k = len(self.coefficients)
        information = np.zeros((len(sums), k, k))
        left, right = self._pairs
        information[:, left, right] = information[:, right, left] = sums[:, k:]
        is_regular = np.linalg.cond(information) < _MOST_CONDITION
        steps = np.full((len(sums), k), np.nan)
        steps[is_regular] = np.linalg.solve(information[is_regular], sums[is_regular, :k, np.newaxis])[..., 0]
        return self.coefficients + steps

    def described(self, column: int, drawn: np.ndarray) -> dict[str, Any] | None:
        """Return "value" and "ci95" of a coefficient."""
        if self.coefficients is None:
            return None
        value = float(self.coefficients[column])
        return {"value": value, "ci95": interval(drawn[:, column], value)}


def maximise_likelihood(X: np.ndarray, y: np.ndarray, offset: Any) -> np.ndarray | None:
    """Return the coefficients with the highest likelihood by Newton's method; None if there are none.

    The first column of `X` is constant. A step that overshoots, as it may where scores are very sure, is halved.
    """

    def loss(beta: np.ndarray) -> float:
        odds = X @ beta + offset
        return float(np.sum(np.logaddexp(0, odds) - y * odds))

    beta = np.zeros(X.shape[1])
    beta[0] = logit(y.mean()) - np.mean(offset)
    for _ in range(_MOST_STEPS):
        p = expit(X @ beta + offset)
        information = (X * (p * (1 - p))[:, np.newaxis]).T @ X
        if np.linalg.cond(information) > _MOST_CONDITION:
            return None
        step = np.linalg.solve(information, X.T @ (y - p))
        if np.abs(step).max() < _CONVERGED:
            return beta
        before = loss(beta)
        while loss(beta + step) > before and np.abs(step).max() > _CONVERGED:
            step = step / 2
        beta = beta + step
    return None


def _smooth_curve(
    odds: np.ndarray, knots: np.ndarray, fit: _Regression, drawn: np.ndarray
) -> dict[str, list[float]] | None:
    if fit.coefficients is None:
        return None
    # The hundredth at either end holds too few images to bend a curve.
    start, end = expit(np.quantile(odds, (0.01, 0.99)))
    points = logit(np.linspace(start, end, _N_POINTS))
    basis = _spline(points, knots)
    low, high = np.nanquantile(expit(drawn @ basis.T), (0.025, 0.975), axis=0)
    columns = {"score": expit(points), "observed": expit(basis @ fit.coefficients), "low": low, "high": high}
    return {name: [round(float(value), 4) for value in values] for name, values in columns.items()}


def _spline(x: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Return the columns of a restricted cubic spline: a constant, a line, and cubics that end as lines."""
    columns = [np.ones_like(x), x]
    if len(knots) > 2:
        last, before = knots[-1], knots[-2]
        for knot in knots[:-2]:
            cubes = [np.maximum(x - at, 0) ** 3 for at in (knot, before, last)]
            bent = cubes[0] - cubes[1] * (last - knot) / (last - before) + cubes[2] * (before - knot) / (last - before)
            columns.append(bent / (last - knots[0]) ** 2)
    return np.column_stack(columns)
