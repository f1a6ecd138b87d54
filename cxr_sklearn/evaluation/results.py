"""From the tables of a run to metrics.json, report.html and model-card.md; no network is needed for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..files import replacing
from .learning_curve import learning_facts, read_learning_curve
from .probes import read_probes
from .scores import read_scores
from .subgroups import read_images
from .summary import summarise
from .thresholds import parse_rule
from .training import read_training


def write_results(folder: Path, facts: dict[str, Any], lang: str = "en") -> dict[str, Any]:
    """Compute metrics.json from the tables in a folder, and render the report.

    Parameters
    ----------
    folder : Path
        With ``scores.csv``, and maybe ``images.csv``, ``probes.csv``, ``training.csv`` and ``learning_curve.csv``.
    facts : dict
        What only the run knew, by the keys of metrics.json: an earlier metrics.json will do.
    lang : {"en", "es"}, default="en"
        Language of the report.

    Returns
    -------
    dict
        The content of ``metrics.json``.
    """
    from ..report.page import write_report  # matplotlib is wanted only once there is something to show

    scores, training = read_scores(folder / "scores.csv"), read_training(folder / "training.csv")
    summary = summarise(
        scores,
        parse_rule(facts["run"]["threshold"]),
        images=read_images(folder / "images.csv"),
        probes=read_probes(folder / "probes.csv"),
        training=training,
        batch_norm={name: known.get("batch_norm") for name, known in facts["pipelines"].items()},
    )
    pipelines = {name: {**facts["pipelines"][name], **numbers} for name, numbers in summary["pipelines"].items()}
    metrics = {**summary, "pipelines": pipelines, "data": facts["data"], "run": facts["run"]}
    curve = read_learning_curve(folder / "learning_curve.csv")
    if curve is not None:
        metrics["learning_curve"] = learning_facts(curve)
    text = json.dumps(metrics, indent=2, default=_plain, allow_nan=False)
    with replacing(folder / "metrics.json") as draft:
        draft.write_text(text + "\n", encoding="utf-8")
    metrics = json.loads(text)  # what is returned and shown is what is kept
    write_report(metrics, scores, training, folder, lang)
    return metrics


def _plain(value: Any) -> Any:
    """Write NumPy scalars, paths and whatever else a parameter grid may hold as JSON."""
    return value.item() if isinstance(value, np.generic) else str(value)
