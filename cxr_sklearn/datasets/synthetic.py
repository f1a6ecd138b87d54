"""Synthetic chest radiographs, so that everything runs without a download."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from sklearn.utils import check_random_state

from .._io import folder_to_write
from .._validation import checks_types
from ..exceptions import DataError, InputError
from ..images._thorax import draw_patient
from ._frame import DRAWN, SPLIT_NAMES, mark_drawn

RandomState = int | np.random.RandomState | None
_MIN_PATIENTS, _MIN_PER_CLASS, _MIN_SIZE = 10, 4, 32
_COLUMNS = ("path", "label", "target", "split", "patient", "subtype", "width", "height", "mode")
_ILL = ("bacteria", "virus")
_SPLITS = ("train", "val", "train", "test", "train")
# By style. No patient of one hospital has the name of a patient of the other, or both would count as one.
_FIRST_PATIENT = {"A": 1, "B": 5001}


@checks_types
def make_radiographs(
    n_patients: int = 200,
    *,
    size: int = 224,
    style: str = "A",
    prevalence: float = 0.5,
    random_state: RandomState = None,
) -> tuple[NDArray[np.uint8], pd.DataFrame]:
    """Draw frontal chest radiographs of healthy patients and of patients with pneumonia.

    Those who are ill have, in turn, a bacterial pneumonia (one focal, lobar opacity) or a viral one (several fainter
    opacities in both lung fields). A patient has one to four images, all in one split.

    The two styles are two hospitals. Bodies and disease are drawn alike; B has another exposure, in which lungs are
    greyer, coarser noise, a collimated border and a side marker. Many models trained on A still rank the images of B,
    but call too many of them pneumonia at the threshold of A, as happens with real models that are moved.

    Parameters
    ----------
    n_patients : int, default=200
        Number of patients, at least 10. There are about twice as many images.
    size : int, default=224
        Width and height of the images in pixels, at least 32.
    style : {"A", "B"}, default="A"
        The hospital. Its patients have numbers of their own, from 1 in A and from 5001 in B.
    prevalence : float, default=0.5
        Share of the patients who have pneumonia, between 0 and 1. They are spread evenly over the patients.
    random_state : int, RandomState instance or None, default=None
        Pass an int for the same pixels and the same frame in every call. The pixels of a patient do not depend on
        `n_patients`, but the splits may.

    Returns
    -------
    images : ndarray of shape (n_images, size, size), dtype uint8
        Grey values, 0 is black; air is dark and bone is bright.
    frame : DataFrame of n_images rows
        Columns path, label, target, split, patient, subtype, width, height and mode, as read from an image folder.
        Paths are relative, in the layout and naming of the Kaggle chest X-ray set.

    Raises
    ------
    ValueError
        If `n_patients` or `size` is too small, `style` is unknown, or `prevalence` leaves fewer than four patients in
        a class.

    Examples
    --------
    >>> images, frame = make_radiographs(10, size=64, random_state=0)
    >>> images.shape == (len(frame), 64, 64), frame["patient"].nunique()
    (True, 10)
    """
    if n_patients < _MIN_PATIENTS:
        raise InputError(f"n_patients={n_patients} cannot fill train, val and test; ask for at least {_MIN_PATIENTS}.")
    if size < _MIN_SIZE:
        raise InputError(f"size={size} pixels is too small to draw a thorax; ask for at least {_MIN_SIZE}.")
    if style not in _FIRST_PATIENT:
        raise InputError(f"style={style!r} must be one of {tuple(_FIRST_PATIENT)}")
    kinds = _kinds(n_patients, prevalence)
    root = np.random.SeedSequence(int(check_random_state(random_state).randint(2**31 - 1)))
    images = [
        draw_patient(kind, size, style, np.random.default_rng(seed))
        for kind, seed in zip(kinds, root.spawn(n_patients), strict=True)
    ]
    rng = np.random.default_rng(root)
    return np.concatenate(images), _describe(kinds, [len(i) for i in images], size, _FIRST_PATIENT[style], rng)


@checks_types
def write_radiographs(
    directory: str | Path,
    n_patients: int = 200,
    *,
    size: int = 224,
    style: str = "A",
    prevalence: float = 0.5,
    random_state: RandomState = None,
) -> pd.DataFrame:
    """Write synthetic radiographs as 8-bit grey JPEG files, in the folders of the Kaggle chest X-ray set.

    A text file in `directory` says that the images were drawn: reports and models made of them say so, too.

    Parameters
    ----------
    directory : str or Path
        For the folders ``train``, ``val`` and ``test``; created if missing. Radiographs that were drawn there before
        are replaced if they have the same name.
    n_patients, size, style, prevalence, random_state
        As in :func:`make_radiographs`.

    Returns
    -------
    frame : DataFrame of n_images rows
        The frame of :func:`make_radiographs`, with absolute paths.

    Raises
    ------
    ValueError
        As for :func:`make_radiographs`, or if `directory` cannot be a folder; nothing is written then.
    DataError
        If `directory` holds images that were not drawn, in folders of these names.
    """
    folder = folder_to_write(directory).absolute()
    images, frame = make_radiographs(
        n_patients, size=size, style=style, prevalence=prevalence, random_state=random_state
    )
    if not (folder / DRAWN).is_file() and (there := [name for name in SPLIT_NAMES if (folder / name).exists()]):
        raise DataError(f"{folder / there[0]} exists and was not drawn by this program; choose another folder")
    mark_drawn(folder)
    frame["path"] = [str(folder / path) for path in frame["path"]]
    for image, path in zip(images, frame["path"], strict=True):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).unlink(missing_ok=True)  # it may be a link, whose target must not be overwritten
        Image.fromarray(image).save(path, quality=95)
    return frame


def _kinds(n_patients: int, prevalence: float) -> list[str | None]:
    """Return the subtype of each patient, None if healthy; those of the first do not depend on how many follow."""
    if not 0 < prevalence < 1:
        raise InputError(f"prevalence={prevalence} must be above 0 and below 1")
    # Rounded, because .29 * 100 is a little less than 29.
    n_ill = np.floor(np.round(np.arange(n_patients + 1) * prevalence, 9)).astype(int)
    if (fewest := min(n_ill[-1], n_patients - n_ill[-1])) < _MIN_PER_CLASS:
        raise InputError(
            f"prevalence={prevalence} of {n_patients} patients leaves {fewest} in one class, which cannot fill train, "
            f"val and test; at least {_MIN_PER_CLASS} are needed"
        )
    is_ill = np.diff(n_ill) == 1
    return [_ILL[(before % len(_ILL))] if ill else None for ill, before in zip(is_ill, n_ill[:-1], strict=True)]


def _describe(
    subtypes: list[str | None], n_images: list[int], size: int, first: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Name the images as in the Kaggle set, and assign every patient to one split."""
    # Counted per etiology: person1_bacteria and person1_virus are two patients, as in the original.
    n_seen, n_named, rows = Counter[str | None](), Counter[str | None](), []
    for subtype, split, n in zip(subtypes, _split(subtypes, rng), n_images, strict=True):
        number = first + n_seen[subtype]
        n_seen[subtype] += 1
        label = "pneumonia" if subtype else "normal"
        patient = f"{subtype}-{number}" if subtype else f"IM-{number:04d}"
        for nth in range(1, n + 1):
            n_named[subtype] += 1
            name = f"person{number}_{subtype}_{n_named[subtype]}" if subtype else f"{patient}-{nth:04d}"
            path = f"{split}/{label.upper()}/{name}.jpeg"
            rows.append((path, label, int(label == "pneumonia"), split, patient, subtype, size, size, "L"))
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def _split(subtypes: list[str | None], rng: np.random.Generator) -> list[str]:
    """Assign the patients of each class, subtype by subtype in random order, to the splits in turn."""
    splits, n_dealt = [""] * len(subtypes), Counter[bool]()
    for i in sorted(rng.permutation(len(subtypes)).tolist(), key=lambda i: subtypes[i] or ""):
        is_ill = subtypes[i] is not None
        splits[i] = _SPLITS[n_dealt[is_ill] % len(_SPLITS)]
        n_dealt[is_ill] += 1
    return splits
