"""The public set of children's chest X-rays, fetched from Kaggle."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from .._io import user_path
from .._progress import stderr_is_a_terminal
from .._validation import checks_types
from ..exceptions import DataError, DataUnavailableError
from ._frame import counted
from .folder import load_folder

HANDLE = "paultimothymooney/chest-xray-pneumonia/versions/2"
PAGE = "https://www.kaggle.com/datasets/paultimothymooney/chest-xray-pneumonia"
N_IMAGES = 5856
NOTICE = """\
Chest X-rays of children aged one to five, under CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/). Please cite:
- Kermany, Goldbaum, Cai et al. (2018). Identifying medical diagnoses and treatable diseases by image-based deep \
learning. Cell 172(5), 1122-1131. https://doi.org/10.1016/j.cell.2018.02.010
- Kermany, Zhang, Goldbaum (2018). Labeled optical coherence tomography (OCT) and chest X-ray images for \
classification. Mendeley Data. https://doi.org/10.17632/rscbjbr9sj"""
#: kagglehub takes its folder from the environment, logs to stdout and draws its progress bar on any stderr. It gets a
#: process of its own, so that it does not disturb this one. Its advice to upgrade may not end with a line break.
_SCRIPT = """\
import sys
try:
    import kagglehub
    print("\\n" + kagglehub.dataset_download(sys.argv[1]))
except BaseException as error:
    print("\\n" + type(error).__name__ + ": " + " ".join(str(error).split()))
    sys.exit(1)
"""


@checks_types
def fetch_chest_xray(directory: str | os.PathLike[str] | None = None) -> Path:
    """Download the Kaggle set of 5,856 chest X-rays, unless it is there already, and return its folder.

    No login is needed. An interrupted download resumes in the next call; interrupt one that stalls, since
    kagglehub has no time limit. The archive has 2.3 GB and is removed after it has been unpacked; until then about 5 GB
    of disk are used.

    Parameters
    ----------
    directory : path, optional
        Where to put the folder ``chest_xray``; None is the cache of kagglehub.

    Returns
    -------
    Path
        The folder to give to :func:`load_folder`.

    Raises
    ------
    DataUnavailableError
        If kagglehub is not installed, or the set cannot be downloaded, unpacked or written to `directory`.
    DataError
        If the folder does not hold 5,856 images.

    References
    ----------
    Kermany, Goldbaum, Cai et al. (2018). Identifying medical diagnoses and treatable diseases by image-based deep
    learning. Cell 172(5), 1122-1131. https://doi.org/10.1016/j.cell.2018.02.010

    Kermany, Zhang, Goldbaum (2018). Labeled optical coherence tomography (OCT) and chest X-ray images for
    classification. Mendeley Data. https://doi.org/10.17632/rscbjbr9sj

    Examples
    --------
    >>> frame = load_folder(fetch_chest_xray())  # doctest: +SKIP
    """
    if directory is None:
        copy = _download({})
        return _complete(copy / "chest_xray", copy)
    folder = user_path(directory) / "chest_xray"
    if folder.exists():
        return _complete(folder, folder)
    # kagglehub's own `output_dir` cannot resume a download. So the folder gets a cache of its own, even where Kaggle or
    # Colab have mounted the set elsewhere.
    cache = user_path(directory).absolute() / ".kagglehub"
    copy = _download({"KAGGLEHUB_CACHE": str(cache), "DISABLE_KAGGLE_CACHE": "1", "DISABLE_COLAB_CACHE": "1"})
    _complete(copy / "chest_xray", cache).rename(folder)
    shutil.rmtree(cache)
    return folder


def _complete(folder: Path, leftover: Path) -> Path:
    """Return the folder if all images are there; otherwise say what to remove before the next attempt."""
    try:
        n = len(load_folder(folder, sizes=False))
    except DataError:  # not a folder, or without images
        n = 0
    if n != N_IMAGES:
        raise DataError(
            f"{folder} holds {counted(n, 'image')}, not {N_IMAGES:,}; choose another folder, or remove {leftover} "
            "if it is no longer wanted, and fetch the set again"
        )
    return folder


def _download(settings: dict[str, str]) -> Path:
    """Return the folder of kagglehub's copy of the set, after downloading it if need be."""
    if importlib.util.find_spec("kagglehub") is None:
        raise DataUnavailableError("fetching from Kaggle needs kagglehub; run pip install 'cxr-sklearn[kaggle]'")
    done = subprocess.run(
        [sys.executable, "-P", "-c", _SCRIPT, HANDLE],
        env={**os.environ, "KAGGLEHUB_VERBOSITY": "critical", **settings},
        stdout=subprocess.PIPE,
        stderr=None if stderr_is_a_terminal() else subprocess.DEVNULL,  # the progress bar
        text=True,
        check=False,
    )
    last_line = done.stdout.strip().rpartition("\n")[2]
    if done.returncode:
        raise DataUnavailableError(
            f"the set could not be fetched from Kaggle: {last_line or f'exit status {done.returncode}'}; call again to "
            f"resume it, or download the zip at {PAGE}, unpack it and give its folder chest_xray to the commands"
        )
    return Path(last_line)
