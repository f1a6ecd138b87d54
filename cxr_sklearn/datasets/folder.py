"""Folders and tables of radiographs as a frame: one row per image with its label, split and patient."""

from __future__ import annotations

import csv
import os
import re
import warnings
from pathlib import Path
from typing import NamedTuple, TextIO

import pandas as pd

from .._io import open_regular, user_path
from .._settings import usual_settings
from .._validation import checks_types
from ..exceptions import DataError
from ..images._walk import IMAGE_SUFFIXES, other_kind, walk
from ._frame import LABELS, SPLITS, refuse_unprintable, with_sizes
from ._identity import read_identity
from ._names import patient_of, spelling

#: Number of bytes at either end that are compared to recognise a second copy.
_PIECE = 4096
#: A folder of a split: train, training_set, Test-Data.
_SPLIT_FOLDER = re.compile(rf"({'|'.join(SPLITS)})(?:[ _-]?(?:set|data|images|split))?")
#: Folders beside the images of a class, as in the COVID-19 Radiography Database, that hold pictures of another kind.
_NOT_RADIOGRAPHS = {"mask", "masks", "segmentation", "segmentations", "heatmaps", "thumbnails", "thumbs"}


class _Entry(NamedTuple):
    path: str
    label: str
    split: str | None
    #: From the folder of split or class, whichever comes first, to the name: the path within its copy of the set.
    place: tuple[str, ...]
    #: The folders above.
    prefix: tuple[str, ...]


@usual_settings
@checks_types
def load_folder(
    root: str | os.PathLike[str], *, sizes: bool | str = "auto", dicom_identity: bool = False
) -> pd.DataFrame:
    """Return a table of the images below `root`, sorted by path.

    Class folders are called "normal" or "pneumonia" (or "neumonia"), in upper or lower case; a folder anywhere above or
    below them may be "train" ("training"), "val" ("valid", "validation", "dev") or "test" ("testing"), with "set",
    "data", "images" or "split" behind it. Other folders, of sites or patients, may be anywhere; those of masks are left
    out. Links are followed. The second copy of the set inside the Kaggle archive, ``__MACOSX`` and hidden files are
    ignored.

    Parameters
    ----------
    root : path
    sizes : bool or "auto", default="auto"
        Whether to open every file for its width, height and mode; "auto" means for up to 20,000 files.
    dicom_identity : bool, default=False
        Whether to read patient, age and sex from the headers of DICOM files. A patient is then a keyed digest of
        PatientID and IssuerOfPatientID, with a key that is drawn anew in every call and kept nowhere, so it names
        nobody, and cannot be compared with the digests of another call. A DICOM file without a PatientID is a patient
        of its own; other files have the patient of their name, as always. Otherwise nothing about patients is read.

    Returns
    -------
    DataFrame
        One row per image: `path` (str), `label` ("normal" or "pneumonia"), `target` (int64; 1 is pneumonia), `split`
        ("train", "val", "test" or NA), `patient` (str; an image whose file name follows no known pattern is a patient
        of its own), `subtype` ("bacteria", "virus" or NA), `width` and `height` in pixels (Int64) and `mode` (Pillow's,
        or DICOM's photometric interpretation), NA where a file was not or cannot be opened.
        With `dicom_identity`, also `age` in whole years (Int64; over 89 is 90, which is anonymous in the sense of
        HIPAA's safe harbour) and `sex` ("M", "F" or "O"), NA where the header does not say.

    Raises
    ------
    DataError
        If `root` is not a folder or has no images in class folders, a name cannot be printed, a folder cannot be read,
        folders name two splits, or `dicom_identity` is asked for and there is no DICOM file, or no pydicom.

    Warns
    -----
    UserWarning
        If PatientIDs are the same but for case, spaces, leading zeros or a missing issuer, or one of them stands for
        different people.

    Examples
    --------
    >>> frame = load_folder("chest_xray")  # doctest: +SKIP
    >>> train = frame[frame["split"] == "train"]  # doctest: +SKIP
    >>> X, y, groups = train["path"], train["target"], train["patient"]  # doctest: +SKIP
    """
    folder = user_path(root)
    if not folder.is_dir():
        what = f"{folder} is not a folder" if folder.exists() else f"{folder} does not exist"
        raise DataError(other_kind(folder) or what)
    found, others = _entries(folder)
    entries = _without_second_copy(found)
    if not entries:
        raise DataError(
            f"{folder} holds no images in class folders; expected "
            f"{folder / '[train|val|test]' / 'NORMAL|PNEUMONIA' / '*.jpeg'}"
        )
    refuse_unprintable(entry.path for entry in entries)
    table = pd.DataFrame(entries, columns=_Entry._fields)
    frame = _frame_of(table, (table["prefix"] + table["place"]).map("/".join), sizes, dicom_identity)
    frame.attrs["left_out"] = (len(others), sorted(others)[:3])
    return frame


