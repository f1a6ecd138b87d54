"""Small pictures of radiographs inside the page."""

from __future__ import annotations

import base64
import io

from PIL import Image

from ..exceptions import ImageReadError
from ..loader import ImageLoader

#: Height and width in pixels.
SIZE = 176


def thumbnail(path: str) -> tuple[str, str | None]:
    """Return a radiograph as a ``data:`` address, and None or why it cannot be read.

    The folder may have moved since the run: a picture that is missing costs the report nothing else.
    """
    try:
        grey = ImageLoader(SIZE, resize="pad").transform([path])[0][:, :, 0]
    except ImageReadError as error:
        return "", error.failures[path]
    jpeg = io.BytesIO()
    Image.fromarray(grey).save(jpeg, format="JPEG", quality=75, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode(), None
