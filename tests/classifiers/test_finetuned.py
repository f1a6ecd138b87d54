import logging
import pickle

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.base import clone

from cxr_sklearn import FineTunedClassifier, ImageAugmenter, make_radiographs
from cxr_sklearn._keras import import_keras
from cxr_sklearn.classifiers import _frozen_layers as cut
from cxr_sklearn.exceptions import WeightsUnavailableError
from cxr_sklearn.features._backbones import Backbone

pytestmark = pytest.mark.keras
MOBILENET = {"backbone": "MobileNet", "weights": "random", "trainable_from": "conv_dw_13", "dense_units": 8}
SMALL = {"head_epochs": 1, "epochs": 2, "batch_size": 16, "random_state": 0, "precision": "float32"}


@pytest.fixture(scope="module")
def data():
    images, frame = make_radiographs(24, size=32, random_state=0)
    return images, frame["target"].to_numpy()


@pytest.fixture
def kept(monkeypatch):
    """Frozen outputs of this test alone."""
    monkeypatch.setattr(cut, "KEPT", cut.KeptMaps())
    return cut.KEPT


@pytest.fixture
def computed(monkeypatch):
    """Number of images in each call of the frozen part."""
    sizes = []
    original = cut.FrozenMaps._compute
    monkeypatch.setattr(
        cut.FrozenMaps, "_compute", lambda self, pixels: sizes.append(len(pixels)) or original(self, pixels)
    )
    return sizes


def cross_entropy(model, images, y):
    if isinstance(model, FineTunedClassifier):
        log_probability = np.log(model.predict_proba(images))
    else:
        log_probability = log_softmax(np.asarray(model.predict_on_batch(images), dtype=np.float64), axis=1)
    return -log_probability[np.arange(len(y)), y].mean()


