"""ExportedModel: a model in one ONNX file, which starts without scikit-learn, pandas and Keras."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from threading import Timer
from typing import Any, Self

import numpy as np

from .._io import open_regular, public, user_path, user_path_text
from .._onnxruntime import import_onnxruntime, memory_limit, start_session
from .._progress import progress_bar
from ..exceptions import BackendError, ImageReadError, InputError, ModelError
from ..images._decoding import Decoding, in_chunks, reason_of
from ..images._pixels import check_pixels

#: Counts up when an earlier version could not read what is written now.
FORMAT = 1
#: Protocol buffers, which ONNX files are, cannot be larger.
MAX_BYTES = 2**31 - 1
#: The metadata property that holds ours.
PROPERTY = b"cxr_sklearn"
SUFFIX = ".onnx"
#: What stands for the digest while the rest of the file is hashed.
NO_DIGEST = "0" * 64
NO_DOMAIN = (
    "An exported model cannot tell whether an image is like those that it was trained on; for any other image its "
    "score means nothing."
)
#: Images that are computed at once, and their pixels: with so many, VGG16 takes 2 GB.
_CHUNK, _PIXELS = 32, 2_000_000
#: Images that take longer are given up: a crafted network could run for ever.
_SECONDS = 300
_CLASSES = ("normal", "pneumonia")
_MAX_REASON = 300
#: Numbers of fields of ONNX' ModelProto and StringStringEntryProto.
_METADATA_PROPS, _KEY, _VALUE = 14, 1, 2
#: The messages that can hold other messages, by the numbers of their fields, beginning with ModelProto.
_INSIDE = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
}
#: Fields that no exported model has.
_FOREIGN = {
    ("model", 20): "steps of a training",
    ("model", 25): "functions of its own",
    ("tensor", 13): "weights in another file",
}
_DOMAIN, _DOMAINS = ("node", 7), (b"", b"ai.onnx", b"ai.onnx.ml")
#: A Loop could run for ever, and one with an empty number of turns ends the process.
_OPERATOR, _NO_OPERATORS = ("node", 4), (b"Loop", b"If")


@public
class ExportedModel:
    """A model that was exported to ONNX, with its threshold, run by ONNX Runtime.

    It scores and decides like the :class:`CXRModel` that it was made from, but starts in a fraction of a second,
    because neither scikit-learn nor Keras is imported. It cannot be fitted, adapted or explained, and does not tell
    whether an image is like those that it was trained on. Needs ``pip install 'cxr-sklearn[onnx]'``.

    :meth:`load` reads one.

    Attributes
    ----------
    threshold : float
        An image is called pneumonia if its score reaches it.
    classes_ : ndarray of shape (2,)
        0 and 1, with the names `class_names`.
    class_names : tuple of str
        The second class is the positive one.
    metadata : dict
        What the file says of itself: "size", "crop" and "fit" of the images, "precision", "versions", "model_card"
        and so on.

    See Also
    --------
    load_model : Reads models of every kind, but is slower to import.

    Examples
    --------
    >>> from cxr_sklearn import ExportedModel
    >>> ExportedModel.load("model.onnx").predict(["1.png"])  # doctest: +SKIP
    array([1])
    """

    class_names = _CLASSES
    #: It has no detector of images unlike those that it was trained on.
    domain = None

    def __init__(self, session: Any, metadata: dict[str, Any]) -> None:
        self._session = session
        self._process = os.getpid()
        self.metadata = metadata
        height, width = metadata["size"]
        self.decoding = Decoding(height, width, metadata["fit"], float(metadata["crop"]))

    @property
    def threshold(self) -> float:
        """The threshold that the file decides at."""
        return float(self.metadata["threshold"])

    @property
    def classes_(self) -> np.ndarray:
        """The classes, 0 and 1."""
        return np.array([0, 1])

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a model from a file that ``cxr-sklearn export`` wrote.

        Nothing in the file is run except ONNX' own operators, and it cannot make other files be read.

        Parameters
        ----------
        path : path
            Ends in ``.onnx`` as a rule.

        Returns
        -------
        ExportedModel

        Raises
        ------
        ModelError
            If the file is not such a model, is damaged, was written by a later version, or cannot be run.
        BackendError
            If ONNX Runtime is not installed.
        OSError
            If the file cannot be read.
        """
        source = user_path(path)
        try:
            with open_regular(source, MAX_BYTES) as file:
                content = file.read()
        except OSError as error:
            if error.errno is not None:
                raise
            raise ModelError(f"{source} cannot be a model: {error}") from error
        metadata = _metadata(content, source)
        check_operators(content, source)
        try:
            session = start_session(content, is_limited=True)
            _check_ends(session, metadata["size"], source)
        except (BackendError, ModelError):
            raise
        except Exception as error:  # ONNX Runtime's errors have no class in common
            raise ModelError(f"{source} cannot be run by ONNX Runtime: {_one_line(error)}") from error
        return cls(session, metadata)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities of normal and pneumonia, shape (n, 2) and dtype float64.

        Parameters
        ----------
        X : array-like of n paths, or images as an array of shape (n, H, W[, C]) and dtype uint8
            An element of type ``bytes`` is the content of a file rather than its path.

        Raises
        ------
        ImageReadError
            If images cannot be read; the error lists every one.
        ModelError
            If the model fails on an image.
        ValueError
            If `X` holds anything else.
        """
        scores, _ = self.scores_and_decisions(X)
        return np.column_stack([1 - scores, scores])

    def predict(self, X: Any) -> np.ndarray:
        """Return the class of each image at the threshold, shape (n,) and dtype int64.

        Parameters
        ----------
        X : array-like of n paths, or images
            As for :meth:`predict_proba`.

        Raises
        ------
        ModelError
            If the model gives an image no score; :meth:`predict_files` decides on the others then.
        ImageReadError, ValueError
            As by :meth:`predict_proba`.
        """
        scores, decisions = self.scores_and_decisions(X)
        if n_missing := np.count_nonzero(~np.isfinite(scores)):
            raise ModelError(f"the model gives {n_missing} of {len(scores)} images no score")
        return decisions

    def scores_and_decisions(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the scores of images, float64, and the classes decided for, int64, both of shape (n,).

        Parameters
        ----------
        X : array-like of n paths, or images
            As for :meth:`predict_proba`.

        Raises
        ------
        ImageReadError, ModelError, ValueError
            As by :meth:`predict_proba`.
        """
        sources = _sources(X)
        answers = [answer for chunk in self._answers(sources) for answer in chunk]
        failures = {_name(sources, i): error for i, (_, _, error) in enumerate(answers) if error is not None}
        if failures:
            raise ImageReadError(failures, len(answers))
        scores = np.array([score for score, _, _ in answers], dtype=np.float64)
        return scores, np.array([decision for _, decision, _ in answers], dtype=np.int64)

    def predict_files(
        self, paths: Iterable[str | os.PathLike[str] | bytes], *, verbose: int = 0
    ) -> list[dict[str, Any]]:
        """Score images one by one, as :func:`predict` does; those that cannot be read do not stop the others.

        Parameters
        ----------
        paths : iterable of n paths
            An element of type ``bytes`` is the content of a file rather than its path.
        verbose : int, default=0
            1 shows a progress bar.

        Returns
        -------
        list of n dict
            "path"; "score", the probability of pneumonia; "decision", "pneumonia" or "normal"; "threshold"; "domain",
            always None; "error", why there is neither score nor decision, or None.

        Raises
        ------
        ModelError
            If the model fails on an image.
        ValueError
            If `paths` holds anything else, or nothing.
        """
        sources = _sources(paths if isinstance(paths, str | os.PathLike) else list(paths))
        if isinstance(sources, np.ndarray) or not sources:
            raise InputError("paths must be a list of paths" if len(sources) else "there are no images to score")
        rows: list[dict[str, Any]] = []
        with progress_bar("Scoring images", len(sources), show=bool(verbose)) as advance:
            for chunk in self._answers(sources):
                for score, decision, error in chunk:
                    if error is None and not math.isfinite(score):
                        error = "the model gives it no score"
                    rows.append(
                        {
                            "path": _name(sources, len(rows)),
                            "score": score if error is None else None,
                            "decision": _CLASSES[decision] if error is None else None,
                            "threshold": self.threshold,
                            "domain": None,
                            "error": error,
                        }
                    )
                advance(len(chunk))
        return rows

    def __repr__(self) -> str:
        return f"ExportedModel(threshold={self.threshold:g}, precision={self.metadata.get('precision')!r})"

    def _answers(self, sources: Sequence[Any] | np.ndarray) -> Iterator[list[tuple[float, int, str | None]]]:
        """Yield score, decision and reason of the images of each chunk; who has a reason has no score."""
        n = max(min(_CHUNK, _PIXELS // (self.decoding.height * self.decoding.width)), 1)
        for chunk in in_chunks(lambda i: self._pixels(sources[i]), len(sources), n):
            read = [pixels for pixels in chunk if isinstance(pixels, np.ndarray)]
            scored = iter(self._run(np.stack(read)) if read else ())
            yield [
                (*next(scored), None) if isinstance(pixels, np.ndarray) else (math.nan, 0, pixels) for pixels in chunk
            ]

    def _pixels(self, source: str | bytes | np.ndarray) -> np.ndarray | str:
        """Return the pixels of an image as the model takes them, or why it cannot be read."""
        try:
            if isinstance(source, str):
                with open_regular(source) as file:
                    source = file.read()
            return self.decoding(source)
        except Exception as error:  # noqa: BLE001 - there is no telling what bytes make a codec raise
            return reason_of(error)

    def _run(self, images: np.ndarray) -> list[tuple[float, int]]:
        if os.getpid() != self._process:  # a fork copies no threads, so the session would wait for them forever
            raise BackendError("an ExportedModel cannot be used in a process that was forked; load it again there")
        options = import_onnxruntime().RunOptions()
        timer = Timer(_SECONDS, setattr, (options, "terminate", True))
        timer.start()
        try:
            scores, decisions = self._session.run(["score", "decision"], {"images": images}, options)
        except Exception as error:  # ONNX Runtime's errors have no class in common
            if options.terminate:
                raise ModelError(
                    f"the exported model takes more than {_SECONDS:g} s for {len(images)} images"
                ) from error
            raise ModelError(f"the exported model fails on an image: {_one_line(error)}") from error
        finally:
            timer.cancel()
        if scores.shape != (len(images),) or decisions.shape != (len(images),):
            raise ModelError(f"the exported model gives {len(images)} images outputs of shape {scores.shape}")
        if not np.isin(decisions, (0, 1)).all():
            raise ModelError("the exported model decides for something other than 0 (normal) and 1 (pneumonia)")
        return list(zip(scores.astype(np.float64).tolist(), decisions.tolist(), strict=True))


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Whether a model is an exported one, by the ending of its file."""
    return Path(path).suffix.lower() == SUFFIX


def _sources(X: Any) -> list[str | bytes] | np.ndarray:
    """Return images as a list of paths and contents of files, or as an array of pixels."""
    if isinstance(X, str | bytes | os.PathLike):
        raise InputError("expected a list of paths, but got a single one")
    if getattr(X, "_decoding", None) is not None:
        raise InputError("expected one path per image, but got an ImageBatch: these images are loaded already")
    if isinstance(X, list | tuple) and all(isinstance(path, str | os.PathLike | bytes) for path in X):
        return [path if isinstance(path, bytes) else user_path_text(path) for path in X]
    values = np.asarray(X)  # of a Series or a DataFrame, too
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 1 and all(isinstance(path, str | os.PathLike | bytes) for path in values):
        return _sources(values.tolist())
    if values.dtype == np.uint8 and (values.ndim == 3 or (values.ndim == 4 and values.shape[3] in (1, 3))):
        return values
    raise InputError(
        "expected one path per image, or images as an array of dtype uint8 and shape (n, H, W[, 1 or 3]), but got "
        f"shape {values.shape} and dtype {values.dtype}"
    )


def _name(sources: Sequence[Any] | np.ndarray, i: int) -> str:
    return sources[i] if isinstance(sources[i], str) else f"image {i}"


def _one_line(error: Exception) -> str:
    if "Available memory of" in str(error):
        return f"it takes more than {memory_limit() / 1e9:.1f} GB of memory"
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(str(error).split()))
    text = "".join(c if c.isprintable() else "?" for c in text)
    return f"{text[:_MAX_REASON]}..." if len(text) > _MAX_REASON else text


def _fields(content: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of each field of a protocol buffer that holds text, bytes or a message.

    Raises
    ------
    ValueError
        If it is not one.
    """
    while at < end:
        tag, at = _varint(content, at)
        tag &= 2**32 - 1  # as protocol buffers do
        size = {1: 8, 5: 4}.get(tag & 7, 0)
        if tag & 7 == 0:
            _, at = _varint(content, at)
        elif tag & 7 == 2:
            size, at = _varint(content, at)
            yield tag >> 3, at, min(at + size, end)
        elif not size:
            raise ValueError(f"there is no type {tag & 7} of fields")
        at += size
    if at != end:
        raise ValueError("it is cut short")


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """Return a number of a protocol buffer, and where it ends."""
    value = 0
    for i, byte in enumerate(content[at : at + 10]):
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, at + i + 1
    raise ValueError("a number does not end")


def metadata_of(content: bytes) -> tuple[dict[str, Any], int, int]:
    """Return our metadata in an ONNX file, unchecked, and where they begin and end.

    They are read from the bytes, because ONNX Runtime is to see no file that is not whole.

    Raises
    ------
    ValueError
        If there are none, or more than one.
    """
    try:
        found = []
        for number, start, end in _fields(content, 0, len(content)):
            if number == _METADATA_PROPS:
                entry = {part: (first, last) for part, first, last in _fields(content, start, end)}
                if content[slice(*entry.get(_KEY, (0, 0)))] == PROPERTY:
                    found.append(entry[_VALUE])
        ((start, end),) = found
        metadata = json.loads(content[start:end])
    except (KeyError, RecursionError) as error:
        raise ValueError("its metadata cannot be read") from error
    if not isinstance(metadata, dict):
        raise ValueError("its metadata are not an object")
    return metadata, start, end


def _metadata(content: bytes, path: Path) -> dict[str, Any]:
    """Return our metadata, once the digest in them is found to be that of the file."""
    stranger = f"{path} is not a model that cxr_sklearn exported"
    try:
        metadata, start, end = metadata_of(content)
        number, digest = metadata["format"], metadata["sha256"]
    except (ValueError, KeyError) as error:
        raise ModelError(f"{stranger}, or is damaged; if you exported it, do that again") from error
    if type(number) is int and number > FORMAT:
        raise ModelError(f"{path} was written by a later version of cxr_sklearn (format {number}); install that")
    if number != FORMAT or not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise ModelError(f"{stranger}: its metadata are not complete")
    at = content.find(digest.encode(), start, end)
    view = memoryview(content)
    whole = sha256(view[:at])
    whole.update(NO_DIGEST.encode())
    whole.update(view[at + len(digest) :])
    if at < 0 or whole.hexdigest() != digest:
        raise ModelError(f"{path} is damaged: its content has changed since it was exported; get it again")
    if reason := _wrong(metadata):
        raise ModelError(f"{stranger}: {reason}")
    return dict(metadata)


def _wrong(metadata: dict[str, Any]) -> str | None:
    """Say what is wrong with the metadata, if anything."""
    size, crop, threshold = (metadata.get(name) for name in ("size", "crop", "threshold"))
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        return f"size={size!r} must be height and width"
    try:
        check_pixels(*size)
    except ValueError as error:
        return f"it takes images of {error}"
    if metadata.get("fit") not in ("stretch", "pad", "crop"):
        return f"fit={metadata.get('fit')!r} must be 'stretch', 'pad' or 'crop'"
    if not isinstance(crop, int | float) or isinstance(crop, bool) or not 0 < crop <= 1:
        return f"crop={crop!r} must be above 0 and at most 1"
    if not isinstance(threshold, int | float) or isinstance(threshold, bool) or not 0 <= threshold < 1e300:
        return f"threshold={threshold!r} must be a finite number of at least 0"
    if metadata.get("classes") != list(_CLASSES):
        return f"classes={metadata.get('classes')!r} must be {list(_CLASSES)}"
    return None


def check_operators(content: bytes, path: Path) -> None:
    """Refuse what no exported model has: loops, operators that are not ONNX' own, and weights in other files.

    Raises
    ------
    ModelError
        If there is any. Such weights could be any file of this machine.
    """
    try:
        found = _foreign(content, "model", 0, len(content))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is damaged: its network cannot be read; export it again") from error
    if found:
        raise ModelError(f"{path} has {found}, which is not allowed; export it again")


def _foreign(content: bytes, kind: str, start: int, end: int) -> str | None:
    """Return what a message has that no exported model has, if anything."""
    for number, first, last in _fields(content, start, end):
        found = _FOREIGN.get((kind, number))
        if (kind, number) == _DOMAIN and content[first:last] not in _DOMAINS:
            found = "operators that are not ONNX' own"
        if (kind, number) == _OPERATOR and content[first:last] in _NO_OPERATORS:
            found = "loops or branches"
        if inner := _INSIDE.get(kind, {}).get(number):
            found = _foreign(content, inner, first, last)
        if found:
            return found
    return None


def _check_ends(session: Any, size: list[int], path: Path) -> None:
    """Refuse a network that takes or gives something other than an exported model does."""
    taken, given = session.get_inputs(), {output.name: output.type for output in session.get_outputs()}
    takes_images = [(end.name, end.type, list(end.shape[1:])) for end in taken] == [("images", "tensor(uint8)", size)]
    if not takes_images or isinstance(taken[0].shape[0], int):
        raise ModelError(f"{path} is not a model that cxr_sklearn exported: it does not take images alone")
    if given not in ({"score": f"tensor({kind})", "decision": "tensor(int64)"} for kind in ("float", "double")):
        raise ModelError(f"{path} is not a model that cxr_sklearn exported: it does not give score and decision")
