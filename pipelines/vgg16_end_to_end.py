"""All of VGG16 trained on images of 64 x 64 pixels, for thousands of images.

At 64 x 64 pixels a pass over five thousand images takes a minute or two on two cores. It sees whole images. Strong
augmentation and hard labels were chosen on changed validation images (``compare --stress``).

Classes are weighted by their rarity.
"""

from sklearn.pipeline import Pipeline

from cxr_sklearn import FineTunedClassifier, ImageAugmenter, ImageLoader

PARAM_GRID = {}
ON_REQUEST = True


def build(weights="imagenet", random_state=None, checkpoint=None):
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
        class_weight="balanced",
        early_stopping=False,
        augmenter=ImageAugmenter(rotation=15, shift=0.1, zoom=0.2, brightness=0.2, contrast=0.4),
        checkpoint=checkpoint,
        random_state=random_state,
    )
    return Pipeline([("load", ImageLoader(size=64)), ("classify", classifier)])
