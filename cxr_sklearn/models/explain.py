"""explain: one heat map per image, of what a fitted pipeline's score rests on."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from .._settings import usual_settings
from .._validation import checks_types
from ..exceptions import InputError
from ..images.batch import every_unreadable
from ._gradcam import gradcam_maps, gradcam_obstacle
from ._occlusion import occlusion_maps
from ._steps import fitted_steps, loaded

METHODS = ("auto", "gradcam", "occlusion")
_CHUNK_SIZE = 16


@usual_settings
@checks_types
def explain(pipeline: Any, X: Any, method: str = "auto") -> np.ndarray:
    """Map, for each image, the places that raise its score for pneumonia.

    Such a map says what the classifier responded to, not where a disease is.

    Parameters
    ----------
    pipeline : CXRModel or Pipeline
        Fitted on 0 (normal) and 1 (pneumonia). The score is explained before calibration and without test-time
        augmentation.
    X : array-like of n paths, or images in any other form that the pipeline takes
    method : {"auto", "gradcam", "occlusion"}, default="auto"
        "gradcam" multiplies the last feature maps of the network with the gradient of the score's log-odds with respect
        to them, place by place, and sums over the channels. Where maps are averaged to one vector, that is Grad-CAM
        (Selvaraju et al., 2017), and with a linear classifier behind it CAM (Zhou et al., 2016). Where they are
        flattened, Grad-CAM would average the gradient over all places and so show some that the score does not depend
        on (Draelos & Carin, 2020). It is for ScratchCNNClassifier and FineTunedClassifier, and for a FrozenEmbedder
        followed by StandardScaler, PCA or feature selection, if any, and a linear classifier or an MLPClassifier.

        "occlusion" is for every classifier with ``predict_proba``: a patch of the image's mean grey level, a seventh of
        its height and width, is laid on 14 x 14 places, and the map is how far the probability falls (Zeiler & Fergus,
        2014). That takes 197 predictions an image; none is kept in the feature store.

        "auto" is "gradcam" where it can be, else "occlusion".

    Returns
    -------
    ndarray of shape (n, H, W) and dtype float32
        As large as the images that the pipeline loads, from 0 to 1: each map is scaled to a maximum of 1, so two maps
        cannot be compared. What lowers the score is 0; a map is 0 everywhere if nothing raises it.

    Raises
    ------
    ValueError
        If there is no such method, it cannot explain this pipeline, or the pipeline is not fitted or takes no images.
    ImageReadError
        If images cannot be read; the error lists every one.
    WeightsUnavailableError
        If the weights of a pretrained network are gone.

    References
    ----------
    Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra (2017). Grad-CAM: visual explanations from deep networks via
    gradient-based localization. ICCV. https://arxiv.org/abs/1610.02391
    Zhou, Khosla, Lapedriza, Oliva, Torralba (2016). Learning deep features for discriminative localization. CVPR.
    https://arxiv.org/abs/1512.04150
    Draelos, Carin (2020). Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural networks.
    https://arxiv.org/abs/2011.08891
    Zeiler, Fergus (2014). Visualizing and understanding convolutional networks. ECCV. https://arxiv.org/abs/1311.2901
    """
    if method not in METHODS:
        raise InputError(f"method={method!r} must be one of {METHODS}")
    images, steps = loaded(fitted_steps(pipeline), X)
    obstacle = gradcam_obstacle(steps) if method != "occlusion" else None
    if method == "gradcam" and obstacle is not None:
        raise InputError(f"Grad-CAM cannot explain this pipeline: {obstacle}; use method='occlusion'")
    by_occlusion = method == "occlusion" or obstacle is not None
    make_maps = occlusion_maps(steps) if by_occlusion else gradcam_maps(steps)
    n, height, width, _ = images.shape
    heat = np.zeros((n, height, width), dtype=np.float32)
    with every_unreadable(images):
        for start in range(0, n, _CHUNK_SIZE):
            for i, coarse in enumerate(make_maps(images[start : start + _CHUNK_SIZE]), start):
                heat[i] = _enlarged(coarse, height, width)
    return heat


def _enlarged(coarse: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the positive part of a map, enlarged to the size of the image and scaled to a maximum of 1."""
    positive = Image.fromarray(np.maximum(coarse, 0).astype(np.float32))
    large = np.asarray(positive.resize((width, height), Image.Resampling.BILINEAR))
    return large / large.max() if large.max() > 0 else large
