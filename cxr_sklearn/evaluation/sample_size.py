"""How many images the next validation of a model needs, for its figures to be precise enough to be of use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit
from scipy.stats import norm

from .._settings import usual_settings
from .._validation import checks_types
from ..exceptions import InputError
from .calibration import log_odds, maximise_likelihood
from .paired import placements
from .subgroups import PREVALENCES

#: Width of the 95 % interval that each figure should have at most: the choices of Riley and others (2021).
WIDTHS = {"observed_expected": 0.2, "slope": 0.2, "roc_auc": 0.1, "net_benefit": 0.2}
_Z = float(norm.ppf(0.975))


def for_observed_expected(prevalence: float, width: float = WIDTHS["observed_expected"]) -> float:
    """Return the number of patients for which observed / expected, near 1, has an interval of a width."""
    error = np.arcsinh(width / 2) / _Z  # of its logarithm, in which the interval is symmetrical
    return float((1 - prevalence) / (prevalence * error**2))


def for_slope(
    odds: np.ndarray, probability: np.ndarray, weight: np.ndarray | None = None, width: float = WIDTHS["slope"]
) -> float:
    """Return the number of patients for which the calibration slope has an interval of a width.

    `odds` are log odds of scores as they will be distributed, shape (n,), `probability` what they will mean, and
    `weight`, if not equal, how often each occurs.
    """
    each = probability * (1 - probability)
    flat, sloping, curved = (np.average(each * odds**power, weights=weight) for power in (0, 1, 2))
    return float(flat / ((flat * curved - sloping**2) * (width / 2 / _Z) ** 2))


def for_roc_auc(roc_auc: float, prevalence: float, width: float = WIDTHS["roc_auc"]) -> float:
    """Return the number of patients for which the ROC AUC has an interval of a width, by Newcombe's formula."""
    # Newcombe's variance is (1 + (n / 2 - 1) * more) * c (1 - c) / (n^2 * p (1 - p)), so n solves a quadratic equation.
    spread = roc_auc * (1 - roc_auc)
    more = (1 - roc_auc) / (2 - roc_auc) + roc_auc / (1 + roc_auc)
    target = prevalence * (1 - prevalence) * (width / 2 / _Z) ** 2
    half = spread * more / 4
    return float((half + np.sqrt(half**2 + target * spread * (1 - more))) / target)


def for_net_benefit(
    sensitivity: float,
    specificity: float,
    prevalence: float,
    probability: float,
    width: float = WIDTHS["net_benefit"],
) -> float:
    """Return the number of patients for which the net benefit, divided by the prevalence, has an interval of a width.

    `probability` is that of the disease from which somebody treats.
    """
    price = _price(prevalence, probability)
    variance = (
        sensitivity * (1 - sensitivity) / prevalence
        + price**2 * specificity * (1 - specificity) / (1 - prevalence)
        + price**2 * (1 - specificity) ** 2 / (prevalence * (1 - prevalence))
    )
    return float(variance / (width / 2 / _Z) ** 2)


def _price(prevalence: float, probability: float) -> float:
    """Return what false positives cost, as a rate, in units of the sensitivity."""
    return (1 - prevalence) / prevalence * probability / (1 - probability)


