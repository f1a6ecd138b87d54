"""What the benchmarks share: sides in processes of their own, images to work on, and figures beside what is wanted."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
#: Imported before it says that it is ready, so that no import is timed; the last line it prints is the result.
_SIDE = """
import importlib, json, sys
function = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])
print("ready", flush=True)
print(json.dumps(function(**json.loads(sys.stdin.readline()))))
"""


def parse(doc: str, sizes: Mapping[str, tuple[int, int]], *paths: str) -> argparse.Namespace:
    """Read the command line.

    Parameters
    ----------
    doc : str
        The docstring of the case.
    sizes : mapping of str to (int, int)
        Options that are numbers: their default, and what --quick makes of it.
    paths : str
        Options that are folders.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, (size, tiny) in sizes.items():
        parser.add_argument(f"--{name}", type=int, help=f"default {size}, with --quick {tiny}")
    for name in paths:
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run? Nothing is judged")
    options = parser.parse_args()
    for name, pair in sizes.items():
        if getattr(options, name) is None:
            setattr(options, name, pair[options.quick])
    return options


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder for the time of a block."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def fresh(function: Callable[..., dict], **arguments: Any) -> dict:
    """Call a function of a benchmark in a new process; arguments and result travel as JSON."""
    return together(function, [arguments])[0]


def together(function: Callable[..., dict], calls: Sequence[Mapping[str, Any]]) -> list[dict]:
    """Call a function once per process, all at the same moment: nobody starts before all have imported."""
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", _SIDE, Path(inspect.getfile(function)).stem, function.__name__]
    with contextlib.ExitStack() as stack:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
        sides = [stack.enter_context(subprocess.Popen(command, **pipes)) for _ in calls]
        for side in sides:
            side.stdout.readline()
        for side, arguments in zip(sides, calls, strict=True):
            side.stdin.write(json.dumps(arguments, default=str) + "\n")
            side.stdin.close()
        outputs = [side.stdout.read() for side in sides]
    if any(side.returncode for side in sides):
        raise SystemExit(f"{function.__name__} failed; what it said stands above")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def in_turn(sides: Mapping[str, Callable[[], dict]], rounds: int) -> dict[str, list[dict]]:
    """Run all sides one after the other, in the opposite order every second round, and return all results."""
    results: dict[str, list[dict]] = {name: [] for name in sides}
    for i in range(rounds):
        for name in list(sides)[:: -1 if i % 2 else 1]:
            results[name].append(sides[name]())
    return results


def fastest(results: Sequence[dict], key: str = "seconds") -> float:
    """Return the least seconds: what else the machine does can only make a run slower."""
    return min(result[key] for result in results)


def command_line() -> list[str]:
    """Return the command of the shell, as it is installed beside this Python."""
    return [str(Path(sys.executable).with_name("cxr-sklearn"))]


def seconds_of(call: Callable[..., Any], *arguments: Any) -> float:
    """Time one call."""
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def timed(owner: Any, name: str, seconds: list[float]) -> None:
    """Make a function note how long each call takes."""
    original = getattr(owner, name)

    def call(*arguments, **options):
        start = time.perf_counter()
        result = original(*arguments, **options)
        seconds.append(time.perf_counter() - start)
        return result

    setattr(owner, name, call)


def peak_megabytes() -> float:
    """Return the most memory that this process ever held."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10))
    # ru_maxrss would count the process that started this one, too.
    return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024


def disk_bytes(folder: Path) -> int:
    """Return what a folder takes on the disk, in whole blocks as the disk counts."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))


def write_originals(folder: Path, n: int, originals: Path | None) -> None:
    """Write n JPEGs of the size of an original, each with bytes of its own, from a folder of real ones or drawn."""
    folder.mkdir(parents=True)
    kept = sorted(originals.rglob("*.jp*g")) if originals else []
    if originals and not kept:
        raise SystemExit(f"there are no JPEGs below {originals}")
    sources = [path.read_bytes() for path in kept[:n]] or drawn_originals()
    for i, content in zip(range(n), itertools.cycle(sources)):
        (folder / f"{i:06d}.jpeg").write_bytes(content + b"%d" % i)  # decoders stop at the end of the picture


def drawn_originals() -> list[bytes]:
    """Return some twenty drawn radiographs as JPEGs of the size of an original."""
    from PIL import Image

    from cxr_sklearn import make_radiographs

    files = []
    for image in make_radiographs(10, size=1200, random_state=0)[0]:
        file = io.BytesIO()
        Image.fromarray(image).resize((1300, 1000)).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def originals_given(option: Path | None) -> Path | None:
    """Return the folder of real originals: the option, else that below $CXR_DATA, else None for drawn ones."""
    known = Path(os.environ.get("CXR_DATA", "")) / "originals"
    return option or (known if os.environ.get("CXR_DATA") and known.is_dir() else None)


def figure(
    what: str, measured: float, absolute: str, *, least: float | None = None, most: float | None = None, unit: str = "x"
) -> dict:
    """Return one measured figure; without `least` and `most` nothing is wanted of it."""
    wanted = f">= {least:,g} {unit}" if least is not None else f"<= {most:,g} {unit}" if most is not None else ""
    met = None if not wanted else bool(measured >= least if least is not None else measured <= most)
    shown = {"measured": float(f"{measured:.4g}"), "unit": unit, "met": met}
    return {"what": what, "wanted": wanted, **shown, "absolute": absolute}


def conclude(case: str, options: argparse.Namespace, figures: list[dict], **more: Any) -> None:
    """Print one JSON object, and end with status 1 where a wanted figure is missed; --quick judges nothing."""
    if options.quick:
        figures = [{**known, "met": None} for known in figures]
    settings = {name: value.name if isinstance(value, Path) else value for name, value in vars(options).items()}
    print(json.dumps({"case": case, **more, "settings": settings, "figures": figures}))
    sys.exit(any(known["met"] is False for known in figures))
