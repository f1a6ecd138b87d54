"""The report of 100,000 images x 5 pipelines: seconds and memory, and against a bootstrap by scikit-learn's metrics.

python benchmarks/report.py [--images 100000]
"""

import argparse
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
from cxr_sklearn.evaluation.tables import write_table

N_PIPELINES, N_RIVAL_DRAWS, WANTED_RATIO = 5, 3, 20
DECISION_METRICS = (accuracy_score, precision_score, recall_score, f1_score, matthews_corrcoef)


def write_run(folder: Path, n_images: int) -> pd.DataFrame:
    """Write the tables of a made-up run; 60 % of the images are in test."""
    rng = np.random.default_rng(0)
    patient = np.sort(rng.integers(0, n_images // 2, n_images))
    split = np.array(["train"] * 3 + ["val"] + ["test"] * 6)[patient % 10]
    target = (patient % 3 > 0).astype(int)
    frame = pd.DataFrame({"path": [f"{i}.jpeg" for i in range(n_images)], "patient": [f"p{p}" for p in patient],
                          "split": split, "target": target})  # fmt: skip
    frame["fold"] = pd.Series(patient % 5, dtype="Int64").where(frame["split"] == "train")
    parts = [
        frame.assign(pipeline=f"pipeline_{k}", score=1 / (1 + np.exp(-rng.normal((2 * target - 1) * (1 + k / 5), 1.5))))
        for k in range(N_PIPELINES)
    ]
    scores = pd.concat(parts)
    write_table(scores, folder, "scores")
    subtype = np.where(target == 1, np.where(patient % 2, "bacteria", "virus"), None)
    images = frame.assign(subtype=subtype, series=None, brightness=rng.normal(120, 20, n_images), copies=None)
    write_table(images, folder, "images")
    known = {"description": "Made up.", "balance": "none", "backbones": [], "n_embedded": None, "n_cached": None,
             "best_params": {}, "seconds": {"embedding": 0.0, "fitting": 0.0, "scoring": 0.0}}  # fmt: skip
    facts = {
        "pipelines": {f"pipeline_{k}": known for k in range(N_PIPELINES)},
        "data": {"synthetic": True},
        "run": {"date": "2000-01-01", "command": "", "random_state": 0, "folds": 5, "versions": {}, "machine": "",
                "threshold": "youden", "lang": "en"},
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(facts))
    return scores


def measure_report(folder: Path, n_images: int) -> None:
    """Time the command and its peak memory in a process of its own."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "cxr_sklearn.cli", "report", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    size = (folder / "report.html").stat().st_size / 1e6
    print(f"report of {n_images:,} x {N_PIPELINES}: {seconds:.1f} s, {peak:.0f} MB, page of {size:.2f} MB")


def measure_bootstrap(scores: pd.DataFrame) -> float:
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
    return rival / ours


def main() -> None:
    """Measure both, and fail where the bootstrap is not at least 20 times faster."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scores = write_run(Path(folder), options.images)
        measure_report(Path(folder), options.images)
        ratio = measure_bootstrap(scores)
    print(f"ratio {ratio:.0f} (wanted: {WANTED_RATIO})")
    sys.exit(ratio < WANTED_RATIO)


if __name__ == "__main__":
    main()
