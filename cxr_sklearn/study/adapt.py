"""adapt: another threshold, and where asked another calibration, for a model that is to be used at another place."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from .._io import user_path_text
from .._settings import usual_settings
from .._validation import checks_types
from ..datasets._frame import checked_frame, counted
from ..datasets._names import patient_of
from ..evaluation.bootstrap import N_DRAWS, bootstrap_rates, interval, patient_counts, rate
from ..evaluation.calibration import fit_recalibration
from ..evaluation.thresholds import Rule, find_threshold, parse_rule
from ..exceptions import DataError, InputError, ModelError
from ..models.calibration import recalibrated
from ..models.development import describe_development, sentences_of_seen
from ..models.model import CXRModel
from ._metadata import DIGEST, check_images, known_patients
from .evaluate import load_models
from .search import CLASSES, Splits, blaming, scores_of

#: With fewer images of the rarer class, a slope would be too uncertain, and only the intercept is fitted.
ENOUGH_FOR_A_SLOPE = 100
_FOLDS = 10
_NO_BETTER_THAN_CHANCE = (
    "the scores rank these images no better than chance, so neither a threshold nor a calibration can help; train a "
    "model on images of this place"
)
KINDS = ("none", "intercept", "sigmoid", "auto")


@usual_settings
@checks_types
def adapt(
    model: Any,
    images: Any = None,
    *,
    prevalence: Any = None,
    threshold: str | float | None = None,
    calibrate: str = "auto",
    store: str | os.PathLike[str] | None = "auto",
    random_state: int = 0,
    verbose: int = 0,
) -> CXRModel:
    """Give a model the threshold, and the calibration, that another place needs; what it has learnt stays the same.

    There are three ways, by what is known of that place:

    - labelled images: `images` is a frame. Scores are calibrated on them and a threshold is chosen by a rule. What
      this reaches is measured in cross-validation over patients, never on the images it was fitted to.
    - images without labels, and their prevalence: the threshold at which just that share of them is called pneumonia.
    - the prevalence alone: the odds of every score are multiplied by the ratio of the odds of pneumonia there and in
      the images that the model was fitted on. This assumes that images of either class look alike at both places.

    Parameters
    ----------
    model : path, CXRModel or fitted Pipeline
    images : DataFrame, sequence of paths, or None
        A frame as :func:`load_folder` returns it, with `path`, `target` and `patient`. With `prevalence`, `path` is
        enough, and so is a sequence of paths; an image whose patient is not given has the one of its file name.
    prevalence : float or tuple of two floats, optional
        Share of images with pneumonia at the other place, between 0 and 1, or the ends of its 95 % interval; then the
        middle is taken, on the scale of the log odds.
    threshold : str or float, optional
        The rule for the threshold, as for :func:`train`, with labelled images; by default the rule by which the model's
        own threshold was chosen, and "youden" where that was a number, "robust" or a prevalence. With a prevalence
        alone, a number or "cost=5:1".
    calibrate : {"auto", "none", "intercept", "sigmoid"}, default="auto"
        "intercept" moves the log odds of the scores, "sigmoid" also multiplies them (Platt). "auto" takes "sigmoid" for
        labelled images with at least 100 of the rarer class, "intercept" for fewer and for a prevalence alone, and
        "none" for images without labels, where "intercept" makes the mean score equal to the prevalence.
    store : str, path or None, default="auto"
        As for :func:`load_model`.
    random_state : int, default=0
        Seed of the folds and of the draws of patients.
    verbose : int, default=0
        1 shows progress bars.

    Returns
    -------
    CXRModel
        A new model with the same pipeline. Its metadata say under "adapted" what was done, on how many images, and what
        it reached. :func:`evaluate` judges it on other images of that place.

    Warns
    -----
    UserWarning
        If the model was made with some of the labelled images, or of their patients.

    Raises
    ------
    DataError
        If there are too few images or patients, the scores rank labelled ones no better than chance (an ROC AUC of 0.5
        or less), or the images determine no calibration, because the scores separate the classes.
    ModelError
        If the model is not one, its metadata cannot be read, or it does not say what it was fitted on where a
        prevalence alone needs it.
    ValueError
        If a parameter is wrong, or neither images nor a prevalence are given.
    ImageReadError, WeightsUnavailableError, StoreError
        As by :func:`compare`.

    References
    ----------
    Steyerberg et al. (2004). Validation and updating of predictive logistic regression models: a study on sample size
    and shrinkage. Statistics in Medicine 23, 2567-2586.
    Saerens, Latinne, Decaestecker (2002). Adjusting the outputs of a classifier to new a priori probabilities. Neural
    Computation 14, 21-41.
    """
    if calibrate not in KINDS:
        raise InputError(f"calibrate={calibrate!r} must be one of {KINDS}")
    shares = None if prevalence is None else _shares(prevalence)
    (known,) = load_models({"model": model}, store).values()
    if images is None and shares is None:
        raise InputError("nothing is known of the other place: give images, a prevalence, or both")
    if images is None and shares is not None:
        return _by_prevalence(known, shares, threshold, calibrate)
    if shares is None:
        rule = parse_rule(str(threshold if threshold is not None else _own_rule(known)))
        return _by_labels(known, images, rule, calibrate, store, random_state, verbose)
    if threshold is not None:
        raise InputError("threshold cannot be chosen by a rule without labels: it follows from the prevalence")
    return _by_share(known, images, shares, calibrate, random_state)


def _shares(prevalence: Any) -> tuple[float, ...]:
    """Return a prevalence, or both ends of its interval."""
    values = prevalence if isinstance(prevalence, tuple | list) else (prevalence,)
    numbers = [isinstance(value, Real) and not isinstance(value, bool) for value in values]
    if not all(numbers) or len(values) not in (1, 2) or not all(0 < value < 1 for value in values):
        raise InputError(f"prevalence={prevalence!r} must be a share between 0 and 1, or two, the ends of its interval")
    if len(values) == 2 and values[0] >= values[1]:
        raise InputError(f"prevalence={prevalence!r} must have its lower end first")
    return tuple(float(value) for value in values)


def _own_rule(model: CXRModel) -> str:
    """Return the rule by which the threshold of a model was chosen, or "youden" if that cannot be used again."""
    rule = str((model.metadata or {}).get("threshold_rule") or "youden")
    return "youden" if parse_rule(rule).name in ("fixed", "robust") else rule


def _by_labels(
    model: CXRModel, images: Any, rule: Rule, calibrate: str, store: Any, random_state: int, verbose: int
) -> CXRModel:
    if not isinstance(images, pd.DataFrame):
        raise InputError("images without labels need a prevalence; a frame, as load_folder returns it, has labels")
    if rule.name == "robust":
        raise InputError("threshold='robust' needs changed images, which adapt does not make; choose another rule")
    frame = checked_frame(images if "split" in images else images.assign(split=None)).assign(split="test")
    n_rarer, n_patients = _sizes(frame)
    frame, _ = check_images(frame, store, allow_leaks=True, verbose=verbose)
    metadata, patients_known = model.metadata or {}, known_patients(frame)
    for sentence in sentences_of_seen("the model", {**metadata, "adapted_on": None}, frame[DIGEST], patients_known):
        warnings.warn(
            f"{sentence}. Its scores on these are more extreme than on others: adapt it to images that it has not seen",
            stacklevel=5,  # past the decorators
        )
    scores = _scores(model, frame)
    if roc_auc_score(frame["target"], scores) <= 0.5:
        raise DataError(_NO_BETTER_THAN_CHANCE)
    kind = calibrate if calibrate != "auto" else "sigmoid" if n_rarer >= ENOUGH_FOR_A_SLOPE else "intercept"
    target, patients = frame["target"].to_numpy(), frame["patient"].to_numpy()
    folds = StratifiedGroupKFold(min(_FOLDS, n_patients), shuffle=True, random_state=random_state)
    decided = _decided(target, scores, rule, kind, list(folds.split(scores, target, patients)))
    moved, cut = _fitted(target, scores, rule, kind)
    step = {
        "kind": "labels",
        "images": len(frame),
        "patients": int(frame["patient"].nunique()),
        "recalibration": moved and _described(kind, moved, float(target.mean())),
        "threshold": {"value": cut, "before": float(model.threshold), "rule": str(rule)},
        "reached": _rates(patients, target, decided),
        "before": _rates(patients, target, scores >= model.threshold),
    }
    seen = [*(metadata.get("adapted_on") or []), describe_development(frame[DIGEST], patients_known)]
    return _adapted(model, step, moved, cut, adapted_on=seen, threshold_rule=str(rule))


def _sizes(frame: pd.DataFrame) -> tuple[int, int]:
    """Return the number of images, and of patients, of the rarer class."""
    for target, label in CLASSES:
        if (n := frame.loc[frame["target"] == target, "patient"].nunique()) < 2:
            raise DataError(f"{counted(n, f'{label} patient')}, too few to adapt a model to; label more images")
    groups = frame.groupby("target")["patient"]
    return int(groups.size().min()), int(groups.nunique().min())


def _fitted(target: np.ndarray, scores: np.ndarray, rule: Rule, kind: str) -> tuple[tuple[float, float] | None, float]:
    """Fit the calibration, and choose the threshold on the calibrated scores."""
    moved = None if kind == "none" else fit_recalibration(target, scores, kind)
    if moved is not None and moved[1] <= 0:
        raise DataError(_NO_BETTER_THAN_CHANCE)
    if kind != "none" and moved is None:
        raise DataError(
            "these images determine no calibration: the scores separate the classes, or are all alike; use "
            "calibrate='none' (--calibrate none)"
        )
    return moved, find_threshold(rule, target, recalibrated(scores, moved))


def _decided(target: np.ndarray, scores: np.ndarray, rule: Rule, kind: str, folds: Splits) -> np.ndarray:
    """Decide on each image by the calibration and threshold that images of other patients lead to."""
    decided = np.zeros(len(scores), dtype=bool)
    for rows, held_out in folds:
        if len(np.unique(target[rows])) < 2:
            raise DataError("these images are too few: without a fold of patients, a class is missing")
        moved, cut = _fitted(target[rows], scores[rows], rule, kind)
        decided[held_out] = recalibrated(scores[held_out], moved) >= cut
    return decided


def _rates(patients: np.ndarray, target: np.ndarray, called: np.ndarray) -> dict[str, Any]:
    """Return accuracy, sensitivity and specificity of decisions, with intervals over patients."""
    right = called == (target == 1)
    members = {"accuracy": np.ones_like(right), "recall": target == 1, "specificity": target == 0}
    inside = np.column_stack(list(members.values()))
    draws = bootstrap_rates(patients, np.broadcast_to(right[:, np.newaxis], inside.shape), inside)
    return {
        name: rate(int(right[member].sum()), int(member.sum()), draws[:, i])
        for i, (name, member) in enumerate(members.items())
    }


def _by_share(model: CXRModel, images: Any, shares: tuple[float, ...], calibrate: str, random_state: int) -> CXRModel:
    if calibrate == "sigmoid":
        raise InputError("calibrate='sigmoid' needs labels; without them, 'intercept' can be had")
    paths, patients = _unlabelled(images)
    scores = _scores(model, pd.DataFrame({"path": paths}))
    middle = float(expit(np.mean(logit(shares))))
    if middle * len(scores) < 1:
        raise DataError(
            f"a share of {middle:g} of {counted(len(scores), 'image')} is less than one image; give more images"
        )
    cut = _cut(np.sort(scores)[::-1], round(middle * len(scores)))
    ends = interval(_drawn_cuts(scores, patients, shares, random_state), cut)
    moved = None
    if calibrate == "intercept":
        moved = (_shift(scores, middle), 1.0)
        cut, *others = recalibrated(np.array([cut, *(ends or ())]), moved).tolist()
        ends = others or None
    step = {
        "kind": "unlabelled",
        "images": len(scores),
        "patients": len(np.unique(patients)),
        "prevalence": list(shares),
        "recalibration": moved and _described("intercept", moved, middle),
        "threshold": {"value": cut, "ci95": ends, "before": float(model.threshold)},
    }
    return _adapted(model, step, moved, cut, threshold_rule=None)  # it follows from the prevalence, not from a rule


def _unlabelled(images: Any) -> tuple[list[str], np.ndarray]:
    """Return the paths of images, and their patients, from a frame or from their names."""
    if isinstance(images, pd.DataFrame):
        if "path" not in images:
            raise DataError("the table lacks the column 'path'; load_folder makes one that has it")
        paths: Iterable[Any] = images["path"]
    elif isinstance(images, Iterable) and not isinstance(images, str | bytes | Mapping):
        paths = images
    else:
        raise InputError(f"images must be a frame or a sequence of paths, not {type(images).__name__}")
    texts = [user_path_text(path) for path in paths]
    if not texts:
        raise DataError("there are no images to adapt a model to")
    patients = pd.Series([patient_of(Path(path).name)[0] or path for path in texts])
    if isinstance(images, pd.DataFrame) and "patient" in images:
        given = images["patient"].astype("object").reset_index(drop=True)
        patients = given.where(given.notna(), patients)
    return texts, patients.astype(str).to_numpy()


def _cut(descending: np.ndarray, n_called: int) -> float:
    """Return a threshold that the highest `n_called` scores reach, or as near to so many as equal scores allow."""
    ends = np.flatnonzero(np.diff(descending)) + 1  # how many reach each of the scores but the lowest
    if not len(ends):
        raise DataError("the model gives all of these images the same score, so no threshold can divide them")
    n_called = int(ends[np.argmin(np.abs(ends - n_called))])
    above, below = descending[n_called - 1], descending[n_called]
    middle = (above + below) / 2
    return float(middle if middle > below else above)


def _drawn_cuts(scores: np.ndarray, patients: np.ndarray, shares: tuple[float, ...], random_state: int) -> np.ndarray:
    """Return the threshold in each draw of patients and, where that is uncertain, of the prevalence."""
    _, patient_of_image = np.unique(patients, return_inverse=True)
    order = np.argsort(-scores, kind="stable")
    descending, patient_of_image = scores[order], patient_of_image[order]
    log_odds = logit(shares)
    spread = np.ptp(log_odds) / (2 * norm.ppf(0.975))
    wanted = expit(np.random.default_rng(random_state).normal(np.mean(log_odds), spread, N_DRAWS))
    cuts: list[float] = []
    for counts in patient_counts(int(patient_of_image.max()) + 1, N_DRAWS, random_state, len(scores)):
        n_called = np.cumsum(counts[:, patient_of_image], axis=1)
        for reached in n_called:
            place = int(np.searchsorted(reached, wanted[len(cuts)] * reached[-1]))
            cuts.append(descending[min(place, len(descending) - 1)])
    return np.array(cuts)


def _shift(scores: np.ndarray, mean: float) -> float:
    """Return the intercept with which the mean of the scores is as wanted, by bisection."""
    low, high = -50.0, 50.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if recalibrated(scores, (middle, 1.0)).mean() < mean else (low, middle)
    return (low + high) / 2


def _by_prevalence(model: CXRModel, shares: tuple[float, ...], threshold: Any, calibrate: str) -> CXRModel:
    if calibrate in ("none", "sigmoid"):
        raise InputError(f"calibrate={calibrate!r} needs images; from a prevalence alone, the intercept is moved")
    own = fitted_prevalence(model)
    middle = float(np.mean(logit(shares)))
    moved = (middle - float(logit(own)), 1.0)
    metadata = model.metadata or {}
    named = metadata.get("threshold_rule", "0.5") if threshold is None else str(threshold)
    rule = None if named is None else parse_rule(named)
    weighs_probabilities = rule is not None and rule.name in ("fixed", "cost")
    if threshold is not None and not weighs_probabilities:
        raise InputError(f"threshold={threshold!r} needs labelled images; a prevalence alone allows a number or a cost")
    cut = float(model.threshold)
    if threshold is not None and rule is not None:
        # From 1 / (1 + cost) on, a missed pneumonia is expected to cost more than a false alarm.
        cut = rule.value if rule.name == "fixed" else 1 / (1 + rule.value)
    elif not weighs_probabilities and cut < 1:
        # The other rules look at either class by itself, so the same images are to be called pneumonia as before.
        cut = float(recalibrated(np.array([cut]), moved)[0])
    step = {
        "kind": "prevalence",
        "prevalence": list(shares),
        "fitted_prevalence": own,
        "recalibration": _described("intercept", moved, float(expit(middle))),
        "threshold": {"value": cut, "before": float(model.threshold)},
    }
    return _adapted(model, step, moved, cut, threshold_rule=None if rule is None else str(rule))


def fitted_prevalence(model: CXRModel) -> float:
    """Return the share of pneumonia among the images that made a model's scores what they are.

    These are the images of its last calibration, if there was one, and else those it was fitted on, balanced or not.

    Raises
    ------
    ModelError
        If its metadata do not say.
    """
    metadata = model.metadata or {}
    for step in reversed(metadata.get("adapted") or []):
        if step["recalibration"]:
            return float(step["recalibration"]["prevalence"])
    is_calibrated = metadata.get("calibrated") not in (None, "none", "reversed")
    if (metadata.get("balance") or "none") != "none" and not is_calibrated:
        return 0.5
    split = "val" if is_calibrated and metadata.get("threshold_source") == "val" else "train"
    counts = (metadata.get("data") or {}).get(split) or {}
    if not counts.get("pneumonia") or not counts.get("normal"):
        raise ModelError(
            "the model does not say on how many images of either class it was fitted, so a prevalence alone cannot "
            "adapt it; give images as well"
        )
    return float(counts["pneumonia"] / (counts["pneumonia"] + counts["normal"]))


def _described(kind: str, moved: tuple[float, float], prevalence: float) -> dict[str, Any]:
    """Describe a calibration, with the prevalence at which scores are probabilities after it."""
    return {"kind": kind, "intercept": moved[0], "slope": moved[1], "prevalence": prevalence}


def _scores(model: CXRModel, frame: pd.DataFrame) -> np.ndarray:
    with blaming("the model"):
        return model.probabilities(scores_of(model.pipeline, frame))


def _adapted(
    model: CXRModel, step: dict[str, Any], moved: tuple[float, float] | None, threshold: float, **more: Any
) -> CXRModel:
    """Return a model that says what was done to it."""
    metadata = dict(model.metadata or {})
    date = datetime.now(UTC).isoformat(timespec="seconds")
    metadata["adapted"] = [*(metadata.get("adapted") or []), {"date": date, **step}]
    metadata |= more
    recalibration = model.recalibration
    if moved is not None:
        intercept, slope = recalibration or (0.0, 1.0)
        recalibration = moved[0] + moved[1] * intercept, moved[1] * slope
    return CXRModel(
        model.pipeline,
        threshold,
        calibrator=model.calibrator,
        domain=model.domain,
        metadata=metadata,
        recalibration=recalibration,
    )
