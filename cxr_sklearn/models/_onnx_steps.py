"""From the fitted steps of a model to nodes of ONNX: what is in a pipeline, and what its numbers become.

scikit-learn's scalers and most of its classifiers are converted by skl2onnx, one by one: it has no converters for some
wrappers, and of others its results differ from scikit-learn's. Linear classifiers and calibrations are nodes of our
own. All of this is computed in float64, but for trees, which compare in float32 as scikit-learn's do.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_selection import SelectFdr, SelectFpr, SelectFwe, SelectKBest, SelectPercentile, VarianceThreshold
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.linear_model._base import LinearClassifierMixin
from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV
from sklearn.model_selection._search import BaseSearchCV
from sklearn.naive_bayes import BernoulliNB, GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, Normalizer, RobustScaler, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from ..classifiers.base import KerasImageClassifier
from ..classifiers.resampling import AugmentedClassifier, BalancedClassifier
from ..exceptions import InputError
from ..features.embedder import FrozenEmbedder
from ..features.shortcuts import ShortcutFeatures
from ..images.augment import ImageAugmenter
from ..images.loader import ImageLoader
from ._onnx_graph import OPSETS, Graph
from .calibration import LEAST_SCORE, KnownScores

#: What skl2onnx converts to the numbers that scikit-learn gives.
TRANSFORMERS = (
    StandardScaler, MinMaxScaler, MaxAbsScaler, RobustScaler, Normalizer, PCA,
    SelectKBest, SelectPercentile, SelectFpr, SelectFdr, SelectFwe, VarianceThreshold,
)  # fmt: skip
TREES = (DecisionTreeClassifier, RandomForestClassifier, ExtraTreesClassifier, GradientBoostingClassifier)
CLASSIFIERS = (
    MLPClassifier, KNeighborsClassifier, GaussianNB, BernoulliNB, SVC, *TREES
)  # fmt: skip
_WRAPPERS: tuple[tuple[type, str], ...] = (
    (BalancedClassifier, "estimator_"),
    (AugmentedClassifier, "estimator_"),
    (BaseSearchCV, "best_estimator_"),
    (FixedThresholdClassifier, "estimator_"),
    (TunedThresholdClassifierCV, "estimator_"),
    (FrozenEstimator, "estimator"),
)


@dataclass
class Work:
    """The nodes behind the networks, and the networks that give these their numbers."""

    graph: Graph = field(default_factory=Graph)
    #: What computes on images, by the name of its output, float32 (n, d).
    networks: dict[str, FrozenEmbedder | KerasImageClassifier] = field(default_factory=dict)
    loader: ImageLoader | None = None


@dataclass(frozen=True)
class Value:
    """What goes from step to step: "paths", "images", or "rows", float64 (n, d) by this name."""

    kind: str
    name: str = ""


def refuse(step: Any, why: str) -> NoReturn:
    """Say which step cannot be exported, and why."""
    raise InputError(f"{type(step).__name__} cannot be exported to ONNX: {why}")


def transformed(work: Work, step: Any, value: Value) -> Value:
    """Return what a fitted transformer makes of a value.

    Raises
    ------
    InputError
        If that cannot be expressed in ONNX.
    """
    if step in (None, "passthrough") or (isinstance(step, ImageAugmenter) and value.kind == "images"):
        return value
    if isinstance(step, FrozenEstimator):
        return transformed(work, step.estimator, value)
    if isinstance(step, Pipeline):
        for _, inner in step.steps:
            value = transformed(work, inner, value)
        return value
    if isinstance(step, ImageLoader) and value.kind == "paths":
        if work.loader is not None and work.loader.decoding() != step.decoding():
            refuse(step, "another one of the model loads images differently, and the file takes one form of them")
        work.loader = step
        return Value("images")
    if isinstance(step, ShortcutFeatures):
        refuse(step, "it looks at facts of the file, which pixels of one size no longer have")
    if isinstance(step, FrozenEmbedder) and value.kind == "images":
        return Value("rows", _network(work, step))
    if isinstance(step, FeatureUnion):
        return _united(work, step, value)
    if type(step) in TRANSFORMERS and value.kind == "rows":
        return Value("rows", _converted(work.graph, step, value.name)[0])
    refuse(step, _where(step, value))


def probability(work: Work, model: Any, value: Value) -> str:
    """Return the probability that a fitted classifier gives class 1, float64 (n,).

    Raises
    ------
    InputError
        If that cannot be expressed in ONNX.
    """
    graph = work.graph
    if isinstance(model, AugmentedClassifier) and model.tta and model.augmenter_ is not None:
        refuse(model, "with tta=True it draws views of the images that it predicts")
    if isinstance(model, Pipeline):
        return probability(work, model.steps[-1][1], transformed(work, model[:-1], value))
    if (inner := _unwrapped(model)) is not None:
        return probability(work, inner, value)
    if isinstance(model, CalibratedClassifierCV):
        return calibrated(graph, model, lambda estimator: _response(work, estimator, value))
    if isinstance(model, StackingClassifier):
        return probability(work, model.final_estimator_, _stacked(work, model, value))
    if isinstance(model, VotingClassifier):
        if model.voting != "soft":
            refuse(model, f"with voting={model.voting!r} it gives no probabilities")
        return _mean(graph, [probability(work, part, value) for part in model.estimators_], model._weights_not_none)
    if isinstance(model, KerasImageClassifier) and value.kind == "images":
        logits = _network(work, model)
        return graph.add("Sigmoid", graph.add("Sub", graph.column(logits, 1), graph.column(logits, 0)))
    if value.kind != "rows":
        refuse(model, _where(model, value))
    if isinstance(model, LinearClassifierMixin):
        is_logistic = isinstance(model, SGDClassifier) and model.loss == "log_loss"
        if not is_logistic and not isinstance(model, LogisticRegression | LinearDiscriminantAnalysis):
            refuse(model, "its probabilities are not those of a logistic regression")
        return graph.add("Sigmoid", _linear(graph, model, value.name))
    if type(model) not in CLASSIFIERS:
        refuse(model, _where(model, value))
    if isinstance(model, KNeighborsClassifier) and model.weights != "uniform":
        refuse(model, "only neighbours of equal weight can be (weights='uniform')")
    return graph.cast(graph.column(_converted(graph, model, value.name, zipmap=False)[1], 1))


def _where(step: Any, value: Value) -> str:
    if isinstance(step, (*TRANSFORMERS, *CLASSIFIERS, LinearClassifierMixin)):
        return f"it would be computed on {value.kind}; put a FrozenEmbedder before it"
    if value.kind == "paths":
        return "an ImageLoader that sees all images must come before it"
    return "there is no translation of it that has been tested against scikit-learn"


def _unwrapped(model: Any) -> Any:
    """Return the fitted estimator in a wrapper that passes its input on and gives its probabilities; else None."""
    return next((getattr(model, name) for kind, name in _WRAPPERS if isinstance(model, kind)), None)


def _network(work: Work, step: FrozenEmbedder | KerasImageClassifier) -> str:
    """Note a network that is merged in later, and return its output in float64.

    All networks see the same images, so those that compute the same are one.
    """
    same = (name for name, other in work.networks.items() if other is step or _is_copy(other, step))
    name = next(same, f"network_{len(work.networks)}")
    work.networks[name] = step
    return work.graph.cast(name)


def _is_copy(one: Any, other: Any) -> bool:
    """Whether two frozen networks give the same features, as those in the parts of a stack do."""
    return isinstance(one, FrozenEmbedder) and type(one) is type(other) and _computed(one) == _computed(other)


def _computed(network: FrozenEmbedder) -> tuple[Any, ...]:
    return network._backbone(), network.pooling, network.image_shape_, network.precision_


def _stacked(work: Work, stack: StackingClassifier, value: Value) -> Value:
    """Return what the final classifier of a stack is given: one column for each of its parts."""
    graph, columns = work.graph, []
    for part, method in zip(stack.estimators_, stack.stack_method_, strict=True):
        if method == "predict":
            refuse(stack, f"it takes only decisions from its {type(part).__name__}")
        found = probability(work, part, value) if method == "predict_proba" else _response(work, part, value)[0]
        columns.append(graph.shaped(found, -1, 1))
    return Value("rows", graph.add("Concat", *columns, *([value.name] if stack.passthrough else []), axis=1))


def _united(work: Work, union: FeatureUnion, value: Value) -> Value:
    weights = union.transformer_weights or {}
    parts = []
    for name, step in union.transformer_list:
        if step == "drop":
            continue
        part = transformed(work, step, value)
        if part.kind != "rows":
            refuse(union, f"its part {name!r} gives no numbers")
        parts.append(part.name)
        if name in weights:
            parts[-1] = work.graph.add("Mul", part.name, work.graph.constant(weights[name]))
    return Value("rows", work.graph.add("Concat", *parts, axis=1))


def _converted(graph: Graph, step: Any, rows: str, **options: Any) -> list[str]:
    """Let skl2onnx convert a step of scikit-learn's, and return the names of its outputs."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    is_tree = isinstance(step, TREES)
    kind = FloatTensorType if is_tree else DoubleTensorType
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            proto = convert_sklearn(
                step,
                initial_types=[("rows", kind([None, step.n_features_in_]))],
                options={id(step): options} if options else None,
                target_opset=OPSETS,
            )
    except Exception as error:  # noqa: BLE001 - whatever its converters raise
        refuse(step, f"skl2onnx does not convert it ({' '.join(str(error).split())[:200]})")
    outputs = graph.merge(proto, graph.cast(rows, np.float32) if is_tree else rows)
    return outputs


