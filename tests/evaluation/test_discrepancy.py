import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.metrics import confusion_matrix, roc_auc_score

from cxr_sklearn import diagnose_discrepancy
from cxr_sklearn.evaluation.discrepancy import NONE, OTHER_IMAGES, OTHER_INPUT, SHUFFLED, THRESHOLD
from cxr_sklearn.evaluation.metrics import compute_metrics, confusion_cells
from cxr_sklearn.exceptions import InputError

REPORTED = {"accuracy": 0.9103, "precision": 0.9138, "recall": 0.9060, "roc_auc": 0.9608, "n": 468}
PREDICTED = [[228, 6], [103, 131]]
TARGET = np.repeat([0, 1], 234)


def verdicts(reported, matrix):
    return diagnose_discrepancy(reported, matrix).set_index("cause")["verdict"].to_dict()


def reason(reported, matrix, cause):
    return diagnose_discrepancy(reported, matrix).set_index("cause").loc[cause, "reason"]


def first(reported, matrix):
    return tuple(diagnose_discrepancy(reported, matrix).loc[0, ["cause", "verdict"]])


def simulated(seed, d=2.7, slope=1.0, n=234):
    """Targets, normal ones first, and binormal scores that decide at 0."""
    draw, target = np.random.default_rng(seed), np.repeat([0, 1], n)
    spread = np.where(target == 1, 1 / slope, 1.0)
    return target, spread * draw.normal(size=2 * n) + np.where(target == 1, d / 2, -d / 2)


def rounded(target, score, decimals=4):
    """Metrics that would be published for scores decided at 0."""
    metrics = compute_metrics(target, norm.cdf(score), 0.5)
    used = ("accuracy", "precision", "recall", "roc_auc")
    return {**{name: round(metrics[name], decimals) for name in used}, "n": len(target)}


def test_the_original_study():
    table = diagnose_discrepancy(REPORTED, PREDICTED)
    assert table.columns.tolist() == ["cause", "verdict", "reason"]
    assert table[["cause", "verdict"]].to_numpy().tolist() == [
        [OTHER_INPUT, "consistent"],
        [THRESHOLD, "unlikely"],
        [OTHER_IMAGES, "ruled out"],
        [SHUFFLED, "ruled out"],
    ]
    other, threshold, images, shuffled = table["reason"]
    assert "true positives went from 212 to 131 and false positives from 20 to 6" in other
    assert "d' 2.66 and 2.07, p = 0.023" in threshold
    assert "unequal spread, slope 2.1 and AUC 0.963, would" in threshold
    assert "468 images in both" in images
    assert "tp 212, fn 22, fp 20, tn 214" in images
    assert "Recall 0.560 and false positive rate 0.026 differ" in shuffled
    assert "232 by the metrics, not 137" in shuffled


@pytest.mark.parametrize("seed", range(20))
def test_shuffled(seed):
    """With the original counts: the same 232 images are called positive, regardless of their labels."""
    decision = np.repeat([0, 1, 0, 1], [214, 20, 22, 212])
    matrix = confusion_matrix(TARGET, np.random.default_rng(seed).permutation(decision))
    assert matrix[:, 1].sum() == 232
    assert first(REPORTED, matrix) == (SHUFFLED, "consistent")
    assert verdicts(REPORTED, matrix)[OTHER_INPUT] == "unlikely"


def test_shuffling_keeps_the_number_called_positive():
    assert verdicts(REPORTED, [[118, 116], [118, 116]])[SHUFFLED] == "consistent"
    assert first(REPORTED, [[118, 116], [119, 115]]) == (OTHER_INPUT, "consistent")
    assert verdicts(REPORTED, [[118, 116], [119, 115]])[SHUFFLED] == "unlikely"
    assert "232 by the metrics, not 231" in reason(REPORTED, [[118, 116], [119, 115]], SHUFFLED)


def test_weak_dependence_does_not_rule_out_shuffling():
    """130 against 102 happens in one of a hundred shuffles."""
    assert verdicts(REPORTED, [[132, 102], [104, 130]])[SHUFFLED] == "unlikely"
    assert verdicts(REPORTED, [[142, 92], [94, 140]])[SHUFFLED] == "ruled out"


@pytest.mark.parametrize("n", [468, None])
def test_truncated(n):
    """14 batches of 32 leave out the last 20 images, all of them pneumonia."""
    target, score = simulated(0)
    reported = rounded(target, score)
    if n is None:
        del reported["n"]
    matrix = confusion_matrix(target[:448], score[:448] >= 0)
    assert first(reported, matrix) == (OTHER_IMAGES, "consistent")
    assert list(verdicts(reported, matrix).values()) == ["consistent", "unlikely", "unlikely", "ruled out"]
    why = reason(reported, matrix, OTHER_IMAGES)
    assert why.startswith("The metrics are of 468 images, the matrix of 448." if n else "No counts of as many images")
    assert "alone" not in why


