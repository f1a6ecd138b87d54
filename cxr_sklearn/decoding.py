"""From a file's bytes to grey pixels of one size, whatever the format, colours and depth."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")
#: Larger images are refused before a pixel is decoded; the largest radiography detectors have 30 megapixels.
MAX_PIXELS = 80_000_000


@dataclass(frozen=True)
class Decoding:
    """How a file becomes grey pixels of one size; part of every content key."""

    height: int
    width: int
    resize: str

    def __call__(self, source: bytes | np.ndarray) -> np.ndarray:
        """Return ``uint8 (height, width)``; whatever a file's bytes can make Pillow raise comes out unchanged."""
        if isinstance(source, np.ndarray):
            return self._fit(Image.fromarray(grey_array(source)))
        with Image.open(io.BytesIO(source), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width:,} x {image.height:,} pixels are more than the {MAX_PIXELS:,} allowed")
            # JPEG can be decoded at a half, quarter or eighth; twice the wanted size leaves the resize filter its work.
            image.draft("L", (2 * self.width, 2 * self.height))
            return self._fit(_to_grey(ImageOps.exif_transpose(image)))

    def _fit(self, image: Image.Image) -> np.ndarray:
        size = (self.width, self.height)
        if self.resize == "pad":
            image = ImageOps.pad(image, size, Image.Resampling.BILINEAR, color=0)
        elif self.resize == "crop":
            image = ImageOps.fit(image, size, Image.Resampling.BILINEAR)
        else:
            image = image.resize(size, Image.Resampling.BILINEAR)
        return np.asarray(image, dtype=np.uint8)


def _to_grey(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_scale_to_8_bit(np.asarray(image, dtype=np.float64)))
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(opaque, image.convert("RGBA"))
    elif image.mode in ("CMYK", "P"):
        image = image.convert("RGB")
    return image.convert("L")


def _scale_to_8_bit(values: np.ndarray) -> np.ndarray:
    """Scale by the image's own range: detectors use 10 to 14 of the 16 bits, so a fixed shift would leave it black."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(high - low):
        raise ValueError("pixel values are not finite")
    return np.rint((values - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)


def grey_array(pixels: np.ndarray) -> np.ndarray:
    """Return ``uint8 (H, W)`` of pixels ``uint8 (H, W[, 1 or 3])``."""
    if pixels.ndim == 3 and pixels.shape[2] == 3:
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))
    return pixels.reshape(pixels.shape[:2])


def reason_of(error: Exception) -> str:
    """Say in one line why a file cannot be read."""
    if isinstance(error, UnidentifiedImageError):
        return f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(f"{error}".split()) or type(error).__name__
