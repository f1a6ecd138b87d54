"""Figures of the report, as the text of an ``<svg>`` that fits a light and a dark page, and thumbnails."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.metrics import roc_curve

from .._drawing import Figure, drawn_alike, ticker
from ..exceptions import ImageReadError
from ..images.loader import ImageLoader
from .words import Words

#: Okabe and Ito's colours for the colour-blind, without the yellow that vanishes on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
# A placeholder: in the SVG it becomes `currentColor`, so that figures follow a light or a dark page.
_INK = "#010203"
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cxr_sklearn",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.parse_math": False,  # a name may hold dollars
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "text.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
# More points than this cannot be told apart on a screen.
_MAX_POINTS = 400
#: Height and width of a thumbnail in pixels.
SIZE = 176


@drawn_alike(_STYLE)
def roc_figure(scores: pd.DataFrame, pipelines: Mapping[str, Any], labels: Mapping[str, str], say: Words) -> str:
    """Draw the ROC curve of every pipeline on test, with its band, from rows of ``scores.csv``."""
    figure = Figure(figsize=(6, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=_INK, linewidth=1, linestyle=":")
    test = scores[scores["split"] == "test"]
    for i, (name, label) in enumerate(labels.items()):
        rows = test[test["pipeline"] == name]
        fpr, tpr, _ = roc_curve(rows["target"], rows["score"])
        shown = np.unique(np.linspace(0, len(fpr) - 1, min(len(fpr), _MAX_POINTS)).astype(int))
        band = pipelines[name]["roc_band"]
        line = _line(i)
        axes.fill_between(band["fpr"], band["low"], band["high"], color=line["color"], alpha=0.12, linewidth=0)
        axes.plot(fpr[shown], tpr[shown], label=label, **line)
    axes.set(xlabel=say("test.specificity_axis"), ylabel=say("test.sensitivity_axis"),
             xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))  # fmt: skip
    _finish(axes, legend="lower right")
    return _svg(figure)


@drawn_alike(_STYLE)
def reliability_figure(pipelines: Mapping[str, Any], labels: Mapping[str, str], say: Words) -> str:
    """Draw the share of pneumonia against the score, a panel per pipeline."""
    figure, panels = _panels(labels, 2.9)
    for i, (axes, (name, label)) in enumerate(zip(panels, labels.items(), strict=True)):
        bins = pipelines[name]["calibration"]["bins"]
        x, y, ends = ([part[key] for part in bins] for key in ("mean_score", "observed", "ci95"))
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=1, linestyle=":")
        if curve := pipelines[name]["calibration"]["curve"]:
            axes.fill_between(curve["score"], curve["low"], curve["high"], color=COLOURS[i % len(COLOURS)], alpha=0.2,
                              linewidth=0)  # fmt: skip
            axes.plot(curve["score"], curve["observed"], color=COLOURS[i % len(COLOURS)], linewidth=2)
        axes.errorbar(x, y, yerr=np.abs(np.transpose(ends) - y), color=COLOURS[i % len(COLOURS)], marker="o",
                      markersize=3, linestyle="none", elinewidth=1)  # fmt: skip
        axes.set_title(label, fontsize=10)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axes.grid(color=_INK, alpha=0.15)
    figure.supxlabel(say("calibration.score_axis"), fontsize=11)
    figure.supylabel(say("calibration.observed_axis"), fontsize=11)
    return _svg(figure)


@drawn_alike(_STYLE)
def benefit_figure(pipelines: Mapping[str, Any], labels: Mapping[str, str], say: Words) -> str:
    """Draw net benefit against the probability from which somebody would treat, a panel per prevalence."""
    some = next(iter(pipelines.values()))["calibration"]["decision_curve"]
    figure = Figure(figsize=(3.4 * len(some), 3.6), layout="constrained")
    for k, (axes, curve) in enumerate(zip(figure.subplots(1, len(some), squeeze=False)[0], some, strict=True)):
        top = curve["prevalence"]
        axes.plot(curve["threshold"], curve["treat_all"], color=_INK, linewidth=1, label=say("benefit.all"))
        axes.axhline(0, color=_INK, linewidth=1, linestyle=":", label=say("benefit.none"))
        for i, (name, label) in enumerate(labels.items()):
            own, line = pipelines[name]["calibration"]["decision_curve"][k], _line(i)
            axes.fill_between(own["threshold"], own["low"], own["high"], color=line["color"], alpha=0.12, linewidth=0)
            axes.plot(own["threshold"], own["net_benefit"], label=label, **line)
        axes.set(xlim=(0, 1), ylim=(-0.25 * top, 1.08 * top), xlabel=say("benefit.axis"))
        axes.set_title(say("benefit.prevalence", prevalence=f"{100 * top:.0f} %"), fontsize=10)
        axes.grid(color=_INK, alpha=0.15)
    figure.supylabel(say("benefit.heading"), fontsize=11)
    lines, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return _svg(figure)


@drawn_alike(_STYLE)
def scores_figure(scores: pd.DataFrame, pipelines: Mapping[str, Any], labels: Mapping[str, str], say: Words) -> str:
    """Draw how the scores of test images are distributed in each class, a panel per pipeline, from ``scores.csv``.

    The outline is that of the images that a model was made with, if it was not made in this run.
    """
    test, edges = scores[scores["split"] == "test"], np.linspace(0, 1, 26)
    figure, panels = _panels(labels, 2.2)
    for axes, (name, label) in zip(panels, labels.items(), strict=True):
        own = test[test["pipeline"] == name]
        then = (pipelines[name].get("development") or {}).get("scores")
        # Above the axis those with pneumonia, below it the normal ones.
        for target, word, sign, colour in ((1, "pneumonia", 1, COLOURS[1]), (0, "normal", -1, COLOURS[0])):
            found = own.loc[own["target"] == target, "score"]
            shares = np.histogram(found, edges)[0] / len(found)
            axes.stairs(sign * 100 * shares, edges, fill=True, color=colour)
            if then and sum(then[word]):
                counts = np.reshape(then[word], (len(edges) - 1, -1)).sum(axis=1)
                axes.stairs(sign * 100 * counts / counts.sum(), edges, color=_INK, linewidth=1)
        axes.axhline(0, color=_INK, linewidth=1)
        axes.set_title(label, fontsize=10)
        axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):.0f} %")
        axes.grid(color=_INK, alpha=0.15)
    figure.supxlabel(say("calibration.distributions_axis"), fontsize=11)
    return _svg(figure)


@drawn_alike(_STYLE)
def runs_figure(pipelines: Mapping[str, Any], metrics: Sequence[str], labels: Mapping[str, str], say: Words) -> str:
    """Draw the value of every training run as a dot above the interval for the patients, a panel per metric."""
    columns = min(2, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = Figure(figsize=(8.4, rows * (0.9 + 0.45 * len(pipelines))), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, metric in zip(grid.flat, metrics, strict=False):
        for i, facts in enumerate(pipelines.values()):
            values, first = facts["runs"]["metrics"][metric]["values"], facts["test"][metric]
            axes.plot(first["ci95"] or [first["value"]] * 2, [i, i], color=_INK, alpha=0.25, linewidth=7)
            axes.plot(values, [i] * len(values), "o", color=COLOURS[i % len(COLOURS)], markersize=5, alpha=0.7)
        axes.set_title(say(f"metric.{metric}"), fontsize=10)
        axes.set_yticks(range(len(pipelines)), labels=[labels[name] for name in pipelines])
        axes.set_ylim(len(pipelines) - 0.5, -0.5)
        axes.grid(color=_INK, alpha=0.15)
    return _svg(figure)


@drawn_alike(_STYLE)
def training_figure(epochs: pd.DataFrame, say: Words) -> str:
    """Draw loss and ROC AUC per epoch, on training and on validation images, phase after phase.

    The epochs are the rows of one pipeline in ``training.csv``.
    """
    panels = {"loss": say("training.loss"), "auc": say("metric.roc_auc")}
    shown = [name for name in panels if name in epochs and epochs[name].notna().any()]
    phases = epochs["phase"].to_numpy()
    position = range(1, len(epochs) + 1)
    figure = Figure(figsize=(7.5, 2.9), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        for i, (prefix, part) in enumerate((("", "train"), ("val_", "val"))):
            if prefix + name in epochs and epochs[prefix + name].notna().any():
                axes.plot(position, epochs[prefix + name], label=say(f"training.{part}"), **_line(i))
        for change in [i for i in range(1, len(phases)) if phases[i] != phases[i - 1]]:
            axes.axvline(change + 0.5, color=_INK, linewidth=1, linestyle=":")
            axes.text(change + 0.5, 1, f" {say('training.last_layers')}", transform=axes.get_xaxis_transform(),
                      va="bottom", fontsize=8)  # fmt: skip
        axes.set(xlabel=say("training.epoch"), ylabel=panels[name])
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        _finish(axes, legend="best")
    return _svg(figure)


@drawn_alike(_STYLE)
def learning_figure(curves: Mapping[str, Any], labels: Mapping[str, str], say: Words) -> str:
    """Draw ROC AUC against the number of training patients.

    The curves are facts by pipeline, with "points" that have "patients", "mean", "low" and "high".
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for i, (name, facts) in enumerate(curves.items()):
        x, mean, low, high = ([p[key] for p in facts["points"]] for key in ("patients", "mean", "low", "high"))
        line = _line(i)
        axes.fill_between(x, low, high, color=line["color"], alpha=0.15, linewidth=0)
        axes.plot(x, mean, marker="o", label=labels[name], **line)
    ticks = sorted({point["patients"] for facts in curves.values() for point in facts["points"]})
    axes.set(xlabel=say("learning.axis"), ylabel=say("metric.roc_auc"), xscale="log")
    axes.set_xticks(ticks, labels=[str(n) for n in ticks])
    axes.minorticks_off()
    _finish(axes, legend="lower right")
    return _svg(figure)


