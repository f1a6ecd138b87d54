"""scores.csv, the table that the numbers of a report come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ..exceptions import DataError
from .tables import TABLES, read_table


def score_rows(rows: pd.DataFrame, pipeline: str, scores: np.ndarray, fold: int | None = None) -> pd.DataFrame:
    """Return rows of ``scores.csv`` for rows of a frame, in the same order.

    Parameters
    ----------
    rows : DataFrame
        With `path`, `patient`, `split` and `target`.
    pipeline : str
    scores : ndarray of shape (n,)
        Probability of pneumonia.
    fold : int or None
        For out-of-fold scores.
    """
    return rows[["path", "patient", "split", "target"]].assign(
        fold=pd.array([fold] * len(rows), dtype="Int64"), pipeline=pipeline, score=scores
    )[list(TABLES["scores"].columns)]


def read_scores(folder: Path) -> pd.DataFrame:
    """Read ``scores.csv`` of a run back.

    Returns
    -------
    DataFrame
        One row per image, pipeline and role: `split` is "train" for out-of-fold scores, with their `fold` (Int64), else
        "val" or "test".

    Raises
    ------
    DataError
        If there is no such file, or it is not what `compare` wrote.
    """
    path = folder / "scores.csv"
    if not path.is_file():
        raise DataError(f"{path} does not exist; `cxr-sklearn compare --out {folder}` writes it")
    scores = read_table(folder, "scores")
    if scores.empty:
        raise DataError(f"{path} holds no scores; `cxr-sklearn compare` writes it anew")
    for wrong, what in (
        (~scores["score"].between(0, 1), "scores outside 0 to 1"),
        (~scores["target"].isin([0, 1]), "targets other than 0 and 1"),
        (~scores["split"].isin(["train", "val", "test"]), "splits other than train, val and test"),
        ((scores["split"] == "train") & scores["fold"].isna(), "training scores without a fold"),
        (scores.duplicated(["path", "pipeline"]), "images that a pipeline scored twice"),
    ):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0]) + 2  # as an editor counts lines, below the heading
            raise DataError(f"{path} has {what}, first in line {row}; `cxr-sklearn compare` writes it anew")
    return scores
