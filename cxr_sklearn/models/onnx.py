"""export_onnx: a whole model, from grey pixels to scores and decisions, as one file for ONNX Runtime."""

from __future__ import annotations

import copy
import json
import logging
import os
import warnings
from collections.abc import Mapping
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from .._io import atomic_write, user_path, versions_here
from .._keras import keras_backend
from .._settings import usual_settings
from .._validation import checks_types
from ..classifiers.base import KerasImageClassifier
from ..exceptions import BackendError, InputError, ModelError
from ..features._onnx import network_file, start_session
from ..features._onnx_export import drawn_images, to_onnx
from ..features.embedder import FrozenEmbedder
from ._onnx_graph import OPSETS, Graph
from ._onnx_steps import Value, Work, known_scores, probability, recalibrated
from ._own_files import check_replaceable
from ._steps import networks_of, parts_of, without_stores
from .calibration import pneumonia_scores
from .exported import FORMAT, MAX_BYTES, NO_DIGEST, PROPERTY, SUFFIX, check_operators
from .files import _OWN_FACTS, _describe_weights
from .model import CXRModel, as_model, check_recalibration, check_threshold

#: How far the scores of the file may be from those of the same steps with the same networks in ONNX Runtime, and from
#: the model's own: Keras adds up in another order, and a scaler magnifies features that hardly vary.
TOLERANCE, OTHER_ORDER = 1e-5, 1e-3
#: Differences of scores that the rounding of float32 makes; calibrations magnify them near 0 and 1, and where they rise
#: steeply.
_ROUNDING = 1e-6
_N_CHECKED = 16
_PACKAGES = ("onnx", "onnxruntime", "skl2onnx", "tf2onnx")
_OF_IMAGES = ("development", "adapted_on")


