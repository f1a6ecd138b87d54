"""ImageBatch: a lazy, immutable sequence of radiographs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral
from typing import Any, Self, overload
from uuid import uuid4

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.utils import Tags
from sklearn.utils._set_output import _get_output_config

from .._io import open_regular, public
from ..exceptions import ImageReadError, InputError
from ._decoding import DECODER, ChangeError, Decoding, in_chunks, reason_of, size_and_mode
from ._digests import hash_files
from ._pixels import grey_array

#: From paths to the SHA-256 of each file, or the error from reading it.
Digests = Callable[[Sequence[str]], list[bytes | OSError]]
#: From grey pixels ``uint8 (H, W)`` and 32 bytes that seed any draw to changed pixels of the same shape. Its ``repr``
#: is part of content keys, so it must describe the operation completely.
Operation = Callable[[np.ndarray, bytes], np.ndarray]


@public
class ImageBatch(Sequence[np.ndarray]):
    """An immutable, lazy sequence of n images: nothing is decoded until pixels are needed.

    Slices, masks and index arrays give an ImageBatch; an integer gives one decoded image, ``uint8 (H, W, 3)``;
    ``numpy.asarray(batch)`` decodes all of them, ``uint8 (n, H, W, 3)``. The three channels are equal: radiographs
    are grey, and a colour cast must not tell a model where a file came from.

    Parameters
    ----------
    sources : ndarray
        Either paths and contents of files (``bytes``), shape (n,) and dtype object, or pixels, shape
        (n, H, W[, 1 or 3]) and dtype uint8.
    decoding : Decoding or None
        How a source becomes pixels of one size; None keeps in-memory pixels as they are.

    Attributes
    ----------
    source_index : pandas.Index or None
        That of the Series or DataFrame of paths, so that tables of features can keep it.

    Notes
    -----
    Batches are made by :class:`ImageLoader`. Everything that accepts a batch also accepts an array of pixels.
    """

    def __init__(self, sources: np.ndarray, decoding: Decoding | None = None) -> None:
        self._sources = sources.view()
        self._sources.flags.writeable = False
        self._positions = np.arange(len(sources))
        self._decoding = decoding
        self._augmentations: tuple[tuple[Operation, np.ndarray], ...] = ()
        self._digests: np.ndarray | None = None
        self._grey: np.ndarray | None = None
        self._headers: dict[int, tuple[int, int, str]] | None = None  # by position
        self.source_index: pd.Index | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the decoded batch, (n, H, W, 3)."""
        height, width = (self._decoding.height, self._decoding.width) if self._decoding else self._sources.shape[1:3]
        return len(self), height, width, 3

    @property
    def keys(self) -> list[bytes]:
        """One content key of 32 bytes per image; equal keys mean equal pixels.

        A key depends on the file's bytes and on all operations on them (size, crop, augmentation).

        Raises
        ------
        ImageReadError
            If a file cannot be read; the error lists every such file.
        """
        keys, failures = self.content_keys()
        if failures:
            raise ImageReadError(failures, len(self))
        return [key for key in keys if key is not None]

    def pinned(self, digests: Digests) -> Self:
        """Record the present digest of each file; decoding raises an error if the file has changed since."""
        if self._digests is not None:
            return self
        batch = self[:]
        batch._digests = np.empty(len(self), dtype=object)
        batch._digests[:] = self._source_digests(digests)
        return batch

    def content_keys(self) -> tuple[list[bytes | None], dict[str, str]]:
        """Return the keys, None where a file cannot be read, and the reason for each of those by path."""
        failures: dict[str, str] = {}
        keys: list[bytes | None] = []
        operations = f"{DECODER} {self._decoding!r}".encode()
        for i, digest in enumerate(self._source_digests(hash_files) if self._digests is None else self._digests):
            if isinstance(digest, OSError):
                failures[self.name(i)] = reason_of(digest)
                keys.append(None)
                continue
            key = hashlib.sha256(digest + operations).digest()
            for operation, views in self._augmentations:
                if views[i]:  # view 0 is the image itself
                    key = hashlib.sha256(key + repr((operation, int(views[i]))).encode()).digest()
            keys.append(key)
        return keys, failures

    def source_digests(self) -> list[bytes | None]:
        """Return the SHA-256 of each source, None where a file cannot be read."""
        digests = self._source_digests(hash_files) if self._digests is None else self._digests
        return [digest if isinstance(digest, bytes) else None for digest in digests]

    def _source_digests(self, digests: Digests) -> Sequence[bytes | OSError]:
        if self._sources.ndim == 1:
            of_paths = iter(digests([source for source in self._sources if isinstance(source, str)]))
            return [
                next(of_paths) if isinstance(source, str) else hashlib.sha256(source).digest()
                for source in self._sources
            ]
        layout = repr(self._sources.shape[1:]).encode()
        return [hashlib.sha256(layout + pixels.tobytes()).digest() for pixels in self._sources]

    def name(self, i: int) -> str:
        """Return the path of image `i`, or without one its position in the batch that this one was taken from."""
        return self._sources[i] if isinstance(self._sources[i], str) else f"image {self._positions[i]}"

    def source_header(self, i: int) -> tuple[int, int, str]:
        """Return width, height and mode of image `i` from its file's header, without decoding pixels.

        Raises
        ------
        ImageReadError
            If the header cannot be read.
        """
        source, position = self._sources[i], int(self._positions[i])
        if self._headers is not None and position in self._headers:
            return self._headers[position]
        if isinstance(source, np.ndarray):
            return source.shape[1], source.shape[0], "RGB" if source.shape[2:] == (3,) else "L"
        try:
            return size_and_mode(self._bytes(i))
        except Exception as error:
            raise ImageReadError({self.name(i): reason_of(error)}, 1) from error

    def keeping_headers(self) -> Self:
        """Return a batch that looks at each header when it decodes the image, so that no file is read twice."""
        batch = self[:]
        batch._headers = {}
        return batch

    def augmented(self, operation: Operation, view: int | np.ndarray) -> Self:
        """Apply `operation` to each image whose `view`, an integer or one per image, is not 0."""
        batch = self[:]
        batch._augmentations += ((operation, np.broadcast_to(np.asarray(view), len(self))),)
        return batch

    def in_memory(self, advance: Callable[[int], None] = lambda steps: None) -> Self:
        """Return a batch of the same images and keys that keeps the decoded pixels, one byte each.

        Parameters
        ----------
        advance : callable
            Called with the number of images just decoded, for a progress bar.

        Raises
        ------
        ImageReadError
            If images cannot be read; the error lists every one.
        """
        plain = self[:]
        plain._augmentations = ()
        batch = self[:]
        batch._grey = plain._all_grey(advance)
        return batch

    def changed(self, change: Callable[[np.ndarray], np.ndarray]) -> Self:
        """Change every image right after it is read, before it is cropped and resized.

        Parameters
        ----------
        change : callable
            From and to grey pixels of any size, ``uint8 (H, W)``; its ``repr`` must describe it completely.

        Raises
        ------
        ValueError
            If the images were not loaded by an :class:`ImageLoader`, or are changed already.
        """
        if self._decoding is None:
            raise InputError("these images were given as pixels of one size; load them with an ImageLoader")
        if self._decoding.change is not None:
            raise InputError(f"these images are changed already, by {self._decoding.change!r}; combine both changes")
        batch = self[:]
        batch._grey = None
        batch._decoding = replace(self._decoding, change=change)
        return batch

    def decode(self, i: int) -> np.ndarray:
        """Decode image `i` to ``uint8 (H, W, 3)``.

        Raises
        ------
        ImageReadError
            If the file cannot be read.
        """
        grey = self._decoded(i) if self._grey is None else self._grey[i]
        for position, (operation, views) in enumerate(self._augmentations):
            if views[i]:
                grey = operation(grey, self._draw(i, position))
        return np.repeat(grey[:, :, np.newaxis], 3, axis=2)

    def _decoded(self, i: int) -> np.ndarray:
        """Return image `i` before any augmentation, ``uint8 (H, W)``."""
        source = self._sources[i]
        try:
            if not isinstance(source, np.ndarray):
                source = self._bytes(i)
            grey = self._decoding(source) if self._decoding else grey_array(source)
            if self._headers is not None and isinstance(source, bytes):
                self._headers[int(self._positions[i])] = size_and_mode(source)
        except ChangeError:
            raise
        except Exception as error:
            raise ImageReadError({self.name(i): reason_of(error)}, 1) from error
        return grey

    def _bytes(self, i: int) -> bytes:
        content = self._sources[i]
        if isinstance(content, str):
            with open_regular(content) as file:
                content = file.read()
        if self._digests is not None and hashlib.sha256(content).digest() != self._digests[i]:
            raise ValueError("the file changed while it was being read; run again")
        return content

    def _draw(self, i: int, position: int) -> bytes:
        """Return the seed of the operation at a position, which depends on the file, the position and the view."""
        digest = self._digests[i] if self._digests is not None else self[i : i + 1]._source_digests(hash_files)[0]
        if isinstance(digest, OSError):
            raise ImageReadError({self.name(i): reason_of(digest)}, 1) from digest
        return hashlib.sha256(digest + f"{position} {int(self._augmentations[position][1][i])}".encode()).digest()

    def decode_ahead(self, chunk_size: int) -> Iterator[list[np.ndarray | ImageReadError]]:
        """Decode in threads, two chunks ahead of the reader, so that memory never holds more than three chunks.

        Yields
        ------
        list of ndarray or ImageReadError
            One entry per image of the chunk, in order.
        """
        yield from in_chunks(self._try_decode, len(self), chunk_size)

    def failures(self) -> dict[str, str]:
        """Decode every image and return the reason for each that cannot be read, by path."""
        images = (image for chunk in self.decode_ahead(32) for image in chunk)
        return {k: v for image in images if isinstance(image, ImageReadError) for k, v in image.failures.items()}

    def _try_decode(self, i: int) -> np.ndarray | ImageReadError:
        try:
            return self.decode(i)
        except ImageReadError as error:
            return error

    def __len__(self) -> int:
        return len(self._sources)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice | ArrayLike) -> Self: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, tuple) and len(index) == 2 and index[1] is Ellipsis:
            index = index[0]  # scikit-learn indexes rows as X[rows, ...]
        if isinstance(index, Integral) and not isinstance(index, bool):
            return self.decode(range(len(self))[int(index)])
        rows = index if isinstance(index, slice) else _row_numbers(index)
        batch = type(self)(self._sources[rows], self._decoding)
        batch._positions = self._positions[rows]
        batch._augmentations = tuple((operation, views[rows]) for operation, views in self._augmentations)
        batch._digests = None if self._digests is None else self._digests[rows]
        batch._grey = None if self._grey is None else self._grey[rows]
        batch._headers = self._headers
        batch.source_index = None if self.source_index is None else self.source_index[rows]
        return batch

    def __getstate__(self) -> dict[str, Any]:
        # joblib keys what it caches, as for Pipeline(memory=...), by a hash of the pickle, and paths stay the same when
        # files are replaced. So a pickle holds the digest that each file has now; it is dropped again below.
        state = dict(vars(self))
        if self._digests is None and self._sources.ndim == 1:
            state["_present"] = [
                repr(digest) if isinstance(digest, OSError) else digest for digest in self._source_digests(hash_files)
            ]
        return state

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update({name: value for name, value in state.items() if name != "_present"})
        self._sources.flags.writeable = False

    def __contains__(self, image: object) -> bool:
        raise TypeError("images are compared by their keys: `key in batch.keys`")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("an ImageBatch is always decoded into a new array, so copy=False is not possible")
        pixels = np.repeat(self._all_grey()[..., np.newaxis], 3, axis=3)
        return pixels if dtype is None else pixels.astype(dtype)

    def _all_grey(self, advance: Callable[[int], None] = lambda steps: None) -> np.ndarray:
        if self._grey is not None and not self._augmentations:
            return self._grey
        grey = np.empty(self.shape[:3], dtype=np.uint8)
        failures: dict[str, str] = {}
        for start, chunk in zip(range(0, len(self), 32), self.decode_ahead(32), strict=True):
            for i, image in enumerate(chunk, start):
                if isinstance(image, ImageReadError):
                    failures |= image.failures
                else:
                    grey[i] = image[..., 0]
            advance(len(chunk))
        if failures:
            raise ImageReadError(failures, len(self))
        return grey

    def __repr__(self) -> str:
        n, height, width, _ = self.shape
        return f"ImageBatch(n={n}, height={height}, width={width})"


