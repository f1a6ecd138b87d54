"""What the numbers say, in sentences of the catalogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.summary import SHORTCUTS
from ..evaluation.thresholds import parse_rule
from .words import Words

#: Above this, size, brightness and contrast tell the classes apart so well that it must be said.
HIGH_SHORTCUTS = 0.7


def decimal(value: float | None, say: Words) -> str:
    """Write a number with three decimals, or that there is none."""
    if value is None:
        return say("label.undefined")
    return f"{value:.3f}" if abs(value) >= 0.0005 else "0.000"  # no minus before nothing


def grouped(n: int) -> str:
    """Write a count with its thousands apart, by a space that means the same in every language."""
    return f"{n:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def between(ends: Sequence[float | None], say: Words) -> str:
    """Write an interval; an end that is not there is infinite."""
    low, high = (f"{end:.3f}" if end is not None else "\N{INFINITY}" for end in ends)
    return say("label.between", low=low, high=high)


def with_interval(found: Mapping[str, Any], say: Words) -> str:
    """Write a value and its interval in brackets."""
    return f"{decimal(found['value'], say)} ({between(found['ci95'], say)})"


def listed(names: Sequence[str], say: Words) -> str:
    """Join names to a list in words."""
    return say("label.and").join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def pipeline_label(name: str, facts: Mapping[str, Any], say: Words) -> str:
    """Name of a pipeline wherever its numbers are shown; random weights are always called that."""
    random = any(backbone["weights"] == "random" for backbone in facts["backbones"])
    return say("label.random", name=name) if random else name


def verdict_sentences(metrics: Mapping[str, Any], labels: Mapping[str, str], say: Words) -> list[str]:
    """Say what a reader in a hurry must know, and what the data do not support."""
    verdict, pipelines = metrics["verdict"], metrics["pipelines"]

    def names(key: str) -> str:
        return listed([labels[name] for name in verdict[key]], say)

    best = pipelines[verdict["best"]]["test"]
    said = [say("verdict.best", name=labels[verdict["best"]], auc=with_interval(best["roc_auc"], say))]
    said += [say(f"verdict.{key}", names=names(key)) for key in ("as_good", "worse") if verdict[key]]
    rates = {name: with_interval(best[name], say) for name in ("recall", "specificity")}
    said.append(say("verdict.decisions", **rates))
    if SHORTCUTS in pipelines and len(pipelines) > 1:
        line = pipelines[SHORTCUTS]["test"]["roc_auc"]
        said.append(say("verdict.shortcuts", name=labels[SHORTCUTS], auc=with_interval(line, say)))
        if line["value"] >= HIGH_SHORTCUTS:
            said.append(say("verdict.shortcuts_high"))
        not_beaten = verdict["no_better_than_shortcuts"]
        said.append(say("verdict.not_beaten", names=names("no_better_than_shortcuts")) if not_beaten
                    else say("verdict.beaten"))  # fmt: skip
    leaking = [
        labels[name]
        for name, facts in pipelines.items()
        if facts["sanity"] and facts["sanity"]["permuted"] and not facts["sanity"]["permuted"]["passed"]
    ]
    return [*said, *([say("verdict.sanity_failed", names=listed(leaking, say))] if leaking else [])]


def threshold_sentence(threshold: Mapping[str, Any], say: Words) -> str:
    """Say by which rule, and on which images, a threshold was chosen."""
    rule = parse_rule(threshold["rule"])
    by = say(f"rule.{rule.name}", **({} if rule.name in ("youden", "fixed") else {"value": f"{rule.value:g}"}))
    key = threshold["source"]
    if key == "out-of-fold":
        key = "few" if threshold["n_val"] else "absent"
    values = {"n": grouped(threshold["n_images"]), "rarer": threshold["n_val_rarer"]}
    wanted = {"val": ("n",), "few": ("n", "rarer"), "absent": ("n",), "fixed": ()}[key]
    return say(f"source.{key}", rule=by, **{name: values[name] for name in wanted})


def finding_sentence(finding: Mapping[str, Any], say: Words) -> str:
    """Put a finding of the diagnosis into words."""
    if finding["finding"] == "memorises":
        (val_from, val_to), (from_, to) = finding["val_loss"], finding["loss"]
        losses = {"val_from": val_from, "val_to": val_to, "from_": from_, "to": to}
        return say(
            "findings.memorises",
            head=say("findings.head") if finding["phase"] == "head" else "",
            best=finding["best_epoch"],
            last=finding["last_epoch"],
            **{name: f"{loss:.3f}" for name, loss in losses.items()},
        )
    share, accuracy, auc = (f"{finding[name]:.3f}" for name in ("share", "accuracy", "auc"))
    said = [say("findings.one_class", share=share, accuracy=accuracy, called=say(f"findings.{finding['called']}"))]
    cause = finding["batch_norm"]
    if cause and cause["verdict"] == "exact":
        said.append(say("findings.exact"))
    elif cause:
        figures = {name: f"{cause[name]:.3f}" for name in ("exact", "moving")}
        said.append(say(f"findings.{cause['verdict']}", **figures, n=cause["n_images"], part=cause["part"]))
    if finding["ranks_well"]:
        said.append(say("findings.ranks_well", auc=auc))
    elif not cause:
        said.append(say("findings.ranks_badly", auc=auc))
    return " ".join(said)
