"""FrozenEmbedder: from images to the features of a network that is never trained, once per image."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from numbers import Integral
from threading import Lock
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from .._io import ReadsEarlierFiles, public
from .._keras import (
    compile_for_prediction,
    filled_up,
    gpu_is_used,
    import_keras,
    keras_backend,
    keras_settings,
)
from .._onnxruntime import import_onnxruntime
from .._progress import progress_bar
from .._settings import usual_settings
from .._validation import check_parameters
from ..exceptions import ImageReadError, InputError
from ..images._decoding import DECODER
from ..images.batch import ImageBatch, TakesImages, as_batch, with_index
from ._backbones import POOLINGS, Backbone, application, pooled, weights_identity
from ._onnx import EXPORT, load_session, resolve_engine
from .store import FeatureStore, NoStore, readable_rows, store_directory

_loading = Lock()
#: All threads share a network, which uses all cores; on JAX, it has state while it predicts.
_predicting = Lock()


@public
class FrozenEmbedder(ReadsEarlierFiles, TakesImages, TransformerMixin, BaseEstimator):
    """Embed images with a frozen, pretrained network, and store the features.

    The features of an image are computed once and then found in the store: in other folds, candidates, runs and
    processes, after ``clone`` and ``pickle``, and for the same file under another name.

    Parameters
    ----------
    backbone : str, default="VGG16"
        Name of any network in ``keras.applications``.
    weights : str or path, default="imagenet"
        "imagenet" (downloaded and kept by Keras), the path of a weights file in Keras' layout without the top, or
        "random" (seeded, for trying things out).
    layer : str, sequence of str or None, default=None
        Cut the network at this layer, e.g. "block4_pool"; None keeps all but the top. Several layers are pooled one by
        one and concatenated: early layers represent texture, late ones shapes.
    pooling : {"avg", "max", "flatten"}, default="avg"
        How the layer's feature maps become one vector.
    batch_size : int or "auto", default="auto"
        Images per call of the network. "auto" is 128 on a GPU and 32 elsewhere.
    precision : {"auto", "float32", "bfloat16", "int8"}, default="auto"
        Precision of the network. "auto" is bfloat16 where the CPU or GPU is faster in it. "int8" is the fastest on
        CPUs: weights and activations are quantised, once per network and size of images, with the ranges that
        activations have on drawn radiographs.
    store : str, path or None, default="auto"
        Folder of the feature store. "auto" is ``$CXR_SKLEARN_CACHE``, else ``./cache`` if that folder is a store, else
        the user's cache folder. None stores nothing.
    n_jobs : int or None, default=None
        Number of joblib workers that share the images without stored features; None is 1 except in a
        :func:`joblib.parallel_config` context. On one machine a network uses all cores anyway; this is for clusters.
        Workers need the images under the same paths; only the calling process writes to the store.
    verbose : int, default=0
        1 shows a progress bar while images are embedded.
    engine : {"auto", "keras", "onnx"}, default="auto"
        What computes the network. "auto" is ONNX Runtime for int8, and Keras otherwise. ONNX Runtime needs ``pip
        install 'cxr-sklearn[onnx]'``; it exports the network once, which takes TensorFlow and some ten seconds, and
        keeps the file in Keras' folder of weights.

    Attributes
    ----------
    batch_size_ : int
    precision_ : {"float32", "bfloat16", "int8"}
    weights_id_ : str
        "random:<seed>", or "sha256:<digest of the weights file>", with "imagenet:" before it if Keras found the file.
    image_shape_ : tuple of int
        (H, W, 3) of the images seen in ``fit``.
    n_embedded_, n_cached_ : int
        How many images the last ``transform`` sent through the network, and how many it found in the store.

    Examples
    --------
    >>> from cxr_sklearn import FrozenEmbedder, ImageLoader
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> model = make_pipeline(ImageLoader(), FrozenEmbedder("VGG16"), LogisticRegression())
    """

    def __init__(
        self,
        backbone: str = "VGG16",
        weights: str | os.PathLike[str] = "imagenet",
        layer: str | Sequence[str] | None = None,
        pooling: str = "avg",
        batch_size: int | str = "auto",
        precision: str = "auto",
        store: str | os.PathLike[str] | None = "auto",
        n_jobs: int | None = None,
        verbose: int = 0,
        engine: str = "auto",
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.layer = layer
        self.pooling = pooling
        self.batch_size = batch_size
        self.precision = precision
        self.store = store
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.engine = engine

    def fit(self, X: ImageBatch | ArrayLike, y: Any = None) -> Self:
        """Check the parameters, find the weights and choose the precision; no image is read.

        Parameters
        ----------
        X : ImageBatch of n images, or ndarray of shape (n, H, W[, C]) and dtype uint8
        y : ignored

        Returns
        -------
        self : FrozenEmbedder

        Raises
        ------
        ValueError
            If a parameter is wrong or `X` is not images.
        WeightsUnavailableError
            If the weights are neither on disk nor available for download.
        BackendError
            If the engine is not installed.
        """
        check_parameters(self)
        application(self.backbone)
        if self.pooling not in POOLINGS:
            raise InputError(f"pooling={self.pooling!r} must be one of {POOLINGS}")
        _check_layer(self.layer)
        self.image_shape_ = as_batch(X).shape[1:]
        self.batch_size_ = _resolve_batch_size(self.batch_size)
        engine, self.precision_ = resolve_engine(self.engine, self.precision)
        if engine == "onnx":
            import_onnxruntime()
        self.weights_id_ = weights_identity(self.backbone, self.weights)
        return self

    @usual_settings
    def transform(self, X: ImageBatch | ArrayLike) -> np.ndarray | pd.DataFrame:
        """Return the features, from the store if it has them.

        Images are decoded and embedded in batches: besides the result, memory only grows by paths, digests and keys,
        some hundred bytes per image.

        Parameters
        ----------
        X : ImageBatch of n images, or ndarray of shape (n, H, W[, C]) and dtype uint8

        Returns
        -------
        ndarray of shape (n, d) and dtype float32
            After ``set_output(transform="pandas")`` a DataFrame with the index of the paths.

        Raises
        ------
        ImageReadError
            If images cannot be read; the error lists every one. All others are in the store by then.
        WeightsUnavailableError
            If the weights are not those seen in ``fit``.
        StoreError
            If the store cannot be read or written; finished batches are kept.
        """
        check_is_fitted(self)
        batch = as_batch(X)
        if batch.shape[1:] != self.image_shape_:
            raise InputError(f"images of shape {batch.shape[1:]}, but fit saw {self.image_shape_}")
        with progress_bar(f"Embedding with {self.backbone}", len(batch), show=self.verbose > 0) as advance:
            rows, self.n_embedded_, failures = readable_rows(
                batch, self._store(), self._embed, chunk_size=self.batch_size_, advance=advance, n_jobs=self.n_jobs
            )
        if failures:
            raise ImageReadError(failures, len(batch))
        self.n_cached_ = len(batch) - self.n_embedded_
        return with_index(rows, batch, self)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return "vgg16_0", "vgg16_1", ...; `input_features` is ignored."""
        check_is_fitted(self)
        width = self._store().width() or self._width()
        return np.array([f"{self.backbone.lower()}_{i}" for i in range(width)], dtype=object)

    def _backbone(self) -> Backbone:
        layer = self.layer if self.layer is None or isinstance(self.layer, str) else tuple(self.layer)
        # Keras does not have int8: exports start from float32, and explanations are those of the network before it.
        precision = "float32" if self.precision_ == "int8" else self.precision_
        return Backbone(self.backbone, os.fspath(self.weights), self.weights_id_, layer, precision)

    def maps_network(self) -> Any:
        """Return the Keras model from images, ``uint8 (n, H, W, 3)``, to the feature maps of each layer.

        Where the embedder computes in int8, this network does in float32.

        Raises
        ------
        WeightsUnavailableError
            If the weights are not those seen in ``fit``.
        """
        check_is_fitted(self)
        return _load_networks(self._backbone(), self.pooling, self.image_shape_)[0]

    def _network(self) -> Any:
        return _load_networks(self._backbone(), self.pooling, self.image_shape_)[1]

    def _uses_onnx(self) -> bool:
        return resolve_engine(self.engine, self.precision_)[0] == "onnx"

    def _session(self) -> Any:
        return load_session(self._backbone(), self.pooling, self.image_shape_, self.precision_)

    def _width(self) -> int:
        shape = self._session().get_outputs()[0].shape if self._uses_onnx() else self._network().output_shape
        return int(shape[-1])

    def _store(self) -> FeatureStore | NoStore:
        if self.store is None:
            return NoStore()
        layers = [self.layer] if isinstance(self.layer, str) else list(self.layer or ())
        # A file name has at most 255 bytes; the fingerprint of the recipe distinguishes lists of layers.
        parts = [self.backbone, *(layers if len(layers) < 5 else [f"{len(layers)}-layers"]), self.pooling]
        recipe: dict[str, Any] = {
            "backbone": self.backbone,
            "layer": layers if len(layers) > 1 else layers[0] if layers else None,
            "pooling": self.pooling,
            "precision": self.precision_,
            "weights": self.weights_id_,
            "decoder": DECODER,
        }
        if self._uses_onnx():
            recipe |= {"engine": "onnx", "export": EXPORT}
        elif (backend := keras_backend()) != "tensorflow":  # backends agree to four digits only
            recipe["keras_backend"] = backend
        if self.pooling == "flatten":  # its width depends on the size of the images
            recipe["image_shape"] = list(self.image_shape_)
        return FeatureStore(store_directory(self.store), "-".join(parts), recipe)

    def _embed(self, chunk: ImageBatch, images: list[np.ndarray]) -> np.ndarray:
        if self._uses_onnx():  # which takes batches of any size
            rows: np.ndarray = self._session().run(["features"], {"images": np.stack(images)})[0]
            return rows
        network, pixels = self._network(), filled_up(np.stack(images), self.batch_size_)
        with _predicting, keras_settings():
            return np.asarray(network.predict_on_batch(pixels))[: len(images)]


