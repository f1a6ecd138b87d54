"""For whom a classifier fails: its rates in parts of the test images, and its most confident errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .bootstrap import bootstrap_rates, rate

#: Errors of either kind that are shown.
N_ERRORS = 4


def groups_of(images: pd.DataFrame) -> pd.DataFrame:
    """Name the groups of every image.

    Parameters
    ----------
    images : DataFrame
        Rows of ``images.csv``.

    Returns
    -------
    DataFrame
        Indexed by path: "subtype" and "series" as they are, and "brightness" as the quartile from "1" (dark) to "4";
        missing where an image is in no group.
    """
    bright = pd.to_numeric(images["brightness"])
    quartile = pd.Series(pd.NA, index=images.index, dtype="object")
    if bright.nunique() >= 4:
        quartile = pd.qcut(bright.rank(method="first"), 4, labels=list("1234")).astype(object)
    return images.assign(brightness=quartile).set_index("path")[["subtype", "series", "brightness"]]


def rates_by_group(test: pd.DataFrame, groups: pd.DataFrame, threshold: float) -> list[dict[str, Any]]:
    """Measure sensitivity on the sick and specificity on the healthy images of every group.

    Parameters
    ----------
    test : DataFrame
        Test rows of ``scores.csv`` of one pipeline.
    groups : DataFrame
        As :func:`groups_of` returns them.
    threshold : float

    Returns
    -------
    list of dict
        "attribute", "group", "metric" ("recall" or "specificity"), the number of "images" and "patients", and the
        rate's "value", "ci95" and "method".
    """
    known = groups.reindex(test["path"]).reset_index(drop=True)
    target = test["target"].to_numpy()
    right = (test["score"].to_numpy() >= threshold) == (target == 1)
    found: list[dict[str, Any]] = []
    members = []
    for attribute in known:
        values = known[attribute]
        for group in sorted(values.dropna().unique()):
            for metric, label in (("recall", 1), ("specificity", 0)):
                inside = ((values == group) & (target == label)).to_numpy(dtype=bool)
                if inside.any():
                    patients = int(test["patient"][inside].nunique())
                    found.append({"attribute": attribute, "group": group, "metric": metric,
                                  "images": int(inside.sum()), "patients": patients})  # fmt: skip
                    members.append(inside)
    if not found:
        return []
    inside = np.column_stack(members)
    draws = bootstrap_rates(test["patient"], np.broadcast_to(right[:, np.newaxis], inside.shape), inside)
    for i, row in enumerate(found):
        row |= rate(int(right[inside[:, i]].sum()), row["images"], draws[:, i])
    return found


def confident_errors(test: pd.DataFrame, threshold: float) -> dict[str, list[dict[str, Any]]]:
    """Return the wrong decisions that are furthest from the threshold.

    Returns
    -------
    dict
        "false_negatives" and "false_positives": at most four each, "path" and "score", the worst first.
    """
    called = test["score"] >= threshold
    missed = test[(test["target"] == 1) & ~called].sort_values(["score", "path"])
    alarms = test[(test["target"] == 0) & called].sort_values(["score", "path"], ascending=[False, True])
    return {
        name: [{"path": path, "score": float(score)}
               for path, score in zip(rows["path"][:N_ERRORS], rows["score"][:N_ERRORS], strict=True)]
        for name, rows in (("false_negatives", missed), ("false_positives", alarms))
    }  # fmt: skip
