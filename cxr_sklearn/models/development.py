"""What a model keeps of the images that it was made with: enough to know them again, too little to show them."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..datasets._identity import is_keyed
from ..exceptions import ModelError

#: A histogram of scores has this many bins of equal width.
BINS = 50
#: Bytes of a digest. That any of 100,000 training images agrees by chance with any of 100,000 others has a probability
#: of 1 in 28,000.
_DIGEST = 6
#: Why some patients cannot be known again.
ANEW = "--dicom-identity (dicom_identity=True) gives them other names every time"


def describe_development(
    images: Iterable[bytes], patients: Iterable[str], scores: pd.DataFrame | None = None
) -> dict[str, Any]:
    """Return facts for the metadata of a model, which JSON can hold.

    Parameters
    ----------
    images : iterable of bytes
        SHA-256 of the files of train and val.
    patients : iterable of str
        Those whose images they are; without images of unknown patients, whose numbers mean nothing elsewhere.
    scores : DataFrame, optional
        Out-of-fold rows of ``scores.csv``.

    Returns
    -------
    dict
        "salt" and the digests of "images" and "patients"; "scores", how many of either class are in each of fifty bins
        of equal width; "keyed", if patients are called by keyed digests, which differ in every call of
        :func:`load_folder`. The salt differs between models, so that two files do not show whether they share a
        patient. It stands in the file, so it is no secret: who holds a list of patients can find out which of them a
        model has seen, and patient numbers that are short enough to be tried one by one need no list.
    """
    patients = list(patients)
    salt = secrets.token_bytes(16)
    facts: dict[str, Any] = {"salt": salt.hex()}
    facts["images"] = _packed(_digests(images, salt))
    facts["patients"] = _packed(_digests(map(_encoded, patients), salt))
    if any(map(is_keyed, patients)):
        facts["keyed"] = True
    if scores is not None:
        facts["scores"] = {
            label: np.histogram(scores.loc[scores["target"] == target, "score"], BINS, (0, 1))[0].tolist()
            for target, label in ((0, "normal"), (1, "pneumonia"))
        }
    return facts


def seen_before(facts: Mapping[str, Any], images: Iterable[bytes], patients: Iterable[str]) -> tuple[int, int]:
    """Return how many of these files, and of these patients, a model was made with.

    Raises
    ------
    ValueError
        If the facts are not those of :func:`describe_development`.
    """
    salt = bytes.fromhex(facts["salt"])
    n_images = len(_digests(images, salt) & _unpacked(facts["images"]))
    return n_images, len(_digests(map(_encoded, patients), salt) & _unpacked(facts["patients"]))


def sentences_of_seen(
    name: str, metadata: Mapping[str, Any], images: Iterable[bytes], patients: Iterable[str]
) -> list[str]:
    """Say how many of these files and patients a model was made with, or adapted on; nothing if none is known again.

    Raises
    ------
    ModelError
        If what the model keeps of its images is damaged.
    """
    images, patients = list(images), list(patients)
    said = []
    try:
        made_with = [metadata["development"]] if metadata.get("development") is not None else []
        for use, kept in (("made with", made_with), ("adapted on", metadata.get("adapted_on") or [])):
            for facts in kept:
                n_images, n_patients = seen_before(facts, images, patients)
                whom = f" and {n_patients:,} of these patients"
                if not n_patients and cannot_know_patients(facts, patients):
                    whom = f" (it cannot know these patients again: {ANEW})"
                if n_images or n_patients:
                    said.append(f"{name} was {use} {n_images:,} of these images{whom}")
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{name} keeps damaged facts of its images: {error}") from error
    return said


def cannot_know_patients(facts: Mapping[str, Any], patients: Iterable[str]) -> bool:
    """Whether these patients, or those of a model, have names that differ every time that their files are read."""
    return bool(facts.get("keyed")) or any(map(is_keyed, patients))


def _digests(values: Iterable[bytes], salt: bytes) -> set[bytes]:
    return {hashlib.blake2b(value, key=salt, digest_size=_DIGEST).digest() for value in values}


def _encoded(patient: str) -> bytes:
    return patient.encode("utf-8", "surrogatepass")  # no name may cost a model that took hours


def _packed(digests: set[bytes]) -> str:
    return base64.b64encode(b"".join(sorted(digests))).decode()  # sorted, so that their order tells nothing


def _unpacked(text: str) -> set[bytes]:
    whole = base64.b64decode(text, validate=True)
    return {whole[i : i + _DIGEST] for i in range(0, len(whole), _DIGEST)}
