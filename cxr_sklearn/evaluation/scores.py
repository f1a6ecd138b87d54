"""scores.csv, the table that the numbers of a report come from, and metrics.json, which holds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..exceptions import DataError
from ..files import replacing

COLUMNS = ["path", "patient", "split", "fold", "pipeline", "target", "score"]


def score_rows(rows: pd.DataFrame, pipeline: str, scores: np.ndarray, fold: int | None = None) -> pd.DataFrame:
    """Return rows of the table for rows of a frame, in the same order.

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
    )[COLUMNS]


def write_scores(scores: pd.DataFrame, path: Path) -> None:
    """Write the table; scores keep nine significant digits, which every CSV reader reads back alike."""
    with replacing(path) as draft:
        scores[COLUMNS].to_csv(draft, index=False, float_format="%.9g")


def read_scores(path: Path) -> pd.DataFrame:
    """Read the table back.

    Returns
    -------
    DataFrame
        One row per image, pipeline and role: `split` is "train" for out-of-fold scores, with their `fold` (Int64), else
        "val" or "test".

    Raises
    ------
    DataError
        If there is no such file or it lacks a column.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; `cxr-sklearn compare --out {path.parent}` writes it")
    text = dict.fromkeys(("path", "patient", "split", "pipeline"), "str")
    scores = pd.read_csv(path, dtype={**text, "fold": "Int64"}, keep_default_na=False, na_values={"fold": [""]})
    if missing := [name for name in COLUMNS if name not in scores]:
        raise DataError(f"{path} lacks the columns {missing}")
    return scores


def read_metrics(path: Path) -> dict[str, Any]:
    """Read metrics.json back.

    Raises
    ------
    DataError
        If there is no such file or it is not what `compare` wrote.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; `cxr-sklearn compare --out {path.parent}` writes it")
    try:
        metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); `cxr-sklearn compare` writes it anew") from error
    missing = {"pipelines", "data", "run"} - set(metrics) or {"threshold"} - set(metrics["run"])
    if missing:
        raise DataError(f"{path} lacks {sorted(missing)}; `cxr-sklearn compare` writes it anew")
    return metrics
