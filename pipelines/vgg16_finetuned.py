"""VGG16 with a new head, its last block trained along."""

from sklearn.pipeline import Pipeline

from cxr_sklearn import BalancedClassifier, FineTunedClassifier, ImageLoader

PARAM_GRID = {"classify__estimator__learning_rate": [1e-5, 1e-4]}


def build(weights="imagenet", random_state=None, balance="none"):
    classifier = FineTunedClassifier("VGG16", weights=weights, random_state=random_state)
    balanced = BalancedClassifier(classifier, balance, random_state=random_state)
    return Pipeline([("load", ImageLoader()), ("classify", balanced)])
