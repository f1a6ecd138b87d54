"""report.html: one self-contained page for eyes, with the numbers of metrics.json and the curves of the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader

from ..evaluation.metrics import METRICS
from ..files import replacing
from .figures import roc_figure, training_figure

#: Column heads by metric.
HEADS = {
    "accuracy": "Accuracy",
    "precision": "Precision",
    "recall": "Recall (sensitivity)",
    "specificity": "Specificity",
    "f1": "F1",
    "mcc": "MCC",
    "roc_auc": "ROC AUC",
    "average_precision": "Average precision",
    "log_loss": "Log loss",
    "brier": "Brier score",
}


def pipeline_label(name: str, facts: dict[str, Any]) -> str:
    """Name of a pipeline wherever its numbers are shown; random weights are always called that."""
    random = any(backbone["weights"] == "random" for backbone in facts["backbones"])
    return f"{name} (random weights)" if random else name


def write_report(metrics: dict[str, Any], scores: pd.DataFrame, training: pd.DataFrame, path: Path) -> None:
    """Render the page.

    Parameters
    ----------
    metrics : dict
        The content of ``metrics.json``.
    scores : DataFrame
        Rows of ``scores.csv``, for the curves.
    training : DataFrame
        Rows of ``training.csv``, for those of the training; maybe none.
    path : Path
        The file to write.
    """
    environment = Environment(loader=PackageLoader("cxr_sklearn.report"), autoescape=True, trim_blocks=True)
    labels = {name: pipeline_label(name, facts) for name, facts in metrics["pipelines"].items()}
    page = environment.get_template("report.html.j2").render(
        **metrics,
        labels=labels,
        metric_names=METRICS,
        heads=HEADS,
        roc=roc_figure(scores, labels),
        training={
            name: training_figure(training[training["pipeline"] == name])
            for name in labels
            if (training["pipeline"] == name).any()
        },
    )
    with replacing(path) as draft:
        draft.write_text(page, encoding="utf-8")
