"""From a candidate to its fitted model and scores: folds of whole patients, a search, a refit, calibration."""

from __future__ import annotations

import os
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed, effective_n_jobs
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import ParameterGrid, StratifiedGroupKFold
from sklearn.pipeline import Pipeline

from .._progress import progress_bar
from .._validation import fit_params
from ..classifiers.base import KerasImageClassifier
from ..classifiers.resampling import METHODS
from ..datasets._frame import checked_frame, counted
from ..evaluation.tables import score_rows
from ..evaluation.thresholds import images_to_choose_on
from ..exceptions import CXRError, DataError, InputError, ModelError, TrainingError
from ..features.domain import DomainDetector
from ..features.embedder import FrozenEmbedder
from ..features.shortcuts import ShortcutFeatures
from ..models._steps import crop_of, describe_networks, fill_stores, steps_of
from ..models.calibration import METHODS as CALIBRATIONS
from ..models.calibration import calibrated_scores, fit_calibrator, pneumonia_scores
from ._metadata import DIGEST, STATS
from .recipes import Candidate

#: With one fold, a tenth of the patients is held out.
HELD_OUT = 10
Splits = list[tuple[np.ndarray, np.ndarray]]


def patient_folds(train: pd.DataFrame, cv: int, random_state: int) -> Splits:
    """Return stratified folds of whole patients, as positions in `train`; a single fold holds out a tenth.

    Raises
    ------
    DataError
        If a fold would lack a class.
    """
    fewest = min(train.groupby("target")["patient"].nunique())
    folds = StratifiedGroupKFold(cv if cv > 1 else min(HELD_OUT, fewest), shuffle=True, random_state=random_state)
    splits = list(folds.split(train["path"], train["target"], train["patient"]))
    complete = [split for split in splits if all(train["target"].iloc[rows].nunique() == 2 for rows in split)]
    if cv == 1 and complete:
        return complete[:1]
    if len(complete) < len(splits):
        raise DataError(
            f"{cv} folds of whole patients leave one without both classes; add patients or ask for fewer folds"
            if cv > 1
            else "no tenth of the training patients has both classes and leaves both; add patients"
        )
    return splits


@contextmanager
def blaming(name: str) -> Iterator[None]:
    """Say which pipeline it was whose own code failed.

    Raises
    ------
    TrainingError
        For any error but those of this package, which say what to do.
    """
    try:
        yield
    except CXRError:
        raise
    except Exception as error:  # the steps of a pipeline, which may be the user's own, raise whatever they like
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 500, placeholder=" ...")
        raise TrainingError(f"{name} failed: {reason}") from error


def fit(pipeline: Pipeline, rows: pd.DataFrame) -> Pipeline:
    """Fit a clone on rows of a frame; a classifier that holds images out receives their patients."""
    params = fit_params(pipeline, groups=rows["patient"].to_numpy())
    return clone(pipeline).fit(_inputs(pipeline, rows), rows["target"], **params)


def scores_of(model: Pipeline, rows: pd.DataFrame) -> np.ndarray:
    """Return the probability of pneumonia for rows of a frame, shape (n,).

    Raises
    ------
    ModelError
        If an image gets no score, because no figure could be computed from the others, or one that is no probability.
    """
    scores = pneumonia_scores(model, _inputs(model, rows))
    if n_missing := np.count_nonzero(~np.isfinite(scores)):
        raise ModelError(f"the pipeline gives {n_missing} of {len(scores)} images no score")
    if scores.shape != (len(rows),) or scores.min() < 0 or scores.max() > 1:
        raise ModelError(f"the pipeline gives {len(rows)} images scores that are not {len(rows)} probabilities")
    return scores


def _inputs(model: Pipeline, rows: pd.DataFrame) -> Any:
    """Return the paths of images, or their known statistics for a model that looks at nothing else."""
    return np.stack(rows[STATS].to_list()) if STATS in rows and _needs_stats(model) else rows["path"]


def _needs_stats(model: Pipeline) -> bool:
    return isinstance(steps_of(model)[0], ShortcutFeatures)