def _linear(graph: Graph, model: Any, rows: str) -> str:
    """Return the decision function of a linear classifier, (n,); skl2onnx would round its coefficients."""
    coefficients = graph.constant(np.asarray(model.coef_).reshape(-1, 1))
    return graph.shaped(
        graph.add("Add", graph.add("MatMul", rows, coefficients), graph.constant(np.reshape(model.intercept_, -1))), -1
    )


def _response(work: Work, model: Any, value: Value) -> tuple[str, bool]:
    """Return what a classifier is calibrated on, (n,), and whether it is a decision function or a probability."""
    if not hasattr(model, "decision_function"):
        return probability(work, model, value), False
    if isinstance(model, StackingClassifier):
        return _response(work, model.final_estimator_, _stacked(work, model, value))
    if isinstance(model, Pipeline):
        return _response(work, model.steps[-1][1], transformed(work, model[:-1], value))
    if (inner := _unwrapped(model)) is not None:
        return _response(work, inner, value)
    if isinstance(model, LinearClassifierMixin) and value.kind == "rows":
        return _linear(work.graph, model, value.name), True
    if type(model) is SVC and value.kind == "rows":
        scores = _converted(work.graph, model, value.name, zipmap=False, raw_scores=True)[1]
        # Two columns, of which the second is the decision function.
        return work.graph.cast(work.graph.column(scores, 1)), True
    refuse(model, f"{_where(model, value)}, as far as its decision function goes")


