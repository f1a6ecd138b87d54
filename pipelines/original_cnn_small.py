"""The smaller CNN of the original study, 16-32-64 filters, from scratch.

`original_cnn_large` has twice the filters, and `original_study` is the study's VGG16.

Known of it: grey levels divided by 255; three blocks of convolution and batch normalisation, which predicts with Keras'
own moving averages (momentum .99); Dense, Dropout and one sigmoid unit; decisions at 0.5. Not known, and taken from
Keras' tutorials of the time: 3 x 3 kernels, normalisation after the ReLU and pooling after that, images of 150 x 150
pixels, 256 units, a dropout of .5, ten epochs of Adam with 1e-3 in batches of 32, and no augmentation. The weights are
those of the last epoch: the validation images decide nothing.

Two logits stand here for one sigmoid unit: their softmax is the sigmoid of their difference, so both describe the same
networks, by other parameters. So do one grey channel and three equal ones.
"""

from sklearn.pipeline import Pipeline

from cxr_sklearn import ImageLoader, ScratchCNNClassifier

ON_REQUEST = True
PARAM_GRID = {}


def build(random_state=None):
    classifier = ScratchCNNClassifier(
        filters=(16, 32, 64),
        batch_norm_statistics="moving",
        dense_units=256,
        epochs=10,
        early_stopping=False,
        precision="float32",
        random_state=random_state,
    )
    return Pipeline([("load", ImageLoader(size=150)), ("classify", classifier)])
