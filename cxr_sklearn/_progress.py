"""Progress on stderr: bars in a terminal or a notebook, and a line a minute elsewhere, as in a batch queue."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from time import monotonic, strftime
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

#: Seconds between two lines in a log, and between two changes of a bar in a notebook.
_LOG_EVERY, _DRAW_EVERY = 60.0, 0.25
_WIDTH = 30


class Advance(Protocol):
    """Advances a progress bar."""

    def __call__(self, steps: int, note: str | None = None, /) -> None:
        """Advance by a number of steps, and show a note behind the title from now on."""


def stderr_is_a_terminal() -> bool:
    """Whether somebody watches; a program without a console has no stderr at all."""
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


@contextmanager
def progress_bar(description: str, total: int, *, show: bool) -> Iterator[Advance]:
    """Show progress while the block runs; the yielded function advances it by a number of steps and may add a note."""
    console = Console(stderr=True)
    if not show:
        yield _ignore
    elif console.is_jupyter:
        stage = _Stage(description, total, _Notebook())
        yield stage.advance
        stage.tell(at_once=True)
    elif console.is_terminal:
        with _terminal_bar(console, description, total) as advance:
            yield advance
    else:
        yield _Stage(description, total, _log).advance


def _ignore(steps: int, note: str | None = None, /) -> None:
    pass


@contextmanager
def _terminal_bar(console: Console, description: str, total: int) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(description, total=total)

        def advance(steps: int, note: str | None = None) -> None:
            title = None if note is None else f"{description}, {note}"
            progress.update(task, advance=steps, description=title)

        yield advance


class _Stage:
    """Counts the steps of a stage, and says in words how far it is."""

    def __init__(self, description: str, total: int, show: Callable[[str, float, bool], None]) -> None:
        self._title = self._description = description
        self._total, self._done, self._show = total, 0, show
        #: Time and steps of the first advance: what was found in a store took no time.
        self._first: tuple[float, int] | None = None
        self.tell()

    def advance(self, steps: int, note: str | None = None, /) -> None:
        self._done += steps
        self._first = self._first or (monotonic(), self._done)
        if note is not None:
            self._title = f"{self._description}, {note}"
        self.tell()

    def tell(self, *, at_once: bool = False) -> None:
        share = self._done / self._total if self._total else 1.0
        self._show(f"{self._title}: {self._done:,} of {self._total:,}{self._left()}", share, at_once)

    def _left(self) -> str:
        if self._first is None or not self._first[1] < self._done < self._total:
            return ""
        start, steps = self._first
        seconds = (monotonic() - start) / (self._done - steps) * (self._total - self._done)
        hours, minutes = divmod(round(seconds / 60), 60)
        return f", about {f'{hours} h {minutes} min' if hours else f'{minutes} min' if minutes else 'a minute'} left"


class _Log:
    """Lines of all stages of a run, at most one a minute, so that a log of hours can be read."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.restart()

    def restart(self) -> None:
        """Count the minute from now: a new run begins."""
        self._last = monotonic()

    def __call__(self, line: str, share: float, at_once: bool) -> None:
        with self._lock:
            if monotonic() - self._last < _LOG_EVERY or sys.stderr is None:
                return
            self._last = monotonic()
        with suppress(OSError, ValueError):  # a run does not end because its log is full or closed
            print(f"{strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


_log = _Log()


def begin_run() -> None:
    """Let a minute pass before the first line in a log."""
    _log.restart()


class _Notebook:
    """A bar below the cell of a notebook, which needs nothing but IPython; bars of rich need ipywidgets as well."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._last = 0.0

    def __call__(self, line: str, share: float, at_once: bool) -> None:
        if not at_once and monotonic() - self._last < _DRAW_EVERY:
            return
        self._last = monotonic()
        filled = round(_WIDTH * min(share, 1.0))
        text = {"text/plain": f"[{'#' * filled}{'.' * (_WIDTH - filled)}] {line}"}
        if self._handle is None:
            from IPython.display import display

            self._handle = display(text, raw=True, display_id=True)
        else:
            self._handle.update(text, raw=True)