def _row_numbers(index: Any) -> np.ndarray:
    rows = np.asarray(index)
    if isinstance(index, tuple) or rows.ndim != 1:
        raise IndexError(f"an ImageBatch has one axis to index: an integer, a slice, a mask or a list, not {index!r}")
    return rows if rows.size else rows.astype(np.intp)


def as_batch(X: Any) -> ImageBatch:
    """Return `X` as an :class:`ImageBatch`.

    Parameters
    ----------
    X : ImageBatch, or array-like of shape (n, H, W) or (n, H, W, 1 or 3) and dtype uint8

    Raises
    ------
    ValueError
        If `X` is anything else.
    """
    if isinstance(X, ImageBatch):
        return X
    try:
        pixels = np.asarray(X)
    except ValueError as error:
        raise InputError("the images differ in size; load them with ImageLoader(size=...)") from error
    if pixels.ndim not in (3, 4) or (pixels.ndim == 4 and pixels.shape[3] not in (1, 3)):
        raise InputError(
            f"expected images, an ImageBatch or an array of shape (n, H, W) or (n, H, W, 1 or 3), but got shape "
            f"{pixels.shape} and dtype {pixels.dtype}; put an ImageLoader before this step to start from paths"
        )
    if pixels.dtype != np.uint8:
        raise InputError(f"expected 8-bit grey levels, dtype uint8 from 0 to 255, but got dtype {pixels.dtype}")
    return ImageBatch(pixels)