def _panels(labels: Mapping[str, str], height: float) -> tuple[Any, list[Any]]:
    """Return a figure with a panel for each pipeline, at most three in a row."""
    columns = min(3, len(labels))
    rows = -(-len(labels) // columns)
    figure = Figure(figsize=(2.9 * columns, height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(labels) :]:
        axes.set_axis_off()
    return figure, list(grid.flat[: len(labels)])


def _line(i: int) -> dict[str, Any]:
    """Return the style of line `i`; lines differ in more than colour."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": ("-", "--", "-.")[i % 3], "linewidth": 2}


def _finish(axes: Any, legend: Literal["best", "lower right"]) -> None:
    axes.grid(color=_INK, alpha=0.15)
    axes.legend(loc=legend, frameon=False)


def _svg(figure: Any) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", backend="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :].replace(_INK, "currentColor")


def thumbnail(path: str) -> tuple[str, str | None]:
    """Return a radiograph as a ``data:`` URL, and the reason if it cannot be read, else None.

    The images may have been moved since the run; a missing one must not stop the report.
    """
    try:
        grey = ImageLoader(SIZE, resize="pad").transform([path])[0][:, :, 0]
    except ImageReadError as error:
        return "", error.failures[path]
    jpeg = io.BytesIO()
    Image.fromarray(grey).save(jpeg, format="JPEG", quality=75, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode(), None
