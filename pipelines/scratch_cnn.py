"""A CNN trained from scratch, with exact batch-norm statistics and augmentation."""

from sklearn.pipeline import Pipeline

from cxr_sklearn import ImageAugmenter, ImageLoader, ScratchCNNClassifier

PARAM_GRID = {}


def build(random_state=None):
    classifier = ScratchCNNClassifier(
        filters=(16, 32, 64),
        epochs=30,
        learning_rate=5e-4,
        augmenter=ImageAugmenter(),
        random_state=random_state,
    )
    return Pipeline([("load", ImageLoader(size=128)), ("classify", classifier)])
