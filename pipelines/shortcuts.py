"""Width, height, aspect ratio, brightness and contrast: what can be had without looking at a lung."""

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from cxr_sklearn import ShortcutFeatures

PARAM_GRID = {}


def build(store="auto", random_state=None):
    return Pipeline(
        [
            ("measure", ShortcutFeatures(store=store)),
            ("scale", StandardScaler()),
            ("classify", LogisticRegression(random_state=random_state)),
        ]
    )
