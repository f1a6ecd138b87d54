import io
import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    RLELossless,
)

from cxr_sklearn import ImageLoader
from cxr_sklearn.exceptions import ImageReadError
from cxr_sklearn.images._decoding import size_and_mode
from cxr_sklearn.images._pixels import MAX_PIXELS

from .fuzz import dicom_bytes, dicom_dataset

BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"


@pytest.fixture
def levels():
    """12-bit grey levels that leave out both ends of the range."""
    return (np.add.outer(np.arange(60), np.arange(40)) * 30 + 200).astype(np.uint16)


@pytest.fixture
def load(tmp_path):
    """Return the grey pixels of a dataset in its own size."""

    def load_dataset(dataset):
        (tmp_path / "image.dcm").write_bytes(dicom_bytes(dataset))
        return load_path(tmp_path / "image.dcm", (dataset.Rows, dataset.Columns))

    return load_dataset


def load_path(path, size=(8, 8)):
    return ImageLoader(size=size).transform([str(path)])[0][..., 0]


def bundled(name):
    path = BUNDLED / name
    if not path.is_file():
        pytest.skip(f"this pydicom does not bring {name}")
    return path


def own_range(values):
    values = values.astype(float)
    return np.rint((values - values.min()) / np.ptp(values) * 255)


def table(first, entries, bits=16):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries), first, bits])
    item.add_new("LUTData", "US", [int(entry) for entry in entries])
    return [item]


def test_without_a_window_the_own_range_is_shown(load, levels):
    np.testing.assert_allclose(load(dicom_dataset(levels)), own_range(levels), atol=1)


def test_monochrome1_is_turned_round(load, levels):
    np.testing.assert_allclose(load(dicom_dataset(levels, "MONOCHROME1")), 255 - own_range(levels), atol=1)


def test_signed_levels_and_padding(load, levels):
    signed = levels.astype(np.int16) - 1500
    signed[:5] = -2000
    dataset = dicom_dataset(signed)
    dataset.PixelPaddingValue = -2000
    pixels = load(dataset)
    assert (pixels[:5] == 0).all()
    np.testing.assert_allclose(pixels[5:], own_range(signed[5:]), atol=1)


