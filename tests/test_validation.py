from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxr_sklearn import BalancedClassifier, ScratchCNNClassifier
from cxr_sklearn._validation import fit_params


def test_each_estimator_gets_what_it_takes():
    given = {"sample_weight": [1], "groups": ["a"]}
    assert fit_params(LogisticRegression(), **given) == {"sample_weight": [1]}
    assert fit_params(KNeighborsClassifier(), **given) == {}
    assert fit_params(ScratchCNNClassifier(), **given) == given
    assert fit_params(ScratchCNNClassifier(), sample_weight=None, groups=["a"]) == {"groups": ["a"]}


def test_of_a_pipeline_the_last_step_gets_it():
    inner = make_pipeline(StandardScaler(), BalancedClassifier(LogisticRegression()))
    assert fit_params(make_pipeline(StandardScaler(), inner), groups=["a"]) == {
        "pipeline__balancedclassifier__groups": ["a"]
    }
