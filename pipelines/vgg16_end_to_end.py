"""All of VGG16 trained on images of 64 x 64 pixels, for thousands of images.

At 64 x 64 pixels a pass over five thousand images takes a minute or two on two cores. It sees whole images. Strong
augmentation and hard labels were chosen on changed validation images (``compare --stress``).

Classes are weighted by their rarity, unless `balance` makes them equal in another way.
"""

from sklearn.pipeline import Pipeline

from cxr_sklearn import BalancedClassifier, FineTunedClassifier, ImageAugmenter, ImageLoader

PARAM_GRID = {}
ON_REQUEST = True


def build(weights="imagenet", random_state=None, balance="none", checkpoint=None):
    classifier = FineTunedClassifier(
        "VGG16",
        weights=weights,
        trainable_from="all",
        dense_units=0,
        head_epochs=0,
        epochs=10,
        learning_rate=1e-4,
        schedule="cosine",
        warmup=0.5,
        class_weight="balanced" if balance == "none" else None,
        early_stopping=False,
        augmenter=ImageAugmenter(rotation=15, shift=0.1, zoom=0.2, brightness=0.2, contrast=0.4),
        checkpoint=checkpoint,
        random_state=random_state,
    )
    balanced = BalancedClassifier(classifier, balance, random_state=random_state)
    return Pipeline([("load", ImageLoader(size=64)), ("classify", balanced)])
