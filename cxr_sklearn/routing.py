"""Sample weights and patients, handed to the step of a pipeline that takes them."""

from __future__ import annotations

from typing import Any

from sklearn.pipeline import Pipeline
from sklearn.utils.validation import has_fit_parameter


def fit_params(estimator: Any, **metadata: Any) -> dict[str, Any]:
    """Return what of `metadata` the estimator's ``fit`` takes, under the names it takes it by.

    Of a pipeline, that is what its last step takes. None counts as not given.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> fit_params(make_pipeline(LogisticRegression()), sample_weight=[1, 2], groups=["a", "b"])
    {'logisticregression__sample_weight': [1, 2]}
    """
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        return {f"{name}__{key}": value for key, value in fit_params(last, **metadata).items()}
    return {key: value for key, value in metadata.items() if value is not None and has_fit_parameter(estimator, key)}
