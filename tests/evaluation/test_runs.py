import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student
from sklearn import metrics as sk

from cxr_sklearn.evaluation.bootstrap import bootstrap
from cxr_sklearn.evaluation.paired import compare_pairs
from cxr_sklearn.evaluation.runs import Repeated, difference_over_runs, over_runs
from cxr_sklearn.evaluation.summary import summarise, verdict
from cxr_sklearn.evaluation.thresholds import Rule, choose_threshold
from cxr_sklearn.exceptions import DataError

YOUDEN, ROBUST, FIXED = Rule("youden", 0), Rule("robust", 0), Rule("fixed", 0.4)


@pytest.fixture
def again(scores):
    """Three more runs, which are worse than the first."""
    rng = np.random.default_rng(1)
    rows = scores[scores["split"] != "train"]
    return pd.concat(
        rows.assign(run=run, score=(rows["score"] + spread * rng.random(len(rows))) / (1 + spread))
        for run, spread in ((2, 1), (3, 2), (4, 4))
    )


def measured(scores, again, rule=YOUDEN):
    return over_runs(scores, again, rule, choose_threshold(scores, rule))


def test_every_figure_comes_from_the_tables(scores, again):
    facts = measured(scores, again).facts
    assert (facts["n"], facts["random"], facts["thresholds"]) == (4, True, "own")
    aucs, recalls = [], []
    for rows in (scores, *(part for _, part in again.groupby("run"))):
        val, test = (rows[rows["split"] == split] for split in ("val", "test"))
        fpr, tpr, cuts = sk.roc_curve(val["target"], val["score"], drop_intermediate=False)
        best = np.argmax(tpr - fpr)
        called = test["score"] >= (cuts[best] + cuts[best + 1]) / 2
        aucs.append(sk.roc_auc_score(test["target"], test["score"]))
        recalls.append(sk.recall_score(test["target"], called))
    for metric, values in (("roc_auc", aucs), ("recall", recalls)):
        found = facts["metrics"][metric]
        assert found["values"] == pytest.approx(values)
        assert found["mean"] == pytest.approx(np.mean(values))
        assert found["std"] == pytest.approx(np.std(values, ddof=1))
        assert (found["low"], found["high"]) == pytest.approx((min(values), max(values)))
    assert len(set(recalls)) > 1


def test_the_order_of_rows_does_not_matter(scores, again):
    assert measured(scores, again.sample(frac=1, random_state=0)).facts == measured(scores, again).facts


@pytest.mark.parametrize(("rule", "kind"), [(YOUDEN, "kept"), (ROBUST, "kept"), (FIXED, "fixed")])
def test_where_no_run_can_choose_a_threshold_the_first_ones_is_kept(scores, again, rule, kind):
    if rule == YOUDEN:
        few = scores["split"].ne("val") | scores["path"].str.match("val/.,")
        scores, again = scores[few], again[again["path"].isin(scores["path"][few])]
    cut = choose_threshold(scores, rule)["value"]
    facts = measured(scores, again, rule).facts
    assert facts["thresholds"] == kind
    for value, (_, rows) in zip(facts["metrics"]["recall"]["values"][1:], again.groupby("run"), strict=True):
        sick = rows[(rows["split"] == "test") & (rows["target"] == 1)]
        assert value == pytest.approx((sick["score"] >= cut).mean())


def test_a_training_that_is_not_random(scores):
    rows = scores[scores["split"] != "train"]
    for again, n in ((rows.assign(run=2), 2), (rows[:0].assign(run=2), 1)):
        found = measured(scores, again)
        assert (found.facts["n"], found.facts["random"]) == (n, False)
        assert found.facts["metrics"]["roc_auc"]["std"] == 0
        once = measured(scores, rows[:0].assign(run=2))
        worse = once._replace(auc=once.auc - 0.1, influence=once.influence / 2)
        assert difference_over_runs(found, worse) == pytest.approx(difference_over_runs(once, worse))
        assert difference_over_runs(found, once) is None


def repeated(aucs, influence):
    facts = {"metrics": {"roc_auc": {"std": np.std(aucs, ddof=1) if len(aucs) > 1 else 0.0}}}
    return Repeated(facts, float(np.mean(aucs)), np.array(influence), 100)


def test_the_difference_of_means_worked_out_by_hand():
    """What runs have in common counts once for the patients; what only one makes of them is in the spread of runs."""
    a = repeated([0.80, 0.84, 0.88], [[0.03, 0.02, 0, 0], [0.03, 0, 0.02, 0], [0.03, 0, 0, 0.02]])
    b = repeated([0.7], [[0.0, 0.0, 0.0, 0.0]])
    patients, runs = 0.03**2, 0.04**2 / 3
    freedom = (patients + runs) ** 2 / (patients**2 / 99 + runs**2 / 2)
    half = student.ppf(0.975, freedom) * np.sqrt(patients + runs)
    assert difference_over_runs(a, b) == pytest.approx((0.14 - half, 0.14 + half))
    assert difference_over_runs(b, a) == pytest.approx((-0.14 - half, -0.14 + half))


