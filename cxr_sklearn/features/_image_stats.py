"""Size, mode, brightness, contrast and low frequencies of images, kept in a store like features."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.fft import dctn

from .._progress import progress_bar
from ..exceptions import ImageReadError
from ..images._decoding import DECODER
from ..images.batch import ImageBatch
from ..images.loader import ImageLoader
from .store import FeatureStore, NoStore, readable_rows, store_directory

MEASURES = ("width", "height", "mean", "contrast", "mode")
#: Pillow's modes and DICOM's photometric interpretations; a row holds the position, or -1 for any other mode.
MODES = (
    "L", "RGB", "1", "P", "LA", "RGBA", "CMYK", "I;16", "I;16B", "I", "F", "YCbCr",
    "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT",
)  # fmt: skip
#: Standard deviation of the grey levels below which an image counts as blank; that of radiographs is 18 or more.
BLANK = 2.0
#: Height and width to which images of any size are scaled before they are measured.
SIZE = 64
_FREQUENCIES = 24
_CHUNK_SIZE = 256
#: The file of the store, and what its rows depend on.
DESCRIPTORS = "descriptors"
RECIPE = {"measures": MEASURES, "modes": MODES, "size": SIZE, "frequencies": _FREQUENCIES, "decoder": DECODER}


class ImageStats(NamedTuple):
    """What was measured of n images.

    Attributes
    ----------
    rows : ndarray of shape (n, 580) and dtype float32
        ``MEASURES`` and the spectrum of each image; zeros where it cannot be read.
    digests : list of bytes or None
        SHA-256 of each file; None where it cannot be read at all.
    failures : dict of str to str
        Why images cannot be read, by path.
    """

    rows: np.ndarray
    digests: list[bytes | None]
    failures: dict[str, str]

    @property
    def measures(self) -> pd.DataFrame:
        """Columns ``MEASURES``: pixels, pixels, grey levels (0 to 255) twice, and a position in ``MODES``."""
        return pd.DataFrame(self.rows[:, : len(MEASURES)], columns=list(MEASURES))

    @property
    def spectra(self) -> np.ndarray:
        """The lowest frequencies of the cosine transform but the mean grey level, shape (n, 575)."""
        return self.rows[:, len(MEASURES) :]


def image_stats(
    X: Any, store: str | os.PathLike[str] | None, title: str, verbose: int, *, crop: float = 1.0, strict: bool = True
) -> ImageStats:
    """Measure images, or look their statistics up in the store.

    `X` is as for :meth:`ImageLoader.transform`, or rows of :class:`ImageStats`, ``float32 (n, 580)``. They are returned
    as they are, so that a run measures each image only once. `crop` is the central part of each side to measure; width
    and height are always those of the whole image. If `strict`, an ImageReadError lists images that cannot be read.
    """
    width = len(MEASURES) + _FREQUENCIES**2 - 1
    if isinstance(X, np.ndarray) and X.dtype == np.float32 and X.ndim == 2 and X.shape[1] == width:
        return ImageStats(X, [], {})
    rows_store = NoStore() if store is None else FeatureStore(store_directory(store), DESCRIPTORS, RECIPE)
    batch = ImageLoader(size=SIZE, crop=crop).transform(X).pinned(rows_store.digests).keeping_headers()
    with progress_bar(title, len(batch), show=verbose > 0) as advance:
        rows, _, failures = readable_rows(batch, rows_store, _measure, chunk_size=_CHUNK_SIZE, advance=advance)
    if failures and strict:
        raise ImageReadError(failures, len(batch))
    if not rows.shape[1]:  # none of them can be read
        rows = np.zeros((len(batch), width), dtype=np.float32)
    return ImageStats(rows, batch.source_digests(), failures)


def _measure(batch: ImageBatch, images: list[np.ndarray]) -> np.ndarray:
    headers = [batch.source_header(i) for i in range(len(batch))]  # known since the images were decoded
    measures = [
        (width, height, pixels.mean(), pixels.std(), MODES.index(mode) if mode in MODES else -1)
        for (width, height, mode), pixels in zip(headers, images, strict=True)
    ]
    grey = np.stack([pixels[..., 0] for pixels in images]).astype(np.float32)
    spectra = dctn(grey, axes=(1, 2), norm="ortho")[:, :_FREQUENCIES, :_FREQUENCIES].reshape(len(images), -1)[:, 1:]
    return np.hstack([np.array(measures, dtype=np.float32), spectra])
