"""FineTunedClassifier training a whole network, and the settings that this needs."""

import pickle

import numpy as np
import pytest
import skops.io
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from cxr_sklearn import FineTunedClassifier, ImageAugmenter, ImageLoader, make_radiographs
from cxr_sklearn._keras import import_keras
from cxr_sklearn.classifiers import _frozen_layers as cut
from cxr_sklearn.classifiers._training import estimate_statistics, learning_normalisations, scheduled
from cxr_sklearn.features._backbones import Backbone
from cxr_sklearn.models.explain import explain

pytestmark = pytest.mark.keras
MOBILENET = {
    "backbone": "MobileNet", "weights": "random", "trainable_from": "all", "dense_units": 0, "head_epochs": 0,
    "epochs": 2, "batch_size": 16, "early_stopping": False, "random_state": 0, "precision": "float32",
}  # fmt: skip
VGG16 = {**MOBILENET, "backbone": "VGG16", "layer": "block2_pool", "learning_rate": 1e-5}


@pytest.fixture(scope="module")
def data():
    images, frame = make_radiographs(24, size=32, random_state=0)
    return images, frame["target"].to_numpy()


@pytest.fixture
def views(monkeypatch):
    """The views of the training images that each epoch asks for."""
    seen = []
    original = ImageAugmenter.view
    monkeypatch.setattr(ImageAugmenter, "view", lambda self, X, n: seen.append(np.max(n)) or original(self, X, n))
    return seen