def calibrated(graph: Graph, model: CalibratedClassifierCV, response: Callable[[Any], tuple[str, bool]]) -> str:
    """Return the mean of calibrated probabilities, float64 (n,).

    Parameters
    ----------
    graph : Graph
    model : CalibratedClassifierCV
    response : callable
        From an estimator that was calibrated to what it gives, (n,), and whether that is a decision function.
    """
    means = []
    for part in model.calibrated_classifiers_:
        scores, is_decision = response(part.estimator)
        if part.method == "temperature":
            means.append(_tempered(graph, float(part.calibrators[0].beta_), scores, is_decision))
        elif part.method == "isotonic":
            means.append(_isotonic(graph, part.calibrators[0], scores))
        else:
            slope, intercept = -float(part.calibrators[0].a_), -float(part.calibrators[0].b_)
            means.append(graph.add("Sigmoid", _affine(graph, scores, slope, intercept)))
    return _mean(graph, means)


def known_scores(graph: Graph, calibrator: CalibratedClassifierCV, scores: str) -> str:
    """Return scores, (n,), as a CXRModel's calibrator maps them."""

    def response(estimator: Any) -> tuple[str, bool]:
        inner = estimator.estimator if isinstance(estimator, FrozenEstimator) else estimator
        if not isinstance(inner, KnownScores):
            refuse(inner, "the calibrator of a model must be one of its scores")
        return _log_odds(graph, scores), True

    return calibrated(graph, calibrator, response)