def search(
    pipeline: Pipeline,
    candidates: Sequence[dict[str, Any]],
    train: pd.DataFrame,
    splits: Splits,
    *,
    n_jobs: int | None,
    advance: Callable[[int], None],
    also: pd.DataFrame | None = None,
) -> tuple[dict[str, Any], list[np.ndarray], Pipeline | None]:
    """Return the parameters with the highest mean ROC AUC over the folds, and the scores of each held-out part.

    GridSearchCV would discard those scores, and computing them again can take as long as the search. `advance` is
    called after every fit. The first candidate is fitted on the rows of `also`, too, and this model is returned: where
    it is the only one, nobody need wait for the folds.
    """
    if not _needs_stats(pipeline):
        train = train.drop(columns=[STATS, DIGEST], errors="ignore")  # so that it is not sent to the workers
    tasks = [
        delayed(_fold_scores)(clone(pipeline).set_params(**candidate), train.iloc[rows], train.iloc[held_out])
        for candidate in candidates
        for rows, held_out in splits
    ]
    if also is not None:  # first, because it takes longest
        tasks.insert(0, delayed(fit)(clone(pipeline).set_params(**candidates[0]), also))
    scores = []
    for result in Parallel(n_jobs=n_jobs, return_as="generator")(tasks):
        scores.append(result)
        advance(1)
    model = None if also is None else scores.pop(0)
    by_candidate = [scores[i : i + len(splits)] for i in range(0, len(scores), len(splits))]
    targets = [train["target"].iloc[held_out] for _, held_out in splits]
    means = [np.mean([roc_auc_score(*fold) for fold in zip(targets, folds, strict=True)]) for folds in by_candidate]
    best = int(np.argmax(means))
    return dict(candidates[best]), by_candidate[best], model


@contextmanager
def workers_started(n_jobs: int | None) -> Iterator[None]:
    """Start the processes for :func:`search` beside the block, with what they import first."""
    starting = Parallel(n_jobs=n_jobs, return_as="generator")(
        delayed(_do_nothing)() for _ in range(effective_n_jobs(n_jobs))
    )
    try:
        yield
    finally:
        for _ in starting:  # joblib would end processes whose answers nobody takes
            pass


def _do_nothing() -> None:
    """Be unpickled, which imports this module."""


def _fold_scores(pipeline: Pipeline, rows: pd.DataFrame, held_out: pd.DataFrame) -> np.ndarray:
    return scores_of(fit(pipeline, rows), held_out)


@dataclass(frozen=True)
class Fitted:
    """A fitted candidate.

    Attributes
    ----------
    pipeline : Pipeline
        Unfitted, with the best parameters.
    model : Pipeline
        Fitted on all training images, or with one fold on those that were not held out.
    calibrator : CalibratedClassifierCV or None
    scores : DataFrame
        Rows of ``scores.csv``, calibrated if requested.
    facts : dict
        "best_params", "seconds", "batch_norm", "backbones" and "calibrated", as metrics.json has them.
    """

    pipeline: Pipeline
    model: Pipeline
    calibrator: CalibratedClassifierCV | None
    scores: pd.DataFrame
    facts: dict[str, Any]


