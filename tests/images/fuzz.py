"""Damage image files in many ways; reading them may raise ImageReadError only: ``python -m tests.images.fuzz``.

File number N is damaged by the random generator seeded with N, so ``--only N`` makes the same file again.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import json
import os
import resource
import struct
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless

from cxr_sklearn import ImageLoader, make_radiographs
from cxr_sklearn.exceptions import ImageReadError

SECONDS, MEGABYTES = 2.0, 1000
RESIZES = ("stretch", "pad", "crop")
EXTREMES = (0, 1, 7, 255, 256, 6_000, 32_767, 65_535, 2**31 - 1, 2**32 - 1)
FAILURE = 98
#: From the number of a file and whole files to its name and content; from its path and number to whether it is read.
Damage = Callable[[int, dict[str, bytes]], tuple[str, bytes]]
Attempt = Callable[[Path, int], bool]


@dataclass
class Tally:
    """The results so far."""

    files: int = 0
    refused: int = 0
    read: int = 0
    megabytes: int = 0
    slowest: int = 0
    slowest_seconds: float = 0.0


def seeds() -> dict[str, bytes]:
    """One whole file of each kind."""
    grey = _radiograph()
    deep = Image.fromarray(np.asarray(grey, dtype=np.uint16) * 12 + 100)
    clear = Image.merge("LA", (grey, grey.rotate(180)))
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "grey.jpeg": _saved(grey, "JPEG"),
        "colour.jpeg": _saved(grey.convert("RGB"), "JPEG"),
        "progressive.jpeg": _saved(grey.convert("RGB"), "JPEG", progressive=True),
        "cmyk.jpeg": _saved(grey.convert("CMYK"), "JPEG"),
        "turned.jpeg": _saved(grey, "JPEG", exif=exif),
        "grey.png": _saved(grey, "PNG"),
        "deep.png": _saved(deep, "PNG"),
        "palette.png": _saved(grey.convert("P"), "PNG", transparency=3),
        "clear.png": _saved(clear, "PNG"),
        "animated.png": _saved(grey, "PNG", save_all=True, append_images=[grey.rotate(5)]),
        "grey.bmp": _saved(grey, "BMP"),
        "palette.bmp": _saved(grey.convert("P"), "BMP"),
        "lossy.webp": _saved(grey, "WEBP"),
        "lossless.webp": _saved(clear.convert("RGBA"), "WEBP", lossless=True, method=0),
        "deep.tiff": _saved(deep, "TIFF"),
        "float.tiff": _saved(Image.fromarray(np.asarray(grey, dtype=np.float32)), "TIFF"),
        "strips.tiff": _saved(grey, "TIFF", compression="tiff_lzw", strip_size=512),
    }
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg"):
        files[f"{compression}.tiff"] = _saved(grey, "TIFF", compression=compression)
    return files | _dicom_seeds(grey, np.asarray(deep))


def _radiograph() -> Image.Image:
    real = Path(os.environ.get("CXR_DATA", Path(__file__).parents[3] / "shared" / "data")) / "originals"
    if files := sorted(real.rglob("*.jpeg")):
        with Image.open(files[0]) as image:
            return image.convert("L").resize((96, 80))
    return Image.fromarray(make_radiographs(10, size=96, random_state=0)[0][0]).crop((0, 0, 96, 80))


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def _dicom_seeds(grey: Image.Image, deep: np.ndarray) -> dict[str, bytes]:
    raw = dicom_dataset(deep)
    raw.WindowCenter, raw.WindowWidth, raw.RescaleSlope, raw.RescaleIntercept = 1500, 2000, 1, -100
    packed = dicom_dataset(deep)
    packed.compress(RLELossless, generate_instance_uid=False)  # with a new UID, the file would be another one each time
    jpeg = dicom_dataset(np.asarray(grey))
    jpeg.PixelData = encapsulate([_saved(grey, "JPEG")])
    jpeg["PixelData"].is_undefined_length = True
    jpeg.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    return {name: dicom_bytes(data) for name, data in (("raw.dcm", raw), ("rle.dcm", packed), ("jpeg.dcm", jpeg))}


def dicom_dataset(
    pixels: np.ndarray, photometric: str = "MONOCHROME2", syntax: UID = ExplicitVRLittleEndian
) -> Dataset:
    """A radiograph of a patient whose name must not be seen anywhere."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.PatientName, dataset.PatientID = "Secret^Sally", "SECRET-1"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes() + bytes(pixels.nbytes % 2)
    dataset["PixelData"].VR = "OW" if dataset.BitsAllocated > 8 else "OB"
    return dataset


def dicom_bytes(dataset: Dataset) -> bytes:
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def damaged(number: int, files: dict[str, bytes]) -> tuple[str, bytes]:
    """Return name and content of file `number`."""
    rng = np.random.default_rng(number)
    names = sorted(files)
    name = names[number % len(names)]
    content = bytearray(files[name])
    for _ in range(rng.integers(1, 4)):
        kind = rng.integers(4)
        if kind == 0:
            _flip(content, rng)
        elif kind == 1:
            del content[rng.integers(len(content) + 1) :]
        elif kind == 2:
            other = files[names[rng.integers(len(names))]]
            start, end = sorted(rng.integers(len(other) + 1, size=2))
            at = rng.integers(len(content) + 1)
            content[at : at + (end - start) * int(rng.integers(2))] = other[start:end]
        else:
            _lie(content, Path(name).suffix, rng)
    return name, bytes(content)


def _flip(content: bytearray, rng: np.random.Generator) -> None:
    # Half of the flips hit the first bytes: in a file's header they do most harm.
    reach = len(content) if rng.integers(2) else min(len(content), 200)
    for at in rng.integers(reach, size=rng.integers(1, 20)) if reach else ():
        content[at] = rng.integers(256)


