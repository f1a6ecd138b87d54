"""Further columns of a table of images, and the groups that each divides the images into."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from .._io import UNPRINTABLE
from ..exceptions import DataError, InputError

#: Prefix of the columns of ``images.csv`` that divide a report.
BY = "by_"
#: A column of text with more values names images or patients, not groups; of numbers, it is divided into quartiles.
MAX_VALUES = 12
#: Columns of a frame that every report has, or that divide nothing.
_OWN = ("path", "label", "target", "split", "patient", "patient_known")
_AGE = {"age", "edad", "patientage"}
#: Words that may stand beside "age" without changing its unit.
_BESIDE_AGE = {
    *("patient", "patients", "at", "study", "exam", "in", "year", "years"),
    *("del", "paciente", "en", "años", "anos"),
}
#: The first year of each band of ages.
_CHILDREN, _ALL_AGES = (0, 2, 6, 12), (0, 18, 40, 65)
_OLDEST = 120


def check_columns(frame: pd.DataFrame, by: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of the columns by which to divide a report, as the frame spells them, each once.

    Parameters
    ----------
    frame : DataFrame
        With a row per image.
    by : str or sequence of str
        Names of columns; case and spaces may differ where that leaves no doubt.

    Raises
    ------
    DataError
        If there is no such column, or it is empty, has too many values for groups, or cannot be printed.
    ValueError
        If a name is not text.
    """
    found = []
    for name in [by] if isinstance(by, str) else by:
        if not isinstance(name, str):
            raise InputError(f"by={by!r} must hold names of columns, as text")
        column = _spelled(frame, name)
        values = text_of(frame[column])
        for text in (column, *values.dropna()):
            if UNPRINTABLE.search(text):
                raise DataError(f"column {column!a} holds characters that cannot be printed: {text!a}")
        if values.isna().all():
            raise DataError(f"column {column!r} is empty, so it divides nothing")
        groups_of_column(column, values)
        found.append(column)
    return tuple(dict.fromkeys(found))


def _spelled(frame: pd.DataFrame, name: str) -> str:
    usable = [column for column in frame if isinstance(column, str) and column not in _OWN]
    alike = [column for column in usable if _folded(column) == _folded(name)]
    found = [name] if name in usable else alike
    if not found:
        what = f"column {name!r} divides no report" if name in _OWN else f"there is no column {name!r} to divide by"
        has = ", ".join(map(repr, dict.fromkeys(usable))) or "no further columns"
        of_dicom = "; those of DICOM files are read with --dicom-identity (dicom_identity=True)"
        raise DataError(f"{what}; the table has {has}{of_dicom if name in ('sex', 'age') else ''}")
    if len(found) > 1 or usable.count(found[0]) > 1:
        raise DataError(f"several columns are called {name!r}; rename all but one")
    return found[0]


def _folded(name: str) -> str:
    return " ".join(name.split()).casefold()


def text_of(column: pd.Series) -> pd.Series:
    """Return the cells of a column as text without spaces around; an empty cell is missing."""
    cells = column.astype(object).where(column.notna(), None)
    # A date without a time of day is shown as one.
    text = cells.map(lambda cell: str(cell).removesuffix(" 00:00:00").strip(), na_action="ignore")
    return text.mask(text == "").astype("str")


def groups_of_column(name: str, text: pd.Series) -> tuple[str, pd.Series]:
    """Divide images by a column.

    Parameters
    ----------
    name : str
        If it says that the column holds ages in years, these are divided into bands.
    text : Series of str
        The cells.

    Returns
    -------
    kind : {"values", "quartiles", "age"}
    groups : Series of ordered categories
        The group of each image; missing where the cell is, or holds no possible number.

    Raises
    ------
    DataError
        If it holds text with too many different values for groups.
    """
    numbers = pd.to_numeric(text, errors="coerce").astype(float)
    words = text[text.notna() & numbers.isna()]
    if len(words):
        if (n := text.nunique()) > MAX_VALUES:
            raise DataError(
                f"column {name!r} has {n:,} different values, such as {words.iloc[0]!r}: too many to divide a report "
                f"by. Give numbers alone, or text with at most {MAX_VALUES} values"
            )
        return "values", _ordered(text, sorted(text.dropna().unique(), key=lambda value: (value.casefold(), value)))
    numbers = numbers.where(np.isfinite(numbers))
    if _is_age(name):
        return "age", _bands(numbers)
    values = np.sort(numbers.dropna().unique())
    if len(values) <= MAX_VALUES:
        return "values", _ordered(numbers.map(_exact, na_action="ignore"), [_exact(value) for value in values])
    return "quartiles", _quartiles(numbers)


def _is_age(name: str) -> bool:
    """Whether a column is called age, in years: an age in months is a number like any other."""
    words = set(re.findall(r"[^\W\d_]+", name.casefold()))
    return bool(words & _AGE) and words <= _AGE | _BESIDE_AGE


def _bands(ages: pd.Series) -> pd.Series:
    possible = ages.where(ages.between(0, _OLDEST))
    starts = _CHILDREN if possible.max() < _ALL_AGES[1] else _ALL_AGES
    ends = [*starts[1:], _ALL_AGES[1] if starts is _CHILDREN else np.inf]
    names = [f"{first}-{end - 1}" if np.isfinite(end) else f"{first}+" for first, end in zip(starts, ends, strict=True)]
    bands = pd.cut(possible, [*starts, ends[-1]], right=False, labels=names)
    return bands.cat.remove_unused_categories()


def _quartiles(numbers: pd.Series) -> pd.Series:
    """Return quartiles that are called by the lowest and highest number in each; equal numbers stay together."""
    codes = (4 * numbers.rank(pct=True)).apply(np.ceil)
    spans = numbers.groupby(codes).agg(["min", "max"]).itertuples(name=None)
    names = {code: f"Q{i} [{_rounded(low)}, {_rounded(high)}]" for i, (code, low, high) in enumerate(spans, start=1)}
    return _ordered(codes.map(names), list(names.values()))


def _exact(number: float) -> str:
    return str(int(number)) if number.is_integer() else repr(float(number))


def _rounded(number: float) -> str:
    return _exact(number) if number.is_integer() else f"{number:.4g}"


def _ordered(values: pd.Series, order: list[str]) -> pd.Series:
    return pd.Series(pd.Categorical(values, categories=list(dict.fromkeys(order)), ordered=True), values.index)
