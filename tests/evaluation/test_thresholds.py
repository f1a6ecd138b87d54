import tracemalloc

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.metrics import recall_score

from cxr_sklearn.datasets._frame import MIN_IMAGES_PER_CLASS
from cxr_sklearn.evaluation.thresholds import Rule, choose_threshold, find_threshold, parse_rule
from cxr_sklearn.exceptions import DataError, InputError

YOUDEN = Rule("youden", 0)


@pytest.mark.parametrize(
    ("text", "rule", "written"),
    [
        ("youden", YOUDEN, "youden"),
        ("robust", Rule("robust", 0), "robust"),
        ("sensitivity", Rule("sensitivity", 0.95), "sensitivity=0.95"),
        ("sensitivity=.9", Rule("sensitivity", 0.9), "sensitivity=0.9"),
        ("specificity=.90", Rule("specificity", 0.9), "specificity=0.9"),
        ("cost=5:1", Rule("cost", 5.0), "cost=5.0"),
        ("0.12345678", Rule("fixed", 0.12345678), "0.12345678"),
        ("cost=1:3", Rule("cost", 1 / 3), "cost=0.3333333333333333"),
        ("0.5", Rule("fixed", 0.5), "0.5"),
        (" 1 ", Rule("fixed", 1.0), "1.0"),
    ],
)
def test_rules_as_they_are_typed(text, rule, written):
    assert parse_rule(text) == rule
    assert str(rule) == written
    assert parse_rule(written) == rule


@pytest.mark.parametrize(
    "text",
    ["", "best", "youden=1", "robust=1", "sensitivity=95", "sensitivity=x", "cost", "cost=0:1", "cost=5:0",
     "cost=-1", "cost=-5:-1", "1.5",
     "nan", "inf", "specificity=nan"],
)  # fmt: skip
def test_invalid_rules(text):
    with pytest.raises(InputError, match="must be youden, robust, sensitivity=S"):
        parse_rule(text)


def test_youden_splits_what_can_be_split_half_way():
    assert find_threshold(YOUDEN, [0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9]) == pytest.approx(0.4)


def simulated():
    rng = np.random.default_rng(1)
    target = rng.integers(0, 2, 300)
    return target, rng.normal(target, 1.5)


def rates(target, score, threshold):
    decision = score >= threshold
    return recall_score(target, decision), recall_score(target, decision, pos_label=0)


def test_youden_is_the_best_of_all_thresholds():
    target, score = simulated()
    assert sum(rates(target, score, find_threshold(YOUDEN, target, score))) == max(
        sum(rates(target, score, t)) for t in score
    )


@pytest.mark.parametrize("wanted", [0.5, 0.9, 0.95, 1.0])
def test_a_wanted_sensitivity_is_reached_and_no_higher_threshold_reaches_it(wanted):
    target, score = simulated()
    threshold = find_threshold(Rule("sensitivity", wanted), target, score)
    assert rates(target, score, threshold)[0] >= wanted
    assert rates(target, score, score[score >= threshold].min() + 1e-9)[0] < wanted


@pytest.mark.parametrize("wanted", [0.5, 0.9, 0.95, 1.0])
def test_a_wanted_specificity_is_reached_and_no_lower_threshold_reaches_it(wanted):
    target, score = simulated()
    threshold = find_threshold(Rule("specificity", wanted), target, score)
    assert rates(target, score, threshold)[1] >= wanted
    lower = score[score < threshold].max()
    assert rates(target, score, lower)[1] < wanted or lower == score.min()


def test_a_specificity_that_floats_miss_is_reached():
    score = np.linspace(0, 1, 21)
    target = (score == 1).astype(int)  # 19 of 20 normals below: 1 - 0.95 is a little more than 0.05
    assert rates(target, score, find_threshold(Rule("specificity", 0.95), target, score)) == (1, 0.95)


@pytest.mark.parametrize("missed", [0.1, 1, 5, 100])
def test_no_threshold_costs_less(missed):
    target, score = simulated()

    def cost(threshold):
        called = score >= threshold
        return missed * ((target == 1) & ~called).sum() + ((target == 0) & called).sum()

    assert cost(find_threshold(Rule("cost", missed), target, score)) == min(map(cost, [*score, np.inf]))


def test_where_nothing_should_be_called_pneumonia():
    target, score = np.array([0, 0, 1]), np.array([0.5, 0.9, 0.1])
    assert find_threshold(Rule("cost", 0.1), target, score) > 0.9
    assert find_threshold(Rule("specificity", 1.0), target, score) > 0.9


def test_scores_that_are_all_alike_give_a_finite_threshold():
    assert find_threshold(YOUDEN, [0, 1], [0.3, 0.3]) == 0.3
    assert np.isfinite(find_threshold(YOUDEN, [1, 0], [0.1, 0.9]))


RULES = ["youden", "sensitivity=1", "sensitivity=.5", "specificity=1", "specificity=.5", "cost=1:1", "cost=1:9"]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("rule", RULES)
def test_neighbouring_scores_are_told_apart(rule, dtype):
    """Half way between two neighbouring floats there is no other, and rounding may end on the wrong side."""
    for low in np.random.default_rng(0).random(200).astype(dtype):
        high = np.nextafter(low, dtype(1))
        threshold = find_threshold(parse_rule(rule), [0, 0, 1, 1], np.array([low, low, high, high]))
        assert [low.astype(float) >= threshold, high.astype(float) >= threshold] == [False, True]


