"""Bars in a terminal and in a notebook, lines in a log."""

import io
import re
import sys

import pytest
from rich.console import Console

from cxr_sklearn import _progress
from cxr_sklearn._progress import progress_bar


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(_progress, "monotonic", clock)
    monkeypatch.setattr(_progress, "_log", _progress._Log())
    return clock


def test_a_run_of_a_minute_says_nothing(clock, capsys):
    with progress_bar("Embedding", 100, show=True) as advance:
        for _ in range(59):
            clock.now += 1
            advance(1)
    assert capsys.readouterr() == ("", "")


def test_a_line_a_minute_in_a_log(clock, capsys):
    with progress_bar("Embedding", 5_856, show=True) as advance:
        advance(1_000)  # from the store, at once
        for _ in range(300):
            clock.now += 1
            advance(10)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert re.fullmatch(r"\d\d:\d\d:\d\d Embedding: 1,600 of 5,856, about 7 min left", lines[0])
    assert lines[-1].endswith("Embedding: 4,000 of 5,856, about 3 min left")


def test_all_stages_share_the_minute(clock, capsys):
    for stage in ("one", "two", "three"):
        with progress_bar(stage, 1, show=True) as advance:
            clock.now += 40
            advance(1)
    lines = [line.partition(" ")[2] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["two: 1 of 1"]
    clock.now += 61
    with progress_bar("four", 9, show=True) as advance:  # a first step may take an hour
        advance(1, "epoch 2")
    assert capsys.readouterr().err.endswith("four: 0 of 9\n")


def test_a_new_run_has_a_minute_of_its_own(clock, capsys):
    clock.now += 3_600
    _progress.begin_run()
    with progress_bar("Embedding", 2, show=True) as advance:
        advance(2)
    assert capsys.readouterr() == ("", "")


def test_hours_and_notes(clock, capsys):
    with progress_bar("Fitting", 100, show=True) as advance:
        advance(1)
        clock.now += 600
        advance(1, "epoch 2")
    assert capsys.readouterr().err.endswith("Fitting, epoch 2: 2 of 100, about 16 h 20 min left\n")


@pytest.mark.parametrize("state", ["none", "closed", "broken"])
def test_a_log_that_cannot_be_written_ends_no_run(clock, monkeypatch, state):
    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    stream = {"none": None, "closed": io.StringIO(), "broken": Broken()}[state]
    if state == "closed":
        stream.close()
    with progress_bar("Embedding", 2, show=True) as advance:
        monkeypatch.setattr(sys, "stderr", stream)
        clock.now += 61
        advance(1)


def test_nothing_is_shown_unasked(clock, capsys):
    with progress_bar("Embedding", 2, show=False) as advance:
        clock.now += 61
        advance(1)
    assert capsys.readouterr() == ("", "")


def test_a_bar_in_a_terminal(monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(_progress, "Console", lambda **_: Console(file=terminal, force_terminal=True, width=100))
    with progress_bar("Embedding", 2, show=True) as advance:
        advance(2, "done")
    assert "Embedding, done" in terminal.getvalue()
    assert "2/2" in terminal.getvalue()


def test_a_bar_in_a_notebook(clock, monkeypatch, capsys):
    """Without ipywidgets, which nobody needs to install."""
    display = pytest.importorskip("IPython.display")
    shown = []

    class Handle:
        def update(self, data, raw):
            shown.append(data["text/plain"])

    def show(data, raw, display_id):
        shown.append(data["text/plain"])
        return Handle()

    monkeypatch.setattr(display, "display", show)
    monkeypatch.setattr(_progress, "Console", lambda **_: Console(force_jupyter=True))
    with progress_bar("Embedding", 4, show=True) as advance:
        for _ in range(4):
            clock.now += 0.2
            advance(1)
    assert shown[0] == f"[{'.' * 30}] Embedding: 0 of 4"
    assert shown[-1] == f"[{'#' * 30}] Embedding: 4 of 4"
    assert len(shown) == 4  # at most four a second, and the end
    assert capsys.readouterr() == ("", "")
