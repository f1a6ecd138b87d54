"""Decoding: from a file's bytes to grey pixels of one size."""

from __future__ import annotations

import io
import os
import re
import struct
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

import numpy as np
from PIL import (
    ExifTags,
    Image,
    ImageChops,
    ImageFile,
    ImageOps,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
)

from .._io import open_regular
from .._settings import Held
from ..exceptions import InputError
from ._pixels import _MIN_LEVELS, MAX_SIDE, RefusedError, check_pixels, grey_array, scale_to_8_bit

#: Part of every content key: increase it when the same bytes give other pixels than before.
DECODER = 2
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")
#: Pillow makes a Python object of 36 bytes from each value of a TIFF tag; no camera writes as many as this.
_MAX_VALUES = 1_000_000
_MAX_EXIF_BYTES = 1_000_000
#: Types of TIFF tags whose values Pillow keeps as bytes.
_BYTE_TAGS = (1, 2, 6, 7)
_MAX_REASON = 200
#: The repr of objects and bytes, which means nothing to users.
_OBJECTS = re.compile(r"""<[^<>]* at 0x[0-9a-f]+>|b'(?:[^'\\]|\\.)*'|b"(?:[^"\\]|\\.)*"|bytearray\(.*\)""")
#: Group and element, little-endian, with which a DICOM file without a preamble begins.
_FIRST_ELEMENTS = [
    bytes((group, 0, element, 0))
    for group, element in ((2, 0), (2, 1), (2, 2), (8, 0), (8, 1), (8, 5), (8, 8), (8, 22))
]
#: Switches of Pillow's modules that decide what is read: half an image of a damaged file, say. Its limit on pixels is
#: replaced by our own.
_SWITCHES = {
    (ImageFile, "LOAD_TRUNCATED_IMAGES"): False,
    (Image, "MAX_IMAGE_PIXELS"): None,
    (PngImagePlugin, "MAX_TEXT_CHUNK"): 1 << 20,
    (PngImagePlugin, "MAX_TEXT_MEMORY"): 64 << 20,
    (TiffImagePlugin, "READ_LIBTIFF"): False,
}
_pillow_switches = Held(
    _SWITCHES,
    read=lambda switch: getattr(*switch),
    write=lambda switch, value: setattr(switch[0], switch[1], value),
)
Result = TypeVar("Result")
_Flip = Image.Transpose
_UPRIGHT = {
    2: _Flip.FLIP_LEFT_RIGHT,
    3: _Flip.ROTATE_180,
    4: _Flip.FLIP_TOP_BOTTOM,
    5: _Flip.TRANSPOSE,
    6: _Flip.ROTATE_270,
    7: _Flip.TRANSVERSE,
    8: _Flip.ROTATE_90,
}


class ChangeError(InputError):
    """A change of images failed; the file is not to blame."""


@dataclass(frozen=True, repr=False)
class Decoding:
    """From a file to grey pixels of one size; part of every content key."""

    height: int
    width: int
    #: "stretch", "pad" or "crop".
    resize: str
    #: The central part of each side that is kept before resizing.
    crop: float = 1.0
    #: From and to grey pixels of any size, ``uint8 (H, W)``; applied to the whole image before it is cropped.
    change: Callable[[np.ndarray], np.ndarray] | None = None

    def __repr__(self) -> str:
        # Part of every content key: defaults are omitted, so that a new field does not invalidate existing stores, and
        # a number is written in the same way for all types.
        fields = [f"height={int(self.height)}, width={int(self.width)}, resize={str(self.resize)!r}"]
        fields += [f"crop={float(self.crop)!r}"] if self.crop != 1 else []
        fields += [f"change={self.change!r}"] if self.change is not None else []
        return f"Decoding({', '.join(fields)})"

    @_pillow_switches
    def __call__(self, source: bytes | np.ndarray) -> np.ndarray:
        """Return ``uint8 (height, width)``. Errors of the codecs are not caught."""
        if isinstance(source, np.ndarray):
            return self._fit(Image.fromarray(grey_array(source)))
        if is_dicom(source):
            return self._fit(Image.fromarray(dicom_reader().grey_pixels(io.BytesIO(source))))
        with _open(io.BytesIO(source)) as image:
            # The cropped part must have enough pixels for the size; a change gets the image in full resolution.
            enough = (MAX_SIDE, MAX_SIDE) if self.change else (self.width / self.crop, self.height / self.crop)
            return self._fit(_upright_grey(image, *map(round, enough)))

    def _fit(self, image: Image.Image) -> np.ndarray:
        if self.change is not None:
            image = Image.fromarray(self._changed(np.asarray(image)))
        if self.crop < 1:
            image = image.crop(_central(image.width, image.height, self.crop))
        size = (self.width, self.height)
        if self.resize == "pad":
            image = ImageOps.pad(image, size, Image.Resampling.BILINEAR, color=0)
        elif self.resize == "crop":
            image = ImageOps.fit(image, size, Image.Resampling.BILINEAR)
        else:
            image = image.resize(size, Image.Resampling.BILINEAR)
        return np.asarray(image, dtype=np.uint8)

    def _changed(self, grey: np.ndarray) -> np.ndarray:
        try:
            changed = self.change(grey.copy())  # type: ignore[misc]
        except Exception as error:  # the user's own code
            raise ChangeError(f"the change {self.change!r} failed: {type(error).__name__}: {error}") from error
        if not isinstance(changed, np.ndarray) or changed.dtype != np.uint8 or changed.ndim != 2 or not changed.size:
            found = f"{changed.dtype} {changed.shape}" if isinstance(changed, np.ndarray) else type(changed).__name__
            raise ChangeError(f"the change {self.change!r} must return grey levels, uint8 (H, W), not {found}")
        return changed