def _frame_of(table: pd.DataFrame, places: pd.Series, sizes: bool | str, dicom_identity: bool) -> pd.DataFrame:
    """Return the frame of a table with `path`, `label` and `split`; the place of an image names an unknown patient."""
    names = [patient_of(Path(path).name) for path in table["path"]]
    named = pd.DataFrame(names, table.index, ["patient", "subtype"], dtype="str")
    columns = {"path": table["path"]}
    if "label" in table:
        columns |= {
            "label": table["label"].astype("str"),
            "target": (table["label"] == "pneumonia").astype("int64"),
        }
    columns |= {
        "split": table["split"].astype("str"),
        "patient": _column(table, "patient").fillna(named["patient"]).fillna(places),
        "subtype": _column(table, "subtype").str.lower().fillna(named["subtype"]),
    }
    if dicom_identity:
        found = read_identity(table["path"])
        if (twice := found["is_dicom"] & _column(table, "patient").notna()).any():
            raise DataError(
                f"{table['path'][twice].iloc[0]} has a patient in the table and another in its DICOM header; empty the "
                "column patient, or leave out --dicom-identity (dicom_identity=True)"
            )
        columns["patient"] = columns["patient"].mask(found["is_dicom"], found["patient"].fillna(places))
        columns |= {name: found[name] for name in ("age", "sex") if name not in columns}
    return with_sizes(pd.DataFrame(columns).sort_values("path", ignore_index=True), sizes)


def _entries(folder: Path) -> tuple[list[_Entry], list[str]]:
    """Return the images in class folders, and the paths of all other images."""
    entries, others = [], []
    found = list(walk(folder))
    # A folder that holds class folders is not one itself, as where a whole project is called pneumonia.
    holders: set[tuple[str, ...]] = set()
    for parts, *_ in found:
        if classes := _classes(parts):
            holders |= {(), *(parts[: i + 1] for i in classes[:-1])}
    for parts, images, passed_by in found:
        others += passed_by
        end = _classes(parts)[-1] + 1 if _classes(parts) else 0
        label = LABELS.get((parts[end - 1] if end else folder.resolve().name).lower())
        if label is None or parts[:end] in holders or _NOT_RADIOGRAPHS.intersection(map(str.lower, parts[end:])):
            others += images
            continue
        split, first = _split(parts, end, folder)
        start = min(first, max(end - 1, 0))
        for path in images:
            name = os.path.basename(path)  # noqa: PTH119 - called for every image
            entries.append(_Entry(path, label, split, (*parts[start:], name), parts[:start]))
    return entries, others


def _classes(parts: tuple[str, ...]) -> list[int]:
    """Return the positions of the folders that are called as a class is."""
    return [i for i, part in enumerate(parts) if part.lower() in LABELS]


