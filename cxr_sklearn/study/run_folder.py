"""From the tables of a run to metrics.json, report.html and model-card.md, without Keras."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .._io import atomic_write
from ..evaluation.summary import learning_facts, summarise
from ..evaluation.tables import read_scores, read_table
from ..evaluation.thresholds import parse_rule
from ..exceptions import DataError
from ..report.words import words
from ._metadata import describe_data


def write_results(
    folder: str | os.PathLike[str], *, threshold: str | float | None = None, lang: str | None = None
) -> dict[str, Any]:
    """Compute the metrics of a run from its tables again, and render the report again.

    Parameters
    ----------
    folder : path
        The `out` of :func:`compare`.
    threshold : str or float, optional
        Another rule for thresholds. Unlike the rule of the run, it may have been chosen after a look at results on
        test, so metrics.json keeps the first rule as "threshold_before", and the report warns of a second look.
    lang : {"en", "es"}, optional
        Another language of the report.

    Returns
    -------
    dict
        The content of ``metrics.json``.

    Raises
    ------
    DataError
        If a file is missing or damaged, or if `threshold` is "robust" and the run changed no images.
    ValueError
        If `threshold` or `lang` is wrong.
    """
    folder = Path(folder)
    facts = read_metrics(folder)
    run = facts["run"]
    if threshold is not None:
        first = run.pop("threshold_before", run["threshold"])
        run["threshold"] = str(parse_rule(str(threshold)))
        if run["threshold"] != first:
            run["threshold_before"] = first
    if run["threshold"] == "robust" and not run.get("stress"):
        raise DataError("the threshold 'robust' needs changed images, which this run lacks; run compare --stress")
    run["lang"] = lang or run["lang"]
    words(run["lang"])
    metrics = write_metrics(folder, facts)
    render(folder, metrics)
    return metrics


def render(folder: Path, metrics: dict[str, Any]) -> None:
    """Render report.html and model-card.md from the tables in a folder and the content of its metrics.json."""
    from ..report.page import write_report  # imports Matplotlib, which takes a while

    write_report(metrics, read_scores(folder), read_table(folder, "training"), folder)


def write_metrics(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Compute metrics.json from the tables in a folder.

    Parameters
    ----------
    folder : Path
        With ``scores.csv``, and perhaps ``images.csv``, ``probes.csv``, ``training.csv`` and ``learning_curve.csv``.
    facts : dict
        Facts that the tables do not hold, by the keys of metrics.json, such as an earlier metrics.json. `run` holds
        the rule for thresholds and the language of the report.

    Returns
    -------
    dict
        The content of ``metrics.json``.

    Raises
    ------
    DataError
        If a table is not as `compare` writes it, or does not fit the facts.
    """
    scores, training, images = read_scores(folder), read_table(folder, "training"), read_table(folder, "images")
    if unknown := set(scores["pipeline"]) - set(facts["pipelines"]):
        raise DataError(f"scores.csv has pipelines that metrics.json lacks: {', '.join(sorted(unknown))}")
    summary = summarise(
        scores,
        parse_rule(facts["run"]["threshold"]),
        images=images,
        probes=read_table(folder, "probes"),
        training=training,
        batch_norm={name: known.get("batch_norm") for name, known in facts["pipelines"].items()},
    )
    pipelines = {name: {**facts["pipelines"][name], **numbers} for name, numbers in summary["pipelines"].items()}
    one = scores[scores["pipeline"] == scores["pipeline"].iloc[0]]
    data = {**describe_data(images if len(images) else one, images), "synthetic": facts["data"]["synthetic"]}
    metrics = {**summary, "pipelines": pipelines, "data": data, "run": facts["run"]}
    curve = read_table(folder, "learning_curve")
    metrics["learning_curve"] = learning_facts(curve) if fits(curve, data) else None
    text = json.dumps(metrics, indent=2, default=_plain, allow_nan=False)
    with atomic_write(folder / "metrics.json") as draft:
        draft.write_text(text + "\n", encoding="utf-8")
    kept: dict[str, Any] = json.loads(text)  # so that callers get exactly what the file holds
    return kept


def read_metrics(folder: Path) -> dict[str, Any]:
    """Read ``metrics.json`` of a run.

    Raises
    ------
    DataError
        If the file is missing, or is not as `compare` writes it.
    """
    path = folder / "metrics.json"
    if not path.is_file():
        raise DataError(f"{path} does not exist; `cxr-sklearn compare --out {folder}` writes it")
    try:
        metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = {"pipelines", "data", "run"} - set(metrics) or {"threshold", "lang"} - set(metrics["run"])
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is not metrics ({error}); `cxr-sklearn compare` writes it anew") from error
    if missing:
        raise DataError(f"{path} lacks {sorted(missing)}; `cxr-sklearn compare` writes it anew")
    return metrics


def fits(curve: pd.DataFrame, data: dict[str, Any]) -> bool:
    """Whether a learning curve belongs to the images of a run, judged by their numbers."""
    if curve.empty:
        return False
    train, val = data["splits"]["train"], data["splits"]["val"]
    n_patients, n_images = int(curve["patients"].max()), int(curve["images"].iloc[0])
    if curve["source"].iloc[0] == "val":
        return (n_patients, n_images) == (train["patients"], val["images"])
    return n_patients < train["patients"] and n_images < train["images"]


def _plain(value: Any) -> Any:
    """Turn NumPy scalars, and any other objects in a parameter grid, into something that JSON can hold."""
    return value.item() if isinstance(value, np.generic) else str(value)
