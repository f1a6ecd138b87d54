"""A recipe with an ImageLoader that needs no Keras: the mean grey level of each row of pixels."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from cxr_sklearn import ImageLoader

PARAM_GRID = {"classify__C": [0.01, 1]}


def build():
    means = FunctionTransformer(np.mean, kw_args={"axis": (2, 3)})
    return Pipeline(
        [
            ("load", ImageLoader(size=8)),
            ("mean", means),
            ("scale", StandardScaler()),
            ("classify", LogisticRegression()),
        ]
    )