def _central(width: int, height: int, part: float) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the central part: equal margins around at least one pixel."""
    left, top = (min(round(side * (1 - part) / 2), (side - 1) // 2) for side in (width, height))
    return left, top, width - left, height - top


@_pillow_switches
def size_and_mode(source: bytes | str | os.PathLike[str]) -> tuple[int, int, str]:
    """Return width, height and mode from a file's header, without decoding pixels.

    The mode is Pillow's, or a DICOM file's photometric interpretation. Errors of the codecs are not caught.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else open_regular(source) as file:
        if is_dicom(file.read(132)):
            return dicom_reader().size_and_mode(file)
        with _open(file) as image:
            return image.width, image.height, image.mode


def is_dicom(source: bytes) -> bool:
    """Whether a file is DICOM, with a preamble or, from old devices, without: then it begins with group 2 or 8."""
    return source[128:132] == b"DICM" or source[:4] in _FIRST_ELEMENTS


def dicom_reader() -> Any:
    """Return the module that reads DICOM. It needs pydicom, which is an optional dependency."""
    try:
        from . import _dicom
    except ImportError as error:
        raise RefusedError("reading DICOM needs pydicom; run pip install 'cxr-sklearn[dicom]'") from error
    return _dicom


def _open(file: BinaryIO) -> ImageFile.ImageFile:
    _check_tiff_tags(file)
    return Image.open(file, formats=FORMATS)


