import numpy as np
import pandas as pd
import pytest

from cxr_sklearn.evaluation.diagnosis import diagnose
from cxr_sklearn.report.sentences import finding_sentence
from cxr_sklearn.report.words import words
from cxr_sklearn.study.search import training_table

NO_TRAINING = pd.DataFrame(columns=["pipeline", "phase", "epoch", "loss"])


def table(low, high):
    """Fifty normal images with scores around `low`, fifty of pneumonia around `high`."""
    spread = np.linspace(-0.05, 0.05, 50)
    return pd.DataFrame({"target": np.repeat([0, 1], 50), "score": np.r_[low + spread, high + spread]})


def said(scores, auc, training=NO_TRAINING, batch_norm=None):
    return " ".join(finding_sentence(finding, words("en")) for finding in diagnose(scores, auc, training, batch_norm))


def history(loss, val_loss):
    return training_table("cnn", {"all": {"loss": loss, "val_loss": val_loss}})


def test_nothing_stands_out():
    assert diagnose(table(0.2, 0.8), 1.0, history([0.5, 0.4], [0.5, 0.45]), {"used": "exact"}) == []


def test_everything_is_called_pneumonia_though_the_ranking_is_good():
    text = said(table(0.7, 0.9), 1.0)
    assert "the share of test images called pneumonia is 1.000 (accuracy 0.500)" in text
    assert "still ranks them well (AUC 1.000)" in text
    assert "batch" not in text


def test_everything_is_called_normal_and_nothing_was_learnt():
    text = said(table(0.3, 0.3), 0.5)
    assert "the share of test images called normal is 1.000" in text
    assert "Nor does it rank them well (AUC 0.500)" in text


def test_good_ranking_and_a_bad_threshold():
    scores = table(0.53, 0.9)
    assert "is 0.900 (accuracy" in said(scores, 0.98)
    assert said(scores, 0.7) == ""


@pytest.mark.parametrize(("exact", "cured"), [(0.87, True), (0.52, False)])
def test_whether_exact_batch_norm_statistics_would_have_cured_it(exact, cured):
    facts = {
        "used": "moving",
        "n_images": 96,
        "part": "validation",
        "moving": {"accuracy": 0.5},
        "exact": {"accuracy": exact},
    }
    text = said(table(0.7, 0.9), 0.82, batch_norm=facts)
    assert f"accuracy of {exact:.3f} instead of 0.500 on 96 validation images" in text
    assert ("would have solved" in text) == cured
    assert ("would not have helped" in text) != cured


def test_exact_statistics_are_not_the_reason():
    assert "are exact, so they are not the reason" in said(table(0.7, 0.9), 0.9, batch_norm={"used": "exact"})


def test_memorising():
    text = said(table(0.2, 0.8), 1.0, history([0.6, 0.4, 0.1, 0.02, 0.01], [0.6, 0.45, 0.6, 0.9, 1.0]))
    assert "from epoch 2 to 5, the loss rose from 0.450 to 0.900 on the validation images" in text
    assert "fell from 0.400 to 0.020" in text
    assert "head" not in text
    alone = training_table("cnn", {"head": {"loss": [0.4, 0.1, 0.1], "val_loss": [0.4, 0.6, 0.6]}})
    assert "diverge while only the head is trained" in said(table(0.2, 0.8), 1.0, alone)


@pytest.mark.parametrize(
    ("loss", "val_loss"),
    [
        ([0.6, 0.5, 0.5, 0.45], [0.6, 0.45, 0.5, 0.48]),  # it rose a little
        ([0.6, 0.5, 0.55, 0.6, 0.5], [0.6, 0.45, 0.8, 0.9, 0.8]),  # both got worse
        ([0.6, 0.5, 0.4, 0.3, 0.2], [0.6, 0.45, 0.46, 0.45, 0.9]),  # one bad epoch
    ],
)
def test_what_is_not_memorising(loss, val_loss):
    assert said(table(0.2, 0.8), 1.0, history(loss, val_loss)) == ""


def test_without_validation_nothing_can_be_said():
    assert said(table(0.2, 0.8), 1.0, training_table("cnn", {"all": {"loss": [0.1]}})) == ""
