"""Is a classifier looking at the lung? Labels that mean nothing, and images with a part hidden."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import norm
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline
from sklearn.utils import Tags

from ..exceptions import InputError
from ..files import replacing
from ..images import ImageBatch, ImageLoader, PassesImages, as_batch
from .bootstrap import bootstrap, interval
from .scores import COLUMNS as SCORES

PARTS = ("border", "centre")
COLUMNS = [*SCORES, "probe"]


def write_probes(probes: pd.DataFrame, path: Path) -> None:
    """Write ``probes.csv``: scores of occluded test images, and of a training on permuted labels."""
    with replacing(path) as draft:
        probes[COLUMNS].to_csv(draft, index=False, float_format="%.9g")


def read_probes(path: Path) -> pd.DataFrame:
    """Read it back; empty where the run had none."""
    if not path.is_file():
        return pd.DataFrame(columns=COLUMNS)
    text = dict.fromkeys(("path", "patient", "split", "pipeline", "probe"), "str")
    return pd.read_csv(path, dtype={**text, "fold": "Int64"}, keep_default_na=False, na_values={"fold": [""]})


def permuted_labels(train: pd.DataFrame, random_state: int) -> pd.Series:
    """Deal the patients' labels out to other patients: nothing in an image can tell them then.

    Parameters
    ----------
    train : DataFrame
        With `patient` and `target`; a patient of both labels counts as one of the first.
    random_state : int

    Returns
    -------
    Series
        A label per row; all images of a patient share it.
    """
    labels = train.groupby("patient")["target"].first()
    dealt = pd.Series(np.random.default_rng(random_state).permutation(labels), index=labels.index)
    return train["patient"].map(dealt)


@dataclass(frozen=True)
class Occlusion:
    """Paint a part of an image in its mean grey level.

    The centre is the middle 71 % of height and width, the border is everything around it: each is half of the image.
    """

    part: str

    def __call__(self, grey: np.ndarray, key: bytes) -> np.ndarray:
        """Return the image with the part hidden, ``uint8 (H, W)``."""
        inside = np.zeros(grey.shape, dtype=bool)
        height, width = grey.shape
        top, left = round(height * (1 - 0.5**0.5) / 2), round(width * (1 - 0.5**0.5) / 2)
        inside[top : height - top, left : width - left] = True
        return np.where(inside == (self.part == "centre"), np.uint8(round(grey.mean())), grey)


class ImageOccluder(PassesImages, TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):  # type: ignore[call-arg]
    """Hide the border or the centre of every image.

    A classifier that does as well without the lungs as with them has learnt something else.

    Parameters
    ----------
    part : {"border", "centre"}, default="border"
        What to hide; either is half of the image.

    References
    ----------
    Maguolo, Nanni (2021). A critic evaluation of methods for COVID-19 automatic detection from X-ray images.
    Information Fusion 76, 1-7.
    """

    def __init__(self, part: str = "border") -> None:
        self.part = part

    def fit(self, X: Any, y: Any = None) -> ImageOccluder:
        """Do nothing: there is nothing to learn.

        Parameters
        ----------
        X, y : ignored
        """
        return self

    def transform(self, X: Any) -> ImageBatch:
        """Return the images with a part hidden.

        Parameters
        ----------
        X : ImageBatch of n images, or ndarray of shape (n, H, W[, C]) and dtype uint8

        Raises
        ------
        ValueError
            If there is no such part, or `X` is not images.
        """
        if self.part not in PARTS:
            raise InputError(f"part={self.part!r} must be one of {PARTS}")
        return as_batch(X).augmented(Occlusion(self.part), 1)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.requires_fit = False
        return tags


def occluded(model: Pipeline, part: str) -> Pipeline | None:
    """Return a fitted pipeline that sees images with a part hidden; None where it loads none by an ImageLoader."""
    places = [i for i, (_, step) in enumerate(model.steps) if isinstance(step, ImageLoader)]
    if not places:
        return None
    after = places[0] + 1
    return Pipeline([*model.steps[:after], ("occlude", ImageOccluder(part)), *model.steps[after:]])


def permutation_facts(rows: pd.DataFrame) -> dict[str, Any]:
    """Judge the out-of-fold scores of a training on permuted labels.

    Parameters
    ----------
    rows : DataFrame
        With `fold`, `target` (the permuted label) and `score`.

    Returns
    -------
    dict
        "roc_auc", the mean over the folds; "chance95", where 95 % of such runs end by chance; and whether "passed":
        the mean is below the upper end. A higher one says that held-out images were not new to the classifier.

    References
    ----------
    Ojala, Garriga (2010). Permutation tests for studying classifier performance. JMLR 11, 1833-1863.
    """
    folds = [fold for _, fold in rows.groupby("fold") if fold["target"].nunique() == 2]
    auc = float(np.mean([roc_auc_score(fold["target"], fold["score"]) for fold in folds]))
    variance = np.mean([_variance_by_chance(fold) for fold in folds]) / len(folds)
    half = float(norm.ppf(0.975) * np.sqrt(variance))
    return {"roc_auc": auc, "chance95": [0.5 - half, 0.5 + half], "folds": len(folds), "passed": auc <= 0.5 + half}


def _variance_by_chance(fold: pd.DataFrame) -> float:
    """Variance of Mann and Whitney's statistic where scores say nothing, with patients, not images, as its units."""
    sizes = [fold.loc[fold["target"] == label, "patient"].nunique() for label in (0, 1)]
    return (sum(sizes) + 1) / (12 * sizes[0] * sizes[1])


def occlusion_facts(test: pd.DataFrame, probes: pd.DataFrame) -> dict[str, Any]:
    """Compare the ROC AUC on occluded test images with that on whole ones.

    Parameters
    ----------
    test : DataFrame
        Test rows of ``scores.csv`` of one pipeline.
    probes : DataFrame
        Rows of ``probes.csv`` of the same pipeline.

    Returns
    -------
    dict of str to dict
        By part: "roc_auc", "change" (against whole images) and the "ci95" of that, by paired bootstrap of patients.
    """
    found = {}
    for part in PARTS:
        rows = probes[probes["probe"] == part]
        if rows.empty:
            continue
        hidden: ArrayLike = rows.set_index("path")["score"].reindex(test["path"]).to_numpy()
        scores = {"whole": test["score"], "hidden": hidden}
        draws = bootstrap(test["patient"], test["target"], scores, {"whole": 0.5, "hidden": 0.5})
        auc = {name: float(roc_auc_score(test["target"], score)) for name, score in scores.items()}
        change = auc["hidden"] - auc["whole"]
        drawn = draws["hidden"].metrics["roc_auc"] - draws["whole"].metrics["roc_auc"]
        found[part] = {"roc_auc": auc["hidden"], "change": change, "ci95": interval(drawn, change)}
    return found