def _lie(content: bytearray, suffix: str, rng: np.random.Generator) -> None:
    """Write another width or height into the header, if it can still be found."""
    places = {
        ".png": lambda: [(16, ">I"), (20, ">I")] if len(content) > 33 else [],
        ".bmp": lambda: [(18, "<i"), (22, "<i")] if len(content) > 26 else [],
        ".jpeg": lambda: [(at + shift, ">H") for at in _starts(content, b"\xff\xc0", b"\xff\xc2") for shift in (5, 7)],
        ".webp": lambda: [
            (at + shift, "<H") for at in _starts(content, b"VP8 ", b"VP8L", b"VP8X") for shift in (9, 14)
        ],
        ".tiff": lambda: [
            (at + 8, "<I") for at in _starts(content, *(struct.pack("<H", tag) for tag in range(256, 280)))
        ],
        ".dcm": lambda: [
            (at + 8, "<H") for at in _starts(content, b"(\0\x02\0", b"(\0\x10\0", b"(\0\x11\0", b"(\0\0\1")
        ],
    }[suffix]()
    places = [(at, form) for at, form in places if at + struct.calcsize(form) <= len(content)]
    if places:
        at, form = places[rng.integers(len(places))]
        width = struct.calcsize(form)
        bits = EXTREMES[rng.integers(len(EXTREMES))] & (256**width - 1)
        content[at : at + width] = bits.to_bytes(width, "big" if form[0] == ">" else "little")
    if suffix == ".png" and len(content) > 33:  # Pillow checks the checksum
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))


def _starts(content: bytearray, *marks: bytes) -> list[int]:
    return [at for mark in marks if (at := content.find(mark)) >= 0]


def attempt(path: Path, number: int) -> bool:
    """Read one file in every way, and return whether it can be read."""
    batch = ImageLoader(size=(40, 56), resize=RESIZES[number // 100 % 3]).transform([str(path)])
    readable = True
    for ask in (lambda: batch.keys, lambda: batch.source_header(0), lambda: batch[0]):
        try:
            answer = ask()
        except ImageReadError as error:
            readable = False
            for reason in error.failures.values():
                if not reason.isprintable() or " at 0x" in reason or "Secret" in reason:
                    raise AssertionError(f"a reason to be ashamed of: {reason!r}") from error
    if readable and (answer.shape, answer.dtype) != ((40, 56, 3), np.uint8):
        raise AssertionError(f"{answer.shape} {answer.dtype}")
    return readable


def _child(
    numbers: range, folder: Path, files: dict[str, bytes], tally: Tally, damaged: Damage, attempt: Attempt
) -> None:
    """Read the files one after the other; a failure ends this process, and the parent sees at which number."""
    warnings.simplefilter("ignore")  # codecs warn of damage that they tolerate
    os.dup2(os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)  # libtiff prints every complaint
    for number in numbers:
        name, content = damaged(number, files)
        path = folder / f"{number}-{name}"
        path.write_bytes(content)
        (folder / "number").write_text(str(number))
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        start = time.perf_counter()
        try:
            readable = attempt(path, number)
        except BaseException as error:  # noqa: BLE001 - that is what we look for
            (folder / "why").write_text(f"{type(error).__name__}: {error}")
            os._exit(FAILURE)
        seconds = time.perf_counter() - start
        faulthandler.cancel_dump_traceback_later()
        tally.megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000
        if tally.megabytes > MEGABYTES:
            (folder / "why").write_text(f"took {tally.megabytes} MB")
            os._exit(FAILURE)
        tally.files += 1
        tally.read += readable
        tally.refused += not readable
        if seconds > tally.slowest_seconds:
            tally.slowest, tally.slowest_seconds = number, seconds
        path.unlink()
        (folder / "tally").write_text(json.dumps(asdict(tally)))


def run(numbers: range, folder: Path, files: dict[str, bytes], damaged: Damage, attempt: Attempt) -> int:
    """Read the files in child processes, a new one after each failure; return how many failed."""
    folder.mkdir(parents=True, exist_ok=True)
    tally, failed, start = Tally(), 0, time.perf_counter()
    while numbers:
        (folder / "why").unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            _child(numbers, folder, files, tally, damaged, attempt)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if (folder / "tally").exists():
            tally = Tally(**json.loads((folder / "tally").read_text()))
        if status == 0:
            break
        number = int((folder / "number").read_text())
        why = f"killed by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"more than {SECONDS:g} s"
        why = (folder / "why").read_text() if (folder / "why").exists() else why
        failed += 1
        print(f"file {number} ({next(folder.glob(f'{number}-*'))}): {why}", flush=True)
        print((folder / "stderr").read_text(errors="replace")[-2000:], flush=True)
        numbers = range(number + 1, numbers.stop)
    print(
        f"{tally.files + failed} files: {tally.refused} refused, {tally.read} read, {failed} failed, in "
        f"{time.perf_counter() - start:.0f} s; peak memory {tally.megabytes} MB; "
        f"slowest file {tally.slowest} ({tally.slowest_seconds:.2f} s)"
    )
    return failed


def main(seeds: Callable[[], dict[str, bytes]] = seeds, damaged: Damage = damaged, attempt: Attempt = attempt) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20_000, help="how many files to damage and read")
    parser.add_argument("--only", type=int, help="number of the one file to read")
    parser.add_argument("--folder", type=Path, default=Path("runs/fuzz"), help="where a file that fails is left")
    options = parser.parse_args()
    numbers = range(options.files) if options.only is None else range(options.only, options.only + 1)
    return 1 if run(numbers, options.folder, seeds(), damaged, attempt) else 0


if __name__ == "__main__":
    sys.exit(main())
