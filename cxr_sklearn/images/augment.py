"""ImageAugmenter: small, plausible changes of pose and exposure, drawn for training only."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image
from sklearn.base import BaseEstimator, TransformerMixin, clone

from .._io import public
from .._validation import check_parameters
from ..exceptions import InputError
from .batch import ImageBatch, PassesImages, as_batch


@dataclass(frozen=True, repr=False)
class Augmentation:
    """A random change of an image; the draw depends only on ``seed``, the image and the view."""

    rotation: float
    shift: float
    zoom: float
    brightness: float
    contrast: float
    flip: bool
    seed: int

    def __repr__(self) -> str:
        # Part of content keys, so a number is written in the same way for all types, and the class is not named.
        # Increase the version if the same seed gives other pixels than before.
        amounts = (self.rotation, self.shift, self.zoom, self.brightness, self.contrast)
        return f"augmentation 2: {[float(amount) for amount in amounts]}, {bool(self.flip)}, {int(self.seed)}"

    def __call__(self, pixels: np.ndarray, key: bytes) -> np.ndarray:
        draw = np.random.default_rng([self.seed, *np.frombuffer(key, dtype=np.uint32)])
        angle, shift_x, shift_y, zoom, brightness, contrast = draw.uniform(-1, 1, size=6)
        mirrored = self.flip and draw.random() < 0.5
        height, width = pixels.shape
        matrix = _inverse_affine(
            np.deg2rad(self.rotation * angle),
            1 + self.zoom * zoom,
            (self.shift * shift_x * width, self.shift * shift_y * height),
            ((width - 1) / 2, (height - 1) / 2),
        )
        image = Image.fromarray(pixels[:, ::-1] if mirrored else pixels)
        moved = image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
        grey = np.asarray(moved, dtype=np.float32)
        grey = (grey - 127.5) * (1 + self.contrast * contrast) + 127.5 + 255 * self.brightness * brightness
        return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def _inverse_affine(
    angle: float, zoom: float, shift: tuple[float, float], centre: tuple[float, float]
) -> tuple[float, ...]:
    """Return Pillow's output-to-input coefficients of a rotation and zoom about `centre` followed by a shift."""
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    (dx, dy), (cx, cy) = shift, centre
    return (cos, sin, cx - cos * (cx + dx) - sin * (cy + dy), -sin, cos, cy + sin * (cx + dx) - cos * (cy + dy))


@public
class ImageAugmenter(PassesImages, TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):  # type: ignore[call-arg]
    """Augment images while a pipeline is fitted and leave them unchanged when it predicts.

    ``fit_transform(X)``, which ``Pipeline.fit`` calls, returns one random view of every image; ``transform(X)``, which
    ``Pipeline.predict`` calls, returns the images unchanged. Hence ``fit_transform(X)`` is *not*
    ``fit(X).transform(X)``, as in :class:`sklearn.preprocessing.TargetEncoder`.

    The draw for an image is seeded by `random_state` and the image's content: the same image gets the same view in
    every fold, candidate and process, so the feature store finds the features of a view again. What is drawn are
    fractions of `rotation`, `shift` and so on, which depend neither on these nor on the size of the image.

    Parameters
    ----------
    rotation : float, default=10
        Largest rotation in either direction, in degrees.
    shift : float, default=0.05
        Largest shift in any direction, as a fraction of the image's width and height.
    zoom : float, default=0.1
        Largest relative change of scale.
    brightness : float, default=0.05
        Largest change of brightness, as a fraction of the full grey range.
    contrast : float, default=0.1
        Largest relative change of contrast about mid-grey.
    flip : bool, default=False
        Mirror half of the images. Off by default, since the heart is on one side.
    random_state : int or None, default=None
        Seed of the draws. With None, every ``fit`` draws a new seed.

    Attributes
    ----------
    seed_ : int
        The seed in use.

    Examples
    --------
    >>> from cxr_sklearn import ImageAugmenter, make_radiographs
    >>> images, frame = make_radiographs(10, size=64, random_state=0)
    >>> augmenter = ImageAugmenter(rotation=5, random_state=0)
    >>> views = augmenter.fit_transform(images)
    >>> views[0].shape
    (64, 64, 3)
    """

    def __init__(
        self,
        rotation: float = 10,
        shift: float = 0.05,
        zoom: float = 0.1,
        brightness: float = 0.05,
        contrast: float = 0.1,
        flip: bool = False,
        random_state: int | None = None,
    ) -> None:
        self.rotation = rotation
        self.shift = shift
        self.zoom = zoom
        self.brightness = brightness
        self.contrast = contrast
        self.flip = flip
        self.random_state = random_state

    def fit(self, X: ImageBatch | ArrayLike, y: Any = None) -> Self:
        """Check the parameters and fix the seed.

        Parameters
        ----------
        X : ImageBatch of n images, or ndarray of shape (n, H, W[, C]) and dtype uint8
        y : ignored

        Returns
        -------
        self : ImageAugmenter

        Raises
        ------
        ValueError
            If an amount is negative, or `zoom` or `contrast` is 1 or more, or `random_state` is not an integer.
        """
        check_parameters(self)
        as_batch(X)
        for name in ("rotation", "shift", "zoom", "brightness", "contrast"):
            limit = 1 if name in ("zoom", "contrast") else np.inf
            if not 0 <= getattr(self, name) < limit:
                raise InputError(f"{name}={getattr(self, name)!r} must be at least 0 and below {limit}")
        if not (self.random_state is None or isinstance(self.random_state, Integral)):
            raise InputError(f"random_state={self.random_state!r} must be an integer or None")
        self.seed_ = int(np.random.SeedSequence(self.random_state).generate_state(1)[0])
        return self

    def fit_transform(self, X: ImageBatch | ArrayLike, y: Any = None) -> ImageBatch:
        """Return one random view of every image, not decoded yet.

        Parameters
        ----------
        X : ImageBatch of n images, or ndarray of shape (n, H, W[, C]) and dtype uint8
        y : ignored

        Returns
        -------
        ImageBatch of n images
        """
        return self.fit(X, y).view(X, 1)

    def transform(self, X: ImageBatch | ArrayLike) -> ImageBatch:
        """Return the images, as given to ``fit``, unchanged."""
        return as_batch(X)

    def view(self, X: ImageBatch | ArrayLike, number: int | np.ndarray) -> ImageBatch:
        """Return view `number` of every image of a fitted augmenter; view 0 is the image itself.

        Parameters
        ----------
        X : ImageBatch of n images, or ndarray of shape (n, H, W[, C]) and dtype uint8
        number : int or integer ndarray of shape (n,)

        Returns
        -------
        ImageBatch of n images
        """
        amounts = {name: getattr(self, name) for name in self.get_params() if name != "random_state"}
        return as_batch(X).augmented(Augmentation(**amounts, seed=self.seed_), number)

    def seeded(self, seed: int | None) -> ImageAugmenter:
        """Return a clone with this seed, unless it has a `random_state` of its own."""
        own = clone(self)
        return own.set_params(random_state=seed) if own.random_state is None else own
