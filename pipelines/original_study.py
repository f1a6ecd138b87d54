"""The fine-tuned VGG16 of the original study, as plain Keras.

`original_cnn_small` and `original_cnn_large` are its two other networks.

Known of it: grey levels divided by 255; the convolutions of VGG16 with ImageNet weights, Flatten, Dense, Dropout and
one sigmoid unit; binary cross-entropy; training in two phases, first the head on frozen convolutions, then the last
block with it at a low learning rate; decisions at 0.5. Not known, and taken from Keras' tutorials of the time: images
of 224 x 224 pixels, 256 units, a dropout of .5, Adam with 1e-3 and then 1e-5, ten epochs in either phase, batches of
32, and no augmentation. The weights are those of the last epoch: the validation images decide nothing.

It is not a `FineTunedClassifier`, which differs where the letter matters: that one gives VGG16 the colours it was
trained on, less their means, instead of fractions of 255; it standardises the features before the head; and it has two
logits for one sigmoid. One thing is done otherwise than a student would: what the first four blocks make of an image is
computed once, and not in every epoch again. They never learn, and no image is changed, so the network is the same.
"""

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.pipeline import Pipeline

from cxr_sklearn import FrozenEmbedder, ImageLoader

ON_REQUEST = True
PARAM_GRID = {}


class OriginalVGG16(ClassifierMixin, BaseEstimator):
    """VGG16 fine-tuned in two phases, as a student writes it; weights as for `FrozenEmbedder`."""

    def __init__(self, weights="imagenet", head_epochs=10, epochs=10, random_state=None):
        self.weights = weights
        self.head_epochs = head_epochs
        self.epochs = epochs
        self.random_state = random_state

    def fit(self, X, y):
        """Train on an ImageBatch and labels of two classes."""
        # One image through VGG16, so that missing or wrong weights are reported here, in one line, and not by Keras.
        FrozenEmbedder("VGG16", weights=self.weights, store=None, precision="float32").fit_transform(X[:1])
        import keras

        if self.random_state is not None:
            keras.utils.set_random_seed(self.random_state)  # initial weights, dropout, and the order of the images
        self.classes_, target = np.unique(y, return_inverse=True)
        self.image_shape_ = np.asarray(X[:1]).shape[1:]
        vgg16 = self._convolutions(None if self.weights == "random" else self.weights)
        frozen = keras.Model(vgg16.input, vgg16.get_layer("block4_pool").output)
        blocks = frozen.predict(np.asarray(X) / np.float32(255), batch_size=32, verbose=0)
        block5 = [layer for layer in vgg16.layers if layer.name.startswith("block5")]
        head = self._head()
        network = keras.Sequential([keras.Input(blocks.shape[1:]), *block5, *head])

        for epochs, learning_rate, learns in ((self.head_epochs, 1e-3, False), (self.epochs, 1e-5, True)):
            for layer in block5:
                layer.trainable = learns
            network.compile(keras.optimizers.Adam(learning_rate), "binary_crossentropy")
            network.fit(blocks, target, batch_size=32, epochs=epochs, verbose=0)
        # Plain arrays, so that a fitted classifier can be pickled.
        self.weights_ = [*vgg16.get_weights(), *(array for layer in head for array in layer.get_weights())]
        return self

    def _convolutions(self, weights):
        import keras

        return keras.applications.VGG16(weights=weights, include_top=False, input_shape=self.image_shape_)

    def _head(self):
        import keras

        return [
            keras.layers.Flatten(),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(1, activation="sigmoid"),
        ]

    def predict_proba(self, X):
        """Return the probability of each class, shape (n, 2)."""
        import keras

        network = keras.Sequential([self._convolutions(None), *self._head()])
        network.set_weights(self.weights_)
        positive = network.predict(np.asarray(X) / np.float32(255), batch_size=32, verbose=0)[:, 0].astype(float)
        return np.column_stack([1 - positive, positive])

    def predict(self, X):
        """Decide at 0.5."""
        return self.classes_[(self.predict_proba(X)[:, 1] >= 0.5).astype(int)]


def build(weights="imagenet", random_state=None):
    classifier = OriginalVGG16(weights, random_state=random_state)
    return Pipeline([("load", ImageLoader(size=224)), ("classify", classifier)])
