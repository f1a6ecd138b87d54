"""Sentences of the report, made of numbers and the texts of the catalogue."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..datasets.shift import MIN_PATIENTS
from ..evaluation.summary import SHORTCUTS
from ..evaluation.thresholds import parse_rule
from .words import Words

#: Above this ROC AUC of `shortcuts`, the verdict warns that the classes can be told apart without the lungs.
HIGH_SHORTCUTS = 0.7


def decimal(value: float | None, say: Words) -> str:
    """Write a number with three decimals; None is "not defined"."""
    if value is None:
        return say("label.undefined")
    return f"{value:.3f}" if abs(value) >= 0.0005 else "0.000"  # no minus sign before zero


def share_text(share: float) -> str:
    """Write a share between 0 and 1 so that it never reads as 0 or 1: three digits of the rarer side."""
    decimals = 2 - math.floor(math.log10(min(share, 1 - share)))
    return f"{share:.{decimals}f}".rstrip("0")


def grouped(n: int) -> str:
    """Write a count with its thousands separated by a narrow space, which reads the same in every language."""
    return f"{n:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def between(ends: Sequence[float | None] | None, say: Words) -> str:
    """Write an interval, or say that there is none; an end that is None is infinity."""
    if ends is None:
        return say("label.no_interval")
    low, high = (f"{end:.3f}" if end is not None else "\N{INFINITY}" for end in ends)
    return say("label.between", low=low, high=high)


def with_interval(found: Mapping[str, Any], say: Words) -> str:
    """Write a value with its interval in brackets."""
    return f"{decimal(found['value'], say)} ({between(found['ci95'], say)})"


def markdown_cell(text: str) -> str:
    """Escape a text for a cell of a Markdown table."""
    for character in "\\`*_[]<>|#":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", " ")


def listed(names: Sequence[str], say: Words) -> str:
    """Join names with commas and a final "and"."""
    return say("label.and").join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def pipeline_label(name: str, weights: Iterable[str], say: Words) -> str:
    """Return the name under which a pipeline is shown; random weights are always marked."""
    return say("label.random", name=name) if "random" in weights else name


def pipeline_labels(pipelines: Mapping[str, Any], say: Words) -> dict[str, str]:
    """Return the labels of the pipelines of metrics.json by name."""
    return {
        name: pipeline_label(name, [backbone["weights"] for backbone in facts["backbones"]], say)
        for name, facts in pipelines.items()
    }


def curve_labels(curve: Mapping[str, Any], say: Words) -> dict[str, str]:
    """Return the labels of the pipelines of a learning curve by name."""
    return {
        name: pipeline_label(name, facts["weights"].split(" + "), say) for name, facts in curve["pipelines"].items()
    }


def verdict_sentences(metrics: Mapping[str, Any], labels: Mapping[str, str], say: Words) -> list[str]:
    """Summarise a comparison in a few sentences, including what the data do not show."""
    verdict, pipelines = metrics["verdict"], metrics["pipelines"]

    def names(key: str) -> str:
        return listed([labels[name] for name in verdict[key]], say)

    best = pipelines[verdict["best"]]["test"]
    # Of a model and its adaptations, none ranks better: their scores differ by an increasing function alone.
    tied = [name for name in verdict["as_good"] if pipelines[name]["test"]["roc_auc"] == best["roc_auc"]]
    found = {"name": labels[verdict["best"]], "auc": with_interval(best["roc_auc"], say)}
    line = pipelines[SHORTCUTS]["test"]["roc_auc"] if SHORTCUTS in pipelines and len(pipelines) > 1 else None
    if line and line["value"] >= best["roc_auc"]["value"]:
        of_line = {"line": labels[SHORTCUTS], "line_auc": with_interval(line, say)}
        said = [say("verdict.best_but_shortcuts", **found, **of_line)]
    else:
        alone = len(tied) + 1 == len(pipelines)
        said = [say("verdict.only" if alone else "verdict.best", **found)]
    if tied:
        said.append(say("verdict.tied", names=listed([labels[name] for name in tied], say)))
    for key in ("as_good", "not_in_other_runs", "worse"):
        others = [labels[name] for name in verdict[key] if name not in tied]
        said += [say(f"verdict.{key}", names=listed(others, say))] if others else []
    if runs := pipelines[verdict["best"]]["runs"]:
        auc = runs["metrics"]["roc_auc"]
        ends = between((auc["low"], auc["high"]), say)
        said.append(say("verdict.runs", n=runs["n"], ends=ends) if runs["random"] else say("verdict.not_random"))
    rates = {name: with_interval(best[name], say) for name in ("recall", "specificity")}
    said.append(say("verdict.decisions", **rates))
    then = (pipelines[verdict["best"]].get("development") or {}).get("metrics")
    if then:
        said.append(say("verdict.then", **{name: f"{then[name]:.3f}" for name in ("roc_auc", "recall", "specificity")}))
    if line:
        said.append(say("verdict.shortcuts", name=labels[SHORTCUTS], auc=with_interval(line, say)))
        if line["value"] >= HIGH_SHORTCUTS:
            said.append(say("verdict.shortcuts_high"))
        short = [key for key in ("not_beating_shortcuts", "worse_than_shortcuts") if verdict[key]]
        said += [say(f"verdict.{key}", names=names(key)) for key in short] or [say("verdict.beaten")]
    leaking = [
        labels[name]
        for name, facts in pipelines.items()
        if facts["sanity"] and not facts["sanity"]["permuted"]["passed"]
    ]
    return [*said, *([say("verdict.sanity_failed", names=listed(leaking, say))] if leaking else [])]


def threshold_sentence(threshold: Mapping[str, Any], say: Words) -> str:
    """Say by which rule, and on which images, a threshold was chosen."""
    rule = parse_rule(threshold["rule"])
    by = say(f"rule.{rule.name}", value=f"{rule.value:g}")
    key = threshold["source"]
    if key in ("model", "adapted"):
        return say(f"source.{key}", rule=by)
    if key == "out-of-fold":
        key = "few" if threshold["n_val"] else "absent"
    return say(f"source.{key}", rule=by, n=grouped(threshold["n_images"]), rarer=threshold["n_val_rarer"])


def adapted_sentence(step: Mapping[str, Any], say: Words) -> str:
    """Say how a model was adapted to another place, and what that reached."""
    recalibration, threshold = step["recalibration"], step["threshold"]
    moved = {name: f"{recalibration[name]:.3f}" for name in ("intercept", "slope")} if recalibration else {}
    kind = recalibration["kind"] if recalibration else "none"
    prevalence = step.get("prevalence") or []
    rule = parse_rule(threshold["rule"]) if threshold.get("rule") else None
    said = say(
        f"adapted.{step['kind']}",
        date=step["date"][:10],
        images=grouped(step.get("images", 0)),
        patients=grouped(step.get("patients", 0)),
        prevalence="\N{EN DASH}".join(map(share_text, prevalence)),
        recalibration=say(f"adapted.{kind}", **moved),
        before=decimal(threshold["before"], say),
        after=decimal(threshold["value"], say),
        interval=between(threshold.get("ci95"), say),
        rule=say(f"rule.{rule.name}", value=f"{rule.value:g}") if rule else "",
    )
    if not step.get("reached"):
        return said
    rates = {name: with_interval(step["reached"][name], say) for name in ("accuracy", "recall", "specificity")}
    before = {f"{name}_before": decimal(step["before"][name]["value"], say) for name in rates}
    return f"{said} {say('adapted.reached', **rates, **before)}"


def sample_size_sentence(needed: Mapping[str, Any], say: Words) -> str:
    """Say how many images the next validation needs, at one prevalence."""
    if needed["reason"]:
        return say(f"sample_size.{needed['reason']}")
    counts = {key: grouped(needed[key]) for key in ("images", "pneumonia", "patients")}
    criterion = say(f"sample_size.{needed['criterion']}")
    return say("sample_size.needed", **counts, prevalence=f"{needed['prevalence']:.2f}", criterion=criterion)


def group_name(row: Mapping[str, Any], say: Words) -> str:
    """Name a subgroup."""
    group = say(f"group.{row['group']}") if row["group"] in ("bacteria", "virus") else row["group"]
    return say(f"attribute.{row['attribute']}", group=group)


def shift_pair(entry: Mapping[str, Any], say: Words) -> str:
    """Name the two sides, and the class, of an entry of "split_shift"."""
    sides = {key: say(f"shift.side.{entry[key]}") for key in ("a", "b")}
    return say("shift.pair", **sides, label=say(f"label.{entry['label']}").lower())


def shift_few(entries: Sequence[Mapping[str, Any]], say: Words) -> str:
    """Say which sides and classes have too few patients for a test, each once and with their numbers, or nothing."""
    which = []
    for entry in entries:
        if entry["auc"] is None:
            n_a, n_b = map(grouped, entry["drawn"])
            which.append(say("shift.few_one", pair=shift_pair(entry, say), n_a=n_a, n_b=n_b))
    return say("shift.few", least=MIN_PATIENTS, which="; ".join(dict.fromkeys(which))) if which else ""


def shift_measures(entry: Mapping[str, Any], say: Words) -> str:
    """Say which measures differ by themselves between the two sides of an entry of "split_shift"."""
    said = []
    for found in entry["measures"] or ():
        is_more = found["auc"] > 0.5
        key = ("higher" if is_more else "lower") if found["what"] == "level" else ("more" if is_more else "less")
        a, b = (f"{median:g}" for median in found["medians"])
        said.append(say(f"shift.{key}", measure=say(f"shift.measure.{found['measure']}"), a=a, b=b))
    return "; ".join(said)


def column_group(group: str | None, column: str, kind: str, say: Words) -> str:
    """Name a group of a column of the user's."""
    if group is None:
        return say("by.unknown")
    if column == "subtype" and group in ("bacteria", "virus"):
        return say(f"group.{group}")
    if kind == "age":
        return say("by.years", band=group.replace("-", "\N{EN DASH}"))
    return group


def group_rate(found: Mapping[str, Any] | None, say: Words) -> str:
    """Write the rate of a group with its interval, and say where it depends on few images or one patient."""
    if found is None:
        return say("label.undefined")
    ends = between(found["ci95"], say) if found["patients"] > 1 else say("by.one_patient")
    return f"{decimal(found['value'], say)} ({ends}{'; ' + say('by.few') if found['few'] else ''})"


def finding_sentence(finding: Mapping[str, Any], say: Words) -> str:
    """Put a finding of the diagnosis into words."""
    if finding["finding"] == "memorises":
        (val_from, val_to), (from_, to) = finding["val_loss"], finding["loss"]
        return say(
            "findings.memorises",
            head=say("findings.head") if finding["phase"] == "head" else "",
            best=finding["best_epoch"],
            last=finding["last_epoch"],
            val_from=f"{val_from:.3f}",
            val_to=f"{val_to:.3f}",
            from_=f"{from_:.3f}",
            to=f"{to:.3f}",
        )
    share, accuracy, auc = (f"{finding[name]:.3f}" for name in ("share", "accuracy", "auc"))
    said = [say("findings.poor_at_half", share=share, accuracy=accuracy, called=say(f"findings.{finding['called']}"))]
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
