"""Reporting checklists, answered item by item from the numbers of a run and from what its author adds."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..exceptions import DataError
from .sentences import grouped, listed, markdown_cell, with_interval
from .words import Words

#: The file in a run folder with the author's answers, which no run writes.
ABOUT = "about.toml"
STATES = ("answered", "partly", "open", "development")
CHECKLISTS = ("tripod_ai", "claim", "stard_ai")
#: Groups of images that every report has, and that say nothing about kinds of people.
_OWN_GROUPS = ("subtype", "series", "brightness")
#: Columns that tell hospitals apart.
_HOSPITALS = ("site", "hospital", "centre", "center")


@cache
def checklist_texts() -> dict[str, Any]:
    """Return the content of ``checklists.toml``: each checklist with its items, and every "answer"."""
    return tomllib.loads(files(__package__).joinpath("checklists.toml").read_text(encoding="utf-8"))


def read_about(folder: Path) -> dict[str, str]:
    """Read the author's answers, by the names in the model card, from ``about.toml`` in a run folder.

    Raises
    ------
    DataError
        If the file is not TOML, or holds anything but texts of these names.
    """
    path = folder / ABOUT
    if not path.is_file():
        return {}
    try:
        about = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f'{path} is not TOML ({error}); write lines such as: ethics = "Approved by ..."') from error
    names = sorted(name for name, answer in checklist_texts()["answer"].items() if "open" in answer)
    if unknown := sorted(set(about) - set(names)):
        raise DataError(f"{path} has the names {unknown}, which no checklist asks for; it can have {', '.join(names)}")
    if wrong := sorted(name for name, text in about.items() if not isinstance(text, str) or not text.strip()):
        raise DataError(f"{path}: {', '.join(wrong)} must be text in quotation marks, and not empty")
    return about


def answer_checklists(
    metrics: Mapping[str, Any], about: Mapping[str, str], labels: Mapping[str, str], say: Words
) -> list[dict[str, Any]]:
    """Answer every item of every checklist.

    Parameters
    ----------
    metrics : mapping
        The content of ``metrics.json``.
    about : mapping of str to str
        The author's answers, as of :func:`read_about`.
    labels : mapping of str to str
        The names under which pipelines are shown.
    say : callable
        The texts of the report's language.

    Returns
    -------
    list of dict
        For each checklist "name", "source" and "rows", each with "number", "topic" and "answer", Markdown, and "state":
        "answered", "partly", "open" (not reported) or "development" (in the card of the run that made the model). And
        by state the "numbers" of the items.
    """
    texts, lang = checklist_texts(), metrics["run"]["lang"]
    facts = _facts(metrics, labels, say)
    parts = {name: _answer(name, answer, facts, about, lang, say) for name, answer in texts["answer"].items()}
    found = []
    for key in CHECKLISTS:
        rows = []
        for number, names, topic in texts[key]["items"]:
            states = {parts[name][0] for name in names}
            is_mixed = len(states) > 1 and "open" in states
            state = "partly" if is_mixed else next(state for state in STATES if state in states)
            # Said once, if several answers are in the other card.
            answer = " ".join(dict.fromkeys(parts[name][1] for name in names))
            rows.append({"number": number, "topic": topic[lang], "answer": answer, "state": state})
        numbers = {state: [row["number"] for row in rows if row["state"] == state] for state in STATES}
        named = {"name": texts[key]["name"][lang], "source": texts[key]["source"]}
        found.append({**named, "rows": rows, "numbers": numbers})
    return found


def _answer(
    name: str, answer: Mapping[str, Any], facts: Mapping[str, Any], about: Mapping[str, str], lang: str, say: Words
) -> tuple[str, str]:
    """Return the state of an answer, and its text."""
    author = markdown_cell(about[name]) if name in about else ""
    known = ""
    holds = bool(facts[answer["when"]]) if "when" in answer else None
    if facts["evaluate"] and "evaluate" in answer:
        known = answer["evaluate"][lang].format(**facts)
    elif facts["evaluate"] and answer.get("of_development") and not holds:
        return ("answered", author) if author else ("development", say("checklist.development"))
    elif "known" in answer and holds is not False:
        known = answer["known"][lang].format(**facts)
    if known or author:
        return "answered", " ".join(text for text in (known, author) if text)
    told = [say("checklist.open", what=answer["open"][lang], name=name)]
    if "supply" in answer:
        told.append(say("checklist.supply", command=answer["supply"].format(**facts)))
    return "open", " ".join(told)


def _facts(metrics: Mapping[str, Any], labels: Mapping[str, str], say: Words) -> dict[str, Any]:
    """Return what answers ask for as "when", and fill in."""
    data, run, pipelines = metrics["data"], metrics["run"], metrics["pipelines"]
    best = pipelines[metrics["verdict"]["best"]]
    is_evaluation = run.get("kind") == "evaluate"
    splits = {split: counts for split, counts in data["splits"].items() if counts["images"]}
    groups = {row["attribute"] for facts in pipelines.values() for row in facts["subgroups"]}
    by = [column for column in best.get("by") or {} if column.lower() not in _OWN_GROUPS]
    hospitals = [name for name in by if name.lower() in _HOSPITALS]
    calibrated = [
        f"{labels[name]}: {say('method.' + facts['calibrated'])}"
        for name, facts in pipelines.items()
        if facts.get("calibrated") not in (None, "none", "reversed")
    ]
    adapted = [labels[name] for name, facts in pipelines.items() if facts.get("adapted")]
    needed = best["sample_size"][-1]  # at the prevalence of the images
    counts = {
        f"{split}_{key}": grouped(splits[split][key] if split in splits else 0)
        for split in ("train", "test")
        for key in ("images", "patients", "pneumonia")
    }
    return {
        **counts,
        "evaluate": is_evaluation,
        "command": "evaluate" if is_evaluation else "compare",
        "pipelines": len(pipelines),
        "best": markdown_cell(labels[metrics["verdict"]["best"]]),
        **{metric: with_interval(best["test"][metric], say) for metric in ("roc_auc", "recall", "specificity")},
        "images": grouped(data["images"]),
        "patients": grouped(data["patients"]),
        "splits": ", ".join(
            say("checklist.split", split=split, **{key: grouped(part[key]) for key in ("images", "pneumonia")})
            for split, part in splits.items()
        ),
        "patients_unknown": grouped(data["patients_unknown"]),
        "leaks": grouped(data["patients_in_several_splits"]),
        "copies": grouped(data["copies_in_several_splits"]),
        "synthetic": data["synthetic"],
        "versions": ", ".join(f"{name} {number}" for name, number in run["versions"].items()),
        "version": run["versions"].get("cxr-sklearn", ""),
        "seen": markdown_cell("; ".join(run.get("leaks") or [])) or say("label.none"),
        "adapted": markdown_cell(", ".join(adapted)) or say("label.none"),
        "prespecified": "threshold_before" not in run and not run.get("leaks"),
        "calibrated": markdown_cell(", ".join(calibrated)),
        "by": markdown_cell(listed(by, say)) if by else "",
        "by_hospital": markdown_cell(listed(hospitals, say)) if hospitals else "",
        "groups": bool(groups),
        "subtypes": "subtype" in groups,
        "stress": any(facts["stress"] for facts in pipelines.values()),
        "sanity": any(facts["sanity"] for facts in pipelines.values()),
        "next_images": needed["images"] and grouped(needed["images"]),
        "next_pneumonia": needed["pneumonia"] and grouped(needed["pneumonia"]),
    }
