"""What a model's metadata may say where this package reads them: anybody can write them by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from ..evaluation.thresholds import parse_rule
from ..exceptions import InputError, ModelError
from ..models.calibration import METHODS
from ..models.development import BINS
from ..models.model import CXRModel


def check_facts(name: str, model: CXRModel) -> None:
    """Refuse metadata that :func:`evaluate` or :func:`adapt` would stumble over later; None is as good as no fact.

    Digests and statistics under "development" and "adapted_on" are checked when they are used.

    Raises
    ------
    ModelError
        Which names the model and the key.
    """
    metadata = model.metadata
    if metadata is None:
        return
    if not isinstance(metadata, dict):
        raise ModelError(f"the metadata of {name} must be a dict, not {type(metadata).__name__}")
    for key, (is_right, what) in _FACTS.items():
        value = metadata.get(key)
        if value is not None and not is_right(value):
            text = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:60]}..."
            raise ModelError(
                f"the metadata of {name} have {key!r}: {text}, but it must be {what}; correct it, or rename the key, "
                "which this package reads"
            )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_rule(value: Any) -> bool:
    try:
        parse_rule(value)
    except (InputError, AttributeError):  # what is no text cannot be parsed at all
        return False
    return True


def _has(value: Any, /, **checks: Callable[[Any], bool]) -> bool:
    """Whether it is a dict whose values are as they should be; what is missing is None."""
    return isinstance(value, Mapping) and all(check(value.get(key)) for key, check in checks.items())


def _or_none(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


def _are_metrics(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(part, dict) and all(found is None or _is_number(found) for found in part.values())
        for part in value.values()
    )


def _are_counts(value: Any) -> bool:
    def counts(part: Any) -> bool:
        return _has(part, normal=_or_none(_is_count), pneumonia=_or_none(_is_count))

    return _has(value, train=_or_none(counts), val=_or_none(counts))


def _is_development(value: Any) -> bool:
    def histogram(counts: Any) -> bool:
        return isinstance(counts, list) and len(counts) == BINS and all(map(_is_count, counts))

    return _has(value, scores=_or_none(lambda scores: _has(scores, normal=histogram, pneumonia=histogram)))


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 < value < 1


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_number, value))


def _are_rates(value: Any) -> bool:
    def rate(found: Any) -> bool:
        return _has(found, value=_is_number, ci95=_or_none(_are_numbers))

    return _has(value, accuracy=rate, recall=rate, specificity=rate)


def _is_step(value: Any) -> bool:
    """Whether it describes an adaptation as :func:`adapt` does."""

    def recalibration(found: Any) -> bool:
        kinds = ("intercept", "sigmoid")
        return _has(found, kind=kinds.__contains__, intercept=_is_number, slope=_is_number, prevalence=_is_share)

    def threshold(found: Any) -> bool:
        optional = {"ci95": _or_none(_are_numbers), "rule": _or_none(_is_rule)}
        return _has(found, value=_is_number, before=_is_number, **optional)

    return _has(
        value,
        kind=("labels", "unlabelled", "prevalence").__contains__,
        date=_is_text,
        images=_or_none(_is_count),
        patients=_or_none(_is_count),
        prevalence=_or_none(lambda shares: isinstance(shares, list) and all(map(_is_share, shares))),
        recalibration=_or_none(recalibration),
        threshold=threshold,
        reached=_or_none(_are_rates),
        before=_or_none(_are_rates),
    ) and ("before" in value) == ("reached" in value)


#: By key: whether a value can be read, and what it has to be.
_FACTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "recipe": (_is_text, "text"),
    "description": (_is_text, "text"),
    "created": (_is_text, "text"),
    "balance": (_is_text, "text"),
    "best_params": (lambda value: isinstance(value, dict), "a dict"),
    "threshold_rule": (_is_rule, 'a rule such as "youden", "sensitivity=.95", "cost=5:1" or "0.5"'),
    "calibrated": (lambda value: value in (*METHODS, "reversed", "none"), f"one of {', '.join(METHODS)} or reversed"),
    "metrics": (_are_metrics, "a dict of dicts of numbers, as train makes it"),
    "data": (_are_counts, "a dict of splits with numbers of normal and pneumonia, as train makes it"),
    "development": (_is_development, "a dict, as train makes it"),
    "adapted": (
        lambda value: isinstance(value, list) and all(map(_is_step, value)),
        "a list of the steps that adapt describes",
    ),
    "adapted_on": (lambda value: isinstance(value, list), "a list, as adapt makes it"),
}