def test_it_equals_training_the_network_in_keras(data):
    images, y = data
    keras = import_keras()
    options = {"learning_rate": 5e-7, "dropout": 0, "weight_decay": 0.1, "schedule": "cosine", "warmup": 0.5}
    classifier = FineTunedClassifier(**{**VGG16, **options}).fit(images, y)
    vgg = Backbone("VGG16", "random", "random:0", "block2_pool", "float32").network((32, 32, 3))
    for layer in vgg.layers:
        layer.trainable = True
    pixels = keras.Input((32, 32, 3))
    maps = vgg(keras.applications.vgg16.preprocess_input(pixels))
    whole = keras.Model(pixels, classifier._head((128,))(keras.layers.GlobalAveragePooling2D()(maps)))
    n_batches = -(-len(y) // 16)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, 2 * n_batches - round(n_batches / 2), warmup_target=5e-7, warmup_steps=round(n_batches / 2)
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    whole.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rgb = np.repeat(images[..., None], 3, axis=3).astype(np.float32)
    for epoch in range(2):
        draw = np.random.default_rng([classifier._seed, epoch])
        draw.integers(0, 1, len(y))
        order = draw.permutation(len(y))
        whole.fit(rgb[order], y[order], batch_size=16, epochs=1, shuffle=False, verbose=0)
    for ours, theirs in zip(classifier.weights_, whole.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)


@pytest.mark.parametrize("options", [MOBILENET, VGG16], ids=["MobileNet", "VGG16"])
def test_every_layer_learns_and_travels(data, options, monkeypatch):
    images, y = data
    classifier = FineTunedClassifier(**{**options, "learning_rate": 1e-3}).fit(images, y)
    layer = options.get("layer")
    before = Backbone(options["backbone"], "random", "random:0", layer, "float32").network((32, 32, 3)).get_weights()
    unchanged = sum(np.array_equal(a, b) for a, b in zip(before, classifier.weights_, strict=False))
    assert unchanged == 0
    expected = classifier.predict_proba(images)
    # All weights are in the file: the pretrained ones may no longer be there.
    classifier.weights = classifier.architecture_["weights"] = "gone.h5"
    payload = skops.io.dumps(classifier)
    loaded = skops.io.loads(payload, trusted=skops.io.get_untrusted_types(data=payload))
    for copy in (loaded, pickle.loads(pickle.dumps(classifier))):
        np.testing.assert_allclose(copy.predict_proba(images), expected, atol=1e-6)


def test_a_map_of_what_it_looks_at(data):
    images, y = data
    model = make_pipeline(ImageLoader(32, crop=0.8), FineTunedClassifier(**MOBILENET)).fit(images, y)
    assert explain(model, images[:2], "gradcam").shape == (2, 32, 32)


def test_views_are_drawn_anew_in_every_epoch(data, views):
    images, y = data
    options = {**MOBILENET, "augmenter": ImageAugmenter(), "epochs": 3}
    for n_views in (4, None):
        views.clear()
        FineTunedClassifier(**{**options, "n_views": n_views}).fit(images, y)
        assert [view for view in views if view] == [1, 2, 3]
    views.clear()
    frozen = {**options, "trainable_from": "conv_dw_13", "n_views": None}
    FineTunedClassifier(**frozen).fit(images, y)
    assert [view for view in views if view] == [1, 2, 3]


def test_views_drawn_anew_are_not_kept(data, monkeypatch):
    images, y = data
    monkeypatch.setattr(cut, "KEPT", cut.KeptMaps())
    options = {**MOBILENET, "trainable_from": "conv_dw_13", "augmenter": ImageAugmenter(), "n_views": None}
    FineTunedClassifier(**options).fit(images, y)
    assert len(cut.KEPT) == len(images)  # the images themselves, to standardise and to score


def test_statistics_are_those_of_the_weights_at_the_end(data):
    images, y = data
    classifier = FineTunedClassifier(**{**MOBILENET, "learning_rate": 1e-3, "average_epochs": 2}).fit(images, y)
    network = classifier._network()
    layers = learning_normalisations(network)
    assert len(layers) == 27
    found = [np.asarray(layer.moving_variance) for layer in layers]
    order = np.random.default_rng(classifier._seed).permutation(len(y))
    estimate_statistics(network, np.repeat(images[order][..., None], 3, axis=3), 16)
    for layer, variance in zip(layers, found, strict=True):
        np.testing.assert_allclose(np.asarray(layer.moving_variance), variance, rtol=1e-4, atol=1e-6)
    # They are used: the logits of a batch are nearly the same as in training.
    trained = np.asarray(network(np.repeat(images[order[:16]][..., None], 3, axis=3), training=True))
    assert np.isfinite(trained).all()


def test_the_weights_are_the_mean_over_the_last_epochs(data):
    images, y = data
    options = {**VGG16, "learning_rate": 1e-4, "epochs": 3}
    averaged = FineTunedClassifier(**options, average_epochs=2).fit(images, y)
    one, other = (FineTunedClassifier(**{**options, "epochs": n}).fit(images, y) for n in (2, 3))
    for mean, a, b in zip(averaged.weights_, one.weights_, other.weights_, strict=True):
        np.testing.assert_allclose(mean, (a.astype(np.float64) + b) / 2, rtol=1e-5, atol=1e-7)


def test_labels_are_smoothed(data):
    images, y = data
    options = {**VGG16, "learning_rate": 1e-12, "dropout": 0, "epochs": 1}
    classifier = FineTunedClassifier(**options, label_smoothing=0.2).fit(images, y)
    plain = FineTunedClassifier(**options).fit(images, y)
    log_probability = log_softmax(np.log(plain.predict_proba(images)), axis=1)
    n = len(y)
    assert plain.history_["batch_loss"][0] == pytest.approx(-log_probability[np.arange(n), y].mean(), rel=1e-3)
    shares = 0.8 * np.eye(2)[y] + 0.1
    assert classifier.history_["batch_loss"][0] == pytest.approx(-(shares * log_probability).sum() / n, rel=1e-3)


def test_a_schedule_rises_and_falls():
    cosine = scheduled(0.1, "cosine", 4, 20)
    rates = np.array([float(cosine(step)) for step in range(21)])
    np.testing.assert_allclose(rates[:5], [0, 0.025, 0.05, 0.075, 0.1], atol=1e-7)
    np.testing.assert_allclose(rates[4:], 0.05 * (1 + np.cos(np.pi * np.arange(17) / 16)), atol=1e-6)
    constant = scheduled(0.1, "constant", 2, 20)
    np.testing.assert_allclose([float(constant(step)) for step in (0, 1, 2, 19)], [0, 0.05, 0.1, 0.1], atol=1e-7)
    assert scheduled(0.1, "constant", 0, 20) == 0.1
    assert float(scheduled(0.1, "cosine", 0, 20)(0)) == pytest.approx(0.1)


def test_a_classifier_of_before_it_could_do_this_does_what_it_did():
    earlier = FineTunedClassifier.__new__(FineTunedClassifier)
    since = ("schedule", "warmup", "weight_decay", "label_smoothing", "average_epochs", "checkpoint")
    state = {name: value for name, value in FineTunedClassifier().get_params().items() if name not in since}
    earlier.__setstate__({**state, "n_views": 2})
    assert clone(earlier).get_params() == FineTunedClassifier(n_views=2).get_params()
