"""The tables of a run folder: their columns, and how they are written and read."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from .._io import atomic_write
from ..exceptions import DataError
from .columns import BY


class Table(NamedTuple):
    """The required columns of a table, those that hold text, and those that may be empty."""

    columns: tuple[str, ...]
    text: tuple[str, ...]
    optional: tuple[str, ...] = ()
    written_by: str = "compare"


#: Prefix of the probes of changed images in ``probes.csv``, and what follows it for unchanged images.
STRESS, CLEAN = "stress:", "clean"
_SCORED = ("path", "patient", "split", "fold", "pipeline", "target", "score")
TABLES = {
    # One row per image and pipeline; the split is "train" for out-of-fold scores, which have a fold.
    "scores": Table(_SCORED, ("path", "patient", "split", "pipeline"), ("fold",)),
    # One row per image, with facts besides its scores. Columns by_<name>, of the user's, may follow.
    "images": Table(
        ("path", "split", "patient", "target", "subtype", "series", "brightness", "copies"),
        ("path", "split", "patient", "subtype", "series"),
        ("subtype", "series", "copies"),
    ),
    # Scores of occluded test images ("border", "centre"), of held-out patients after training on permuted labels
    # ("permuted"), and of changed validation images ("stress:bright" and so on, "stress:clean" for unchanged ones).
    "probes": Table((*_SCORED, "probe"), ("path", "patient", "split", "pipeline", "probe"), ("fold",)),
    # Scores of val and test by the trainings of a pipeline after the first, from 2 on.
    "runs": Table((*_SCORED, "run"), ("path", "patient", "split", "pipeline"), ("fold",)),
    # One row per epoch of each network that was trained.
    "training": Table(("pipeline", "phase", "epoch", "loss"), ("pipeline", "phase"), ("loss",)),
    "learning_curve": Table(
        ("pipeline", "weights", "source", "images", "patients", "repeat", "roc_auc"),
        ("pipeline", "weights", "source"),
        ("weights",),
        written_by="learning-curve",
    ),
    # The following are computed from the others.
    # Every error on test, at the threshold of its pipeline, the worst of each kind first.
    "errors": Table(
        ("pipeline", "kind", "path", "patient", "target", "score", "distance", "subtype"),
        ("pipeline", "kind", "path", "patient", "subtype"),
        ("subtype",),
        written_by="report",
    ),
    # Images outside test whose held-out score contradicts their label, the most doubtful first.
    "doubtful_labels": Table(
        ("path", "patient", "split", "target", "score", "self_confidence", "copy_of_other_label", "pipelines"),
        ("path", "patient", "split"),
        written_by="report",
    ),
}


def write_table(rows: pd.DataFrame, folder: Path, name: str) -> None:
    """Write a table as ``<name>.csv``, with as many digits as it takes to read the same numbers back.

    A threshold may be a score itself, so a rounded score could be decided otherwise than the model decides.
    """
    with atomic_write(folder / f"{name}.csv") as draft:
        rows.to_csv(draft, index=False)


def read_table(folder: Path, name: str) -> pd.DataFrame:
    """Read a table, which is empty if its file is missing; `fold` has dtype Int64.

    Raises
    ------
    DataError
        If the file is not a table of that name.
    """
    table, path = TABLES[name], folder / f"{name}.csv"
    if not path.is_file():
        return pd.DataFrame(columns=list(table.columns))
    again = f"`cxr-sklearn {table.written_by}` writes it anew"
    try:
        # Only empty cells are missing values: a patient may be called NA.
        divide = [column for column in pd.read_csv(path, nrows=0).columns if column.startswith(BY)]
        text = dict.fromkeys([*table.text, *divide], "str")
        rows = pd.read_csv(path, dtype=text, keep_default_na=False, na_values=[""])
    except ValueError as error:
        raise DataError(f"{path} is not a table ({error}); {again}") from error
    if missing := [column for column in table.columns if column not in rows]:
        raise DataError(f"{path} lacks the columns {missing}; {again}")
    try:
        if "fold" in rows:
            rows["fold"] = rows["fold"].astype("Int64")
        for column in set(table.columns) - set(table.text) - {"fold"}:
            rows[column] = pd.to_numeric(rows[column])
    except (TypeError, ValueError) as error:
        raise DataError(f"{path} holds text where there should be numbers ({error}); {again}") from error
    required = [column for column in table.columns if column not in table.optional]
    if (empty := rows[required].isna().any()).any():
        raise DataError(f"{path} has empty cells in the columns {empty.index[empty].tolist()}; {again}")
    return rows


def score_rows(rows: pd.DataFrame, pipeline: str, scores: np.ndarray, fold: int | None = None) -> pd.DataFrame:
    """Return rows of ``scores.csv`` for rows of a frame and their scores, shape (n,), in the same order."""
    return rows[["path", "patient", "split", "target"]].assign(
        fold=pd.array([fold] * len(rows), dtype="Int64"), pipeline=pipeline, score=scores
    )[list(TABLES["scores"].columns)]


def read_scores(folder: Path) -> pd.DataFrame:
    """Read ``scores.csv`` of a run.

    Raises
    ------
    DataError
        If the file is missing, or is not as `compare` writes it.
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
