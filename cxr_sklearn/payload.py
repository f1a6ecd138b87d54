"""What of a model file holds objects, and why loading it runs no code from it."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any

import joblib
import skops.io

from .exceptions import ModelError

#: Types besides those of scikit-learn and NumPy that skops may build: each was looked at, and does nothing on loading
#: but take its attributes. Nothing is added to them because a file asks for it.
TRUSTED = frozenset(
    {
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
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.calibration._TemperatureScaling",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    }
)


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
        raise ModelError(f"the pipeline cannot be saved as .skops: {error}; .joblib may do") from error
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
        if kind == "joblib":
            return joblib.load(io.BytesIO(payload))
        _check_archive(payload)
        if unknown := set(skops.io.get_untrusted_types(data=payload)) - TRUSTED:
            raise ModelError(f"it asks for code that a model does not need: {', '.join(sorted(unknown))}")
        return skops.io.loads(payload, trusted=sorted(TRUSTED))
    except ModelError:
        raise
    except Exception as error:  # whatever a stranger's file can bring about
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
    """Return how many objects are written below a node, and see that one met again is written out again, as skops does.

    The checks of skops go through an object as often as it is met. Were it enough to name it again, a thousand bytes
    could hold a pipeline that takes them years; as it is, they go through no more than the file holds.
    """
    inner = list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
    n = isinstance(node, dict) + sum(_count(thing, counts) for thing in inner)
    if isinstance(node, dict) and "__id__" in node and counts.setdefault(node["__id__"], n) != n:
        raise ModelError("it holds two objects under one number")
    return n