def _split(parts: tuple[str, ...], end: int, folder: Path) -> tuple[str | None, int]:
    """Return the split that the folders name, and the position of the one that names it; `end` is after the class.

    Above the class, the nearest counts: all of them may lie in a folder called test. Below it, patients and sites may
    be called anything, so a second split there is not guessed at.
    """
    named = [(SPLITS[match[1]], i) for i, part in enumerate(parts) if (match := _SPLIT_FOLDER.fullmatch(part.lower()))]
    above, below = [at for at in named if at[1] < end], [at for at in named if at[1] >= end]
    nearest = above[-1:] + below
    if len(splits := dict(nearest)) > 1:
        place = folder.joinpath(*parts)
        raise DataError(f"{place} is in two splits by its name, {' and '.join(splits)}; rename one of its folders")
    return nearest[0] if nearest else (None, len(parts))


def _without_second_copy(entries: list[_Entry]) -> list[_Entry]:
    """Drop images that have a copy at the same place in a folder further up, as in the Kaggle archive."""
    known = {(entry.prefix, entry.place): entry.path for entry in entries}
    kept = []
    for entry in entries:
        higher = [known.get((entry.prefix[:depth], entry.place)) for depth in range(len(entry.prefix))]
        if not any(path and _are_alike(path, entry.path) for path in higher):
            kept.append(entry)
    return kept


def _are_alike(path: str, other: str) -> bool:
    """Compare two files of the same name by size, beginning and end."""
    try:
        return _ends(path) == _ends(other)
    except OSError:
        return False


def _ends(path: str) -> tuple[int, bytes, bytes]:
    with open_regular(path) as file:
        start = file.read(_PIECE)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - _PIECE, 0))
        return size, start, file.read(_PIECE)