def test_truncated_and_something_else():
    target, score = simulated(0)
    matrix = confusion_matrix(target[:448], np.random.default_rng(2).permutation(score)[:448] >= 0)
    assert verdicts(rounded(target, score), matrix) == dict.fromkeys(
        (OTHER_IMAGES, SHUFFLED, THRESHOLD, OTHER_INPUT), "consistent"
    )
    assert "That alone would hardly bring recall from 0." in reason(rounded(target, score), matrix, OTHER_IMAGES)


def test_metrics_without_n_leave_the_set_of_images_open():
    del (reported := dict(REPORTED))["n"]
    assert first(reported, PREDICTED) == (OTHER_INPUT, "consistent")
    assert verdicts(reported, PREDICTED)[OTHER_IMAGES] == "unlikely"


@pytest.mark.parametrize("threshold", [-3, -1.5, 0.5, 1.2, 2, 3, 9])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_moved_threshold(seed, threshold):
    target, score = simulated(seed)
    matrix = confusion_matrix(target, score >= threshold)
    assert first(rounded(target, score), matrix) == (THRESHOLD, "consistent")
    assert "compare the scores" in reason(rounded(target, score), matrix, OTHER_INPUT)


def test_few_moved_thresholds_are_called_unlikely():
    """The test's level is 5 %, and it is conservative."""
    unlikely = 0
    for seed in range(100):
        target, score = simulated(seed)
        matrix = confusion_matrix(target, score >= 1.2)
        unlikely += verdicts(rounded(target, score), matrix)[THRESHOLD] == "unlikely"
    assert 1 <= unlikely <= 5


def test_a_threshold_moved_exactly_along_the_curve():
    """The original list at the same false positives, if the scores of both classes had the same spread."""
    recall = norm.cdf(norm.ppf(212 / 234) - norm.ppf(20 / 234) + norm.ppf(6 / 234))
    tp = round(234 * recall)
    assert tp == 180
    assert first(REPORTED, [[228, 6], [234 - tp, tp]]) == (THRESHOLD, "consistent")


def test_unequal_spread_is_held_against_a_threshold_but_does_not_rule_it_out():
    target, score = simulated(0, d=5, slope=0.4, n=2000)
    cells = confusion_cells(target, norm.cdf(score), norm.cdf(-1.5))
    assert verdicts(rounded(target, score), cells)[THRESHOLD] == "unlikely"
    slope = float(reason(rounded(target, score), cells, THRESHOLD).split("slope ")[1].split()[0])
    assert slope == pytest.approx(0.4, abs=0.06)
    area = float(reason(rounded(target, score), cells, THRESHOLD).split("and AUC ")[1].split(",")[0])
    assert area == pytest.approx(roc_auc_score(target, score), abs=0.01)


def test_opposite_moves_rule_a_threshold_out():
    assert verdicts(REPORTED, [[213, 21], [23, 211]])[THRESHOLD] == "ruled out"
    assert "both rates up or both down" in reason(REPORTED, [[213, 21], [23, 211]], THRESHOLD)
    assert verdicts(REPORTED, [[213, 21], [22, 212]])[THRESHOLD] == "consistent"


def test_the_auc_may_rule_a_threshold_out():
    """A curve through recall .103 at a false positive rate of .060 cannot have enough area."""
    matrix = [[220, 14], [210, 24]]
    assert verdicts(REPORTED, matrix)[THRESHOLD] == "ruled out"
    assert "AUC of 0.831 to 0.944, not the reported 0.961" in reason(REPORTED, matrix, THRESHOLD)
    without = {name: value for name, value in REPORTED.items() if name != "roc_auc"}
    assert verdicts(without, matrix)[THRESHOLD] == "unlikely"
    assert verdicts({**REPORTED, "roc_auc": 0.94}, matrix)[THRESHOLD] == "unlikely"
    assert verdicts({**REPORTED, "roc_auc": 0.80}, matrix)[THRESHOLD] == "ruled out"


def test_the_bounds_of_the_auc_are_those_of_the_extreme_curves():
    """Scores whose curve runs through both points with the most, and with the least, area."""
    cells = {1: (24, 188, 22), 0: (14, 6, 214)}  # above the matrix's threshold, between both, below the reported one
    areas = []
    for order in ((1, 0), (0, 1)):
        runs = [(label, cells[label][k]) for k in range(3) for label in order]
        target = np.repeat(*zip(*runs, strict=True))
        areas.append(roc_auc_score(target, -np.arange(len(target))))
    assert f"AUC of {areas[1]:.3f} to {areas[0]:.3f}" in reason(REPORTED, [[220, 14], [210, 24]], THRESHOLD)


@pytest.mark.parametrize("seed", range(5))
def test_other_weights(seed):
    """A worse classifier of the same images: more of both errors."""
    target, score = simulated(seed)
    matrix = confusion_matrix(target, simulated(seed + 100, d=1.2)[1] >= 0)
    assert first(rounded(target, score), matrix) == (OTHER_INPUT, "consistent")


@pytest.mark.parametrize("decimals", [2, 4, 17])
def test_no_discrepancy(decimals):
    target, score = simulated(0)
    matrix = confusion_matrix(target, score >= 0)
    table = diagnose_discrepancy(rounded(target, score, decimals), matrix)
    assert table["cause"].tolist() == [NONE, OTHER_IMAGES, SHUFFLED, THRESHOLD, OTHER_INPUT]
    assert table["verdict"].tolist() == ["consistent", *["unlikely"] * 4]


