"""The commands that get radiographs and look at them."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from .app import (
    PATH,
    DicomIdentity,
    Images,
    Quiet,
    Store,
    app,
    console,
    load,
    one_line_errors,
    plain_table,
    print_findings,
    say,
    show_warning,
)


@app.command()
def synth(
    directory: Annotated[Path, typer.Argument(**PATH, help="Folder to write to.")],
    patients: Annotated[int, typer.Option(min=10, help="Number of patients.")] = 200,
    size: Annotated[int, typer.Option(min=32, help="Height and width in pixels.")] = 224,
    style: Annotated[
        Literal["A", "B"], typer.Option(help="Hospital: B has another exposure, noise, border and marker than A.")
    ] = "A",
    prevalence: Annotated[
        float, typer.Option(help="Share of the patients who have pneumonia, above 0 and below 1.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the drawing.")] = 0,
) -> None:
    """Draw synthetic radiographs into a folder in the layout of the Kaggle set."""
    with one_line_errors():
        from ..datasets.synthetic import write_radiographs
        from ..exceptions import InputError

        if directory.is_dir() and any(directory.iterdir()):
            raise InputError(f"{directory} holds files already; choose a new or empty folder")
        frame = write_radiographs(directory, patients, size=size, style=style, prevalence=prevalence, random_state=seed)
        say(f"{len(frame)} radiographs of {patients} patients in {directory}")


@app.command()
def fetch(
    directory: Annotated[
        Path | None, typer.Argument(**PATH, help="Folder to put chest_xray into; without one, the cache of kagglehub.")
    ] = None,
) -> None:
    """Download the Kaggle set (2.3 GB, no login); an interrupted download resumes."""
    with one_line_errors():
        from ..datasets.kaggle import NOTICE, fetch_chest_xray

        folder = fetch_chest_xray(directory)
        say(NOTICE)
        say(f"Go on with: cxr-sklearn check {shlex.quote(str(folder))}")


@app.command()
def check(
    images: Images,
    store: Store = "auto",
    dicom_identity: DicomIdentity = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything that was found as JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Look for leaks, copies, unreadable files and giveaways; exit status 1 for a leak or an unreadable file."""
    with one_line_errors():
        from ..datasets.audit import check as run

        found = run(load(images, dicom_identity=dicom_identity), store=store, verbose=not quiet)
        if as_json:
            typer.echo(json.dumps(found, indent=2))
        else:
            _print_check(images, found)
        sys.stdout.flush()  # so that a full disk is reported here
    if found["leaks"] or found["unreadable"]:
        raise typer.Exit(1)


def _print_check(images: Path, found: dict[str, Any]) -> None:
    from ..datasets._frame import counted

    say(f"{counted(found['images'], 'image')} of {counted(found['patients'], 'patient')} in {images}")
    counts = plain_table("split", "label", "subtype")
    for name in ("images", "patients"):
        counts.add_column(name, justify="right")
    for row in found["counts"]:
        cells = (row["split"] or "none", row["label"], row["subtype"] or "")
        counts.add_row(*map(escape, cells), f"{row['images']:,}", f"{row['patients']:,}")
    console.print(counts)
    if found["width"]:
        sides = [f"{side} {low:,} to {high:,} (median {middle:,})"
                 for side in ("width", "height") for low, middle, high in [found[side]]]  # fmt: skip
        say(f"Pixels: {', '.join(sides)}")
    modes = [f"{mode} {', '.join(f'{n:,} {label}' for label, n in by_label.items())}"
             for mode, by_label in found["modes"].items()]  # fmt: skip
    say(f"Modes: {'; '.join(modes) or 'none'}")
    aucs = [f"{name} {'unknown' if auc is None else format(auc['value'], '.2f')}" for name, auc in found["auc"].items()]
    say(f"AUC of the label without a look at the picture: {', '.join(aucs)} (.50 is chance)")
    _print_shift(found["split_shift"])
    for path, reason in found["unreadable"].items():
        say(f"Unreadable: {path}: {reason}", style="red")
    print_findings(found)
    if any(found[kind] for kind in ("identical", "near_identical", "patients_in_several_splits")):
        say("--json lists every group of copies and every patient.")
    if found["leaks"] or found["unreadable"]:
        say("Not fit for use as it is.", style="red")
    else:
        say("No leaks, and every file can be read.")


def _print_shift(entries: list[dict[str, Any]]) -> None:
    """Print how well the splits can be told apart, where there are patients enough."""
    known = [entry for entry in entries if entry["auc"] is not None]
    if known:
        shown = plain_table("Which split is it?", "label", "by", "patients", "AUC", "95 % interval")
        for entry in known:
            by = {"grey": "grey levels"}.get(entry["kind"], entry["kind"])
            which, drawn = f"{entry['a']} or {entry['b']}", " and ".join(f"{n:,}" for n in entry["drawn"])
            ends = " to ".join(f"{end:.2f}" for end in entry["ci95"])
            shown.add_row(which, entry["label"], by, drawn, f"{entry['auc']:.2f}", ends)
        console.print(shown)
    few = dict.fromkeys(f"{entry['label']} {entry['a']} and {entry['b']}" for entry in entries if entry["auc"] is None)
    if few:
        say(f"Too few patients to tell whether these are drawn alike: {', '.join(few)}")


@app.command()
def subset(
    images: Images,
    out: Annotated[Path, typer.Argument(**PATH, help="Folder to write to: new, empty, or an earlier subset.")],
    train: Annotated[int, typer.Option(min=0, help="Training images of each class.")] = 240,
    val: Annotated[int, typer.Option(min=0, help="Validation images of each class.")] = 240,
    test: Annotated[int, typer.Option(min=0, help="Test images of each class.")] = 234,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw.")] = 0,
    dicom_identity: DicomIdentity = False,
) -> None:
    """Draw a balanced subset by patient, as links, with a manifest; the same seed draws the same images."""
    with one_line_errors():
        from ..datasets._frame import counted, names_no_patient
        from ..datasets.audit import unknown_patients_sentence
        from ..datasets.splits import balanced_subset, write_subset
        from ..exceptions import InputError

        if images.is_dir() and out.resolve().is_relative_to(images.resolve()):
            raise InputError(f"{out} lies inside {images}, where its images would count again; choose another folder")
        frame = load(images, warn=True, dicom_identity=dicom_identity)
        drawn = balanced_subset(frame, train, val, test, random_state=seed)
        if n := int(names_no_patient(drawn).sum()):
            show_warning(unknown_patients_sentence(n))
        how = write_subset(drawn, out)
        who = f"{counted(len(drawn), 'image')} of {counted(drawn['patient'].nunique(), 'patient')}"
        say(f"{who} in {out} ({how}), listed with their patients in {out / 'manifest.csv'}")
