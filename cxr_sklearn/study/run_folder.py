"""The folder of a run: which files are its own, and what is computed from its tables, without Keras."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .._io import atomic_write, user_path
from .._settings import usual_settings
from ..evaluation.doubtful_labels import review_labels
from ..evaluation.subgroups import list_errors
from ..evaluation.summary import Computed, learning_facts, summarise
from ..evaluation.tables import TABLES, read_scores, read_table, write_table
from ..evaluation.thresholds import parse_rule
from ..exceptions import DataError, InputError
from ..report.words import words
from ._metadata import describe_data

#: The files that runs wrote into a folder, with their digests.
OWN_FILES = "run-files.json"
_PROGRAM = "cxr_sklearn"
#: What is computed from the tables.
COMPUTED = ("metrics.json", "report.html", "model-card.md", "errors.csv", "doubtful_labels.csv")
#: The kind of a run of :func:`evaluate`, and what stands there for the rule: every model carries its threshold.
EVALUATE = "evaluate"
RESULTS = tuple(dict.fromkeys((*COMPUTED, *(f"{name}.csv" for name in TABLES))))


def claim(folder: Path, names: Sequence[str], *, overwrite: bool = False) -> None:
    """Make sure, before any work, that a run replaces only files of runs.

    Parameters
    ----------
    folder : Path
    names : sequence of str
        The files that the run will write or remove, relative to `folder`.
    overwrite : bool
        Whether to replace files that no run wrote.

    Raises
    ------
    DataError
        If there are such files and `overwrite` is False, or if a folder has the name of a file.
    """
    foreign = [name for name in names if os.path.lexists(folder / name) and not _is_own(folder, name)]
    if os.path.lexists(folder / OWN_FILES) and _listed(folder) is None:
        foreign.append(OWN_FILES)
    if foreign and not overwrite:
        raise DataError(
            f"{folder} holds files that no run wrote, or that were changed since: {', '.join(foreign)}; choose another "
            "folder, move them, or replace them with overwrite=True (--overwrite)"
        )
    if folders := [name for name in (*names, OWN_FILES) if (folder / name).is_dir()]:
        raise DataError(f"{folder} holds folders that are called as files of a run: {', '.join(folders)}; move them")


def prepare(folder: Path) -> None:
    """Create a folder for a run if it is missing, and make sure that it can be written to."""
    folder.mkdir(parents=True, exist_ok=True)
    _list_own(folder, _own_files(folder))


@contextmanager
def owned(folder: Path, *names: str) -> Iterator[None]:
    """Note that the files of these names, which the block writes, are a run's own.

    They are noted before as well, without digests, so that those of a run that is killed meanwhile count as its own.
    """
    _list_own(folder, _own_files(folder) | dict.fromkeys(names))
    try:
        yield
    finally:
        there: dict[str, str | None] = {name: _digest(folder / name) for name in names if (folder / name).is_file()}
        _list_own(folder, {name: sha for name, sha in _own_files(folder).items() if name not in names} | there)


def remove_results(folder: Path, names: Sequence[str], *, overwrite: bool = False) -> None:
    """Remove what earlier runs wrote into a folder, but for a learning curve, which may be of the same images.

    With `overwrite`, remove files of these names whoever wrote them.
    """
    own = [name for name in _own_files(folder) if _is_own(folder, name)]
    foreign = [name for name in names if overwrite and not _is_own(folder, name)]
    for name in [*own, *foreign]:
        if name != "learning_curve.csv" or name in foreign:
            (folder / name).unlink(missing_ok=True)
    _list_own(folder, {name: sha for name, sha in _own_files(folder).items() if (folder / name).is_file()})


def keeps_models(folder: Path) -> bool:
    """Whether a folder holds models of a run, which another run in it would remove."""
    return any(Path(name).parent.name == "models" for name in _own_files(folder))


def _own_files(folder: Path) -> dict[str, str | None]:
    return _listed(folder) or {}


def _listed(folder: Path) -> dict[str, str | None] | None:
    """Return what the list in a folder names; None if there is no list, or none of ours."""
    try:
        content = json.loads((folder / OWN_FILES).read_text(encoding="utf-8"))
        if content["program"] != _PROGRAM:
            return None
        own: dict[str, str | None] = content["files"]
        return {
            str(name): sha for name, sha in own.items() if not Path(name).is_absolute() and ".." not in Path(name).parts
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _list_own(folder: Path, files: dict[str, str | None]) -> None:
    text = json.dumps({"files": files, "program": _PROGRAM}, indent=2)
    with atomic_write(folder / OWN_FILES) as draft:
        draft.write_text(text + "\n", encoding="utf-8")


def _is_own(folder: Path, name: str) -> bool:
    own = _own_files(folder)
    return name in own and (folder / name).is_file() and own[name] in (None, _digest(folder / name))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@usual_settings
def write_results(
    folder: str | os.PathLike[str],
    *,
    threshold: str | float | None = None,
    lang: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Compute the metrics of a run from its tables again, and render the report again.

    Parameters
    ----------
    folder : path
        The `out` of :func:`compare`.
    threshold : str or float, optional
        Another rule for thresholds. Unlike the rule of the run, it may have been chosen after a look at results on
        test, so metrics.json keeps the first rule as "threshold_before", and the report warns of a second look.
    lang : {"en", "es"}, optional
        Another language of the report.
    overwrite : bool, default=False
        Whether to replace ``metrics.json``, ``report.html``, ``model-card.md``, ``errors.csv`` and
        ``doubtful_labels.csv`` even if they were changed since.

    Returns
    -------
    dict
        The content of ``metrics.json``.

    Raises
    ------
    DataError
        If a file is missing or damaged, one that would be replaced was changed since or is not a run's, or if
        `threshold` is "robust" and the run changed no images.
    ValueError
        If `threshold` or `lang` is wrong.
    """
    folder = user_path(folder)
    facts = read_metrics(folder)
    # Tables and a metrics.json that somebody put into a folder themselves are what a report is asked of.
    claim(folder, COMPUTED if _listed(folder) else COMPUTED[1:], overwrite=overwrite)
    run = facts["run"]
    if threshold is not None and run.get("kind") == EVALUATE:
        raise InputError("the models of this run carry their thresholds; cxr_sklearn.adapt and `adapt` change them")
    if threshold is not None:
        first = run.pop("threshold_before", run["threshold"])
        run["threshold"] = str(parse_rule(str(threshold)))
        if run["threshold"] != first:
            run["threshold_before"] = first
    if run["threshold"] == "robust" and not run.get("stress"):
        raise DataError("the threshold 'robust' needs changed images, which this run lacks; run compare --stress")
    run["lang"] = lang or run["lang"]
    words(run["lang"])
    metrics = write_metrics(folder, facts)
    render(folder, metrics)
    return metrics


