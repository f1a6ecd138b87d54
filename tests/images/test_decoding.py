import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from cxr_sklearn import ImageLoader
from cxr_sklearn._io import MAX_BYTES
from cxr_sklearn.exceptions import ImageReadError
from cxr_sklearn.images._decoding import Decoding, reason_of, size_and_mode
from cxr_sklearn.images._pixels import MAX_PIXELS, RefusedError


@pytest.fixture
def gradient():
    """A smooth picture, so that codecs and filters change it little."""
    return np.add.outer(np.arange(120), np.arange(90)).astype(np.uint8)


def load_one(path, size=(120, 90), **options):
    return ImageLoader(size=size, **options).transform([str(path)])[0]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "CMYK", "1"])
@pytest.mark.parametrize("suffix", ["png", "jpeg", "tiff", "bmp", "webp"])
def test_every_mode_of_every_format_comes_out_grey(tmp_path, gradient, mode, suffix):
    image = Image.fromarray(gradient).convert(mode)
    path = tmp_path / f"image.{suffix}"
    try:
        image.save(path)
    except OSError as error:
        pytest.skip(f"{suffix} cannot hold {mode}: {error}")
    pixels = load_one(path)
    assert (pixels == pixels[..., :1]).all()
    expected = np.asarray(image.convert("RGB").convert("L"), dtype=int)
    assert np.abs(pixels[..., 0] - expected).mean() < 5


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_is_scaled_by_its_own_range(tmp_path, gradient, suffix):
    twelve_bit = (gradient.astype(np.uint16) * 10) + 300
    Image.fromarray(twelve_bit).save(tmp_path / f"deep.{suffix}")
    pixels = load_one(tmp_path / f"deep.{suffix}")[..., 0]
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert np.corrcoef(pixels.ravel(), gradient.ravel())[0, 1] > 0.999


def test_transparency_is_laid_over_black(tmp_path, gradient):
    image = Image.fromarray(np.full_like(gradient, 255)).convert("LA")
    image.putalpha(Image.fromarray(gradient))
    image.save(tmp_path / "clear.png")
    np.testing.assert_allclose(load_one(tmp_path / "clear.png")[..., 0], gradient, atol=1)


@pytest.mark.parametrize("transparency", [bytes(range(256)), 7])
def test_transparent_palettes_are_laid_over_black(tmp_path, gradient, transparency):
    image = Image.fromarray(gradient).convert("P")
    image.save(tmp_path / "clear.png", transparency=transparency)
    opacity = gradient.astype(int) if isinstance(transparency, bytes) else np.where(gradient == 7, 0, 255)
    np.testing.assert_allclose(load_one(tmp_path / "clear.png")[..., 0], gradient * opacity / 255, atol=1.5)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "deep.png", "tiff", "webp"])
def test_exif_orientation_is_undone(tmp_path, gradient, kind, turn):
    corner = np.array(gradient)
    corner[:40, :20] = 255  # differs in all eight orientations
    upright = Image.fromarray(corner.astype(np.uint16) * 200 if "deep" in kind else corner)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that the orientation undoes
    exif = Image.Exif()
    exif[0x0112] = turn
    stored = upright.transpose(Image.Transpose(undo[turn])) if turn > 1 else upright
    options = {"quality": 95} if kind in ("jpeg", "webp") else {}
    stored.save(tmp_path / f"turned.{kind}", exif=exif, **options)
    pixels = load_one(tmp_path / f"turned.{kind}")[..., 0].astype(float)
    assert np.abs(pixels - (scaled(corner) if "deep" in kind else corner)).mean() < 3


def test_a_turned_jpeg_is_decoded_large_enough(tmp_path):
    """Reduced decoding uses the size of the upright picture."""
    stripes = Image.fromarray(np.tile(np.repeat(np.array([0, 255], np.uint8), 4), (1600, 50)))
    exif = Image.Exif()
    exif[0x0112] = 6
    stripes.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.jpeg", exif=exif, quality=95)
    whole = np.asarray(stripes.resize((200, 20), Image.Resampling.BILINEAR), dtype=float)
    assert np.abs(load_one(tmp_path / "turned.jpeg", size=(20, 200))[..., 0] - whole).mean() < 3