@usual_settings
@checks_types
def export_onnx(model: CXRModel | Pipeline, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Write a model as one ONNX file, from images to scores and decisions, for ONNX Runtime anywhere.

    The file takes ``images``, ``uint8 (n, H, W)``, grey and of the size that the model's :class:`ImageLoader` makes,
    and gives ``score``, ``float64 (n,)``, the calibrated probability of pneumonia, and ``decision``, ``int64 (n,)``, 1
    for pneumonia at the model's threshold. Networks, scalers, classifier, calibrations and threshold are inside;
    decoding, cropping and resizing are not, and neither is the domain detector. Once written, the file is run on drawn
    images, and is only kept if it gives the scores that the model gives.

    Parameters
    ----------
    model : CXRModel or fitted Pipeline
        A pipeline is exported as a model that decides at 0.5.
    path : path
        Ends in ``.onnx``. An exported model that is there already is replaced, any other file is not.

    Returns
    -------
    dict
        What the file says of itself in its property "cxr_sklearn", as JSON: "format", "size" ([H, W]), "crop" and
        "fit", as :class:`ImageLoader` has them (its `resize`), "classes", "threshold", "calibration" ("method" and
        "recalibration"), "precision" of the networks, "weights" that they began with, "description", "left_out",
        "versions", "model_card" (text, or else the facts known of the model), "check" ("images", "largest_difference"
        of their scores, and whether the model itself is "rounded" to bfloat16), and "sha256" of the file with these 64
        digits replaced by zeros.

    Raises
    ------
    InputError
        If a step of the model cannot be expressed in ONNX, `path` has another ending or is a file that is not a model,
        or the new file would have 2 GB.
    ModelError
        If the model is not fitted on 0 and 1, or the file gives other scores than the model; it is not kept then.
    BackendError
        If what an export needs is not installed, or Keras does not run on TensorFlow where the model was trained by
        it.
    WeightsUnavailableError
        If pretrained weights are missing, or are others than those that the model was trained with.
    OSError
        If the file cannot be written; a file that was there before is still there.

    Notes
    -----
    A network that computes in bfloat16 is exported in float32, which ONNX Runtime has everywhere, and its scores differ
    accordingly. Others differ by less than 1e-5 on most images: ONNX Runtime and Keras round differently. "check" says
    by how much.
    """
    target, model = user_path(path), as_model(model)
    check_target(target)
    check_threshold(model.threshold)
    check_recalibration(model.recalibration)
    if (classes := np.asarray(model.classes_).tolist()) != [0, 1]:
        raise ModelError(f"expected a model of the classes 0 (normal) and 1 (pneumonia), but its classes are {classes}")
    check_installed()
    known = copy.copy(model)
    known.pipeline = without_stores(model.pipeline)
    exact = _for_onnx(known)
    work = translated(exact)
    facts = _facts(exact, work)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters
        proto = _whole(work, facts)
    with atomic_write(target) as draft:
        _write(proto, facts, draft)
        facts["check"] = _check(draft, known, exact, work)
        facts["sha256"] = _write(proto, facts, draft)
    return facts


def check_target(target: Path) -> None:
    """Refuse a path that no ONNX file could be written to.

    Raises
    ------
    InputError
        If it has another ending, lies in no folder, or is something other than a model already.
    """
    if target.suffix != SUFFIX:
        raise InputError(f"{target} must end in {SUFFIX}")
    check_replaceable(target)
    if not target.absolute().parent.is_dir():
        raise InputError(f"{target.parent} does not exist; create it first")


def check_installed() -> None:
    """Refuse to begin without what the extra brings.

    Raises
    ------
    BackendError
        If one of the packages is missing.
    """
    missing = [name for name in _PACKAGES if not _is_installed(name)]
    if missing:
        raise BackendError(f"an export needs {' and '.join(missing)}; run pip install 'cxr-sklearn[onnx]'")


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None  # tf2onnx would import TensorFlow
    except ValueError:  # it was turned off by an entry in sys.modules
        return False


def _for_onnx(model: CXRModel) -> CXRModel:
    """Return a copy of a model that computes as an exported one does: frozen networks in ONNX Runtime, no bfloat16."""
    exact = copy.copy(model)
    exact.pipeline = copy.deepcopy(model.pipeline)
    for part in parts_of(exact.pipeline):
        if _is_rounded(part):
            part.precision_ = "float32"
        if isinstance(part, FrozenEmbedder):
            part.store, part.engine = None, "onnx"
    return exact


def _is_rounded(part: Any) -> bool:
    return bool(getattr(part, "precision_", "float32") == "bfloat16")


def translated(model: CXRModel) -> Work:
    """Return the nodes of all that a model does with its networks' numbers; no network is looked at yet.

    Raises
    ------
    InputError
        If a step cannot be expressed in ONNX.
    """
    work = Work()
    scores = probability(work, model.pipeline, Value("paths"))
    graph = work.graph
    if model.calibrator is not None:
        scores = known_scores(graph, model.calibrator, scores)
    if model.recalibration is not None:
        scores = recalibrated(graph, scores, *map(float, model.recalibration))
    decided = graph.add("GreaterOrEqual", scores, graph.constant(model.threshold))
    graph.rename(scores, "score")
    graph.rename(graph.cast(decided, np.int64), "decision")
    if keras_backend() != "tensorflow" and any(_is_trained(network) for network in work.networks.values()):
        raise BackendError(
            f"networks that were trained here are exported with TensorFlow, but Keras runs on {keras_backend()}; set "
            "KERAS_BACKEND=tensorflow"
        )
    return work


def _is_trained(network: Any) -> bool:
    return isinstance(network, KerasImageClassifier)


def _whole(work: Work, facts: Mapping[str, Any]) -> Any:
    """Put the networks before the other nodes, and return the ModelProto."""
    from onnx import TensorProto, checker, helper

    front = Graph()
    grey = front.add("Unsqueeze", "images", front.constant([3], np.int64))
    colour = front.add("Concat", grey, grey, grey, axis=3)
    for name, network in work.networks.items():
        first, *others = _network_protos(network)
        n_channels = first.graph.input[0].type.tensor_type.shape.dim[3].dim_value
        (output,) = front.merge(first, grey if n_channels == 1 else colour)
        for proto in others:
            (output,) = front.merge(proto, output)
        front.rename(output, name)
    front.nodes += work.graph.nodes
    front.initializers += work.graph.initializers
    inputs = [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", *facts["size"]])]
    kinds = {"score": TensorProto.DOUBLE, "decision": TensorProto.INT64}
    proto = front.model(inputs, [helper.make_tensor_value_info(name, kind, ["n"]) for name, kind in kinds.items()])
    if proto.ByteSize() > MAX_BYTES - 1_000_000:  # the metadata come on top
        raise InputError(f"the file would have {proto.ByteSize() / 1e9:.1f} GB, and ONNX files end at 2 GB")
    proto.doc_string = "A chest radiograph's score for pneumonia; not a diagnosis. The property cxr_sklearn says more."
    checker.check_model(proto)
    return proto


def _network_protos(network: FrozenEmbedder | KerasImageClassifier) -> list[Any]:
    """Return the graphs of a network that follow each other, the first from ``uint8 (n, H, W, 1 or 3)``."""
    import onnx

    if isinstance(network, FrozenEmbedder):
        backbone, shape = network._backbone(), network.image_shape_
        protos = [onnx.load(network_file(backbone, network.pooling, shape, network.precision_))]
    else:
        quiet = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            protos = [
                to_onnx(part, part.input_shape[1:], type(network).__name__) for part in network.networks_in_turn()
            ]
        finally:
            logging.disable(quiet)
    for proto in protos:
        used = {node.domain for node in proto.graph.node}
        for opset in proto.opset_import:
            if opset.domain in used and opset.version > OPSETS.get(opset.domain, 0):
                raise InputError(f"a network needs version {opset.version} of {opset.domain or 'ONNX'}'s operators")
    return protos


def _facts(model: CXRModel, work: Work) -> dict[str, Any]:
    if work.loader is None:
        raise InputError(
            "the model has no ImageLoader that all images meet first, so no file could say how to load them"
        )
    decoding, metadata = work.loader.decoding(), model.metadata or {}
    embedders = [network for network in networks_of(model.pipeline) if hasattr(network, "weights_id_")]
    precisions = {network.precision_ for network in work.networks.values()}
    versions = versions_here() | {name: import_module(name).__version__ for name in _PACKAGES[:3]}
    facts = {
        "format": FORMAT,
        "size": [decoding.height, decoding.width],
        "crop": decoding.crop,
        "fit": decoding.resize,
        "classes": list(model.class_names),
        "threshold": float(model.threshold),
        "calibration": {
            "method": model.calibrator and model.calibrator.method,
            "recalibration": model.recalibration and [float(part) for part in model.recalibration],
        },
        "precision": "int8" if "int8" in precisions else "float32",
        "weights": [_describe_weights(network) for network in embedders],
        "description": metadata.get("description") or "",
        "left_out": [] if model.domain is None else ["domain detector"],
        "versions": versions,
        "model_card": metadata.get("model_card")
        or {name: fact for name, fact in metadata.items() if name not in (*_OWN_FACTS, *_OF_IMAGES)},
        "check": None,
        "sha256": NO_DIGEST,
    }
    try:
        json.dumps(facts, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"the metadata of a model must be JSON-serialisable: {error}") from error
    return facts


def _write(proto: Any, facts: Mapping[str, Any], path: Path) -> str:
    """Write the file with its metadata, and return the digest that it contains."""
    from onnx import helper

    helper.set_model_props(proto, {PROPERTY.decode(): json.dumps({**facts, "sha256": NO_DIGEST})})
    content = bytearray(proto.SerializeToString())
    # Text of a protobuf file stands there as it is, so a digest of the same length can be put in its place.
    before = b'"sha256": "'
    place = content.rindex(before + NO_DIGEST.encode()) + len(before)
    digest = sha256(content).hexdigest()
    content[place : place + 64] = digest.encode()
    path.write_bytes(content)
    return digest


def _check(path: Path, known: CXRModel, exact: CXRModel, work: Work) -> dict[str, Any]:
    """Compare the scores that a file gives for drawn images with those of the model.

    Raises
    ------
    ModelError
        If they differ.
    """
    assert work.loader is not None
    height, width = work.loader.decoding().height, work.loader.decoding().width
    # Larger than the model's size, so that its loader has something to do.
    drawn = drawn_images((height * 5 // 4, width * 5 // 4, 3), _N_CHECKED)[..., 0]
    images = np.asarray(work.loader.transform(drawn))[..., 0]
    check_operators(path.read_bytes(), path)
    session = start_session(path)
    score, decision = (np.concatenate(found) for found in zip(
        *(session.run(["score", "decision"], {"images": images[i : i + 8]}) for i in range(0, len(images), 8)),
        strict=True,
    ))  # fmt: skip
    raw, own = pneumonia_scores(exact.pipeline, drawn), known.predict_proba(drawn)[:, 1]
    wanted = exact.probabilities(raw)
    moved = (exact.probabilities(np.clip(raw + change, 0, 1)) - wanted for change in (-_ROUNDING, _ROUNDING))
    magnified = np.max(np.abs(list(moved)), axis=0)
    is_trained = any(_is_trained(network) for network in work.networks.values())
    is_rounded = any(map(_is_rounded, parts_of(known.pipeline)))
    difference, own_difference = np.abs(score - wanted), np.abs(score - own)
    is_same = np.all(difference <= (OTHER_ORDER if is_trained else TOLERANCE) + magnified)
    is_same &= is_rounded or np.all(own_difference <= OTHER_ORDER + magnified)
    is_clear = np.abs(wanted - exact.threshold) > OTHER_ORDER + magnified
    decided = exact.decide(np.column_stack([1 - wanted, wanted]))
    if not is_same or not np.array_equal(decision[is_clear], decided[is_clear]):
        largest = float(np.max([difference, own_difference]))
        raise ModelError(
            f"the exported file gives other scores than the model, by up to {largest:.1g} on "
            "drawn images, so it is not kept; save the model as .skops or .joblib instead"
        )
    return {"images": len(images), "largest_difference": float(np.max(own_difference)), "rounded": is_rounded}
