import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cxr_sklearn import ImageLoader
from cxr_sklearn.exceptions import ImageReadError


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


def test_exif_rotation_is_undone(tmp_path, gradient):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    Image.fromarray(gradient).rotate(90, expand=True).save(tmp_path / "turned.jpeg", exif=exif, quality=95)
    assert np.abs(load_one(tmp_path / "turned.jpeg")[..., 0] - gradient.astype(float)).mean() < 2


def test_reduced_size_decoding_looks_like_the_whole(tmp_path, gradient):
    big = Image.fromarray(gradient).resize((1440, 1920), Image.Resampling.BICUBIC)
    big.save(tmp_path / "big.jpeg", quality=95)
    whole = np.asarray(big.resize((90, 120), Image.Resampling.BILINEAR), dtype=float)
    assert np.abs(load_one(tmp_path / "big.jpeg")[..., 0] - whole).mean() < 1


def test_resize_modes(tmp_path):
    Image.fromarray(np.full((100, 50), 200, dtype=np.uint8)).save(tmp_path / "tall.png")
    assert (load_one(tmp_path / "tall.png", size=40) == 200).all()
    assert (load_one(tmp_path / "tall.png", size=40, resize="crop") == 200).all()
    padded = load_one(tmp_path / "tall.png", size=40, resize="pad")
    assert padded[20, 0, 0] == 0
    assert padded[20, 20, 0] == 200


@pytest.mark.parametrize("side", [9_000, 60_000])
def test_too_many_pixels_are_refused_before_decoding(tmp_path, side):
    write_png_header(tmp_path / "bomb.png", side)
    with pytest.raises(ImageReadError, match="pixels"):
        load_one(tmp_path / "bomb.png")


def write_png_header(path, side):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