def _check_tiff_tags(file: BinaryIO) -> None:
    """Refuse a TIFF whose tags would fill the memory: Pillow unpacks them before the image's size is known."""
    file.seek(0)
    start = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    if order is None or len(start) < 16:
        return
    is_big = struct.unpack(f"{order}H", start[2:4])[0] == 43
    file.seek(struct.unpack(f"{order}Q", start[8:])[0] if is_big else struct.unpack(f"{order}L", start[4:8])[0])
    n_tags, entry = (f"{order}Q", f"{order}2xHQ8x") if is_big else (f"{order}H", f"{order}2xHL4x")
    counted = file.read(struct.calcsize(n_tags))
    if len(counted) < struct.calcsize(n_tags):
        return
    size = struct.calcsize(entry)
    tags = file.read(min(struct.unpack(n_tags, counted)[0], 65_536) * size)
    for kind, count in struct.iter_unpack(entry, tags[: len(tags) // size * size]):
        if kind not in _BYTE_TAGS and count > _MAX_VALUES:
            raise RefusedError(f"one of its TIFF tags has {count:,} values; {_MAX_VALUES:,} are allowed")


def _upright_grey(image: ImageFile.ImageFile, width: int, height: int) -> Image.Image:
    """Decode an opened file; a JPEG only at the resolution that a good image of `width` x `height` needs."""
    check_pixels(image.width, image.height)
    # The second image of a phone's MPO file is a preview or a depth map of the first.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise RefusedError("holds more than one image; save the one you mean as a file of its own")
    if image.format in ("JPEG", "MPO"):
        # JPEG can be decoded at a half, quarter or eighth; from twice the final size, the resize filter does the rest.
        is_on_its_side = _orientation(image) in (5, 6, 7, 8)
        image.draft("L", (2 * height, 2 * width) if is_on_its_side else (2 * width, 2 * height))
    has_lost_levels = _has_16_bit_channels(image)
    is_unsigned = image.mode == "I" and _tiff_tag(image, 339) == 1
    image.load()
    turn = _UPRIGHT.get(_orientation(image))  # TIFF is upright once it is loaded
    grey = _scaled_grey(image, is_unsigned) if image.mode.startswith(("I", "F")) else _to_grey(image)
    if has_lost_levels:
        n_levels = int(np.ptp(np.asarray(grey))) + 1
        if n_levels < _MIN_LEVELS:
            raise RefusedError(f"its 16-bit colours would leave {n_levels} grey levels; save it as 16-bit grey")
    return grey if turn is None else grey.transpose(turn)


def _orientation(image: ImageFile.ImageFile) -> Any:
    if len(image.info.get("exif", b"")) > _MAX_EXIF_BYTES:
        raise RefusedError(f"its EXIF metadata exceed the {_MAX_EXIF_BYTES:,} bytes allowed")
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def _has_16_bit_channels(image: ImageFile.ImageFile) -> bool:
    if image.format not in ("PNG", "TIFF") or image.mode.startswith("I") or not image.tile:
        return False
    args: Any = image.tile[0].args
    return ";16" in str(args if isinstance(args, str) else args[0])


def _tiff_tag(image: Image.Image, number: int) -> Any:
    """Return a tag's value, the first if there is one per channel; None without such a tag or in other formats."""
    value = image.tag_v2.get(number) if hasattr(image, "tag_v2") else None
    return value[0] if isinstance(value, tuple) else value


def _to_grey(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return (image.convert("RGB") if image.mode in ("CMYK", "P") else image).convert("L")
    # On a black background, the grey of a pixel is its own times its opacity.
    image = image if image.mode in ("LA", "RGBA") else image.convert("RGBA")
    return ImageChops.multiply(image.convert("L"), image.getchannel("A"))


def _scaled_grey(image: Image.Image, is_unsigned: bool) -> Image.Image:
    """Scale an image of more than 8 bits to 8 bits, block by block."""
    if "transparency" in image.info:
        raise RefusedError("its transparent level is not read at 16 bits; save it without transparency")

    def block(start: int, stop: int) -> np.ndarray:
        values = np.asarray(image.crop((0, start, image.width, stop)))
        return values.view(np.uint32) if is_unsigned else values

    grey = scale_to_8_bit(block, image.height, image.width)
    if _tiff_tag(image, 262) == 0:  # white is zero; Pillow only inverts 8-bit images
        np.subtract(255, grey, out=grey)
    return Image.fromarray(grey)


def in_chunks(task: Callable[[int], Result], n: int, chunk_size: int) -> Iterator[list[Result]]:
    """Do the tasks 0 to n - 1 in threads, two chunks ahead of the reader: memory never holds more than three chunks."""
    waiting: deque[list[Future[Result]]] = deque()
    pool = ThreadPoolExecutor()
    try:
        for start in range(0, n, chunk_size):
            waiting.append([pool.submit(task, i) for i in range(start, min(start + chunk_size, n))])
            if len(waiting) > 2:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)


def reason_of(error: Exception) -> str:
    """Return one printable line that says why a file cannot be read."""
    if isinstance(error, UnidentifiedImageError):
        return f"not a {', '.join(FORMATS)} or DICOM image"
    if isinstance(error, MemoryError):
        return "there is not enough memory to decode it"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(_OBJECTS.sub("...", f"{error}").split())
    text = "".join(c if c.isprintable() else "?" for c in text)
    if len(text) > _MAX_REASON:
        text = f"{text[:_MAX_REASON]}..."
    if isinstance(error, ValueError | OSError | SyntaxError) and text:  # Pillow's SyntaxError: "broken PNG file"
        return text
    return f"its data are damaged ({type(error).__name__}{text and ': '}{text})"