def _resolve_batch_size(batch_size: int | str) -> int:
    if isinstance(batch_size, str) and batch_size == "auto":
        return 128 if gpu_is_used() else 32
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise InputError(f"batch_size={batch_size!r} must be a positive integer or 'auto'")
    return int(batch_size)


def _check_layer(layer: Any) -> None:
    if layer is None or isinstance(layer, str):
        return
    is_list = isinstance(layer, Sequence) and len(layer) and all(isinstance(name, str) for name in layer)
    if not is_list or len(set(layer)) < len(layer):
        raise InputError(f"layer={layer!r} must be None, the name of a layer or a list of different names")


def _load_networks(backbone: Backbone, pooling: str, image_shape: tuple[int, int, int]) -> tuple[Any, Any]:
    """Build the networks to maps and to features once per process, for all clones, folds and threads."""
    with keras_settings(), _loading:  # in this order: in a forked process, the lock may be taken for ever
        return _build_network(backbone, pooling, image_shape)


@functools.lru_cache(maxsize=2)
def _build_network(backbone: Backbone, pooling: str, image_shape: tuple[int, int, int]) -> tuple[Any, Any]:
    network = backbone.build(image_shape)
    keras = import_keras()
    vectors = [pooled(maps, pooling) for maps in network.outputs]
    features = keras.Model(network.input, vectors[0] if len(vectors) == 1 else keras.ops.concatenate(vectors, axis=1))
    return compile_for_prediction(network), compile_for_prediction(features)
