"""Every number of metrics.json, computed again from the tables with scikit-learn and SciPy only."""

import json
import shutil
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, norm
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from cxr_sklearn import compare
from cxr_sklearn.evaluation import summary
from cxr_sklearn.evaluation.summary import summarise, verdict
from cxr_sklearn.evaluation.thresholds import Rule
from cxr_sklearn.exceptions import DataError

# Facts that only the run knows, because no table has them.
FACTS = {"description", "crop", "balance", "calibrated", "backbones", "n_embedded", "n_cached", "seconds",
         "best_params", "batch_norm"}  # fmt: skip
NO_ROWS = pd.DataFrame(columns=["split", "pipeline", "path", "subtype", "series", "brightness", "probe"])
NOTHING_ELSE = {"images": NO_ROWS, "probes": NO_ROWS, "training": NO_ROWS, "runs": NO_ROWS, "batch_norm": {},
                "without_seed": ()}  # fmt: skip


RULE = Rule("youden", 0)


def summarised(table):
    return summarise(table, RULE, **NOTHING_ELSE)


def decision_metrics(y, p, cut, w=None):
    d = (p >= cut).astype(int)
    return {
        "accuracy": sk.accuracy_score(y, d, sample_weight=w),
        "precision": sk.precision_score(y, d, sample_weight=w, zero_division=0),
        "recall": sk.recall_score(y, d, sample_weight=w),
        "specificity": sk.recall_score(y, d, pos_label=0, sample_weight=w),
        "f1": sk.f1_score(y, d, sample_weight=w, zero_division=0),
        "mcc": sk.matthews_corrcoef(y, d, sample_weight=w),
    }


def all_metrics(y, p, cut, w=None):
    return decision_metrics(y, p, cut, w) | {
        "roc_auc": sk.roc_auc_score(y, p, sample_weight=w),
        "average_precision": sk.average_precision_score(y, p, sample_weight=w),
        "log_loss": sk.log_loss(y, p, sample_weight=w),
        "brier": sk.brier_score_loss(y, p, sample_weight=w),
    }


def sensitivity_at(y, p, fpr_at_most, w=None):
    fpr, tpr, _ = sk.roc_curve(y, p, sample_weight=w, drop_intermediate=False)
    return np.array([tpr[fpr <= x + 1e-9].max() for x in fpr_at_most])


def corrected(draws, value):
    """Efron's bias-corrected percentiles."""
    below = (np.mean(draws < value - 1e-6) + np.mean(draws <= value + 1e-6)) / 2
    shift = 2 * norm.ppf(np.clip(below, 1 / len(draws), 1 - 1 / len(draws)))
    return np.quantile(draws, norm.cdf(shift + norm.ppf([0.025, 0.975]))).tolist()


def finite(draws, value):
    """The same with infinite draws: a likelihood ratio is infinite if no normal image is called pneumonia."""
    with np.errstate(invalid="ignore"):
        return [end if np.isfinite(end) else None for end in corrected(draws, value)]


def wilson(k, n):
    return list(binomtest(k, n).proportion_ci(method="wilson"))


def rate(right, draws):
    """The interval of a rate, by bootstrap of patients unless the rate is 0 or 1."""
    if 0 < right.mean() < 1:
        return {"value": right.mean(), "ci95": corrected(draws, right.mean()), "method": "bootstrap"}
    return {"value": right.mean(), "ci95": wilson(int(right.sum()), len(right)), "method": "wilson"}


