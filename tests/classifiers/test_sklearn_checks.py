"""scikit-learn's own checks on the classifiers that train a network.

The check suite feeds rows of numbers; a test-only subclass reads each as an image one pixel high, in 256 grey levels.
"""

import functools
from dataclasses import dataclass

import numpy as np
import pytest
import sklearn
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

from cxr_sklearn import FineTunedClassifier, ScratchCNNClassifier
from cxr_sklearn._keras import import_keras
from cxr_sklearn.classifiers import _frozen_layers as cut

pytestmark = [
    pytest.mark.keras,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`"),
]


class RowsAsImages:
    """Turn rows of numbers (n, p) into images (n, 1, p)."""

    def _images(self, X):
        return (np.clip(X[:, None, :] * 20 + 128, 0, 255)).astype(np.uint8)

    def fit(self, X, y, sample_weight=None):
        if y is None:
            return super().fit(np.zeros((1, 1, 1), dtype=np.uint8), y)
        X, y = validate_data(self, X, y)
        return super().fit(self._images(X), y, sample_weight)

    def predict_proba(self, X):
        check_is_fitted(self)
        images = self._images(validate_data(self, X, reset=False))
        # Sums in float32 depend in the seventh digit on the shape of a batch, which is more than the checks allow.
        padded = np.resize(images, (-(-len(images) // 32) * 32, *images.shape[1:]))
        return super().predict_proba(padded)[: len(images)]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = False
        return tags


class RowCNN(RowsAsImages, ScratchCNNClassifier):
    def __init__(self, epochs=8, learning_rate=0.05, random_state=0, class_weight=None):
        super().__init__(filters=(8,), dense_units=8, dropout=0, early_stopping=False, precision="float32",
                         batch_size=64, epochs=epochs, learning_rate=learning_rate, random_state=random_state,
                         class_weight=class_weight)  # fmt: skip


@pytest.fixture(autouse=True)
def eager():
    """Tracing a network would take longer than its tiny training; the numbers are the same without."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


class RowFineTuned(RowsAsImages, FineTunedClassifier):
    def __init__(self, epochs=5, learning_rate=0.02, random_state=0, class_weight=None):
        super().__init__(
            weights="random",
            trainable_from="second",
            pooling="flatten",
            dense_units=8,
            head_epochs=5,
            head_learning_rate=0.05,
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=64,
            dropout=0,
            class_weight=class_weight,
            early_stopping=False,
            precision="float32",
            random_state=random_state,
        )

    def _cut(self):
        return TinyCut(super()._cut().backbone, "second", self.image_shape_)


@dataclass(frozen=True)
class TinyCut(cut.Cut):
    """Two layers instead of VGG16, which does not accept images one pixel high."""

    def _parts(self):
        return tiny_parts(self.image_shape)


@functools.cache
def tiny_parts(image_shape):
    keras = import_keras()
    draw = keras.initializers.GlorotUniform(seed=0)
    images = keras.Input(image_shape, dtype="uint8")
    frozen = keras.Model(images, keras.layers.Rescaling(1 / 128, -1)(images))
    frozen.compile()
    entering = keras.Input(frozen.output_shape[1:])
    second = keras.layers.Conv2D(8, 1, activation="relu", kernel_initializer=draw)
    return frozen, keras.Model(entering, second(entering))


WEIGHTS_ARE_NOT_ROWS = "batches are drawn from rows: a row of weight two is in one batch, two rows are in two"
EXPECTED_FAILURES = {"check_sample_weight_equivalence_on_dense_data": WEIGHTS_ARE_NOT_ROWS}


ROWS = [RowCNN(), RowFineTuned()]


@parametrize_with_checks(ROWS, expected_failed_checks=lambda _: EXPECTED_FAILURES)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def weighted_checks():
    """All checks that pass weights, which metadata routing could lose; the others have nothing to route."""
    for rows in ROWS:
        for estimator, check in estimator_checks_generator(rows):
            name = check.func.__name__
            if "weight" in name and name not in EXPECTED_FAILURES:
                yield pytest.param(estimator, check, id=f"{type(rows).__name__}-{name}")


@pytest.mark.parametrize(("estimator", "check"), list(weighted_checks()))
def test_checks_of_weights_with_metadata_routing(estimator, check):
    with sklearn.config_context(enable_metadata_routing=True):
        check(estimator)
