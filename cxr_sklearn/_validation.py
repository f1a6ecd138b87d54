"""Checks of parameters, labels, sample weights and patients, and how these reach the step of a pipeline."""

from __future__ import annotations

import functools
import inspect
import os
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from types import UnionType
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn import get_config
from sklearn.base import is_classifier
from sklearn.model_selection._search import BaseSearchCV
from sklearn.model_selection._split import GroupsConsumerMixin
from sklearn.pipeline import Pipeline
from sklearn.utils import assert_all_finite, column_or_1d
from sklearn.utils.metadata_routing import MetadataRequest, get_routing_for_object
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import has_fit_parameter

from .exceptions import InputError


def fit_params(estimator: Any, **metadata: Any) -> dict[str, Any]:
    """Select the metadata that the estimator's ``fit`` accepts, under the names it expects; None is left out.

    With scikit-learn's metadata routing, a composite estimator gets what its parts request. Without, a pipeline gets
    what its last step accepts, and a meta-estimator with ``**params`` gets the weights that its estimator accepts.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> fit_params(make_pipeline(LogisticRegression()), sample_weight=[1, 2], groups=["a", "b"])
    {'logisticregression__sample_weight': [1, 2]}
    """
    given = {key: value for key, value in metadata.items() if value is not None}
    accepted = {key: value for key, value in given.items() if has_fit_parameter(estimator, key)}
    if not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(estimator.fit).parameters.values()):
        return accepted
    if get_config()["enable_metadata_routing"]:
        return accepted | {key: given[key] for key in get_routing_for_object(estimator).consumes("fit", given)}
    # Without routing no other part of scikit-learn passes on anything, so the step__param names are ours to make.
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        return {f"{name}__{key}": value for key, value in fit_params(last, **given).items()}
    weight = {key: value for key, value in given.items() if key == "sample_weight" and key not in accepted}
    if isinstance(estimator, BaseSearchCV) and isinstance(estimator.cv, GroupsConsumerMixin):
        accepted |= {key: value for key, value in given.items() if key == "groups"}  # for its folds
    return accepted | (fit_params(estimator.estimator, **weight) if hasattr(estimator, "estimator") else weight)


def request_weights(estimator: Any) -> None:
    """With metadata routing, let the classifiers in `estimator` request sample weights, where the user left it open.

    Other parts, such as a scaler, decline them, as without routing: scikit-learn requires a decision of each part.
    """
    if not get_config()["enable_metadata_routing"]:
        return  # set_fit_request raises then
    for part in (estimator, *estimator.get_params().values()):
        # A part that is composite itself has a router instead of a request, and asks its own parts.
        if hasattr(part, "set_fit_request") and isinstance(request := get_routing_for_object(part), MetadataRequest):
            for method in ("fit", "score"):  # a search scores, too
                if getattr(request, method).requests.get("sample_weight", True) is None:
                    getattr(part, f"set_{method}_request")(sample_weight=is_classifier(part))


def check_labels(y: ArrayLike | None, name: str) -> np.ndarray:
    """Return the labels of classes as a one-dimensional array; `name` is the classifier's, for error messages."""
    if y is None:
        raise InputError(f"{name} requires y to be passed, but the target y is None")
    labels = column_or_1d(y, warn=True)
    if n_missing := int(pd.isna(labels).sum()):
        raise InputError(f"y lacks the label of {n_missing} images: Input y contains NaN")
    assert_all_finite(labels, input_name="y")
    check_classification_targets(labels)
    return labels


def check_groups(groups: ArrayLike | None, n: int) -> np.ndarray:
    """Return the group of each of `n` rows as an integer; with None, each row is a group of its own."""
    if groups is None:
        return np.arange(n)
    codes, _ = pd.factorize(column_or_1d(groups))
    if len(codes) != n:
        raise InputError(f"groups holds {len(codes)} patients for {n} images")
    if (codes < 0).any():
        raise InputError(f"groups lacks the patient of {(codes < 0).sum()} images")
    return codes


_NOUNS = {int: "an integer", float: "a number", bool: "True or False", str: "text", type(None): "None"}
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


@functools.cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    return {name: hint for name, hint in get_type_hints(function).items() if name != "return"}


def check_types(function: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Refuse values of another type than a function or ``__init__`` says that it takes.

    A parameter that says Any, or an array-like, is left to whoever uses it.

    Raises
    ------
    ValueError
        For the first of them, by the name of the parameter.
    """
    for name, hint in _hints(function).items():
        if name == "verbose":
            hint = hint | bool  # as scikit-learn takes it
        if name in values and not _is_a(values[name], hint):
            value = values[name]
            search = "; of a search, pass its best_estimator_" if hasattr(value, "best_estimator_") else ""
            raise InputError(f"{name}={reprlib.repr(value)} must be {_named(hint)}, not {type(value).__name__}{search}")


def check_parameters(estimator: Any) -> None:
    """Refuse parameters of an estimator of another type than its ``__init__`` says that it takes."""
    check_types(type(estimator).__init__, estimator.get_params(deep=False))


def checks_types(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Let a public function refuse arguments of another type than its signature says."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        check_types(function, signature.bind(*args, **kwargs).arguments)
        return function(*args, **kwargs)

    return checked


def _is_a(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if hint is Any or hint == ArrayLike:
        return True
    if origin in (Union, UnionType):
        return any(_is_a(value, part) for part in get_args(hint))
    if hint is bool:
        return isinstance(value, bool | np.bool_)
    if hint is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    if hint is float:  # NaN is not a number
        return isinstance(value, Real) and not isinstance(value, bool) and bool(value == value)
    if origin is not None and issubclass(origin, Iterable):  # their members are looked at where they are used
        if issubclass(origin, Mapping):
            return isinstance(value, Mapping)
        return isinstance(value, Iterable) and not isinstance(value, str | bytes | type | Mapping)
    return isinstance(value, origin or hint)


def _named(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(dict.fromkeys(_named(part) for part in get_args(hint)))
    kind = get_origin(hint) or hint
    return (
        _NOUNS.get(kind)
        or {os.PathLike: "a path", Iterable: "a list", Sequence: "a list", Mapping: "a dict"}.get(kind)
        or f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}"
    )
