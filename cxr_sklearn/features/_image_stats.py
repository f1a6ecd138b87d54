"""Size, mode, brightness, contrast and low frequencies of an image, measured once and kept like a feature."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.fft import dctn

from .._progress import progress_bar
from ..images.batch import ImageBatch
from ..images.loader import ImageLoader
from .store import FeatureStore, NoStore, readable_rows, store_directory

MEASURES = ("width", "height", "mean", "contrast", "mode")
#: Pillow's modes and DICOM's photometric interpretations; a row holds the position, -1 for any other.
MODES = (
    "L", "RGB", "1", "P", "LA", "RGBA", "CMYK", "I;16", "I;16B", "I", "F", "YCbCr",
    "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT",
)  # fmt: skip
#: Standard deviation of the grey levels below which nobody sees anything; radiographs have 18 and more.
BLANK = 2.0
#: Height and width of what is described, whatever the size of the image.
SIZE = 64
_FREQUENCIES = 24
_CHUNK_SIZE = 256


class Descriptors(NamedTuple):
    """Rows of n images, with no meaning where an image cannot be read."""

    #: Content keys, None where a file cannot be read at all.
    keys: list[bytes | None]
    #: Columns ``MEASURES``: pixels, pixels, grey levels (0 to 255) twice, and a position in ``MODES``.
    measures: pd.DataFrame
    #: float32 (n, 575): the lowest frequencies of the cosine transform, the mean grey level left out.
    spectra: np.ndarray
    #: Why images cannot be read, by path.
    failures: dict[str, str]


def describe(
    X: Any, store: str | os.PathLike[str] | None, title: str, verbose: int, *, crop: float = 1.0
) -> Descriptors:
    """Measure images, or look their rows up in the store.

    Parameters
    ----------
    X : as for :meth:`ImageLoader.transform`
    store : str, path or None
        As for :class:`FrozenEmbedder`.
    title : str
        Of the progress bar.
    verbose : int
        1 shows it.
    crop : float, default=1.0
        The central part of each side that is looked at; width and height are those of the whole image.
    """
    recipe = {"measures": MEASURES, "modes": MODES, "size": SIZE, "frequencies": _FREQUENCIES}
    rows_store = NoStore() if store is None else FeatureStore(store_directory(store), "descriptors", recipe)
    batch = ImageLoader(size=SIZE, crop=crop).transform(X).pinned(rows_store.digests)
    with progress_bar(title, len(batch), show=verbose > 0) as advance:
        rows, _, failures = readable_rows(batch, rows_store, _describe, chunk_size=_CHUNK_SIZE, advance=advance)
    if not rows.shape[1]:  # not one of them can be read
        rows = np.zeros((len(batch), len(MEASURES) + _FREQUENCIES**2 - 1), dtype=np.float32)
    measures = pd.DataFrame(rows[:, : len(MEASURES)], columns=list(MEASURES))
    return Descriptors(batch.content_keys()[0], measures, rows[:, len(MEASURES) :], failures)


def _describe(batch: ImageBatch, images: list[np.ndarray]) -> np.ndarray:
    with ThreadPoolExecutor() as pool:  # each file is read again, to be sure that it is still the same
        headers = list(pool.map(batch.source_header, range(len(batch))))
    measures = [
        (width, height, pixels.mean(), pixels.std(), MODES.index(mode) if mode in MODES else -1)
        for (width, height, mode), pixels in zip(headers, images, strict=True)
    ]
    grey = np.stack([pixels[..., 0] for pixels in images]).astype(np.float32)
    spectra = dctn(grey, axes=(1, 2), norm="ortho")[:, :_FREQUENCIES, :_FREQUENCIES].reshape(len(images), -1)[:, 1:]
    return np.hstack([np.array(measures, dtype=np.float32), spectra])
