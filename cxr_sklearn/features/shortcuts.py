"""ShortcutFeatures: size and brightness of radiographs, which may separate the classes without showing a lung."""

from __future__ import annotations

import os
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags

from .._io import public
from .._settings import usual_settings
from .._validation import check_parameters
from ..images.batch import TakesPaths
from ._image_stats import image_stats

NAMES = ("width", "height", "aspect_ratio", "mean", "contrast")


@public
class ShortcutFeatures(TakesPaths, TransformerMixin, BaseEstimator):
    """Measure width, height, aspect ratio, mean grey level and contrast of radiographs.

    A classifier on these features has seen no lung. In many collections it is still far better than chance, because
    sick and healthy patients were imaged on different machines; networks learn that, too (DeGrave et al., 2021).

    Parameters
    ----------
    store : str, path or None, default="auto"
        Folder of the feature store, as for :class:`FrozenEmbedder`.
    verbose : int, default=0
        1 shows a progress bar.

    References
    ----------
    DeGrave, Janizek, Lee (2021). AI for radiographic COVID-19 detection selects shortcuts over signal. Nature Machine
    Intelligence 3, 610-619. https://doi.org/10.1038/s42256-021-00338-7

    Examples
    --------
    >>> from cxr_sklearn import ShortcutFeatures, make_radiographs
    >>> images, frame = make_radiographs(10, size=64, random_state=0)
    >>> ShortcutFeatures(store=None).fit_transform(images).shape == (len(images), 5)
    True
    """

    def __init__(self, store: str | os.PathLike[str] | None = "auto", verbose: int = 0) -> None:
        self.store = store
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> Self:
        """Return the transformer unchanged: it has nothing to learn.

        Parameters
        ----------
        X : as for :meth:`transform`
        y : ignored

        Returns
        -------
        self : ShortcutFeatures
        """
        return self

    @usual_settings
    def transform(self, X: Any) -> np.ndarray:
        """Return the measurements.

        Parameters
        ----------
        X : array-like of n paths, one-column DataFrame, or images as an array of shape (n, H, W[, C]) and dtype uint8

        Returns
        -------
        ndarray of shape (n, 5) and dtype float64
            Width and height in pixels, width over height, mean and standard deviation of the grey levels (0 to 255).

        Raises
        ------
        ImageReadError
            If images cannot be read; the error lists every one.
        """
        check_parameters(self)
        stats = image_stats(X, self.store, "Measuring images", self.verbose)
        width, height, mean, contrast = stats.rows[:, :4].T
        # In float32, OpenBLAS 0.3.31 (AVX-512) reads beyond rows of exactly five numbers, and NumPy may warn of
        # invalid values.
        return np.stack([width, height, width / height, mean, contrast], axis=1).astype(np.float64)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the names of the five measurements.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        ndarray of str, shape (5,)
        """
        return np.array(NAMES, dtype=object)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags
