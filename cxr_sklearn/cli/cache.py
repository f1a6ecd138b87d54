"""The command that looks after the feature store."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from .app import Store, app, console, one_line_errors, plain_table, printable, say, stderr

if TYPE_CHECKING:
    from pathlib import Path

    from ..features._upkeep import StoreFile


@app.command()
def cache(
    action: Annotated[
        Literal["info", "verify", "prune", "clear"],
        typer.Argument(
            help="info: what is there; verify: read every row; prune: remove what can never be used again; clear: "
            "remove all features."
        ),
    ] = "info",
    store: Store = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print what is there as JSON (info and verify).")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Clear without asking.")] = False,
) -> None:
    """Say what the feature store holds, verify it, and tidy up; other files in its folder stay."""
    with one_line_errors():
        from ..exceptions import InputError
        from ..features._upkeep import survey
        from ..features.store import store_directory

        if store is None:
            raise typer.BadParameter("with none there is no store; give a folder, or auto", param_hint="--store")
        if as_json and action in ("prune", "clear"):
            raise typer.BadParameter(f"{action} prints no JSON; info and verify do", param_hint="--json")
        folder = store_directory(store)
        if folder.is_file():
            raise InputError(f"{folder} is a file; give the folder that the store is in")
        if action == "prune":
            return _prune(folder)
        files = survey(folder, thorough=action == "verify")
        if action == "clear":
            return _clear(folder, files, yes)
        if as_json:
            typer.echo(json.dumps(_as_json(folder, files), indent=2))
        else:
            _print(folder, files, thorough=action == "verify")
    if action == "verify" and any(file.fault for file in files):
        raise typer.Exit(1)
    return None


def _as_json(folder: Path, files: list[StoreFile]) -> dict[str, Any]:
    listed = [
        {
            "file": file.path.name,
            "name": file.name,
            "recipe": file.recipe,
            "rows": file.n_rows,
            "rows_lost": file.n_lost,
            "bytes": file.n_bytes,
            "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(file.written)),
            "lost": file.lost,
            "fault": file.fault,
        }
        for file in files
    ]
    return {"folder": str(folder.absolute()), "bytes": sum(file.n_bytes for file in files), "files": listed}


def _print(folder: Path, files: list[StoreFile], *, thorough: bool) -> None:
    from ..datasets._frame import counted

    if not folder.exists():
        say(f"There is no folder {folder.absolute()} yet.")
        return
    size = _megabytes(sum(file.n_bytes for file in files))
    say(f"{counted(len(files), 'file')} of the feature store in {folder.absolute()}, {size}")
    if not files:
        return
    table = plain_table("file")
    table.columns[0].overflow = "fold"
    for head in ("rows", "size", "written"):
        table.add_column(head, justify="right")
    for file in files:
        age = _age(time.time() - file.written)
        table.add_row(escape(printable(file.path.name)), f"{file.n_rows:,}", _megabytes(file.n_bytes), age)
    console.print(table)
    for file in files:
        if file.fault:
            say(f"Fault: {file.path.name}: {file.fault}", style="red")
        if file.lost:
            say(f"Obsolete: {file.path.name}: {file.lost}", style="yellow")
        elif file.n_lost and not file.fault:
            rows = f"{file.n_lost:,} of {file.n_rows:,} rows, of images that have changed or are gone"
            say(f"Obsolete: {file.path.name}: {rows}", style="yellow")
    if any(file.lost or file.n_lost for file in files):
        say("`cxr-sklearn cache prune` removes what is obsolete.")
    elif thorough and not any(file.fault for file in files):
        say("Every row is sound.")


def _prune(folder: Path) -> None:
    from ..features._upkeep import prune

    said = prune(folder)
    for line in said or ["There is nothing to remove."]:
        say(line)


def _clear(folder: Path, files: list[StoreFile], yes: bool) -> None:
    from ..datasets._frame import counted
    from ..features._upkeep import remove, strangers

    what = f"{counted(len(files), 'file')} of the feature store in {folder.absolute()}"
    if files and not yes:
        size = _megabytes(sum(file.n_bytes for file in files))
        question = printable(f"Remove {what} ({size})? The features are computed again")
        try:
            typer.confirm(question, abort=True, err=True)
        except typer.Abort:
            if not sys.stdin or not sys.stdin.isatty():
                say("Nothing is removed; --yes clears without a question.", stderr)
            raise
    for file in files:
        remove(file.path)
    say(f"Removed {what}.")
    if stay := strangers(folder):
        say(f"What else is in the folder stays there, for example {stay[0].name}.")


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _age(seconds: float) -> str:
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if (n := int(seconds // length)) > 0:
            return f"{n} {unit}{'s' * (n > 1)} ago"
    return "just now"
