"""ImageLoader: from paths to images, the first step of a pipeline."""

from __future__ import annotations

import os
import reprlib
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin

from .._io import ReadsEarlierFiles, public, user_path_text
from ..exceptions import InputError
from ._decoding import Decoding
from .batch import ImageBatch, PassesImages, TakesPaths, as_batch


@public
class ImageLoader(
    ReadsEarlierFiles,
    TakesPaths,
    PassesImages,
    TransformerMixin,
    BaseEstimator,
    auto_wrap_output_keys=None,  # type: ignore[call-arg]
):
    """Turn paths into a lazy batch of 8-bit grey images of one size.

    JPEG, PNG, TIFF, BMP, WebP and DICOM are read in any colour mode: grey levels of more than 8 bits are scaled by the
    image's own range, palettes and CMYK are converted, transparent pixels are shown on black, EXIF rotation is applied.
    DICOM needs ``pip install 'cxr-sklearn[dicom]'``; its window or look-up tables are applied, MONOCHROME1 is inverted,
    and its data about the patient are not read. The single grey channel is repeated to the three that ImageNet networks
    need.

    Files that cannot be read faithfully are treated as damaged: those with several images (except previews from
    phones), with more than 40 megapixels or 200 MB, with 16-bit colour that leaves few grey levels, and deflated DICOM.
    Decoding one raises :class:`~cxr_sklearn.exceptions.ImageReadError`, which says why.

    Parameters
    ----------
    size : int or tuple of two int, default=224
        Height and width in pixels.
    resize : {"stretch", "pad", "crop"}, default="stretch"
        Whether to change the aspect ratio, to keep it with black borders, or to keep it by cutting the longer side.
    crop : float, default=1.0
        The central part of each side that is kept before resizing: with 0.8, a tenth of height and width is cut off at
        either end. The border of a radiograph shows markers, collimators and arms, but not the lungs.

    See Also
    --------
    ImageAugmenter : Random views of the images while a pipeline is fitted.
    FrozenEmbedder : Feature vectors of the images.

    Examples
    --------
    >>> from cxr_sklearn import ImageLoader
    >>> ImageLoader(size=64).fit_transform(["a.jpeg", "b.jpeg"])  # nothing is opened yet
    ImageBatch(n=2, height=64, width=64)
    """

    def __init__(self, size: int | tuple[int, int] = 224, resize: str = "stretch", crop: float = 1.0) -> None:
        self.size = size
        self.resize = resize
        self.crop = crop

    def fit(self, X: Any, y: Any = None) -> Self:
        """Check the parameters; `X` and `y` are ignored."""
        self.decoding()
        return self

    def transform(self, X: Any) -> ImageBatch:
        """Return the images at the given paths, not opened yet.

        Parameters
        ----------
        X : array-like of n paths, one-column DataFrame, or images as an array of shape (n, H, W[, C]) and dtype uint8
            An element of type ``bytes`` is the content of a file rather than its path.

        Returns
        -------
        ImageBatch of n images

        Raises
        ------
        ValueError
            If `X` holds anything else, or a parameter is wrong.
        """
        decoding = self.decoding()
        if isinstance(X, ImageBatch):
            raise InputError("expected one path per image, but got an ImageBatch: these images are loaded already")
        if isinstance(X, list | tuple) and X and isinstance(X[0], str | bytes):
            X = np.array(X, dtype=object)  # NumPy's text arrays use the length of the longest for each
        index = X.index if isinstance(X, pd.DataFrame | pd.Series) else None
        values = np.asarray(X.to_numpy() if isinstance(X, pd.DataFrame | pd.Series) else X)
        if values.ndim > 2:
            return ImageBatch(as_batch(values)._sources, decoding)
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        strange = (
            [i for i, path in enumerate(values) if not isinstance(path, str | os.PathLike | bytes)]
            if values.ndim == 1
            else []
        )
        if values.ndim != 1 or strange:
            what = f", with {reprlib.repr(values[strange[0]])} at position {strange[0]}" if strange else ""
            raise InputError(
                f"expected one path per image (a list, array, Series or one-column DataFrame of str), but got shape "
                f"{values.shape} and dtype {values.dtype}{what}"
            )
        sources = np.empty(len(values), dtype=object)
        sources[:] = [path if isinstance(path, bytes) else user_path_text(path) for path in values]
        batch = ImageBatch(sources, decoding)
        batch.source_index = index
        return batch

    def decoding(self) -> Decoding:
        """Return the function from a file's bytes, or ``uint8 (H, W[, 1 or 3])``, to ``uint8 (height, width)``.

        Raises
        ------
        ValueError
            If a parameter is wrong.
        """
        size = self.size if isinstance(self.size, tuple | list) else (self.size, self.size)
        if len(size) != 2 or not all(isinstance(s, Integral) and not isinstance(s, bool) and s > 0 for s in size):
            raise InputError(f"size={self.size!r} must be a positive integer or a pair of them")
        if self.resize not in ("stretch", "pad", "crop"):
            raise InputError(f"resize={self.resize!r} must be 'stretch', 'pad' or 'crop'")
        if not isinstance(self.crop, Real) or isinstance(self.crop, bool) or not 0 < self.crop <= 1:
            raise InputError(f"crop={self.crop!r} must be above 0 and at most 1, the part of each side to keep")
        return Decoding(int(size[0]), int(size[1]), self.resize, float(self.crop))
