"""Progress bars on stderr; silent where stderr is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Advance(Protocol):
    """Advances a progress bar."""

    def __call__(self, steps: int, note: str | None = None, /) -> None:
        """Advance by a number of steps, and show a note behind the title from now on."""


def stderr_is_a_terminal() -> bool:
    """Whether somebody watches; a program without a console has no stderr at all."""
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


@contextmanager
def progress_bar(description: str, total: int, *, show: bool) -> Iterator[Advance]:
    """Show a bar while the block runs; the yielded function advances it by a number of steps and may add a note."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not (show and console.is_terminal)) as progress:
        task = progress.add_task(description, total=total)

        def advance(steps: int, note: str | None = None) -> None:
            title = None if note is None else f"{description}, {note}"
            progress.update(task, advance=steps, description=title)

        yield advance
