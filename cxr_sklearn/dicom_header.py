"""What a DICOM file says of its pixels: only these elements are read, never the patient's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    AllTransferSyntaxes,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    UID_dictionary,
)

from .decoding import MAX_PIXELS, RefusedError, check_pixels

_PREAMBLE_BYTES = 132
#: As many as the largest grey image of 32 bits has.
_MAX_PIXEL_BYTES = 4 * MAX_PIXELS
_AS_TEXT = ("NumberOfFrames", "WindowCenter", "WindowWidth", "RescaleIntercept", "RescaleSlope")
PALETTES = [f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue")]
ELEMENTS = [
    *("SOPClassUID", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("ModalityLUTSequence", "VOILUTSequence", "VOILUTFunction", *_AS_TEXT),
    *(f"{palette}{part}" for palette in PALETTES for part in ("Descriptor", "Data")),
]
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
GREYS = ("MONOCHROME1", "MONOCHROME2")


@dataclass(frozen=True)
class Header:
    """The elements that pixels need, still as bytes: converting an odd value would print it in a warning."""

    dataset: Dataset
    syntax: UID

    @classmethod
    def read(cls, file: BinaryIO, keywords: list[str]) -> Header:
        """Read the elements of these names, whatever lies between them."""
        file.seek(_PREAMBLE_BYTES)
        meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
        named = text_of(bytes_of(meta, "TransferSyntaxUID"))
        syntax = next((known for known in AllTransferSyntaxes if known == named), None)
        if syntax is None:
            raise RefusedError("its DICOM header names no transfer syntax that is known")
        if syntax == DeflatedExplicitVRLittleEndian:  # pydicom would unpack a bomb
            raise RefusedError("deflated DICOM is not read; save it without compression, for example with dcmconv +te")
        tags = [Tag(keyword) for keyword in keywords]
        is_implicit, is_little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
        last = max(tags)
        dataset = read_dataset(
            file, is_implicit, is_little, stop_when=lambda tag, vr, length: tag > last, specific_tags=tags
        )
        return cls(dataset, syntax)

    def check(self) -> None:
        """Refuse what is no single picture of a size and kind that can be decoded."""
        if not self.has("PixelData"):
            raise self.no_image()
        if (frames := self.number("NumberOfFrames", 1)) > 1:
            raise RefusedError(f"holds {frames:.0f} frames; save the one you mean as a file of its own")
        check_pixels(self.columns, self.rows)
        n_bytes = self.rows * self.columns * self.samples * self.bits // 8
        if n_bytes > _MAX_PIXEL_BYTES:
            raise RefusedError(f"{n_bytes:,} bytes of pixels are more than the {_MAX_PIXEL_BYTES:,} allowed")
        if self.rows * self.columns == 0:
            raise RefusedError("its DICOM header tells a size of 0 pixels")
        kinds = COLOURS if self.samples == 3 else (*GREYS, "PALETTE COLOR")
        if self.samples not in (1, 3) or self.photometric not in kinds:
            raise RefusedError(f"{self.samples} samples per pixel as {self.photometric} are not read")
        if self.bits not in (1, 8, 16, 32) or not 0 < self.bits_stored <= self.bits:
            raise RefusedError(f"{self.bits_stored} of {self.bits} bits per pixel are not read")

    def no_image(self) -> RefusedError:
        """Say what the file holds instead of an image, if the standard has a name for it."""
        kind = UID_dictionary.get(text_of(self.raw("SOPClassUID")), ("", ""))[0]
        return RefusedError(f"a DICOM file without an image{kind and ': '}{kind}")

    @property
    def rows(self) -> int:
        """Height in pixels."""
        return int(self.number("Rows"))

    @property
    def columns(self) -> int:
        """Width in pixels."""
        return int(self.number("Columns"))

    @property
    def samples(self) -> int:
        """Channels."""
        return int(self.number("SamplesPerPixel", 1))

    @property
    def bits(self) -> int:
        """Bits that a sample takes."""
        return int(self.number("BitsAllocated"))

    @property
    def bits_stored(self) -> int:
        """Bits of a sample that are used."""
        return int(self.number("BitsStored", self.bits))

    @property
    def is_signed(self) -> bool:
        """Whether samples are in two's complement."""
        return self.number("PixelRepresentation", 0) == 1

    @property
    def photometric(self) -> str:
        """Photometric interpretation, or "unknown" for what the standard does not name."""
        text = text_of(self.raw("PhotometricInterpretation"))
        return text if text in (*COLOURS, *GREYS, "PALETTE COLOR") else "unknown"

    def has(self, keyword: str) -> bool:
        """Whether an element is there and not empty."""
        raw = self.raw(keyword)
        return bool(text_of(raw) if keyword in _AS_TEXT else raw)

    def number(self, keyword: str, default: float | None = None) -> float:
        """First value of an element; without a default it must be there."""
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
        """16-bit numbers of an element."""
        order = ">" if self.syntax == ExplicitVRBigEndian else "<"
        return np.frombuffer(raw[: len(raw) // 2 * 2], dtype=f"{order}{'i' if signed else 'u'}2")

    def raw(self, keyword: str) -> bytes:
        """Bytes of an element; none where it is absent."""
        return bytes_of(self.dataset, keyword)

    def lut(self, sequence: str) -> Lut | None:
        """Table of the first item of a sequence."""
        if sequence not in self.dataset or not (items := self.dataset[sequence].value):
            return None
        is_signed = self.is_signed or ("LUTDescriptor" in items[0] and items[0].get_item("LUTDescriptor").VR == "SS")
        return self.table(bytes_of(items[0], "LUTDescriptor"), bytes_of(items[0], "LUTData"), is_signed)

    def table(self, descriptor: bytes, data: bytes, is_signed: bool) -> Lut:
        """Look-up table of a descriptor (entries, first level mapped, bits per entry) and its data."""
        if len(descriptor) != 6:
            raise RefusedError("a look-up table of its DICOM header is damaged")
        n = int(self.words(descriptor)[0]) or 65_536
        first = int(self.words(descriptor, signed=is_signed)[1])
        bits = int(self.words(descriptor)[2])
        entries = np.frombuffer(data, np.uint8) if len(data) in (n, n + 1) else self.words(data)
        if len(entries) < n or not 8 <= bits <= 16:
            raise RefusedError("a look-up table of its DICOM header is damaged")
        return Lut(entries[:n].astype(np.float64), first, 2.0**bits - 1)


def bytes_of(dataset: Dataset, keyword: str) -> bytes:
    """Return an element as it stands in the file; nothing where it is absent."""
    value = dataset.get_item(keyword).value if keyword in dataset else b""
    return value if isinstance(value, bytes) else b""


def text_of(raw: bytes) -> str:
    """Return the text of an element without its padding."""
    return raw.decode("ascii", "replace").strip("\0 ")


@dataclass(frozen=True)
class Lut:
    """A look-up table: levels below its first entry map to the first, those beyond its last to the last."""

    entries: np.ndarray
    first: int
    highest: float

    def __call__(self, levels: np.ndarray) -> np.ndarray:
        """Look levels up."""
        return self.entries[np.clip(levels - self.first, 0, len(self.entries) - 1).astype(np.intp)]