def test_no_discrepancy_is_claimed_only_for_the_same_images():
    matrix = [[214, 20], [22, 212]]
    assert first(REPORTED, matrix) == (NONE, "consistent")
    assert first({**REPORTED, "n": 480}, matrix) == (OTHER_IMAGES, "consistent")
    assert NONE not in verdicts(REPORTED, PREDICTED)


def test_values_may_be_off_by_their_rounding_and_no_more():
    matrix = [[214, 20], [22, 212]]
    assert first({"accuracy": 0.91, "recall": 0.906}, matrix)[0] == NONE
    assert first({"accuracy": 0.91, "recall": 0.9}, matrix)[0] != NONE
    assert first({"accuracy": np.float32(426 / 468), "recall": np.float32(212 / 234)}, matrix)[0] == NONE
    assert first({"accuracy": 0.9102, "recall": 0.9060}, matrix)[0] == OTHER_IMAGES


@pytest.mark.parametrize("names", [("precision", "f1"), ("specificity", "f1"), ("accuracy", "precision")])
def test_any_two_metrics_imply_the_counts(names):
    target, score = simulated(0)
    metrics = compute_metrics(target, norm.cdf(score), 0.5)
    cells = confusion_cells(target, norm.cdf(score), 0.5)
    reported = {**{name: metrics[name] for name in names}, "n": 468}
    assert first(reported, cells)[0] == NONE
    assert ", ".join(f"{name} {count}" for name, count in cells.items()) in reason(reported, PREDICTED, OTHER_IMAGES)


def test_nothing_called_positive():
    reported = {"accuracy": 0.5, "precision": 0, "recall": 0.0, "f1": 0.0, "n": 468}
    assert first(reported, [[234, 0], [234, 0]]) == (NONE, "consistent")


def test_all_metrics_and_either_layout():
    """The results of compute_metrics and confusion_cells can be passed unchanged."""
    target, score = simulated(0)
    metrics = compute_metrics(target, norm.cdf(score), 0.5)
    cells = confusion_cells(target, norm.cdf(score), 0.9)
    matrix = confusion_matrix(target, norm.cdf(score) >= 0.9)
    assert cells["fp"] < cells["fn"]
    assert diagnose_discrepancy(metrics, cells).equals(diagnose_discrepancy(metrics, matrix.astype(float).tolist()))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"accuracy": 91.03}, "accuracy=91.03 must be a fraction from 0 to 1; divide a percentage by 100"),
        ({"recall": -0.1}, "recall=-0.1 must be a fraction"),
        ({"roc_auc": float("nan")}, "roc_auc=nan must be a fraction"),
        ({"precision": ".91"}, "precision='.91' must be a fraction"),
        ({"acc": 0.96}, r"holds \['acc'\]; the names are \['accuracy'"),
        ({"recall": True}, "recall=True must be a fraction"),
        ({"recall": 0.1, "specificity": 0.1}, "accuracy lies between recall and specificity"),
        ({"n": 468.5}, "n=468.5 must be a number of images"),
        ({"n": 0}, "n=0 must be a number of images"),
    ],
)
def test_bad_metrics(changed, message):
    with pytest.raises(InputError, match=message):
        diagnose_discrepancy({**REPORTED, **changed}, PREDICTED)


def test_names_of_keras_and_of_the_clinic():
    other = {"accuracy": 0.9103, "sensitivity": 0.9060, "precision": 0.9138, "auc": 0.9608}
    same = {"accuracy": 0.9103, "recall": 0.9060, "precision": 0.9138, "roc_auc": 0.9608}
    pd.testing.assert_frame_equal(diagnose_discrepancy(other, PREDICTED), diagnose_discrepancy(same, PREDICTED))


@pytest.mark.parametrize("few", [{}, {"accuracy": 0.91}, {"accuracy": 0.91, "roc_auc": 0.96, "n": 468}])
def test_too_few_metrics(few):
    with pytest.raises(InputError, match=r"two or more of \['accuracy', .*\] to imply counts"):
        diagnose_discrepancy(few, PREDICTED)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[-1, 6], [103, 131]], "whole numbers of images"),
        ([[0.974, 0.026], [0.44, 0.56]], "whole numbers of images"),
        ([[np.inf, 6], [103, 131]], "whole numbers of images"),
        ([["228", "6"], ["103", "131"]], "whole numbers of images"),
        ([[0, 0], [103, 131]], "some of either class"),
        ([[228, 6], [0, 0]], "some of either class"),
        ([228, 6, 103, 131], r"must be \[\[tn, fp\], \[fn, tp\]\], .* not \[228, 6, 103, 131\]"),
        ({"tp": 131, "fn": 103, "fp": 6}, r"not \[\[None, 6\], \[103, 131\]\]"),
        ({"tp": 131, "fn": 103, "fp": 6, "tn": -228}, "whole numbers of images"),
    ],
)
def test_bad_matrices(matrix, message):
    with pytest.raises(InputError, match=message):
        diagnose_discrepancy(REPORTED, matrix)
