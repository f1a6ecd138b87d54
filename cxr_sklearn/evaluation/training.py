"""training.csv, the epochs of the networks that a run trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from ..exceptions import DataError
from ..files import replacing

COLUMNS = ["pipeline", "phase", "epoch", "loss"]


def write_training(training: pd.DataFrame, path: Path) -> None:
    """Write ``training.csv``: pipeline, phase, epoch and what a classifier's ``history_`` holds."""
    with replacing(path) as draft:
        training.to_csv(draft, index=False, float_format="%.6g")


def read_training(path: Path) -> pd.DataFrame:
    """Read it back; empty where no pipeline of the run trained a network.

    Raises
    ------
    DataError
        If the file is not what `compare` wrote.
    """
    if not path.is_file():
        return pd.DataFrame(columns=COLUMNS)
    numbers = ("loss", "accuracy", "auc")
    missing = {name: [""] for name in (f"{prefix}{name}" for prefix in ("", "val_", "batch_") for name in numbers)}
    text = {"pipeline": "str", "phase": "str"}
    try:
        training = pd.read_csv(path, dtype=text, keep_default_na=False, na_values=missing)
    except ValueError as error:
        raise DataError(f"{path} is not a table ({error}); `cxr-sklearn compare` writes it anew") from error
    if absent := [name for name in COLUMNS if name not in training]:
        raise DataError(f"{path} lacks the columns {absent}; `cxr-sklearn compare` writes it anew")
    return training


def training_table(name: str, histories: Mapping[str, Mapping[str, list[float]]]) -> pd.DataFrame:
    """Return one row per epoch.

    Parameters
    ----------
    name : str
        Of the pipeline.
    histories : mapping of str to mapping of str to list of float
        ``history_`` by phase, in the order in which they were trained.
    """
    parts = [
        pd.DataFrame({"pipeline": name, "phase": phase, "epoch": range(1, 1 + len(history["loss"])), **history})
        for phase, history in histories.items()
        if history
    ]
    return pd.concat(parts)
