import numpy as np
import pytest

from cxr_sklearn.evaluation.metrics import METRICS, compute_metrics, confusion_cells

from .test_summary import all_metrics

TARGET = np.array([0, 0, 0, 1, 1, 1, 1, 0])
SCORE = np.array([0.1, 0.4, 0.6, 0.35, 0.8, 0.9, 0.6, 0.2])


def test_values_worked_out_by_hand():
    values = compute_metrics(TARGET, SCORE, 0.6)
    assert list(values) == list(METRICS)
    assert values["accuracy"] == 6 / 8
    assert values["precision"] == 3 / 4
    assert values["recall"] == 3 / 4
    assert values["specificity"] == 3 / 4
    assert values["f1"] == 3 / 4
    assert values["mcc"] == 0.5
    assert values["roc_auc"] == 13.5 / 16
    assert values["brier"] == pytest.approx(np.mean((TARGET - SCORE) ** 2))
    assert values["log_loss"] == pytest.approx(-np.mean(np.log(np.where(TARGET == 1, SCORE, 1 - SCORE))))
    assert confusion_cells(TARGET, SCORE, 0.6) == {"tp": 3, "fn": 1, "fp": 1, "tn": 3}


def test_a_score_at_the_threshold_is_called_pneumonia():
    assert confusion_cells([1], [0.5], 0.5)["tp"] == 1
    assert confusion_cells([1], [0.5], np.nextafter(0.5, 1))["fn"] == 1


def test_everything_called_normal_is_not_an_error():
    values = compute_metrics(TARGET, SCORE, 2)
    assert (values["precision"], values["f1"], values["mcc"], values["specificity"]) == (0, 0, 0, 1)


def test_metrics_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    target, score = rng.integers(0, 2, 999), np.round(rng.random(999), 2)  # ties, zeros and ones
    assert compute_metrics(target, score, 0.3) == pytest.approx(all_metrics(target, score, 0.3), rel=1e-12)