def test_without_uncertainty_for_patients_the_runs_have_the_interval_of_their_mean():
    a, b = repeated([0.80, 0.84, 0.88], np.zeros((3, 4))), repeated([0.7], np.zeros((1, 4)))
    half = student.ppf(0.975, 2) * 0.04 / np.sqrt(3)
    assert difference_over_runs(a, b) == pytest.approx((0.14 - half, 0.14 + half))


@pytest.mark.parametrize("spoil", [lambda rows: rows.iloc[:-1], lambda rows: pd.concat([rows, rows.iloc[-1:]])])
def test_runs_of_other_images(scores, again, spoil):
    with pytest.raises(DataError, match=r"run 4 of NA did not score the same test images .*--repeats"):
        measured(scores, spoil(again))


def pair_of(later):
    """Compare a, which is better in its first run and has this strength later, with b, whose training is not random."""
    rng = np.random.default_rng(0)
    n = 400
    target = np.arange(n) % 2
    rows = pd.DataFrame({"path": np.arange(n).astype(str), "patient": np.arange(n).astype(str), "split": "test",
                         "target": target})  # fmt: skip

    def run(strength):
        return 1 / (1 + np.exp(-rng.normal(strength * target, 1)))

    scores = {"a": run(2), "b": run(1)}
    tables = {name: rows.assign(pipeline=name, score=score) for name, score in scores.items()}
    again = {"a": pd.concat(tables["a"].assign(score=run(strength), run=i) for i, strength in enumerate(later, 2)),
             "b": tables["b"][:0].assign(run=2)}  # fmt: skip
    cuts, fixed = dict.fromkeys(scores, 0.5), {"value": 0.5, "source": "fixed"}
    draws = bootstrap(rows["patient"], target, scores, cuts)
    repeated = {name: over_runs(tables[name], again[name], FIXED, fixed) for name in scores}
    (pair,) = compare_pairs(target, pd.DataFrame(scores), cuts, draws, repeated)
    return pair


def test_a_difference_needs_patients_and_runs():
    steady, lucky = pair_of([2, 2.1, 1.9]), pair_of([1, 0.5, 1.5])
    assert steady["supported"]
    assert lucky["runs"]["supported_by_patients"]
    assert not lucky["supported"]
    for pair in (steady, lucky):
        low, high = pair["runs"]["ci95"]
        assert low < pair["runs"]["delta_auc"] < high
    assert np.ptp(lucky["runs"]["ci95"]) > 2 * np.ptp(lucky["ci95"])


def test_means_that_differ_the_other_way_do_not_support_the_first_difference():
    turned = pair_of([-1] * 11)
    assert turned["ci95"][0] > 0 > turned["runs"]["ci95"][1]
    assert not turned["supported"]


def test_pairs_of_which_one_was_trained_once_are_judged_by_patients(scores, again):
    other = scores.assign(pipeline="other", score=1 - scores["score"])
    nothing = pd.DataFrame(columns=["split", "pipeline", "path", "subtype", "series", "brightness", "probe"])
    given = {"images": nothing, "probes": nothing, "training": nothing, "runs": again, "batch_norm": {}}
    found = summarise(pd.concat([scores, other]), YOUDEN, **given, without_seed=())
    (pair,) = found["comparisons"]
    assert pair["runs"] is None
    assert pair["supported"]
    assert found["pipelines"]["other"]["runs"] is None
    found = summarise(pd.concat([scores, other]), YOUDEN, **given, without_seed={"other"})
    assert found["comparisons"][0]["runs"]["supported_by_patients"]
    assert found["pipelines"]["other"]["runs"]["n"] == 1


def test_the_verdict_names_what_only_one_run_supports():
    pipelines = {name: {"test": {"roc_auc": {"value": value}}} for name, value in (("a", 0.9), ("b", 0.8), ("c", 0.7))}
    runs = {"supported_by_patients": True}
    pairs = [{"a": "a", "b": "b", "supported": False, "runs": runs},
             {"a": "c", "b": "a", "supported": True, "runs": runs},
             {"a": "b", "b": "c", "supported": False, "runs": None}]  # fmt: skip
    found = verdict(pipelines, pairs)
    assert (found["as_good"], found["not_in_other_runs"], found["worse"]) == (["b"], ["b"], ["c"])
