import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, norm
from sklearn.metrics import roc_auc_score

from cxr_sklearn._multiplicity import holm
from cxr_sklearn.evaluation.bootstrap import bootstrap
from cxr_sklearn.evaluation.paired import compare_pairs, delong_test, mcnemar_test
from cxr_sklearn.exceptions import DataError

# Ovarian cancer with bowel obstruction: albumin, total protein, K-G score and outcome of 43 patients, of DeLong,
# DeLong and Clarke-Pearson (1988), with the results that the manual of SAS/STAT prints (PROC LOGISTIC, comparing ROC
# curves).
PATIENTS = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1  3.8 5.7 5 1
3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0
4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1
4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1
2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1
"""
ALBUMIN, PROTEIN, KG, OUTCOME = np.array(PATIENTS.split(), dtype=float).reshape(-1, 4).T


@pytest.mark.parametrize(
    ("score", "auc", "delta", "error", "chi_square", "p"),
    [
        (PROTEIN, 0.6478, -0.0780, 0.1046, 0.5554, 0.4561),
        (ALBUMIN, 0.7366, 0.0108, 0.0953, 0.0127, 0.9102),
    ],
)
def test_delong_agrees_with_the_published_example(score, auc, delta, error, chi_square, p):
    found = delong_test(OUTCOME, score, 10 - KG)
    assert roc_auc_score(OUTCOME, score) == pytest.approx(auc, abs=5e-5)
    assert found["delta"] == pytest.approx(delta, abs=5e-5)
    assert found["standard_error"] == pytest.approx(error, abs=5e-5)
    assert (found["delta"] / found["standard_error"]) ** 2 == pytest.approx(chi_square, abs=5e-5)
    assert found["p"] == pytest.approx(p, abs=5e-5)


def test_delong_is_antisymmetric_and_its_delta_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    target = rng.integers(0, 2, 200)
    a, b = np.round(rng.normal(target, 1), 1), rng.normal(target, 2)
    there, back = delong_test(target, a, b), delong_test(target, b, a)
    assert there["delta"] == pytest.approx(roc_auc_score(target, a) - roc_auc_score(target, b))
    assert (there["delta"], there["p"]) == pytest.approx((-back["delta"], back["p"]))


@pytest.mark.parametrize(("other", "delta", "p"), [([2, 4, 6, 8], 0, 1), ([4, 3, 2, 1], 1, 0), ([5, 5, 5, 5], 0.5, 0)])
def test_delong_without_an_error(other, delta, p):
    """The same ranking, its reverse, and a constant."""
    assert delong_test([0, 0, 1, 1], [1, 2, 3, 4], other) == {"delta": delta, "standard_error": 0, "p": p}


def test_delong_of_too_few():
    with pytest.raises(DataError, match="two images of each class"):
        delong_test([0, 1, 1], [1, 2, 3], [1, 2, 3])


@pytest.mark.parametrize("seed", range(3))
def test_delongs_error_is_what_repetitions_show(seed):
    """Over 400 repetitions the z-scores of two equally good classifiers are standard normal."""
    rng = np.random.default_rng(seed)
    z = []
    for _ in range(400):
        target = np.repeat([0, 1], 60)
        shared = rng.normal(target, 1)
        found = delong_test(target, shared + rng.normal(0, 0.7, 120), shared + rng.normal(0, 0.7, 120))
        z.append(found["delta"] / found["standard_error"])
    assert np.std(z) == pytest.approx(1, abs=0.12)
    assert np.mean(np.abs(z) > norm.ppf(0.975)) < 0.09


def test_mcnemar_counts_only_what_one_of_them_gets_right():
    target = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    a = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 1])
    b = np.array([1, 0, 0, 0, 1, 1, 1, 1, 0, 0])
    assert mcnemar_test(target, a, b) == {"only_a": 6, "only_b": 1, "p": binomtest(6, 7).pvalue}
    assert mcnemar_test(target, a, a) == {"only_a": 0, "only_b": 0, "p": 1}


def test_holm_worked_out_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.5]).tolist() == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.6, 0.9]).tolist() == [1, 1]


def test_pairs():
    rng = np.random.default_rng(1)
    target = rng.integers(0, 2, 400)
    good = rng.normal(2.5 * target, 1)
    scores = pd.DataFrame({"good": good, "same": good + rng.normal(0, 0.05, 400), "bad": rng.normal(0, 1, 400)})
    scores = 1 / (1 + np.exp(-scores))
    cuts = dict.fromkeys(scores, 0.5)
    draws = bootstrap(np.arange(400), target, dict(scores.items()), cuts, n_draws=300)
    pairs = {(pair["a"], pair["b"]): pair for pair in compare_pairs(target, scores, cuts, draws, {})}
    assert list(pairs) == [("good", "same"), ("good", "bad"), ("same", "bad")]
    assert [pair["supported"] for pair in pairs.values()] == [False, True, True]
    for (a, b), pair in pairs.items():
        assert pair["delta_auc"] == pytest.approx(roc_auc_score(target, scores[a]) - roc_auc_score(target, scores[b]))
        assert pair["ci95"][0] <= pair["delta_auc"] <= pair["ci95"][1]
    assert pairs["good", "same"]["ci95"][1] - pairs["good", "same"]["ci95"][0] < 0.02  # 0.1 if they were not paired
    assert pairs["good", "same"]["p_holm"] == pairs["good", "same"]["delong"]["p"]
