import numpy as np
import pytest

from cxr_sklearn.evaluation.bootstrap import bootstrap
from cxr_sklearn.evaluation.subgroups import elsewhere, predictive_values


def test_predictive_values_worked_out_by_hand():
    """Of 1,000 patients 50 are sick, 45 of them found; of 950 healthy ones 760 are cleared."""
    ppv, npv = predictive_values(0.9, 0.8, 0.05)
    assert ppv == pytest.approx(45 / (45 + 190))
    assert npv == pytest.approx(760 / (760 + 5))


def found(target, score):
    draws = bootstrap(np.arange(len(target)), target, {"a": score}, {"a": 0.5}, n_draws=300)["a"]
    return elsewhere(target, (np.asarray(score) >= 0.5).astype(int), draws)


def test_at_its_own_prevalence_they_are_what_was_counted():
    target = np.repeat([0, 1], [60, 40])
    score = np.concatenate([np.repeat([0.1, 0.9], [45, 15]), np.repeat([0.1, 0.9], [4, 36])])
    facts = found(target, score)
    rare, common, own = facts["predictive_values"]
    assert (rare["prevalence"], common["prevalence"], own["prevalence"]) == (0.05, 0.30, 0.4)
    assert own["ppv"]["value"] == pytest.approx(36 / 51)
    assert own["npv"]["value"] == pytest.approx(45 / 49)
    assert rare["ppv"]["value"] < common["ppv"]["value"] < own["ppv"]["value"]
    ratios = facts["likelihood_ratios"]
    assert ratios["positive"]["value"] == pytest.approx(0.9 / 0.25)
    assert ratios["negative"]["value"] == pytest.approx(0.1 / 0.75)
    for part in (own["ppv"], own["npv"], *ratios.values()):
        assert part["ci95"][0] < part["value"] < part["ci95"][1]


def test_what_is_not_defined_is_none_and_what_is_endless_has_no_end():
    never = found(np.repeat([0, 1], 20), np.full(40, 0.1))
    assert never["predictive_values"][0]["ppv"] is None
    assert never["likelihood_ratios"]["positive"] is None
    perfect = found(np.repeat([0, 1], 20), np.repeat([0.1, 0.9], 20))
    assert perfect["likelihood_ratios"]["positive"] is None
    almost = np.repeat([0.1, 0.9], 20)
    almost[0] = 0.9
    assert found(np.repeat([0, 1], 20), almost)["likelihood_ratios"]["positive"]["ci95"][1] is None
