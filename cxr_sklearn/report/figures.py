"""Figures of the report as SVG text that fits a light and a dark page."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import roc_curve

#: Okabe and Ito's colours for the colour-blind, without the yellow that vanishes on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_INK = "#808080"  # readable on white and on black
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cxr_sklearn",
    "font.family": "sans-serif",
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "text.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def roc_figure(scores: pd.DataFrame, labels: dict[str, str]) -> str:
    """Draw the ROC curve of every pipeline on test.

    Parameters
    ----------
    scores : DataFrame
        Rows of ``scores.csv``.
    labels : dict of str to str
        What to call each pipeline in the legend.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6, 5.2), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=1, linestyle=":")
        test = scores[scores["split"] == "test"]
        for i, (name, label) in enumerate(labels.items()):
            rows = test[test["pipeline"] == name]
            fpr, tpr, _ = roc_curve(rows["target"], rows["score"])
            # Colour alone must not tell the lines apart.
            style = ("-", "--", "-.")[i % 3]
            axes.plot(fpr, tpr, color=COLOURS[i % len(COLOURS)], linestyle=style, linewidth=2, label=label)
        axes.set(xlabel="1 - specificity", ylabel="sensitivity (recall)", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes.legend(loc="lower right", frameon=False)
        axes.grid(color=_INK, alpha=0.2)
        return _svg(figure)


def training_figure(epochs: pd.DataFrame) -> str:
    """Draw loss and ROC AUC per epoch, on training and on validation images, phase after phase.

    Parameters
    ----------
    epochs : DataFrame
        Rows of ``training.csv`` of one pipeline.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    panels = {"loss": "loss", "auc": "ROC AUC"}
    shown = [name for name in panels if name in epochs and epochs[name].notna().any()]
    phases = epochs["phase"].to_numpy()
    position = range(1, len(epochs) + 1)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.5, 2.9), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            for prefix, label, colour, style in (
                ("", "training", COLOURS[0], "-"),
                ("val_", "validation", COLOURS[1], "--"),
            ):
                if prefix + name in epochs and epochs[prefix + name].notna().any():
                    axes.plot(position, epochs[prefix + name], color=colour, linestyle=style, linewidth=2, label=label)
            for change in [i for i in range(1, len(phases)) if phases[i] != phases[i - 1]]:
                axes.axvline(change + 0.5, color=_INK, linewidth=1, linestyle=":")
                axes.text(
                    change + 0.5, 1, " last layers too", transform=axes.get_xaxis_transform(), va="bottom", fontsize=8
                )
            axes.set(xlabel="epoch", ylabel=panels[name])
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(color=_INK, alpha=0.2)
            axes.legend(frameon=False)
        return _svg(figure)


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
