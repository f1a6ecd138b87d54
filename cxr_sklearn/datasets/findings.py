"""The sentences of a check: what makes results wrong, and what makes them doubtful."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .folder import SPLIT_NAMES

#: With fewer images of a class, a threshold or an early stop is a matter of chance.
MIN_IMAGES_PER_CLASS = 30
#: An AUC below the first matters little; one that chance alone gives in a hundred sets is not mentioned.
_MIN_AUC, _MAX_P = 0.55, 0.01
#: A mode that is all of one label is mentioned from so many images on.
_MIN_OF_MODE = 30
_SHOWN = 3


def leak_sentences(found: Mapping[str, Any]) -> list[str]:
    """Say what is on both sides of a split, of what :func:`check` has found."""
    said = []
    if shared := found["patients_in_several_splits"]:
        examples = _some(f"{patient} ({', '.join(splits)})" for patient, splits in shared.items())
        said.append(f"{counted(len(shared), 'patient')} in more than one split: {examples}")
    for kind, name in (("identical", "identical files"), ("near_identical", "near-identical images")):
        across = [group for group in found[kind] if len(group["splits"]) > 1]
        if across:
            said.append(f"{counted(len(across), 'group')} of {name} across splits: {_examples(across)}")
    return said


def warning_sentences(found: Mapping[str, Any], attrs: Mapping[Any, Any]) -> list[str]:
    """Say what else a reader of the results should know, of what :func:`check` has found and `load_folder` noted."""
    return [
        *_of_splits(found),
        *_of_copies(found),
        *_of_patients(found),
        *_of_giveaways(found),
        *_of_pixels(found),
        *_of_left_out(attrs),
    ]


def _of_splits(found: Mapping[str, Any]) -> list[str]:
    sizes: dict[Any, dict[str, int]] = {}
    for row in found["counts"]:
        by_label = sizes.setdefault(row["split"], {"normal": 0, "pneumonia": 0})
        by_label[row["label"]] += row["images"]
    n_unsplit = sum(sizes.pop(None, {}).values())
    if not sizes:
        return ["there are no splits: `cxr-sklearn subset` or datasets.group_split draws them by patient"]
    said = [f"{counted(n_unsplit, 'image')} in no split"] if n_unsplit else []
    said += [f"there is no {split} split" for split in SPLIT_NAMES if split not in sizes]
    for split, by_label in sizes.items():
        rarer = min(by_label.values())
        if split == "val" and rarer < MIN_IMAGES_PER_CLASS:
            n = counted(sum(by_label.values()), "image")
            said.append(
                f"a validation split of {n} decides nothing: a threshold needs at least {MIN_IMAGES_PER_CLASS} of each "
                "class; `cxr-sklearn subset` or datasets.group_split draws more"
            )
        elif not rarer:
            said.append(f"the {split} split has images of one class only")
    return said


def _of_copies(found: Mapping[str, Any]) -> list[str]:
    said = []
    for kind, name in (("identical", "identical files"), ("near_identical", "near-identical images")):
        within = [group for group in found[kind] if len(group["splits"]) <= 1]
        if within:
            mixed = [group for group in within if len(group["patients"]) > 1]
            apart = f"; the patients differ in {len(mixed)} of them, so folds may part them" if mixed else ""
            said.append(
                f"{counted(len(within), 'group')} of {name} within a split count twice{apart}: {_examples(within)}"
            )
        contradictory = [group for group in found[kind] if len(group["labels"]) > 1]
        if contradictory:
            said.append(
                f"{counted(len(contradictory), 'group')} of {name} with both labels: {_examples(contradictory)}"
            )
    return said


def _of_patients(found: Mapping[str, Any]) -> list[str]:
    if not (n := found["patients_unknown"]):
        return []
    return [f"the patient of {counted(n, 'image')} is unknown and counts as another each time, so a leak can go unseen"]


def _of_giveaways(found: Mapping[str, Any]) -> list[str]:
    said = []
    for name, plural in (("size", "width and height"), ("mode", "the colour mode")):
        auc = found["auc"][name]
        if auc and auc["value"] >= _MIN_AUC and auc["p"] < _MAX_P:
            said.append(f"{plural} alone predict{'s' * (name == 'mode')} the label with AUC {auc['value']:.2f}")
    for mode, by_label in found["modes"].items():
        if len(found["modes"]) > 1 and len(by_label) == 1 and sum(by_label.values()) >= _MIN_OF_MODE:
            (label, n), *_ = by_label.items()
            said.append(f"all {n} images of mode {mode} are {label}")
    return said


def _of_pixels(found: Mapping[str, Any]) -> list[str]:
    said = []
    for kind, meaning in (("blank", "blank"), ("inverted", "like a negative of the others")):
        if paths := found[kind]:
            said.append(
                f"{counted(len(paths), 'image')} {'looks' if len(paths) == 1 else 'look'} {meaning}: {_some(paths)}"
            )
    return said


def _of_left_out(attrs: Mapping[Any, Any]) -> list[str]:
    n, examples = attrs.get("left_out", (0, []))
    if not n:
        return []
    more = f" and {n - len(examples):,} more" if n > len(examples) else ""
    return [f"{counted(n, 'image file')} in no class folder, or of a kind that is not read, left out: "
            f"{', '.join(map(_place, examples))}{more}"]  # fmt: skip


def counted(count: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _examples(groups: Iterable[Mapping[str, Any]]) -> str:
    return _some(" = ".join(_place(path) for path in group["paths"][:_SHOWN]) for group in groups)


def _place(path: str) -> str:
    """Split, class and name are what tells two files apart."""
    return "/".join(Path(path).parts[-3:])


def _some(items: Iterable[str]) -> str:
    listed = list(items)
    more = len(listed) - _SHOWN
    return ", ".join(listed[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