def recalibrated(graph: Graph, scores: str, intercept: float, slope: float) -> str:
    """Return probabilities after a linear map of their log odds."""
    return graph.add("Sigmoid", _affine(graph, _log_odds(graph, scores), slope, intercept))


def _mean(graph: Graph, parts: list[str], weights: Sequence[float] | None = None) -> str:
    """Return the weighted mean of values of shape (n,)."""
    if len(parts) == 1:
        return parts[0]
    columns = graph.add("Concat", *(graph.shaped(part, -1, 1) for part in parts), axis=1)
    shares = np.ones(len(parts)) if weights is None else np.asarray(weights, dtype=float)
    return graph.shaped(graph.add("MatMul", columns, graph.constant(shares[:, np.newaxis] / shares.sum())), -1)


def _affine(graph: Graph, scores: str, slope: float, intercept: float) -> str:
    return graph.add("Add", graph.add("Mul", scores, graph.constant(slope)), graph.constant(intercept))


def _log_odds(graph: Graph, scores: str) -> str:
    inside = graph.add("Clip", scores, graph.constant(LEAST_SCORE), graph.constant(1 - LEAST_SCORE))
    return graph.add("Log", graph.add("Div", inside, graph.add("Sub", graph.constant(1), inside)))


def _tempered(graph: Graph, beta: float, scores: str, is_decision: bool) -> str:
    """Return the softmax of two logits times `beta`: of -x and x, or of the logarithms of two probabilities."""
    if is_decision:
        return graph.add("Sigmoid", graph.add("Mul", scores, graph.constant(2 * beta)))
    almost_nothing = graph.constant(1e-12)  # what scikit-learn adds
    yes, no = (
        graph.add("Log", graph.add("Add", part, almost_nothing))
        for part in (scores, graph.add("Sub", graph.constant(1), scores))
    )
    return graph.add("Sigmoid", graph.add("Mul", graph.add("Sub", yes, no), graph.constant(beta)))


def _isotonic(graph: Graph, calibrator: IsotonicRegression, scores: str) -> str:
    """Interpolate linearly between thresholds; skl2onnx does so in float32, whose steps are too coarse for them."""
    x, y = (np.asarray(values, dtype=float) for values in (calibrator.X_thresholds_, calibrator.y_thresholds_))
    if len(x) == 1:
        return _affine(graph, scores, 0.0, float(y[0]))
    slopes = np.diff(y) / np.diff(x)
    inside = graph.add("Clip", scores, graph.constant(calibrator.X_min_), graph.constant(calibrator.X_max_))
    # The piece of a score is the number of inner thresholds below it.
    is_above = graph.add("Greater", graph.shaped(inside, -1, 1), graph.constant(x[np.newaxis, 1:-1]))
    piece = graph.add(
        "ReduceSum", graph.cast(is_above, np.int64), graph.constant([1], np.int64), keepdims=0
    )  # an empty sum is 0
    start, height, slope = (graph.add("Gather", graph.constant(values), piece) for values in (x[:-1], y[:-1], slopes))
    return graph.add("Add", height, graph.add("Mul", slope, graph.add("Sub", inside, start)))
