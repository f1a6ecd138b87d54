"""Chest X-rays to trustworthy pneumonia classifiers, the scikit-learn way."""

import lazy_loader

__version__ = "0.1.0"

# The names stand in __init__.pyi. A module is imported when one of its names is first asked for, so that
# `import cxr_sklearn` takes no time and never imports Keras.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
