"""Clients that ask a served model at once: requests, errors, wrong answers, requests a second.

The model is trusted: give one of your own.

python benchmarks/serve.py MODEL IMAGE... [--clients 8] [--seconds 60]
"""

import argparse
import contextlib
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx

from cxr_sklearn import load_model, predict


@contextlib.contextmanager
def serving(model: Path) -> Iterator[str]:
    """Serve a model in a process of its own and give its address."""
    command = [sys.executable, "-m", "cxr_sklearn.cli", "serve", str(model), "--port", "0", "--trust"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stdout:
                if found := re.search(r"http://\S+", line):
                    yield found[0]
                    return
            raise SystemExit(f"the server ended with status {process.wait()}")
        finally:
            process.terminate()


def expected_scores(model: Path, images: list[Path]) -> list[float]:
    """Return what the model says of each file by itself, read from its path."""
    loaded = load_model(model, trusted=True, store=None)
    return [float(predict(loaded, [str(path)], store=None)["score"].iloc[0]) for path in images]


def load(address: str, images: list[Path], expected: list[float], n_clients: int, seconds: float) -> Counter[str]:
    """Let every client ask until the time is over, and count requests, errors and wrong answers."""
    contents = [path.read_bytes() for path in images]
    counts: Counter[str] = Counter(requests=0, errors=0, wrong=0)
    counting = threading.Lock()
    end = time.monotonic() + seconds

    def ask_again_and_again(first: int) -> None:
        i = first
        with httpx.Client(base_url=address, timeout=60) as client:
            while time.monotonic() < end:
                outcome = ask(client, i % len(images))
                with counting:
                    counts["requests"] += 1
                    counts[outcome] += 1
                i += 1

    def ask(client: httpx.Client, i: int) -> str:
        try:
            response = client.post("predict", files={"files": (images[i].name, contents[i])})
            (answer,) = response.raise_for_status().json()["results"]
        except (httpx.HTTPError, ValueError, KeyError):
            return "errors"
        return "right" if (answer["filename"], answer["score"]) == (images[i].name, expected[i]) else "wrong"

    threads = [threading.Thread(target=ask_again_and_again, args=(n,)) for n in range(n_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60)
    given = parser.parse_args()
    expected = expected_scores(given.model, given.images)
    with serving(given.model) as address:
        counts = load(address, given.images, expected, given.clients, given.seconds)
    for name in ("requests", "errors", "wrong"):
        print(f"{name:10}{counts[name]:8}")
    print(f"{'a second':10}{counts['requests'] / given.seconds:8.1f}")


if __name__ == "__main__":
    main()