class ByHand:
    """The test images of one pipeline and 2,000 draws of their patients, one at a time."""

    def __init__(self, test, cut):
        self.y, self.p, self.cut = test["target"].to_numpy(), test["score"].to_numpy(), cut
        names, of = np.unique(test["patient"], return_inverse=True)
        rng, n = np.random.default_rng(0), len(names)
        self.weights = np.array([np.bincount(rng.integers(0, n, n), minlength=n)[of] for _ in range(2000)])
        self.draws = pd.DataFrame([all_metrics(self.y, self.p, cut, w) for w in self.weights])
        self.half = pd.DataFrame([decision_metrics(self.y, self.p, 0.5, w) for w in self.weights])
        grid = np.linspace(0, 1, 101)
        self.roc = np.array([sensitivity_at(self.y, self.p, grid, w) for w in self.weights])

    def share(self, inside, right):
        """Draws of the share of correct decisions among `inside`."""
        n = self.weights[:, inside].sum(axis=1)
        return (self.weights[:, inside] @ right[inside])[n > 0] / n[n > 0]

    def found(self, values, draws, cut):
        d = self.p >= cut
        members = {"accuracy": np.ones_like(d), "precision": d, "recall": self.y == 1, "specificity": self.y == 0}
        result = {}
        for name, value in values.items():
            result[name] = {"value": value, "ci95": corrected(draws[name], value), "method": "bootstrap"}
            if name in members and value in (0, 1):
                inside = members[name]
                result[name] |= {"ci95": wilson(int(value * inside.sum()), int(inside.sum())), "method": "wilson"}
        return result


def expected(rows, images, cut):
    test = rows[rows["split"] == "test"]
    by_hand = ByHand(test, cut)
    y, p, draws = by_hand.y, by_hand.p, by_hand.draws
    d, half = (p >= cut).astype(int), (p >= 0.5).astype(int)
    folds = [all_metrics(f["target"], f["score"], cut) for _, f in rows[rows["split"] == "train"].groupby("fold")]
    matrices = {name: sk.confusion_matrix(y, decision).ravel() for name, decision in (("cut", d), ("half", half))}
    cells = {name: dict(zip(("tn", "fp", "fn", "tp"), m.tolist(), strict=True)) for name, m in matrices.items()}
    tn, fp, fn, tp = matrices["cut"].tolist()
    prevalence = y.mean()
    drawn_prevalence = by_hand.weights @ y / by_hand.weights.sum(axis=1)
    skill = 1 - sk.brier_score_loss(y, p) / (prevalence * (1 - prevalence))
    observed, mean = calibration_curve(y, p, n_bins=10)
    sizes = np.histogram(p, np.linspace(0, 1, 11))[0]
    sizes = sizes[sizes > 0]
    sens, spec = draws["recall"], draws["specificity"]

    def bayes(prevalence, sensitivity, specificity):
        true, false = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
        cleared, missed = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
        with np.errstate(invalid="ignore"):
            return np.divide(true, true + false), np.divide(cleared, cleared + missed)

    values = []
    for prev in (0.05, 0.3, prevalence):
        pairs = zip(bayes(prev, tp / (tp + fn), tn / (tn + fp)), bayes(prev, sens, spec), strict=True)
        ppv, npv = ({"value": value, "ci95": corrected(drawn, value)} for value, drawn in pairs)
        values.append({"prevalence": prev, "ppv": ppv, "npv": npv})
    ratios = sk.class_likelihood_ratios(y, d)
    with np.errstate(divide="ignore"):
        drawn_ratios = sens / (1 - spec), (1 - sens) / spec
    at = sensitivity_at(y, p, [0.2, 0.1, 0.05])
    low, high = np.quantile(by_hand.roc, [0.025, 0.975], axis=0)
    known = images.set_index("path").reindex(test["path"])
    quartile = pd.qcut(known["brightness"].rank(method="first"), 4, labels=list("1234"))
    groups = {"subtype": known["subtype"], "series": known["series"],
              "brightness": quartile}  # fmt: skip
    subgroups = []
    for attribute, of in groups.items():
        for group in sorted(of.dropna().unique()):
            for metric, label in (("recall", 1), ("specificity", 0)):
                inside = (of == group).to_numpy() & (y == label)
                if inside.any():
                    right = (d == y).astype(float)
                    subgroups.append({"attribute": attribute, "group": group, "metric": metric,
                                      "images": int(inside.sum()), "patients": test["patient"][inside].nunique(),
                                      **rate(right[inside], by_hand.share(inside, right))})  # fmt: skip
    return {
        "cv": {m: {"mean": np.mean([f[m] for f in folds]), "std": np.std([f[m] for f in folds])} for m in folds[0]},
        "test": by_hand.found(all_metrics(y, p, cut), draws, cut),
        "confusion": cells["cut"],
        "wilson95": {"accuracy": wilson(tp + tn, len(y)), "precision": wilson(tp, tp + fp),
                     "recall": wilson(tp, tp + fn), "specificity": wilson(tn, tn + fp)},
        "at_half": {**by_hand.found(decision_metrics(y, p, 0.5), by_hand.half, 0.5), "confusion": cells["half"]},
        "sensitivity_at_specificity": [
            {"specificity": s, "value": v, "ci95": corrected(by_hand.roc[:, round(100 * (1 - s))], v),
             "method": "bootstrap"}
            for s, v in zip((0.8, 0.9, 0.95), at, strict=True)
        ],
        "roc_band": {"fpr": [i / 100 for i in range(101)], "low": low.tolist(), "high": high.tolist()},
        "calibration": {
            "brier_skill": {"value": skill, "ci95": corrected(
                1 - draws["brier"] / (drawn_prevalence * (1 - drawn_prevalence)), skill)},
            "ece": np.average(np.abs(observed - mean), weights=sizes),
            "bins": [{"n": int(n), "mean_score": m, "observed": o, "ci95": wilson(round(o * n), int(n))}
                     for n, m, o in zip(sizes, mean, observed, strict=True)],
            "observed_expected": {"value": y.sum() / p.sum(), "ci95": corrected(
                by_hand.weights @ y / (by_hand.weights @ p), y.sum() / p.sum())},
        },
        "elsewhere": {
            "likelihood_ratios": {name: {"value": v, "ci95": finite(drawn, v)} for name, v, drawn
                                  in zip(("positive", "negative"), ratios, drawn_ratios, strict=True)},
            "predictive_values": values,
        },
        "subgroups": subgroups,
        "by": {},
        "domain": None,
        "sanity": None,
        "stress": None,
        "runs": None,
        "diagnosis": [],
    }  # fmt: skip


