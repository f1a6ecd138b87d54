"""DICOM files as grey pixels, with the contrast that their header asks for."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, ParamSpec, TypeVar

import numpy as np
from PIL import Image
from pydicom import charset, config
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset
from pydicom.pixels import apply_windowing, get_decoder
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    AllTransferSyntaxes,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGExtended12Bit,
    RLELossless,
    UID_dictionary,
)

from .._settings import Held
from ._pixels import MAX_PIXELS, RefusedError, check_pixels, row_blocks, scale_to_8_bit

P = ParamSpec("P")
Result = TypeVar("Result")
_PREAMBLE_BYTES = 132
#: The pixels of the largest 32-bit grey image.
_MAX_PIXEL_BYTES = 4 * MAX_PIXELS
_AS_TEXT = ("NumberOfFrames", "WindowCenter", "WindowWidth", "RescaleIntercept", "RescaleSlope")
PALETTES = [f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue")]
ELEMENTS = [
    *("SOPClassUID", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("ModalityLUTSequence", "VOILUTSequence", "VOILUTFunction", *_AS_TEXT),
    *(f"{palette}{part}" for palette in PALETTES for part in ("Descriptor", "Data")),
]
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
GREYS = ("MONOCHROME1", "MONOCHROME2")


def _integer(keyword: str, default: int | None = None) -> Any:
    return property(lambda header: int(header.number(keyword, default)))


@dataclass(frozen=True)
class Header:
    """The elements that describe pixels, as raw bytes.

    pydicom converts an element when it is read, and quotes a value that it cannot convert in a warning. In a damaged
    file that value may be the patient's name.
    """

    dataset: Dataset
    syntax: UID
    rows = _integer("Rows")
    columns = _integer("Columns")
    samples = _integer("SamplesPerPixel", 1)
    bits = _integer("BitsAllocated")

    @classmethod
    def read(cls, file: BinaryIO, keywords: list[str]) -> Header:
        """Read the elements of the given keywords and skip all others."""
        syntax = _transfer_syntax(file)
        if syntax == DeflatedExplicitVRLittleEndian:  # pydicom inflates it without a limit
            raise RefusedError("deflated DICOM is not read; save it without compression, for example with dcmconv +te")
        tags = [Tag(keyword) for keyword in keywords]
        is_implicit, is_little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
        last = max(tags)
        dataset = read_dataset(
            file, is_implicit, is_little, stop_when=lambda tag, vr, length: tag > last, specific_tags=tags
        )
        return cls(dataset, syntax)

    def check(self) -> None:
        """Refuse a file without a single image of a size and kind that can be decoded."""
        if not self.has("PixelData"):
            raise self.no_image()
        if (frames := self.number("NumberOfFrames", 1)) > 1:
            raise RefusedError(f"holds {frames:.0f} frames; save the one you mean as a file of its own")
        check_pixels(self.columns, self.rows)
        n_bytes = self.rows * self.columns * self.samples * self.bits // 8
        if n_bytes > _MAX_PIXEL_BYTES:
            raise RefusedError(f"{n_bytes:,} bytes of pixels are more than the {_MAX_PIXEL_BYTES:,} allowed")
        if self.rows * self.columns == 0:
            raise RefusedError("its DICOM header gives a size of 0 pixels")
        if not self.has("PhotometricInterpretation"):
            raise RefusedError("its DICOM header lacks PhotometricInterpretation, so black and white may be swapped")
        kinds = COLOURS if self.samples == 3 else (*GREYS, "PALETTE COLOR")
        if self.samples not in (1, 3) or self.photometric not in kinds:
            raise RefusedError(f"{self.samples} samples per pixel as {self.photometric} are not read")
        if self.bits not in (1, 8, 16, 32) or not 0 < self.bits_stored <= self.bits:
            raise RefusedError(f"{self.bits_stored} of {self.bits} bits per pixel are not read")
        if not self.bits_stored <= self.high_bit + 1 <= self.bits:
            raise RefusedError(f"{self.bits_stored} bits that end at bit {self.high_bit} of {self.bits} are not read")
        if self.unused_low_bits and self.syntax.is_compressed and self.syntax != RLELossless:
            raise RefusedError(f"its compressed pixels end at bit {self.high_bit}, not {self.bits_stored - 1}")

    def no_image(self) -> RefusedError:
        """Say what the file holds instead of an image, if the standard has a name for it."""
        kind = UID_dictionary.get(text_of(self.raw("SOPClassUID")), ("", ""))[0]
        return RefusedError(f"a DICOM file without an image{kind and ': '}{kind}")

    @property
    def bits_stored(self) -> int:
        """How many bits of a sample are used."""
        return int(self.number("BitsStored", self.bits))

    @property
    def high_bit(self) -> int:
        """The number of the highest bit that is used."""
        return int(self.number("HighBit", self.bits_stored - 1))

    @property
    def unused_low_bits(self) -> int:
        """How many bits lie below the lowest one that is used; they may hold anything."""
        return self.high_bit + 1 - self.bits_stored

    @property
    def is_signed(self) -> bool:
        """Whether samples are in two's complement."""
        return self.number("PixelRepresentation", 0) == 1

    @property
    def photometric(self) -> str:
        """Photometric interpretation, "unknown" if it is not one of those read here."""
        text = text_of(self.raw("PhotometricInterpretation"))
        return text if text in (*COLOURS, *GREYS, "PALETTE COLOR") else "unknown"

    def has(self, keyword: str) -> bool:
        """Whether an element is present and not empty."""
        raw = self.raw(keyword)
        return bool(text_of(raw) if keyword in _AS_TEXT else raw)

    def number(self, keyword: str, default: float | None = None) -> float:
        """Return the first value of an element, or the default; without a default, the element is required."""
        if not self.has(keyword):
            if default is None:
                raise RefusedError(f"its DICOM header lacks {keyword}")
            return default
        if keyword not in _AS_TEXT:
            return float(self.words(self.raw(keyword), signed=keyword.startswith("PixelPadding") and self.is_signed)[0])
        try:
            value = float(text_of(self.raw(keyword)).split("\\")[0])
        except ValueError:
            value = np.nan
        if not np.isfinite(value):
            raise RefusedError(f"{keyword} in its DICOM header is not a number")
        return value

    def words(self, raw: bytes, *, signed: bool = False) -> np.ndarray:
        """Return the 16-bit numbers of an element."""
        order = ">" if self.syntax == ExplicitVRBigEndian else "<"
        return np.frombuffer(raw[: len(raw) // 2 * 2], dtype=f"{order}{'i' if signed else 'u'}2")

    def raw(self, keyword: str) -> bytes:
        """Return the bytes of an element, empty if it is absent."""
        return bytes_of(self.dataset, keyword)

    def lut(self, sequence: str) -> Lut | None:
        """Return the table of the first item of a sequence."""
        if sequence not in self.dataset or not (items := self.dataset[sequence].value):
            return None
        is_signed = self.is_signed or ("LUTDescriptor" in items[0] and items[0].get_item("LUTDescriptor").VR == "SS")
        return self.table(bytes_of(items[0], "LUTDescriptor"), bytes_of(items[0], "LUTData"), is_signed)

    def table(self, descriptor: bytes, data: bytes, is_signed: bool) -> Lut:
        """Return a look-up table from its descriptor (entries, first level mapped, bits per entry) and its data."""
        if len(descriptor) != 6:
            raise RefusedError("a look-up table of its DICOM header is damaged")
        n = int(self.words(descriptor)[0]) or 65_536
        first = int(self.words(descriptor, signed=is_signed)[1])
        bits = int(self.words(descriptor)[2])
        entries = np.frombuffer(data, np.uint8) if len(data) in (n, n + 1) else self.words(data)
        if len(entries) < n or not 8 <= bits <= 16:
            raise RefusedError("a look-up table of its DICOM header is damaged")
        return Lut(entries[:n].astype(np.float64), first, 2.0**bits - 1)


def _transfer_syntax(file: BinaryIO) -> UID:
    """Read the meta data before the data set, and leave the file there."""
    file.seek(0)
    start = _PREAMBLE_BYTES if file.read(_PREAMBLE_BYTES).endswith(b"DICM") else 0
    file.seek(start)
    if (first := file.read(6)).startswith(b"\x08\x00"):  # an old device wrote no meta data, and perhaps no types
        file.seek(start)
        return ExplicitVRLittleEndian if first[4:].isupper() else ImplicitVRLittleEndian
    file.seek(start)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    named = text_of(bytes_of(meta, "TransferSyntaxUID"))
    syntax = next((known for known in AllTransferSyntaxes if known == named), None)
    if syntax is None:
        raise RefusedError("its DICOM header does not name a known transfer syntax")
    return syntax


def bytes_of(dataset: Dataset, keyword: str) -> bytes:
    """Return an element as it is in the file, empty if it is absent."""
    value = dataset.get_item(keyword).value if keyword in dataset else b""
    return value if isinstance(value, bytes) else b""


def text_of(raw: bytes) -> str:
    """Return the text of an element without its padding."""
    return raw.decode("ascii", "replace").strip("\0 ")


@dataclass(frozen=True)
class Lut:
    """A look-up table: levels below its first entry map to the first, those beyond its last to the last.

    pydicom's own functions index a table with 8 or 16 bits, so that levels wrap around if an 8-bit table is long, and
    they read big-endian palettes in the wrong byte order.
    """

    entries: np.ndarray
    first: int
    highest: float

    def __call__(self, levels: np.ndarray) -> np.ndarray:
        """Return the entry for each level."""
        return self.entries[np.clip(levels - self.first, 0, len(self.entries) - 1).astype(np.intp)]


#: Weights of red, green and blue in grey, the same as Pillow's.
_LUMA = np.array([0.299, 0.587, 0.114])
#: A function of grey levels, applied to blocks of rows.
Levels = Callable[[np.ndarray], np.ndarray]


def _say_nothing(*_: Any, **__: Any) -> None:
    pass


#: While debugging, pydicom logs what it reads, and it quotes a character set that it does not know.
_pydicom_switches = Held(
    {(config, "debugging"): False, (charset, "warn_and_log"): _say_nothing},
    read=lambda switch: getattr(*switch),
    write=lambda switch, value: setattr(switch[0], switch[1], value),
)


def _own_words(function: Callable[P, Result]) -> Callable[P, Result]:
    """Replace messages of pydicom and NumPy: they may quote a value, which can be a name in a damaged file."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Result:
        try:
            with _pydicom_switches:
                return function(*args, **kwargs)
        except (RefusedError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - damaged data can raise anything
            kind = type(error).__name__
        # Not in the except clause, where the error that may quote a value would stay in the context of this one.
        raise RefusedError(f"its DICOM data are damaged ({kind})")

    return wrapped


@_own_words
def size_and_mode(file: BinaryIO) -> tuple[int, int, str]:
    """Return Columns, Rows and the photometric interpretation."""
    header = Header.read(file, ELEMENTS)
    if not header.has("Columns"):
        raise header.no_image()
    return header.columns, header.rows, header.photometric


@_own_words
def elements(file: BinaryIO, keywords: list[str]) -> dict[str, bytes]:
    """Return elements as they are in the file but for their padding, empty where they are absent."""
    header = Header.read(file, keywords)
    return {keyword: header.raw(keyword).strip(b"\0 ") for keyword in keywords}


@_own_words
def grey_pixels(file: BinaryIO) -> np.ndarray:
    """Return the only image of a file as ``uint8 (rows, columns)``, 255 is white.

    The file's window or look-up table decides which levels are black and white; without one, the darkest and the
    brightest level do.
    """
    header = Header.read(file, [*ELEMENTS, "PixelData"])
    header.check()
    stored, photometric = _decode(header)
    if header.photometric == "PALETTE COLOR":
        return _palette_grey(header, stored)
    if stored.ndim == 3:
        return _colour_grey(header, stored, photometric)
    padding = _is_padding(header, stored)
    grey = _shown_grey(header, stored, padding)
    if header.photometric == "MONOCHROME1":
        np.subtract(255, grey, out=grey)
    grey[padding] = 0
    return grey


def _decode(header: Header) -> tuple[np.ndarray, str]:
    """Return the stored levels (rows, columns[, 3]) and their photometric interpretation."""
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
        bits_stored=header.high_bit + 1,  # pydicom knows no unused bits below, only above
        pixel_representation=int(header.is_signed),
        photometric_interpretation=header.photometric,
        planar_configuration=int(header.number("PlanarConfiguration", 0)),
        number_of_frames=1,
        pixel_keyword="PixelData",
        pixel_vr=header.dataset.get_item("PixelData").VR or "OW",
    )
    return stored >> header.unused_low_bits, str(facts["photometric_interpretation"])


def _whole(header: Header, pixels: bytes) -> bytes:
    """Return uncompressed pixel data without any bytes behind them."""
    n_bits = header.rows * header.columns * header.samples * header.bits
    n_bytes = -(-n_bits // 8) if header.photometric != "YBR_FULL_422" else n_bits // 8 * 2 // 3
    if len(pixels) < n_bytes:
        raise RefusedError(f"cut short: {len(pixels):,} of {n_bytes:,} bytes of pixel data are there")
    return pixels[: n_bytes + n_bytes % 2]  # the standard pads them to an even number


def _check_frame(header: Header, pixels: bytes) -> None:
    """Refuse a compressed image of another size than the header gives: decoding it could fill the memory."""
    frame = get_frame(pixels, 0, number_of_frames=1)
    with Image.open(io.BytesIO(frame), formats=("JPEG", "JPEG2000")) as image:
        if image.size != (header.columns, header.rows):
            raise RefusedError(
                f"its header gives {header.columns} x {header.rows} pixels, but {image.width} x {image.height} "
                f"are compressed in it"
            )


def _palette_grey(header: Header, stored: np.ndarray) -> np.ndarray:
    raws = [(header.raw(f"{palette}Descriptor"), header.raw(f"{palette}Data")) for palette in PALETTES]
    if not all(data for _, data in raws):
        raise RefusedError("its colour palette is segmented or missing, which is not read")
    tables = [header.table(descriptor, data, header.is_signed) for descriptor, data in raws]
    # Descriptors confuse 8 and 16 bits, so the largest entry decides which they are.
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


def _is_padding(header: Header, stored: np.ndarray) -> np.ndarray:
    """Mark the padding that makes an image rectangular."""
    if not header.has("PixelPaddingValue"):
        return np.zeros(stored.shape, dtype=bool)
    first = header.number("PixelPaddingValue")
    low, high = sorted((first, header.number("PixelPaddingRangeLimit", first)))
    return (stored >= low) & (stored <= high)


def _shown_grey(header: Header, stored: np.ndarray, padding: np.ndarray) -> np.ndarray:
    """Apply the header's modality table or rescaling, then its VOI table or window."""
    slope, intercept = header.number("RescaleSlope", 1), header.number("RescaleIntercept", 0)
    modality: Levels = header.lut("ModalityLUTSequence") or (lambda levels: levels * slope + intercept)
    voi = header.lut("VOILUTSequence") or _window(header)
    if voi is None:  # the image's own range, without its padding
        seen = stored[~padding] if 0 < padding.sum() < padding.size else stored
        low, high = seen.min(), seen.max()
        return scale_to_8_bit(
            lambda start, stop: modality(np.clip(stored[start:stop], low, high).astype(np.float64)), *stored.shape
        )
    highest = voi.highest if isinstance(voi, Lut) else 255
    grey = np.empty(stored.shape, dtype=np.uint8)
    for start, stop in row_blocks(*stored.shape):
        shown = voi(modality(stored[start:stop].astype(np.float64)))
        grey[start:stop] = np.rint(np.clip(shown * (255 / highest), 0, 255))
    return grey


def _window(header: Header) -> Levels | None:
    """Return the header's first window as a function to levels from 0 (black) to 255 (white)."""
    if not (header.has("WindowCenter") and header.has("WindowWidth")):
        return None
    width, shape = header.number("WindowWidth"), text_of(header.raw("VOILUTFunction")) or "LINEAR"
    if shape not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise RefusedError("its VOI LUT function is not LINEAR, LINEAR_EXACT or SIGMOID")
    if width < 1 if shape == "LINEAR" else width <= 0:
        raise RefusedError(f"its window is {width:g} wide")
    window = Dataset()  # of checked values alone; unsigned levels of 8 bits are what the window maps to
    window.PhotometricInterpretation, window.BitsStored, window.PixelRepresentation = "MONOCHROME2", 8, 0
    window.WindowCenter, window.WindowWidth, window.VOILUTFunction = header.number("WindowCenter"), width, shape

    def shown(levels: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):  # far from its centre, a sigmoid is black
            return apply_windowing(levels, window)

    return shown
