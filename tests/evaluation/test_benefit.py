from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_sklearn.evaluation.benefit import THRESHOLDS, called_by_patient, curves, net_benefit

HERE = Path(__file__).parent


def curves_of(target, score):
    called = called_by_patient(np.arange(len(target)), target, score)
    return curves(called, called.sum(axis=0)[np.newaxis], float(target.mean()))


def test_the_formula_by_hand():
    # Of 1,000 patients 100 are sick; 80 of these and 90 of the others are treated, from a probability of 20 % on.
    assert net_benefit(0.8, 0.9, 0.1, 0.2) == pytest.approx((80 - 90 * 0.25) / 1000)
    assert net_benefit(1.0, 0.0, 0.1, 0.2) == pytest.approx((100 - 900 * 0.25) / 1000)


def test_curves_are_those_of_dcurves():
    table = pd.read_csv(HERE / "net_benefit_scores.csv")
    found = curves_of(table["target"].to_numpy(), table["score"].to_numpy())
    wanted = pd.read_csv(HERE / "net_benefit.csv")
    assert len(wanted) == 28
    for row in wanted.itertuples():
        (curve,) = (curve for curve in found if curve["prevalence"] == pytest.approx(row.prevalence))
        at = int(np.argmin(np.abs(np.array(curve["threshold"]) - row.threshold)))
        assert curve["threshold"][at] == pytest.approx(row.threshold, abs=1e-5)
        ours = curve["treat_all" if row.model == "all" else "net_benefit"][at]
        assert ours == pytest.approx(row.net_benefit, abs=2e-5, rel=1e-4)


def test_a_score_that_is_equal_to_a_threshold_reaches_it():
    (own, *_) = curves_of(np.array([0, 1]), np.array([0.2, 0.5]))
    at = THRESHOLDS.tolist().index(0.5)
    assert own["net_benefit"][at] == 0.5
    assert own["net_benefit"][at + 1] == 0


def test_patients_are_counted_apart():
    found = called_by_patient(np.array([0, 0, 1]), np.array([1, 0, 1]), np.array([0.55, 0.2, 0.995]))
    positive, negative = np.hsplit(found, 2)
    assert positive[:, 0].tolist() == [1, 1]
    assert negative[:, 0].tolist() == [1, 0]
    assert positive.sum(axis=1).tolist() == [1 + 55, 1 + 99]
    assert negative.sum(axis=1).tolist() == [1 + 20, 0]


def test_the_band_at_a_stated_prevalence_worked_out_by_hand():
    """Sensitivity 16/20 (Wilson with Student's t: .5618 to .9258), false alarms 6/24 (.1133 to .4651)."""
    target = np.repeat([1, 0], [20, 24])
    score = np.where(np.concatenate([np.arange(20) < 16, np.arange(24) < 6]), 0.995, 0.005)
    curve = next(curve for curve in curves_of(target, score) if curve["prevalence"] == 0.3)
    at = 19
    price = 0.7 * curve["threshold"][at] / (1 - curve["threshold"][at])
    value = 0.3 * 0.8 - price * 0.25
    assert curve["net_benefit"][at] == pytest.approx(value, abs=1e-4)
    low = value - np.hypot(0.3 * (0.8 - 0.5618), price * (0.4651 - 0.25))
    high = value + np.hypot(0.3 * (0.9258 - 0.8), price * (0.25 - 0.1133))
    assert (curve["low"][at], curve["high"][at]) == pytest.approx((low, high), abs=2e-4)
    # At a threshold that all of a class reach, the bootstrap would find no uncertainty in its rate.
    everybody = next(curve for curve in curves_of(target, np.full(44, 0.995)) if curve["prevalence"] == 0.3)
    assert everybody["low"][at] < everybody["net_benefit"][at]