def test_it_equals_training_the_whole_network():
    """With the same seed and batches, the loss after each epoch is that of a Keras network that was not cut."""
    images, frame = make_radiographs(24, size=64, random_state=0)
    y = frame["target"].to_numpy()
    keras = import_keras()
    classifier = FineTunedClassifier(
        "VGG16", "random", head_epochs=0, epochs=3, learning_rate=5e-7, batch_size=8, dropout=0, dense_units=16,
        early_stopping=False, random_state=0, precision="float32",
    ).fit(images, y)  # fmt: skip

    vgg = Backbone("VGG16", "random", "random:0", None, "float32").network((64, 64, 3))
    for layer in vgg.layers:
        layer.trainable = layer.name.startswith("block5")
    pixels = keras.Input((64, 64, 3))
    maps = vgg(keras.applications.vgg16.preprocess_input(pixels))
    whole = keras.Model(pixels, classifier._head((512,))(keras.layers.GlobalAveragePooling2D()(maps)))
    whole.compile(keras.optimizers.Adam(5e-7), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert len(whole.trainable_weights) == 2 * 3 + 2 * 2

    rgb = np.repeat(images[..., None], 3, axis=3).astype(np.float32)
    losses = [cross_entropy(whole, rgb, y)]
    for epoch in range(3):
        draw = np.random.default_rng([classifier._seed, epoch])
        draw.integers(0, 1, len(y))
        order = draw.permutation(len(y))
        whole.fit(rgb[order], y[order], batch_size=8, epochs=1, shuffle=False, verbose=0)
        losses.append(cross_entropy(whole, rgb, y))
    np.testing.assert_allclose(classifier.history_["loss"], losses[1:], atol=1e-3)
    assert losses[3] < losses[0] - 0.1


def test_only_the_last_layers_change(data):
    images, y = data
    classifier = FineTunedClassifier(**MOBILENET, **SMALL, learning_rate=0.01, early_stopping=False).fit(images, y)
    before = classifier._cut().tail().get_weights()
    after = classifier.weights_[: len(before)]
    names = [weight.path.split("/")[0] for weight in classifier._cut().tail().weights]
    changed = {name for name, a, b in zip(names, before, after, strict=True) if not np.array_equal(a, b)}
    assert changed == {"conv_dw_13", "conv_pw_13"}  # and no batch normalisation


def test_each_image_goes_through_the_frozen_part_once(data, kept, computed):
    images, y = data
    classifier = FineTunedClassifier(**MOBILENET, **SMALL).fit(images, y)
    assert sum(computed) == len(images)
    other = clone(classifier).set_params(learning_rate=1e-3, dense_units=4, epochs=3).fit(images, y)
    assert sum(computed) == len(images)
    clone(classifier).set_params(trainable_from="conv_dw_12").fit(images, y)
    assert sum(computed) == 2 * len(images)
    found = other.predict_proba(images)
    assert sum(computed) == 3 * len(images)  # predictions do not depend on what is kept
    kept.clear()
    np.testing.assert_array_equal(other.predict_proba(images), found)


def test_each_view_goes_through_the_frozen_part_once(data, kept, computed):
    images, y = data
    options = {**SMALL, "epochs": 5, "early_stopping": False}
    classifier = FineTunedClassifier(**MOBILENET, **options, augmenter=ImageAugmenter(), n_views=2).fit(images, y)
    assert sum(computed) == 3 * len(images)
    plain = FineTunedClassifier(**MOBILENET, **options).fit(images, y)
    assert not np.allclose(plain.predict_proba(images), classifier.predict_proba(images))


@pytest.mark.parametrize("share", [0, 0.5])
def test_what_does_not_fit_the_budget_is_computed_again(data, kept, computed, share, caplog):
    images, y = data
    options = {**MOBILENET, **SMALL, "early_stopping": False}
    whole = FineTunedClassifier(**options).fit(images, y)
    nbytes = kept.nbytes
    assert not caplog.records
    assert kept.make_room(nbytes, nbytes, set())  # empties it
    assert len(kept) == kept.nbytes == 0
    computed.clear()
    budget = int(share * nbytes)
    with caplog.at_level(logging.WARNING, "cxr_sklearn"):
        tight = FineTunedClassifier(**options, memory_budget=budget).fit(images, y)
    assert f"memory_budget={budget}" in caplog.text
    assert kept.nbytes <= budget
    assert len(kept) == 16 * bool(share)  # whole batches
    # Once for the features before training, then in each epoch for training and for scoring.
    assert sum(computed) == (1 + 2 * 2) * (len(images) - len(kept)) + len(kept)
    np.testing.assert_allclose(tight.predict_proba(images), whole.predict_proba(images), atol=1e-4)


def test_another_fit_may_take_the_memory_of_an_earlier_one(data, kept, computed):
    images, y = data
    first = FineTunedClassifier(**MOBILENET, **SMALL).fit(images, y)
    budget = kept.nbytes
    other = FineTunedClassifier(**MOBILENET, **SMALL, memory_budget=budget).fit(255 - images, y)
    assert sum(computed) == 2 * len(images)
    assert kept.nbytes <= budget
    clone(other).fit(255 - images, y)
    assert sum(computed) == 2 * len(images)
    clone(first).fit(images, y)
    assert sum(computed) == 3 * len(images)


def test_the_pickle_of_a_vgg16_is_small_and_names_what_it_leaves_out(data):
    images, y = data
    classifier = FineTunedClassifier(weights="random", **{**SMALL, "epochs": 1}).fit(images, y)
    assert len(pickle.dumps(classifier)) < 40e6
    classifier.weights_id_ = "sha256:other weights"
    with pytest.raises(WeightsUnavailableError, match="not those used for fitting"):
        pickle.loads(pickle.dumps(classifier)).predict(images)


def test_a_fitted_classifier_can_carry_the_frozen_weights(data, kept, real_weights, tmp_path):
    images, y = data
    path = tmp_path / "mobilenet.weights.h5"
    path.write_bytes(real_weights.read_bytes())
    options = {**MOBILENET, **SMALL, "weights": path, "layer": "conv_pw_12_relu", "trainable_from": "conv_dw_12"}
    lean = FineTunedClassifier(**options).fit(images, y)
    carrying = FineTunedClassifier(**options, carry_frozen=True).fit(images, y)
    expected = carrying.predict_proba(images)
    np.testing.assert_array_equal(lean.predict_proba(images), expected)
    path.unlink()
    cut._cut.cache_clear()
    kept.make_room(2**40, 0, set())
    assert len(pickle.dumps(carrying)) > len(pickle.dumps(lean)) + 1e6
    np.testing.assert_allclose(pickle.loads(pickle.dumps(carrying)).predict_proba(images), expected, atol=1e-6)
    cut._cut.cache_clear()
    with pytest.raises(WeightsUnavailableError):
        pickle.loads(pickle.dumps(lean)).predict_proba(images)
    with pytest.raises(WeightsUnavailableError):  # to fit again takes the whole network
        pickle.loads(pickle.dumps(carrying)).fit(images, y)


def test_a_carried_network_does_not_affect_later_fits(data, kept, real_weights):
    images, y = data
    options = {
        **MOBILENET,
        **SMALL,
        "weights": real_weights,
        "layer": "conv_pw_12_relu",
        "trainable_from": "conv_dw_12",
    }
    carrying = FineTunedClassifier(**options, carry_frozen=True).fit(images, y)
    expected = carrying.predict_proba(images)
    loaded = pickle.loads(pickle.dumps(carrying))
    cut._cut.cache_clear()
    loaded.predict(images)
    np.testing.assert_allclose(FineTunedClassifier(**options).fit(images, y).predict_proba(images), expected, atol=1e-5)


def test_where_the_last_layers_only_do_harm_the_first_phase_is_kept(data):
    images, y = data
    options = {**MOBILENET, **SMALL, "head_epochs": 8, "epochs": 3, "learning_rate": 1.0}
    classifier = FineTunedClassifier(**options).fit(images, y, X_val=images, y_val=y)
    best = min(classifier.head_history_["val_loss"])
    assert best < min(classifier.history_["val_loss"])
    assert cross_entropy(classifier, images, y) == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize("pooling", ["max", "flatten"])
def test_pooling(data, pooling):
    images, y = data
    classifier = FineTunedClassifier(**{**MOBILENET, "dense_units": 0}, **SMALL, pooling=pooling).fit(images, y)
    assert np.isfinite(classifier.predict_proba(images)).all()
    assert len(classifier.feature_mean_) == 1024


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "VGG61"}, "did you mean"),
        ({"trainable_from": "block9"}, "trainable_from='block9' is not a layer of MobileNet"),
        ({"backbone": "ResNet50", "trainable_from": "conv5_block2_2_conv"}, "a connection bypasses"),
        ({"layer": "block9"}, "layer='block9' is not a layer"),
        ({"pooling": "sum"}, "pooling="),
        ({"head_epochs": -1}, "head_epochs="),
        ({"memory_budget": 0.5}, "memory_budget="),
        ({"head_learning_rate": 0}, "head_learning_rate="),
        ({"n_views": 1.5}, "n_views="),
        ({"schedule": "linear"}, "schedule='linear' must be one of"),
        ({"warmup": -1}, "warmup="),
        ({"warmup": 2.5}, "warmup=2.5 is longer than the 2 epochs"),
        ({"weight_decay": -0.1}, "weight_decay="),
        ({"label_smoothing": 1}, "label_smoothing="),
        ({"average_epochs": 1}, "turn one of them off"),
        ({"checkpoint": "folder", "random_state": None}, "random_state=None must be an integer"),
        ({"backbone": "EfficientNetB0", "weights": "imagenet", "trainable_from": "all"}, "path of the weights file"),
        ({"backbone": "EfficientNetB0", "weights": "imagenet", "carry_frozen": True}, "path of the weights file"),
    ],
)
def test_wrong_parameters(data, options, message):
    with pytest.raises(ValueError, match=message):
        FineTunedClassifier(**{**MOBILENET, **SMALL, **options}).fit(*data)