def fit_candidate(
    candidate: Candidate,
    frame: pd.DataFrame,
    splits: Splits,
    *,
    calibrate: str | None,
    n_jobs: int | None,
    verbose: int,
) -> Fitted:
    """Search, cross-validate and refit on train, score val and test, and calibrate if requested.

    With one split, the final model is fitted on the images that were not held out. Without a search it is also the
    model that scores the held-out images, so that a slow classifier is fitted only once.

    Raises
    ------
    TrainingError
        If a step of the pipeline fails.
    """
    start = time.perf_counter()
    train = frame[frame["split"] == "train"]
    grid = list(ParameterGrid(candidate.param_grid or {}))
    is_fitted_once = len(splits) == 1 and len(grid) == 1
    n_fits = 1 if is_fitted_once else len(grid) * len(splits) + 1
    rows = train if len(splits) > 1 else train.iloc[splits[0][0]]
    best_params: dict[str, Any] = dict(grid[0])
    held_out_scores: list[np.ndarray] = []
    model: Pipeline | None = None
    with blaming(candidate.name), progress_bar(f"Fitting {candidate.name}", n_fits, show=verbose > 0) as advance:
        if not is_fitted_once:
            also = rows if len(grid) == 1 else None
            best_params, held_out_scores, model = search(
                candidate.pipeline, grid, train, splits, n_jobs=n_jobs, advance=advance, also=also
            )
        pipeline = clone(candidate.pipeline).set_params(**best_params)
        if model is None:
            model = fit(pipeline, rows)
            advance(1)
        if is_fitted_once:
            held_out_scores = [scores_of(model, train.iloc[splits[0][1]])]
    fitted = time.perf_counter()
    parts = [
        score_rows(train.iloc[held_out], candidate.name, scores, fold)
        for fold, ((_, held_out), scores) in enumerate(zip(splits, held_out_scores, strict=True))
    ]
    with blaming(candidate.name):
        parts += [score_rows(part, candidate.name, scores_of(model, part)) for split in ("val", "test")
                  if len(part := frame[frame["split"] == split])]  # fmt: skip
    scores, calibrator = pd.concat(parts, ignore_index=True), None
    if calibrate:
        scores, calibrator = calibrate_scores(scores, calibrate)
    facts = {
        # JSON holds no infinity, which scikit-learn takes for no penalty.
        "best_params": {key: _finite(value) for key, value in best_params.items()},
        "seconds": {"fitting": fitted - start, "scoring": time.perf_counter() - fitted},
        "crop": crop_of(model),
        "batch_norm": getattr(steps_of(model)[-1], "batch_norm_scores_", None),
        "backbones": describe_networks(model),
        "calibrated": calibrate and ("reversed" if calibrator is None else calibrate),
    }
    return Fitted(pipeline, model, calibrator, scores, facts)