class TakesImages:
    """For estimators of images, loaded or in memory: their tags."""

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        if tags.transformer_tags is not None:
            tags.transformer_tags.preserves_dtype = []
        return tags


class TakesPaths(TakesImages):
    """For estimators of paths, which take images, too: their tags, and pickles that are never equal.

    joblib keys what it caches, as for ``Pipeline(memory=...)``, by a hash of the pickled transformer and paths. Those
    stay the same when files are replaced, so the cache would give the rows of files that are gone.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_pickle": uuid4().hex}  # type: ignore[dict-item]

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        super().__setstate__({k: v for k, v in state.items() if k != "_pickle"})  # type: ignore[misc]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        return tags


class PassesImages(TakesImages):
    """For transformers that return an ImageBatch, which is not a table with a container and columns to choose."""

    def set_output(self, *, transform: str | None = None) -> Self:
        """Do nothing: images stay an ImageBatch whichever container the next steps return."""
        return self

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> np.ndarray:
        """Return `input_features`, or "image"."""
        return np.asarray(["image"] if input_features is None else input_features, dtype=object)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags


def with_index(rows: np.ndarray, batch: ImageBatch, estimator: Any) -> np.ndarray | pd.DataFrame:
    """Return the rows of a transformer as a table with the index of their images if its output is to be a table.

    scikit-learn makes that table, but knows the index only of a transformer that gets a Series or a DataFrame; without
    it, ColumnTransformer and FeatureUnion would join the features of different images.
    """
    if batch.source_index is None or _get_output_config("transform", estimator)["dense"] != "pandas":
        return rows
    return pd.DataFrame(rows, index=batch.source_index)


@contextmanager
def every_unreadable(*batches: ImageBatch) -> Iterator[None]:
    """If an image cannot be read, try all of them, so that one error lists all that cannot."""
    try:
        yield
    except ImageReadError as error:
        failures = dict(error.failures)
        for batch in batches:
            failures |= batch.failures()
        # Several views may be of one file.
        raise ImageReadError(failures, len({batch.name(i) for batch in batches for i in range(len(batch))})) from error
