"""What the page shows of an image: the picture as the model takes it, and the heat map to lay over it."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import ExifTags, Image

from ..decoding import FORMATS, Decoding, size_and_mode

_LONGEST_SIDE = 640
#: EXIF orientations that exchange width and height.
_LYING = (5, 6, 7, 8)


def picture(content: bytes, taken: Decoding | None) -> str:
    """Return an image that can be decoded as the data URL of a JPEG, upright and of the part that the model takes.

    Parameters
    ----------
    content : bytes
    taken : Decoding or None
        How the model decodes images, if it looks at one size of them.
    """
    crop = 1.0 if taken is None else taken.crop
    if taken is None or taken.resize == "stretch":
        width, height = (side * crop for side in _upright_size(content))
        resize, largest = "stretch", 1.0
    else:
        width, height, resize = taken.width, taken.height, taken.resize
        largest = np.inf
    scale = min(largest, _LONGEST_SIDE / max(width, height))
    shown = Decoding(max(round(height * scale), 1), max(round(width * scale), 1), resize, crop)(content)
    return _data_url(Image.fromarray(shown), "JPEG")


def heat_picture(heat: np.ndarray) -> str:
    """Return a heat map as the data URL of a PNG: opacity is heat, and colour goes from yellow to red with it.

    Parameters
    ----------
    heat : ndarray of shape (H, W)
        From 0 to 1.
    """
    level = np.rint(255 * np.clip(heat, 0, 1)).astype(np.uint8)
    full, none = np.full_like(level, 255), np.zeros_like(level)
    return _data_url(Image.fromarray(np.dstack([full, 255 - level, none, level])), "PNG")


def _upright_size(content: bytes) -> tuple[int, int]:
    width, height, _ = size_and_mode(content)
    if content[128:132] == b"DICM":
        return width, height
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        # Pillow tells the size of a TIFF as it is upright.
        is_lying = image.format != "TIFF" and image.getexif().get(ExifTags.Base.Orientation) in _LYING
    return (height, width) if is_lying else (width, height)


def _data_url(image: Image.Image, format: str) -> str:
    file = io.BytesIO()
    image.save(file, format)
    return f"data:image/{format.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
