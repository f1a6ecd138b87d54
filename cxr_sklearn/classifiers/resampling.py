"""Classifiers that change the training rows: augmented views of images, or classes of equal weight."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from numbers import Integral
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.utils import Tags, _safe_indexing, get_tags, indexable
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from .._io import public
from .._validation import check_groups, check_labels, check_parameters, fit_params, request_weights
from ..exceptions import InputError
from ..images.augment import ImageAugmenter
from ..images.batch import as_batch

METHODS = ("none", "undersample", "weights", "augment")


class Plan(NamedTuple):
    """The training rows: their positions in X, the view of each (0 is the image itself) and their weights."""

    rows: np.ndarray
    views: np.ndarray
    weight: np.ndarray | None


def _estimator_has(name: str) -> Callable[[Any], bool]:
    return lambda self: hasattr(getattr(self, "estimator_", self.estimator), name)


class ResamplingClassifier(MetaEstimatorMixin, ClassifierMixin, BaseEstimator, ABC):
    """Base of the classifiers that fit another one on changed rows; subclasses define :meth:`_plan`.

    Attributes
    ----------
    estimator_ : estimator
        The fitted classifier.
    augmenter_ : ImageAugmenter or None
        Draws the views, if there are any.
    classes_ : ndarray of shape (n_classes,)
    """

    # With metadata routing, patients are requested by default, as by scikit-learn's group splitters.
    __metadata_request__fit = {"groups": True}

    estimator: Any
    augmenter: ImageAugmenter | None
    random_state: int | None

    def fit(
        self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None, *, groups: ArrayLike | None = None
    ) -> Self:
        """Fit the classifier.

        Parameters
        ----------
        X : ImageBatch of n images, or other data of n rows that the classifier takes; only images have views
        y : array-like of shape (n,)
        sample_weight : array-like of shape (n,) or None
        groups : array-like of shape (n,) or None
            Patients, for a classifier that holds some out. With None, every image is a patient of its own.

        Returns
        -------
        self : ResamplingClassifier

        Raises
        ------
        ValueError
            If a parameter is wrong, views are needed but `X` is not images, or weights are needed but the classifier
            does not accept them.
        """
        check_parameters(self)
        if not hasattr(self.estimator, "fit") or isinstance(self.estimator, type):
            raise InputError(f"estimator={self.estimator!r} must be a classifier")
        X, labels = indexable(X, check_labels(y, type(self).__name__))
        if not len(labels):
            raise InputError("there are no images to fit on, 0 samples")
        weight = None
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, labels, copy=True, ensure_non_negative=True)
        rows, views, weight = self._plan(labels, weight)
        patients = check_groups(groups, len(labels))
        self.augmenter_ = self._fitted_augmenter(X) if views.any() else None
        drawn = _safe_indexing(X, rows) if self.augmenter_ is None else self.augmenter_.view(as_batch(X)[rows], views)
        estimator = clone(self.estimator)
        if weight is not None:
            request_weights(estimator)
        params = fit_params(estimator, sample_weight=weight, groups=patients[rows])
        if weight is not None and not any(name.endswith("sample_weight") for name in params):
            raise InputError(f"{self.estimator!r} takes no sample_weight; choose another method or classifier")
        self.estimator_ = estimator.fit(drawn, labels[rows], **params)
        self.classes_ = self.estimator_.classes_
        if hasattr(self.estimator_, "n_features_in_"):
            self.n_features_in_ = self.estimator_.n_features_in_
        return self

    def _fitted_augmenter(self, X: Any) -> ImageAugmenter:
        augmenter = ImageAugmenter() if self.augmenter is None else self.augmenter
        try:
            return augmenter.seeded(self.random_state).fit(X)
        except InputError as error:
            raise InputError(f"{type(self).__name__} draws views of images, but {error}") from error

    def _inputs(self, X: Any) -> Any:
        """Return `X` as the classifier got it in ``fit``."""
        check_is_fitted(self)
        return X if self.augmenter_ is None else as_batch(X)

    def get_metadata_routing(self) -> MetadataRouter:
        """Return which metadata this classifier and the one that it fits request."""
        mapping = MethodMapping().add(caller="fit", callee="fit")
        router = MetadataRouter(owner=self).add_self_request(self)
        return router.add(estimator=self.estimator, method_mapping=mapping)

    @abstractmethod
    def _plan(self, labels: np.ndarray, weight: np.ndarray | None) -> Plan:
        """Choose the training rows, their views and their weights."""

    @available_if(_estimator_has("predict_proba"))
    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class.

        Parameters
        ----------
        X : as in ``fit``

        Returns
        -------
        ndarray of shape (n, n_classes)
            Columns in the order of ``classes_``.
        """
        images = self._inputs(X)  # which checks that there is an estimator_
        return self.estimator_.predict_proba(images)

    def predict(self, X: Any) -> np.ndarray:
        """Return the class of each image.

        Parameters
        ----------
        X : as in ``fit``

        Returns
        -------
        ndarray of shape (n,)
        """
        images = self._inputs(X)
        return self.estimator_.predict(images)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self.estimator).input_tags
        return tags


