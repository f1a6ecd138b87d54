"""Frozen VGG16 features and a multi-layer perceptron.

Its early stopping holds out a tenth of the training images by image, not by patient: scikit-learn's perceptron knows
no groups. That can make it stop late; held-out folds and the test images are not touched by it.
"""

from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from cxr_sklearn import BalancedClassifier, FrozenEmbedder, ImageLoader

PARAM_GRID = {
    "classify__estimator__perceptron__hidden_layer_sizes": [(32,), (128,)],
    "classify__estimator__perceptron__alpha": [0.001, 1.0],
}


def build(store="auto", weights="imagenet", random_state=None, balance="none"):
    classifier = Pipeline(
        [
            ("embed", FrozenEmbedder("VGG16", weights=weights, store=store)),
            ("scale", StandardScaler()),
            ("perceptron", MLPClassifier(early_stopping=True, max_iter=100, random_state=random_state)),
        ]
    )
    balanced = BalancedClassifier(classifier, balance, random_state=random_state)
    return Pipeline([("load", ImageLoader()), ("classify", balanced)])
