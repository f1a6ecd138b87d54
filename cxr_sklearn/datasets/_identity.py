"""Patients, age and sex from the headers of DICOM files, without a value by which a hospital knows a patient."""

from __future__ import annotations

import hmac
import re
import secrets
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import pandas as pd

from .._io import open_regular
from ..exceptions import DataError
from ..images._decoding import dicom_reader, is_dicom
from ..images._pixels import RefusedError
from ._names import spelling

_ELEMENTS = ["PatientID", "IssuerOfPatientID", "PatientAge", "PatientBirthDate", "StudyDate", "PatientSex"]
_AGE = re.compile(rb"(\d{1,3}) ?([DWMY]?)", re.IGNORECASE)
_NAME = re.compile(r"dicom-\d+-[0-9a-f]{16}")
_DATE = re.compile(rb"(\d{4})\.?(\d\d)\.?(\d\d)")  # with dots before 1993
#: Units of age in a year.
_IN_A_YEAR = {b"Y": 1, b"M": 12, b"W": 365.25 / 7, b"D": 365.25}
#: All ages over 89 become 90, as the safe harbour of HIPAA asks (45 CFR 164.514(b)(2)(i)(C)).
_OLDEST = 90
#: Above this, a typist or a placeholder such as 1 January 1900 is likelier than the age.
_LONGEST_LIFE = 120


class _Identity(NamedTuple):
    """What is kept of a header. Texts but the sex are keyed digests, empty or None without a value.

    Raw values stay in the function that reads them, so that no error, log or debugger can show them.
    """

    #: Of PatientID and IssuerOfPatientID.
    patient: str = ""
    #: Of the same two, each without what a typist may change.
    spelled: str = ""
    issuer: str = ""
    #: Of the date of birth.
    birth: str | None = None
    age: int | None = None
    sex: str | None = None


def read_identity(paths: pd.Series) -> pd.DataFrame:
    """Read who is on the images.

    A patient is called by a keyed digest of PatientID and IssuerOfPatientID. The key is drawn for this call and
    forgotten after it, so nobody can try all possible numbers, or compare the patients of two studies. The digest
    follows a number by the order of paths: wherever patients are sorted before a draw, the same seed draws the same.

    Returns
    -------
    DataFrame
        By the index of `paths`: `is_dicom` (bool); `patient` (str), NA without a PatientID; `age` in whole years
        (Int64); `sex` ("M", "F" or "O").

    Raises
    ------
    DataError
        If no image is a DICOM file, or pydicom is missing.

    Warns
    -----
    UserWarning
        If patients may be one, or one may be several.
    """
    try:
        dicom_reader()
    except RefusedError as error:
        raise DataError(str(error)) from error
    ordered = paths.sort_values()
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(partial(_identity, key=secrets.token_bytes(32)), ordered))
    if not any(found):
        raise DataError(
            f"none of {len(paths):,} images is a DICOM file, so there is nothing to read of patients; leave out "
            "--dicom-identity (dicom_identity=True)"
        )
    table = pd.DataFrame([one or _Identity() for one in found], ordered.index, dtype="object")
    is_known = table["patient"] != ""
    _warn_of_patients(table[is_known].assign(path=ordered))
    digests = table["patient"][is_known].unique().tolist()
    width = len(str(len(digests)))
    names = {digest: f"dicom-{number:0{width}}-{digest}" for number, digest in enumerate(digests, 1)}
    facts = {
        "is_dicom": pd.Series([one is not None for one in found], ordered.index),
        "patient": table["patient"].map(names).astype("str"),
        "age": table["age"].astype("Int64"),
        "sex": table["sex"].astype("str"),
    }
    return pd.DataFrame(facts).reindex(paths.index)


def is_keyed(patient: str) -> bool:
    """Whether :func:`read_identity` gave a patient this name, under which nobody is known again in another call."""
    return _NAME.fullmatch(patient) is not None


def _identity(path: str, key: bytes) -> _Identity | None:
    """Read a file; None if it is not DICOM, as far as can be seen."""
    try:
        with open_regular(path) as file:
            if not is_dicom(file.read(132)):
                return None
            raw = dicom_reader().elements(file, _ELEMENTS)
    except RefusedError:  # the run reports it when it needs the pixels
        return _Identity()
    except OSError:
        return None
    patient, issuer, birth = raw["PatientID"], raw["IssuerOfPatientID"], raw["PatientBirthDate"]
    sex = raw["PatientSex"].upper()
    return _Identity(
        _digest(key, patient, issuer) if patient else "",
        _digest(key, _spelled(patient)),
        _digest(key, _spelled(issuer)) if issuer else "",
        _digest(key, birth) if birth else None,
        _age(raw["PatientAge"], birth, raw["StudyDate"]),
        sex.decode() if sex in (b"M", b"F", b"O") else None,
    )


def _digest(key: bytes, *values: bytes) -> str:
    return hmac.digest(key, b"\0".join(values), "sha256").hex()[:16]


def _spelled(value: bytes) -> bytes:
    return spelling(value.decode("latin-1")).encode()


def _age(given: bytes, birth: bytes, study: bytes) -> int | None:
    """Return whole years, from the given age or else from two dates; None if they are missing or cannot be true."""
    years: int | None = None
    if match := _AGE.fullmatch(given):  # without a unit, as some programs write it, it is in years
        years = int(int(match[1]) / _IN_A_YEAR[match[2].upper() or b"Y"])
    elif (born := _DATE.fullmatch(birth)) and (seen := _DATE.fullmatch(study)):
        (year, *day), (year_seen, *day_seen) = (list(map(int, date.groups())) for date in (born, seen))
        years = year_seen - year - (day_seen < day)
    return None if years is None or not 0 <= years <= _LONGEST_LIFE else min(years, _OLDEST)


def _warn_of_patients(known: pd.DataFrame) -> None:
    """Warn of patients that may be one, and of one that may be several; `known` are images with a patient."""
    first = known.drop_duplicates("patient")
    doubtful = [
        group
        for _, group in first[first["spelled"].duplicated(keep=False)].groupby("spelled", sort=False)
        if group["issuer"].duplicated().any() or (group["issuer"] == "").any()
    ]
    if doubtful:
        one, other = doubtful[0]["path"].iloc[:2]
        _warn(
            f"the PatientIDs of {one} and {other} differ in case, spaces, leading zeros or a missing issuer alone, and "
            "count as different patients",
            len(doubtful),
        )
    if len(first) == 1 < len(known):
        _warn(f"all {len(known):,} DICOM files with a PatientID have the same, and count as one patient", 1)
    else:
        values = [known.dropna(subset=[name]).drop_duplicates(["patient", name]) for name in ("birth", "sex")]
        differ = pd.concat([rows[rows["patient"].duplicated()] for rows in values]).drop_duplicates("patient")
        if len(differ):
            _warn(
                f"images with the PatientID of {differ['path'].iloc[0]} differ in sex or date of birth, but count as "
                "one patient",
                len(differ),
            )


def _warn(sentence: str, count: int) -> None:
    more = f" (and {count - 1:,} more)" if count > 1 else ""
    warnings.warn(sentence + more, stacklevel=8)  # past the decorators of load_folder and load_frame
