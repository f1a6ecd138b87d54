"""Limits on images, and arithmetic on grey levels that all file formats share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

#: Larger images are refused before any pixel is decoded. The largest radiography detectors have 30 megapixels; up to
#: this number, decoding takes at most 1 GB in every format and depth.
MAX_PIXELS = 40_000_000
#: The longest side that JPEG and DICOM allow.
MAX_SIDE = 65_535
_BLOCK_PIXELS = 1_000_000
#: Pillow cuts the low byte off 16-bit colour; with fewer remaining levels than this, steps would be visible.
_MIN_LEVELS = 128


class RefusedError(ValueError):
    """The reason why a file is not read, in this package's own words."""


def check_pixels(width: int, height: int) -> None:
    """Refuse an image that is larger than any radiograph."""
    if width * height > MAX_PIXELS:
        raise RefusedError(f"{width:,} x {height:,} pixels are more than the {MAX_PIXELS:,} allowed")
    if max(width, height) > MAX_SIDE:
        raise RefusedError(f"{width:,} x {height:,} pixels: no side may be longer than {MAX_SIDE:,}")


def row_blocks(height: int, width: int) -> list[tuple[int, int]]:
    """Return the start and stop of blocks of rows that are small enough for copies in float64."""
    step = max(_BLOCK_PIXELS // width, 1)
    return [(start, min(start + step, height)) for start in range(0, height, step)]


def scale_to_8_bit(block: Callable[[int, int], np.ndarray], height: int, width: int) -> np.ndarray:
    """Scale to 8 bits by the image's own range: detectors use 10 to 14 of 16 bits, so a fixed shift would be too dark.

    Parameters
    ----------
    block : callable
        From the start and stop of rows to their values.
    height, width : int
    """
    blocks = row_blocks(height, width)
    extremes = np.array(
        [(values.min(), values.max()) for values in (block(*rows) for rows in blocks)], dtype=np.float64
    )
    low, high = float(extremes.min()), float(extremes.max())
    if not np.isfinite(high - low):
        raise RefusedError("some of its pixel values are not finite")
    grey = np.empty((height, width), dtype=np.uint8)
    for start, stop in blocks:
        values = (block(start, stop).astype(np.float64) - low) * (255 / max(high - low, 1e-12))
        grey[start:stop] = np.rint(values)
    return grey


def grey_array(pixels: np.ndarray) -> np.ndarray:
    """Return ``uint8 (H, W)`` of pixels ``uint8 (H, W[, 1 or 3])``."""
    if pixels.ndim == 3 and pixels.shape[2] == 3:
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))
    return pixels.reshape(pixels.shape[:2])
