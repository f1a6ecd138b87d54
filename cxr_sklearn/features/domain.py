"""DomainDetector: whether an image looks like the training images of a model."""

from __future__ import annotations

import os
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.decomposition import PCA
from sklearn.model_selection import GroupKFold
from sklearn.neighbors import LocalOutlierFactor
from sklearn.utils.validation import check_is_fitted

from .._io import ReadsEarlierFiles, public
from .._settings import one_blas_thread, usual_settings
from .._validation import check_groups, check_parameters
from ..exceptions import InputError
from ..images.batch import TakesPaths
from ._image_stats import BLANK, ImageStats, image_stats

#: Share of held-out training images that are flagged.
FLAGGED = 0.01
_COMPONENTS, _NEIGHBOURS, _FOLDS = 32, 20, 5
#: More training images would make the detector large and slow, and hardly better.
_MOST_IMAGES = 5_000


@public
class DomainDetector(ReadsEarlierFiles, TakesPaths, OutlierMixin, BaseEstimator):
    """Flag images that look very unlike the training images, by local outlier factors.

    An image is described by the low frequencies of its cosine transform, its mean grey level and its contrast.
    Photographs, blank images, noise, negatives and images that lie on their side are flagged; a mirrored radiograph is
    not, and one that is upside down may not be. With fewer than a hundred training images the detector is unreliable
    and may flag one radiograph in twenty.

    Parameters
    ----------
    store : str, path or None, default="auto"
        Folder of the feature store, as for :class:`FrozenEmbedder`.
    crop : float, default=1.0
        The central part of each side to look at, as for :class:`ImageLoader`: the part that the model sees.

    Attributes
    ----------
    offset_ : float
        Outlier score below which an image is flagged, as one held-out training image in a hundred is.

    References
    ----------
    Breunig, Kriegel, Ng, Sander (2000). LOF: identifying density-based local outliers. SIGMOD, 93-104.
    """

    def __init__(self, store: str | os.PathLike[str] | None = "auto", crop: float = 1.0) -> None:
        self.store = store
        self.crop = crop

    @usual_settings
    def fit(self, X: Any, y: Any = None, groups: ArrayLike | None = None) -> Self:
        """Learn what images look like, and set the limit by cross-validation.

        Parameters
        ----------
        X : array-like of n paths, or images as an array of shape (n, H, W[, C]) and dtype uint8
        y : ignored
        groups : array-like of shape (n,), optional
            Patients, to keep the images of each together in cross-validation.

        Returns
        -------
        self : DomainDetector

        Raises
        ------
        ValueError
            If there are fewer than ten images, or nearly all show one patient.
        ImageReadError
            If images cannot be read; the error lists every one.
        """
        check_parameters(self)
        stats = self._measured(X)
        n = len(stats.rows)
        if n < 10:
            raise InputError(f"{n} images are too few to learn what radiographs look like; at least 10 are needed")
        groups = check_groups(groups, n)
        rows = np.random.default_rng(0).permutation(n)[:_MOST_IMAGES]
        values, groups = _values(stats)[rows], groups[rows]
        n_folds = min(_FOLDS, len(np.unique(groups)))
        if n_folds < 2:
            raise InputError(
                "all images show one patient; more patients are needed to learn what radiographs look like"
            )
        folds = list(GroupKFold(n_folds).split(values, groups=groups))
        if (smallest := min(len(fitted) for fitted, _ in folds)) < 5:
            raise InputError(f"all images but {smallest} show one patient; more patients are needed")
        # The same in every fit, so that scores can be compared.
        most = max(min(len(rows) // 4, smallest - 1), 1)
        sizes = min(_COMPONENTS, most), min(_NEIGHBOURS, most)
        held_out_scores = []
        # A fifth of a thousand images or more sets the limit well enough.
        for fitted, held_out in folds if len(rows) < 1_000 else folds[:1]:
            self._fit(values[fitted], *sizes)
            held_out_scores.append(self._scores(values[held_out]))
        # "lower" takes the minimum of fewer than a hundred scores; interpolation would flag an image even then.
        self.offset_ = float(np.quantile(np.concatenate(held_out_scores), FLAGGED, method="lower"))
        self._fit(values, *sizes)
        return self

    def _fit(self, values: np.ndarray, n_components: int, n_neighbours: int) -> None:
        # A table of components, which a setting of scikit-learn may ask for, would have names that the rest ignores.
        with one_blas_thread():
            self.pca_ = PCA(n_components, random_state=0).set_output(transform="default").fit(values)
        # "brute", because a .skops file cannot hold a tree.
        self.neighbours_ = LocalOutlierFactor(n_neighbors=n_neighbours, algorithm="brute", novelty=True)
        self.neighbours_.fit(self.pca_.transform(values))

    @usual_settings
    def score_samples(self, X: Any) -> np.ndarray:
        """Return the negated outlier factors, shape (n,).

        They are about -1 for images like the training images, lower for others, and minus infinity for blank images.

        Parameters
        ----------
        X : as for :meth:`fit`

        Raises
        ------
        ImageReadError
            If images cannot be read; the error lists every one.
        """
        check_is_fitted(self)
        stats = self._measured(X)
        is_blank = stats.measures["contrast"].to_numpy() < BLANK
        return np.where(is_blank, -np.inf, self._scores(_values(stats)))

    @usual_settings
    def decision_function(self, X: Any) -> np.ndarray:
        """Return the distance from the limit, shape (n,), negative for images that are flagged.

        Parameters
        ----------
        X : as for :meth:`fit`
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """Return 1 for images like the training images and -1 for others, shape (n,).

        Parameters
        ----------
        X : as for :meth:`fit`
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _measured(self, X: Any) -> ImageStats:
        return image_stats(X, self.store, "Looking at images", 0, crop=self.crop)

    def _scores(self, values: np.ndarray) -> np.ndarray:
        return self.neighbours_.score_samples(self.pca_.transform(values))


def _values(stats: ImageStats) -> np.ndarray:
    """Describe each image by numbers of similar size, whatever its contrast."""
    spectra = stats.spectra.astype(np.float64)
    unit = spectra / np.maximum(np.linalg.norm(spectra, axis=1, keepdims=True), 1)
    levels = stats.measures[["mean", "contrast"]].to_numpy(dtype=np.float64) / 255
    return np.hstack([10 * unit, 3 * levels])
