"""Classifiers that train a Keras network and behave like any other scikit-learn estimator."""