def _finite(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value


def embed_all(pipeline: Pipeline, frame: pd.DataFrame, verbose: int) -> dict[str, Any]:
    """Fill the store with the features of every image, and return facts about the networks and the time taken."""
    start = time.perf_counter()
    filled = fill_stores(pipeline, frame["path"], verbose)
    embedders = [step for step in filled if isinstance(step, FrozenEmbedder)]
    return {
        "backbones": describe_networks(pipeline),
        "n_embedded": sum(step.n_embedded_ for step in embedders) if embedders else None,
        "n_cached": sum(step.n_cached_ for step in embedders) if embedders else None,
        "seconds": {"embedding": time.perf_counter() - start if filled else 0.0},
    }


def training_of(name: str, model: Pipeline) -> list[pd.DataFrame]:
    """Return the training history of a fitted pipeline as rows of ``training.csv``, nothing if it has no network."""
    classifier = steps_of(model)[-1]
    if not isinstance(classifier, KerasImageClassifier):
        return []
    return [training_table(name, {"head": getattr(classifier, "head_history_", {}), "all": classifier.history_})]


def training_table(name: str, histories: Mapping[str, Mapping[str, list[float]]]) -> pd.DataFrame:
    """Return one row per epoch from the histories of each phase, in the order in which these were trained."""
    return pd.concat(
        pd.DataFrame({"pipeline": name, "phase": phase, "epoch": range(1, 1 + len(history["loss"])), **history})
        for phase, history in histories.items()
        if history
    )


def calibrate_scores(scores: pd.DataFrame, method: str) -> tuple[pd.DataFrame, CalibratedClassifierCV | None]:
    """Calibrate the scores of one pipeline on its validation images, or on its out-of-fold scores if those are few.

    Out-of-fold scores that the calibrator is fitted on are calibrated by those of the other folds, so that their
    figures stay cross-validated. Returns the same rows with calibrated scores, and the calibrator, which takes scores
    of shape (n, 1). It is None, and the scores stay unchanged, if calibration would reverse the ranking or make all
    scores equal, as happens when scores carry no signal.

    References
    ----------
    Platt (1999). Probabilistic outputs for support vector machines. Advances in Large Margin Classifiers, 61-74.
    Zadrozny, Elkan (2002). Transforming classifier scores into accurate multiclass probability estimates. KDD, 694-699.
    Guo, Pleiss, Sun, Weinberger (2017). On calibration of modern neural networks. ICML, 1321-1330.
    """
    source, used = images_to_choose_on(scores)
    calibrator = fit_calibrator(used, method)
    if not _keeps_order(calibrator, used):
        return scores, None
    after = calibrated_rows(scores, calibrator)
    # A single fold has no others: the calibrator was fitted on its scores, whose figures are a little too good.
    if source == "out-of-fold" and len(folds := used["fold"].unique()) > 1:
        for fold in folds:
            others = fit_calibrator(used[used["fold"] != fold], method)
            rows = used[used["fold"] == fold]
            after.loc[rows.index, "score"] = calibrated_rows(rows, others)["score"]
    return after, calibrator


def _keeps_order(calibrator: CalibratedClassifierCV, rows: pd.DataFrame) -> bool:
    if roc_auc_score(rows["target"], rows["score"]) <= 0.5:
        return False
    ends = np.array([[rows["score"].min()], [rows["score"].max()]])
    low, high = calibrator.predict_proba(ends)[:, 1]
    return bool(high > low)


def calibrated_rows(rows: pd.DataFrame, calibrator: CalibratedClassifierCV | None) -> pd.DataFrame:
    """Return rows with calibrated `score`, unchanged without a calibrator."""
    return rows.assign(score=calibrated_scores(rows["score"].to_numpy(dtype=float), calibrator))


CLASSES = ((0, "normal"), (1, "pneumonia"))


def check_options(balance: str, calibrate: str | None, cv: Any, n_jobs: Any, repeats: Any = 1) -> None:
    """Raise an InputError for an option that does not exist."""
    for name, value, known in (("balance", balance, METHODS), ("calibrate", calibrate, (None, *CALIBRATIONS))):
        if value not in known:
            raise InputError(f"{name}={value!r} must be one of {known}")
    for name, number in (("cv", cv), ("repeats", repeats)):
        if not isinstance(number, Integral) or number < 1:
            raise InputError(f"{name}={number!r} must be an integer of at least 1")
    if n_jobs is not None and (not isinstance(n_jobs, Integral) or n_jobs == 0):
        raise InputError(f"n_jobs={n_jobs!r} must be None or an integer other than 0; -1 is all cores")


def images_of(frame: pd.DataFrame, splits: Sequence[str], *, with_both_classes: Sequence[str], cv: int) -> pd.DataFrame:
    """Return the images of a frame that are in `splits`, checked.

    Raises
    ------
    DataError
        If :func:`checked_frame` refuses the frame, one of the splits `with_both_classes` lacks a class, or a class has
        fewer training patients than `cv`.
    """
    if isinstance(frame, pd.DataFrame) and "split" in frame:
        in_a_split = frame["split"].notna()
        if len(frame) and not in_a_split.any():
            raise DataError("the images are in no splits: `cxr-sklearn subset` or cxr_sklearn.group_split draws them")
        if n_unsplit := int((~in_a_split).sum()):
            warnings.warn(f"{counted(n_unsplit, 'image')} in no split, left out", stacklevel=3)
        frame = frame[in_a_split]
    frame = checked_frame(frame)
    frame = frame[frame["split"].isin(splits)]
    for split in with_both_classes:
        for target, label in CLASSES:
            if not ((frame["split"] == split) & (frame["target"] == target)).any():
                raise DataError(f"there are no {label} images in the {split} split, which needs both classes")
    for target, label in CLASSES:
        n = frame[(frame["split"] == "train") & (frame["target"] == target)]["patient"].nunique()
        if n < max(cv, 2):
            wanted = f"{cv} folds; add images or ask for fewer folds" if cv > 1 else "any to be held out; add images"
            raise DataError(f"{n} {label} patients in the train split are too few for {wanted}")
    return frame


class Domains:
    """Domain detectors of the training images, one for each `crop` that the pipelines of a run load images with."""

    def __init__(self, store: str | os.PathLike[str] | None, train: pd.DataFrame) -> None:
        self._store, self._train = store, train
        self._fitted: dict[float, DomainDetector] = {}

    def of(self, pipeline: Pipeline) -> DomainDetector:
        """Return the detector that looks at the same part of each image as a pipeline does."""
        crop = crop_of(pipeline)
        if crop not in self._fitted:
            X = np.stack(self._train[STATS].to_list()) if crop == 1 else self._train["path"]
            self._fitted[crop] = DomainDetector(self._store, crop).fit(X, groups=self._train["patient"])
        return self._fitted[crop]