def render(folder: Path, metrics: dict[str, Any]) -> None:
    """Render report.html and model-card.md from the tables in a folder and the content of its metrics.json."""
    from ..report.page import write_report  # imports Matplotlib, which takes a while

    with owned(folder, "report.html", "model-card.md"):
        write_report(
            metrics,
            read_scores(folder),
            read_table(folder, "training"),
            folder,
            errors=read_table(folder, "errors"),
            doubtful=read_table(folder, "doubtful_labels"),
        )


def write_metrics(folder: Path, facts: dict[str, Any], computed: dict[str, Computed] | None = None) -> dict[str, Any]:
    """Compute metrics.json, errors.csv and doubtful_labels.csv from the other tables in a folder.

    Parameters
    ----------
    folder : Path
        With ``scores.csv``, and perhaps ``images.csv``, ``probes.csv``, ``training.csv``, ``runs.csv`` and
        ``learning_curve.csv``.
    facts : dict
        Facts that the tables do not hold, by the keys of metrics.json, such as an earlier metrics.json. `run` holds
        the rule for thresholds and the language of the report.
    computed : dict of str to Computed, optional
        As for :func:`summarise`.

    Returns
    -------
    dict
        The content of ``metrics.json``.

    Raises
    ------
    DataError
        If a table is not as `compare` writes it, or does not fit the facts.
    """
    scores, training, images = read_scores(folder), read_table(folder, "training"), read_table(folder, "images")
    if unknown := set(scores["pipeline"]) - set(facts["pipelines"]):
        raise DataError(f"scores.csv has pipelines that metrics.json lacks: {', '.join(sorted(unknown))}")
    is_evaluation = facts["run"].get("kind") == EVALUATE
    summary = summarise(
        scores,
        None if is_evaluation else parse_rule(facts["run"]["threshold"]),
        carried={name: known["threshold"] for name, known in facts["pipelines"].items()} if is_evaluation else None,
        images=images,
        probes=read_table(folder, "probes"),
        training=training,
        runs=read_table(folder, "runs"),
        batch_norm={name: known.get("batch_norm") for name, known in facts["pipelines"].items()},
        without_seed={name for name, known in facts["pipelines"].items() if known.get("seeded") is False},
        computed=computed,
    )
    pipelines = {name: {**facts["pipelines"][name], **numbers} for name, numbers in summary["pipelines"].items()}
    for known in pipelines.values():
        known.pop("errors", None)  # of runs of 0.1.0; errors.csv has them all
    one = scores[scores["pipeline"] == scores["pipeline"].iloc[0]]
    data = {**describe_data(images if len(images) else one, images), "synthetic": facts["data"]["synthetic"]}
    metrics = {**summary, "pipelines": pipelines, "failed": facts.get("failed", {}), "data": data, "run": facts["run"]}
    metrics["split_shift"] = facts.get("split_shift", [])  # runs of earlier versions have none
    curve = read_table(folder, "learning_curve")
    metrics["learning_curve"] = learning_facts(curve) if fits(curve, data) else None
    cuts = {name: found["threshold"]["value"] for name, found in pipelines.items()}
    doubtful, metrics["doubtful_labels"] = review_labels(scores, images)
    _write_computed(folder, "errors", list_errors(scores, images, cuts))
    if metrics["doubtful_labels"]:
        _write_computed(folder, "doubtful_labels", doubtful)
    text = json.dumps(metrics, indent=2, default=_plain, allow_nan=False)
    with owned(folder, "metrics.json"), atomic_write(folder / "metrics.json") as draft:
        draft.write_text(text + "\n", encoding="utf-8")
    kept: dict[str, Any] = json.loads(text)  # so that callers get exactly what the file holds
    return kept


