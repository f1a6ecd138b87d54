"""Shared by all commands: the application, its options, and errors in one line."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd


class _Messages(Console):
    """Messages on stderr: a run of hours does not end because nobody reads them any more."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class _Application(typer.Typer):
    """The commands; called as a program, and not by a test, it first sees to the standard streams."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        settle_streams()
        try:
            return super().__call__(*args, **kwargs)
        except OSError as error:  # the help cannot be written, to a full disk, say
            say(f"cxr-sklearn: {error}", stderr, style="red")
            sys.exit(1)


def settle_streams() -> None:
    """Make the standard streams usable in every state in which shells, services and ``pythonw`` hand them over."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file that is opened would get this number, and what is printed
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or stream.closed:
            stream = open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8")  # noqa: SIM115, PTH123
            setattr(sys, name, stream)
        if name != "stdin" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # for what the encoding lacks


app = _Application(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def show_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        from .. import __version__

        say(f"cxr-sklearn {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Chest X-rays to trustworthy pneumonia classifiers, the scikit-learn way. Not a medical device."""


def path(text: str) -> Path:
    """Return an option or argument as a path; in ``--out=~/run`` the shell leaves ``~`` to us."""
    from .._io import user_path
    from ..exceptions import InputError

    try:
        return user_path(text)
    except InputError as error:
        raise typer.BadParameter(str(error)) from error


#: What every option and argument that is a path needs.
PATH: dict[str, Any] = {"parser": path}
console = Console()
stderr = _Messages(stderr=True)
Images = Annotated[
    Path, typer.Argument(**PATH, help="Folder of radiographs, or a CSV file with the columns path and label.")
]


def store_folder(text: str) -> str | Path | None:
    """Return what ``--store`` says: "auto" (or nothing), a folder, or None for "none"."""
    return None if text == "none" else "auto" if text in ("auto", "") else path(text)


Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress: neither bars in a terminal nor lines in a log.")
]
Store = Annotated[
    Any,
    typer.Option(
        parser=store_folder,
        metavar="auto|none|PATH",
        help="Folder of the feature store; none keeps nothing (auto: $CXR_SKLEARN_CACHE, ./cache, user cache).",
    ),
]


DicomIdentity = Annotated[
    bool,
    typer.Option(
        "--dicom-identity", help="Read patient, age and sex from DICOM files; the patient becomes a digest under a key."
    ),
]


Cluster = Annotated[
    str | None,
    typer.Option("--cluster", metavar="ADDRESS", help="Embed and fit on the workers of the Dask scheduler there."),
]


@contextlib.contextmanager
def on_cluster(address: str | None) -> Iterator[None]:
    """Let what runs inside embed and fit on the workers of a Dask cluster, or here if there is no address.

    Raises
    ------
    InputError
        If Dask is not installed, or no scheduler answers.
    """
    if address is None:
        yield
        return
    from ..exceptions import InputError

    try:
        from dask.distributed import Client
    except ImportError as error:
        raise InputError("--cluster needs Dask; run pip install 'cxr-sklearn[dask]'") from error
    import joblib

    try:
        client = Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise InputError(f"no Dask scheduler answers at {address}: {error}") from error
    with client, joblib.parallel_config("dask"):
        yield


def for_workers(cluster: str | None, images: Path, store: Any, weights: Any) -> tuple[Path, Any, Any]:
    """Return the paths of images, store and weights as workers, which have another working directory, find them."""
    if cluster is None:
        return images, store, weights
    from .._io import user_path
    from ..features.store import store_directory

    is_file = weights not in (None, "imagenet", "random")
    kept = None if store is None else store_directory(store).absolute()
    return images.absolute(), kept, str(user_path(weights).absolute()) if is_file else weights


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn an error of the data, the model or the disk into one clear message and exit status 1."""
    from .._progress import begin_run
    from ..exceptions import CXRError

    begin_run()
    # A damaged image is reported once, by the error or the check, and not by its codec as well.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    shown, warnings.showwarning = warnings.showwarning, show_warning
    try:
        yield
    except BrokenPipeError:  # the reader has seen enough, and Typer knows what to do
        raise
    except (CXRError, OSError) as error:
        say(f"cxr-sklearn: {error}", stderr, style="red")
        raise typer.Exit(1) from error
    finally:
        warnings.showwarning = shown


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning without the line of the program that it comes from."""
    say(f"Warning: {message}", stderr, style="yellow")


def printable(line: str) -> str:
    """Return text, of one line or several, without the characters that steer a terminal, or that none can show."""
    from .._io import UNPRINTABLE

    return "\n".join(UNPRINTABLE.sub("?", part) for part in line.split("\n"))


def say(line: str, where: Console = console, style: str | None = None) -> None:
    """Print a line literally: brackets and colons in a path are not markup, and no character controls the terminal."""
    with contextlib.suppress(OSError) if where is stderr else contextlib.nullcontext():
        where.print(printable(line), style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)


def plain_table(*columns: str) -> Table:
    """Return a table without lines around its cells."""
    return Table(*columns, box=box.SIMPLE, padding=0, pad_edge=False)


def print_findings(found: Mapping[str, Any]) -> None:
    """Print the sentences of a check."""
    for kind, style in (("leaks", "red"), ("warnings", "yellow")):
        for sentence in found[kind]:
            say(f"{kind[:-1].capitalize()}: {sentence}", style=style)


def is_table(images: Path) -> bool:
    """Whether IMAGES is a table; a folder may be called anything."""
    return images.is_file() or (images.suffix.lower() == ".csv" and not images.is_dir())


def load(images: Path, *, warn: bool = False, dicom_identity: bool = False, labels: bool = True) -> pd.DataFrame:
    """Read a table of images, which may do without labels, or a folder; the sizes of the images are not read.

    With `warn`, as for commands that do not print what :func:`check` finds, a warning says which images were left out.
    """
    from ..datasets.audit import left_out_sentences
    from ..datasets.folder import load_folder, load_frame

    if is_table(images):
        frame = load_frame(images, labels=labels, sizes=False, dicom_identity=dicom_identity)
    else:
        frame = load_folder(images, sizes=False, dicom_identity=dicom_identity)
    for sentence in left_out_sentences(frame.attrs) if warn else []:
        show_warning(sentence)
    return frame
