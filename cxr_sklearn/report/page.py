"""report.html, a single page that needs no other file, and model-card.md with the same numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from .._io import atomic_write
from ..evaluation.metrics import DECISION_METRICS, METRICS, RATES
from ..evaluation.subgroups import COLUMN_RATES
from ..evaluation.summary import SHORTCUTS
from ..images.changes import PARTS
from .checklists import ABOUT, answer_checklists, read_about
from .figures import (
    benefit_figure,
    learning_figure,
    reliability_figure,
    roc_figure,
    runs_figure,
    scores_figure,
    thumbnail,
    training_figure,
)
from .sentences import (
    adapted_sentence,
    between,
    column_group,
    curve_labels,
    decimal,
    finding_sentence,
    group_name,
    group_rate,
    grouped,
    markdown_cell,
    pipeline_labels,
    sample_size_sentence,
    shift_few,
    shift_measures,
    shift_pair,
    threshold_sentence,
    verdict_sentences,
    with_interval,
)
from .words import Words, words

#: How many errors of each pipeline and kind are shown at once, how many have pictures, and how many are in the table.
#: A page of five pipelines stays below 5 MB.
N_ERRORS, N_PICTURES, N_ROWS = 4, 24, 500
#: How many doubtful labels have pictures.
N_DOUBTFUL = 12
#: The metrics of the first table.
HEADLINE = ("roc_auc", "recall", "specificity", "accuracy", "precision")
#: The metrics whose spread over training runs is shown.
OF_RUNS = HEADLINE[:4]


def write_report(
    metrics: dict[str, Any],
    scores: pd.DataFrame,
    training: pd.DataFrame,
    folder: Path,
    *,
    errors: pd.DataFrame,
    doubtful: pd.DataFrame,
) -> None:
    """Render ``report.html`` and ``model-card.md``.

    Parameters
    ----------
    metrics : dict
        The content of ``metrics.json``; its `run` names the language.
    scores : DataFrame
        Rows of ``scores.csv``, for the ROC curves.
    training : DataFrame
        Rows of ``training.csv``, for the training curves; may be empty.
    folder : Path
        Where to write both files; ``about.toml`` in it, if there is one, holds answers of the author.
    errors, doubtful : DataFrame
        Rows of ``errors.csv`` and ``doubtful_labels.csv``.

    Raises
    ------
    DataError
        If ``about.toml`` is not as :func:`~cxr_sklearn.report.checklists.read_about` takes it.
    """
    say = words(metrics["run"]["lang"])
    pipelines, curve = metrics["pipelines"], metrics["learning_curve"]
    labels = pipeline_labels(pipelines, say)
    repeated = {name: facts for name, facts in pipelines.items() if facts["runs"]}
    listed = {key: _records(rows.head(N_ROWS)) for key, rows in errors.groupby(["pipeline", "kind"], sort=False)}
    doubted = _records(doubtful.head(N_DOUBTFUL))
    pictured = [row["path"] for rows in (doubted, *(rows[:N_PICTURES] for rows in listed.values())) for row in rows]
    shared = {
        "failed": {},  # of runs of 0.1.0
        "is_evaluation": metrics["run"].get("kind") == "evaluate",
        "split_shift": [],
        **metrics,
        "labels": labels,
        "random_weights": any(label != name for name, label in labels.items()),
        "sources": {facts["threshold"]["source"] for facts in pipelines.values()},
        "shortcuts": SHORTCUTS,
        "parts": PARTS,
        "headline": HEADLINE,
        "metric_names": METRICS,
        "decision_metrics": DECISION_METRICS,
        "rates": RATES,
        "column_rates": COLUMN_RATES,
        # All pipelines are tested on the same images, which the same columns divide.
        "columns": next(iter(pipelines.values()))["by"],
        # All pipelines are tested on the same images, so any of them has the counts.
        "stress_counts": next((facts["stress"] for facts in pipelines.values() if facts["stress"]), None),
        "repeated": repeated,
        "failed_runs": [reason for facts in pipelines.values() for reason in facts.get("failed_runs", ())],
        "metrics_of_runs": OF_RUNS,
        "thresholds_of_runs": sorted({facts["runs"]["thresholds"] for facts in repeated.values()}),
        "verdict_sentences": verdict_sentences(metrics, labels, say),
        "checklists": answer_checklists(metrics, read_about(folder), labels, say),
        "about": ABOUT,
    }
    epochs = training.groupby("pipeline", sort=False)
    figures = {
        "roc": _drawn(say, roc_figure, scores, pipelines, labels),
        "reliability": _drawn(say, reliability_figure, pipelines, labels),
        "distributions": _drawn(say, scores_figure, scores, pipelines, labels),
        "benefit": _drawn(say, benefit_figure, pipelines, labels),
        "spread": _drawn(say, runs_figure, repeated, OF_RUNS, labels) if repeated else None,
        "curves": {name: _drawn(say, training_figure, rows) for name, rows in epochs if name in labels},
        "learning": _drawn(say, learning_figure, curve["pipelines"], curve_labels(curve, say)) if curve else None,
        "thumbnails": {path: thumbnail(path) for path in dict.fromkeys(pictured)},
        "errors": listed,
        "doubtful": doubted,
        "n_errors": N_ERRORS,
        "n_pictures": N_PICTURES,
    }
    for file, more in (("report.html", figures), ("model-card.md", {})):
        text = _environment(say).get_template(f"{file}.j2").render(**shared, **more)
        with atomic_write(folder / file) as draft:
            draft.write_text(text, encoding="utf-8")


def _records(rows: pd.DataFrame) -> list[dict[Any, Any]]:
    """Return rows as dicts, with None for an empty cell."""
    return rows.astype(object).where(rows.notna(), None).to_dict("records")


def _environment(say: Words) -> Environment:
    environment = Environment(
        loader=PackageLoader("cxr_sklearn.report"),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["t"] = say
    filters: dict[str, Callable[..., Any]] = {
        "f3": lambda value: decimal(value, say),
        "interval": lambda ends: between(ends, say),
        "with_interval": lambda found: with_interval(found, say),
        "n": grouped,
        "p": lambda value: say("pairs.below") if value < 0.001 else f"{value:.3f}",
        "threshold_sentence": lambda threshold: threshold_sentence(threshold, say),
        "adapted_sentences": lambda adapted: [adapted_sentence(step, say) for step in adapted],
        "sample_size_sentence": lambda needed: sample_size_sentence(needed, say),
        "finding_sentence": lambda finding: finding_sentence(finding, say),
        "shift_pair": lambda entry: shift_pair(entry, say),
        "shift_few": lambda entries: shift_few(entries, say),
        "shift_measures": lambda entry: shift_measures(entry, say),
        "group_name": lambda row: group_name(row, say),
        "group_rate": lambda found: group_rate(found, say),
        "column_group": lambda group, column, kind: column_group(group, column, kind, say),
        "file_name": lambda path: Path(path).name,
        "cell": markdown_cell,
    }
    environment.filters |= filters
    return environment


def _drawn(say: Words, draw: Callable[..., str], *data: Any) -> str:
    """Return a figure; where it cannot be drawn, a sentence that says so."""
    try:
        return draw(*data, say)
    except Exception as error:  # noqa: BLE001 - Matplotlib and its fonts raise anything, and the numbers matter more
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        warnings.warn(f"a figure of the report cannot be drawn: {reason}", stacklevel=2)
        return f'<p class="mark">{escape(say("label.no_figure", reason=reason))}</p>'