@pytest.mark.parametrize("low", [0.0, 5e-324, np.nextafter(1, 0, dtype=float)])
def test_scores_at_the_ends_of_what_floats_can_tell_apart(low):
    high = np.nextafter(low, 2)
    assert low < find_threshold(YOUDEN, [0, 1], [low, high]) <= high


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("rule", RULES)
def test_what_the_rule_counted_is_what_the_threshold_decides(rule, dtype):
    """The threshold lies between two scores, or above all, and never on one that the rule left below it."""
    draw = np.random.default_rng(1)
    for _ in range(50):
        target = np.append([0, 1], draw.integers(0, 2, 30))
        score = np.nextafter(dtype(0.3), dtype(draw.integers(0, 2)), dtype=dtype) + np.zeros(32, dtype)
        score[draw.random(32) < 0.5] = dtype(0.3)
        threshold = find_threshold(parse_rule(rule), target, score)
        doubled = find_threshold(parse_rule(rule), target, score.astype(float))
        assert threshold == doubled
        assert not (score.astype(float)[score.astype(float) < threshold] == threshold).any()
        if rule == "sensitivity=1":
            assert rates(target, score.astype(float), threshold)[0] == 1
        if rule == "specificity=1":
            assert rates(target, score.astype(float), threshold)[1] == 1


def scores(n_val_normal, n_val_pneumonia=100):
    def rows(split, n_normal, n_pneumonia, cut):
        target = np.repeat([0, 1], [n_normal, n_pneumonia])
        return pd.DataFrame({"split": split, "target": target, "score": np.where(target, cut + 0.1, cut - 0.1)})

    return pd.concat([rows("train", 50, 50, 0.3), rows("val", n_val_normal, n_val_pneumonia, 0.6),
                      rows("test", 50, 50, 0.8)])  # fmt: skip


def test_enough_validation_images_decide():
    chosen = choose_threshold(scores(MIN_IMAGES_PER_CLASS), YOUDEN)
    assert (chosen["source"], chosen["value"]) == ("val", pytest.approx(0.6))
    assert (chosen["sensitivity"], chosen["specificity"], chosen["n_images"]) == (1, 1, 130)


@pytest.mark.parametrize("n", [MIN_IMAGES_PER_CLASS - 1, 8])
def test_too_few_validation_images_do_not(n):
    chosen = choose_threshold(scores(n), YOUDEN)
    assert (chosen["source"], chosen["value"]) == ("out-of-fold", pytest.approx(0.3))
    assert (chosen["n_val"], chosen["n_val_rarer"], chosen["n_images"]) == (100 + n, n, 100)


def test_no_validation_split():
    chosen = choose_threshold(scores(0, 0), YOUDEN)
    assert (chosen["source"], chosen["n_val"]) == ("out-of-fold", 0)


def test_out_of_fold_scores_of_one_class():
    one = scores(0, 0).query("split != 'train' or target == 1")
    with pytest.raises(DataError, match="not of both classes"):
        choose_threshold(one, YOUDEN)


def test_a_robust_threshold_holds_for_changed_images_too():
    clean = scores(40)
    rows = clean[clean["split"] == "val"]
    darker = rows.assign(score=rows["score"] + 0.15)
    chosen = choose_threshold(clean, Rule("robust", 0), darker)
    both = pd.concat([rows, darker])
    assert chosen["value"] == find_threshold(Rule("robust", 0), both["target"], both["score"])
    assert chosen["value"] != choose_threshold(clean, YOUDEN)["value"]
    assert (chosen["source"], chosen["n_images"], chosen["rule"]) == ("val", 140, "robust")
    # For a pipeline whose images cannot be changed, it is Youden's.
    for changed in (None, darker[:0]):
        assert choose_threshold(clean, Rule("robust", 0), changed)["value"] == choose_threshold(clean, YOUDEN)["value"]
    assert choose_threshold(clean, YOUDEN, darker) == choose_threshold(clean, YOUDEN)


def test_a_fixed_threshold_is_chosen_from_nothing():
    chosen = choose_threshold(scores(40), Rule("fixed", 0.6))
    assert (chosen["source"], chosen["value"]) == ("fixed", 0.6)
    assert (chosen["sensitivity"], chosen["specificity"]) == (1, 1)


class TestRobust:
    def test_it_finds_where_two_normal_distributions_of_equal_spread_cross(self):
        draw = np.random.default_rng(0)
        target = np.repeat([0, 1], 2000)
        log_odds = draw.normal(3 + 4 * target, 1.0)
        assert logit(find_threshold(parse_rule("robust"), target, expit(log_odds))) == pytest.approx(5, abs=0.15)

    def test_it_varies_less_than_the_empirical_index(self):
        found = {"robust": [], "youden": []}
        for seed in range(40):
            target = np.repeat([0, 1], 100)
            score = expit(np.random.default_rng(seed).normal(-2 + 4 * target, 1.5))
            for rule, cuts in found.items():
                cuts.append(logit(find_threshold(parse_rule(rule), target, score)))
        assert np.std(found["robust"]) < 0.7 * np.std(found["youden"])

    @pytest.mark.parametrize("score", [[0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5], [0.0, 0.2, 0.9, 1.0]])
    def test_scores_that_are_alike_or_extreme(self, score):
        cut = find_threshold(parse_rule("robust"), [0, 0, 1, 1], score)
        assert 0 <= cut <= 1
        if len(set(score)) > 1:
            assert (np.array(score) >= cut).tolist() == [False, False, True, True]

    def test_memory_does_not_grow_with_the_images(self):
        target = np.tile([0, 1], 100_000)
        score = expit(np.random.default_rng(0).normal(2 * target, 1))
        tracemalloc.start()
        find_threshold(parse_rule("robust"), target, score)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 60e6
