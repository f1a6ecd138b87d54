"""VGG16 with a new head, trained from block4_conv3 on: for a few hundred images.

A new view of every image in every epoch, a learning rate that rises for half an epoch and then falls to nothing, and
no early stopping: validation images that are drawn like the training images are told apart almost perfectly, and say
little about when to stop. Softer labels, weight decay and the mean of the last weights were chosen on changed
validation images (``compare --stress``).

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
        trainable_from="block4_conv3",
        dense_units=0,
        head_epochs=0,
        epochs=8,
        learning_rate=1e-4,
        schedule="cosine",
        warmup=0.5,
        weight_decay=0.01,
        label_smoothing=0.1,
        average_epochs=3,
        class_weight="balanced",
        early_stopping=False,
        augmenter=ImageAugmenter(rotation=11, shift=0.06, zoom=0.12, brightness=0.1, contrast=0.25),
        n_views=None,
        checkpoint=checkpoint,
        random_state=random_state,
    )
    return Pipeline([("load", ImageLoader(crop=0.8)), ("classify", classifier)])