@usual_settings
@checks_types
def validation_sample_size(
    target: ArrayLike,
    score: ArrayLike,
    *,
    threshold: float = 0.5,
    patients: ArrayLike | None = None,
    prevalence: float | None = None,
) -> dict[str, Any]:
    """Compute how many images the next validation of a model needs, from its scores on images that it has not seen.

    It assumes that the scores will be distributed, within each class, and calibrated as they are here. At another
    prevalence, the meaning of a score moves with the odds of the disease.

    Parameters
    ----------
    target : array-like of shape (n,)
        1 for pneumonia, 0 for normal; both must occur.
    score : array-like of shape (n,)
        Probability of pneumonia.
    threshold : float, default=0.5
        Score from which an image is called pneumonia.
    patients : array-like of shape (n,), optional
        Patient of each image, if some have several: images of one patient say less than those of several patients.
    prevalence : float, optional
        Share of pneumonia expected in the next validation; that of `target` by default.

    Returns
    -------
    dict
        "prevalence". "images", the minimum number for all criteria, of which "pneumonia" show pneumonia, and
        "patients", if they have as many images each as here. "criterion", the one that asks most. "criteria", by name:
        "images" for a 95 % interval of the "width" and the "design_effect", by which images of the same patients
        multiply what independent ones need. "reason" is None, or why there is no minimum: the scores have no
        calibration slope because they are "separated", perfectly or nearly, by class, or all "alike". The net benefit
        has no number if the threshold is no probability strictly between 0 and 1.

    Raises
    ------
    InputError
        If lengths differ, a class is missing, a score is no probability or the prevalence is not between 0 and 1.

    Notes
    -----
    The criteria are those of Riley and others [1]_ [2]_: observed / expected, the calibration slope and the net benefit
    divided by the prevalence with intervals of width 0.2, and the ROC AUC with one of 0.1, by Newcombe's formula [3]_.
    The net benefit is that of the decisions at `threshold`, for somebody who treats from the probability of pneumonia
    that the score `threshold` means here.

    The design effect of a criterion is the variance of its figure with patients as units, relative to that with images
    as units; it is never taken to be below 1.

    References
    ----------
    .. [1] Riley et al. (2021). Minimum sample size for external validation of a clinical prediction model with a binary
       outcome. Statistics in Medicine 40, 4230-4251.
    .. [2] Riley et al. (2024). Evaluation of clinical prediction models (part 3): calculating the sample size required
       for an external validation study. BMJ 384, e074821.
    .. [3] Newcombe (2006). Confidence intervals for an effect size measure based on the Mann-Whitney statistic. Part 2.
       Statistics in Medicine 25, 559-573.

    Examples
    --------
    >>> import numpy as np
    >>> from cxr_sklearn import validation_sample_size
    >>> rng = np.random.default_rng(0)
    >>> odds = rng.normal(-1, 1.5, 2000)
    >>> score = 1 / (1 + np.exp(-odds))
    >>> found = validation_sample_size(rng.random(2000) < score, score)
    >>> found["criterion"], found["images"]
    ('slope', 2032)
    """
    y, p = np.asarray(target), np.asarray(score, dtype=float)
    of = np.arange(len(y)) if patients is None else np.asarray(patients)
    if not len(y) == len(p) == len(of):
        raise InputError(
            f"target, score and patients have {len(y)}, {len(p)} and {len(of)} entries, not the same number"
        )
    if set(np.unique(y)) != {0, 1}:
        raise InputError("target must hold both 0 (normal) and 1 (pneumonia), and nothing else")
    if not np.all((p >= 0) & (p <= 1)):
        raise InputError("score must hold probabilities, from 0 to 1")
    if prevalence is not None and not 0 < prevalence < 1:
        raise InputError(f"prevalence={prevalence!r} must be between 0 and 1")
    y = y.astype(int)
    return sample_sizes(of, y, p, threshold, [float(y.mean()) if prevalence is None else prevalence])[0]


