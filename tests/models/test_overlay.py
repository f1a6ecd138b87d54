"""The picture of a radiograph and its heat map."""

import sys

import numpy as np
import pytest
from PIL import Image

from cxr_sklearn.exceptions import InputError
from cxr_sklearn.models import overlay
from cxr_sklearn.models.overlay import write_overlay


class TestOverlay:
    grey = np.tile(np.linspace(20, 220, 48).astype(np.uint8), (64, 1))

    @pytest.fixture
    def heat(self):
        heat = np.zeros((64, 48), dtype=np.float32)
        heat[8:24, 8:24] = 1
        return heat

    @pytest.fixture
    def texts(self, monkeypatch):
        """All texts of the drawn figures."""
        found = []

        class Seen(overlay.Figure):
            def savefig(self, *args, **options):
                super().savefig(*args, **options)
                found.extend(text.get_text() for text in self.findobj(overlay.mpl.text.Text))

        monkeypatch.setattr(overlay, "Figure", Seen)
        return found

    def test_colour_is_where_the_heat_is(self, heat, tmp_path):
        write_overlay(tmp_path / "a.png", self.grey, heat, score=0.87)
        write_overlay(tmp_path / "b.png", self.grey, 0 * heat, score=0.87)
        hot, cold = (np.asarray(Image.open(tmp_path / name).convert("RGB")).astype(int) for name in ("a.png", "b.png"))
        assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.png", "b.png"]
        area = slice(0, int(0.75 * hot.shape[1]))  # without the colour bar
        coloured = np.ptp(hot[:, area], axis=2) > 30
        share = coloured.sum() / (np.ptp(hot[:, area], axis=2) >= 0).sum()
        assert 0.02 < share < 0.2
        assert not (np.ptp(cold[:, area], axis=2) > 30).any()
        assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()

    @pytest.mark.parametrize(
        ("name", "start"),
        [
            ("a", b"\x89PNG"), ("a.PNG", b"\x89PNG"), ("a.jpg", b"\xff\xd8"), ("a.jpeg", b"\xff\xd8"),
            ("a.tif", b"II*"), ("a.webp", b"RIFF"), ("a.pdf", b"%PDF"), ("a.svg", b"<?xml"),
        ],
    )  # fmt: skip
    def test_the_file_holds_what_its_ending_says(self, heat, tmp_path, name, start):
        write_overlay(tmp_path / name, self.grey, heat, score=0.87)
        assert (tmp_path / name).read_bytes().startswith(start)

    @pytest.mark.parametrize("name", ["a.bmp", "a.gif", "a.jpgg", "a.csv"])
    def test_other_endings_are_refused(self, heat, tmp_path, name):
        with pytest.raises(InputError, match=r"cannot be written as \.\w+; choose from \.png"):
            write_overlay(tmp_path / name, self.grey, heat, score=0.87)
        assert list(tmp_path.iterdir()) == []

    def test_words(self, heat, tmp_path, texts):
        write_overlay(tmp_path / "a.png", self.grey, heat, score=0.87, threshold=0.5)
        assert "Score for pneumonia: 0.870 (threshold 0.500: pneumonia)" in texts
        assert any("not a diagnosis" in text for text in texts)
        write_overlay(tmp_path / "a.png", np.stack([self.grey] * 3, axis=2), 0 * heat, score=0.2, threshold=0.5)
        assert "Score for pneumonia: 0.200 (threshold 0.500: normal)" in texts
        assert "Nothing in the image raises the score" in texts

    def test_what_does_not_fit(self, heat, tmp_path):
        with pytest.raises(InputError, match=r"shape \(64, 48\) and a map of shape \(48, 64\)"):
            write_overlay(tmp_path / "a.png", self.grey, heat.T, score=0.5)
        for wrong in (2 * heat, heat - 0.5, np.full_like(heat, np.nan)):
            with pytest.raises(InputError, match="outside 0 to 1"):
                write_overlay(tmp_path / "a.png", self.grey, wrong, score=0.5)
        assert not list(tmp_path.iterdir())
