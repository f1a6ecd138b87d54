import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_sklearn.evaluation.doubtful_labels import confident_joint, review_labels

FIGURES = json.loads((Path(__file__).parent / "label_issues.json").read_text())


@pytest.mark.parametrize("name", sorted(set(FIGURES) - {"cleanlab"}))
def test_what_cleanlab_doubts_is_doubted(name):
    wanted = FIGURES[name]
    label, score = np.array(wanted["label"]), np.array(wanted["score"])
    joint, suspected = confident_joint(label, score)
    assert joint.tolist() == wanted["joint"]
    assert np.flatnonzero(suspected).tolist() == wanted["suspected"]
    table, facts = review_labels(of(label, score), IMAGES)
    order = table["path"].astype(int).tolist()
    assert set(order) == set(wanted["suspected"])
    quality = np.array(wanted["quality"]["self_confidence"])
    np.testing.assert_allclose(table["self_confidence"], quality[order])
    np.testing.assert_allclose(quality, wanted["quality"]["normalized_margin"])  # with two classes
    assert (np.diff(table["self_confidence"]) >= 0).all()
    assert quality[order].tolist() == quality[wanted["issues"]].tolist()  # ties in another order
    assert [facts[key]["mean_score"] for key in ("normal", "pneumonia")] == pytest.approx(wanted["thresholds"])


IMAGES = pd.DataFrame(columns=["path", "split", "target", "copies"])


def of(target, score, pipeline="one", split="train"):
    return pd.DataFrame({"path": [f"{i}" for i in range(len(target))], "patient": [f"p{i}" for i in range(len(target))],
                         "split": split, "pipeline": pipeline, "target": target, "score": score})  # fmt: skip


def flipped(n=2000, share=0.1):
    """Labels of which a share is wrong, the scores of a good classifier, and which labels are wrong."""
    rng = np.random.default_rng(1)
    true = np.arange(n) % 2
    wrong = rng.random(n) < share
    return np.where(wrong, 1 - true, true), 1 / (1 + np.exp(-rng.normal(6 * true - 3, 1))), wrong


def test_planted_wrong_labels_come_first():
    label, score, wrong = flipped()
    table, facts = review_labels(of(label, score), IMAGES)
    first = table["path"].astype(int)[: int(wrong.sum() * 0.9)]
    assert wrong[first].mean() > 0.97
    for name in ("normal", "pneumonia"):
        assert facts[name]["noise"] == pytest.approx(0.1, abs=0.03)
        assert facts[name]["suspected"] == (table["target"] == (name == "pneumonia")).sum()


def test_right_labels_of_a_good_classifier_are_left_alone():
    label, score, _ = flipped(share=0)
    table, facts = review_labels(of(label, score), IMAGES)
    assert table.empty
    assert (facts["normal"]["noise"], facts["pneumonia"]["noise"]) == (0, 0)


@pytest.mark.parametrize("constant", [0.1, 0.5, 0.7])
def test_equal_scores_contradict_nothing(constant):
    table, facts = review_labels(of(np.repeat([0, 1], 7), np.repeat(constant, 14)), IMAGES)
    assert table.empty
    assert facts["pneumonia"] == {"images": 7, "suspected": 0, "mean_score": pytest.approx(constant), "noise": 0}


def test_test_images_take_no_part():
    label, score, _ = flipped()
    held_out = pd.concat([of(label[:900], score[:900]), of(label[900:], score[900:], split="val")])
    held_out["path"] = held_out["split"] + held_out["path"]
    table, facts = review_labels(held_out, IMAGES)
    opposite = of(1 - label, score, split="test").assign(path=lambda rows: "test" + rows["path"])
    again, same = review_labels(pd.concat([held_out, opposite]), IMAGES)
    assert set(table["split"]) == {"train", "val"}
    assert facts == same
    pd.testing.assert_frame_equal(table, again)


def test_the_pipeline_that_ranks_best_names_them_and_others_agree():
    label, score, _ = flipped(200)
    noise = np.random.default_rng(2).random(200)
    scores = pd.concat([of(label, noise, "noise"), of(label, score, "good"), of(label, label * 0.9, "shortcuts"),
                        of(label, score**2, "alike"), of(label, score, "elsewhere", split="test")])  # fmt: skip
    table, facts = review_labels(scores, IMAGES)
    assert (facts["pipeline"], facts["pipelines"], facts["images"]) == ("good", 3, 200)
    doubted = {name: set(of(label, s)["path"][confident_joint(label, s)[1]])
               for name, s in (("noise", noise), ("good", score), ("alike", score**2))}  # fmt: skip
    assert set(table["path"]) == doubted["good"]
    agree = [sum(path in paths for paths in doubted.values()) for path in table["path"]]
    assert table["pipelines"].tolist() == agree
    assert len(set(agree)) > 1


def test_an_image_whose_copy_bears_the_other_label_comes_first():
    label, score, _ = flipped(200)
    images = of(label, score)[["path", "split", "target"]].assign(copies=pd.NA)
    zero, one = (int(np.flatnonzero(label == value)[0]) for value in (0, 1))
    same = np.flatnonzero(label == 0)[1:3]
    images.loc[[zero, one], "copies"] = 1
    images.loc[same, "copies"] = 2
    table, facts = review_labels(of(label, score), images)
    assert set(table["path"][:2].astype(int)) == {zero, one}
    assert table["copy_of_other_label"].tolist() == [1, 1, *[0] * (len(table) - 2)]
    assert facts["contradicted_copies"] == 2
    without = images.assign(split=np.where(images.index == zero, "test", "train"))
    assert review_labels(of(label, score), without)[1]["contradicted_copies"] == 0


@pytest.mark.parametrize("rows", [
    of([0, 1, 0, 1], [0.1, 0.9, 0.9, 0.1], split="test"),
    of([0, 1, 0, 1], [0.1, 0.9, 0.9, 0.1], "shortcuts"),
    of([1, 1, 1, 1], [0.1, 0.9, 0.9, 0.1]),
])  # fmt: skip
def test_nothing_to_judge_by(rows):
    table, facts = review_labels(rows, IMAGES)
    assert facts is None
    assert table.empty
