"""The report of 100,000 images x 5 pipelines: seconds and memory, and against a bootstrap by scikit-learn's metrics.

python benchmarks/report.py
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    f1_score,
    log_loss,
    matthews_corrcoef,
    precision_score,
    recall_score,
    roc_auc_score,
)

from cxr_sklearn.evaluation.bootstrap import N_DRAWS, bootstrap
from cxr_sklearn.evaluation.scores import write_scores
from cxr_sklearn.evaluation.subgroups import write_images

N_IMAGES, N_PIPELINES, N_RIVAL_DRAWS = 100_000, 5, 3
DECISION_METRICS = (accuracy_score, precision_score, recall_score, f1_score, matthews_corrcoef)


def write_run(folder: Path) -> pd.DataFrame:
    """Write the tables of a made-up run; 60 % of the images are in test."""
    rng = np.random.default_rng(0)
    patient = np.sort(rng.integers(0, N_IMAGES // 2, N_IMAGES))
    split = np.array(["train"] * 3 + ["val"] + ["test"] * 6)[patient % 10]
    target = (patient % 3 > 0).astype(int)
    frame = pd.DataFrame({"path": [f"{i}.jpeg" for i in range(N_IMAGES)], "patient": [f"p{p}" for p in patient],
                          "split": split, "target": target})  # fmt: skip
    frame["fold"] = pd.array(np.where(split == "train", patient % 5, -1), dtype="Int64").to_numpy()
    frame["fold"] = frame["fold"].astype("Int64").mask(frame["fold"] < 0)
    parts = [
        frame.assign(pipeline=f"pipeline_{k}", score=1 / (1 + np.exp(-rng.normal((2 * target - 1) * (1 + k / 5), 1.5))))
        for k in range(N_PIPELINES)
    ]
    scores = pd.concat(parts)
    write_scores(scores, folder / "scores.csv")
    subtype = np.where(target == 1, np.where(patient % 2, "bacteria", "virus"), None)
    write_images(frame.assign(subtype=subtype, series=None, brightness=rng.normal(120, 20, N_IMAGES)),
                 folder / "images.csv")  # fmt: skip
    known = {"description": "Made up.", "balance": "none", "backbones": [], "n_embedded": None, "n_cached": None,
             "best_params": {}, "seconds": {"embedding": 0.0, "fitting": 0.0, "scoring": 0.0}}  # fmt: skip
    counts = {"images": N_IMAGES, "patients": int(frame["patient"].nunique()), "normal": 0, "pneumonia": 0}
    facts = {
        "pipelines": {f"pipeline_{k}": known for k in range(N_PIPELINES)},
        "data": {**counts, "splits": dict.fromkeys(("train", "val", "test"), counts), "synthetic": True,
                 "patients_in_several_splits": 0},
        "run": {"date": "2000-01-01", "command": "", "random_state": 0, "folds": 5, "versions": {}, "machine": "",
                "threshold": "youden"},
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(facts))
    return scores


def measure_report(folder: Path) -> None:
    """Time the command and its peak memory in a process of its own."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "cxr_sklearn.cli", "report", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    size = (folder / "report.html").stat().st_size / 1e6
    print(f"report of {N_IMAGES:,} x {N_PIPELINES}: {seconds:.1f} s, {peak:.0f} MB, page of {size:.2f} MB")


def measure_bootstrap(scores: pd.DataFrame) -> None:
    """Compare a draw of all metrics of one pipeline with the same draw by scikit-learn."""
    rows = scores[(scores["pipeline"] == "pipeline_0") & (scores["split"] == "test")]
    y, p = rows["target"].to_numpy(), rows["score"].to_numpy()
    start = time.perf_counter()
    bootstrap(rows["patient"], y, {"a": p}, {"a": 0.5}, n_draws=N_DRAWS)
    ours = (time.perf_counter() - start) / N_DRAWS
    names, patient_of = np.unique(rows["patient"], return_inverse=True)
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    for _ in range(N_RIVAL_DRAWS):
        weight = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))[patient_of]
        decision = (p >= 0.5).astype(int)
        for metric in DECISION_METRICS:
            metric(y, decision, sample_weight=weight)
        for metric in (roc_auc_score, average_precision_score, log_loss, brier_score_loss):
            metric(y, p, sample_weight=weight)
    rival = (time.perf_counter() - start) / N_RIVAL_DRAWS
    print(f"one draw of {len(rows):,} images: {1000 * ours:.2f} ms, by scikit-learn {1000 * rival:.0f} ms")
    print(f"ratio {rival / ours:.0f} (wanted: at least 20)")
    assert rival / ours >= 20


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        table = write_run(Path(folder))
        measure_report(Path(folder))
        measure_bootstrap(table)