def assert_same(found, wanted, where=""):
    if isinstance(wanted, dict):
        assert set(found) == set(wanted), where
        for key in wanted:
            assert_same(found[key], wanted[key], f"{where}.{key}")
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted), where
        for i, (f, w) in enumerate(zip(found, wanted, strict=True)):
            assert_same(f, w, f"{where}[{i}]")
    elif isinstance(wanted, float | np.floating) and not isinstance(found, bool):
        assert found == pytest.approx(wanted, abs=1e-5), where
    else:
        assert found == wanted, where


@pytest.mark.slow
def test_every_number_comes_from_the_tables(run):
    metrics, out, _ = run
    name = "vgg16_logistic"
    scores, images = pd.read_csv(out / "scores.csv"), pd.read_csv(out / "images.csv")
    found = {key: value for key, value in deepcopy(metrics["pipelines"][name]).items() if key not in FACTS}
    threshold = found.pop("threshold")
    rows = scores[scores["pipeline"] == name]
    assert len(found.pop("sample_size")) == 3  # test_sample_size.py
    # tests/evaluation/test_calibration.py and test_benefit.py compare these with other programs.
    for key in ("slope", "intercept", "curve", "decision_curve"):
        del found["calibration"][key]
    assert_same(found, expected(rows, images, threshold["value"]))
    # The validation split of this run is too small, so the threshold is Youden's of the out-of-fold scores.
    train = rows[rows["split"] == "train"]
    fpr, tpr, cuts = sk.roc_curve(train["target"], train["score"], drop_intermediate=False)
    best = np.argmax(tpr - fpr)
    val = rows[rows["split"] == "val"]
    assert_same(threshold, {
        "value": (cuts[best] + cuts[best + 1]) / 2, "rule": "youden", "source": "out-of-fold", "n_images": len(train),
        "sensitivity": tpr[best], "specificity": 1 - fpr[best],
        "n_val": len(val), "n_val_rarer": int(val["target"].value_counts().min()),
    })  # fmt: skip


def test_the_facts_are_named(run):
    metrics, _, _ = run
    assert all(set(facts) >= FACTS for facts in metrics["pipelines"].values())
    assert set(metrics) == {"pipelines", "comparisons", "group_comparisons", "verdict", "data", "run", "learning_curve",
                            "failed", "doubtful_labels", "split_shift"}  # fmt: skip


