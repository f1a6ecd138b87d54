import numpy as np
import pytest

from cxr_sklearn import ScratchCNNClassifier, make_radiographs
from cxr_sklearn._keras import import_keras
from cxr_sklearn.classifiers._training import estimate_statistics

pytestmark = pytest.mark.keras
SMALL = {"filters": (4, 8), "dense_units": 8, "batch_size": 16, "random_state": 0, "precision": "float32"}


@pytest.fixture(scope="module")
def data():
    images, frame = make_radiographs(40, size=32, random_state=0)
    return images, frame["target"].to_numpy()


def test_statistics_are_those_of_the_whole_training_set(data):
    """With a single batch they are the mean and variance of the input of each normalisation, in order."""
    images, y = data
    keras = import_keras()
    classifier = ScratchCNNClassifier(epochs=1, early_stopping=False, **{**SMALL, "batch_size": 1000}).fit(images, y)
    network = classifier._network()
    normalisations = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(normalisations) == 2
    for layer in normalisations:
        values = np.asarray(keras.Model(network.input, layer.input).predict_on_batch(images[..., None]))
        np.testing.assert_allclose(layer.moving_mean, values.mean(axis=(0, 1, 2)), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(layer.moving_variance, values.var(axis=(0, 1, 2)), rtol=1e-3, atol=1e-4)


def test_a_network_predicts_as_it_trains_from_the_first_epoch(data):
    """If batches hardly differ, exact statistics give each image the output that it had in training."""
    images, y = data
    classifier = ScratchCNNClassifier(epochs=1, early_stopping=False, **{**SMALL, "dropout": 0}).fit(images, y)
    network = classifier._network()
    grey = images[..., None]
    trained = np.asarray(network(grey, training=True))
    network.set_weights(classifier.weights_)  # training moved the averages
    predicted = np.asarray(network.predict_on_batch(grey))
    assert np.corrcoef(trained[:, 1] - trained[:, 0], predicted[:, 1] - predicted[:, 0])[0, 1] > 0.99


def test_statistics_over_several_batches_do_not_depend_on_the_last_short_one(data):
    images, y = data
    keras = import_keras()
    classifier = ScratchCNNClassifier(epochs=1, early_stopping=False, **SMALL).fit(images, y)
    network = classifier._network()
    first = next(layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization))
    found = []
    for batch_size in (7, 16, len(images)):
        estimate_statistics(network, images[..., None], batch_size)
        found.append(np.asarray(first.moving_mean))
    np.testing.assert_allclose(found[0], found[2], rtol=1e-4)
    np.testing.assert_allclose(found[1], found[2], rtol=1e-4)


def test_moving_averages_fail_where_exact_statistics_do_not():
    """An easy task and a few dozen steps: only with exact statistics is the classifier better than chance."""
    draw = np.random.default_rng(0)
    y = np.arange(96) % 2
    images = draw.normal(100, 20, size=(96, 16, 16))
    images[y == 1, :8] += 25
    images = np.clip(images, 0, 255).astype(np.uint8)
    options = {**SMALL, "filters": (8, 16), "epochs": 5, "early_stopping": False, "learning_rate": 0.003, "dropout": 0}
    exact = ScratchCNNClassifier(**options).fit(images, y)
    moving = ScratchCNNClassifier(batch_norm_statistics="moving", **options).fit(images, y)
    assert moving.history_["batch_loss"] == pytest.approx(exact.history_["batch_loss"], rel=1e-3)
    assert exact.score(images, y) > 0.95
    assert moving.score(images, y) < 0.7
    told = moving.batch_norm_scores_
    assert (told["used"], told["part"], told["n_images"]) == ("moving", "training", len(y))
    assert told["moving"]["accuracy"] == moving.score(images, y)
    assert told["exact"]["accuracy"] == pytest.approx(exact.score(images, y), abs=0.03)
    assert exact.batch_norm_scores_ == {"used": "exact"}


def test_without_batch_normalisation_there_is_nothing_to_estimate(data):
    images, y = data
    classifier = ScratchCNNClassifier(batch_norm=False, epochs=1, early_stopping=False, **SMALL).fit(images, y)
    assert len(classifier.weights_) == 2 * (2 + 2)


def test_the_average_head_is_smaller(data):
    images, y = data
    sizes = [
        sum(w.size for w in ScratchCNNClassifier(head=head, epochs=1, **SMALL).fit(images, y).weights_)
        for head in ("avg", "flatten")
    ]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize(
    "options",
    [{"batch_norm_statistics": "both"}, {"head": "max"}, {"filters": ()}, {"filters": (8, 0)}, {"kernel_size": 2.5}],
)
def test_wrong_parameters(data, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}="):
        ScratchCNNClassifier(**options).fit(*data)
