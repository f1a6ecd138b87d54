"""The public set of children's chest X-rays, fetched from Kaggle."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any

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
_one_at_a_time = Lock()
_TIMEOUT = (10, 60)  # seconds to connect, and between two pieces of an answer


def fetch_chest_xray(directory: str | os.PathLike[str] | None = None) -> Path:
    """Download the Kaggle set of 5,856 chest X-rays, unless it is there already, and return its folder.

    No login is needed. A download that broke off or was stopped is taken up where it ended. The archive has 2.3 GB and
    is removed after it has been unpacked; until then about 5 GB of disk are used. While it runs, what other threads
    print is lost, and their web requests have a time limit.

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
        If kagglehub is not installed, or the set cannot be downloaded or unpacked.
    DataError
        If the folder does not hold 5,856 images.
    OSError
        If `directory` cannot be written to.

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
    folder = Path(directory) / "chest_xray"
    if folder.exists():
        return _complete(folder, folder)
    # kagglehub's own `output_dir` refuses a folder that holds the first part of a download, or else empties it. So
    # there is a cache inside the folder, also where Kaggle and Colab have the set mounted elsewhere.
    cache = Path(directory) / ".kagglehub"
    copy = _download({"KAGGLEHUB_CACHE": str(cache), "DISABLE_KAGGLE_CACHE": "1", "DISABLE_COLAB_CACHE": "1"})
    _complete(copy / "chest_xray", cache).rename(folder)
    shutil.rmtree(cache)
    return folder


def _complete(folder: Path, leftover: Path) -> Path:
    """Return the folder if all images are there; else say what to remove before the next try."""
    try:
        n = len(load_folder(folder, sizes=False))
    except DataError:  # it is no folder, or holds none
        n = 0
    if n != N_IMAGES:
        raise DataError(
            f"{folder} holds {counted(n, 'image')}, not {N_IMAGES:,}; choose another folder, or remove {leftover} "
            "if it is no longer wanted, and fetch the set again"
        )
    return folder


def _download(settings: dict[str, str]) -> Path:
    """Return kagglehub's copy of the set, downloaded if it must be."""
    try:
        import kagglehub.cache
        import kagglehub.handle
    except ImportError as error:
        raise DataUnavailableError(
            "fetching from Kaggle needs kagglehub; run pip install 'cxr-sklearn[kaggle]'"
        ) from error
    # All three change the process for as long as the download takes.
    with _one_at_a_time, _environment(settings), _bounded_requests(), _quiet():
        try:
            return Path(kagglehub.dataset_download(HANDLE))
        except OSError as error:  # the network or the disk
            raise _unavailable(f"{_reason(error)}; call again to go on where it stopped") from error
        except Exception as error:  # bare Exception is among what kagglehub raises
            # kagglehub would unpack a damaged archive again and again, without ever downloading another one.
            archive = Path(kagglehub.cache.get_cached_archive_path(kagglehub.handle.parse_dataset_handle(HANDLE)))
            archive.unlink(missing_ok=True)
            raise _unavailable(
                f"{_one_line(error)}; nothing is kept of this download, call again to start anew"
            ) from error


def _unavailable(reason: str) -> DataUnavailableError:
    return DataUnavailableError(
        f"the set could not be fetched from Kaggle: {reason}, or download the zip at {PAGE}, unpack it and give its "
        f"folder chest_xray to the commands"
    )


def _reason(error: OSError) -> str:
    import requests

    if isinstance(error, requests.RequestException):
        if error.response is not None:
            return f"the server answered with status {error.response.status_code}"
        return f"the connection failed ({type(error).__name__})"
    if error.errno == errno.ENOSPC:
        return "the disk is full, and about 5 GB are needed"
    return _one_line(error)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Set environment variables, which is how kagglehub is told of another cache."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def _bounded_requests() -> Iterator[None]:
    """Give each request without a timeout one, and close its answer.

    kagglehub does neither: it waits for a dead network for ever, and leaves connections open when it fails or resumes.
    """
    import requests.adapters

    adapter: Any = requests.adapters.HTTPAdapter
    send = adapter.send
    with contextlib.ExitStack() as answers:

        def bounded(self: Any, request: Any, **options: Any) -> Any:
            options["timeout"] = options.get("timeout") or _TIMEOUT
            return answers.enter_context(contextlib.closing(send(self, request, **options)))

        adapter.send = bounded
        try:
            yield
        finally:
            adapter.send = send


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep kagglehub's log and advice off stdout, and its progress bar off a stderr that is no terminal."""
    logger = logging.getLogger("kagglehub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    progress = sys.stderr if sys.stderr.isatty() else io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(progress):
            yield
    finally:
        logger.setLevel(level)
