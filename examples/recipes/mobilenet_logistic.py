"""Frozen MobileNet features and a logistic regression.

The network is cut before its last block: earlier features carry over better from photographs to radiographs, and the
weights file may lack that block.
"""

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from cxr_sklearn import FrozenEmbedder, ImageLoader

PARAM_GRID = {"classify__C": [0.001, 0.01, 0.1]}


def build(store="auto", weights="imagenet", random_state=None):
    embedder = FrozenEmbedder("MobileNet", weights=weights, layer="conv_pw_12_relu", store=store)
    classifier = LogisticRegression(solver="newton-cholesky", random_state=random_state)
    return Pipeline(
        [("load", ImageLoader()), ("embed", embedder), ("scale", StandardScaler()), ("classify", classifier)]
    )
