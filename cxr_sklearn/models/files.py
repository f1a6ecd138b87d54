"""Models as files: small, checked when they are loaded, and without a stranger's code."""

from __future__ import annotations

import copy
import io
import json
import math
import os
import pickle
import re
import sys
import tempfile
import threading
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import joblib
import numpy as np
import skops.io
from sklearn.base import is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.pipeline import Pipeline

from .._io import atomic_write, user_path, versions_here
from .._validation import checks_types
from ..classifiers.finetuned import FineTunedClassifier
from ..exceptions import InputError, ModelError, WeightsUnavailableError
from ..features._backbones import POOLINGS, application, weights_identity
from ..features.domain import DomainDetector
from ._own_files import MAGIC, check_replaceable
from ._steps import heads_of, networks_of, set_store
from .calibration import PredictedScores
from .exported import ExportedModel, is_exported
from .model import CXRModel, as_model, check_recalibration, check_threshold

#: Types that skops may build besides those of scikit-learn and NumPy. Each was reviewed: loading it only sets its
#: attributes. The list is fixed; a file cannot add to it. Trees, of forests and boosting and of neighbours, are not in
#: it: scikit-learn follows their indices without a check, so a crafted one can crash the process or read its memory.
TRUSTED = frozenset(
    {
        "cxr_sklearn.ImageAugmenter",
        "cxr_sklearn.FineTunedClassifier",
        "cxr_sklearn.ScratchCNNClassifier",
        "cxr_sklearn.DomainDetector",
        "cxr_sklearn.FrozenEmbedder",
        "cxr_sklearn.ShortcutFeatures",
        "cxr_sklearn.ImageLoader",
        "cxr_sklearn.AugmentedClassifier",
        "cxr_sklearn.BalancedClassifier",
        "cxr_sklearn.models.calibration.KnownScores",
        "cxr_sklearn.models.calibration.PredictedScores",  # of files of 0.1.0 only
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.calibration._TemperatureScaling",
        "sklearn.feature_selection._univariate_selection.chi2",
        "sklearn.feature_selection._univariate_selection.f_classif",
        "sklearn.feature_selection._mutual_info.mutual_info_classif",
        "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
        "sklearn.gaussian_process.kernels.ConstantKernel",
        "sklearn.gaussian_process.kernels.DotProduct",
        "sklearn.gaussian_process.kernels.Exponentiation",
        "sklearn.gaussian_process.kernels.Matern",
        "sklearn.gaussian_process.kernels.Product",
        "sklearn.gaussian_process.kernels.RBF",
        "sklearn.gaussian_process.kernels.RationalQuadratic",
        "sklearn.gaussian_process.kernels.Sum",
        "sklearn.gaussian_process.kernels.WhiteKernel",
        "sklearn.multiclass._ConstantPredictor",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.utils._bunch.Bunch",
    }
)

#: Where these classes were before models named public paths.
_EARLIER = (
    "cxr_sklearn.augment.ImageAugmenter",
    "cxr_sklearn.classifiers.finetuned.FineTunedClassifier",
    "cxr_sklearn.classifiers.scratch_cnn.ScratchCNNClassifier",
    "cxr_sklearn.domain.DomainDetector",
    "cxr_sklearn.embedder.FrozenEmbedder",
    "cxr_sklearn.evaluation.shortcuts.ShortcutFeatures",
    "cxr_sklearn.loader.ImageLoader",
    "cxr_sklearn.resampling.AugmentedClassifier",
    "cxr_sklearn.resampling.BalancedClassifier",
    "cxr_sklearn.scores.KnownScores",
    "cxr_sklearn.scores.PredictedScores",
)
_KNOWN = TRUSTED.union(_EARLIER)
_reading_earlier = threading.RLock()


