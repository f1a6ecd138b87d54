"""What a run knows so far, written whenever there is more of it, so that a failure loses nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from ..evaluation.summary import Computed
from ..evaluation.tables import write_table
from ..exceptions import InputError, ModelError, TrainingError
from .run_folder import owned, render, write_metrics


class Writer:
    """Writer of a run's tables and metrics.json, called whenever there are more rows."""

    def __init__(self, folder: Path, facts: dict[str, Any], images: pd.DataFrame, begin: Callable[[], None]) -> None:
        self.folder, self.facts, self._images, self._begin = folder, facts, images, begin
        self._tables: dict[str, list[pd.DataFrame]] = {"scores": [], "training": [], "probes": [], "runs": []}
        self.metrics: dict[str, Any] = {}
        self._computed: dict[str, Computed] = {}  # so that no interval is computed again when a pipeline joins

    def __call__(self, **more: list[pd.DataFrame]) -> None:
        if not self.metrics:
            self._begin()  # the files of an earlier run do not fit the new tables
            self._write_table(self._images, "images")
        self.add(**more)
        self.metrics = write_metrics(self.folder, self.facts, self._computed)

    def add(self, **more: list[pd.DataFrame]) -> None:
        """Write more rows, and leave it to the next call to compute what follows from them."""
        for name, parts in more.items():
            self._tables[name] += parts
            if self._tables[name]:
                self._write_table(pd.concat(self._tables[name]), name)

    def _write_table(self, table: pd.DataFrame, name: str) -> None:
        with owned(self.folder, f"{name}.csv"):
            write_table(table, self.folder, name)


def run_all(
    names: Iterable[str], run_one: Callable[[str], None], write: Writer, repeat: Callable[[], None] | None = None
) -> None:
    """Run one pipeline after the other, note those that fail, and render the report whatever happens.

    `repeat` is called afterwards, if any of them left results.
    """
    try:
        for name in names:
            try:
                run_one(name)
            except (TrainingError, ModelError, InputError) as error:
                failed = f"{name} failed: "
                write.facts["failed"][name] = failed + str(error).removeprefix(failed)
                if write.metrics:
                    write()
        if write.metrics and repeat is not None:
            repeat()
    finally:
        if write.metrics:
            render(write.folder, write.metrics)
