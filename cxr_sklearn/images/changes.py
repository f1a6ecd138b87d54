"""Deliberate changes of whole images: a hidden half, another exposure or scanner, a tilted patient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from PIL import Image
from sklearn.base import BaseEstimator, TransformerMixin

from ..exceptions import InputError
from .batch import ImageBatch, PassesImages, as_batch


class ImageProbe(PassesImages, TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):  # type: ignore[call-arg]
    """Base of the steps that change images on their way into a fitted pipeline; subclasses define ``transform``."""

    def fit(self, X: Any, y: Any = None) -> Self:
        """Do nothing: there is nothing to learn."""
        return self


PARTS = ("border", "centre")


@dataclass(frozen=True, repr=False)
class Occlusion:
    """Fill a part of an image with its mean grey level.

    The centre is the middle 71 % of height and width, the border is everything around it: each is half of the image.
    """

    part: str

    def __repr__(self) -> str:
        return f"Occlusion(part={str(self.part)!r})"  # in content keys

    def __call__(self, grey: np.ndarray, key: bytes) -> np.ndarray:
        inside = np.zeros(grey.shape, dtype=bool)
        height, width = grey.shape
        top, left = round(height * (1 - 0.5**0.5) / 2), round(width * (1 - 0.5**0.5) / 2)
        inside[top : height - top, left : width - left] = True
        return np.where(inside == (self.part == "centre"), np.uint8(round(grey.mean())), grey)


class ImageOccluder(ImageProbe):
    """Hide the border or the centre of every image.

    A classifier that does as well without the lungs as with them has learnt something else.

    Parameters
    ----------
    part : {"border", "centre"}, default="border"
        The part to hide; either is half of the image.

    References
    ----------
    Maguolo, Nanni (2021). A critic evaluation of methods for COVID-19 automatic detection from X-ray images.
    Information Fusion 76, 1-7.
    """

    def __init__(self, part: str = "border") -> None:
        self.part = part

    def transform(self, X: Any) -> ImageBatch:
        """Return the images, an ImageBatch or ndarray ``uint8 (n, H, W[, C])``, with a part hidden."""
        if self.part not in PARTS:
            raise InputError(f"part={self.part!r} must be one of {PARTS}")
        return as_batch(X).augmented(Occlusion(self.part), 1)


#: From and to grey pixels of any size, ``uint8 (H, W)``. Its ``repr`` is part of content keys.
Change = Callable[[np.ndarray], np.ndarray]


def _grey(levels: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Exposure:
    """Multiply the contrast about mid grey, then add grey levels."""

    contrast: float
    levels: float

    def __call__(self, grey: np.ndarray) -> np.ndarray:
        return _grey((grey.astype(np.float32) - 127.5) * self.contrast + 127.5 + self.levels)


@dataclass(frozen=True)
class Gamma:
    """Raise grey levels, as fractions of white, to a power: above 1, middle tones become darker."""

    exponent: float

    def __call__(self, grey: np.ndarray) -> np.ndarray:
        return _grey(255 * (grey.astype(np.float32) / 255) ** self.exponent)


@dataclass(frozen=True)
class Blur:
    """Resize to a square of `side` pixels and back."""

    side: int

    def __call__(self, grey: np.ndarray) -> np.ndarray:
        image = Image.fromarray(grey)
        small = image.resize((self.side, self.side), Image.Resampling.BILINEAR)
        return np.asarray(small.resize(image.size, Image.Resampling.BILINEAR))


@dataclass(frozen=True)
class Collimation:
    """Darken the top and brighten the bottom by up to `levels`, and blacken a part of the width at either side."""

    levels: float
    margin: float

    def __call__(self, grey: np.ndarray) -> np.ndarray:
        height, width = grey.shape
        changed = _grey(grey + np.linspace(-self.levels, self.levels, height, dtype=np.float32)[:, None])
        n_black = round(self.margin * width)
        changed[:, :n_black] = 0
        changed[:, width - n_black :] = 0
        return changed


@dataclass(frozen=True)
class Rotation:
    """Turn counter-clockwise about the centre; the corners are black."""

    degrees: float

    def __call__(self, grey: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(grey).rotate(self.degrees, Image.Resampling.BILINEAR))


@dataclass(frozen=True)
class Noise:
    """Add the same normal noise to every image, drawn on a square grid that is stretched over the image."""

    sd: float
    side: int
    seed: int

    def __call__(self, grey: np.ndarray) -> np.ndarray:
        height, width = grey.shape
        drawn = np.random.default_rng(self.seed).normal(0, self.sd, (self.side, self.side)).astype(np.float32)
        stretched = Image.fromarray(drawn).resize((width, height), Image.Resampling.NEAREST)
        return _grey(grey + np.asarray(stretched))


@dataclass(frozen=True)
class Shrinking:
    """Scale height and width by a factor below 1, with black all around."""

    factor: float

    def __call__(self, grey: np.ndarray) -> np.ndarray:
        height, width = (max(1, round(self.factor * side)) for side in grey.shape)
        top, left = (grey.shape[0] - height) // 2, (grey.shape[1] - width) // 2
        changed = np.zeros_like(grey)
        small = Image.fromarray(grey).resize((width, height), Image.Resampling.BILINEAR)
        changed[top : top + height, left : left + width] = small
        return changed


@dataclass(frozen=True)
class InTurn:
    """Several changes, one after the other."""

    changes: tuple[Change, ...]

    def __call__(self, grey: np.ndarray) -> np.ndarray:
        for change in self.changes:
            grey = change(grey)
        return grey


_bright, _blurred, _collimated, _tilted = Exposure(0.65, 45), Blur(80), Collimation(40, 0.1), Rotation(10)
#: The changes of :func:`stress_test` and `compare --stress`, by name.
CHANGES: dict[str, Change] = {
    "bright": _bright,
    "gamma": Gamma(1.8),
    "blurred": _blurred,
    "collimated": _collimated,
    "tilted": _tilted,
    "noisy": Noise(18, 112, 0),
    "small": Shrinking(0.82),
    "combined": InTurn((_tilted, _bright, _blurred, _collimated)),
}


class ImageStresser(ImageProbe):
    """Change every image right after it is read, before it is cropped and resized.

    Parameters
    ----------
    change : callable
        From and to grey pixels of any size, ``uint8 (H, W)``; its ``repr`` must describe it completely.
    """

    def __init__(self, change: Change) -> None:
        self.change = change

    def transform(self, X: Any) -> ImageBatch:
        """Return the changed images, not opened yet; `X` is an ImageBatch from an :class:`ImageLoader`."""
        return as_batch(X).changed(self.change)
