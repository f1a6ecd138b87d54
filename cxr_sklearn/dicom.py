"""DICOM files as grey pixels, the right way round and with the contrast that the file asks for."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from PIL import Image
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import JPEG2000TransferSyntaxes, JPEGExtended12Bit

from .decoding import RefusedError, row_blocks, scale_to_8_bit
from .dicom_header import ELEMENTS, PALETTES, Header, Lut, text_of

#: What makes grey of red, green and blue, as Pillow does it.
_LUMA = np.array([0.299, 0.587, 0.114])
#: Levels to levels, for a block of rows.
Levels = Callable[[np.ndarray], np.ndarray]


@contextmanager
def _own_words() -> Iterator[None]:
    """Let no message of pydicom or NumPy out: it may quote a value, and in a damaged file that can be a name."""
    try:
        yield
    except (RefusedError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - and there is no telling which
        raise RefusedError(f"its DICOM data are damaged ({type(error).__name__})") from None


def size_and_mode(file: BinaryIO) -> tuple[int, int, str]:
    """Return Columns, Rows and the photometric interpretation."""
    with _own_words():
        header = Header.read(file, ELEMENTS)
        if not header.has("Columns"):
            raise header.no_image()
        return header.columns, header.rows, header.photometric


def grey_pixels(file: BinaryIO) -> np.ndarray:
    """Return the one image of a file as ``uint8 (rows, columns)``, white is 255.

    A file's window or look-up table decides what is black and what is white; where there is none, the darkest and the
    brightest level do.
    """
    with _own_words():
        header = Header.read(file, [*ELEMENTS, "PixelData"])
        header.check()
        stored, photometric = _decode(header)
        if header.photometric == "PALETTE COLOR":
            return _palette_grey(header, stored)
        if stored.ndim == 3:
            return _colour_grey(header, stored, photometric)
        grey = _shown_grey(header, stored)
        if header.photometric == "MONOCHROME1":
            np.subtract(255, grey, out=grey)
        _blacken_padding(header, stored, grey)
        return grey


def _decode(header: Header) -> tuple[np.ndarray, str]:
    """Return stored levels (rows, columns[, 3]) and what their three samples are."""
    try:
        decoder = get_decoder(header.syntax)
    except NotImplementedError:
        raise RefusedError(f"its pixels are compressed as {header.syntax.name}, which is not read") from None
    is_12_bit_jpeg = header.syntax == JPEGExtended12Bit and header.bits_stored > 8
    if not decoder.is_available or (is_12_bit_jpeg and decoder.available_plugins == ("pillow",)):
        library = "openjpeg" if header.syntax in JPEG2000TransferSyntaxes else "libjpeg"
        raise RefusedError(
            f"its pixels are compressed as {header.syntax.name}; run pip install pylibjpeg pylibjpeg-{library}"
        )
    pixels = header.raw("PixelData")
    if not header.syntax.is_compressed:
        pixels = _whole(header, pixels)
    elif "pillow" in decoder.available_plugins and not is_12_bit_jpeg:
        _check_frame(header, pixels)
    stored, facts = decoder.as_array(
        pixels,
        index=0,
        raw=True,
        rows=header.rows,
        columns=header.columns,
        samples_per_pixel=header.samples,
        bits_allocated=header.bits,
        bits_stored=header.bits_stored,
        pixel_representation=int(header.is_signed),
        photometric_interpretation=header.photometric,
        planar_configuration=int(header.number("PlanarConfiguration", 0)),
        number_of_frames=1,
        pixel_keyword="PixelData",
        pixel_vr=header.dataset.get_item("PixelData").VR or "OW",
    )
    return stored, str(facts["photometric_interpretation"])


def _whole(header: Header, pixels: bytes) -> bytes:
    """Pixel data without the padding behind them."""
    n_bits = header.rows * header.columns * header.samples * header.bits
    n_bytes = -(-n_bits // 8) if header.photometric != "YBR_FULL_422" else n_bits // 8 * 2 // 3
    if len(pixels) < n_bytes:
        raise RefusedError(f"cut short: {len(pixels):,} of {n_bytes:,} bytes of pixel data are there")
    return pixels[: n_bytes + n_bytes % 2]  # an even number is what the standard asks for


def _check_frame(header: Header, pixels: bytes) -> None:
    """Refuse a compressed picture of another size than the header tells: it could be a bomb."""
    frame = get_frame(pixels, 0, number_of_frames=1)
    with Image.open(io.BytesIO(frame), formats=("JPEG", "JPEG2000")) as image:
        if image.size != (header.columns, header.rows):
            raise RefusedError(
                f"its header tells {header.columns} x {header.rows} pixels, but {image.width} x {image.height} "
                f"are compressed in it"
            )


def _palette_grey(header: Header, stored: np.ndarray) -> np.ndarray:
    raws = [(header.raw(f"{palette}Descriptor"), header.raw(f"{palette}Data")) for palette in PALETTES]
    if not all(data for _, data in raws):
        raise RefusedError("its colour palette is segmented or missing, which is not read")
    tables = [header.table(descriptor, data, header.is_signed) for descriptor, data in raws]
    # Entries of 8 bits may be told as 16 and the other way round; what is in them counts.
    highest = 255 if max(table.entries.max() for table in tables) < 256 else 65_535
    grey = np.empty(stored.shape, dtype=np.uint8)
    for start, stop in row_blocks(*stored.shape):
        levels = stored[start:stop].astype(np.int64)
        luma = sum(weight * table(levels) for weight, table in zip(_LUMA, tables, strict=True))
        grey[start:stop] = np.rint(luma * (255 / highest))
    return grey


def _colour_grey(header: Header, stored: np.ndarray, photometric: str) -> np.ndarray:
    if header.bits_stored <= 8 and photometric == "RGB":
        return np.asarray(Image.fromarray(stored.astype(np.uint8)).convert("L"))
    if photometric.startswith("YBR") and header.bits_stored <= 8:
        return stored[:, :, 0].astype(np.uint8)  # Y is the grey
    if photometric.startswith("YBR"):
        return scale_to_8_bit(lambda start, stop: stored[start:stop, :, 0], header.rows, header.columns)
    return scale_to_8_bit(lambda start, stop: stored[start:stop] @ _LUMA, header.rows, header.columns)


def _shown_grey(header: Header, stored: np.ndarray) -> np.ndarray:
    """Apply what the header says about display: modality table or rescaling, then VOI table or window."""
    modality = header.lut("ModalityLUTSequence") or _rescaling(header)
    window = header.lut("VOILUTSequence") or _window(header)
    if window is None:
        return _own_range(header, stored, modality)
    highest = window.highest if isinstance(window, Lut) else 1.0
    grey = np.empty(stored.shape, dtype=np.uint8)
    for start, stop in row_blocks(*stored.shape):
        shown = window(modality(stored[start:stop].astype(np.float64)))
        grey[start:stop] = np.rint(np.clip(shown * (255 / highest), 0, 255))
    return grey


def _own_range(header: Header, stored: np.ndarray, modality: Levels) -> np.ndarray:
    """Scale by the image's own range, in which the padding around it does not count."""
    low, high = (stored.min(), stored.max())
    if ends := _padding(header):
        seen = [
            (block.min(), block.max())
            for start, stop in row_blocks(*stored.shape)
            if (block := _outside(stored[start:stop], *ends)).size
        ]
        if seen:
            low, high = min(low for low, _ in seen), max(high for _, high in seen)
    return scale_to_8_bit(
        lambda start, stop: modality(np.clip(stored[start:stop], low, high).astype(np.float64)), *stored.shape
    )