def test_reduced_size_decoding_looks_like_the_whole(tmp_path, gradient):
    rng = np.random.default_rng(0)
    big = Image.fromarray(gradient).resize((1440, 1920), Image.Resampling.BICUBIC)
    noisy = np.clip(np.asarray(big) + rng.normal(0, 8, (1920, 1440)), 0, 255).astype(np.uint8)
    noisy[800:900, 300:1000] = 255  # a sharp edge
    Image.fromarray(noisy).save(tmp_path / "big.jpeg", quality=95)
    with Image.open(tmp_path / "big.jpeg") as image:
        whole = np.asarray(image.resize((90, 120), Image.Resampling.BILINEAR), dtype=float)
    difference = np.abs(load_one(tmp_path / "big.jpeg")[..., 0] - whole)
    assert difference.mean() < 0.5
    assert np.percentile(difference, 99) < 4


@pytest.mark.realdata
def test_reduced_size_decoding_is_invisible_on_real_radiographs(real_data):
    paths = sorted((real_data / "originals").rglob("*.jpeg"))[::10]
    for path in paths:
        with Image.open(path) as image:
            whole = np.asarray(image.convert("L").resize((224, 224), Image.Resampling.BILINEAR), dtype=float)
        difference = np.abs(load_one(path, size=224)[..., 0] - whole)
        assert difference.mean() < 0.5
        assert np.percentile(difference, 99.9) <= 8


def test_resize_modes(tmp_path):
    Image.fromarray(np.full((100, 50), 200, dtype=np.uint8)).save(tmp_path / "tall.png")
    assert (load_one(tmp_path / "tall.png", size=40) == 200).all()
    assert (load_one(tmp_path / "tall.png", size=40, resize="crop") == 200).all()
    padded = load_one(tmp_path / "tall.png", size=40, resize="pad")
    assert padded[20, 0, 0] == 0
    assert padded[20, 20, 0] == 200


@pytest.mark.parametrize(
    ("side", "reason"),
    [
        (9_000, "9,000 x 9,000 pixels are more than the 40,000,000 allowed"),
        (60_000, "60,000 x 60,000 pixels are more than the 40,000,000 allowed"),
    ],
)
def test_too_many_pixels_are_refused_before_decoding(tmp_path, side, reason):
    write_png_header(tmp_path / "bomb.png", side)
    assert refusal(tmp_path / "bomb.png") == reason


def write_png_header(path, side):
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks))


def test_cmyk_jpeg_is_not_inverted(tmp_path, gradient):
    Image.fromarray(gradient).convert("CMYK").save(tmp_path / "print.jpeg", quality=95)
    assert np.abs(load_one(tmp_path / "print.jpeg")[..., 0] - gradient.astype(float)).mean() < 2


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("order", ["<", ">"])
def test_deep_tiff_of_every_kind(tmp_path, gradient, dtype, order):
    values = gradient.astype(dtype) * 20 - (2000 if dtype != np.uint16 else 0)
    write_tiff(tmp_path / "deep.tiff", values, order)
    np.testing.assert_allclose(load_one(tmp_path / "deep.tiff")[..., 0], scaled(values), atol=1)


