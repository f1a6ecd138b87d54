"""VGG16 with a new head, trained from block4_conv3 on; the model file carries the frozen layers, too."""

from cxr_sklearn.study.recipes import load_recipe

PARAM_GRID = {}


def build(weights="imagenet", random_state=None, checkpoint=None):
    """Build the shipped recipe of this name, for models that need no weights file where they are used."""
    shipped = load_recipe("vgg16_finetuned")
    pipeline = shipped.build(weights=weights, random_state=random_state, checkpoint=checkpoint)
    return pipeline.set_params(classify__carry_frozen=True)
