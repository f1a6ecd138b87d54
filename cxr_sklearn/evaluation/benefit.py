"""Is it worth deciding by a score? Net benefit, against treating all patients and treating none."""

from __future__ import annotations

from typing import Any

import numpy as np

from .bootstrap import interval
from .clustered import difference, share_of_counts
from .subgroups import PREVALENCES

#: Probabilities of pneumonia from which somebody might treat.
THRESHOLDS = np.round(np.arange(0.01, 1, 0.01), 2)


def net_benefit(sensitivity: Any, specificity: Any, prevalence: Any, threshold: Any) -> Any:
    """Return the net benefit of decisions, in true positives per patient.

    Who treats from a probability of 10 % on takes nine treatments of healthy patients for one of a sick one, so each
    false positive costs a ninth of what a true positive is worth.

    References
    ----------
    Vickers, Elkin (2006). Decision curve analysis. Medical Decision Making 26, 565-574.
    """
    return sensitivity * prevalence - (1 - specificity) * (1 - prevalence) * threshold / (1 - threshold)


def called_by_patient(patient_of: np.ndarray, target: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Count, for each patient, the images with pneumonia and the normal ones that reach each threshold.

    Returns
    -------
    ndarray of shape (n_patients, 2 * (1 + 99)) and dtype float32
        First those with pneumonia: all of them, and those that reach each of ``THRESHOLDS``; then the normal ones.
    """
    n_reached = np.searchsorted(THRESHOLDS, score, side="right")
    tables = []
    for label in (1, 0):
        table = np.zeros((int(patient_of.max()) + 1, len(THRESHOLDS) + 1), dtype=np.float32)
        np.add.at(table, (patient_of[target == label], n_reached[target == label]), 1)
        tables.append(table[:, ::-1].cumsum(axis=1)[:, ::-1])
    return np.hstack(tables)


def curves(called: np.ndarray, drawn: np.ndarray, own: float) -> list[dict[str, Any]]:
    """Compute net benefit against the probability from which somebody might treat.

    Parameters
    ----------
    called : ndarray of shape (n_patients, 200)
        What :func:`called_by_patient` returned.
    drawn : ndarray of shape (n_draws, 200)
        Its sums over the patients of each draw.
    own : float
        Prevalence among the images.

    Returns
    -------
    list of dict
        For the prevalence of the images and each of ``PREVALENCES``: "prevalence", "threshold", "net_benefit" with the
        pointwise band from "low" to "high", and "treat_all"; treating nobody has a net benefit of 0. At another
        prevalence, sensitivity and specificity are assumed to be the same, and each score is moved by the ratio of the
        odds: so are the thresholds. The band of the prevalence of the images is that of the draws; a stated prevalence
        is certain, and the band is made of the intervals of both rates, which hold near 0 and 1 too.
    """
    sensitivity, specificity = _rates(called.sum(axis=0, dtype=float)[np.newaxis])
    drawn_rates = _rates(drawn)
    with np.errstate(invalid="ignore"):
        drawn_prevalence = drawn[:, :1] / (drawn[:, :1] + drawn[:, len(THRESHOLDS) + 1, np.newaxis])
    found = []
    for prevalence in dict.fromkeys((own, *PREVALENCES)):
        odds = THRESHOLDS / (1 - THRESHOLDS) * (1 - own) / own * prevalence / (1 - prevalence)
        threshold = odds / (1 + odds)
        values = net_benefit(sensitivity, specificity, prevalence, threshold)[0]
        if prevalence == own:
            of_draws = net_benefit(*drawn_rates, drawn_prevalence, threshold)
            bands = [interval(draws, value) for draws, value in zip(of_draws.T, values, strict=True)]
        else:
            bands = _bands(called, prevalence, threshold)
        ends = [band or (value, value) for band, value in zip(bands, values, strict=True)]
        columns = {
            "threshold": threshold,
            "net_benefit": values,
            **dict(zip(("low", "high"), np.transpose(ends), strict=True)),
            "treat_all": net_benefit(1.0, 0.0, prevalence, threshold),
        }
        rounded = {name: [round(float(value), 5) for value in values] for name, values in columns.items()}
        found.append({"prevalence": prevalence, **rounded})
    return found


def _bands(called: np.ndarray, prevalence: float, threshold: np.ndarray) -> list[list[float] | None]:
    """Return the interval of the net benefit at a stated prevalence, by threshold; None if a class has one patient.

    Net benefit is a difference of sensitivity and of the share of false alarms, each times a constant. A patient with
    images of both classes makes the two depend on each other, which their covariance over patients allows for.
    """
    true, false = np.hsplit(called.astype(float), 2)
    found: list[list[float] | None] = []
    for i, price in enumerate((1 - prevalence) * threshold / (1 - threshold), start=1):
        sensitivity, alarms = share_of_counts(true[:, i], true[:, 0]), share_of_counts(false[:, i], false[:, 0])
        known = sensitivity and alarms and difference(sensitivity, alarms, 0.95, (prevalence, price))
        found.append(list(known) if known else None)
    return found


def _rates(called: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sensitivity and specificity at each threshold, shape (n, 99) each; NaN where a class is missing."""
    true, false = np.hsplit(called, 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return true[:, 1:] / true[:, :1], 1 - false[:, 1:] / false[:, :1]