def test_large_unsigned_levels_do_not_wrap(tmp_path, gradient):
    values = gradient.astype(np.uint32) * 16_000_000
    write_tiff(tmp_path / "deep.tiff", values, "<")
    np.testing.assert_allclose(load_one(tmp_path / "deep.tiff")[..., 0], scaled(values), atol=1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_white_is_zero(tmp_path, gradient, dtype):
    levels = gradient.astype(dtype)
    write_tiff(tmp_path / "negative.tiff", levels.max() - levels, "<", white_is_zero=True)
    expected = scaled(levels) if dtype != np.uint8 else levels + (255 - levels.max())
    np.testing.assert_allclose(load_one(tmp_path / "negative.tiff")[..., 0], expected, atol=1)


def scaled(values):
    values = values.astype(float)
    return (values - values.min()) / np.ptp(values) * 255


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_a_constant_deep_image_is_black(tmp_path, dtype):
    write_tiff(tmp_path / "flat.tiff", np.full((120, 90), 700, dtype=dtype), "<")
    assert (load_one(tmp_path / "flat.tiff") == 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_levels_that_are_not_numbers_are_refused(tmp_path, bad):
    values = np.ones((120, 90), dtype=np.float32)
    values[70, 3] = bad
    write_tiff(tmp_path / "holes.tiff", values, "<")
    assert refusal(tmp_path / "holes.tiff") == "some of its pixel values are not finite"


@pytest.mark.parametrize("n_channels", [2, 3, 4])
def test_16_bit_colour_is_read_only_where_8_bits_will_do(tmp_path, gradient, n_channels):
    full = np.repeat(gradient.astype(np.uint16)[..., None] * 250, n_channels, axis=2)
    if n_channels in (2, 4):
        full[..., -1] = 65_535
    write_png(tmp_path / "full.png", full)
    np.testing.assert_allclose(load_one(tmp_path / "full.png")[..., 0], full[..., 0] >> 8, atol=1)
    write_png(tmp_path / "twelve.png", full // 16)
    assert "grey levels; save it as 16-bit grey" in refusal(tmp_path / "twelve.png")


def test_a_transparent_16_bit_level_is_refused(tmp_path, gradient):
    write_png(tmp_path / "clear.png", gradient.astype(np.uint16)[..., None], (b"tRNS", b"\0\7"))
    assert "without transparency" in refusal(tmp_path / "clear.png")


@pytest.mark.parametrize("kind", ["tiff", "png", "webp"])
def test_a_file_of_several_images_is_refused(tmp_path, gradient, kind):
    pages = [Image.fromarray(gradient), Image.fromarray(255 - gradient)]
    pages[0].save(tmp_path / f"pages.{kind}", save_all=True, append_images=pages[1:])
    assert "more than one image" in refusal(tmp_path / f"pages.{kind}")


def test_of_a_phones_two_pictures_the_first_is_taken(tmp_path, gradient):
    pages = [Image.fromarray(gradient).convert("RGB"), Image.fromarray(255 - gradient).convert("RGB")]
    pages[0].save(tmp_path / "phone.jpeg", format="MPO", save_all=True, append_images=pages[1:], quality=95)
    assert np.abs(load_one(tmp_path / "phone.jpeg")[..., 0] - gradient.astype(float)).mean() < 2


def test_a_tiff_whose_tags_would_fill_the_memory_is_refused(tmp_path):
    n = MAX_BYTES // 4 - 100
    header = struct.pack("<2sHLH", b"II", 42, 8, 1) + struct.pack("<HHLL", 273, 4, n, 26) + struct.pack("<L", 0)
    (tmp_path / "tags.tiff").write_bytes(header)
    os.truncate(tmp_path / "tags.tiff", 4 * n + 26)
    assert "TIFF tags" in refusal(tmp_path / "tags.tiff")
    with pytest.raises(RefusedError, match="TIFF tags"):
        size_and_mode(tmp_path / "tags.tiff")


def test_a_longer_side_than_jpeg_can_hold_is_refused(tmp_path):
    Image.new("L", (70_000, 1)).save(tmp_path / "line.png")
    assert "no side may be longer" in refusal(tmp_path / "line.png")


def test_large_exif_is_refused(tmp_path, gradient):
    Image.fromarray(gradient).save(tmp_path / "big.png", exif=b"Exif\0\0" + bytes(2_000_000))
    assert "EXIF metadata" in refusal(tmp_path / "big.png")


def test_a_larger_file_is_refused_unread(tmp_path):
    (tmp_path / "huge.png").touch()
    os.truncate(tmp_path / "huge.png", MAX_BYTES + 1)
    assert "bytes are more than" in refusal(tmp_path / "huge.png")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_only_regular_files_are_opened(tmp_path, make):
    make(tmp_path / "odd.png")
    batch = ImageLoader(size=8).transform([str(tmp_path / "odd.png")])
    for ask in (lambda: batch.keys, lambda: batch.source_header(0), lambda: batch[0]):
        with pytest.raises(ImageReadError, match="not a file"):
            ask()


def test_size_and_mode_come_from_the_header(tmp_path, gradient):
    file = io.BytesIO()
    Image.fromarray(gradient).save(file, format="PNG")
    (tmp_path / "cut.png").write_bytes(file.getvalue()[:60])
    assert size_and_mode(file.getvalue()) == size_and_mode(tmp_path / "cut.png") == (90, 120, "L")
    batch = ImageLoader(size=8).transform([str(tmp_path / "cut.png"), str(tmp_path / "absent.png")])
    assert batch.source_header(0) == (90, 120, "L")
    with pytest.raises(ImageReadError, match="No such file"):
        batch.source_header(1)


def test_a_header_can_be_kept_when_the_image_is_decoded(tmp_path, gradient):
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    for i, path in enumerate(paths):
        Image.fromarray(gradient[i:]).save(path)
    batch = ImageLoader(size=8).transform(list(map(str, paths))).keeping_headers()
    last = batch[1:][[1]]
    np.testing.assert_array_equal(last[0], ImageLoader(size=8).transform([str(paths[2])])[0])
    for path in paths[1:]:
        path.unlink()
    assert last.source_header(0) == batch.source_header(2) == (90, 118, "L")
    assert batch.source_header(0) == (90, 120, "L")
    with pytest.raises(ImageReadError, match="No such file"):
        batch.source_header(1)


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("too deep"), KeyError(274), struct.error("4 bytes")])
def test_any_error_of_a_codec_becomes_a_read_error(tmp_path, gradient, monkeypatch, error):
    Image.fromarray(gradient).save(tmp_path / "image.png")

    def broken(self, source):
        raise error

    monkeypatch.setattr(Decoding, "__call__", broken)
    assert ("memory" if isinstance(error, MemoryError) else type(error).__name__) in refusal(tmp_path / "image.png")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UnidentifiedImageError("cannot identify image file <_io.BytesIO object at 0x7f>"), "not a JPEG, PNG"),
        (OSError("cannot read <_io.BytesIO object at 0x7f00> now"), "cannot read ... now"),
        (ValueError("a\nb\x00c"), "a b?c"),
        (SyntaxError(f"broken PNG file (chunk {bytes(range(99))!r})"), "broken PNG file (chunk ...)"),
        (ValueError("x" * 999), "x" * 200 + "..."),
        (AssertionError(), "its data are damaged (AssertionError)"),
    ],
)
def test_reasons_are_one_printable_line(error, reason):
    assert reason_of(error).startswith(reason)
    assert reason_of(error).isprintable()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["I;16", "I", "F", "RGBA", "CMYK", "P"])
