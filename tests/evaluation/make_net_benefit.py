"""Write net_benefit.csv with dcurves, which needs an older pandas than this package, so in an environment of its own.

    python -m venv dc && dc/bin/pip install dcurves && dc/bin/python tests/evaluation/make_net_benefit.py

It was made with dcurves 1.1.7.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from dcurves import dca

HERE = Path(__file__).parent
#: Where dcurves compares; at .5 and so on, scores are equal to thresholds.
THRESHOLDS = [0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9]


def moved(score, ratio):
    """Return scores after the odds have changed by a ratio."""
    odds = score / (1 - score) * ratio
    return odds / (1 + odds)


def main() -> None:
    """Measure scores of two decimals at the prevalence of the images, and moved to another one."""
    rng = np.random.default_rng(0)
    target = rng.binomial(1, 0.4, 300)
    score = np.clip(np.round(rng.beta(2 + 2 * target, 4 - 2 * target), 2), 0.01, 0.99)
    own = target.mean()
    parts = []
    for prevalence in (own, 0.05):
        ratio = prevalence / (1 - prevalence) * (1 - own) / own
        # A little lower, so that rounding does not part a score from the threshold that it is equal to.
        thresholds = [moved(threshold, ratio) * (1 - 1e-9) for threshold in THRESHOLDS]
        data = pd.DataFrame({"target": target, "score": moved(score, ratio)})
        found = dca(data=data, outcome="target", modelnames=["score"], thresholds=thresholds, prevalence=prevalence)
        parts.append(found[found["model"] != "none"].assign(prevalence=prevalence))
    table = pd.concat(parts)[["prevalence", "model", "threshold", "net_benefit"]]
    table.to_csv(HERE / "net_benefit.csv", index=False)
    pd.DataFrame({"target": target, "score": score}).to_csv(HERE / "net_benefit_scores.csv", index=False)


if __name__ == "__main__":
    main()