_NAMES = ("path", "label", "split", "patient", "subtype")
_SEPARATORS = ",;\t"
#: What spreadsheets, R and pandas write for a missing value or for an error. Taken for a name, it would make one
#: patient of all images whose patient is unknown.
_MISSING = {
    *("", "NA", "N/A", "n/a", "NaN", "nan", "-nan", "-NaN", "NaT", "None", "NULL", "null", "<NA>", "#N/A N/A", "#NA"),
    *("#N/A", "#NULL!", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
}
#: A whole number that became a float, because a cell in its column was empty.
_WHOLE = re.compile(r"^(-?\d+)\.0*$")
#: A long number as spreadsheets show it, with the last digits gone.
_ROUNDED = re.compile(r"\d(?:[.,]\d+)?[eE]\+?\d+")


@usual_settings
@checks_types
def load_frame(
    csv_file: str | os.PathLike[str], *, labels: bool = True, sizes: bool | str = "auto", dicom_identity: bool = False
) -> pd.DataFrame:
    """Return a table like that of :func:`load_folder` from a CSV file with a row per image.

    Parameters
    ----------
    csv_file : path
        With the columns `path` and `label` and, optionally, `patient`, `split` and `subtype`, in any order. Paths are
        relative to the folder of the file. A label is "normal" or "pneumonia", or 0 or 1; a split is "train", "val",
        "test" or empty. Columns are separated by commas, semicolons or tabs. "NA", "nan", "#N/A" and whatever else
        spreadsheets and pandas write for a missing value is one, and "1.0" is patient "1". Blank lines, and lines that
        begin with #, are skipped.
    labels : bool, default=True
        Whether images need labels. If not, a column `label` is neither needed nor read: :func:`adapt` with a prevalence
        looks at none.
    sizes, dicom_identity
        As for :func:`load_folder`.

    Returns
    -------
    DataFrame
        As :func:`load_folder` returns it, sorted by path; with ``labels=False``, without `label` and `target`. Without
        a patient in the table, the file's name decides, as in :func:`load_folder`. Further columns of the table, such
        as age or sex, follow as text, with their names in small letters; one whose name occurs twice, or is that of
        another column above, is left out.

    Raises
    ------
    DataError
        If the file is not such a table, a label or split is unknown, a path occurs twice or cannot be printed, none of
        the images exists, or `dicom_identity` is asked for and a DICOM file has a patient in the table, too.

    Warns
    -----
    UserWarning
        If names of patients are the same but for case, spaces or leading zeros, or were rounded by a spreadsheet;
        of DICOM files, as by :func:`load_folder`.

    Examples
    --------
    >>> frame = load_frame("labels.csv")  # doctest: +SKIP
    """
    file = user_path(csv_file)
    if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file():
        raise DataError(f"{file} is an image; give a folder of images, or score this one with `cxr-sklearn predict`")
    if reason := other_kind(file):
        raise DataError(reason)
    needed = {"path", "label"} if labels else {"path"}
    table = _read(file, needed)
    if missing := sorted(needed - set(table), reverse=True):
        raise DataError(f"{file} lacks the column {missing[0]!r}; its columns are {', '.join(table.columns)}")
    if not len(table):
        raise DataError(f"{file} has no rows")
    if labels:
        table["label"] = _known(table, "label", {**LABELS, "0": "normal", "1": "pneumonia"}, file)
        if (empty := table["label"].isna()).any():
            raise DataError(f"{file}, row {_row(empty)}: the label is missing")
    else:
        table = table.drop(columns=["label", "target"], errors="ignore")
    split = _known(table, "split", SPLITS, file)
    if (empty := table["path"].isna()).any():
        raise DataError(f"{file}, row {_row(empty)}: the path is missing")
    path = pd.Series(
        [os.path.normpath(file.parent / user_path(name)) for name in table["path"]], table.index, dtype="str"
    )
    if (twice := path.duplicated()).any():
        raise DataError(f"{file}, row {_row(twice)}: duplicate path {path[twice].iloc[0]}")
    if not any(map(os.path.exists, path)):
        slashes = ", with / between folders" if table["path"].str.contains("\\\\").any() and os.sep == "/" else ""
        raise DataError(
            f"the images in {file} do not exist, for example {path.iloc[0]}; paths are relative to its folder{slashes}"
        )
    refuse_unprintable(path)
    refuse_unprintable(cell for name in ("patient", "subtype") for cell in _column(table, name).dropna())
    table = table.assign(path=path, split=split, patient=_patients(table))
    frame = _frame_of(table, path, sizes, dicom_identity)
    names = table.columns.tolist()
    read_from_files = {"age", "sex"} if dicom_identity else set()
    further = [
        name for name in names if name and names.count(name) == 1 and (name not in frame or name in read_from_files)
    ]
    # What the table says goes before what the files say.
    return frame.drop(columns=[name for name in further if name in frame]).join(
        table[further].set_axis(path), on="path"
    )


def _read(file: Path, needed: set[str]) -> pd.DataFrame:
    """Return the cells as text, indexed by their line; empty cells are missing. A header has the `needed` names."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            return _cells(file, lines, needed)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not text in UTF-8 ({error}); save the table as CSV UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{file} is not a table of comma-separated values: {error}") from error


def _cells(file: Path, lines: TextIO, needed: set[str]) -> pd.DataFrame:
    # Not pandas.read_csv: it drops surplus cells or takes them for an index, and refuses rows with empty surplus cells.
    text = list(lines)
    start, separator, names = _header(text, needed)
    if double := [name for name in _NAMES if names.count(name) > 1]:
        raise DataError(f"{file} has two columns {double[0]!r}")
    rows: dict[int, list[str]] = {}
    reader = csv.reader(text[start:], delimiter=separator, skipinitialspace=True, strict=True)
    next(reader, None)
    end = reader.line_num
    for row in reader:
        first, end = end + 1, reader.line_num
        cells = [cell.strip() for cell in row]
        if not any(cells) or _is_comment(cells, names, file.parent):
            if any(cells) and end > first:  # rows may be in what its quotation mark opened
                raise DataError(f"{file}, row {first + start}: a quotation mark in the comment is not closed there")
            continue
        number = end + start
        if any(cells[len(names) :]):
            raise DataError(f"{file}, row {number}: it has more cells than there are columns")
        rows[number] = (cells + [""] * len(names))[: len(names)]
    table = pd.DataFrame.from_dict(rows, "index", "object", names)
    return table.mask(table.isin(_MISSING), pd.NA).astype("str")


def _header(text: list[str], needed: set[str]) -> tuple[int, str, list[str]]:
    """Return the position of the line with the names of the columns, their separator and the names."""
    start = next((i for i, line in enumerate(text) if not _is_before_the_header(line, needed)), len(text))
    for separator in _SEPARATORS:
        try:  # a name may hold line breaks and other separators
            names = _names(text[start:], separator)
        except csv.Error:
            continue
        if needed <= set(names):
            return start, separator, names
    separator = max(_SEPARATORS, key=text[start].count) if text[start:] else ","
    return start, separator, _names(text[start : start + 1], separator, strict=False)


def _is_before_the_header(line: str, needed: set[str]) -> bool:
    """Whether a line is blank, a comment, or the separator, which Excel may write first."""
    if line.startswith("#"):  # some programs write their header as a comment
        return not any(needed <= set(_names([line], separator, strict=False)) for separator in _SEPARATORS)
    return not line.strip(f' "\r\n{_SEPARATORS}') or line.lower().startswith("sep=")


def _names(lines: list[str], separator: str, *, strict: bool = True) -> list[str]:
    first = next(csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=strict), [])
    return [" ".join(name.lstrip("#").split()).lower() for name in first]


def _is_comment(cells: list[str], names: list[str], folder: Path) -> bool:
    """Whether a row begins with #, and is neither an error that a spreadsheet wrote nor of an image called so."""
    if not cells[0].startswith("#") or cells[0] in _MISSING:
        return False
    path = dict(zip(names, cells, strict=False)).get("path")
    return not path or not os.path.exists(folder / path)  # noqa: PTH110 - Path.exists raises for a long comment


def _patients(table: pd.DataFrame) -> pd.Series:
    """Return the column of patients, and warn of names that a spreadsheet or a typist may have changed."""
    patients = _column(table, "patient").str.replace(_WHOLE, r"\1", regex=True)
    unique = patients.dropna().unique().tolist()
    alike: dict[str, list[str]] = {}
    for name in unique:
        alike.setdefault(spelling(name), []).append(name)
    if doubtful := [names for names in alike.values() if len(names) > 1]:
        warnings.warn(
            f"patients {' and '.join(map(repr, doubtful[0]))} differ in case, spaces or leading zeros alone, and count "
            f"as different patients{_and_more(len(doubtful) - 1)}",
            stacklevel=5,  # past the decorators
        )
    if rounded := [name for name in unique if _ROUNDED.fullmatch(name)]:
        warnings.warn(
            f"patient {rounded[0]!r} is a number that a spreadsheet rounded: several patients may have become one"
            f"{_and_more(len(rounded) - 1)}",
            stacklevel=5,
        )
    return patients


def _and_more(count: int) -> str:
    return f" (and {count:,} more)" if count else ""


def _column(table: pd.DataFrame, name: str) -> pd.Series:
    return table[name] if name in table else pd.Series(None, table.index, dtype="str")


def _known(table: pd.DataFrame, name: str, names: dict[str, str], file: Path) -> pd.Series:
    """Translate a column by `names`; other values are refused."""
    given = _column(table, name)
    known = given.str.lower().str.replace(_WHOLE, r"\1", regex=True).map(names)
    if (unknown := given.notna() & known.isna()).any():
        value = given[unknown].iloc[0]
        raise DataError(f"{file}, row {_row(unknown)}: {name} {value!r} is not one of {', '.join(names)}")
    return known


def _row(which: pd.Series) -> int:
    """Return the line of the first marked row."""
    return int(which.index[which][0])