@pytest.mark.parametrize("shape", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("slope", [1, 2.5])
def test_a_window_decides_what_is_black_and_white(load, levels, shape, slope):
    dataset = dicom_dataset(levels)
    dataset.BitsStored, dataset.HighBit = 12, 11
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.VOILUTFunction = slope, -100, shape
    dataset.WindowCenter, dataset.WindowWidth = [1500, 1], [4000, 2]
    shown = apply_voi_lut(apply_modality_lut(levels, dataset), dataset)
    low, high = -100, 4095 * slope - 100
    np.testing.assert_allclose(load(dataset), (shown - low) / (high - low) * 255, atol=1)


def test_look_up_tables(load, levels):
    dataset = dicom_dataset(levels)
    dataset.ModalityLUTSequence = table(300, np.arange(3000) ** 0.5 * 1000)
    np.testing.assert_allclose(load(dataset), own_range(apply_modality_lut(levels, dataset)), atol=1)
    dataset.VOILUTSequence = table(1000, np.linspace(0, 800, 30_000).astype(int), bits=10)
    dataset.WindowCenter, dataset.WindowWidth = 5, 5  # the table comes first
    shown = apply_voi_lut(apply_modality_lut(levels, dataset), dataset)
    np.testing.assert_allclose(load(dataset), shown / 1023 * 255, atol=1)


def test_a_table_that_starts_below_zero(load, levels):
    dataset = dicom_dataset(levels)
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1000
    dataset.VOILUTSequence = table(0, np.arange(4000) // 4, bits=10)
    dataset.VOILUTSequence[0].add_new("LUTDescriptor", "SS", [4000, -900, 10])
    expected = (np.clip(levels.astype(int) - 1000 + 900, 0, 3999) // 4) / 1023 * 255
    np.testing.assert_allclose(load(dataset), expected, atol=1)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_encodings(load, levels, syntax):
    dataset = dicom_dataset(levels.astype(levels.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")))
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.WindowCenter, dataset.WindowWidth = 1500, 2000
    first = load(dataset)
    native = dicom_dataset(levels)
    native.WindowCenter, native.WindowWidth = 1500, 2000
    np.testing.assert_array_equal(first, load(native))


def test_rle_and_jpeg_2000(load, levels):
    packed = dicom_dataset(levels)
    packed.compress(RLELossless)
    np.testing.assert_array_equal(load(packed), load(dicom_dataset(levels)))
    np.testing.assert_array_equal(load(jpeg_2000(levels, levels)), load(dicom_dataset(levels)))


def jpeg_2000(header_levels, levels):
    file = io.BytesIO()
    Image.fromarray(levels).save(file, format="JPEG2000", no_jp2=True)
    dataset = dicom_dataset(header_levels)
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PixelData = encapsulate([file.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    return dataset


COLOUR = [
    *("ExplVR_BigEnd.dcm", "SC_rgb_small_odd_big_endian.dcm", "examples_rgb_color.dcm", "examples_jpeg2k.dcm"),
    *("SC_rgb_rle.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_jpeg_app14_dcmd.dcm", "SC_ybr_full_422_uncompressed.dcm"),
]


@pytest.mark.parametrize("name", [*COLOUR, "examples_palette.dcm"])
def test_colours_become_grey(name):
    dataset = pydicom.dcmread(bundled(name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        colours = dataset.pixel_array
    if name == "examples_palette.dcm":
        colours = (apply_color_lut(colours, dataset) // 257).astype(np.uint8)
    expected = np.asarray(Image.fromarray(colours).convert("L"), dtype=int)
    assert np.abs(load_path(bundled(name), expected.shape) - expected).max() <= 2


def test_16_bit_colour_is_scaled_by_its_own_range(load):
    ramp = np.repeat(np.linspace(100, 4000, 600).astype(np.uint16).reshape(20, 30, 1), 3, axis=2)
    np.testing.assert_allclose(load(dicom_dataset(ramp, "RGB")), own_range(ramp[..., 0]), atol=1)


def refused(dataset, tmp_path):
    path = tmp_path / "image.dcm"
    path.write_bytes(dicom_bytes(dataset) if isinstance(dataset, Dataset) else dataset)
    with pytest.raises(ImageReadError) as caught:
        load_path(path)
    return caught.value.failures[str(path)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"NumberOfFrames": 3}, "holds 3 frames"),
        ({"Rows": 60_000, "Columns": 60_000}, f"pixels are more than the {MAX_PIXELS:,} allowed"),
        ({"Rows": 0}, "a size of 0"),
        ({"Rows": 61}, "cut short"),
        ({"WindowCenter": 1, "WindowWidth": 0}, "its window is 0 wide"),
        ({"WindowCenter": 1, "WindowWidth": 2, "VOILUTFunction": "CURVE"}, "not LINEAR"),
        ({"PhotometricInterpretation": "HSV"}, "1 samples per pixel as unknown"),
        ({"BitsAllocated": 64}, "bits per pixel are not read"),
        ({"BitsStored": 20}, "20 of 16 bits"),
        ({"Rows": None}, "lacks Rows"),
        ({"PixelData": None}, "without an image: Computed Radiography Image Storage"),
    ],
)
def test_what_is_refused(tmp_path, levels, change, reason):
    dataset = dicom_dataset(levels)
    for keyword, value in change.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    assert reason in refused(dataset, tmp_path)


def test_compression_without_a_plugin_is_named(tmp_path, levels, monkeypatch):
    from pydicom.pixels import get_decoder

    monkeypatch.setattr(get_decoder(JPEGLossless), "_available", {})
    dataset = dicom_dataset(levels)
    dataset.PixelData = encapsulate([b"any"])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGLossless
    assert "JPEG Lossless" in (reason := refused(dataset, tmp_path))
    assert reason.endswith("pip install pylibjpeg pylibjpeg-libjpeg")


def test_a_film_is_refused(tmp_path, levels):
    dataset = dicom_dataset(levels)
    dataset.file_meta.TransferSyntaxUID = MPEG2MPML
    dataset.PixelData = encapsulate([b"any"])
    dataset["PixelData"].is_undefined_length = True
    assert "MPEG2" in (reason := refused(dataset, tmp_path))
    assert reason.endswith("which is not read")


def test_a_bomb_behind_a_small_header_is_refused(tmp_path, levels):
    assert "are compressed in it" in refused(jpeg_2000(levels, np.zeros((900, 900), np.uint16)), tmp_path)


def test_deflated_files_are_refused(tmp_path, levels):
    dataset = dicom_dataset(levels)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert "deflated" in refused(dataset, tmp_path)


@pytest.mark.parametrize(
    ("name", "kind"), [("rtplan.dcm", "RT Plan Storage"), ("waveform_ecg.dcm", "12-lead ECG"), ("test-SR.dcm", "SR")]
)
def test_what_is_not_an_image_says_what_it_is(name, kind):
    with pytest.raises(ImageReadError, match=f"without an image: .*{kind}"):
        load_path(bundled(name))
    with pytest.raises(ImageReadError, match=f"without an image: .*{kind}"):
        ImageLoader().transform([str(bundled(name))]).source_header(0)


def test_without_pydicom_the_extra_is_named(tmp_path, levels, monkeypatch):
    monkeypatch.delitem(sys.modules, "cxr_sklearn.images._dicom", raising=False)
    monkeypatch.delattr("cxr_sklearn.images._dicom", raising=False)
    monkeypatch.setitem(sys.modules, "pydicom.dataset", None)
    assert "cxr-sklearn[dicom]" in refused(dicom_dataset(levels), tmp_path)


def test_header_is_read_without_pixels(levels):
    content = dicom_bytes(dicom_dataset(levels, "MONOCHROME1"))
    assert size_and_mode(content[: -levels.nbytes]) == (40, 60, "MONOCHROME1")


def test_the_patient_is_never_named(tmp_path, levels, caplog, recwarn):
    """Wherever a file is damaged, even if the name ends up in an element that is read."""
    caplog.set_level(logging.DEBUG)
    warnings.simplefilter("always")
    whole = dicom_dataset(levels)
    whole.RescaleSlope, whole.RescaleIntercept, whole.WindowCenter, whole.WindowWidth = 1, 0, 5, 5
    content = dicom_bytes(whole)
    files = [content[:end] for end in range(200, 900, 20)]
    for keyword in ("RescaleSlope", "WindowCenter", "PhotometricInterpretation", "SOPClassUID", "VOILUTFunction"):
        misplaced = Dataset()
        misplaced.update(whole)
        misplaced.file_meta = whole.file_meta
        setattr(misplaced, keyword, "1.2" if keyword in ("SOPClassUID", "RescaleSlope", "WindowCenter") else "SECRETS")
        if keyword == "SOPClassUID":
            del misplaced.PixelData
        files.append(dicom_bytes(misplaced).replace(b"1.2 ", b"SALL"))
    path = tmp_path / "image.dcm"
    reasons = []
    for damaged in files:
        path.write_bytes(damaged)
        reasons += ImageLoader(size=8).transform([str(path)]).failures().values()
    seen = " ".join([*reasons, caplog.text, *(str(warning.message) for warning in recwarn)]).lower()
    assert len(reasons) > 30
    assert "secret" not in seen
    assert "sall" not in seen


def test_what_pydicom_says_does_not_come_out(tmp_path, levels, monkeypatch):
    def get_decoder(syntax):
        raise ValueError("Secret^Sally has no pixels")

    monkeypatch.setattr("cxr_sklearn.images._dicom.get_decoder", get_decoder)
    assert refused(dicom_dataset(levels), tmp_path) == "its DICOM data are damaged (ValueError)"


#: Where 12 bits may stand in 16 (HighBit), and with what in the other bits, as overlays and markers of old devices.
PLACES = [(11, 0), (11, 0xF000), (15, 0), (15, 0x000F), (13, 0), (13, 0xC003)]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
@pytest.mark.parametrize("dtype", ["u2", "i2"])
@pytest.mark.parametrize(("high_bit", "around"), PLACES)
def test_bits_are_read_where_the_header_puts_them(load, levels, syntax, dtype, high_bit, around):
    if dtype == "i2":
        levels = levels.astype("i2") - 1700  # some are negative
    stored = (levels.astype("i4") & 0xFFF) << (high_bit - 11) | around
    dataset = dicom_dataset(stored.astype("u2"))
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, high_bit, int(dtype == "i2")
    dataset.WindowCenter, dataset.WindowWidth = float(levels.mean()), float(np.ptp(levels))
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = stored.astype(">u2").tobytes()
    if syntax == RLELossless:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.compress(RLELossless, generate_instance_uid=False)
    np.testing.assert_allclose(load(dataset), own_range(levels), atol=1)


def test_eight_bits_at_the_top_of_sixteen(load):
    levels = np.add.outer(np.arange(60), np.arange(40)).astype("u2")
    dataset = dicom_dataset(levels << 8 | 0xAB)
    dataset.BitsStored, dataset.HighBit = 8, 15
    np.testing.assert_allclose(load(dataset), own_range(levels), atol=1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"BitsStored": 12, "HighBit": 16}, "12 bits that end at bit 16 of 16 are not read"),
        ({"BitsStored": 12, "HighBit": 10}, "12 bits that end at bit 10 of 16 are not read"),
    ],
)
def test_bits_that_cannot_stand_where_the_header_puts_them(tmp_path, levels, values, message):
    dataset = dicom_dataset(levels)
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    assert refused(dataset, tmp_path) == message


def test_bits_of_a_compressed_image_stand_at_its_bottom(tmp_path, levels):
    dataset = jpeg_2000(levels, levels)
    dataset.BitsStored, dataset.HighBit = 12, 15
    assert refused(dataset, tmp_path) == "its compressed pixels end at bit 15, not 11"


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_files_without_a_preamble(tmp_path, levels, syntax):
    content = dicom_bytes(dicom_dataset(levels, syntax=syntax))
    bare = dicom_bytes(dicom_dataset(levels, syntax=syntax))[132:]
    n_meta = 12 + int.from_bytes(bare[8:12], "little")  # the first element gives the length of the others
    # Some programs leave out the length, and the version after it.
    for name, body in (("meta", bare), ("no length", bare[12:]), ("no version", bare[26:]), ("bare", bare[n_meta:])):
        (tmp_path / name).write_bytes(body)
        (tmp_path / "whole").write_bytes(content)
        np.testing.assert_array_equal(load_path(tmp_path / name), load_path(tmp_path / "whole"))
        assert size_and_mode(tmp_path / name) == (40, 60, "MONOCHROME2")


def test_without_a_photometric_interpretation_black_may_be_white(tmp_path, levels):
    dataset = dicom_dataset(levels)
    del dataset.PhotometricInterpretation
    assert refused(dataset, tmp_path).startswith("its DICOM header lacks PhotometricInterpretation")
