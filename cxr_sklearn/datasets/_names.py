"""Patient, etiology and series from the file names of the public set, in both of its releases."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePath

# The two etiologies are numbered separately: person1_virus and person1_bacteria are two children.
_PNEUMONIA_NAME = re.compile(r"person(\d+)_(bacteria|virus)_\d+(_\d+)?", re.IGNORECASE)
# So are the studies with and without NORMAL2.
_NORMAL_NAME = re.compile(r"(NORMAL2-)?IM-(\d+)-\d+(-\d+)?", re.IGNORECASE)
# The third release on Mendeley Data renamed the files: (disease)-(randomized patient ID)-(image number of a patient).
# The same number means the same patient in all diseases, so a child may be ill and well. If that is wrong for a few of
# these random numbers, two children end up on the same side of a split, which does no harm.
_MENDELEY_NAME = re.compile(r"(NORMAL|BACTERIA|VIRUS)-(\d+)-\d+", re.IGNORECASE)


def patient_of(name: str) -> tuple[str | None, str | None]:
    """Read patient and etiology from a file name of the Kaggle set, or of the third release on Mendeley Data.

    Both contain the same images under different names and numbers. The names do not reveal that an image is in both, so
    never mix them.

    Parameters
    ----------
    name : str
        File name, with or without its suffix.

    Returns
    -------
    patient : str or None
        E.g. "bacteria-12", "virus-12", "IM-0115" or "NORMAL2-IM-0115" (Kaggle), or "mendeley-40699"; None where the
        name follows no known pattern.
    subtype : {"bacteria", "virus", None}

    Examples
    --------
    >>> patient_of("person1_virus_6.jpeg"), patient_of("NORMAL2-IM-0115-0001.jpeg"), patient_of("scan 7.png")
    (('virus-1', 'virus'), ('NORMAL2-IM-0115', None), (None, None))
    >>> patient_of("BACTERIA-40699-0001.jpeg"), patient_of("NORMAL-1049278-0001.jpeg")
    (('mendeley-40699', 'bacteria'), ('mendeley-1049278', None))
    """
    stem = PurePath(name).stem
    if match := _PNEUMONIA_NAME.fullmatch(stem):
        etiology = match[2].lower()
        return f"{etiology}-{match[1]}", etiology
    if match := _NORMAL_NAME.fullmatch(stem):
        return f"{(match[1] or '').upper()}IM-{match[2]}", None
    if match := _MENDELEY_NAME.fullmatch(stem):
        disease = match[1].lower()
        return f"mendeley-{match[2]}", None if disease == "normal" else disease
    return None, None


def series_of(name: str) -> str | None:
    """Read the series of a normal radiograph from its file name in the Kaggle set.

    Returns
    -------
    {"IM", "NORMAL2", None}
        None for a pneumonia, for the Mendeley release, which has no series, and for other names.
    """
    match = _NORMAL_NAME.fullmatch(PurePath(name).stem)
    return None if match is None else "NORMAL2" if match[1] else "IM"


def spelling(name: str) -> str:
    """Return the name of a patient without what a spreadsheet or a typist may change.

    That is case, spaces, leading zeros, variants of a character, and characters that are not seen, such as spaces
    without width.
    """
    folded = unicodedata.normalize("NFKC", name).casefold()
    visible = "".join(character for character in folded if unicodedata.category(character) != "Cf")
    return re.sub(r"\s|(?<!\d)0+(?=\d)", "", visible)
