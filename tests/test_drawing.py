"""Figures are drawn alike whatever the user has set in Matplotlib, and nothing of that is changed."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from cxr_sklearn._drawing import drawn_alike
from cxr_sklearn.models.overlay import write_overlay
from cxr_sklearn.report import page
from cxr_sklearn.report.figures import learning_figure
from cxr_sklearn.report.words import words
from cxr_sklearn.study.run_folder import read_metrics, render

CURVES = {"mine": {"points": [{"patients": n, "mean": 0.8, "low": 0.7, "high": 0.9} for n in (30, 60)]}}
ODD = [
    {"text.usetex": True},
    {"font.size": 40, "font.family": "fantasy", "lines.linewidth": 9},
    {"axes.facecolor": "black", "figure.facecolor": "black", "savefig.facecolor": "black", "image.cmap": "hot"},
    {"savefig.dpi": 10, "figure.dpi": 10, "savefig.format": "pdf", "savefig.bbox": "tight", "figure.autolayout": True},
    {"axes.prop_cycle": mpl.cycler(marker=["x"]), "axes.xmargin": 0.4, "image.origin": "lower", "axes.grid": True},
    {"path.sketch": (1, 100, 2), "svg.fonttype": "path", "axes.formatter.use_locale": True},
]


def drawn(folder):
    figure = learning_figure(CURVES, {"mine": "my $pipeline$"}, words("en"))
    grey, heat = np.full((32, 32), 90, np.uint8), np.eye(32)
    write_overlay(folder / "heat.png", grey, heat, score=0.5)
    return figure, np.asarray(Image.open(folder / "heat.png")).tolist()


@pytest.mark.parametrize("settings", ODD, ids=lambda settings: next(iter(settings)))
def test_settings_change_no_figure_and_no_figure_changes_settings(settings, tmp_path):
    plain = drawn(tmp_path)
    with mpl.rc_context(settings):
        before = dict(mpl.rcParams)
        assert drawn(tmp_path) == plain
        assert dict(mpl.rcParams) == before


def test_a_figure_that_fails_leaves_the_settings_alone():
    before = dict(mpl.rcParams)
    with pytest.raises(ZeroDivisionError), drawn_alike({"font.size": 3}):
        raise ZeroDivisionError
    assert dict(mpl.rcParams) == before


def test_threads_that_draw_at_once_leave_the_settings_alone(tmp_path):
    before = dict(mpl.rcParams)

    def draw(i):
        with drawn_alike({"font.size": 10 + i}):
            sizes = {mpl.rcParams["font.size"] for _ in range(2000)}
        return sizes == {10 + i}

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(draw, range(40)))
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"MPLBACKEND": "Qt4Agg"}, b""),
        ({"MPLBACKEND": "module://nowhere.to.be.found"}, b""),
        ({}, b"text.usetex: True\nbackend: nonsense\n"),
        ({}, "# \u00e4hnlich\nfont.size: 30\n".encode("latin-1")),
    ],
)
def test_settings_that_matplotlib_does_not_start_with(environment, text, tmp_path):
    (tmp_path / "matplotlibrc").write_bytes(text)
    code = (
        "import os; before = dict(os.environ)\n"
        "from cxr_sklearn.report.figures import learning_figure; from cxr_sklearn.report.words import words\n"
        f"print(learning_figure({CURVES}, {{'mine': 'my $pipeline$'}}, words('en')))\n"
        "assert dict(os.environ) == before"
    )
    environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path), "PATH": "/nonexistent", **environment}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == learning_figure(CURVES, {"mine": "my $pipeline$"}, words("en")).strip()


def test_a_figure_that_fails_costs_a_warning_and_not_the_report(rendered_copy, monkeypatch):
    def fail(*data):
        raise RuntimeError("no <font>\nat all")

    monkeypatch.setattr(page, "roc_figure", fail)
    with pytest.warns(UserWarning, match="a figure of the report cannot be drawn: RuntimeError: no <font> at all"):
        render(rendered_copy, read_metrics(rendered_copy))
    text = (rendered_copy / "report.html").read_text()
    assert "This figure cannot be drawn: RuntimeError: no &lt;font&gt; at all" in text
    assert text.count("<svg") == 3  # the others are there


@pytest.fixture
def rendered_copy(run, tmp_path):
    _, out, _ = run
    for name in ("scores.csv", "metrics.json", "images.csv"):
        (tmp_path / name).write_bytes((out / name).read_bytes())
    return tmp_path