def test_every_two_pipelines_are_compared_on_the_same_images(run):
    metrics, out, _ = run
    scores = pd.read_csv(out / "scores.csv").query("split == 'test'")
    y = scores[scores["pipeline"] == "shortcuts"].set_index("path")["target"]
    for pair in metrics["comparisons"]:
        a, b = (scores[scores["pipeline"] == pair[key]].set_index("path")["score"].loc[y.index] for key in "ab")
        cuts = [metrics["pipelines"][pair[key]]["threshold"]["value"] for key in "ab"]
        assert pair["delta_auc"] == pytest.approx(sk.roc_auc_score(y, a) - sk.roc_auc_score(y, b))
        right = [(score >= cut) == (y == 1) for score, cut in zip((a, b), cuts, strict=True)]
        only = [int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())]
        assert [pair["mcnemar"]["only_a"], pair["mcnemar"]["only_b"]] == only
        assert pair["mcnemar"]["p"] == pytest.approx(binomtest(only[0], sum(only)).pvalue if sum(only) else 1)
    assert len(metrics["comparisons"]) == 3


def test_counts_of_the_data_are_those_of_the_scores(run):
    metrics, out, _ = run
    one = pd.read_csv(out / "scores.csv").query("pipeline == 'shortcuts'")
    counts = {split: {"images": len(rows), "patients": rows["patient"].nunique(),
                      "normal": int((rows["target"] == 0).sum()), "pneumonia": int(rows["target"].sum())}
              for split, rows in one.groupby("split")}  # fmt: skip
    assert metrics["data"]["splits"] == counts
    n_splits = one.groupby("patient")["split"].nunique()
    assert metrics["data"]["patients_in_several_splits"] == (n_splits > 1).sum() == 0
    assert metrics["data"]["copies_in_several_splits"] == 0


def test_leaks_are_refused_or_reported(embedded_frame, tmp_path):
    frame, store = embedded_frame
    first = {split: frame.index[frame["split"] == split][0] for split in ("train", "test")}
    frame = frame.copy()
    frame.loc[first["test"], "patient"] = frame.loc[first["train"], "patient"]
    twin = tmp_path / "twin.png"
    shutil.copy(frame["path"][first["train"]], twin)
    frame.loc[frame.index[frame["split"] == "test"][1], "path"] = str(twin)
    options = {"out": tmp_path / "run", "store": store, "cv": 3}
    with pytest.raises(DataError, match=r"1 patient in more than one split: .*; 1 group of identical files across"):
        compare(frame, ["shortcuts"], **options)
    assert not (tmp_path / "run").exists()
    metrics = compare(frame, ["shortcuts"], allow_leaks=True, **options)
    assert metrics["data"]["patients_in_several_splits"] == 1
    assert metrics["data"]["copies_in_several_splits"] == 2
    for name in ("report.html", "model-card.md"):
        page = (tmp_path / "run" / name).read_text()
        assert "Patients with images in more than one split: 1." in page
        assert "Images with an identical or near-identical copy in another split: 2." in page


def test_test_scores_do_not_touch_the_threshold(scores):
    def chosen(table):
        return summarised(table)["pipelines"]["NA"]["threshold"]

    changed = scores.assign(score=np.where(scores["split"] == "test", 0.5, scores["score"]))
    assert chosen(changed) == chosen(scores)
    moved = scores.assign(score=np.where(scores["split"] == "test", scores["score"], scores["score"] / 2))
    assert chosen(moved) != chosen(scores)