def sample_sizes(
    patients: ArrayLike,
    target: ArrayLike,
    score: ArrayLike,
    threshold: float,
    prevalences: Sequence[float] | None = None,
) -> list[dict[str, Any]]:
    """Return what :func:`validation_sample_size` does, for each prevalence: ``PREVALENCES`` and that of the images."""
    y, p = np.asarray(target), np.asarray(score, dtype=float)
    names, patient_of = np.unique(np.asarray(patients), return_inverse=True)
    odds = log_odds(p)
    line = np.column_stack([np.ones_like(odds), odds])
    fit = maximise_likelihood(line, y, 0.0) if np.ptp(odds) > 0 else None
    reason = ("separated" if np.ptp(odds) > 0 else "alike") if fit is None else None
    if fit is not None:
        seen = _Seen(y, odds, p >= threshold, fit, logit(threshold) if 0 < threshold < 1 else None)
        roc_auc = float(placements(odds, y == 1)[0].mean())
        effects = {name: _design_effect(influence, patient_of) for name, influence in _influences(seen).items()}
    found = []
    for prevalence in prevalences or (*PREVALENCES, float(y.mean())):
        criteria: dict[str, dict[str, Any] | None] = {}
        if fit is not None:
            for name, size in _sizes(seen, roc_auc, prevalence).items():
                described = {"width": WIDTHS[name], "design_effect": effects[name]}
                criteria[name] = None if size is None else {"images": int(np.ceil(size * effects[name])), **described}
        needed = {name: criterion["images"] for name, criterion in criteria.items() if criterion}
        most = max(needed, key=lambda name: needed[name], default=None)
        n = needed[most] if most else None
        found.append(
            {
                "prevalence": prevalence,
                "images": n,
                "pneumonia": n and int(np.ceil(n * prevalence)),
                "patients": n and int(np.ceil(n * len(names) / len(y))),
                "criterion": most,
                "criteria": criteria,
                "reason": reason,
            }
        )
    return found


class _Seen(NamedTuple):
    """What is known of a model: labels, log odds of the scores, decisions, and what the log odds mean.

    `fit` holds intercept and slope of the log odds of pneumonia against those of the scores, and `cut` the log odds of
    the threshold, if it is a probability.
    """

    target: np.ndarray
    odds: np.ndarray
    called: np.ndarray
    fit: np.ndarray
    cut: float | None

    def rates(self) -> tuple[float, float]:
        """Return sensitivity and specificity."""
        return float(self.called[self.target == 1].mean()), float(1 - self.called[self.target == 0].mean())


def _sizes(seen: _Seen, roc_auc: float, prevalence: float) -> dict[str, float | None]:
    """Return the number of independent images for each criterion."""
    own = float(seen.target.mean())
    weight = np.where(seen.target == 1, prevalence / own, (1 - prevalence) / (1 - own))
    intercept, slope = seen.fit[0] + logit(prevalence) - logit(own), seen.fit[1]
    found: dict[str, float | None] = {
        "observed_expected": for_observed_expected(prevalence),
        "slope": for_slope(seen.odds, expit(intercept + slope * seen.odds), weight),
        "roc_auc": for_roc_auc(roc_auc, prevalence),
        "net_benefit": None,
    }
    if seen.cut is not None:
        found["net_benefit"] = for_net_benefit(*seen.rates(), prevalence, float(expit(intercept + slope * seen.cut)))
    return found


def _influences(seen: _Seen) -> dict[str, np.ndarray]:
    """Return what each image adds to the error of each figure, up to a factor that all images of a figure share."""
    y, own = seen.target, float(seen.target.mean())
    line = np.column_stack([np.ones_like(seen.odds), seen.odds])
    probability = expit(line @ seen.fit)
    information = (line * (probability * (1 - probability))[:, np.newaxis]).T @ line
    ranked = np.empty(len(y))
    of_sick, of_normal = placements(seen.odds, y == 1)
    ranked[y == 1], ranked[y == 0] = (of_sick - of_sick.mean()) / own, (of_normal - of_normal.mean()) / (1 - own)
    sensitivity, specificity = seen.rates()
    price = _price(own, float(expit(seen.fit @ (1.0, seen.cut)))) if seen.cut is not None else 0.0
    alarms = 1 - specificity
    benefit = y * (seen.called - sensitivity) / own - price * (1 - y) * (seen.called - alarms) / (1 - own)
    return {
        "observed_expected": y - own,
        "slope": (line * (y - probability)[:, np.newaxis] @ np.linalg.inv(information))[:, 1],
        "roc_auc": ranked,
        "net_benefit": benefit + price * alarms * (y - own) / (own * (1 - own)),
    }


def _design_effect(influence: np.ndarray, patient_of: np.ndarray) -> float:
    """Return the variance with patients as units, relative to that with images as units; 1 at least."""
    alone = float(np.sum(influence**2))
    return max(1.0, float(np.sum(np.bincount(patient_of, influence) ** 2)) / alone) if alone > 0 else 1.0
