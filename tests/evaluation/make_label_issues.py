"""Ask cleanlab which labels of simulated images it doubts; write what it says to label_issues.json.

In an environment of its own: pip install cleanlab==2.9.0 && python tests/evaluation/make_label_issues.py
"""

import json
from pathlib import Path

import cleanlab
import numpy as np
from cleanlab.count import compute_confident_joint, get_confident_thresholds
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores

CASES = {"good": (2.5, 0.0, 0.08), "poor": (0.7, 0.0, 0.2), "shifted": (2.0, 1.5, 0.1)}


def scored(separation: float, shift: float, flipped: float, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Return labels of which a share is wrong, and scores of the true classes."""
    rng = np.random.default_rng(0)
    true = (rng.random(n) < 0.7).astype(int)
    logit = separation * (2 * true - 1) + shift + rng.normal(0, 1, n)
    label = np.where(rng.random(n) < flipped, 1 - true, true)
    return label, np.round(1 / (1 + np.exp(-logit)), 4)


def asked(label: np.ndarray, score: np.ndarray) -> dict[str, object]:
    """Ask cleanlab about one set of images."""
    by_class = np.column_stack([1 - score, score])
    joint, suspected = compute_confident_joint(label, by_class, calibrate=False, return_indices_of_off_diagonals=True)
    quality = {method: get_label_quality_scores(label, by_class, method=method).round(12).tolist()
               for method in ("self_confidence", "normalized_margin")}  # fmt: skip
    issues = find_label_issues(label, by_class, filter_by="confident_learning", n_jobs=1,
                               return_indices_ranked_by="self_confidence")  # fmt: skip
    return {"label": label.tolist(), "score": score.tolist(), "joint": joint.tolist(), "suspected": suspected.tolist(),
            "thresholds": get_confident_thresholds(label, by_class).tolist(), "issues": issues.tolist(),
            "quality": quality}  # fmt: skip


if __name__ == "__main__":
    figures = {name: asked(*scored(*case)) for name, case in CASES.items()}
    text = json.dumps({"cleanlab": cleanlab.__version__, **figures})
    (Path(__file__).parent / "label_issues.json").write_text(text + "\n")
