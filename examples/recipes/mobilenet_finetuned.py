"""MobileNet without its last block, with a new head; blocks 11 and 12 are trained along."""

from sklearn.pipeline import Pipeline

from cxr_sklearn import FineTunedClassifier, ImageLoader

PARAM_GRID = {"classify__learning_rate": [1e-5, 1e-4]}


def build(weights="imagenet", random_state=None):
    classifier = FineTunedClassifier(
        "MobileNet",
        weights=weights,
        trainable_from="conv_dw_11",
        layer="conv_pw_12_relu",
        random_state=random_state,
    )
    return Pipeline([("load", ImageLoader()), ("classify", classifier)])
