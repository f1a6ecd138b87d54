"""The images, circumstances and checks of a run."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .._io import versions_here
from ..datasets._frame import SPLIT_NAMES, names_no_patient
from ..datasets._names import series_of
from ..datasets.audit import audit
from ..datasets.shift import draw_patients, shift_sample, shift_sentences, split_shift
from ..evaluation.columns import BY, text_of
from ..exceptions import DataError, ImageReadError
from ..features._image_stats import MEASURES
from ..models._steps import kept_features
from ..models.development import describe_development
from .recipes import Candidate

#: Column of a run's frame with the row of :class:`ImageStats` of each image.
STATS = "image_stats"
#: Column with the SHA-256 of each file.
DIGEST = "image_digest"


def check_images(
    frame: pd.DataFrame, store: str | os.PathLike[str] | None, *, allow_leaks: bool, verbose: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Check images as :func:`check` does, and refuse those on which the figures of a run would be wrong.

    Returns
    -------
    frame : DataFrame
        With the statistics of each image in the column ``STATS``, so that the run measures no image twice, and the
        digest of its file in ``DIGEST``.
    found : dict
        As :func:`check` returns it.

    Raises
    ------
    ImageReadError
        If files cannot be read; the error lists every one.
    DataError
        If there are leaks, and they are not allowed, or the frame has one of these columns already.
    """
    if taken := [name for name in (STATS, DIGEST) if name in frame]:
        raise DataError(f"the table has a column {taken[0]!r}, a name that a run needs for its own; rename it")
    found, stats = audit(frame, store=store, verbose=verbose)
    if found["unreadable"]:
        raise ImageReadError(found["unreadable"], found["images"])
    if found["leaks"] and not allow_leaks:
        raise DataError(
            f"{'; '.join(found['leaks'])}. Figures on such splits are too good to be true: repair them "
            "(`cxr-sklearn check --json` lists all), or go on with --allow-leaks (allow_leaks=True); the report says so"
        )
    return frame.assign(**{STATS: list(stats.rows), DIGEST: stats.digests}), found


def check_features(frame: pd.DataFrame, candidates: Sequence[Candidate], found: Mapping[str, Any]) -> dict[str, Any]:
    """Add to the findings of a check whether kept features tell the splits apart, if any pipeline keeps some.

    They are those of the first candidate that keeps them, whose name stands in the entries as "pipeline".
    """
    drawn = draw_patients(frame)
    paths = frame["path"].iloc[drawn]
    for candidate in candidates:
        if (features := kept_features(candidate.pipeline, paths)) is not None:
            told = split_shift(frame, drawn, {"features": features})
            told = [{**entry, "pipeline": candidate.name} for entry in told]
            return {
                **found,
                "split_shift": [*found["split_shift"], *told],
                "warnings": [*found["warnings"], *shift_sentences(told)],
            }
    return dict(found)


def describe_images(frame: pd.DataFrame, found: Mapping[str, Any], by: Sequence[str] = ()) -> pd.DataFrame:
    """Return the rows of ``images.csv``, from what :func:`check_images` and :func:`check_columns` returned.

    `series` is that of a normal radiograph of the Kaggle set, `brightness` the mean grey level (0 to 255), and `copies`
    a number that an image shares with its copies, identical or nearly so. The columns `by` are called ``by_<name>``.
    """
    groups = [*found["identical"], *found["near_identical"]]
    # The later number counts: a near-identical group includes the groups of identical files in it.
    copies = {path: number for number, group in enumerate(groups, 1) for path in group["paths"]}
    return frame[["path", "split", "patient", "target"]].assign(
        subtype=frame.get("subtype"),
        series=frame["path"].map(lambda path: series_of(Path(path).name)),
        brightness=np.stack(frame[STATS].to_list())[:, MEASURES.index("mean")],
        copies=frame["path"].map(copies).astype("Int64"),
        **{BY + name: text_of(frame[name]) for name in by},
    )


def development_of(frame: pd.DataFrame, scores: pd.DataFrame) -> dict[str, Any]:
    """Return what a model keeps of the images that it was made with, from a run's frame and rows of ``scores.csv``."""
    used = frame[frame["split"].isin(("train", "val"))]
    facts = describe_development(used[DIGEST], known_patients(used), scores[scores["split"] == "train"])
    train = frame[frame["split"] == "train"]
    return {**facts, "statistics": shift_sample(train, np.stack(train[STATS].to_list()))}


def known_patients(frame: pd.DataFrame) -> list[str]:
    """Return the patients of a frame but those whose images are of unknown patients."""
    return sorted(frame.loc[~names_no_patient(frame), "patient"].unique())


def count_images(rows: pd.DataFrame) -> dict[str, int]:
    """Count images, patients and classes."""
    n_pneumonia = int(rows["target"].sum())
    return {
        "images": len(rows),
        "patients": int(rows["patient"].nunique()),
        "normal": len(rows) - n_pneumonia,
        "pneumonia": n_pneumonia,
    }


def describe_data(rows: pd.DataFrame, images: pd.DataFrame) -> dict[str, Any]:
    """Count images, patients and classes of rows of images, over all and by split.

    Returns the counts, and the number of "patients_in_several_splits", of images with "copies_in_several_splits", by
    rows of ``images.csv``, and of images with "patients_unknown", which count as patients of their own.
    """
    used = rows[rows["split"].isin(SPLIT_NAMES)]
    n_splits = used.groupby("patient")["split"].nunique()
    n_copied = images[images["copies"].notna()].groupby("copies")["split"].transform("nunique")
    return {
        **count_images(used),
        "splits": {split: count_images(used[used["split"] == split]) for split in SPLIT_NAMES},
        "patients_in_several_splits": int((n_splits > 1).sum()),
        "copies_in_several_splits": int((n_copied > 1).sum()),
        "patients_unknown": int(names_no_patient(used).sum()),
    }


def describe_run(random_state: int, cv: int) -> dict[str, Any]:
    """Return date, command, seed, versions and machine."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "random_state": random_state,
        "folds": cv,
        "versions": {"python": platform.python_version(), **versions_here()},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
    }