def _write_computed(folder: Path, name: str, rows: pd.DataFrame) -> None:
    with owned(folder, f"{name}.csv"):
        write_table(rows, folder, name)


def read_metrics(folder: Path) -> dict[str, Any]:
    """Read ``metrics.json`` of a run.

    Raises
    ------
    DataError
        If the file is missing, or is not as `compare` writes it.
    """
    path = folder / "metrics.json"
    if not path.is_file():
        raise DataError(f"{path} does not exist; `cxr-sklearn compare --out {folder}` writes it")
    try:
        metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = {"pipelines", "data", "run"} - set(metrics) or {"threshold", "lang"} - set(metrics["run"])
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is not metrics ({error}); `cxr-sklearn compare` writes it anew") from error
    if missing:
        raise DataError(f"{path} lacks {sorted(missing)}; `cxr-sklearn compare` writes it anew")
    return metrics


def fits(curve: pd.DataFrame, data: dict[str, Any]) -> bool:
    """Whether a learning curve belongs to the images of a run, judged by their numbers."""
    if curve.empty:
        return False
    train, val = data["splits"]["train"], data["splits"]["val"]
    n_patients, n_images = int(curve["patients"].max()), int(curve["images"].iloc[0])
    if curve["source"].iloc[0] == "val":
        return (n_patients, n_images) == (train["patients"], val["images"])
    return n_patients < train["patients"] and n_images < train["images"]


def _plain(value: Any) -> Any:
    """Turn NumPy scalars, and any other objects in a parameter grid, into something that JSON can hold."""
    return value.item() if isinstance(value, np.generic) else str(value)
