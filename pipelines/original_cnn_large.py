"""The larger CNN of the original study, 32-64-128 filters, from scratch.

Everything except the filters is as in `original_cnn_small`, which says what is known and what is a guess.
"""

from sklearn.pipeline import Pipeline

from cxr_sklearn import ImageLoader, ScratchCNNClassifier

ON_REQUEST = True
PARAM_GRID = {}


def build(random_state=None):
    classifier = ScratchCNNClassifier(
        filters=(32, 64, 128),
        batch_norm_statistics="moving",
        dense_units=256,
        epochs=10,
        early_stopping=False,
        precision="float32",
        random_state=random_state,
    )
    return Pipeline([("load", ImageLoader(size=150)), ("classify", classifier)])
