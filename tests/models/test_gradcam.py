"""Gradients of scikit-learn's classifiers, compared with finite differences of the score."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC

from cxr_sklearn.models import _gradcam as heads


class TestHeads:
    rows = np.random.default_rng(0).normal(size=(60, 8)) * np.arange(1, 9) + 5
    # Too noisy for confident predictions: probabilities near 0 or 1 have too few digits for differences.
    target = (rows @ [3, -2, 1, 0, 1, -1, 0, 1] + np.random.default_rng(1).normal(0, 20, 60) > 10).astype(int)

    def check(self, between, head):
        model = make_pipeline(*between, head).fit(self.rows, self.target)
        fitted = [step for _, step in model.steps]
        assert heads.head_obstacle(fitted[:-1], fitted[-1]) is None

        def score(rows):
            if hasattr(head, "decision_function"):
                return model.decision_function(rows)
            probability = model.predict_proba(rows)
            return np.log(probability[:, 1] / probability[:, 0])

        steps = 1e-6 * np.eye(8)
        expected = [[float(np.diff(score(np.stack([row - e, row + e])))[0]) / 2e-6 for e in steps] for row in self.rows]
        found = heads.feature_gradient(fitted[:-1], fitted[-1], self.rows)
        assert np.abs(found).max() > 1e-3
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(
        "head",
        [LogisticRegression(), RidgeClassifier(), LinearDiscriminantAnalysis(), SVC(kernel="linear")],
        ids=lambda head: type(head).__name__,
    )
    def test_linear(self, head):
        self.check([StandardScaler()], head)

    @pytest.mark.parametrize("activation", ["identity", "relu", "tanh", "logistic"])
    def test_perceptrons(self, activation):
        self.check(
            [StandardScaler()],
            # With tol=1 it counts smaller gains as none, and stops after 30 epochs.
            MLPClassifier((6, 5), activation, tol=1, n_iter_no_change=30, learning_rate_init=0.02, random_state=0),
        )

    @pytest.mark.parametrize(
        "between",
        [
            [],
            [StandardScaler(with_std=False)],
            [PCA(3)],
            [StandardScaler(), PCA(3, whiten=True)],
            [SelectKBest(k=4), StandardScaler()],
        ],
        ids=lambda between: "+".join(type(step).__name__ for step in between) or "nothing",
    )
    def test_steps_between(self, between):
        self.check(between, LogisticRegression(max_iter=5000))

    def test_others_are_named(self):
        assert "MinMaxScaler is not a" in heads.head_obstacle([StandardScaler(), MinMaxScaler()], LogisticRegression())
        assert "KNeighborsClassifier is neither" in heads.head_obstacle([], KNeighborsClassifier())
        rbf = SVC(kernel="rbf").fit(self.rows, self.target)
        assert "SVC is neither" in heads.head_obstacle([], rbf)
