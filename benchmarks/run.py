"""The cases against rivals, one after the other, and what they measured in benchmarks/results.md and results.json.

    python benchmarks/run.py [--quick] [--only embed search] [--originals DIR]

With --only, the other cases stay in the files as they are, if they were measured on this machine. With --quick the
sizes are tiny, nothing is judged and nothing is written. Real originals for the embedding are taken from --originals or
$CXR_DATA, else they are drawn. `large` alone takes up to 25 minutes and 2 GB of disk. Ends with status 1 where a wanted
figure is missed or a case fails.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CASES = (
    "startup",
    "store",
    "growth",
    "embed",
    "search",
    "finetune",
    "training",
    "warm",
    "jobs",
    "check",
    "large",
)
LIBRARIES = ("keras", "tensorflow", "scikit-learn", "joblib", "numpy", "pillow")
HEADS = ("case", "what", "wanted", "measured", "absolute figures", "met")


def main() -> None:
    """Run the cases, and write after each what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--originals", type=Path)
    options = parser.parse_args()
    machine, file = describe_machine(), HERE / "results.json"
    known = json.loads(file.read_text()) if file.is_file() and not options.quick else {}
    cases = known["cases"] if known.get("machine") == machine else {}
    for name in options.only:
        cases[name] = run(name, options)
        page = render(machine, cases)
        if not options.quick:
            results = {"machine": machine, "cases": {case: cases[case] for case in CASES if case in cases}}
            file.write_text(json.dumps(results, indent=1) + "\n")
            (HERE / "results.md").write_text(page)
    print(page)
    sys.exit(any(missed(cases[name]) for name in options.only))


def run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run a case in a process of its own and return what it printed, or that it failed."""
    command = [sys.executable, str(HERE / f"{name}.py"), *(["--quick"] if options.quick else [])]
    if name == "embed" and options.originals:
        command += ["--originals", str(options.originals)]
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.splitlines()
    try:
        result = json.loads(lines[-1])
    except (IndexError, ValueError):
        result = {"case": name, "figures": [], "failed": f"status {done.returncode}"}
    minutes = (time.perf_counter() - start) / 60
    print(f"{name}: {'missed' if missed(result) else 'done'}, {minutes:.1f} minutes", file=sys.stderr, flush=True)
    return {**result, "date": datetime.date.today().isoformat(), "minutes": round(minutes, 1)}


def missed(result: dict[str, Any]) -> bool:
    """Tell whether a case failed or one of its wanted figures is missed."""
    return "failed" in result or any(figure["met"] is False for figure in result["figures"])


def describe_machine() -> dict[str, str]:
    """Name the machine and the versions."""
    from cxr_sklearn._keras import resolve_precision

    cpuinfo = Path("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return {
        "CPU": (models or [platform.processor()])[0],
        "cores": str(os.cpu_count()),
        "precision auto": resolve_precision("auto"),
        "memory": f"{gigabytes:.0f} GiB",
        "OS": platform.platform(),
        "Python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def render(machine: dict[str, str], cases: dict[str, dict]) -> str:
    """Return the page: the machine, and a table of all figures with what is missed in bold."""
    named = "\n".join(f"- {name}: {value}" for name, value in machine.items())
    rows = [HEADS, ("---",) * len(HEADS)]
    for name in (name for name in CASES if name in cases):
        if "failed" in cases[name]:
            rows.append((name, cases[name]["failed"], "", "", "", "**FAILED**"))
        for figure in cases[name]["figures"]:
            verdict = {True: "yes", False: "**MISSED**", None: "not judged" if figure["wanted"] else ""}[figure["met"]]
            measured = f"{figure['measured']:,g} {figure['unit']}".strip()
            rows.append((name, figure["what"], figure["wanted"], measured, figure["absolute"], verdict))
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    dates = ", ".join(f"{name} {cases[name]['date']} ({cases[name]['minutes']} min)" for name in CASES if name in cases)
    return (
        f"# What was measured\n\n`make bench` writes this page; what each case does stands in `benchmarks/<case>.py`. "
        f"All networks have random weights, which cost as much as others.\n\n{named}\n\n{table}\n\nMeasured: {dates}\n"
    )


if __name__ == "__main__":
    main()
