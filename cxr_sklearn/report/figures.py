"""Figures of the report as SVG text that fits a light and a dark page."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
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


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