@contextmanager
def _earlier_paths() -> Iterator[None]:
    """Let the earlier paths of classes lead to them while a model is read; modules of these names exist no more."""
    now = {path.rpartition(".")[2]: path.rpartition(".")[0] for path in TRUSTED if path.startswith("cxr_sklearn.")}
    with _reading_earlier:
        standing_in: dict[str, ModuleType] = {}
        for path in _EARLIER:
            module, _, name = path.rpartition(".")
            if module in standing_in or find_spec(module) is None:
                stand_in = standing_in.setdefault(module, ModuleType(module))
                setattr(stand_in, name, getattr(import_module(now[name]), name))
        sys.modules.update(standing_in)
        try:
            yield
        finally:
            for module in standing_in:
                del sys.modules[module]


def dump(parts: Mapping[str, Any], kind: str) -> bytes:
    """Return objects as the bytes of a ``skops`` or ``joblib`` file.

    Raises
    ------
    ModelError
        If they are not what :func:`undump` would read from a ``skops`` file, or cannot be pickled.
    """
    if kind == "joblib":
        file = io.BytesIO()
        try:
            joblib.dump(dict(parts), file)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ModelError(
                f"the pipeline cannot be saved as .joblib: {error}; its parts must be importable from a module, "
                "not be defined in the recipe's file"
            ) from error
        return file.getvalue()
    try:
        payload: bytes = skops.io.dumps(dict(parts))
        own = set(skops.io.get_untrusted_types(data=payload)) - TRUSTED
    except Exception as error:  # skops raises what an object's own methods do
        raise ModelError(f"the pipeline cannot be saved as .skops: {error}; try .joblib") from error
    if own:
        raise ModelError(
            f"the pipeline has parts that nobody could load from a .skops file: {', '.join(sorted(own))}; save it as "
            ".joblib, for those who trust you"
        )
    return payload


def undump(payload: bytes, kind: str) -> Any:
    """Return the objects; of ``skops``, only after a look at everything that the bytes ask for.

    Raises
    ------
    ModelError
        Whatever the bytes are.
    """
    try:
        with _earlier_paths():
            if kind == "joblib":
                return joblib.load(io.BytesIO(payload))
            _check_archive(payload)
            if unknown := set(skops.io.get_untrusted_types(data=payload)) - _KNOWN:
                raise ModelError(f"it asks for code that a model does not need: {', '.join(sorted(unknown))}")
            return skops.io.loads(payload, trusted=sorted(_KNOWN))
    except ModelError:
        raise
    except Exception as error:  # a stranger's file can raise anything
        raise ModelError(f"it cannot be loaded: {type(error).__name__}: {' '.join(str(error).split())}") from error


def _check_archive(payload: bytes) -> None:
    """Refuse what no model needs, before skops spends time and memory on it."""
    with zipfile.ZipFile(io.BytesIO(payload)) as archive:
        members = archive.infolist()
        # What is saved here is not compressed, so nothing can be larger than the file once it is unpacked; a sparse
        # matrix would be an archive inside the archive, and no pipeline that is shipped holds one.
        if any(member.compress_type for member in members) or sum(m.file_size for m in members) > len(payload):
            raise ModelError("it is compressed")
        if odd := [member.filename for member in members if not member.filename.endswith((".json", ".npy"))]:
            raise ModelError(f"it holds {odd[0]}")
        _count(json.loads(archive.read("schema.json")), {})


def _count(node: Any, counts: dict[Any, int]) -> int:
    """Count the objects below a node of the schema, and refuse schemas that would blow up while skops audits them.

    The audit visits a shared object once per reference, so a tiny file with nested references could take years. skops
    always writes a repeated object out in full: a file in which two nodes share an id but differ in size was not
    written by it.
    """
    inner = list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
    n = isinstance(node, dict) + sum(_count(thing, counts) for thing in inner)
    if isinstance(node, dict) and "__id__" in node and counts.setdefault(node["__id__"], n) != n:
        raise ModelError("it holds two objects under one number")
    return n