def _padding(header: Header) -> list[float] | None:
    """Lowest and highest level of the padding that makes an image rectangular, where there is any."""
    if not header.has("PixelPaddingValue"):
        return None
    first = header.number("PixelPaddingValue")
    return sorted((first, header.number("PixelPaddingRangeLimit", first)))


def _blacken_padding(header: Header, stored: np.ndarray, grey: np.ndarray) -> None:
    if ends := _padding(header):
        for start, stop in row_blocks(*stored.shape):
            block = stored[start:stop]
            grey[start:stop][(block >= ends[0]) & (block <= ends[1])] = 0


def _outside(block: np.ndarray, low: float, high: float) -> np.ndarray:
    return block[(block < low) | (block > high)]


def _rescaling(header: Header) -> Levels:
    slope, intercept = header.number("RescaleSlope", 1), header.number("RescaleIntercept", 0)
    return lambda levels: levels * slope + intercept


def _window(header: Header) -> Levels | None:
    """First window of the header, as a function to 0 (black) to 1 (white)."""
    if not (header.has("WindowCenter") and header.has("WindowWidth")):
        return None
    center, width = header.number("WindowCenter"), header.number("WindowWidth")
    shape = text_of(header.raw("VOILUTFunction")) or "LINEAR"
    if width < 1 if shape == "LINEAR" else width <= 0:
        raise RefusedError(f"its window is {width:g} wide")
    if shape == "SIGMOID":
        return lambda levels: 1 / (1 + np.exp(np.clip(-4 * (levels - center) / width, -50, 50)))
    if shape == "LINEAR_EXACT":
        return lambda levels: (levels - center) / width + 0.5
    if shape != "LINEAR":
        raise RefusedError("its VOI LUT function is none of LINEAR, LINEAR_EXACT and SIGMOID")
    # The standard maps the centre half a level lower and takes a width of 1 as a threshold.
    return lambda levels: (levels - (center - 0.5)) / max(width - 1, 1e-9) + 0.5
