"""evaluate: models that exist already, on images that they have not seen."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from .._io import folder_to_write
from .._progress import progress_bar
from .._settings import usual_settings
from .._validation import checks_types
from ..datasets._frame import SPLIT_NAMES, any_drawn, checked_frame, counted
from ..datasets.audit import split_sentences
from ..datasets.shift import cohort_shift, shift_sentences
from ..evaluation.columns import check_columns
from ..evaluation.tables import score_rows
from ..exceptions import DataError, InputError, ModelError, TrainingError
from ..models._steps import crop_of, describe_networks
from ..models.development import ANEW, cannot_know_patients, sentences_of_seen
from ..models.files import load_model
from ..models.model import CXRModel, as_model
from ..report.checklists import read_about
from ..report.words import words
from ._metadata import DIGEST, STATS, check_images, describe_images, describe_run, known_patients
from ._model_facts import check_facts
from ._writer import Writer, run_all
from .run_folder import EVALUATE, RESULTS, claim, keeps_models, prepare, remove_results
from .search import CLASSES, blaming, embed_all, scores_of

#: `split` that takes all images, whatever their split.
ALL = "all"


@usual_settings
@checks_types
def evaluate(
    models: Any,
    frame: pd.DataFrame,
    *,
    out: str | os.PathLike[str],
    split: str = ALL,
    by: str | Sequence[str] = (),
    store: str | os.PathLike[str] | None = "auto",
    allow_leaks: bool = False,
    lang: str = "en",
    overwrite: bool = False,
    verbose: int = 0,
) -> dict[str, Any]:
    """Judge saved models on images of another place or time, and write a report like that of :func:`compare`.

    Nothing is fitted: every model scores each image once, and decides at the threshold that it carries. The images are
    checked first, as by :func:`check`, and compared with those that the first model was made with.

    Parameters
    ----------
    models : path, CXRModel, fitted Pipeline, a sequence of paths, or dict
        What to judge; ``{"mine": model, "theirs": "model.skops"}`` names each model, paths alone are named by the
        files' stems. Files that run code when they are loaded are refused; load them yourself, see :func:`load_model`.
    frame : DataFrame
        As :func:`load_folder` or :func:`load_frame` returns it, with `path`, `target` and `patient`.
    out : path
        Folder for ``scores.csv``, ``images.csv``, ``metrics.json``, ``report.html`` and ``model-card.md``; created if
        missing.
    split : {"all", "train", "val", "test"}, default="all"
        The images to use. On the test split of the run that made a model, its figures equal those of that run.
    by : str or sequence of str, default=()
        Further columns of the frame that divide the report, as for :func:`compare`.
    store : str, path or None, default="auto"
        As for :func:`load_model` and :class:`FrozenEmbedder`.
    allow_leaks : bool, default=False
        Whether to go on if a model was made with some of these images or patients; the report says so.
    lang : {"en", "es"}, default="en"
        Language of the report.
    overwrite : bool, default=False
        Whether to replace files in `out` that bear the names of a run's but were not written by one.
    verbose : int, default=0
        1 shows progress bars.

    Returns
    -------
    dict
        The content of ``metrics.json``. Its "failed" holds the reason for each model that failed.

    Warns
    -----
    UserWarning
        If a model fails, or nobody can tell which images or patients it was made with.

    Raises
    ------
    DataError
        If there are fewer than two patients of a class, a model was made with some of these images or patients, or
        `out` holds files that a run would replace but did not write, or the models of a run.
    ModelError
        If a file is not a model, or metadata of a model cannot be read.
    TrainingError
        If all models fail.
    ValueError
        If another parameter is wrong.
    ImageReadError, WeightsUnavailableError, StoreError, OSError
        As by :func:`compare`.

    See Also
    --------
    adapt : Mend the threshold and the calibration of a model for another place.

    References
    ----------
    Van Calster, Collins, Vickers et al. (2025). Evaluation of performance measures in predictive artificial
    intelligence models to support medical decisions. Lancet Digital Health.
    """
    words(lang)
    if split not in (ALL, *SPLIT_NAMES):
        raise InputError(f"split={split!r} must be one of {(ALL, *SPLIT_NAMES)}")
    by = check_columns(frame, by)
    folder = folder_to_write(out)
    named = load_models(models, store)
    claim(folder, RESULTS, overwrite=overwrite)
    if keeps_models(folder):
        raise DataError(f"{folder} holds the models of a run, which this one would remove; choose another folder (out)")
    read_about(folder)  # an error in it is found now
    cohort = _cohort(frame, split)
    cohort, checked = check_images(cohort, store, allow_leaks=allow_leaks, verbose=verbose)
    warned = _seen(named, cohort, allow_leaks)
    images = describe_images(cohort, checked, by)
    prepare(folder)

    run = {**describe_run(0, 0), "kind": EVALUATE, "threshold": EVALUATE, "stress": False, "lang": lang}
    run |= {"leaks": checked["leaks"] + warned, "split": split}
    of_splits = split_sentences(checked)  # a cohort needs no train split
    run["warnings"] = [sentence for sentence in checked["warnings"] if sentence not in of_splits]
    facts: dict[str, Any] = {"pipelines": {}, "failed": {}, "data": {"synthetic": any_drawn(cohort["path"])}}
    facts["run"] = run
    facts["split_shift"] = _shift(named, cohort)
    run["warnings"] = run["warnings"] + shift_sentences(facts["split_shift"])
    for name, model in named.items():
        facts["pipelines"][name] = {**_facts_of(model), **embed_all(model.pipeline, cohort, verbose)}
    write = Writer(folder, facts, images, partial(remove_results, folder, RESULTS, overwrite=overwrite))
    with progress_bar("Scoring", len(named) * len(cohort), show=verbose > 0) as advance:

        def run_one(name: str) -> None:
            start = time.perf_counter()
            rows = _scores(name, named[name], cohort)
            facts["pipelines"][name]["seconds"] |= {"fitting": 0.0, "scoring": time.perf_counter() - start}
            write(scores=[rows])
            advance(len(cohort))

        run_all(named, run_one, write)
    if not write.metrics:
        raise TrainingError("; ".join(facts["failed"].values()))
    for reason in facts["failed"].values():
        warnings.warn(f"{reason}; the report lacks results of this model", stacklevel=4)  # past the decorators
    return write.metrics


def load_models(models: Any, store: str | os.PathLike[str] | None) -> dict[str, CXRModel]:
    """Return models by name; those that are given by their paths are loaded.

    Raises
    ------
    ModelError
        If one is not a model, or its metadata cannot be read.
    ValueError
        As by :func:`name_models`.
    """
    loaded = {}
    for name, model in name_models(models).items():
        loaded[name] = as_model(load_model(model, store=store) if isinstance(model, str | os.PathLike) else model)
        check_facts(name, loaded[name])
    return loaded


def name_models(models: Any) -> dict[str, Any]:
    """Name models, or the paths of their files, where the caller did not.

    Raises
    ------
    ValueError
        If there are none, or two have one name.
    """
    if isinstance(models, str | os.PathLike | CXRModel | Pipeline):
        models = [models]
    if not isinstance(models, Mapping | list | tuple):
        raise InputError(f"models must be a path, a model, a sequence or a dict of them, not {type(models).__name__}")
    pairs = list(models.items()) if isinstance(models, Mapping) else [(_name_of(model), model) for model in models]
    if not pairs:
        raise InputError("there are no models to evaluate")
    names = [name for name, _ in pairs]
    if odd := [name for name in names if not isinstance(name, str) or not name.strip() or not name.isprintable()]:
        raise InputError(f"{odd[0]!r} cannot be the name of a model; give a text that can be printed")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"two models are called {twice[0]!r}; rename a file or, in Python, name them: "
            + '{"a": "one/model.skops", "b": ...}'
        )
    return dict(pairs)


def _name_of(model: Any) -> str:
    if isinstance(model, str | os.PathLike):
        return Path(model).stem
    metadata = getattr(model, "metadata", None)
    return str(metadata.get("recipe", "model")) if isinstance(metadata, dict) else "model"


def _cohort(frame: pd.DataFrame, split: str) -> pd.DataFrame:
    """Return the images to judge by, as a frame whose only split is "test"."""
    if isinstance(frame, pd.DataFrame) and "split" not in frame:
        frame = frame.assign(split="test")
    frame = checked_frame(frame)
    if split != ALL:
        frame = frame[frame["split"] == split]
    for target, label in CLASSES:
        if (n := frame.loc[frame["target"] == target, "patient"].nunique()) < 2:
            where = "" if split == ALL else f" in the {split} split"
            raise DataError(f"{counted(n, f'{label} patient')}{where}, too few to measure anything")
    return frame.assign(split="test")


def _seen(models: Mapping[str, CXRModel], cohort: pd.DataFrame, allow_leaks: bool) -> list[str]:
    """Refuse images and patients that a model was made with, or return sentences about them.

    Raises
    ------
    DataError
        If there are such images, and they are not allowed.
    ModelError
        If what a model keeps of its images is damaged.
    """
    found, patients = [], known_patients(cohort)
    for name, model in models.items():
        metadata = model.metadata or {}
        if metadata.get("development") is None:
            warnings.warn(
                f"{name} does not say which images it was made with, so nobody can tell whether these are among them",
                stacklevel=4,  # past the decorators
            )
        said = sentences_of_seen(name, metadata, cohort[DIGEST], patients)
        if not said and cannot_know_patients(metadata.get("development") or {}, patients):
            warnings.warn(
                f"nobody can tell whether {name} was made with images of these patients: {ANEW}; copies of its images "
                "would be known again",
                stacklevel=4,
            )
        found += said
    if found and not allow_leaks:
        raise DataError(
            f"{'; '.join(found)}. Figures on them are too good to be true: leave them out (of a folder that the model "
            'was made with, split="test" or --split test takes the images that it has not seen), or go on with '
            "--allow-leaks (allow_leaks=True), also if other people bear the same names; the report says so"
        )
    return found


def _shift(models: Mapping[str, CXRModel], cohort: pd.DataFrame) -> list[dict[str, Any]]:
    """Test whether the images can be told from those that the first model which kept some statistics was made with."""
    for name, model in models.items():
        if sample := ((model.metadata or {}).get("development") or {}).get("statistics"):
            try:
                return cohort_shift(sample, cohort, np.stack(cohort[STATS].to_list()))
            except (KeyError, TypeError, ValueError) as error:
                raise ModelError(f"{name} keeps damaged facts of its images: {error}") from error
    return []


def _facts_of(model: CXRModel) -> dict[str, Any]:
    """Return what metrics.json says of a model that was not fitted in this run."""
    known = model.metadata or {}
    measured = known.get("metrics") or {}
    # Validation images may be few, and a threshold was chosen on them.
    part = next((part for part in ("test", "out_of_fold", "val") if part in measured), None)
    development = {
        # Scores of then were not moved as those of now are.
        "scores": None if model.recalibration else (known.get("development") or {}).get("scores"),
        "part": part,
        "metrics": measured[part] if part else None,
        "created": known.get("created"),
    }
    return {
        "description": known.get("description") or known.get("recipe") or type(model.pipeline).__name__,
        "crop": crop_of(model.pipeline),
        "balance": known.get("balance") or "none",
        "best_params": known.get("best_params") or {},
        "calibrated": "adapted" if model.recalibration else known.get("calibrated"),
        "backbones": describe_networks(model.pipeline),
        "batch_norm": None,
        "development": development,
        "adapted": known.get("adapted") or [],
        "threshold": {
            "value": float(model.threshold),
            "rule": known.get("threshold_rule") or "0.5",
            "source": "adapted" if known.get("adapted") else "model",
        },
    }


def _scores(name: str, model: CXRModel, cohort: pd.DataFrame) -> pd.DataFrame:
    """Return rows of ``scores.csv``, and whether each image looks like those that the model was trained on."""
    with blaming(name):
        scores = model.probabilities(scores_of(model.pipeline, cohort))
        rows = score_rows(cohort, name, scores)
        if model.domain is None:
            return rows.assign(domain=None)
        X = np.stack(cohort[STATS].to_list()) if model.domain.crop == 1 else cohort["path"]
        return rows.assign(domain=np.where(model.domain.predict(X) == 1, "in", "out"))
