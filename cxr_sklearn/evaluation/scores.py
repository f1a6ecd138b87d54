"""scores.csv, the one table every number of a report comes from, and the summary computed from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..exceptions import DataError
from ..files import replacing
from .metrics import METRICS, compute_metrics, confusion_cells
from .thresholds import choose_threshold

COLUMNS = ["path", "patient", "split", "fold", "pipeline", "target", "score"]


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
    if missing := {"pipelines", "data", "run"} - set(metrics):
        raise DataError(f"{path} lacks {sorted(missing)}; `cxr-sklearn compare` writes it anew")
    return metrics


def summarise(scores: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Compute what metrics.json says of each pipeline from the table of scores alone.

    Parameters
    ----------
    scores : DataFrame
        As :func:`read_scores` returns it.

    Returns
    -------
    dict
        By pipeline: "cv" (mean and standard deviation over the folds, ddof=0), "test", "threshold" and "confusion".
        All decisions are taken at the pipeline's threshold.
    """
    return {str(name): _summarise_one(rows) for name, rows in scores.groupby("pipeline", sort=False)}


def _summarise_one(rows: pd.DataFrame) -> dict[str, Any]:
    threshold = choose_threshold(rows)
    value = float(threshold["value"])
    test = rows[rows["split"] == "test"]
    folds = [
        compute_metrics(fold["target"], fold["score"], value)
        for _, fold in rows[rows["split"] == "train"].groupby("fold")
    ]
    return {
        "cv": {name: _mean_and_std([fold[name] for fold in folds]) for name in METRICS},
        "test": {name: {"value": v} for name, v in compute_metrics(test["target"], test["score"], value).items()},
        "threshold": threshold,
        "confusion": confusion_cells(test["target"], test["score"], value),
    }


def _mean_and_std(values: list[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "std": float(np.std(values))}


def merge_facts(summary: Mapping[str, dict[str, Any]], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Join what was computed from the scores with what only the run knew (best parameters, times, versions)."""
    pipelines = {name: {**numbers, **facts["pipelines"].get(name, {})} for name, numbers in summary.items()}
    return {"pipelines": pipelines, "data": facts["data"], "run": facts["run"]}
