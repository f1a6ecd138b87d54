import numpy as np
import pandas as pd
import pytest

from cxr_sklearn.evaluation.thresholds import MIN_IMAGES_PER_CLASS, choose_threshold, youden_threshold


def test_youden_splits_what_can_be_split_half_way():
    assert youden_threshold([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9]) == pytest.approx(0.4)


def test_youden_is_the_best_of_all_thresholds():
    rng = np.random.default_rng(1)
    target = rng.integers(0, 2, 300)
    score = rng.normal(target, 1.5)

    def index(threshold):
        decision = score >= threshold
        return decision[target == 1].mean() - decision[target == 0].mean()

    assert index(youden_threshold(target, score)) == max(index(t) for t in score)


def test_scores_that_are_all_alike_give_a_finite_threshold():
    assert youden_threshold([0, 1], [0.3, 0.3]) == 0.3
    assert np.isfinite(youden_threshold([1, 0], [0.1, 0.9]))


def scores(n_val_normal, n_val_pneumonia=100):
    def rows(split, n_normal, n_pneumonia, cut):
        target = np.repeat([0, 1], [n_normal, n_pneumonia])
        return pd.DataFrame({"split": split, "target": target, "score": np.where(target, cut + 0.1, cut - 0.1)})

    return pd.concat([rows("train", 50, 50, 0.3), rows("val", n_val_normal, n_val_pneumonia, 0.6),
                      rows("test", 50, 50, 0.8)])  # fmt: skip


def test_enough_validation_images_decide():
    chosen = choose_threshold(scores(MIN_IMAGES_PER_CLASS))
    assert (chosen["source"], chosen["value"]) == ("val", pytest.approx(0.6))


@pytest.mark.parametrize("n", [MIN_IMAGES_PER_CLASS - 1, 8])
def test_too_few_validation_images_do_not_and_the_reason_is_told(n):
    chosen = choose_threshold(scores(n))
    assert (chosen["source"], chosen["value"]) == ("out-of-fold", pytest.approx(0.3))
    assert f"only {n} images" in chosen["reason"]


def test_no_validation_split():
    chosen = choose_threshold(scores(0, 0))
    assert chosen["source"] == "out-of-fold"
    assert "does not exist" in chosen["reason"]
