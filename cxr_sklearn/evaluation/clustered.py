"""Rates and AUCs of part of the images, and their differences, with intervals over patients in closed form."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata, t

#: With fewer images, or fewer patients, an estimate says little.
FEW_IMAGES, FEW_PATIENTS = 30, 10


class Estimate(NamedTuple):
    """A rate or an AUC, which lies between 0 and 1.

    Attributes
    ----------
    value : float
    influence : ndarray of shape (n_patients,)
        How far each patient moves the value, to the first order; the squares add up to the variance.
    images, patients : int
        Those that it depends on; of an AUC, those of the class that has fewer images, or fewer patients.
    n_max : int
        The number of images that the value cannot be more certain than.
    """

    value: float
    influence: np.ndarray
    images: int
    patients: int
    n_max: int

    @property
    def few(self) -> bool:
        """Whether it depends on too few images or patients to say much."""
        return self.images < FEW_IMAGES or self.patients < FEW_PATIENTS

    def ends(self, level: float = 0.95) -> tuple[float, float] | None:
        """Return both ends of its interval, or None if it depends on one patient.

        It is Wilson's interval of as many images as would be as certain if each showed another patient, with the
        quantile of Student's t. Where that number cannot be known, as with a rate of 0 or 1, each patient counts once.

        References
        ----------
        Saha, Miller, Wang (2016). A comparison of some approximate confidence intervals for a single proportion for
        clustered binary outcome data. International Journal of Biostatistics 12(2).

        Korn, Graubard (1998). Confidence intervals for proportions with small expected number of positive counts
        estimated from survey data. Survey Methodology 24, 193-201.
        """
        if self.patients < 2:
            return None
        spread, variance = self.value * (1 - self.value), float(self.influence @ self.influence)
        if spread < 1e-12:
            n = float(self.patients)
        else:
            n = min(spread / variance, self.n_max) if variance else float(self.n_max)
        quantile = float(t.ppf((1 + level) / 2, self.patients - 1)) ** 2
        middle = (self.value + quantile / (2 * n)) / (1 + quantile / n)
        half = np.sqrt(quantile * (spread / n + quantile / (4 * n**2))) / (1 + quantile / n)
        return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def share(hits: np.ndarray, members: np.ndarray, patient_of: np.ndarray) -> Estimate | None:
    """Return the share of members that are hits; None without members.

    `hits` and `members` are bool, shape (n_images,); `patient_of` numbers the patient of each image from 0.
    """
    return share_of_counts(np.bincount(patient_of, members & hits), np.bincount(patient_of, members))


def share_of_counts(hits: np.ndarray, images: np.ndarray) -> Estimate | None:
    """Return the share of images that are hits, from the counts of each patient, shape (n_patients,)."""
    n = int(images.sum())
    if not n:
        return None
    value = float(hits.sum() / n)
    return _estimate(value, (hits - value * images) / n, n, int(np.count_nonzero(images)), n)


def roc_auc(target: np.ndarray, score: np.ndarray, members: np.ndarray, patient_of: np.ndarray) -> Estimate | None:
    """Return the ROC AUC of the members; None without members of both classes. `target` is 0 or 1.

    References
    ----------
    Obuchowski (1997). Nonparametric analysis of clustered ROC curve data. Biometrics 53, 567-578.
    """
    positive, negative = members & (target == 1), members & (target == 0)
    n_positive, n_negative = int(positive.sum()), int(negative.sum())
    if not n_positive or not n_negative:
        return None
    sick, well = score[positive], score[negative]
    ranks = rankdata(np.concatenate([sick, well]))
    # Of each image, the share of images of the other class that it is ordered rightly with.
    right_sick = (ranks[:n_positive] - rankdata(sick)) / n_negative
    right_well = 1 - (ranks[n_positive:] - rankdata(well)) / n_positive
    value = float(right_sick.mean())
    parts = np.zeros(len(target))
    parts[positive] = (right_sick - value) / n_positive
    parts[negative] = (right_well - value) / n_negative
    n_patients = min(len(np.unique(patient_of[of_class])) for of_class in (positive, negative))
    n_images = min(n_positive, n_negative)
    return _estimate(value, np.bincount(patient_of, parts), n_images, n_patients, n_positive + n_negative)


def _estimate(value: float, influence: np.ndarray, images: int, patients: int, n_max: int) -> Estimate:
    """Correct the influences for the number of patients that they come from."""
    factor = np.sqrt(patients / (patients - 1)) if patients > 1 else 1.0
    return Estimate(value, influence * factor, images, patients, n_max)


def difference(
    a: Estimate, b: Estimate, level: float, factors: tuple[float, float] = (1.0, 1.0)
) -> tuple[float, float] | None:
    """Return both ends of the interval of the first value minus the second; None if either has no interval.

    It is made of the intervals of both, so it holds for rates of 0 and 1 too. Patients may be in both. The positive
    `factors` multiply the values first.

    References
    ----------
    Zou, Donner (2008). Construction of confidence limits about effect measures: a general approach. Statistics in
    Medicine 27, 1693-1702.
    """
    of_a, of_b = a.ends(level), b.ends(level)
    if of_a is None or of_b is None:
        return None
    size = np.sqrt((a.influence @ a.influence) * (b.influence @ b.influence))
    correlation = float(a.influence @ b.influence / size) if size else 0.0
    found = []
    for sign, to_a, to_b in (
        (-1, factors[0] * (a.value - of_a[0]), factors[1] * (of_b[1] - b.value)),
        (1, factors[0] * (of_a[1] - a.value), factors[1] * (b.value - of_b[0])),
    ):
        squared = to_a**2 + to_b**2 - 2 * correlation * to_a * to_b
        found.append(float(factors[0] * a.value - factors[1] * b.value + sign * np.sqrt(max(squared, 0.0))))
    return found[0], found[1]