def test_what_is_known_already_stays_and_what_changed_is_computed_again(scores, monkeypatch):
    other = scores.assign(pipeline="other", score=1 - scores["score"])
    anew = []
    drawn = summary.bootstrap
    monkeypatch.setattr(summary, "bootstrap", lambda *args: anew.append(list(args[2])) or drawn(*args))
    computed = {}

    def with_known(table, rule=RULE):
        return summarise(table, rule, **NOTHING_ELSE, computed=computed)

    def as_new(table, rule=RULE):
        wanted = summarise(table, rule, **NOTHING_ELSE)
        anew.pop()
        return wanted

    both = pd.concat([scores, other], ignore_index=True)
    assert_same(with_known(scores), as_new(scores))
    assert_same(with_known(both), as_new(both))
    assert_same(with_known(both), as_new(both))
    assert anew == [["NA"], ["other"]]
    both.loc[both.index[-1], "score"] = 0.123
    assert_same(with_known(both), as_new(both))
    assert_same(with_known(both, Rule("fixed", 0.25)), as_new(both, Rule("fixed", 0.25)))
    assert anew == [["NA"], ["other"], ["other"], ["NA", "other"]]


@pytest.mark.parametrize("column", ["path", "patient", "target"])
def test_pipelines_that_scored_different_images(scores, column):
    other = scores.assign(pipeline="other", path=scores["path"] + "x" * (column == "path"))
    if column == "patient":
        other["patient"] += "x"
    if column == "target":
        other["target"] = 1 - other["target"]
    with pytest.raises(DataError, match="other and NA scored different test images"):
        summarised(pd.concat([scores, other]))


def test_one_patient_is_too_few(scores):
    few = scores[(scores["split"] != "test") | (scores["target"] == 0) | (scores["patient"] == "0000")]
    with pytest.raises(DataError, match="a class has fewer than two test patients"):
        summarised(few)


@pytest.mark.parametrize(
    "kept", [lambda rows: rows["split"] != "train", lambda rows: (rows["fold"] != 0) | (rows["target"] == 1)]
)
def test_folds_that_measure_nothing(scores, kept):
    rows = scores[kept(scores).fillna(True)]
    with pytest.raises(DataError, match=r"no out-of-fold scores, or a fold of one class|not of both classes"):
        summarised(rows)


def test_a_perfect_classifier_is_not_called_certain(scores):
    """Every draw gives the same value; an interval of zero width would be misleading."""
    perfect = scores.assign(score=np.where(scores["target"] == 1, 0.9, 0.1))
    found = summarised(perfect)["pipelines"]["NA"]
    assert found["test"]["roc_auc"]["ci95"] is None
    assert found["test"]["f1"]["ci95"] is None
    assert found["test"]["recall"] == {"value": 1, "ci95": wilson(45, 45), "method": "wilson"}
    assert found["sensitivity_at_specificity"][0]["method"] == "wilson"
    assert found["elsewhere"]["predictive_values"][0]["ppv"]["ci95"] is None
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("supported", "as_good", "worse", "not_beating"),
    [
        ({"ab", "as", "bs"}, [], ["b"], []),
        ({"as", "bs"}, ["b"], [], []),
        ({"as"}, ["b"], [], ["b"]),
        (set(), ["b"], [], ["a", "b"]),
    ],
)
def test_the_verdict_says_no_more_than_the_data(supported, as_good, worse, not_beating):
    auc = {"a": 0.9, "b": 0.8, "shortcuts": 0.6}
    pairs = [{"a": one, "b": other, "supported": one[0] + other[0] in supported, "runs": None}
             for one, other in (("a", "b"), ("a", "shortcuts"), ("b", "shortcuts"))]  # fmt: skip
    pipelines = {name: {"test": {"roc_auc": {"value": value}}} for name, value in auc.items()}
    assert verdict(pipelines, pairs) == {
        "best": "a", "as_good": as_good, "worse": worse, "not_beating_shortcuts": not_beating,
        "worse_than_shortcuts": [], "not_in_other_runs": [],
    }  # fmt: skip


def test_shortcuts_that_are_better_are_never_the_best():
    pipelines = {name: {"test": {"roc_auc": {"value": value}}} for name, value in (("a", 0.6), ("shortcuts", 0.9))}
    found = verdict(pipelines, [{"a": "a", "b": "shortcuts", "supported": True, "runs": None}])
    assert (found["best"], found["worse_than_shortcuts"], found["not_beating_shortcuts"]) == ("a", ["a"], [])


def test_metrics_are_json_that_every_reader_takes(run):
    _, out, _ = run
    text = (out / "metrics.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
