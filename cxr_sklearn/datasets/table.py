"""Labels that stand in a table instead of folder names."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import TextIO

import pandas as pd

from ..exceptions import DataError
from .folder import LABELS, SPLITS, refuse_unprintable, with_sizes
from .names import patient_of

_NEEDED = ("path", "label")
_OPTIONAL = ("split", "patient", "subtype")


def load_frame(csv_file: str | os.PathLike[str], *, sizes: bool | str = "auto") -> pd.DataFrame:
    """Return a table like that of :func:`load_folder` from a CSV file with a row per image.

    Parameters
    ----------
    csv_file : path
        With the columns `path` and `label`, and `patient`, `split` and `subtype` if you have them, in any order; others
        are left out. Paths are relative to the folder of the file. A label is "normal" or "pneumonia", or 0 or 1; a
        split is "train", "val", "test" or empty. Commas, semicolons or tabs may be between the columns.
    sizes : bool or "auto", default="auto"
        As for :func:`load_folder`.

    Returns
    -------
    DataFrame
        As :func:`load_folder` returns it, sorted by path. Where the table names no patient the file's name may, as in
        :func:`load_folder`; else the image is a patient of its own.

    Raises
    ------
    DataError
        If the file is no such table, a label or split is unknown, an image stands in it twice, a path cannot be
        printed, or none of the images is there.

    Examples
    --------
    >>> frame = load_frame("labels.csv")  # doctest: +SKIP
    """
    file = Path(csv_file)
    table = _read(file)
    if missing := [name for name in _NEEDED if name not in table]:
        raise DataError(f"{file} lacks the column {missing[0]!r}; its columns are {', '.join(table.columns)}")
    if not len(table):
        raise DataError(f"{file} has no rows")
    label = _known(table, "label", {**LABELS, "0": "normal", "1": "pneumonia"}, file)
    if (empty := label.isna()).any():
        raise DataError(f"{file}, row {_row(empty)}: there is no label")
    split = _known(table, "split", SPLITS, file)
    if (empty := table["path"].isna()).any():
        raise DataError(f"{file}, row {_row(empty)}: there is no path")
    path = pd.Series([os.path.normpath(file.parent / name) for name in table["path"]], table.index, dtype="str")
    if (twice := path.duplicated()).any():
        raise DataError(f"{file}, row {_row(twice)}: {path[twice].iloc[0]} stands in the table twice")
    if not any(map(os.path.exists, path)):
        slashes = ", with / between folders" if table["path"].str.contains("\\\\").any() and os.sep == "/" else ""
        raise DataError(
            f"none of the images of {file} is there, {path.iloc[0]} for one; paths are relative to its folder{slashes}"
        )
    refuse_unprintable(path)
    refuse_unprintable(cell for name in ("patient", "subtype") for cell in _column(table, name).dropna())
    named = pd.DataFrame(
        [patient_of(Path(name).name) for name in path], table.index, ["patient", "subtype"], dtype="str"
    )
    frame = pd.DataFrame(
        {
            "path": path,
            "label": label.astype("str"),
            "target": (label == "pneumonia").astype("int64"),
            "split": split.astype("str"),
            "patient": _column(table, "patient").fillna(named["patient"]).fillna(path),
            "subtype": _column(table, "subtype").str.lower().fillna(named["subtype"]),
        }
    )
    return with_sizes(frame.sort_values("path", ignore_index=True), sizes)


def _read(file: Path) -> pd.DataFrame:
    """Return the cells as text, indexed by the line they stand in; an empty one is missing."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = _cells(file, lines)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} is not a table of comma-separated values in UTF-8: {error}") from error
    return rows


def _cells(file: Path, lines: TextIO) -> pd.DataFrame:
    head = lines.readline()
    skipped = 1 if head.lower().startswith("sep=") else 0  # what Excel writes first
    head = lines.readline() if skipped else head
    # The header may mention other separators in a name.
    fits = [sep for sep in ",;\t" if set(_NEEDED) <= set(_names(head, sep))]
    separator = fits[0] if fits else max(",;\t", key=head.count)
    names = _names(head, separator)
    if double := [name for name in (*_NEEDED, *_OPTIONAL) if names.count(name) > 1]:
        raise DataError(f"{file} has two columns {double[0]!r}")
    rows, numbers = [], []
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    for row in reader:
        cells = [cell.strip() for cell in row]
        number = reader.line_num + skipped + 1
        if any(cells[len(names) :]):
            raise DataError(f"{file}, row {number}: it has more cells than there are columns")
        if any(cells):
            rows.append((cells + [""] * len(names))[: len(names)])
            numbers.append(number)
    return pd.DataFrame(rows, numbers, names, dtype="object").replace("", pd.NA).astype("str")


def _names(head: str, separator: str) -> list[str]:
    return [name.strip().lower() for row in csv.reader([head], delimiter=separator) for name in row]


def _column(table: pd.DataFrame, name: str) -> pd.Series:
    return table[name] if name in table else pd.Series(None, table.index, dtype="str")


def _known(table: pd.DataFrame, name: str, names: dict[str, str], file: Path) -> pd.Series:
    """Translate a column; whatever is not among the names is refused."""
    given = _column(table, name)
    known = given.str.lower().map(names)
    if (unknown := given.notna() & known.isna()).any():
        raise DataError(f"{file}, row {_row(unknown)}: {name} {given[unknown].iloc[0]!r} is none of {', '.join(names)}")
    return known


def _row(which: pd.Series) -> int:
    """Line of the first row that is marked, as a spreadsheet numbers it."""
    return int(which.index[which][0])
