"""Frozen VGG16 features and a logistic regression."""

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from cxr_sklearn import BalancedClassifier, FrozenEmbedder, ImageLoader

PARAM_GRID = {"classify__estimator__logistic__C": [0.001, 0.01, 0.1]}


def build(store="auto", weights="imagenet", random_state=None, balance="none"):
    classifier = Pipeline(
        [
            ("embed", FrozenEmbedder("VGG16", weights=weights, store=store)),
            ("scale", StandardScaler()),
            ("logistic", LogisticRegression(solver="newton-cholesky", random_state=random_state)),
        ]
    )
    balanced = BalancedClassifier(classifier, balance, random_state=random_state)
    return Pipeline([("load", ImageLoader()), ("classify", balanced)])
