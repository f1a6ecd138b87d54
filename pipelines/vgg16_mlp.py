"""Frozen VGG16 features of three blocks and a multi-layer perceptron.

The perceptron is held back by a strong penalty rather than by early stopping: what scikit-learn's would hold out for
that are images, not patients, and on changed validation images (``compare --stress``) the penalty does better.
"""

from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from cxr_sklearn import FrozenEmbedder, ImageLoader

PARAM_GRID = {}
LAYERS = ("block3_pool", "block4_pool", "block5_pool")


def build(store="auto", weights="imagenet", precision="auto", random_state=None):
    return Pipeline(
        [
            ("load", ImageLoader(crop=0.8)),
            ("embed", FrozenEmbedder("VGG16", weights=weights, layer=LAYERS, precision=precision, store=store)),
            ("scale", StandardScaler()),
            ("classify", MLPClassifier((128,), alpha=30, max_iter=1000, random_state=random_state)),
        ]
    )