def test_the_largest_image_takes_less_than_a_gigabyte(tmp_path, mode):
    image = Image.new(mode, (MAX_PIXELS // 5000, 5000))
    options = {"transparency": bytes(256)} if mode == "P" else {}
    image.save(tmp_path / "large", format="PNG" if mode == "P" else "TIFF", **options)
    code = (
        "import sys; from cxr_sklearn import ImageLoader; ImageLoader().transform(sys.argv[1:])[0]; "
        "print(*(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )  # in this process, ru_maxrss would include all tests before
    command = [sys.executable, "-c", code, str(tmp_path / "large")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1_000_000


def refusal(path):
    """The reason why a file cannot be read."""
    with pytest.raises(ImageReadError) as caught:
        load_one(path)
    return caught.value.failures[str(path)]


def write_tiff(path, values, order, white_is_zero=False):
    """Write one uncompressed strip; Pillow cannot write all the kinds of TIFF that it reads."""
    height, width = values.shape
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = {256: width, 257: height, 258: 8 * values.itemsize, 259: 1, 262: int(not white_is_zero), 273: 134}
    tags |= {277: 1, 278: height, 279: values.nbytes, 339: kind}
    entries = b"".join(struct.pack(f"{order}HHLL", tag, 4, 1, value) for tag, value in tags.items())
    start = struct.pack(f"{order}2sHLH", b"II" if order == "<" else b"MM", 42, 8, len(tags))
    content = start + entries + bytes(4)
    assert len(content) == 134
    path.write_bytes(content + values.astype(values.dtype.newbyteorder(order)).tobytes())


def write_png(path, values, *more):
    """Write a PNG of 16 bits per channel."""
    height, width, n_channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[n_channels], 0, 0, 0)
    chunks = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks))


def png_chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