@public
class AugmentedClassifier(ResamplingClassifier):
    """Fit a classifier on images and on random views of them.

    Inside a cross-validation the views are drawn within the fold, so no view of a held-out image is ever trained on.

    Parameters
    ----------
    estimator : classifier of images
        E.g. a pipeline of a :class:`FrozenEmbedder` and a head.
    augmenter : ImageAugmenter or None, default=None
        None is ``ImageAugmenter()``.
    n_views : int, default=4
        Views of each image, besides the image itself.
    tta : bool, default=False
        Test-time augmentation: predict the mean probability over an image and its views.
    random_state : int or None, default=None
        Seed of the augmenter, if that has no seed of its own. Without either, every fit draws new views, so the feature
        store has no features of them.

    Examples
    --------
    >>> from cxr_sklearn import AugmentedClassifier, FrozenEmbedder, ImageLoader
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> head = make_pipeline(FrozenEmbedder("VGG16"), LogisticRegression())
    >>> model = make_pipeline(ImageLoader(), AugmentedClassifier(head, random_state=0))
    """

    def __init__(
        self,
        estimator: Any,
        augmenter: ImageAugmenter | None = None,
        n_views: int = 4,
        tta: bool = False,
        random_state: int | None = None,
    ) -> None:
        self.estimator = estimator
        self.augmenter = augmenter
        self.n_views = n_views
        self.tta = tta
        self.random_state = random_state

    def _plan(self, labels: np.ndarray, weight: np.ndarray | None) -> Plan:
        if not isinstance(self.n_views, Integral) or self.n_views < 1:
            raise InputError(f"n_views={self.n_views!r} must be a positive integer")
        rows = np.tile(np.arange(len(labels)), 1 + self.n_views)
        views = np.repeat(np.arange(1 + self.n_views), len(labels))
        return Plan(rows, views, None if weight is None else weight[rows])

    @available_if(_estimator_has("predict_proba"))
    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, (n, n_classes); with `tta`, the mean over an image and its views."""
        images = self._inputs(X)
        views = range(1 + self.n_views if self.tta and self.augmenter_ is not None else 1)
        batches = [self.augmenter_.view(images, view) if self.augmenter_ and view else images for view in views]
        return np.mean([self.estimator_.predict_proba(batch) for batch in batches], axis=0)

    def predict(self, X: Any) -> np.ndarray:
        """Return the class of each image; with `tta`, the one with the highest mean probability."""
        return self.classes_[np.argmax(self.predict_proba(X), axis=1)] if self.tta else super().predict(X)


@public
class BalancedClassifier(ResamplingClassifier):
    """Fit a classifier as if all classes were equally frequent.

    Parameters
    ----------
    estimator : classifier
    method : {"weights", "undersample", "augment", "none"}, default="weights"
        Weight each class by its rarity; drop images of the larger classes at random; add random views of images of
        the rarer classes until all are as large as the largest; or leave everything as it is.
    augmenter : ImageAugmenter or None, default=None
        For "augment"; None is ``ImageAugmenter()``.
    random_state : int or None, default=None
        Seed for dropping images, and of the augmenter if that has no seed of its own.

    Examples
    --------
    >>> from cxr_sklearn import BalancedClassifier
    >>> from sklearn.neural_network import MLPClassifier
    >>> model = BalancedClassifier(MLPClassifier(), "weights")
    """

    def __init__(
        self,
        estimator: Any,
        method: str = "weights",
        augmenter: ImageAugmenter | None = None,
        random_state: int | None = None,
    ) -> None:
        self.estimator = estimator
        self.method = method
        self.augmenter = augmenter
        self.random_state = random_state

    def _plan(self, labels: np.ndarray, weight: np.ndarray | None) -> Plan:
        if self.method not in METHODS:
            raise InputError(f"method={self.method!r} must be one of {METHODS}")
        everything = np.arange(len(labels))
        if self.method == "weights":
            balanced = compute_sample_weight("balanced", labels)
            return Plan(everything, 0 * everything, balanced if weight is None else weight * balanced)
        classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        sizes = [len(members) for members in classes]
        rows, views = everything, 0 * everything
        if self.method == "undersample":
            draw = np.random.default_rng(self.random_state)
            rows = np.sort(np.concatenate([draw.choice(members, min(sizes), replace=False) for members in classes]))
            views = 0 * rows
        elif self.method == "augment":
            # np.resize repeats the members in turn, so all images get their k-th view before any gets its (k+1)-th.
            rows = np.concatenate([np.resize(members, max(sizes)) for members in classes])
            views = np.concatenate([np.arange(max(sizes)) // n for n in sizes])
        return Plan(rows, views, None if weight is None else weight[rows])
