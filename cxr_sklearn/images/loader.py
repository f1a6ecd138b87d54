"""ImageLoader: from paths to images, the first step of a pipeline."""

from __future__ import annotations

import os
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags

from .._io import ReadsEarlierFiles, public
from ..exceptions import InputError
from ._decoding import Decoding
from .batch import ImageBatch, PassesImages, as_batch


@public
class ImageLoader(
    ReadsEarlierFiles,
    PassesImages,
    TransformerMixin,
    BaseEstimator,
    auto_wrap_output_keys=None,  # type: ignore[call-arg]
):
    """Turn paths into a lazy batch of 8-bit grey images of one size.

    JPEG, PNG, TIFF, BMP, WebP and DICOM are read, whatever their colours: grey levels of more than 8 bits are scaled by
    the image's own range, palettes and CMYK are converted, transparency is laid over black, EXIF rotation is applied.
    DICOM needs ``pip install 'cxr-sklearn[dicom]'``; its window or look-up tables are applied, MONOCHROME1 is inverted,
    and what it says about the patient is not read. The single grey channel is repeated to the three that ImageNet
    networks take.

    What cannot be read right is refused, like a damaged file: one of several images (but for the previews of phones),
    of more than 40 megapixels or 200 MB, 16-bit colour that leaves few grey levels, deflated DICOM. Asking for its
    pixels raises :class:`~cxr_sklearn.exceptions.ImageReadError`, which says why.

    Parameters
    ----------
    size : int or tuple of two int, default=224
        Height and width in pixels.
    resize : {"stretch", "pad", "crop"}, default="stretch"
        What becomes of the aspect ratio: given up, kept with black borders, or kept by cutting the longer side.
    crop : float, default=1.0
        The central part of each side that is kept, before anything is resized: with 0.8, a tenth is cut off at either
        end of height and width. What is on the border of a radiograph (markers, collimators, arms) is not the lung.

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
        """Check the parameters; nothing is learnt.

        Parameters
        ----------
        X : as for :meth:`transform`
        y : ignored

        Returns
        -------
        self : ImageLoader
        """
        self.decoding()
        return self

    def transform(self, X: Any) -> ImageBatch:
        """Return the images at the given paths, not opened yet.

        Parameters
        ----------
        X : array-like of n paths, one-column DataFrame, or images as an array of shape (n, H, W[, C]) and dtype uint8
            An element of type ``bytes`` is the content of a file, not its path.

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
            X = np.array(X, dtype=object)  # as they are: an array of text would hold each at the length of the longest
        values = np.asarray(X.to_numpy() if isinstance(X, pd.DataFrame | pd.Series) else X)
        if values.ndim > 2:
            return ImageBatch(as_batch(values)._sources, decoding)
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if values.ndim != 1 or not all(isinstance(path, str | os.PathLike | bytes) for path in values):
            raise InputError(
                f"expected one path per image (a list, array, Series or one-column DataFrame of str), but got shape "
                f"{values.shape} and dtype {values.dtype}"
            )
        sources = np.empty(len(values), dtype=object)
        sources[:] = [os.fspath(path) for path in values]
        return ImageBatch(sources, decoding)

    def decoding(self) -> Decoding:
        """Return what makes pixels of one file's bytes, for whoever has no path to give.

        Returns
        -------
        callable
            From bytes, or ``uint8 (H, W[, 1 or 3])``, to ``uint8 (height, width)``: the grey levels that a batch has.

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
            raise InputError(
                f"crop={self.crop!r} must be a number above 0 and at most 1, the part of each side to keep"
            )
        return Decoding(int(size[0]), int(size[1]), self.resize, float(self.crop))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        tags.requires_fit = False
        return tags