#: Counts up when an earlier version could not read what is written now: 2 keeps the calibrator apart, and only models
#: that were recalibrated for another place are written as 3.
FORMAT = 3
#: What a manifest says of the file itself; everything else is the model's metadata.
_OWN_FACTS = ("format", "kind", "sha256", "created", "classes", "weights", "versions", "recalibration")
#: A manifest has some thousand bytes, and eight for each image and patient; a longer line is not read.
_LONGEST_MANIFEST = 100_000_000


@checks_types
def save_model(model: CXRModel | Pipeline, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Write a model to a file, wholly or not at all.

    Parameters
    ----------
    model : CXRModel or fitted Pipeline
        A pipeline is saved as a model that decides at 0.5.
    path : path
        Ends in ``.skops``, which :func:`load_model` reads without running any code from the file, or in ``.joblib``,
        for pipelines with parts of your own. A model that is there already is replaced, any other file is not.

    Returns
    -------
    dict
        The manifest: "format", "kind", "sha256" (of what follows it in the file), "created", "classes", "weights" (of
        every pretrained network: what they are and where they come from), "versions", "threshold", and the metadata.

    Raises
    ------
    ModelError
        If the pipeline is not fitted, or has parts that a ``.skops`` file could not be loaded with.
    ValueError
        If `path` has another ending or is a file that is not a model, the threshold is not a finite number of at least
        0, or metadata is not JSON-serialisable.
    OSError
        If the file cannot be written; a file that was there before is still there.
    """
    target, model = user_path(path), as_model(model)
    kind = _kind(target)
    check_replaceable(target)
    if not isinstance(model.metadata, dict | None):
        raise InputError(f"metadata must be a dict, not {type(model.metadata).__name__}")
    _check_parts(model)
    parts = {"pipeline": model.pipeline, "calibrator": model.calibrator, "domain": model.domain}
    payload = dump(_portable(parts), kind)
    manifest = {
        "format": FORMAT if model.recalibration else 2,
        "kind": kind,
        "sha256": sha256(payload).hexdigest(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "classes": np.asarray(model.classes_).tolist(),
        "weights": [_describe_weights(part) for part in _networks(model.pipeline)],
        "versions": versions_here(),
        # A model that was loaded brings along what its own file said of itself.
        **{name: fact for name, fact in (model.metadata or {}).items() if name not in _OWN_FACTS},
        "threshold": float(model.threshold),
        **({"recalibration": [float(part) for part in model.recalibration]} if model.recalibration else {}),
    }
    try:
        line = json.dumps(manifest, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise InputError(f"the metadata of a model must be JSON-serialisable: {error}") from error
    if len(line) > _LONGEST_MANIFEST:
        raise InputError(
            f"the metadata of a model take {len(line):,} bytes, more than the {_LONGEST_MANIFEST:,} allowed"
        )
    try:  # what would be refused when it is loaded is refused now, while the fitted model is still there
        _model(undump(payload, kind), manifest)
    except ModelError as error:
        hint = "; try .joblib" if kind == "skops" else ""
        raise ModelError(
            f"the pipeline cannot be saved as .{kind}, because it could not be loaded: {error}{hint}"
        ) from error
    with atomic_write(target) as draft:
        draft.write_bytes(MAGIC + sha256(line).hexdigest().encode() + b"\n" + line + payload)
    return manifest


def keep_model(model: CXRModel, path: Path) -> Path:
    """Save a model that took long to train: as ``.skops``, or as ``.joblib`` beside it where that cannot be.

    Returns
    -------
    Path
        Of the file. A warning says why it is a ``.joblib`` file.

    Raises
    ------
    ModelError, ValueError, OSError
        As by :func:`save_model`, also if such a ``.joblib`` file exists.
    """
    path = user_path(path)
    try:
        save_model(model, path)
        return path
    except ModelError as error:
        other = path.with_suffix(".joblib")
        if path.suffix == ".joblib" or other.exists():
            raise
        save_model(model, other)
        warnings.warn(f"the model is kept as {other}, which runs code when it is loaded: {error}", stacklevel=3)
        return other


@checks_types
def load_model(
    path: str | os.PathLike[str],
    *,
    trusted: bool = False,
    store: str | os.PathLike[str] | None = "auto",
    weights: str | os.PathLike[str] | None = None,
) -> CXRModel | ExportedModel:
    """Read a model back; it scores and decides exactly as it did when it was saved.

    Parameters
    ----------
    path : path
        Of a file that :func:`save_model` wrote, or of an exported model, ending in ``.onnx``, which holds all that it
        needs and ignores the other parameters.
    trusted : bool, default=False
        Whether you trust the author of a ``.joblib`` file. Loading one runs code that is in it; loading a ``.skops``
        file never does.
    store : str, path or None, default="auto"
        Where features are kept here, as for :class:`FrozenEmbedder`. "auto" leaves parts that were saved with
        ``store=None`` without a store.
    weights : path, optional
        Where the weights of a pretrained network are here, if not where they were when it was trained. Networks that
        were trained with other weights ignore it.

    Returns
    -------
    CXRModel
        Its metadata are the manifest, which :func:`save_model` returned. Of an ``.onnx`` file, an
        :class:`ExportedModel`.

    Raises
    ------
    ModelError
        If the file is not a model, is damaged, was written by a later version, or is not to be trusted.
    WeightsUnavailableError
        If the pretrained weights are not here, or are not those that it was trained with.

    Warns
    -----
    UserWarning
        If it was saved with other versions of the libraries that scores depend on.
    """
    source = user_path(path)
    if is_exported(source):
        return ExportedModel.load(source)
    with _opened(source) as file:
        manifest = _manifest(file, source)
        payload = file.read()
    if manifest["kind"] != source.suffix.removeprefix("."):  # who trusts a .joblib file need not trust this one
        raise ModelError(f"{source} holds a .{manifest['kind']} model under another ending; rename it if that is right")
    if manifest["kind"] == "joblib" and not trusted:
        raise ModelError(
            f"{source} is a .joblib model, and loading it would run code from it; if you trust its author, say so "
            "with trusted=True (--trust), and else ask for a .skops file"
        )
    if sha256(payload).hexdigest() != manifest["sha256"]:
        raise ModelError(f"{source} is damaged: its content has changed since it was saved; get it again")
    try:
        model = _model(undump(payload, manifest["kind"]), manifest)
        _settle(model, store, weights)
    except (ModelError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"{source} is not a model that cxr_sklearn saved: {error}") from error
    _warn_of_versions(source, manifest)
    return model


def save(pipeline: Pipeline, path: str | os.PathLike[str], *, domain: Any = None, **facts: Any) -> dict[str, Any]:
    """Write a fitted pipeline to a file; deprecated, use :func:`save_model`."""
    if isinstance(pipeline, CXRModel):
        raise InputError("this is a CXRModel: use save_model(model, path), which keeps its threshold and metadata")
    warnings.warn(
        "save is deprecated and will be removed; use save_model(CXRModel(pipeline, threshold), path)",
        FutureWarning,
        stacklevel=2,
    )
    return save_model(CXRModel(pipeline, facts.pop("threshold", 0.5), domain=domain, metadata=facts), path)


def load(path: str | os.PathLike[str], **options: Any) -> CXRModel | ExportedModel:
    """Read a model back; deprecated, use :func:`load_model`."""
    warnings.warn("load is deprecated and will be removed; use load_model", FutureWarning, stacklevel=2)
    return load_model(path, **options)


def check_saveable(pipeline: Pipeline, path: str | os.PathLike[str]) -> None:
    """See that a pipeline, fitted or not, can be saved at `path`: before hours of training, not after.

    Some classifiers hold what a ``.skops`` file cannot only once they are fitted, so scikit-learn's own are tried on a
    few rows of numbers.

    Raises
    ------
    ModelError, ValueError, OSError
        As :func:`save_model` would.
    """
    target = user_path(path)
    kind = _kind(target)
    check_replaceable(target)
    dump(_portable({"pipeline": pipeline}), kind)
    for n_columns, head in heads_of(pipeline) if kind == "skops" else ():
        if _could_be_fitted(head, n_columns or 100):
            dump({"pipeline": head}, kind)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=target.parent):  # where this can be created, the model can be
        pass


def _could_be_fitted(head: Pipeline, n_columns: int) -> bool:
    """Fit a pipeline of scikit-learn's steps on a few rows of random numbers, if it can be."""
    draw = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is nothing to learn from them
        try:
            head.fit(draw.random((100, n_columns)), np.arange(100) % 2)
        except Exception:  # noqa: BLE001 - it may need other numbers, and whatever it lacks, the training will tell
            return False
    return True


def _kind(path: Path) -> str:
    if path.suffix not in (".skops", ".joblib"):
        raise InputError(f"{path} must end in .skops or .joblib")
    return path.suffix.removeprefix(".")


def _opened(path: Path) -> BinaryIO:
    if path.exists() and not path.is_file():  # opening a pipe would wait for its writer
        raise ModelError(f"{path} is not a file")
    return path.open("rb")


def _manifest(file: BinaryIO, path: Path) -> dict[str, Any]:
    if file.readline(len(MAGIC)) != MAGIC:
        raise ModelError(f"{path} is not a model that cxr_sklearn saved")
    digest, line = file.readline(65).strip(), file.readline(_LONGEST_MANIFEST)
    if sha256(line).hexdigest().encode() != digest:
        raise ModelError(f"{path} is damaged: its manifest has changed since it was saved; get it again")
    try:
        manifest = json.loads(line)
        number, kind = manifest["format"], manifest["kind"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{path} is not a model that cxr_sklearn saved: its manifest cannot be read") from error
    if type(number) is int and number > FORMAT:
        raise ModelError(f"{path} was written by a later version of cxr_sklearn (format {number}); install that")
    is_complete = type(number) is int and number >= 1
    is_complete &= isinstance(manifest.get("sha256"), str) and isinstance(manifest.get("versions"), dict)
    if kind not in ("skops", "joblib") or not is_complete:
        raise ModelError(f"{path} is not a model that cxr_sklearn saved: its manifest is not complete")
    return dict(manifest)


def _model(parts: Any, manifest: dict[str, Any]) -> CXRModel:
    """Return what was loaded as a model, if it is what :func:`save_model` writes.

    Raises
    ------
    ModelError
        If it is not.
    """
    if not isinstance(parts, dict) or not is_classifier(parts.get("pipeline")):
        raise ModelError("it holds no pipeline")
    pipeline, calibrator, domain = parts["pipeline"], parts.get("calibrator"), parts.get("domain")
    # 0.1.0 put a frozen pipeline and the calibrator of its scores into another pipeline.
    if isinstance(pipeline, Pipeline) and isinstance(pipeline[0], PredictedScores):
        pipeline, calibrator = pipeline[0].estimator.estimator, pipeline[1]
    if np.asarray(pipeline.classes_).tolist() != manifest.get("classes"):
        raise ModelError("the classes of its pipeline are not those of its manifest")
    threshold = manifest.get("threshold", 0.5)
    recalibration = manifest.get("recalibration")
    if isinstance(recalibration, list):  # JSON has no tuples
        recalibration = tuple(recalibration)
    model = CXRModel(pipeline, threshold, calibrator=calibrator, domain=domain, metadata=manifest,
                     recalibration=recalibration)  # fmt: skip
    _check_parts(model)
    return model


def _check_parts(model: CXRModel) -> None:
    """Refuse what a model cannot consist of, alike when it is saved and when it is loaded.

    Raises
    ------
    ValueError
        If it is not a classifier with a threshold and perhaps a calibrator and a detector.
    """
    check_threshold(model.threshold)
    check_recalibration(model.recalibration)
    if not is_classifier(model.pipeline):
        raise InputError(f"pipeline must be a classifier, or end in one, not {type(model.pipeline).__name__}")
    if not isinstance(model.calibrator, CalibratedClassifierCV | None):
        raise InputError(f"calibrator must be a CalibratedClassifierCV, not {type(model.calibrator).__name__}")
    limit = getattr(model.domain, "offset_", None)
    is_fitted = isinstance(model.domain, DomainDetector) and isinstance(limit, float) and math.isfinite(limit)
    if model.domain is not None and not is_fitted:
        raise InputError("domain must be a fitted DomainDetector")


def _portable(parts: dict[str, Any]) -> dict[str, Any]:
    """Copy a model without the paths of this machine's store and checkpoints, and with those of weights as text."""
    try:
        parts = copy.deepcopy(parts)
    except Exception as error:  # of parts of the user's own
        raise ModelError(f"the pipeline cannot be copied, so it cannot be saved: {error}") from error
    for part in parts.values():
        set_store(part, "auto")
    for network in networks_of(parts["pipeline"]):
        network.weights = os.fspath(network.weights)
        if isinstance(network, FineTunedClassifier):
            network.checkpoint = None
    return parts


def _networks(model: Any) -> list[Any]:
    """Return the fitted parts that hold on to pretrained weights."""
    return [network for network in networks_of(model) if hasattr(network, "weights_id_")]


def _describe_weights(part: Any) -> dict[str, Any]:
    """Say which weights a network was fitted with, and where they come from."""
    if part.weights == "random":
        source = "drawn by cxr_sklearn"
    elif part.weights == "imagenet":
        source = f"keras.applications, {application(part.backbone).weights_file}"
    else:
        source = f"a file, {Path(part.weights).name}"
    return {"backbone": part.backbone, "id": part.weights_id_, "source": source, "precision": part.precision_}


def _warn_of_versions(path: Path, manifest: Mapping[str, Any]) -> None:
    saved = manifest["versions"]
    others = [f"{name} {saved[name]} (here {here})" for name, here in versions_here().items()
              if name in saved and saved[name] != here]  # fmt: skip
    if others:
        warnings.warn(f"{path} was saved with {', '.join(others)}; its scores may differ", stacklevel=4)


def _settle(model: CXRModel, store: Any, weights: str | os.PathLike[str] | None) -> None:
    """Let a model find its features and weights on this machine, and see that the weights are the right ones."""
    for part in (model.pipeline, model.domain):
        set_store(part, store)
    backbones = networks_of(model.pipeline)
    for part in backbones:
        _check_names(part)
    for network in _networks(model.pipeline):
        if hasattr(network, "frozen_weights_"):  # it carries them
            continue
        if (found := _weights_here(network, weights)) != network.weights:
            named = network.backbone, network.weights
            for part in backbones:  # templates that it was cloned from, too
                part.weights = found if (part.backbone, part.weights) == named else part.weights
        if hasattr(network, "architecture_"):
            network.architecture_ = {**network.architecture_, "weights": network.weights}


def _weights_here(network: Any, given: str | os.PathLike[str] | None) -> str:
    """Return the file given where it holds a network's weights, else where the network itself finds them."""
    own = str(network.weights)
    if given is None or (found := weights_identity(network.backbone, given)) != network.weights_id_:
        try:
            found, given = weights_identity(network.backbone, own), own
        except WeightsUnavailableError:
            if given is None:
                raise
    if found != network.weights_id_:
        raise WeightsUnavailableError(
            f"the weights of {network.backbone} here ({found}) are not those that the model was trained with "
            f"({network.weights_id_}); give the path of the right file with weights= (--weights)"
        )
    return os.fspath(given)


def _check_names(part: Any) -> None:
    """Refuse names that no network has: files of the feature store are called by them."""
    application(part.backbone)
    layers = part.layer if isinstance(part.layer, list | tuple) else [part.layer or "none"]
    if getattr(part, "pooling", "avg") not in POOLINGS or not all(re.fullmatch(r"[\w.-]+", name) for name in layers):
        raise InputError(f"pooling={part.pooling!r}, layer={part.layer!r} are not names that {part.backbone} can have")
